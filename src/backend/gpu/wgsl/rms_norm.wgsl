// rms_norm: out = x / rms(x) · scale, or out += that; one workgroup a token, sums in f32.
struct Params {
    // Of a row, in vec4, whole and padded by zeros.
    columns: u32,
    x_stride: u32,
    out_stride: u32,
    // The scale, in vec4.
    norm: u32,
    inverse_columns: f32,
    epsilon: f32,
    // The row of x where the first token is.
    first: u32,
    _pad1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> vectors: array<vec4<f32>>;
// tokens × columns
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
// tokens × columns
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> partials: array<f32, 256>;

@compute @workgroup_size(256)
fn rms_norm(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = workgroup.x;
    let row = (params.first + token) * params.x_stride;
    var sum = 0.0;
    for (var c = thread; c < params.columns; c += 256u) {
        let value = x[row + c];
        sum += dot(value, value);
    }
    partials[thread] = sum;
    workgroupBarrier();
    for (var stride = 128u; stride > 0u; stride >>= 1u) {
        if thread < stride {
            partials[thread] += partials[thread + stride];
        }
        workgroupBarrier();
    }
    let factor = inverseSqrt(partials[0] * params.inverse_columns + params.epsilon);
    for (var c = thread; c < params.columns; c += 256u) {
        let y = x[row + c] * factor * vectors[params.norm + c];
#ifdef ADD
        out[token * params.out_stride + c] += y;
#else
        out[token * params.out_stride + c] = y;
#endif
    }
}
