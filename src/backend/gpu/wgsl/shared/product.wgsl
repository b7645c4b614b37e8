// What the kernels that multiply by a matrix are told, and the bindings that they share.
#import shared/matrix

struct Product {
    // Of 32 columns, a row.
    blocks: u32,
    tokens: u32,
    // Of the first token's row in x, and from row to row, in vec4.
    x: u32,
    x_stride: u32,
    // The norm's scale, in vec4.
    norm: u32,
    inverse_columns: f32,
    epsilon: f32,
    // 0: none.
    softcap: f32,
    matrices: array<Matrix, 3>,
}

@group(0) @binding(0) var<uniform> params: Product;
// The slab that holds the matrices, twice.
@group(0) @binding(1) var<storage, read> quants: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> words: array<u32>;
// Norms and biases.
@group(0) @binding(3) var<storage, read> vectors: array<vec4<f32>>;
