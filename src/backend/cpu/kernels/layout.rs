//! How matrices lie in memory: in strips of so many groups of four rows as the kernel for one column takes at once, and
//! in these in chunks of columns.
//!
//! A chunk is all that a kernel needs for so many columns of its strip: scales first, then the integers as [`Quants`]
//! packs them. All of it is 128-bit words (half of them for some types), and a word of the first group is followed by
//! the same of the second, … — so a kernel reads memory strictly from front to back, cache line by cache line. Where each
//! group's words lay together instead, processors did not see one stream, and whole models, whose weights come from
//! memory, were up to half as fast.

use super::decode::{Block, Encoding};
use super::float::lanes;
use super::quants::{Bits2, Bits3, Bits4, Bits5, Bits6, Bits8, Quants, WORD};
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
    /// Words of a group with the scales of sub-blocks, and as many with their minima: one byte each.
    const SUB_SCALES: usize = if Self::BLOCK == 32 { 0 } else { Self::BLOCK / Self::SUB_BLOCK / 4 };
    /// The word of a group where the minima are.
    const MINIMA_AT: usize = 1 + Self::SUB_SCALES;
    /// The word of a group after all scales.
    const INTEGERS_AT: usize = Self::MINIMA_AT
        + match (Self::MINIMA, Self::BLOCK) {
            (false, _) => 0,
            (true, 32) => 1,
            (true, _) => Self::SUB_SCALES,
        };
    /// Bytes of a chunk.
    const BYTES: usize =
        WORD * Self::Quants::GROUPS * Self::INTEGERS_AT + Self::COLUMNS / 32 * Self::Quants::BYTES;

    /// Where in a chunk word `word` of a group's scales is.
    #[inline(always)]
    fn scales_at(group: usize, word: usize) -> usize {
        WORD * (Self::Quants::GROUPS * word + group)
    }

    /// Where in a chunk a group's integers of block `block` begin.
    #[inline(always)]
    fn integers_at(group: usize, block: usize) -> usize {
        WORD * Self::Quants::GROUPS * Self::INTEGERS_AT
            + block * Self::Quants::BYTES
            + group * Self::Quants::UNIT
    }

    /// Packs a row, as the file has it, into its lanes of a strip. Rows may end in the middle of a chunk.
    fn pack(file: &[u8], row: usize, strip: &mut [u8]) {
        let mut block = Block::new();
        let (group, lane) = (row / 4, row % 4);
        let blocks = Self::COLUMNS / Self::BLOCK;
        for (index, bytes) in file.chunks_exact(Self::Encoding::BYTES).enumerate() {
            Self::Encoding::decode(bytes, &mut block);
            let chunk = &mut strip[index / blocks * Self::BYTES..][..Self::BYTES];
            let values = block.values[..Self::BLOCK].as_chunks::<32>().0;
            for (values, place) in values.iter().zip(index % blocks * (Self::BLOCK / 32)..) {
                Self::Quants::pack(values, lane, &mut chunk[Self::integers_at(group, place)..]);
            }
            Self::pack_scales(&block, index % blocks, row, chunk);
        }
    }

    /// Packs the scales and minima of a row's block, the chunk's first or second.
    #[inline(always)]
    fn pack_scales(block: &Block, index: usize, row: usize, chunk: &mut [u8]) {
        let at = |word: usize| Self::scales_at(row / 4, word) + 4 * (row % 4);
        let mut put = |at: usize, bytes: &[u8]| chunk[at..][..bytes.len()].copy_from_slice(bytes);
        if Self::BLOCK == 32 {
            put(at(0) + 2 * index, &block.scale.to_le_bytes());
            if Self::MINIMA {
                put(at(Self::MINIMA_AT) + 2 * index, &block.minimum.to_le_bytes());
            }
            return;
        }
        put(at(0), [block.scale.to_le_bytes(), block.minimum.to_le_bytes()].as_flattened());
        for word in 0..Self::SUB_SCALES {
            let [a, b, c, d] = block.scales.as_chunks::<4>().0[word].map(|scale| scale as u8);
            // The first of four is on top: kernels shift them out there, with their sign.
            put(at(1 + word), &[d, c, b, a]);
            if Self::MINIMA {
                // Pairs for 16-bit lanes: first and second in the low halves, third and fourth in the high ones.
                let [a, b, c, d] = block.minima.as_chunks::<4>().0[word];
                put(at(Self::MINIMA_AT + word), &[a, c, b, d]);
            }
        }
    }
}

/// Unpacks a row of a strip into floats, as kernels see them.
///
/// # Safety
/// `strip` points to as many chunks as `out` has.
pub unsafe fn unpack_row<L: Layout>(strip: *const u8, row: usize, out: &mut [f32]) {
    let masks = L::Quants::masks();
    let (group, row) = (row / 4, row % 4);
    for (index, out) in out.chunks_mut(L::COLUMNS).enumerate() {
        // SAFETY: the caller's; a chunk has its bytes.
        let chunk = unsafe { std::slice::from_raw_parts(strip.add(index * L::BYTES), L::BYTES) };
        let at = |word: usize| L::scales_at(group, word) + 4 * row;
        let half = |at: usize| f16::from_le_bytes([chunk[at], chunk[at + 1]]).to_f32();
        for (block, out) in out.chunks_mut(32).enumerate() {
            let integers = chunk[L::integers_at(group, block)..].as_ptr();
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
                    let (word, byte) = (sub_block / 4, sub_block % 4);
                    *out = match (L::BLOCK, L::MINIMA) {
                        (32, false) => half(at(0) + 2 * block) * integer,
                        (32, true) => half(at(0) + 2 * block) * integer + half(at(L::MINIMA_AT) + 2 * block),
                        (_, minima) => {
                            let scale = chunk[at(1 + word) + 3 - byte] as i8 as f32;
                            let minimum = match minima {
                                true => {
                                    let minimum = chunk[at(L::MINIMA_AT + word) + [0, 2, 1, 3][byte]];
                                    half(at(0) + 2) * minimum as f32
                                }
                                false => 0.0,
                            };
                            half(at(0)) * (scale * integer) - minimum
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
