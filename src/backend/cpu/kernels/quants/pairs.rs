//! Two columns at a time, 16 bits each: columns 2p and 2p + 1 are pair p. [`simd::dot_i16`] with the same pair of the
//! input, repeated four times, gives the sum of two products for each row.
//!
//! Most integers are taken out by a mask alone and stay where they are in their lane, which makes them 2ⁿ times as
//! large. The input makes up for it: its pair p is multiplied by [`Quants::FACTORS`]`[p]` beforehand, so that all
//! products of a block are [`Quants::SCALE`] times as large.

use super::super::simd::{V, add_i32, and, dot_i16, lane_at, opaque, or, shl_i16, shr_i16, shr_u16, sub_i16};
#[cfg(any(test, target_arch = "wasm32"))]
use super::super::simd::{load, swizzle, xor};
use super::{Form, Lanes, MOST_STEPS, Quants, down, put, word};
use crate::backend::encoding::Table;

/// Two columns at a time.
pub struct Pairs;

impl Form for Pairs {
    type Bits1 = Bits1;
    type Bits2 = Bits2;
    type Bits3 = Bits3;
    type Bits4 = Bits4;
    type Bits5 = Bits5;
    type Bits6 = Bits6;
    type Bits8 = Bits8;
    #[cfg(target_arch = "wasm32")]
    type Places = Places;
    /// SSE2 has no instruction that looks up bytes: what they stand for is packed.
    #[cfg(not(target_arch = "wasm32"))]
    type Places = Bits8;
}

/// Pairs in a block of 32 columns.
pub const PAIRS: usize = MOST_STEPS;

/// What all types have in common.
macro_rules! pairs {
    () => {
        pairs!(Lanes::Pairs);
    };
    ($lanes:expr) => {
        const STEPS: usize = PAIRS;
        const LANES: Lanes = $lanes;
        type Input = V;

        #[inline(always)]
        unsafe fn input(at: *const u8, pair: usize) -> V {
            // SAFETY: the caller's.
            unsafe { lane_at(at, pair) }
        }
        #[inline(always)]
        fn add(sum: V, step: V, input: V) -> V {
            add_i32(sum, dot_i16(step, input))
        }
    };
}

/// The pairs of a row as lanes: what shifts one, shifts both of its columns.
#[inline(always)]
fn lanes(values: &[u8; 32]) -> [u32; PAIRS] {
    let pairs = values.as_chunks::<2>().0;
    std::array::from_fn(|pair| u32::from(pairs[pair][0]) | u32::from(pairs[pair][1]) << 16)
}

/// Bit `index` of both columns.
#[inline(always)]
fn bit(pair: u32, index: usize) -> u32 {
    pair >> index & 0x0001_0001
}

/// 8 bits, signed. Taking them apart would cost as much as multiplying them, so a word of 16 bits is multiplied as it is,
/// 256·b + a, where a is 128 more than its integer; and then b alone, by what the first product has too much of it:
/// (256·b + a)·x + b·(y − 256·x) = a·x + b·y. So the columns of a and b are eight apart, which a vector of the input has.
pub struct Bits8;

impl Quants for Bits8 {
    pairs!(Lanes::BytePairs);
    const BITS: usize = 8;
    const TURNS: usize = 4;
    type Masks = V;

    fn masks(_: &Table) -> V {
        opaque(0x0080_0080)
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, step: usize, _: V) -> V {
        // SAFETY: the caller's.
        let word = unsafe { word(at, step / 2) };
        if step.is_multiple_of(2) { word } else { shr_i16::<8>(word) }
    }
    #[inline(always)]
    unsafe fn integers(at: *const u8, pair: usize, excess: V) -> V {
        // SAFETY: the caller's.
        let word = unsafe { word(at, pair / 8 * 4 + pair % 4) };
        match pair % 8 {
            0..4 => sub_i16(shr_u16::<8>(shl_i16::<8>(word)), excess),
            _ => shr_i16::<8>(word),
        }
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let lane = |word: usize| {
            let first = word / 4 * 16 + word % 4 * 2;
            let [a, b, c, d] = [0, 8, 1, 9].map(|more| values[first + more]);
            u32::from_le_bytes([a ^ 0x80, b, c ^ 0x80, d])
        };
        put([0, 1, 2, 3, 4, 5, 6, 7].map(lane), row, block);
    }
}

/// Four bits that are places in a table: each of four words is two of [`Bits8`], whose steps it has.
#[cfg(any(test, target_arch = "wasm32"))]
#[cfg_attr(not(target_arch = "wasm32"), allow(dead_code, reason = "tests try it everywhere"))]
pub struct Places;

#[cfg(any(test, target_arch = "wasm32"))]
#[derive(Clone, Copy)]
pub struct Lookup {
    table: V,
    low: V,
    /// What the lower byte of a word is more than its number.
    excess: V,
}

#[cfg(any(test, target_arch = "wasm32"))]
impl Lookup {
    /// The numbers of word `index` of [`Bits8`], as they are.
    #[inline(always)]
    unsafe fn numbers(self, at: *const u8, index: usize) -> V {
        // SAFETY: the caller's.
        let word = unsafe { word(at, index / 2) };
        let places = if index.is_multiple_of(2) { word } else { shr_u16::<4>(word) };
        swizzle(self.table, and(places, self.low))
    }
}

#[cfg(any(test, target_arch = "wasm32"))]
impl Quants for Places {
    pairs!(Lanes::BytePairs);
    const BITS: usize = 4;
    const TURNS: usize = 4;
    const BY_TABLE: bool = true;
    type Masks = Lookup;

    fn masks(table: &Table) -> Lookup {
        // SAFETY: the table has 16 bytes.
        let table = unsafe { load(table.as_ptr().cast()) };
        Lookup { table, low: opaque(0x0f0f_0f0f), excess: opaque(0x0080_0080) }
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, step: usize, lookup: Lookup) -> V {
        // SAFETY: the caller's.
        let word = unsafe { lookup.numbers(at, step / 2) };
        if step.is_multiple_of(2) { xor(word, lookup.excess) } else { shr_i16::<8>(word) }
    }
    #[inline(always)]
    unsafe fn integers(at: *const u8, pair: usize, lookup: Lookup) -> V {
        // SAFETY: the caller's.
        let word = unsafe { lookup.numbers(at, pair / 8 * 4 + pair % 4) };
        shr_i16::<8>(if pair % 8 < 4 { shl_i16::<8>(word) } else { word })
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let lane = |word: usize| {
            let first = word / 4 * 16 + word % 4 * 2;
            u32::from_le_bytes([0, 8, 1, 9].map(|more| values[first + more]))
        };
        put([0, 2, 4, 6].map(|word| lane(word) | lane(word + 1) << 4), row, block);
    }
}

/// 1 bit, which is 0 or 2: a word is all sixteen pairs.
pub struct Bits1;

impl Quants for Bits1 {
    pairs!();
    const BITS: usize = 1;
    const FACTORS: [i16; PAIRS] = [256, 128, 64, 32, 16, 8, 4, 2, 256, 128, 64, 32, 16, 8, 4, 2];
    const SCALE: i32 = 128;
    type Masks = [V; 8];

    fn masks(_: &Table) -> [V; 8] {
        [0, 1, 2, 3, 4, 5, 6, 7].map(|bit| opaque(0x0001_0001 << bit))
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, masks: [V; 8]) -> V {
        // SAFETY: the caller's.
        let word = unsafe { word(at, 0) };
        and(if pair < 8 { word } else { shr_u16::<8>(word) }, masks[pair % 8])
    }
    #[inline(always)]
    unsafe fn integers(at: *const u8, pair: usize, masks: [V; 8]) -> V {
        // SAFETY: the caller's.
        let word = unsafe { word(at, 0) };
        let word = if pair < 8 { word } else { shr_u16::<8>(word) };
        and(down(word, pair as isize % 8 - 1), masks[1])
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let pairs = lanes(values).into_iter().enumerate();
        put([pairs.fold(0, |lane, (index, pair)| lane | (pair >> 1) << index)], row, block);
    }
}

/// 4 bits: a word is four pairs.
pub struct Bits4;

impl Quants for Bits4 {
    pairs!();
    const BITS: usize = 4;
    const TURNS: usize = 4;
    const FACTORS: [i16; PAIRS] = [256, 16, 1, 256, 256, 16, 1, 256, 256, 16, 1, 256, 256, 16, 1, 256];
    const SCALE: i32 = 256;
    type Masks = [V; 3];

    fn masks(_: &Table) -> [V; 3] {
        [opaque(0x000f_000f), opaque(0x00f0_00f0), opaque(0x0f00_0f00)]
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, masks: [V; 3]) -> V {
        // SAFETY: the caller's.
        let word = unsafe { word(at, pair / 4) };
        match pair % 4 {
            3 => shr_u16::<12>(word),
            place => and(word, masks[place]),
        }
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let pairs = lanes(values);
        let lane = |[a, b, c, d]: [u32; 4]| a | b << 4 | c << 8 | d << 12;
        put([0, 1, 2, 3].map(|word| lane(pairs.as_chunks::<4>().0[word])), row, block);
    }
}

/// 5 bits: each of five words is three pairs, and the bits left over are the sixteenth.
pub struct Bits5;

impl Quants for Bits5 {
    pairs!();
    const BITS: usize = 5;
    const TURNS: usize = 5;
    const FACTORS: [i16; PAIRS] = [32, 1, 64, 32, 1, 64, 32, 1, 64, 32, 1, 64, 32, 1, 64, 64];
    const SCALE: i32 = 64;
    type Masks = [V; 3];

    fn masks(_: &Table) -> [V; 3] {
        [opaque(0x003e_003e), opaque(0x07c0_07c0), opaque(0x0001_0001)]
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, [low, middle, left]: [V; 3]) -> V {
        if pair == 15 {
            // SAFETY: the caller's.
            let bits = [0, 1, 2, 3, 4].map(|index| and(unsafe { word(at, index) }, left));
            let high = or(or(shl_i16::<2>(bits[2]), shl_i16::<3>(bits[3])), shl_i16::<4>(bits[4]));
            return or(or(bits[0], shl_i16::<1>(bits[1])), high);
        }
        // SAFETY: the caller's.
        let word = unsafe { word(at, pair / 3) };
        match pair % 3 {
            0 => and(word, low),
            1 => and(word, middle),
            _ => shr_u16::<11>(word),
        }
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let pairs = lanes(values);
        let word = |word: usize| {
            let [a, b, c] = pairs.as_chunks::<3>().0[word];
            bit(pairs[15], word) | a << 1 | b << 6 | c << 11
        };
        put([0, 1, 2, 3, 4].map(word), row, block);
    }
}

/// 6 bits: each of three words is two pairs, and the four bits left over of each make another two.
pub struct Bits6;

impl Quants for Bits6 {
    pairs!();
    const BITS: usize = 6;
    const TURNS: usize = 2;
    const FACTORS: [i16; PAIRS] = [1, 16, 1, 16, 1, 16, 16, 16, 1, 16, 1, 16, 1, 16, 16, 16];
    const SCALE: i32 = 16;
    type Masks = [V; 4];

    fn masks(_: &Table) -> [V; 4] {
        [opaque(0x03f0_03f0), opaque(0x000f_000f), opaque(0x0003_0003), opaque(0x000c_000c)]
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, [middle, left, first, second]: [V; 4]) -> V {
        // SAFETY: the caller's.
        let word = |index: usize| unsafe { word(at, 3 * (pair / 8) + index) };
        match pair % 8 {
            6 => or(and(word(0), left), shl_i16::<4>(and(word(2), first))),
            7 => or(and(word(1), left), shl_i16::<2>(and(word(2), second))),
            place if place % 2 == 0 => and(word(place / 2), middle),
            place => shr_u16::<10>(word(place / 2)),
        }
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let pairs = lanes(values);
        let half = |[a, b, c, d, e, f, g, h]: [u32; 8]| {
            let low = |pair: u32| pair & 0x000f_000f;
            let high = |pair: u32| pair >> 4 & 0x0003_0003;
            [low(g) | a << 4 | b << 10, low(h) | c << 4 | d << 10, high(g) | high(h) << 2 | e << 4 | f << 10]
        };
        let [[a, b, c], [d, e, f]] = [0, 1].map(|index| half(pairs.as_chunks::<8>().0[index]));
        put([a, b, c, d, e, f], row, block);
    }
}

/// 3 bits: each of three words is five pairs, and the bits left over are the sixteenth.
pub struct Bits3;

impl Quants for Bits3 {
    pairs!();
    const BITS: usize = 3;
    const FACTORS: [i16; PAIRS] = [64, 8, 1, 128, 128, 64, 8, 1, 128, 128, 64, 8, 1, 128, 128, 128];
    const SCALE: i32 = 128;
    type Masks = [V; 5];

    fn masks(_: &Table) -> [V; 5] {
        [0x000e_000e, 0x0070_0070, 0x0380_0380, 0x0007_0007, 0x0001_0001].map(opaque)
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, masks: [V; 5]) -> V {
        if pair == 15 {
            // SAFETY: the caller's.
            let bits = [0, 1, 2].map(|index| and(unsafe { word(at, index) }, masks[4]));
            return or(or(bits[0], shl_i16::<1>(bits[1])), shl_i16::<2>(bits[2]));
        }
        // SAFETY: the caller's.
        let word = unsafe { word(at, pair / 5) };
        match pair % 5 {
            3 => and(shr_u16::<10>(word), masks[3]),
            4 => shr_u16::<13>(word),
            place => and(word, masks[place]),
        }
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let pairs = lanes(values);
        let word = |word: usize| {
            let [a, b, c, d, e] = pairs.as_chunks::<5>().0[word];
            bit(pairs[15], word) | a << 1 | b << 4 | c << 7 | d << 10 | e << 13
        };
        put([0, 1, 2].map(word), row, block);
    }
}

/// 2 bits: a word is eight pairs.
pub struct Bits2;

impl Quants for Bits2 {
    pairs!();
    const BITS: usize = 2;
    const TURNS: usize = 2;
    const FACTORS: [i16; PAIRS] = [256, 64, 16, 4, 1, 256, 64, 256, 256, 64, 16, 4, 1, 256, 64, 256];
    const SCALE: i32 = 256;
    type Masks = [V; 5];

    fn masks(_: &Table) -> [V; 5] {
        [0x0003_0003, 0x000c_000c, 0x0030_0030, 0x00c0_00c0, 0x0300_0300].map(opaque)
    }
    #[inline(always)]
    unsafe fn step(at: *const u8, pair: usize, masks: [V; 5]) -> V {
        // SAFETY: the caller's.
        let word = unsafe { word(at, pair / 8) };
        match pair % 8 {
            5 => and(shr_u16::<10>(word), masks[0]),
            6 => and(shr_u16::<10>(word), masks[1]),
            7 => shr_u16::<14>(word),
            place => and(word, masks[place]),
        }
    }
    #[inline(always)]
    fn pack(values: &[u8; 32], row: usize, block: &mut [u8]) {
        let pairs = lanes(values);
        let lane = |[a, b, c, d, e, f, g, h]: [u32; 8]| {
            a | b << 2 | c << 4 | d << 6 | e << 8 | f << 10 | g << 12 | h << 14
        };
        put([0, 1].map(|word| lane(pairs.as_chunks::<8>().0[word])), row, block);
    }
}
