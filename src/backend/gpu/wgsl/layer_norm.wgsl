// layer_norm: out = (x − mean) / deviation · scale + bias; one workgroup a token. The deviation is summed from what
// differs from the mean, in a second pass over x: the difference of two large sums would lose its digits.
struct Params {
    // Of a row, in vec4, whole and padded by zeros.
    columns: u32,
    x_stride: u32,
    out_stride: u32,
    // Scale and bias, in vec4.
    scale: u32,
    bias: u32,
    // Numbers of a row that count.
    len: u32,
    epsilon: f32,
    // The row of x where the first token is.
    first: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> vectors: array<vec4<f32>>;
// tokens × columns
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
// tokens × columns
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;

var<workgroup> partials: array<f32, 256>;

// The sum of all threads' numbers.
fn sum_of(number: f32, thread: u32) -> f32 {
    // Whoever still reads the last sum comes first.
    workgroupBarrier();
    partials[thread] = number;
    workgroupBarrier();
    for (var stride = 128u; stride > 0u; stride >>= 1u) {
        if thread < stride {
            partials[thread] += partials[thread + stride];
        }
        workgroupBarrier();
    }
    return partials[0];
}

@compute @workgroup_size(256)
fn layer_norm(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let token = workgroup.x;
    let row = (params.first + token) * params.x_stride;
    var sum = 0.0;
    for (var c = thread; c < params.columns; c += 256u) {
        sum += dot(x[row + c], vec4<f32>(1.0));
    }
    let mean = sum_of(sum, thread) / f32(params.len);
    sum = 0.0;
    for (var c = thread; c < params.columns; c += 256u) {
        let at = vec4<u32>(4u * c) + vec4<u32>(0u, 1u, 2u, 3u);
        let difference = select(vec4<f32>(), x[row + c] - mean, at < vec4<u32>(params.len));
        sum += dot(difference, difference);
    }
    let factor = inverseSqrt(sum_of(sum, thread) / f32(params.len) + params.epsilon);
    for (var c = thread; c < params.columns; c += 256u) {
        // The padding of scale and bias is zero, and stays so here.
        let y = (x[row + c] - mean) * factor * vectors[params.scale + c] + vectors[params.bias + c];
        out[token * params.out_stride + c] = y;
    }
}
