//! How small integers are packed, so that one operation gives a vector of them.
//!
//! Weights lie in groups of four rows. The integers of four rows and 32 columns are some 128-bit words; a row has one
//! 32-bit lane of each. What a product takes of a lane at once is a *step*: a pair of columns in 16 bits each, for
//! WebAssembly's plain SIMD and SSE2 ([`pairs`]), or four columns in 8 bits each, for relaxed SIMD ([`quads`]).
//! Where there is relaxed SIMD, which [`Form`] is faster depends on the processor.

pub mod pairs;
#[cfg(any(test, target_feature = "relaxed-simd"))]
pub mod quads;

use super::simd::{V, load, shl_i16, shr_u16};
use crate::backend::encoding::Table;

pub use pairs::Pairs;
#[cfg(any(test, target_feature = "relaxed-simd"))]
pub use quads::Quads;

/// The form that is faster on most processors.
#[cfg(not(target_feature = "relaxed-simd"))]
pub type Usual = Pairs;
#[cfg(target_feature = "relaxed-simd")]
pub type Usual = Quads;

/// One way to pack integers, for each number of bits. Products are the same to the bit in all of them.
pub trait Form {
    type Bits1: Quants;
    type Bits2: Quants;
    type Bits3: Quants;
    type Bits4: Quants;
    type Bits5: Quants;
    type Bits6: Quants;
    type Bits8: Quants;
    /// Places in a table of 16 signed numbers.
    type Places: Quants;
}

/// Bytes of what one operation works on: four lanes of 32 bits.
pub const WORD: usize = 16;

/// Groups of four rows in a strip, which kernels take at once: as many as registers allow.
pub const GROUPS: usize = 4;

/// Most steps in a block of 32 columns.
pub const MOST_STEPS: usize = 16;

/// What a step asks of the input.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(
    not(any(test, target_feature = "relaxed-simd")),
    allow(dead_code, reason = "pairs are for relaxed SIMD")
)]
pub enum Lanes {
    /// Two integers of 16 bits, times [`Quants::FACTORS`].
    Pairs,
    /// The same for words of which a step takes both bytes and another the upper ones: see [`pairs::Bits8`].
    BytePairs,
    /// Four of 8 bits.
    Quads,
    /// Those of all steps as magnitudes of 7 bits, then their signs: all bits of a byte set where it is negative.
    SignedQuads,
}

impl Lanes {
    /// Of 32 bits each, in a block of 32 columns.
    pub const fn count(self) -> usize {
        match self {
            Lanes::Pairs | Lanes::BytePairs | Lanes::SignedQuads => 16,
            Lanes::Quads => 8,
        }
    }
}

/// Unsigned integers of some bits (signed where they have 8), packed.
pub trait Quants {
    /// Of an integer.
    const BITS: usize;
    /// Of a strip's rows and 32 columns.
    const BYTES: usize = WORD * Self::BITS * GROUPS;
    /// In a block of 32 columns.
    const STEPS: usize;
    /// Turns of as many steps, each done like the one before it, so many words further on. One or an even number, or there
    /// is a last step by itself.
    const TURNS: usize = 1;
    /// What the input must be like.
    const LANES: Lanes;
    /// The input's factor for each step.
    const FACTORS: [i16; MOST_STEPS] = [1; MOST_STEPS];
    /// Integer times factor.
    const SCALE: i32 = 1;
    /// Whether they are places in a table, whose numbers a step gives.
    const BY_TABLE: bool = false;
    /// Masks, kept in registers.
    type Masks: Copy;
    /// What a step takes of the input, in each lane the same.
    type Input: Copy;

    /// Ready to use.
    fn masks(table: &Table) -> Self::Masks;
    /// What a step multiplies by the input's lane: integers times `SCALE / FACTORS[step]`, but for [`Lanes::BytePairs`].
    ///
    /// # Safety
    /// `at` is the start of a block's integers of a group; `step` is below `STEPS`. It should be a constant.
    unsafe fn step(at: *const u8, step: usize, masks: Self::Masks) -> V;
    /// The integers of as many columns as a step has, the block's first ones for step 0 and so on.
    ///
    /// # Safety
    /// The same.
    #[inline(always)]
    unsafe fn integers(at: *const u8, step: usize, masks: Self::Masks) -> V {
        // SAFETY: the caller's.
        let integers = unsafe { Self::step(at, step, masks) };
        down(integers, (Self::SCALE / Self::FACTORS[step] as i32).ilog2() as isize)
    }
    /// # Safety
    /// `at` is the start of a row's lanes of a block, where they lie together. `step` should be a constant.
    unsafe fn input(at: *const u8, step: usize) -> Self::Input;
    /// `sum` and the products of a step with the input, in each lane.
    fn add(sum: V, step: V, input: Self::Input) -> V;
    /// Packs the 32 integers of row `row` of a group into `block`, which starts with the group's first word.
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]);
}

/// Bits moved down, or up where `by` is negative; at most 4 up and 8 down. It should be a constant. What crosses from
/// number to number in 16 bits must be masked.
#[inline(always)]
fn down(word: V, by: isize) -> V {
    match by {
        -4 => shl_i16::<4>(word),
        -3 => shl_i16::<3>(word),
        -2 => shl_i16::<2>(word),
        -1 => shl_i16::<1>(word),
        0 => word,
        1 => shr_u16::<1>(word),
        2 => shr_u16::<2>(word),
        3 => shr_u16::<3>(word),
        4 => shr_u16::<4>(word),
        5 => shr_u16::<5>(word),
        6 => shr_u16::<6>(word),
        7 => shr_u16::<7>(word),
        _ => shr_u16::<8>(word),
    }
}

/// Puts a row's lanes into a group's words of a block.
#[inline(always)]
fn put<const WORDS: usize>(lanes: [u32; WORDS], row: usize, block: &mut [u8]) {
    for (lane, word) in lanes.into_iter().zip(block.as_chunks_mut::<WORD>().0.iter_mut().step_by(GROUPS)) {
        word.as_chunks_mut::<4>().0[row] = lane.to_le_bytes();
    }
}

/// # Safety
/// There are more than `index` words of the group at `at`.
#[inline(always)]
unsafe fn word(at: *const u8, index: usize) -> V {
    // SAFETY: the caller's.
    unsafe { load(at.add(WORD * GROUPS * index)) }
}
