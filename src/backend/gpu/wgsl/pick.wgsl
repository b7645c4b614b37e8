// pick: picked = the scores at some places.
struct Params {
    count: u32,
    // Where the scores begin.
    first: u32,
    _pad0: u32,
    _pad1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> scores: array<u32>;
// count
@group(0) @binding(2) var<storage, read> places: array<u32>;
// count
@group(0) @binding(3) var<storage, read_write> picked: array<u32>;

@compute @workgroup_size(64)
fn pick(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < params.count {
        picked[id.x] = scores[params.first + places[id.x]];
    }
}
