//! How small integers are packed, so that one operation gives a vector of them.
//!
//! Weights lie in groups of four rows. The integers of four rows and 32 columns are some 128-bit words; a row has one
//! 32-bit lane of each, that is two 16-bit lanes, for even and odd columns. A *pair* is columns 2p and 2p + 1: taken
//! out of a word it is 8 lanes of 16 bits, and [`simd::dot_i16`] with the same pair of the input, repeated four
//! times, adds two products to each row's sum.
//!
//! Most integers are taken out by a mask alone and stay where they are in their lane, which makes them 2ⁿ times as
//! large. The input makes up for it: its pair p is multiplied by [`Quants::FACTORS`]`[p]` beforehand, so that all
//! products of a block are [`Quants::SCALE`] times as large.

use super::simd::{self, V, and, opaque, or, shl_i16, shr_u16};

/// Pairs in a block of 32 columns.
pub const PAIRS: usize = 16;

/// Unsigned integers of some bits (signed where they have 8), packed.
pub trait Quants {
    /// Of four rows and 32 columns.
    const BYTES: usize;
    /// Pairs that are unpacked together.
    const UNIT: usize;
    /// The input's factor for each pair.
    const FACTORS: [i16; PAIRS];
    /// Integer times factor.
    const SCALE: i32;
    /// Rows that a kernel for one column takes at once, in groups of four: as many as registers allow.
    const GROUPS: usize;
    /// Masks, kept in registers.
    type Masks: Copy;
    /// The words of a unit.
    type Words: Copy;

    /// Ready to use.
    fn masks() -> Self::Masks;
    /// # Safety
    /// `at` is the start of a block's integers of four rows; `UNIT · unit < PAIRS`.
    unsafe fn words(at: *const u8, unit: usize) -> Self::Words;
    /// Pair `PAIR` of a block, times `SCALE / FACTORS[PAIR]`. `words` are its unit's.
    fn pair<const PAIR: usize>(words: Self::Words, masks: Self::Masks) -> V;
    /// Packs the 32 integers of row `row` of four into `block`, which is zero there.
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]);
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
    const BYTES: usize = 128;
    const UNIT: usize = 1;
    const FACTORS: [i16; PAIRS] = [1; PAIRS];
    const SCALE: i32 = 1;
    const GROUPS: usize = 4;
    type Masks = ();
    type Words = V;

    fn masks() {}
    #[inline(always)]
    unsafe fn words(at: *const u8, unit: usize) -> V {
        unsafe { simd::load_i8(at.add(8 * unit).cast()) }
    }
    #[inline(always)]
    fn pair<const PAIR: usize>(word: V, _: ()) -> V {
        word
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
    const BYTES: usize = 64;
    const UNIT: usize = 4;
    const FACTORS: [i16; PAIRS] = [256, 16, 1, 256, 256, 16, 1, 256, 256, 16, 1, 256, 256, 16, 1, 256];
    const SCALE: i32 = 256;
    const GROUPS: usize = 4;
    type Masks = [V; 3];
    type Words = V;

    fn masks() -> [V; 3] {
        [opaque(0x000f_000f), opaque(0x00f0_00f0), opaque(0x0f00_0f00)]
    }
    #[inline(always)]
    unsafe fn words(at: *const u8, unit: usize) -> V {
        unsafe { simd::load(at.add(16 * unit)) }
    }
    #[inline(always)]
    fn pair<const PAIR: usize>(word: V, masks: [V; 3]) -> V {
        match PAIR % 4 {
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
    const BYTES: usize = 80;
    const UNIT: usize = 16;
    const FACTORS: [i16; PAIRS] = [32, 1, 64, 32, 1, 64, 32, 1, 64, 32, 1, 64, 32, 1, 64, 64];
    const SCALE: i32 = 64;
    const GROUPS: usize = 2;
    type Masks = [V; 3];
    type Words = [V; 5];

    fn masks() -> [V; 3] {
        [opaque(0x003e_003e), opaque(0x07c0_07c0), opaque(0x0001_0001)]
    }
    #[inline(always)]
    unsafe fn words(at: *const u8, _: usize) -> [V; 5] {
        unsafe { [0, 1, 2, 3, 4].map(|word| simd::load(at.add(16 * word))) }
    }
    #[inline(always)]
    fn pair<const PAIR: usize>(words: [V; 5], [low, middle, left]: [V; 3]) -> V {
        if PAIR == 15 {
            let bits = words.map(|word| and(word, left));
            let high = or(or(shl_i16::<2>(bits[2]), shl_i16::<3>(bits[3])), shl_i16::<4>(bits[4]));
            return or(or(bits[0], shl_i16::<1>(bits[1])), high);
        }
        let word = words[PAIR / 3];
        match PAIR % 3 {
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
    const BYTES: usize = 96;
    const UNIT: usize = 8;
    const FACTORS: [i16; PAIRS] = [1, 16, 1, 16, 1, 16, 16, 16, 1, 16, 1, 16, 1, 16, 16, 16];
    const SCALE: i32 = 16;
    const GROUPS: usize = 2;
    type Masks = [V; 4];
    type Words = [V; 3];

    fn masks() -> [V; 4] {
        [opaque(0x03f0_03f0), opaque(0x000f_000f), opaque(0x0003_0003), opaque(0x000c_000c)]
    }
    #[inline(always)]
    unsafe fn words(at: *const u8, unit: usize) -> [V; 3] {
        unsafe { [0, 1, 2].map(|word| simd::load(at.add(48 * unit + 16 * word))) }
    }
    #[inline(always)]
    fn pair<const PAIR: usize>(words: [V; 3], [middle, left, first, second]: [V; 4]) -> V {
        match PAIR % 8 {
            6 => or(and(words[0], left), shl_i16::<4>(and(words[2], first))),
            7 => or(and(words[1], left), shl_i16::<2>(and(words[2], second))),
            pair if pair % 2 == 0 => and(words[pair / 2], middle),
            pair => shr_u16::<10>(words[pair / 2]),
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
    const BYTES: usize = 48;
    const UNIT: usize = 16;
    const FACTORS: [i16; PAIRS] = [64, 8, 1, 128, 128, 64, 8, 1, 128, 128, 64, 8, 1, 128, 128, 128];
    const SCALE: i32 = 128;
    const GROUPS: usize = 2;
    type Masks = [V; 5];
    type Words = [V; 3];

    fn masks() -> [V; 5] {
        [0x000e_000e, 0x0070_0070, 0x0380_0380, 0x0007_0007, 0x0001_0001].map(opaque)
    }
    #[inline(always)]
    unsafe fn words(at: *const u8, _: usize) -> [V; 3] {
        unsafe { [0, 1, 2].map(|word| simd::load(at.add(16 * word))) }
    }
    #[inline(always)]
    fn pair<const PAIR: usize>(words: [V; 3], masks: [V; 5]) -> V {
        if PAIR == 15 {
            let bits = words.map(|word| and(word, masks[4]));
            return or(or(bits[0], shl_i16::<1>(bits[1])), shl_i16::<2>(bits[2]));
        }
        let word = words[PAIR / 5];
        match PAIR % 5 {
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
    const BYTES: usize = 32;
    const UNIT: usize = 8;
    const FACTORS: [i16; PAIRS] = [256, 64, 16, 4, 1, 256, 64, 256, 256, 64, 16, 4, 1, 256, 64, 256];
    const SCALE: i32 = 256;
    const GROUPS: usize = 2;
    type Masks = [V; 5];
    type Words = V;

    fn masks() -> [V; 5] {
        [0x0003_0003, 0x000c_000c, 0x0030_0030, 0x00c0_00c0, 0x0300_0300].map(opaque)
    }
    #[inline(always)]
    unsafe fn words(at: *const u8, unit: usize) -> V {
        unsafe { simd::load(at.add(16 * unit)) }
    }
    #[inline(always)]
    fn pair<const PAIR: usize>(word: V, masks: [V; 5]) -> V {
        match PAIR % 8 {
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
