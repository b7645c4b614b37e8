// activate: gate = act(gate) · up, where the two products were separate.
struct Params {
    // Of a row, in vec4.
    columns: u32,
    stride: u32,
    tokens: u32,
    _pad: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// tokens × columns
@group(0) @binding(1) var<storage, read> up: array<vec4<f32>>;
// tokens × columns
@group(0) @binding(2) var<storage, read_write> gate: array<vec4<f32>>;

#import shared/activation

@compute @workgroup_size(256)
fn activate(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let column = workgroup.x * 256u + thread;
    if column >= params.columns {
        return;
    }
    let at = workgroup.y * params.stride + column;
    let g = gate[at];
    gate[at] = vec4<f32>(activation(g.x), activation(g.y), activation(g.z), activation(g.w)) * up[at];
}
