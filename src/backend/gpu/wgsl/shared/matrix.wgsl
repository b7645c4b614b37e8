// Where a weight matrix lies. A slab of weights is bound twice: as `quants`, vec4 by vec4, and as
// `words`. A row is a whole, even number of blocks of 32 columns; the last may be padded by
// zeros. Row r, block b is block i = r · blocks + b of each of the matrix's arrays.
//
// What a format says (format/*.wgsl):
//   load(m, i) -> Packed      everything of block i, in few wide loads
//   packed(p, j) -> u32       its 4 quants from 4·j on, a signed byte each; j = 0 … 7; not where they are floats
//   quant(p, j) -> vec4       the same as numbers, unscaled
//   scales(p) -> vec4         (d0, d1, m0, m1): weight = d·quant + m, one pair for each 16 columns
//   quad(m, i, j) -> vec4     4 weights, in narrow loads, for kernels that share out a block
struct Matrix {
    // Start of each array: `quants` in vec4, the others in words.
    quants: u32,
    scales: u32,
    extra: u32,
    more: u32,
    rows: u32,
    // The first workgroup that works on this matrix.
    first_group: u32,
    // Where row 0 of token 0 goes, and how far the next token's is.
    out: u32,
    out_stride: u32,
    // Index into `vectors`, or NONE.
    bias: u32,
    _pad0: u32,
    _pad1: u32,
    _pad2: u32,
}

const NONE: u32 = 0xffffffffu;
