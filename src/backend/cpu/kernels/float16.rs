//! Products of matrices of 16-bit floats. The input is not rounded.
//!
//! Groups of four rows; a 128-bit word has two columns of them, a row's in one 32-bit lane.

use super::layout::Halves;
use super::simd::{V, and, load, mul_add_f32, opaque, shl_i32, splat, zero};

/// A 16-bit float.
pub trait Format {
    /// What unpacking needs in registers.
    type Unpack: Copy;
    fn unpack() -> Self::Unpack;
    /// The even and the odd column of a word.
    fn columns(word: V, unpack: Self::Unpack) -> [V; 2];
}

/// IEEE 754 binary16.
pub struct Binary16;
impl Format for Binary16 {
    type Unpack = Halves;
    fn unpack() -> Halves {
        Halves::new()
    }
    #[inline(always)]
    fn columns(word: V, halves: Halves) -> [V; 2] {
        [halves.low(word), halves.high(word)]
    }
}

/// The upper half of a binary32.
pub struct Brain16;
impl Format for Brain16 {
    type Unpack = V;
    fn unpack() -> V {
        opaque(0xffff_0000)
    }
    #[inline(always)]
    fn columns(word: V, high: V) -> [V; 2] {
        [shl_i32::<16>(word), and(word, high)]
    }
}

/// The products of `GROUPS` groups of `words` words each with `ROWS` rows of the input.
///
/// # Safety
/// The pointers are to so many words, and to two numbers for each.
#[inline(always)]
pub unsafe fn multiply<F: Format, const ROWS: usize, const GROUPS: usize>(
    groups: [*const u8; GROUPS],
    words: usize,
    input: [*const f32; ROWS],
) -> [[V; GROUPS]; ROWS] {
    let unpack = F::unpack();
    let mut sums = [[zero(); GROUPS]; ROWS];
    for word in 0..words {
        // SAFETY: the caller's.
        unsafe {
            let weights = groups.map(|group| F::columns(load(group.add(16 * word)), unpack));
            for (sums, row) in sums.iter_mut().zip(input) {
                let (even, odd) = (splat(row.add(2 * word).cast()), splat(row.add(2 * word + 1).cast()));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = mul_add_f32(weights[1], odd, mul_add_f32(weights[0], even, *sum));
                }
            }
        }
    }
    sums
}
