// quantize: x as signed bytes with a scale for each 16 columns, for the products of integers; one thread for 32.
struct Params {
    // Of a token.
    blocks: u32,
    // From token to token, in vec4.
    x_stride: u32,
    out_stride: u32,
    tokens: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
// tokens × blocks · 32
@group(0) @binding(1) var<storage, read> x_values: array<vec4<f32>>;
// tokens × blocks × 3: 32 bytes p, then (s0, s1, s0·Σ p, s1·Σ p) as f32, for each 16 columns; x = s·p
@group(0) @binding(2) var<storage, read_write> out: array<vec4<u32>>;

@compute @workgroup_size(64)
fn quantize(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let block = workgroup.x * 64u + thread;
    let token = workgroup.y;
    if block >= params.blocks {
        return;
    }
    let start = token * params.x_stride + 8u * block;
    var largest0 = vec4<f32>();
    var largest1 = vec4<f32>();
#unroll J 8
    let x{J} = x_values[start + {J}u];
    largest{J/4} = max(largest{J/4}, abs(x{J}));
#end
    var sum0 = vec4<i32>();
    var sum1 = vec4<i32>();
#unroll H 2
    let most{H} = max(max(largest{H}.x, largest{H}.y), max(largest{H}.z, largest{H}.w));
    // Zeros stay what they are.
    let inverse{H} = select(0.0, 127.0 / most{H}, most{H} > 0.0);
#end
#unroll J 8
    let q{J} = vec4<i32>(round(x{J} * inverse{J/4}));
    sum{J/4} += q{J};
#end
    let at = token * params.out_stride + 3u * block;
    out[at] = vec4<u32>(pack4xI8(q0), pack4xI8(q1), pack4xI8(q2), pack4xI8(q3));
    out[at + 1u] = vec4<u32>(pack4xI8(q4), pack4xI8(q5), pack4xI8(q6), pack4xI8(q7));
    let scales = vec2<f32>(most0, most1) / 127.0;
    let sums = vec2<f32>(f32(sum0.x + sum0.y + sum0.z + sum0.w), f32(sum1.x + sum1.y + sum1.z + sum1.w));
    out[at + 2u] = bitcast<vec4<u32>>(vec4<f32>(scales, scales * sums));
}
