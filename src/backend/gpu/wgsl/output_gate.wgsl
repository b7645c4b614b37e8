// output_gate: x = x · sigmoid(gate), with one gate for each number, or ONE for all of a row.
struct Params {
    // Of a row, in vec4.
    columns: u32,
    gate_stride: u32,
    x_stride: u32,
    _pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// rows × columns
@group(0) @binding(1) var<storage, read> gate: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> x: array<vec4<f32>>;

@compute @workgroup_size(64)
fn output_gate(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let column = workgroup.x * 64u + thread;
    if column >= params.columns {
        return;
    }
#ifdef ONE
    let g = gate[workgroup.y * params.gate_stride].xxxx;
#else
    let g = gate[workgroup.y * params.gate_stride + column];
#endif
    x[workgroup.y * params.x_stride + column] /= 1.0 + exp(min(-g, vec4<f32>(88.0)));
}
