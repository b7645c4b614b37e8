// route: chooses CHOSEN of EXPERTS for each token by their scores, a workgroup a token.
struct Params {
    // From token to token, in numbers.
    scores_stride: u32,
    out_stride: u32,
    // Index into `vectors`.
    bias: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: Params;
// tokens × EXPERTS
@group(0) @binding(1) var<storage, read> scores: array<f32>;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
// tokens × 2 · CHOSEN: an expert's number and its weight, in turns
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

// Of all experts; then what is left to be chosen.
var<workgroup> weights: array<f32, EXPERTS>;
var<workgroup> left: array<f32, EXPERTS>;
var<workgroup> best_of: array<u32, 64>;
var<workgroup> partials: array<f32, 64>;
var<workgroup> picked: array<u32, CHOSEN>;

const LOWEST: f32 = -3.4e38;

@compute @workgroup_size(64)
fn route(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let at = workgroup.x * params.scores_stride;
    var highest = LOWEST;
    for (var e = thread; e < EXPERTS; e += 64u) {
        weights[e] = scores[at + e];
        highest = max(highest, weights[e]);
    }
#ifdef SOFTMAX
    partials[thread] = highest;
    workgroupBarrier();
    for (var stride = 32u; stride > 0u; stride >>= 1u) {
        if thread < stride {
            partials[thread] = max(partials[thread], partials[thread + stride]);
        }
        workgroupBarrier();
    }
    highest = partials[0];
    workgroupBarrier();
    var sum = 0.0;
    for (var e = thread; e < EXPERTS; e += 64u) {
        weights[e] = exp(weights[e] - highest);
        sum += weights[e];
    }
    partials[thread] = sum;
    workgroupBarrier();
    for (var stride = 32u; stride > 0u; stride >>= 1u) {
        if thread < stride {
            partials[thread] += partials[thread + stride];
        }
        workgroupBarrier();
    }
    sum = partials[0];
    for (var e = thread; e < EXPERTS; e += 64u) {
        weights[e] /= sum;
    }
#endif
    for (var e = thread; e < EXPERTS; e += 64u) {
#ifdef SIGMOID
        weights[e] = 1.0 / (1.0 + exp(min(-weights[e], 88.0)));
#endif
        left[e] = weights[e];
#ifdef BIAS
        left[e] += vectors[params.bias + e];
#endif
    }
    workgroupBarrier();
    for (var place = 0u; place < CHOSEN; place++) {
        var best = min(thread, EXPERTS - 1u);
        for (var e = thread; e < EXPERTS; e += 64u) {
            best = select(best, e, left[e] > left[best]);
        }
        best_of[thread] = best;
        workgroupBarrier();
        for (var stride = 32u; stride > 0u; stride >>= 1u) {
            if thread < stride {
                let other = best_of[thread + stride];
                let mine = best_of[thread];
                // Of equals the first.
                if left[other] > left[mine] || (left[other] == left[mine] && other < mine) {
                    best_of[thread] = other;
                }
            }
            workgroupBarrier();
        }
        if thread == 0u {
            picked[place] = best_of[0];
            left[best_of[0]] = LOWEST;
        }
        workgroupBarrier();
    }
    if thread > 0u {
        return;
    }
    let to = workgroup.x * params.out_stride;
    var total = 0.0;
#ifdef OF_CHOSEN
    var top = LOWEST;
    for (var place = 0u; place < CHOSEN; place++) {
        top = max(top, weights[picked[place]]);
    }
#endif
    for (var place = 0u; place < CHOSEN; place++) {
        var weight = weights[picked[place]];
#ifdef OF_CHOSEN
        weight = exp(weight - top);
#endif
        total += weight;
        out[to + 2u * place] = f32(picked[place]);
        out[to + 2u * place + 1u] = weight;
    }
    var factor = params.scale;
#ifdef NORMALIZED
    factor /= max(total, LEAST_SUM);
#endif
    for (var place = 0u; place < CHOSEN; place++) {
        out[to + 2u * place + 1u] *= factor;
    }
}

const LEAST_SUM: f32 = 1.0 / 16384.0;
