// rotate_and_store: norms and rotates queries (in place) and keys, and writes keys and values to the
// cache. One workgroup a head and token; query heads first, then keys', then values'.
struct Params {
    query_heads: u32,
    kv_heads: u32,
    // Of a head.
    size: u32,
    // Pairs that are rotated.
    pairs: u32,
    // From token to token, in numbers.
    q_stride: u32,
    kv_stride: u32,
    // Whether the norms follow the rotation: which keeps what they divide by.
    norms_rotated: u32,
    _pad: u32,
    // Scales of the heads' norms, in numbers, or NONE.
    q_norm: u32,
    k_norm: u32,
    q_epsilon: f32,
    k_epsilon: f32,
}

const NONE: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
// context × pairs of (cosine, sine)
@group(0) @binding(2) var<storage, read> angles: array<vec2<f32>>;
// tokens × query_heads · size
@group(0) @binding(3) var<storage, read_write> q: array<f32>;
// tokens × kv_heads · size
@group(0) @binding(4) var<storage, read> k: array<f32>;
// tokens × kv_heads · size
@group(0) @binding(5) var<storage, read> v: array<f32>;
// pages × kv_heads × PAGE × STRIDE, two numbers a word where KV_F16
@group(0) @binding(6) var<storage, read_write> keys: array<u32>;
@group(0) @binding(7) var<storage, read_write> values: array<u32>;
@group(0) @binding(8) var<storage, read> step_words: array<u32>;

#import shared/step

var<workgroup> head: array<f32, STRIDE>;
var<workgroup> partials: array<f32, 64>;

// Element `e` of the head, rotated; and scaled by a norm that follows.
fn rotated(e: u32, position: u32, norm: u32) -> f32 {
    let value = rotated_only(e, position);
    if norm == NONE || params.norms_rotated == 0u || e >= params.size {
        return value;
    }
    return value * vectors[norm + e];
}

fn rotated_only(e: u32, position: u32) -> f32 {
    if e >= 2u * params.pairs {
        return head[e];
    }
#ifdef INTERLEAVED
    let pair = e >> 1u;
    let second = (e & 1u) == 1u;
    let other = e ^ 1u;
#else
    let second = e >= params.pairs;
    let pair = select(e, e - params.pairs, second);
    let other = select(e + params.pairs, e - params.pairs, second);
#endif
    let angle = angles[position * params.pairs + pair];
    return head[e] * angle.x + select(-head[other], head[other], second) * angle.y;
}

@compute @workgroup_size(64)
fn rotate_and_store(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = workgroup.y;
    let position = position_of(token);
    let is_query = workgroup.x < params.query_heads;
    let is_value = workgroup.x >= params.query_heads + params.kv_heads;
    var index = workgroup.x;
    if !is_query {
        index -= params.query_heads;
    }
    if is_value {
        index -= params.kv_heads;
    }
    let at = token * select(params.kv_stride, params.q_stride, is_query) + index * params.size;
    var sum = 0.0;
    for (var e = thread; e < STRIDE; e += 64u) {
        var value = 0.0;
        if e < params.size {
            if is_query {
                value = q[at + e];
            } else if is_value {
                value = v[at + e];
            } else {
                value = k[at + e];
            }
        }
        head[e] = value;
        sum += value * value;
    }
    workgroupBarrier();

    let norm = select(params.k_norm, params.q_norm, is_query);
    if norm != NONE && !is_value {
        partials[thread] = sum;
        workgroupBarrier();
        for (var stride = 32u; stride > 0u; stride >>= 1u) {
            if thread < stride {
                partials[thread] += partials[thread + stride];
            }
            workgroupBarrier();
        }
        let epsilon = select(params.k_epsilon, params.q_epsilon, is_query);
        let factor = inverseSqrt(partials[0] / f32(params.size) + epsilon);
        for (var e = thread; e < params.size; e += 64u) {
            if params.norms_rotated == 0u {
                head[e] *= factor * vectors[norm + e];
            } else {
                head[e] *= factor;
            }
        }
        workgroupBarrier();
    }

    if is_query {
        for (var e = thread; e < params.size; e += 64u) {
            q[at + e] = rotated(e, position, norm);
        }
        return;
    }
    let row = place(pages_of(token), position, index, params.kv_heads) * STRIDE;
#ifdef KV_F16
    for (var e = 2u * thread; e < params.size; e += 128u) {
        // size is even, or its last pair is filled up by the zero behind it.
        if is_value {
            values[(row + e) >> 1u] = pack2x16float(vec2<f32>(head[e], head[e + 1u]));
        } else {
            keys[(row + e) >> 1u] = pack2x16float(vec2<f32>(rotated(e, position, norm), rotated(e + 1u, position, norm)));
        }
    }
#else
    for (var e = thread; e < params.size; e += 64u) {
        if is_value {
            values[row + e] = bitcast<u32>(head[e]);
        } else {
            keys[row + e] = bitcast<u32>(rotated(e, position, norm));
        }
    }
#endif
}
