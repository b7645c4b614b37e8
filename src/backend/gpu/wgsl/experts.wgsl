// experts: products of tokens with the matrices of their experts. Four rows of 32 lanes a workgroup.
// UP: out[token, place] = W·x for each expert of a token; and where COMBINE, act(out) · W·x.
// Otherwise: out[token] += Σ weight · W·x[token, place].
#import shared/matrix
#import format/{FORMAT}
#import shared/activation

struct Params {
    blocks: u32,
    // Experts of a token.
    chosen: u32,
    // Rows of an expert.
    rows: u32,
    // Rows of all experts before this part of the matrix.
    first_row: u32,
    // From row to row: in vec4, and in numbers.
    x_stride: u32,
    routes_stride: u32,
    out_stride: u32,
    _pad: u32,
    matrix: Matrix,
}

@group(0) @binding(0) var<uniform> params: Params;
// The slab that holds the matrices, twice.
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> words: array<u32>;
// tokens × columns; tokens · chosen × columns without UP
@group(0) @binding(3) var<storage, read> x_values: array<vec4<f32>>;
// tokens × 2 · chosen: an expert's number and its weight, in turns
@group(0) @binding(4) var<storage, read> routes: array<f32>;
// tokens · chosen × rows; tokens × rows without UP
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

var<workgroup> partials: array<f32, 128>;

// A lane's share of row `row` of the matrix times the row of x that begins at `at`.
fn product(row: u32, at: u32, lane: u32) -> f32 {
    var value = 0.0;
    for (var b = lane; b < params.blocks; b += 32u) {
        let w = load(params.matrix, row * params.blocks + b);
        var dot0 = 0.0;
        var dot1 = 0.0;
        var sum0 = vec4<f32>();
        var sum1 = vec4<f32>();
#unroll J 8
        {
            let x = x_values[at + 8u * b + {J}u];
            sum{J/4} += x;
            dot{J/4} += dot(quant(w, {J}u), x);
        }
#end
        let totals = vec2<f32>(dot(sum0, vec4<f32>(1.0)), dot(sum1, vec4<f32>(1.0)));
        value += dot(scales(w), vec4<f32>(dot0, dot1, totals));
    }
    return value;
}

@compute @workgroup_size(128)
fn experts(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % 32u;
    let row = workgroup.x * 4u + thread / 32u;
    let token = workgroup.z;
    var value = 0.0;
#ifdef UP
    let place = workgroup.y;
    let expert = u32(routes[token * params.routes_stride + 2u * place]);
    // Rows of another part wrap around to large numbers.
    let mine = expert * params.rows + row - params.first_row;
    let here = row < params.rows && mine < params.matrix.rows;
    if here {
        value = product(mine, token * params.x_stride, lane);
    }
#else
    for (var place = 0u; place < params.chosen; place++) {
        let at = token * params.routes_stride + 2u * place;
        let mine = u32(routes[at]) * params.rows + row - params.first_row;
        if row < params.rows && mine < params.matrix.rows {
            value += routes[at + 1u] * product(mine, (token * params.chosen + place) * params.x_stride, lane);
        }
    }
#endif
    partials[thread] = value;
    workgroupBarrier();
    for (var stride = 16u; stride > 0u; stride >>= 1u) {
        if lane < stride {
            partials[thread] += partials[thread + stride];
        }
        workgroupBarrier();
    }
    if lane > 0u {
        return;
    }
#ifdef UP
    if here {
        let to = (token * params.chosen + place) * params.out_stride + row;
#ifdef COMBINE
        out[to] = activation(out[to]) * partials[thread];
#else
        out[to] = partials[thread];
#endif
    }
#else
    if row < params.rows {
        out[token * params.out_stride + row] += partials[thread];
    }
#endif
}
