//! The blocks of GGUF files, taken apart into integers and scales: what both devices pack anew for their kernels.
//! Source of the formats: ggml-common.h and the `dequantize_row_*` functions of llama.cpp's ggml-quants.c.

#![allow(unreachable_pub, reason = "the benchmark of the kernels has these files as its own")]
#![allow(non_camel_case_types, reason = "the names are ggml's")]

mod codebook;
mod ggml;
mod grids;
mod low_bits;

pub use codebook::{
    IQ1_M, IQ1_S, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, IQ4_NL, IQ4_XS, MXFP4, nvfp4_to_f16,
};
pub use ggml::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
pub use low_bits::{Q1_0, Q2_0, TQ1_0, TQ2_0};

/// A row's block of up to 256 columns, as far as its type goes.
pub struct Block {
    /// f16 bits.
    pub scale: u16,
    /// f16 bits: of the minimum that is added, or of the super-block's minima, which are subtracted.
    pub minimum: u16,
    /// Of the sub-blocks.
    pub scales: [i8; 16],
    /// Of the sub-blocks.
    pub minima: [u8; 16],
    /// Before the offset; or places in [`Encoding::TABLE`].
    pub values: [u8; 256],
}

impl Block {
    /// Zeros.
    pub const fn new() -> Self {
        Block { scale: 0, minimum: 0, scales: [0; 16], minima: [0; 16], values: [0; 256] }
    }
}

/// Sixteen numbers that four bits stand for.
pub type Table = [i8; 16];

/// A type of block.
pub trait Encoding {
    /// Of a block.
    const COLUMNS: usize;
    /// Of a block in the file.
    const BYTES: usize;
    /// What values stand for, where they are not numbers themselves.
    const TABLE: Table = [0; 16];
    /// Multiplies the scales of blocks that have sub-blocks and no minima: a power of two.
    const FACTOR: f32 = 1.0;
    /// Takes `BYTES` apart.
    fn decode(bytes: &[u8], block: &mut Block);
}

fn f16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Low nibbles are the first half, high ones the second.
#[inline(always)]
fn nibbles(bytes: &[u8], values: &mut [u8]) {
    let (low, high) = values.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

fn first_32(block: &mut Block) -> &mut [u8; 32] {
    &mut block.values.as_chunks_mut().0[0]
}
