// delta: the gated delta rule, a workgroup a value head and sequence, a thread an element of the head; a sequence's rows go
// one after the other. Thread j has column j of the head's matrix, which stays in memory.
struct Params {
    // Of the first sequence.
    first: u32,
    // Of each sequence.
    rows: u32,
    key_heads: u32,
    value_heads: u32,
    // From row to row, in numbers.
    qkv_stride: u32,
    alpha_stride: u32,
    beta_stride: u32,
    z_stride: u32,
    out_stride: u32,
    // Indices into `vectors`.
    rate: u32,
    bias: u32,
    norm: u32,
    epsilon: f32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// rows × (2 · key_heads + value_heads) · SIZE
@group(0) @binding(1) var<storage, read> qkv: array<f32>;
// rows × value_heads
@group(0) @binding(2) var<storage, read> alpha: array<f32>;
@group(0) @binding(3) var<storage, read> beta: array<f32>;
// rows × value_heads · SIZE
@group(0) @binding(4) var<storage, read> z: array<f32>;
@group(0) @binding(5) var<storage, read> vectors: array<f32>;
// slots × value_heads × SIZE × SIZE
@group(0) @binding(6) var<storage, read_write> state: array<f32>;
// rows × value_heads · SIZE
@group(0) @binding(7) var<storage, read_write> out: array<f32>;
@group(0) @binding(8) var<storage, read> step_words: array<u32>;

#import shared/recurrence

var<workgroup> queries: array<f32, SIZE>;
var<workgroup> keys: array<f32, SIZE>;
var<workgroup> partials: array<vec2<f32>, SIZE>;

// The sums of all threads' pairs.
fn total(pair: vec2<f32>, thread: u32) -> vec2<f32> {
    // What the last one gave has been read.
    workgroupBarrier();
    partials[thread] = pair;
    workgroupBarrier();
    for (var stride = HALF; stride > 0u; stride >>= 1u) {
        if thread < stride && thread + stride < SIZE {
            partials[thread] += partials[thread + stride];
        }
        workgroupBarrier();
    }
    return partials[0];
}

@compute @workgroup_size(SIZE)
fn delta(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = workgroup.x;
    let first = params.first + workgroup.y * params.rows;
    let base = (slot_of(first) * params.value_heads + head) * SIZE * SIZE + thread;
    let key_head = head % params.key_heads;
    let rate = vectors[params.rate + head];
    let bias = vectors[params.bias + head];
    let scale = vectors[params.norm + thread];
    for (var r = 0u; r < params.rows; r++) {
        let row = first + r;
        let fresh = position_of(row) == 0u;
        let at = row * params.qkv_stride + thread;
        let query = qkv[at + key_head * SIZE];
        let key = qkv[at + (params.key_heads + key_head) * SIZE];
        let value = qkv[at + (2u * params.key_heads + head) * SIZE];
        let squares = total(vec2<f32>(query * query, key * key), thread);
        queries[thread] = query * inverseSqrt(squares.x + params.epsilon) * inverseSqrt(f32(SIZE));
        keys[thread] = key * inverseSqrt(squares.y + params.epsilon);
        workgroupBarrier();

        let decay = exp(-rate * softplus(alpha[row * params.alpha_stride + head] + bias));
        let weight = sigmoid(beta[row * params.beta_stride + head]);
        var found = 0.0;
        if !fresh {
            for (var i = 0u; i < SIZE; i++) {
                found += state[base + i * SIZE] * keys[i];
            }
        }
        let added = weight * (value - decay * found);
        var sum = 0.0;
        for (var i = 0u; i < SIZE; i++) {
            var number = keys[i] * added;
            if !fresh {
                number += decay * state[base + i * SIZE];
            }
            state[base + i * SIZE] = number;
            sum += number * queries[i];
        }
        let square = total(vec2<f32>(sum * sum, 0.0), thread).x;
        let gate = z[row * params.z_stride + head * SIZE + thread];
        out[row * params.out_stride + head * SIZE + thread] =
            sum * inverseSqrt(square / f32(SIZE) + params.epsilon) * scale * gate * sigmoid(gate);
    }
}
