// attend: attention by online softmax (Milakov and Gimelshein 2018).
//
// A workgroup has QUERIES = HEADS · TOKENS queries that share one key head, and one split of the keys; a query
// is head q mod HEADS of token q / HEADS. It walks its keys WG at a time: a thread scores one key against
// every query, then four numbers of the head are one lane's and the keys are shared out between the lanes'
// groups. For one token the keys are split over workgroups, whose parts attend_reduce puts together.
struct Params {
    query_heads: u32,
    tokens: u32,
    // From token to token, in numbers.
    q_stride: u32,
    out_stride: u32,
    // The first token's row of the step, and key heads.
    first: u32,
    kv_heads: u32,
    // Tokens that are seen, itself included.
    window: u32,
    // Keys of a split, and how many splits there are.
    split: u32,
    splits: u32,
    scale: f32,
    // 0: none.
    softcap: f32,
    _pad: u32,
}

const LOWEST: f32 = -1e30;
// Of a head, four numbers each.
const QUADS: u32 = STRIDE / 4u;
// Groups of lanes that share out the keys.
const GROUPS: u32 = WG / QUADS;
// Threads that look for one query's maximum.
const SEEKERS: u32 = WG / QUERIES_POW2;

@group(0) @binding(0) var<uniform> params: Params;
// tokens × query_heads · SIZE
@group(0) @binding(1) var<storage, read> q: array<f32>;
// pages × kv_heads × PAGE × STRIDE
#ifdef KV_F16
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> values: array<vec2<u32>>;
#else
@group(0) @binding(2) var<storage, read> keys: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<f32>>;
#endif
@group(0) @binding(4) var<storage, read> step_words: array<u32>;
#ifdef SPLIT
// tokens × query_heads × splits × (QUADS + 1): the sum, then (maximum, total)
@group(0) @binding(5) var<storage, read_write> parts: array<vec4<f32>>;
#else
// tokens × query_heads · SIZE
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
#endif

#import shared/activation
#import shared/step

// QUERIES × QUADS: the queries, at the end their sums.
var<workgroup> queries: array<vec4<f32>, QUERIES * QUADS>;
// QUERIES × WG: scores, then weights.
var<workgroup> scores: array<f32, QUERIES * WG>;
var<workgroup> partials: array<f32, WG>;
var<workgroup> maxima: array<f32, QUERIES>;
var<workgroup> shrinks: array<f32, QUERIES>;

fn number(token: u32, head: u32, e: u32) -> f32 {
    if e >= SIZE || token >= params.tokens {
        return 0.0;
    }
    return params.scale * q[(params.first + token) * params.q_stride + head * SIZE + e];
}

@compute @workgroup_size(WG)
fn attend(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let kv_head = workgroup.x * HEADS / GROUP;
    let first_head = workgroup.x * HEADS;
    let first_token = workgroup.y * TOKENS;
    let split = workgroup.z;
    for (var i = thread; i < QUERIES * QUADS; i += WG) {
        let token = first_token + i / QUADS / HEADS;
        let head = first_head + i / QUADS % HEADS;
        let e = i % QUADS * 4u;
        queries[i] = vec4<f32>(
            number(token, head, e), number(token, head, e + 1u),
            number(token, head, e + 2u), number(token, head, e + 3u),
        );
    }
    if thread < QUERIES {
        maxima[thread] = LOWEST;
    }
    workgroupBarrier();

    // A workgroup's tokens are one sequence's; without CAUSAL all of the dispatch are.
    let first_position = position_of(params.first + first_token);
    let pages = pages_of(params.first + first_token);
#ifdef CAUSAL
    let last_position = first_position + min(TOKENS, params.tokens - first_token) - 1u;
#else
    let last_position = first_position + params.tokens - first_token - 1u;
#endif
    let start = first_position + 1u - min(first_position + 1u, params.window);
    let begin = start + split * params.split;
    let end = min(begin + params.split, last_position + 1u);

    let seeker_query = thread / SEEKERS;
    let lane = thread % QUADS;
    let group = thread / QUADS;
    var sought_total = 0.0;
#unroll Q QUERIES
    var sum{Q} = vec4<f32>();
#end
    for (var base = begin; base < end; base += WG) {
        let key = base + thread;
#unroll Q QUERIES
        var score{Q} = 0.0;
#end
        if key < end {
#ifdef KV_F16
            let row = place(pages, key, kv_head, params.kv_heads) * (STRIDE / 8u);
            for (var c = 0u; c < STRIDE / 8u; c++) {
                let words = keys[row + c];
                let a = vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
                let b = vec4<f32>(unpack2x16float(words.z), unpack2x16float(words.w));
#unroll Q QUERIES
                score{Q} += dot(a, queries[{Q}u * QUADS + 2u * c]) + dot(b, queries[{Q}u * QUADS + 2u * c + 1u]);
#end
            }
#else
            let row = place(pages, key, kv_head, params.kv_heads) * QUADS;
            for (var c = 0u; c < QUADS; c++) {
                let a = keys[row + c];
#unroll Q QUERIES
                score{Q} += dot(a, queries[{Q}u * QUADS + c]);
#end
            }
#endif
        }
#unroll Q QUERIES
        {
#ifdef CAUSAL
            let position = first_position + {Q}u / HEADS;
#else
            let position = last_position;
#endif
            let visible = key < end && key <= position && key + params.window > position;
#ifdef SOFTCAP
            score{Q} = params.softcap * tanh_safe(score{Q} / params.softcap);
#endif
            score{Q} = select(LOWEST, score{Q}, visible);
            scores[{Q}u * WG + thread] = score{Q};
        }
#end
        workgroupBarrier();

        var maximum = LOWEST;
        if seeker_query < QUERIES {
            for (var i = thread % SEEKERS; i < WG; i += SEEKERS) {
                maximum = max(maximum, scores[seeker_query * WG + i]);
            }
        }
        partials[thread] = maximum;
        workgroupBarrier();
        for (var stride = SEEKERS / 2u; stride > 0u; stride >>= 1u) {
            if thread % SEEKERS < stride {
                partials[thread] = max(partials[thread], partials[thread + stride]);
            }
            workgroupBarrier();
        }
        if thread < QUERIES {
            let old = maxima[thread];
            let new_maximum = max(old, partials[thread * SEEKERS]);
            maxima[thread] = new_maximum;
            shrinks[thread] = exp(old - new_maximum);
        }
        workgroupBarrier();

#unroll Q QUERIES
        scores[{Q}u * WG + thread] = select(0.0, exp(score{Q} - maxima[{Q}]), score{Q} > LOWEST);
        sum{Q} *= shrinks[{Q}];
#end
        workgroupBarrier();

        if seeker_query < QUERIES {
            sought_total *= shrinks[seeker_query];
            for (var i = thread % SEEKERS; i < WG; i += SEEKERS) {
                sought_total += scores[seeker_query * WG + i];
            }
        }
        if group < GROUPS {
            for (var i = group; i < min(WG, end - base); i += GROUPS) {
                let at = place(pages, base + i, kv_head, params.kv_heads) * QUADS + lane;
#ifdef KV_F16
                let words = values[at];
                let value = vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
#else
                let value = values[at];
#endif
#unroll Q QUERIES
                sum{Q} += scores[{Q}u * WG + i] * value;
#end
            }
        }
        workgroupBarrier();
    }

    // The groups' sums, one group after the other; the queries are no longer needed.
    for (var g = 0u; g < GROUPS; g++) {
        if group == g {
#unroll Q QUERIES
            {
                let at = {Q}u * QUADS + lane;
                queries[at] = select(queries[at], vec4<f32>(), g == 0u) + sum{Q};
            }
#end
        }
        workgroupBarrier();
    }
    partials[thread] = sought_total;
    workgroupBarrier();
    for (var stride = SEEKERS / 2u; stride > 0u; stride >>= 1u) {
        if thread % SEEKERS < stride {
            partials[thread] += partials[thread + stride];
        }
        workgroupBarrier();
    }

    for (var i = thread; i < QUERIES * QUADS; i += WG) {
        let query = i / QUADS;
        let quad = i % QUADS;
        let token = first_token + query / HEADS;
        let head = first_head + query % HEADS;
        if token >= params.tokens {
            continue;
        }
        let total = partials[query * SEEKERS];
#ifdef SPLIT
        let at = ((token * params.query_heads + head) * params.splits + split) * (QUADS + 1u);
        parts[at + quad] = queries[i];
        if quad == 0u {
            parts[at + QUADS] = vec4<f32>(maxima[query], total, 0.0, 0.0);
        }
#else
        let y = queries[i] / total;
        let at = (params.first + token) * params.out_stride + head * SIZE + 4u * quad;
        for (var c = 0u; c < 4u && 4u * quad + c < SIZE; c++) {
            out[at + c] = y[c];
        }
#endif
    }
}
