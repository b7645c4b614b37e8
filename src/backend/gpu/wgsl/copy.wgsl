// copy: to = from, four vec4 a thread; measures what the memory can do.
struct Params { count: u32, _pad0: u32, _pad1: u32, _pad2: u32 }

@group(0) @binding(0) var<uniform> params: Params;
// count vec4
@group(0) @binding(1) var<storage, read> from_values: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> to_values: array<vec4<u32>>;

@compute @workgroup_size(256)
fn copy(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first = (workgroup.x + workgroup.y * workgroups.x) * 1024u + thread;
    for (var i = 0u; i < 4u; i++) {
        let at = first + 256u * i;
        if at < params.count {
            to_values[at] = from_values[at];
        }
    }
}
