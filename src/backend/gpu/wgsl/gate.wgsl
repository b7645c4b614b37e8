// gate: out = act(gate·norm(x)) · (up·norm(x)), elementwise, for 1 to TOKENS tokens. As matvec, with the
// same rows of two matrices at once.
#import shared/multiply
#import shared/reduce
#import shared/activation

// tokens × blocks · 32
@group(0) @binding(4) var<storage, read> x_values: array<vec4<f32>>;
// tokens × rows
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

fn biased(matrix: u32, row: u32, y: f32) -> f32 {
    let bias = params.matrices[matrix].bias;
    if bias == NONE {
        return y;
    }
    let b = bias + row;
    return y + vectors[b >> 2u][b & 3u];
}

@compute @workgroup_size(WG)
fn gate(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
#ifdef SUBGROUPS
    @builtin(subgroup_size) subgroup_size: u32,
    @builtin(subgroup_invocation_id) subgroup_thread: u32,
#endif
) {
    let index = workgroup.x + workgroup.y * workgroups.x;
    let first_row = index * (WG / LANES * ROWS);
    let both = array<Matrix, 2>(params.matrices[0], params.matrices[1]);
    let values = multiply(both, first_row + thread / LANES * ROWS, thread % LANES);
#ifdef SUBGROUPS
    reduce(values, thread, subgroup_size, subgroup_thread);
#else
    reduce(values, thread, 0u, 0u);
#endif

    for (var v = thread; v < WG / LANES * ROWS * TOKENS; v += WG) {
        let token = v / (WG / LANES * ROWS);
        let place = v % (WG / LANES * ROWS);
        let row = first_row + place;
        if row >= params.matrices[0].rows || token >= params.tokens {
            continue;
        }
        let group = place / ROWS;
        let value = place % ROWS * TOKENS + token;
        let scale = factor(group, token);
        let g = biased(0u, row, total(group, value) * scale);
        let u = biased(1u, row, total(group, ROWS * TOKENS + value) * scale);
        out[params.matrices[0].out + token * params.matrices[0].out_stride + row] = activation(g) * u;
    }
}
