//! Two columns at a time, 16 bits each: columns 2p and 2p + 1 are pair p. [`simd::dot_i16`] with the same pair of the
//! input, repeated four times, gives the sum of two products for each row.
//!
//! Most integers are taken out by a mask alone and stay where they are in their lane, which makes them 2ⁿ times as
//! large. The input makes up for it: its pair p is multiplied by [`Quants::FACTORS`]`[p]` beforehand, so that all
//! products of a block are [`Quants::SCALE`] times as large.

use super::super::simd::{self, V, add_i32, and, dot_i16, load, opaque, or, shl_i16, shr_u16, splat};
use super::{Lanes, MOST_STEPS, Quants};

/// Pairs in a block of 32 columns.
pub const PAIRS: usize = MOST_STEPS;

/// What all types have in common.
macro_rules! pairs {
    () => {
        const STEPS: usize = PAIRS;
        const LANES: Lanes = Lanes::Pairs;
        type Input = V;

        #[inline(always)]
        unsafe fn input(at: *const u8, pair: usize) -> V {
            unsafe { splat(at.add(4 * pair)) }
        }
        #[inline(always)]
        fn add(sum: V, step: V, input: V) -> V {
            add_i32(sum, dot_i16(step, input))
        }
    };
}

/// # Safety
/// There are more than `index` words at `at`.
#[inline(always)]
unsafe fn word(at: *const u8, index: usize) -> V {
    unsafe { load(at.add(16 * index)) }
}

/// Sets bits of the 16-bit lane of `word` that belongs to `row` and to even (0) or odd (1) columns.
fn set(block: &mut [u8], word: usize, row: usize, odd: usize, bits: u16) {
    let at = 16 * word + 4 * row + 2 * odd;
    let lane = u16::from_le_bytes([block[at], block[at + 1]]) | bits;
    block[at..at + 2].copy_from_slice(&lane.to_le_bytes());
}

/// 8 bits, signed: as they are.
pub struct Bits8;

impl Quants for Bits8 {
    pairs!();
    const BITS: usize = 8;
    const GROUPS: usize = 4;
    type Masks = ();

    fn masks() {}
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, _: ()) -> V {
        unsafe { simd::load_i8(at.add(8 * pair).cast()) }
    }
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        for (pair, columns) in values.as_chunks::<2>().0.iter().enumerate() {
            block[8 * pair + 2 * row..][..2].copy_from_slice(columns);
        }
    }
}

/// 4 bits: a word is four pairs.
pub struct Bits4;

impl Quants for Bits4 {
    pairs!();
    const BITS: usize = 4;
    const FACTORS: [i16; PAIRS] = [256, 16, 1, 256, 256, 16, 1, 256, 256, 16, 1, 256, 256, 16, 1, 256];
    const SCALE: i32 = 256;
    const GROUPS: usize = 4;
    type Masks = [V; 3];

    fn masks() -> [V; 3] {
        [opaque(0x000f_000f), opaque(0x00f0_00f0), opaque(0x0f00_0f00)]
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, masks: [V; 3]) -> V {
        let word = unsafe { word(at, pair / 4) };
        match pair % 4 {
            3 => shr_u16::<12>(word),
            place => and(word, masks[place]),
        }
    }
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        for (column, &value) in values.iter().enumerate() {
            let pair = column / 2;
            set(block, pair / 4, row, column % 2, u16::from(value) << (4 * (pair % 4)));
        }
    }
}

/// 5 bits: each of five words is three pairs, and the bits left over are the sixteenth.
pub struct Bits5;

impl Quants for Bits5 {
    pairs!();
    const BITS: usize = 5;
    const FACTORS: [i16; PAIRS] = [32, 1, 64, 32, 1, 64, 32, 1, 64, 32, 1, 64, 32, 1, 64, 64];
    const SCALE: i32 = 64;
    const GROUPS: usize = 2;
    type Masks = [V; 3];

    fn masks() -> [V; 3] {
        [opaque(0x003e_003e), opaque(0x07c0_07c0), opaque(0x0001_0001)]
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, [low, middle, left]: [V; 3]) -> V {
        if pair == 15 {
            let bits = [0, 1, 2, 3, 4].map(|index| and(unsafe { word(at, index) }, left));
            let high = or(or(shl_i16::<2>(bits[2]), shl_i16::<3>(bits[3])), shl_i16::<4>(bits[4]));
            return or(or(bits[0], shl_i16::<1>(bits[1])), high);
        }
        let word = unsafe { word(at, pair / 3) };
        match pair % 3 {
            0 => and(word, low),
            1 => and(word, middle),
            _ => shr_u16::<11>(word),
        }
    }
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        for (column, &value) in values.iter().enumerate() {
            let (pair, odd, value) = (column / 2, column % 2, u16::from(value));
            if pair == 15 {
                (0..5).for_each(|word| set(block, word, row, odd, value >> word & 1));
            } else {
                set(block, pair / 3, row, odd, value << (5 * (pair % 3) + 1));
            }
        }
    }
}

/// 6 bits: each of three words is two pairs, and the four bits left over of each make another two.
pub struct Bits6;

impl Quants for Bits6 {
    pairs!();
    const BITS: usize = 6;
    const FACTORS: [i16; PAIRS] = [1, 16, 1, 16, 1, 16, 16, 16, 1, 16, 1, 16, 1, 16, 16, 16];
    const SCALE: i32 = 16;
    const GROUPS: usize = 2;
    type Masks = [V; 4];

    fn masks() -> [V; 4] {
        [opaque(0x03f0_03f0), opaque(0x000f_000f), opaque(0x0003_0003), opaque(0x000c_000c)]
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, [middle, left, first, second]: [V; 4]) -> V {
        let word = |index: usize| unsafe { word(at, 3 * (pair / 8) + index) };
        match pair % 8 {
            6 => or(and(word(0), left), shl_i16::<4>(and(word(2), first))),
            7 => or(and(word(1), left), shl_i16::<2>(and(word(2), second))),
            place if place % 2 == 0 => and(word(place / 2), middle),
            place => shr_u16::<10>(word(place / 2)),
        }
    }
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        for (column, &value) in values.iter().enumerate() {
            let (pair, odd, value) = (column / 2, column % 2, u16::from(value));
            let first = 3 * (pair / 8);
            match pair % 8 {
                place @ (6 | 7) => {
                    set(block, first + place - 6, row, odd, value & 15);
                    set(block, first + 2, row, odd, value >> 4 << (2 * (place - 6)));
                }
                place => set(block, first + place / 2, row, odd, value << (4 + 6 * (place % 2))),
            }
        }
    }
}

/// 3 bits: each of three words is five pairs, and the bits left over are the sixteenth.
pub struct Bits3;

impl Quants for Bits3 {
    pairs!();
    const BITS: usize = 3;
    const FACTORS: [i16; PAIRS] = [64, 8, 1, 128, 128, 64, 8, 1, 128, 128, 64, 8, 1, 128, 128, 128];
    const SCALE: i32 = 128;
    const GROUPS: usize = 2;
    type Masks = [V; 5];

    fn masks() -> [V; 5] {
        [0x000e_000e, 0x0070_0070, 0x0380_0380, 0x0007_0007, 0x0001_0001].map(opaque)
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, masks: [V; 5]) -> V {
        if pair == 15 {
            let bits = [0, 1, 2].map(|index| and(unsafe { word(at, index) }, masks[4]));
            return or(or(bits[0], shl_i16::<1>(bits[1])), shl_i16::<2>(bits[2]));
        }
        let word = unsafe { word(at, pair / 5) };
        match pair % 5 {
            3 => and(shr_u16::<10>(word), masks[3]),
            4 => shr_u16::<13>(word),
            place => and(word, masks[place]),
        }
    }
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        for (column, &value) in values.iter().enumerate() {
            let (pair, odd, value) = (column / 2, column % 2, u16::from(value));
            if pair == 15 {
                (0..3).for_each(|word| set(block, word, row, odd, value >> word & 1));
            } else {
                set(block, pair / 5, row, odd, value << (3 * (pair % 5) + 1));
            }
        }
    }
}

/// 2 bits: a word is eight pairs.
pub struct Bits2;

impl Quants for Bits2 {
    pairs!();
    const BITS: usize = 2;
    const FACTORS: [i16; PAIRS] = [256, 64, 16, 4, 1, 256, 64, 256, 256, 64, 16, 4, 1, 256, 64, 256];
    const SCALE: i32 = 256;
    const GROUPS: usize = 2;
    type Masks = [V; 5];

    fn masks() -> [V; 5] {
        [0x0003_0003, 0x000c_000c, 0x0030_0030, 0x00c0_00c0, 0x0300_0300].map(opaque)
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, masks: [V; 5]) -> V {
        let word = unsafe { word(at, pair / 8) };
        match pair % 8 {
            5 => and(shr_u16::<10>(word), masks[0]),
            6 => and(shr_u16::<10>(word), masks[1]),
            7 => shr_u16::<14>(word),
            place => and(word, masks[place]),
        }
    }
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        for (column, &value) in values.iter().enumerate() {
            let pair = column / 2;
            set(block, pair / 8, row, column % 2, u16::from(value) << (2 * (pair % 8)));
        }
    }
}
