// matmul_dp4a: matmul by integer dot products, over activations that quantize has rounded to signed bytes.
//
// The same tiles as matmul: 64 rows × 64 tokens a workgroup, 4 × 4 a thread. A step is one block of 32 columns: its
// quants lie in workgroup memory as bytes, four a word, word by word, and with w = d·q + m and x = s·p the sums are
// Σ w·x = d · s · Σ q·p + m · s · Σ p, for each 16 columns.
#import shared/product
#import format/{FORMAT}

// tokens × blocks × 3, as quantize writes them
@group(0) @binding(4) var<storage, read> x_values: array<vec4<u32>>;
// tokens × rows
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

// 8 words × 64 rows, and × 64 tokens.
var<workgroup> weights: array<u32, 512>;
var<workgroup> inputs: array<u32, 512>;
// (d0, d1, m0, m1) of the rows, (s0, s1, s0·Σ p, s1·Σ p) of the tokens.
var<workgroup> weight_scales: array<vec4<f32>, 64>;
var<workgroup> input_scales: array<vec4<f32>, 64>;

@compute @workgroup_size(256)
fn matmul_dp4a(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let matrix = params.matrices[0];
    let first_row = workgroup.x * 64u;
    let first_token = workgroup.y * 64u;
    let row_quad = thread % 16u;
    let token_quad = thread / 16u;
    // sums[t]: four rows of token t.
    var sums0 = vec4<f32>();
    var sums1 = vec4<f32>();
    var sums2 = vec4<f32>();
    var sums3 = vec4<f32>();
    // What this thread brings: half a block of one row or one token.
    let place = thread / 2u % 64u;
    let half = thread % 2u;
    let row = min(first_row + place, matrix.rows - 1u);
    let token = min(first_token + place, params.tokens - 1u);
    let brings_weights = thread < 128u;
    let at = 256u * half + place;
    for (var b = 0u; b < params.blocks; b++) {
        var brought: vec4<u32>;
        var brought_scales: vec4<f32>;
        if brings_weights {
            let p = load(matrix, row * params.blocks + b);
            let j = 4u * half;
            brought = vec4<u32>(packed(p, j), packed(p, j + 1u), packed(p, j + 2u), packed(p, j + 3u));
            brought_scales = scales(p);
        } else {
            let start = token * params.x_stride + 3u * b;
            brought = x_values[start + half];
            brought_scales = bitcast<vec4<f32>>(x_values[start + 2u]);
        }
        workgroupBarrier();
        if brings_weights {
            weights[at] = brought.x;
            weights[at + 64u] = brought.y;
            weights[at + 128u] = brought.z;
            weights[at + 192u] = brought.w;
            if half == 0u {
                weight_scales[place] = brought_scales;
            }
        } else {
            inputs[at] = brought.x;
            inputs[at + 64u] = brought.y;
            inputs[at + 128u] = brought.z;
            inputs[at + 192u] = brought.w;
            if half == 0u {
                input_scales[place] = brought_scales;
            }
        }
        workgroupBarrier();
        let row0 = weight_scales[4u * row_quad];
        let row1 = weight_scales[4u * row_quad + 1u];
        let row2 = weight_scales[4u * row_quad + 2u];
        let row3 = weight_scales[4u * row_quad + 3u];
#unroll H 2
        let d{H} = vec4<f32>(row0[{H}], row1[{H}], row2[{H}], row3[{H}]);
        let m{H} = vec4<f32>(row0[2 + {H}], row1[2 + {H}], row2[2 + {H}], row3[2 + {H}]);
#end
#unroll T 4
        var dots0_{T} = vec4<i32>();
        var dots1_{T} = vec4<i32>();
#end
#unroll J 8
        {
            let w = vec4<u32>(
                weights[64u * {J}u + 4u * row_quad], weights[64u * {J}u + 4u * row_quad + 1u],
                weights[64u * {J}u + 4u * row_quad + 2u], weights[64u * {J}u + 4u * row_quad + 3u],
            );
#unroll T 4
            {
                let x = inputs[64u * {J}u + 4u * token_quad + {T}u];
                dots{J/4}_{T} += vec4<i32>(
                    dot4I8Packed(w.x, x), dot4I8Packed(w.y, x), dot4I8Packed(w.z, x), dot4I8Packed(w.w, x),
                );
            }
#end
        }
#end
#unroll T 4
        {
            let s = input_scales[4u * token_quad + {T}u];
            sums{T} += d0 * (s.x * vec4<f32>(dots0_{T})) + d1 * (s.y * vec4<f32>(dots1_{T})) + m0 * s.z + m1 * s.w;
        }
#end
    }
#unroll T 4
    store(matrix, first_row + 4u * row_quad, first_token + 4u * token_quad + {T}u, sums{T});
#end
}

#import shared/store
