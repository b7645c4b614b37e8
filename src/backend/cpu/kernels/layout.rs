//! How matrices lie in memory: in groups of four rows, and in these in chunks of columns.
//!
//! A chunk is all that a kernel needs for so many columns of its four rows: scales first, then the integers as
//! [`Quants`] packs them. So many groups as the kernel for one column takes at once are a *strip*, and strips follow each
//! other. A strip is the first chunk of each group, then the second of each, … — one stream of memory; for some types its
//! groups follow each other ([`Layout::TURNS`]).

use super::decode::{Block, Encoding};
use super::float::lanes;
use super::quants::{Bits2, Bits3, Bits4, Bits5, Bits6, Bits8, Lanes, Quants};
use super::simd::{V, and, mul_f32, opaque, shl_i32, shr_i32};
use half::f16;
use std::marker::PhantomData;

/// What is one matrix type as far as kernels are concerned.
pub trait Layout {
    /// How the file has it.
    type Encoding: Encoding;
    /// How its integers are packed.
    type Quants: Quants;
    /// What is subtracted from each integer.
    const OFFSET: i32;
    /// Columns with one scale for the input, and in the file's block: 32, or 256 with sub-blocks.
    const BLOCK: usize;
    /// Columns of a sub-block.
    const SUB_BLOCK: usize;
    /// Whether blocks or sub-blocks have a minimum.
    const MINIMA: bool;

    /// Columns of a chunk: two blocks of 32, or one of 256.
    const COLUMNS: usize = if Self::BLOCK == 32 { 64 } else { 256 };
    /// The scales of sub-blocks, and as many of their minima: one byte each.
    const SUB_SCALES: usize = if Self::BLOCK == 32 { 0 } else { 4 * Self::BLOCK / Self::SUB_BLOCK };
    /// Where the minima are.
    const MINIMA_AT: usize = 16 + Self::SUB_SCALES;
    /// Where the integers begin.
    const INTEGERS_AT: usize = Self::MINIMA_AT
        + match (Self::MINIMA, Self::BLOCK) {
            (false, _) => 0,
            (true, 32) => 16,
            (true, _) => Self::SUB_SCALES,
        };
    /// Bytes of a chunk: a multiple of 16.
    const BYTES: usize = Self::INTEGERS_AT + Self::COLUMNS / 32 * Self::Quants::BYTES;

    /// Whether the chunks of a strip's groups take turns. Measured with whole models, whose weights come from memory:
    /// without it Q4_0 in pairs answers a quarter faster, Q8_0 and Q5_0 a third slower.
    const TURNS: bool = !(matches!(Self::Quants::LANES, Lanes::Pairs)
        && Self::Quants::BITS == 4
        && Self::BLOCK == 32
        && !Self::MINIMA);
    /// Bytes from a chunk of a group to its next one.
    const CHUNK_STEP: usize = if Self::TURNS { Self::Quants::GROUPS * Self::BYTES } else { Self::BYTES };
    /// Bytes from the first chunk of a group, which has so many, to that of the strip's next group.
    fn group_step(chunks: usize) -> usize {
        if Self::TURNS { Self::BYTES } else { chunks * Self::BYTES }
    }

    /// Packs a row, as the file has it, into its lanes of the chunks of its group, the first of which begins `group`. Rows
    /// may end in the middle of a chunk.
    fn pack(file: &[u8], row: usize, group: &mut [u8]) {
        let mut block = Block::new();
        let blocks = Self::COLUMNS / Self::BLOCK;
        for (index, bytes) in file.chunks_exact(Self::Encoding::BYTES).enumerate() {
            Self::Encoding::decode(bytes, &mut block);
            let chunk = &mut group[index / blocks * Self::CHUNK_STEP..][..Self::BYTES];
            let (scales, integers) = chunk.split_at_mut(Self::INTEGERS_AT);
            let integers = &mut integers[index % blocks * (Self::BLOCK / 32 * Self::Quants::BYTES)..];
            let values = block.values[..Self::BLOCK].as_chunks::<32>().0;
            for (values, integers) in values.iter().zip(integers.chunks_exact_mut(Self::Quants::BYTES)) {
                Self::Quants::pack(values, row, integers);
            }
            Self::pack_scales(&block, index % blocks, row, scales);
        }
    }

    /// Packs the scales and minima of a row's block, the chunk's first or second.
    #[inline(always)]
    fn pack_scales(block: &Block, index: usize, row: usize, scales: &mut [u8]) {
        let lane = 4 * row;
        if Self::BLOCK == 32 {
            scales[lane + 2 * index..][..2].copy_from_slice(&block.scale.to_le_bytes());
            if Self::MINIMA {
                scales[16 + lane + 2 * index..][..2].copy_from_slice(&block.minimum.to_le_bytes());
            }
            return;
        }
        let halves = [block.scale.to_le_bytes(), block.minimum.to_le_bytes()];
        scales[lane..][..4].copy_from_slice(halves.as_flattened());
        for four in 0..Self::BLOCK / Self::SUB_BLOCK / 4 {
            let at = 16 * four + lane;
            let [a, b, c, d] = block.scales.as_chunks::<4>().0[four].map(|scale| scale as u8);
            // The first of four is on top: kernels shift them out there, with their sign.
            scales[16 + at..][..4].copy_from_slice(&[d, c, b, a]);
            if Self::MINIMA {
                // Pairs for 16-bit lanes: first and second in the low halves, third and fourth in the high ones.
                let [a, b, c, d] = block.minima.as_chunks::<4>().0[four];
                scales[Self::MINIMA_AT + at..][..4].copy_from_slice(&[a, c, b, d]);
            }
        }
    }
}

/// Unpacks one of four rows into floats, as kernels see them.
///
/// # Safety
/// `group` points to the first of as many chunks of a strip as `out` has.
pub unsafe fn unpack_row<L: Layout>(group: *const u8, row: usize, out: &mut [f32]) {
    let masks = L::Quants::masks();
    for (index, out) in out.chunks_mut(L::COLUMNS).enumerate() {
        // SAFETY: the caller's; a chunk has its bytes.
        let chunk = unsafe { std::slice::from_raw_parts(group.add(index * L::CHUNK_STEP), L::BYTES) };
        let half = |at: usize| f16::from_le_bytes([chunk[4 * row + at], chunk[4 * row + at + 1]]).to_f32();
        for (block, out) in out.chunks_mut(32).enumerate() {
            let integers = chunk[L::INTEGERS_AT + block * L::Quants::BYTES..].as_ptr();
            let columns = 32 / L::Quants::STEPS;
            for (step, out) in out.chunks_mut(columns).enumerate() {
                // SAFETY: the integers are a block's.
                let lane = lanes(unsafe { L::Quants::step(integers, step, masks) })[row].to_bits();
                let excess = L::Quants::SCALE / L::Quants::FACTORS[step] as i32;
                for (column, out) in out.iter_mut().enumerate() {
                    let integer = match columns {
                        2 => (lane >> (16 * column)) as i16 as i32,
                        _ => (lane >> (8 * column)) as i8 as i32,
                    };
                    // Some have the lane's top bits, and are no negative numbers.
                    let integer = if L::Quants::BITS < 8 { integer & 0xffff } else { integer };
                    let integer = (integer / excess - L::OFFSET) as f32;
                    let sub_block = (32 * block + columns * step + column) / L::SUB_BLOCK;
                    let place = 16 * (sub_block / 4) + 4 * row;
                    *out = match (L::BLOCK, L::MINIMA) {
                        (32, false) => half(2 * block) * integer,
                        (32, true) => half(2 * block) * integer + half(L::MINIMA_AT + 2 * block),
                        (_, minima) => {
                            let scale = chunk[16 + place + 3 - sub_block % 4] as i8 as f32;
                            let minimum = match minima {
                                true => {
                                    half(2) * chunk[L::MINIMA_AT + place + [0, 2, 1, 3][sub_block % 4]] as f32
                                }
                                false => 0.0,
                            };
                            half(0) * (scale * integer) - minimum
                        }
                    };
                }
            }
        }
    }
}

/// Turns f16 numbers into f32 ones.
#[derive(Clone, Copy)]
pub struct Halves {
    mask: V,
    power: V,
}

impl Halves {
    #[inline(always)]
    pub fn new() -> Self {
        // An f16's bits, moved to where an f32 has them, are a number 2¹¹² times too small.
        Halves { mask: opaque(0x8fff_e000), power: opaque(0x7780_0000) }
    }

    /// Of the lower 16 bits of each lane.
    #[inline(always)]
    pub fn low(self, words: V) -> V {
        self.high(shl_i32::<16>(words))
    }

    /// Of the higher ones.
    #[inline(always)]
    pub fn high(self, words: V) -> V {
        mul_f32(and(shr_i32::<3>(words), self.mask), self.power)
    }
}

/// Blocks of 32 columns with a scale.
pub struct Plain<E, Q, const OFFSET: i32>(PhantomData<(E, Q)>);
impl<E: Encoding, Q: Quants, const OFFSET: i32> Layout for Plain<E, Q, OFFSET> {
    type Encoding = E;
    type Quants = Q;
    const OFFSET: i32 = OFFSET;
    const BLOCK: usize = 32;
    const SUB_BLOCK: usize = 32;
    const MINIMA: bool = false;
}

/// Blocks of 32 columns with a scale and a minimum.
pub struct Raised<E, Q>(PhantomData<(E, Q)>);
impl<E: Encoding, Q: Quants> Layout for Raised<E, Q> {
    type Encoding = E;
    type Quants = Q;
    const OFFSET: i32 = 0;
    const BLOCK: usize = 32;
    const SUB_BLOCK: usize = 32;
    const MINIMA: bool = true;
}

/// Blocks of 256 columns, whose sub-blocks have scales.
pub struct Super<E, Q, const OFFSET: i32>(PhantomData<(E, Q)>);
impl<E: Encoding, Q: Quants, const OFFSET: i32> Layout for Super<E, Q, OFFSET> {
    type Encoding = E;
    type Quants = Q;
    const OFFSET: i32 = OFFSET;
    const BLOCK: usize = 256;
    const SUB_BLOCK: usize = 16;
    const MINIMA: bool = false;
}

/// Blocks of 256 columns, whose sub-blocks of `SUB_BLOCK` have scales and minima.
pub struct SuperRaised<E, Q, const SUB_BLOCK: usize>(PhantomData<(E, Q)>);
impl<E: Encoding, Q: Quants, const SUB_BLOCK: usize> Layout for SuperRaised<E, Q, SUB_BLOCK> {
    type Encoding = E;
    type Quants = Q;
    const OFFSET: i32 = 0;
    const BLOCK: usize = 256;
    const SUB_BLOCK: usize = SUB_BLOCK;
    const MINIMA: bool = true;
}

use super::decode::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

pub type PackedQ4_0 = Plain<Q4_0, Bits4, 8>;
pub type PackedQ4_1 = Raised<Q4_1, Bits4>;
pub type PackedQ5_0 = Plain<Q5_0, Bits5, 16>;
pub type PackedQ5_1 = Raised<Q5_1, Bits5>;
pub type PackedQ8_0 = Plain<Q8_0, Bits8, 0>;
pub type PackedQ2K = SuperRaised<Q2K, Bits2, 16>;
pub type PackedQ3K = Super<Q3K, Bits3, 4>;
pub type PackedQ4K = SuperRaised<Q4K, Bits4, 32>;
pub type PackedQ5K = SuperRaised<Q5K, Bits5, 32>;
pub type PackedQ6K = Super<Q6K, Bits6, 32>;
