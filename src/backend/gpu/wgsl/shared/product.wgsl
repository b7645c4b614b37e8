// What the kernels that multiply by a matrix are told.
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
