// gate_norm: y = norm(silu(z) · y), an RMSNorm over each group, a workgroup a group and row.
struct Params {
    // Numbers of a group.
    size: u32,
    // From row to row, in numbers.
    z_stride: u32,
    y_stride: u32,
    // Index into `vectors`, or NONE.
    norm: u32,
    epsilon: f32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}

const NONE: u32 = 0xffffffffu;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> vectors: array<f32>;
// rows × groups · size
@group(0) @binding(2) var<storage, read> z: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

#import shared/activation

var<workgroup> partials: array<f32, 64>;

@compute @workgroup_size(64)
fn gate_norm(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let first = workgroup.x * params.size;
    let z_at = workgroup.y * params.z_stride + first;
    let y_at = workgroup.y * params.y_stride + first;
    var sum = 0.0;
    for (var e = thread; e < params.size; e += 64u) {
        let value = y[y_at + e] * silu(z[z_at + e]);
        y[y_at + e] = value;
        sum += value * value;
    }
    if params.norm == NONE {
        return;
    }
    partials[thread] = sum;
    workgroupBarrier();
    for (var stride = 32u; stride > 0u; stride >>= 1u) {
        if thread < stride {
            partials[thread] += partials[thread + stride];
        }
        workgroupBarrier();
    }
    let factor = inverseSqrt(partials[0] / f32(params.size) + params.epsilon);
    for (var e = thread; e < params.size; e += 64u) {
        y[y_at + e] *= factor * vectors[params.norm + first + e];
    }
}
