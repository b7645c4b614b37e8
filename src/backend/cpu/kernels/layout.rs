//! How matrices lie in memory: in strips of [`GROUPS`] groups of four rows, which the kernel for one column takes at once.
//!
//! A strip's integers are those of its blocks of 32 columns, one after the other as [`Quants`] packs them. All are words of
//! 128 bits (scales also of 64), and one of the first group is followed by the same of the second, … So a kernel's loop
//! reads memory from front to back, line by line. A block of 32 columns has its scales right after its integers. Those of blocks of
//! 256 lie apart, after each other for the whole matrix: each load of the loop is then always as many bytes after the one
//! before, and in whole models, whose weights come from memory, such matrices are twice as fast. For blocks of 32 it is
//! the other way round (`tests/bench/README.md`).

use super::float::lanes;
use super::quants::{Form, GROUPS, Quants, Usual, WORD};
use super::simd::{V, and, load_i16, mul_f32, opaque, shl_i32, shr_i32};
use crate::backend::encoding::{Block, Encoding, Table};
use half::f16;
use std::marker::PhantomData;

/// What is one matrix type as far as kernels are concerned.
pub trait Layout {
    /// How its integers are packed.
    type Quants: Quants;
    /// What is subtracted from each integer.
    const OFFSET: i32;
    /// Columns with one scale for the input, and for the weights: 32, or 256 with sub-blocks.
    const BLOCK: usize;
    /// Columns of a sub-block.
    const SUB_BLOCK: usize;
    /// Whether blocks or sub-blocks have a minimum.
    const MINIMA: bool;

    /// Words of a group with the scales of sub-blocks, and as many with their minima: one byte each.
    const SUB_SCALES: usize = if Self::BLOCK == 32 { 0 } else { Self::BLOCK / Self::SUB_BLOCK / 4 };
    /// The word of a group where a block's minima are.
    const MINIMA_AT: usize = 1 + Self::SUB_SCALES;
    /// Bytes of such a word: a row has an f16, or a lane of 32 bits.
    const SCALE: usize = if Self::BLOCK == 32 { WORD / 2 } else { WORD };
    /// Bytes of a block's scales in a strip.
    const SCALES: usize = Self::SCALE
        * GROUPS
        * match (Self::MINIMA, Self::BLOCK) {
            (false, _) => Self::MINIMA_AT,
            (true, 32) => 2,
            (true, _) => 1 + 2 * Self::SUB_SCALES,
        };

    /// Whether a block's scales follow its integers.
    const MIXED: bool = Self::BLOCK == 32;
    /// Bytes from the integers of 32 columns to the next ones.
    const STEP: usize = Self::Quants::BYTES + if Self::MIXED { Self::SCALES } else { 0 };
    /// Bytes from a block's scales to the next ones.
    const SCALES_STEP: usize = if Self::MIXED { Self::STEP } else { Self::SCALES };

    /// Bytes of a strip of so many blocks of 32 columns: its integers, with its scales where these are mixed, and else these.
    fn strip_bytes(blocks: usize) -> [usize; 2] {
        let scales = blocks / (Self::BLOCK / 32) * Self::SCALES;
        [blocks * Self::STEP, if Self::MIXED { 0 } else { scales }]
    }

    /// Strip `index` of a matrix of so many blocks of 32 columns.
    fn strip<'a>(
        integers: &'a [u128],
        scales: &'a [u128],
        table: &'a Table,
        index: usize,
        blocks: usize,
    ) -> Strip<'a> {
        let [integer_words, scale_words] = Self::strip_bytes(blocks).map(|bytes| bytes / WORD);
        let integers = integers[index * integer_words..][..integer_words].as_ptr().cast::<u8>();
        let scales = scales[index * scale_words..][..scale_words].as_ptr().cast();
        Strip {
            integers,
            scales: if Self::MIXED { integers.wrapping_add(Self::Quants::BYTES) } else { scales },
            table,
        }
    }

    /// Where in a block's scales word `word` of a group is.
    #[inline(always)]
    fn scales_at(group: usize, word: usize) -> usize {
        Self::SCALE * (GROUPS * word + group)
    }

    /// Where in a strip's integers those of a group in block `block` of 32 columns begin.
    #[inline(always)]
    fn integers_at(group: usize, block: usize) -> usize {
        block * Self::STEP + WORD * group
    }

    /// Packs row `row` of a strip, as the file has it, into what [`Layout::strip_bytes`] says.
    fn pack<E: Encoding>(file: &[u8], row: usize, integers: &mut [u8], scales: &mut [u8]) {
        const { assert!(E::COLUMNS.is_multiple_of(Self::BLOCK)) };
        let mut block = Block::new();
        for (index, bytes) in file.chunks_exact(E::BYTES).enumerate() {
            E::decode(bytes, &mut block);
            if !Self::Quants::BY_TABLE && E::TABLE != [0; 16] {
                let values = &mut block.values[..E::COLUMNS];
                values.iter_mut().for_each(|value| *value = E::TABLE[usize::from(*value)] as u8);
            }
            let values = block.values[..E::COLUMNS].as_chunks::<32>().0;
            for (values, place) in values.iter().zip(index * (E::COLUMNS / 32)..) {
                Self::Quants::pack(values, row % 4, &mut integers[Self::integers_at(row / 4, place)..]);
            }
            let parts = E::COLUMNS / Self::BLOCK;
            for place in index * parts..(index + 1) * parts {
                let target = match Self::MIXED {
                    true => &mut integers[place * Self::STEP + Self::Quants::BYTES..],
                    false => &mut scales[place * Self::SCALES..],
                };
                Self::pack_scales::<E>(&block, row, target);
            }
        }
    }

    /// Packs the scales and minima of a row's block.
    #[inline(always)]
    fn pack_scales<E: Encoding>(block: &Block, row: usize, scales: &mut [u8]) {
        let at = |word: usize| Self::scales_at(row / 4, word) + Self::SCALE / 4 * (row % 4);
        let mut put = |at: usize, bytes: &[u8]| scales[at..][..bytes.len()].copy_from_slice(bytes);
        let (scale, minimum) = (block.scale.to_le_bytes(), block.minimum.to_le_bytes());
        match (Self::BLOCK, Self::MINIMA) {
            (32, false) => return put(at(0), &scale),
            (32, true) => {
                put(at(0), &scale);
                return put(at(Self::MINIMA_AT), &minimum);
            }
            // Without minima there is room for a number of 32 bits.
            (_, false) => {
                put(at(0), &(f16::from_bits(block.scale).to_f32() * E::FACTOR).to_le_bytes());
            }
            (_, true) => {
                put(at(0), &scale);
                put(at(0) + 2, &minimum);
            }
        }
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

/// Rows of a strip.
pub const ROWS: usize = 4 * GROUPS;

/// Where a strip is.
#[derive(Clone, Copy)]
pub struct Strip<'a> {
    pub integers: *const u8,
    pub scales: *const u8,
    /// What integers stand for, where these are places in a table.
    pub table: &'a Table,
}

/// Unpacks a row of a strip into floats, as kernels see them.
///
/// # Safety
/// The strip has as many columns as `out`.
pub unsafe fn unpack_row<L: Layout>(strip: Strip, row: usize, out: &mut [f32]) {
    let masks = L::Quants::masks(strip.table);
    let (group, row) = (row / 4, row % 4);
    for (index, out) in out.chunks_mut(L::BLOCK).enumerate() {
        // SAFETY: the caller's.
        let scales =
            unsafe { std::slice::from_raw_parts(strip.scales.add(index * L::SCALES_STEP), L::SCALES) };
        let at = |word: usize| L::scales_at(group, word) + L::SCALE / 4 * row;
        let half = |at: usize| f16::from_le_bytes([scales[at], scales[at + 1]]).to_f32();
        let single =
            |at: usize| f32::from_le_bytes([scales[at], scales[at + 1], scales[at + 2], scales[at + 3]]);
        for (block, out) in out.chunks_mut(32).enumerate() {
            // SAFETY: the block is one of the strip.
            let integers =
                unsafe { strip.integers.add(L::integers_at(group, index * (L::BLOCK / 32) + block)) };
            let columns = 32 / L::Quants::STEPS;
            for (step, out) in out.chunks_mut(columns).enumerate() {
                // SAFETY: the integers are a block's.
                let lane = lanes(unsafe { L::Quants::integers(integers, step, masks) })[row].to_bits();
                for (column, out) in out.iter_mut().enumerate() {
                    let integer = match columns {
                        2 => (lane >> (16 * column)) as i16 as i32,
                        _ => (lane >> (8 * column)) as i8 as i32,
                    };
                    let integer = (integer - L::OFFSET) as f32;
                    let sub_block = (32 * block + columns * step + column) / L::SUB_BLOCK;
                    let (word, byte) = (sub_block / 4, sub_block % 4);
                    *out = match (L::BLOCK, L::MINIMA) {
                        (32, false) => half(at(0)) * integer,
                        (32, true) => half(at(0)) * integer + half(at(L::MINIMA_AT)),
                        (_, minima) => {
                            let scaled = scales[at(1 + word) + 3 - byte] as i8 as f32 * integer;
                            if !minima {
                                single(at(0)) * scaled
                            } else {
                                let minimum = scales[at(L::MINIMA_AT + word) + [0, 2, 1, 3][byte]];
                                half(at(0)) * scaled - half(at(0) + 2) * minimum as f32
                            }
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

    /// Four that lie one after the other.
    ///
    /// # Safety
    /// The pointer is to 8 bytes.
    #[inline(always)]
    pub unsafe fn four(self, at: *const u8) -> V {
        // SAFETY: the caller's. The sign is in all of the upper bits.
        let words = shl_i32::<13>(unsafe { load_i16(at.cast()) });
        mul_f32(and(words, self.mask), self.power)
    }
}

/// Blocks of 32 columns with a scale.
pub struct Plain<Q, const OFFSET: i32>(PhantomData<Q>);
impl<Q: Quants, const OFFSET: i32> Layout for Plain<Q, OFFSET> {
    type Quants = Q;
    const OFFSET: i32 = OFFSET;
    const BLOCK: usize = 32;
    const SUB_BLOCK: usize = 32;
    const MINIMA: bool = false;
}

/// Blocks of 32 columns with a scale and a minimum.
pub struct Raised<Q>(PhantomData<Q>);
impl<Q: Quants> Layout for Raised<Q> {
    type Quants = Q;
    const OFFSET: i32 = 0;
    const BLOCK: usize = 32;
    const SUB_BLOCK: usize = 32;
    const MINIMA: bool = true;
}

/// Blocks of 256 columns, whose sub-blocks of `SUB_BLOCK` have scales.
pub struct Super<Q, const OFFSET: i32, const SUB_BLOCK: usize>(PhantomData<Q>);
impl<Q: Quants, const OFFSET: i32, const SUB_BLOCK: usize> Layout for Super<Q, OFFSET, SUB_BLOCK> {
    type Quants = Q;
    const OFFSET: i32 = OFFSET;
    const BLOCK: usize = 256;
    const SUB_BLOCK: usize = SUB_BLOCK;
    const MINIMA: bool = false;
}

/// Blocks of 256 columns, whose sub-blocks of `SUB_BLOCK` have scales and minima.
pub struct SuperRaised<Q, const SUB_BLOCK: usize>(PhantomData<Q>);
impl<Q: Quants, const SUB_BLOCK: usize> Layout for SuperRaised<Q, SUB_BLOCK> {
    type Quants = Q;
    const OFFSET: i32 = 0;
    const BLOCK: usize = 256;
    const SUB_BLOCK: usize = SUB_BLOCK;
    const MINIMA: bool = true;
}

pub type PackedQ1_0<F = Usual> = Plain<<F as Form>::Bits1, 1>;
pub type PackedQ2_0<F = Usual> = Plain<<F as Form>::Bits2, 1>;
pub type PackedQ4_0<F = Usual> = Plain<<F as Form>::Bits4, 8>;
pub type PackedQ4_1<F = Usual> = Raised<<F as Form>::Bits4>;
pub type PackedQ5_0<F = Usual> = Plain<<F as Form>::Bits5, 16>;
pub type PackedQ5_1<F = Usual> = Raised<<F as Form>::Bits5>;
pub type PackedQ8_0<F = Usual> = Plain<<F as Form>::Bits8, 0>;
pub type PackedQ2K<F = Usual> = SuperRaised<<F as Form>::Bits2, 16>;
pub type PackedQ3K<F = Usual> = Super<<F as Form>::Bits3, 4, 16>;
pub type PackedQ4K<F = Usual> = SuperRaised<<F as Form>::Bits4, 32>;
pub type PackedQ5K<F = Usual> = SuperRaised<<F as Form>::Bits5, 32>;
pub type PackedQ6K<F = Usual> = Super<<F as Form>::Bits6, 32, 16>;
/// IQ4_NL and MXFP4.
pub type PackedPlaces<F = Usual> = Plain<<F as Form>::Places, 0>;
/// IQ4_XS, and what is decoded to such blocks.
pub type PackedPlaces32<F = Usual> = Super<<F as Form>::Places, 0, 32>;
/// IQ2_S and its like.
pub type PackedPlaces16<F = Usual> = Super<<F as Form>::Places, 0, 16>;
