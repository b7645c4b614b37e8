//! Four columns at a time, 8 bits each, for the dot product of relaxed SIMD.
//!
//! It takes signed numbers of 8 bits and numbers of 7 bits that are not negative, and gives the same on every
//! processor for these: the sum of two products fits 16 bits, whether it is kept in as many or in more. Integers of
//! up to 6 bits are such numbers. Those of 8 bits go to the other side: the input is split into magnitudes, which have
//! 7 bits, and signs, which go to the weights. −w is the complement of w plus 1, so what the complement lacks is the
//! magnitude: their sum is known beforehand and starts the sum of products.

use super::super::simd::{V, and, dot_i8, lane_at, load, opaque, or, shr_u16, swizzle, xor};
use super::{Form, GROUPS, Lanes, Quants, WORD, down, put};
use crate::backend::encoding::Table;

/// Four columns at a time.
pub struct Quads;

impl Form for Quads {
    type Bits1 = Bits1;
    type Bits2 = Bits2;
    type Bits3 = Bits3;
    type Bits4 = Bits4;
    type Bits5 = Bits5;
    type Bits6 = Bits6;
    type Bits8 = Bits8;
    type Places = Places;
}

/// Integers of `LOW + HIGH` bits: `LOW` words of low bits and `HIGH` words of high bits, in the order in which quads need
/// them. A word has the bits of so many quads as fit a byte, the first in the lowest bits.
pub struct Bits<const LOW: usize, const HIGH: usize>;

pub type Bits2 = Bits<2, 0>;
pub type Bits3 = Bits<2, 1>;
pub type Bits4 = Bits<4, 0>;
pub type Bits5 = Bits<4, 1>;
pub type Bits6 = Bits<4, 2>;

/// The word, and the bit in each of its bytes, where quad `quad` has its `bits` bits.
const fn place(quad: usize, bits: usize) -> (usize, usize) {
    let together = 8 / bits;
    (quad / together, quad % together * bits)
}

impl<const LOW: usize, const HIGH: usize> Bits<LOW, HIGH> {
    /// The place among all words of low word `word`: high words are before it whose first quad is not after its own.
    const fn low(word: usize) -> usize {
        let mut high = 0;
        while high < HIGH && high * (8 / HIGH) <= word * (8 / LOW) {
            high += 1;
        }
        word + high
    }

    /// That of high word `word`.
    const fn high(word: usize) -> usize {
        let mut low = 0;
        while HIGH > 0 && low < LOW && low * (8 / LOW) < word * (8 / HIGH) {
            low += 1;
        }
        word + low
    }
}

impl<const LOW: usize, const HIGH: usize> Quants for Bits<LOW, HIGH> {
    const BITS: usize = LOW + HIGH;
    const STEPS: usize = 8;
    const TURNS: usize = if HIGH == 1 { 1 } else { 2 };
    const LANES: Lanes = Lanes::Quads;
    type Masks = [V; 2];
    type Input = V;

    fn masks(_: &Table) -> [V; 2] {
        let low = (1 << LOW) - 1;
        [low, (1 << (LOW + HIGH)) - 1 - low].map(|mask: u32| opaque(mask * 0x0101_0101))
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, step: usize, [low, high]: [V; 2]) -> V {
        let (word, bit) = place(step, LOW);
        // SAFETY: the word is one of the block.
        let value = and(down(unsafe { super::word(at, Self::low(word)) }, bit as isize), low);
        if HIGH == 0 {
            return value;
        }
        let (word, bit) = place(step, HIGH);
        // SAFETY: the word is one of the block.
        let word = unsafe { super::word(at, Self::high(word)) };
        or(value, and(down(word, bit as isize - LOW as isize), high))
    }
    #[inline(always)]
    unsafe fn input(at: *const u8, step: usize) -> V {
        // SAFETY: the caller's.
        unsafe { lane_at(at, step) }
    }
    #[inline(always)]
    fn add(sum: V, step: V, input: V) -> V {
        dot_i8(input, step, sum)
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let mut lanes = [0; 8];
        let low = 0x0101_0101 * ((1 << LOW) - 1);
        for (quad, columns) in values.as_chunks::<4>().0.iter().enumerate() {
            let columns = u32::from_le_bytes(*columns);
            let (word, bit) = place(quad, LOW);
            lanes[Self::low(word)] |= (columns & low) << bit;
            if HIGH > 0 {
                let (word, bit) = place(quad, HIGH);
                lanes[Self::high(word)] |= (columns & !low) >> LOW << bit;
            }
        }
        let words = block.as_chunks_mut::<WORD>().0.iter_mut().step_by(GROUPS);
        for (lane, word) in lanes.into_iter().zip(words).take(Self::BITS) {
            word.as_chunks_mut::<4>().0[row] = lane.to_le_bytes();
        }
    }
}

/// 1 bit, which is 0 or 2: a word is all eight quads.
pub struct Bits1;

impl Quants for Bits1 {
    const BITS: usize = 1;
    const STEPS: usize = 8;
    const LANES: Lanes = Lanes::Quads;
    type Masks = V;
    type Input = V;

    fn masks(_: &Table) -> V {
        opaque(0x0202_0202)
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, step: usize, mask: V) -> V {
        // SAFETY: the caller's.
        and(down(unsafe { super::word(at, 0) }, step as isize - 1), mask)
    }
    #[inline(always)]
    unsafe fn input(at: *const u8, step: usize) -> V {
        // SAFETY: the caller's.
        unsafe { lane_at(at, step) }
    }
    #[inline(always)]
    fn add(sum: V, step: V, input: V) -> V {
        dot_i8(input, step, sum)
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let quads = values.as_chunks::<4>().0.iter().enumerate();
        let lane = quads.fold(0, |lane, (index, quad)| lane | (u32::from_le_bytes(*quad) >> 1) << index);
        put([lane], row, block);
    }
}

/// What integers of 8 bits with signs have in common.
macro_rules! signed_quads {
    () => {
        const STEPS: usize = 8;
        const TURNS: usize = 2;
        const LANES: Lanes = Lanes::SignedQuads;
        type Input = [V; 2];

        #[inline(always)]
        unsafe fn input(at: *const u8, step: usize) -> [V; 2] {
            // SAFETY: the caller's.
            unsafe { [lane_at(at, step), lane_at(at.add(4 * Self::STEPS), step)] }
        }
        #[inline(always)]
        fn add(sum: V, step: V, [magnitudes, signs]: [V; 2]) -> V {
            dot_i8(xor(step, signs), magnitudes, sum)
        }
    };
}

/// Four bits that are places in a table: a word is two quads.
pub struct Places;

impl Quants for Places {
    signed_quads!();
    const BITS: usize = 4;
    const BY_TABLE: bool = true;
    /// The table, and a mask.
    type Masks = [V; 2];

    fn masks(table: &Table) -> [V; 2] {
        // SAFETY: the table has 16 bytes.
        [unsafe { load(table.as_ptr().cast()) }, opaque(0x0f0f_0f0f)]
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, step: usize, [table, low]: [V; 2]) -> V {
        // SAFETY: the caller's.
        let word = unsafe { super::word(at, step / 2) };
        let places = if step.is_multiple_of(2) { word } else { shr_u16::<4>(word) };
        swizzle(table, and(places, low))
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let quads = values.as_chunks::<4>().0;
        let lane = |quad: usize| u32::from_le_bytes(quads[quad]);
        put([0, 2, 4, 6].map(|quad| lane(quad) | lane(quad + 1) << 4), row, block);
    }
}

/// 8 bits, signed: as they are.
pub struct Bits8;

impl Quants for Bits8 {
    signed_quads!();
    const BITS: usize = 8;
    type Masks = ();

    fn masks(_: &Table) {}
    #[inline(always)]
    unsafe fn step(at: *const u8, step: usize, _: ()) -> V {
        // SAFETY: the caller's.
        unsafe { super::word(at, step) }
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let quads = values.as_chunks::<4>().0;
        put::<8>(std::array::from_fn(|quad| u32::from_le_bytes(quads[quad])), row, block);
    }
}
