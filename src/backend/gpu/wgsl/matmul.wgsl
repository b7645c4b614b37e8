// matmul: out = W·x + b, or out += W·x + b, for many tokens.
//
// A workgroup of 16 × 16 threads computes a tile of 64 rows × 64 tokens, each thread 4 × 4 of it in registers.
// Weights are dequantized once a tile, into workgroup memory, 32 columns at a time; both tiles are
// kept column by column, so that a thread's four rows and four tokens are one vec4 each.
#import shared/product
#import format/{FORMAT}

// tokens × blocks · 32
@group(0) @binding(4) var<storage, read> x_values: array<vec4<f32>>;
// tokens × rows
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

// 32 columns × 64 rows and 32 columns × 64 tokens.
var<workgroup> weights: array<vec4<f32>, 512>;
var<workgroup> inputs: array<vec4<f32>, 512>;

@compute @workgroup_size(256)
fn matmul(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
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
    // What this thread brings: quad `j` of rows (or tokens) 4·place … 4·place + 3, for half of the places.
    let j = thread % 8u;
    let place = thread / 8u % 16u;
    let brings_weights = thread < 128u;
    for (var b = 0u; b < params.blocks; b++) {
        var a0: vec4<f32>;
        var a1: vec4<f32>;
        var a2: vec4<f32>;
        var a3: vec4<f32>;
        if brings_weights {
            let row = first_row + 4u * place;
            let last = matrix.rows - 1u;
            a0 = quad(matrix, min(row, last) * params.blocks + b, j);
            a1 = quad(matrix, min(row + 1u, last) * params.blocks + b, j);
            a2 = quad(matrix, min(row + 2u, last) * params.blocks + b, j);
            a3 = quad(matrix, min(row + 3u, last) * params.blocks + b, j);
        } else {
            let token = first_token + 4u * place;
            let last = params.tokens - 1u;
            let at = params.x + 8u * b + j;
            a0 = x_values[at + min(token, last) * params.x_stride];
            a1 = x_values[at + min(token + 1u, last) * params.x_stride];
            a2 = x_values[at + min(token + 2u, last) * params.x_stride];
            a3 = x_values[at + min(token + 3u, last) * params.x_stride];
        }
        workgroupBarrier();
        let at = 64u * j + place;
        if brings_weights {
            weights[at] = vec4<f32>(a0.x, a1.x, a2.x, a3.x);
            weights[at + 16u] = vec4<f32>(a0.y, a1.y, a2.y, a3.y);
            weights[at + 32u] = vec4<f32>(a0.z, a1.z, a2.z, a3.z);
            weights[at + 48u] = vec4<f32>(a0.w, a1.w, a2.w, a3.w);
        } else {
            inputs[at] = vec4<f32>(a0.x, a1.x, a2.x, a3.x);
            inputs[at + 16u] = vec4<f32>(a0.y, a1.y, a2.y, a3.y);
            inputs[at + 32u] = vec4<f32>(a0.z, a1.z, a2.z, a3.z);
            inputs[at + 48u] = vec4<f32>(a0.w, a1.w, a2.w, a3.w);
        }
        workgroupBarrier();
        for (var k = 0u; k < 32u; k++) {
            let w = weights[16u * k + row_quad];
            let x = inputs[16u * k + token_quad];
            sums0 += w * x.x;
            sums1 += w * x.y;
            sums2 += w * x.z;
            sums3 += w * x.w;
        }
    }
#unroll T 4
    store(matrix, first_row + 4u * row_quad, first_token + 4u * token_quad + {T}u, sums{T});
#end
}

#import shared/store
