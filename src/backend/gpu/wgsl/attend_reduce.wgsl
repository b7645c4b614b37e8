// attend_reduce: puts the splits of attend together; one workgroup a head and token.
struct Params {
    query_heads: u32,
    splits: u32,
    out_stride: u32,
    // The first token's row of `out`.
    first: u32,
}

const QUADS: u32 = STRIDE / 4u;

@group(0) @binding(0) var<uniform> params: Params;
// tokens × query_heads × splits × (QUADS + 1): a split's sum, then (maximum, total)
@group(0) @binding(1) var<storage, read> parts: array<vec4<f32>>;
// tokens × query_heads · SIZE
@group(0) @binding(2) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn attend_reduce(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = workgroup.x;
    let token = workgroup.y;
    let first = (token * params.query_heads + head) * params.splits * (QUADS + 1u);
    var maximum = -1e30;
    for (var s = 0u; s < params.splits; s++) {
        maximum = max(maximum, parts[first + s * (QUADS + 1u) + QUADS].x);
    }
    for (var quad = thread; quad < QUADS; quad += 64u) {
        var sum = vec4<f32>();
        var total = 0.0;
        for (var s = 0u; s < params.splits; s++) {
            let at = first + s * (QUADS + 1u);
            let state = parts[at + QUADS];
            let weight = exp(state.x - maximum);
            total += weight * state.y;
            sum += weight * parts[at + quad];
        }
        let y = sum / total;
        let at = (params.first + token) * params.out_stride + head * SIZE + 4u * quad;
        for (var c = 0u; c < 4u && 4u * quad + c < SIZE; c++) {
            out[at + c] = y[c];
        }
    }
}
