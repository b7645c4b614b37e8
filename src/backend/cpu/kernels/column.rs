//! Matrix times one column, which is what a new token costs.

use super::input::Input;
use super::layout::{Halves, Layout, Strip};
use super::quants::{GROUPS, Lanes, Quants, WORD};
use super::simd::{
    V, add_i32, and, dot_i16, load, mul_add_f32, mul_f32, mul_i32, opaque, shl_i32, shr_i32, shr_u16, splat,
    sub_f32, to_f32, zero,
};
use super::unroll;
use std::array::from_fn;
use std::hint::black_box;

/// The products of a strip with the input.
///
/// # Safety
/// The strip has as many columns as the input.
#[inline(always)]
pub unsafe fn multiply<L: Layout>(strip: Strip, input: &Input) -> [V; GROUPS] {
    // SAFETY: passed on.
    unsafe { if L::BLOCK == 32 { plain::<L>(strip, input) } else { with_sub_blocks::<L>(strip, input) } }
}

/// What is multiplied in a block of 32 columns: its integers, and the input's lanes.
struct Products<L: Layout> {
    integers: *const u8,
    lanes: *const u8,
    masks: <L::Quants as Quants>::Masks,
    /// [`Quants::TURNS`], which the compiler must not know: see [`Products::turns`].
    turns: usize,
}

/// `sums` and the products of the steps from `first` on.
macro_rules! steps {
    ($sums:ident, $block:expr, $first:expr, [$($step:literal)*]) => {{
        unroll!(STEP in [$($step)*] {
            let input = L::Quants::input($block.lanes, $first + STEP);
            for (group, sum) in $sums.iter_mut().enumerate() {
                let at = $block.integers.add(WORD * group);
                *sum = L::Quants::add(*sum, L::Quants::step(at, $first + STEP, $block.masks), input);
            }
        });
    }};
}

/// # Safety
/// All of these: the pointers are to a block.
impl<L: Layout> Products<L> {
    const TURNS: usize = L::Quants::TURNS;
    const PERIOD: usize = L::Quants::STEPS / Self::TURNS;

    /// `sums` and all products of the block with the input.
    #[inline(always)]
    unsafe fn all(&self, sums: [V; GROUPS]) -> [V; GROUPS] {
        // SAFETY: the caller's.
        unsafe {
            if Self::TURNS == 1 {
                return self.unrolled::<1>(self.unrolled::<0>(sums));
            }
            let mut sums = self.turns(sums, 0, self.turns);
            if Self::PERIOD * Self::TURNS < L::Quants::STEPS {
                steps!(sums, self, L::Quants::STEPS - 1, [0]);
            }
            sums
        }
    }

    /// `sums` and the products of the first or second half.
    #[inline(always)]
    unsafe fn half<const HALF: usize>(&self, sums: [V; GROUPS]) -> [V; GROUPS] {
        // SAFETY: the caller's.
        unsafe {
            match Self::TURNS {
                1 => self.unrolled::<HALF>(sums),
                turns => self.turns(sums, HALF * turns / 2, self.turns / 2),
            }
        }
    }

    /// Some turns from `first` on. Of a loop that it can unroll the compiler would make one expression for each group, and
    /// keep all of the input for the next ones, in more registers than there are.
    #[inline(always)]
    unsafe fn turns(&self, mut sums: [V; GROUPS], first: usize, count: usize) -> [V; GROUPS] {
        let mut turn = Products { ..*self };
        // SAFETY: the caller's.
        unsafe {
            turn.skip(first);
            for _ in 0..count {
                match Self::PERIOD {
                    3 => steps!(sums, turn, 0, [0 1 2]),
                    4 => steps!(sums, turn, 0, [0 1 2 3]),
                    8 => steps!(sums, turn, 0, [0 1 2 3 4 5 6 7]),
                    _ => unreachable!("no type has such turns"),
                }
                turn.skip(1);
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn skip(&mut self, turns: usize) {
        // SAFETY: the caller's; after the last turn it is the end.
        unsafe {
            self.integers = self.integers.add(turns * (L::Quants::BYTES / Self::TURNS));
            self.lanes = self.lanes.add(turns * 4 * Self::PERIOD);
        }
    }

    /// A half whose steps are all different.
    #[inline(always)]
    unsafe fn unrolled<const HALF: usize>(&self, mut sums: [V; GROUPS]) -> [V; GROUPS] {
        // SAFETY: the caller's.
        unsafe {
            if let Lanes::Pairs | Lanes::BytePairs = L::Quants::LANES {
                steps!(sums, self, 8 * HALF, [0 1 2 3 4 5 6 7]);
                return sums;
            }
            for (group, sum) in sums.iter_mut().enumerate() {
                let at = self.integers.add(WORD * group);
                unroll!(STEP in [0 1 2 3] {
                    let step = 4 * HALF + STEP;
                    let input = L::Quants::input(self.lanes, step);
                    *sum = L::Quants::add(*sum, L::Quants::step(at, step, self.masks), input);
                });
                pin(*sum);
            }
        }
        sums
    }
}

/// Has what comes before computed before what comes after. The compiler for WebAssembly makes one expression of a sum,
/// which begins with all that is multiplied: more than registers hold.
#[inline(always)]
fn pin(sum: V) {
    let mut room = zero();
    // SAFETY: the room is a vector's.
    unsafe { std::ptr::from_mut(&mut room).write_volatile(sum) };
}

#[inline(always)]
unsafe fn plain<L: Layout>(strip: Strip, input: &Input) -> [V; GROUPS] {
    let (masks, halves, turns) = (L::Quants::masks(strip.table), Halves::new(), black_box(L::Quants::TURNS));
    let mut totals = [zero(); GROUPS];
    for block in 0..input.blocks {
        // SAFETY: the block is there, and the input has as many.
        unsafe {
            let lanes = input.lanes.as_ptr().add(L::Quants::LANES.count() * block).cast();
            let integers = strip.integers.add(L::integers_at(0, block));
            let products = Products::<L> { integers, lanes, masks, turns };
            let sums = products.all([splat(input.starts.as_ptr().add(block).cast()); GROUPS]);
            let scale = splat(input.scales.as_ptr().add(block).cast());
            let block_sum = splat(input.block_sums.as_ptr().add(block).cast());
            let scales = strip.scales.add(block * L::SCALES_STEP);
            for (group, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                let worth = halves.four(scales.add(L::scales_at(group, 0)));
                *total = mul_add_f32(mul_f32(to_f32(sum), scale), worth, *total);
                if L::MINIMA {
                    let minimum = halves.four(scales.add(L::scales_at(group, L::MINIMA_AT)));
                    *total = mul_add_f32(minimum, block_sum, *total);
                }
            }
        }
    }
    totals
}

#[inline(always)]
unsafe fn with_sub_blocks<L: Layout>(strip: Strip, input: &Input) -> [V; GROUPS] {
    const { assert!(L::SUB_BLOCK == 32 || L::Quants::TURNS == 1 || L::Quants::TURNS.is_multiple_of(2)) };
    let (masks, halves, low_bytes) = (L::Quants::masks(strip.table), Halves::new(), opaque(0x00ff_00ff));
    let (turns, words) = (black_box(L::Quants::TURNS), black_box(L::SUB_SCALES));
    // Blocks whose sub-blocks' scales are one word.
    let together = black_box(L::SUB_BLOCK / 8);
    let mut totals = [zero(); GROUPS];
    let mut block = 0;
    for super_block in 0..input.blocks / 8 {
        // SAFETY: the super-block is there, and the input has as many.
        unsafe {
            let scales = strip.scales.add(super_block * L::SCALES_STEP);
            let scales_of = |group, word| load(scales.add(L::scales_at(group, word)));
            let mut weighted = [zero(); GROUPS];
            for word in 0..words {
                let mut scales: [_; GROUPS] = from_fn(|group| scales_of(group, 1 + word));
                for _ in 0..together {
                    let lanes = input.lanes.as_ptr().add(L::Quants::LANES.count() * block).cast();
                    let integers = strip.integers.add(L::integers_at(0, block));
                    let products = Products::<L> { integers, lanes, masks, turns };
                    let starts = input.starts.as_ptr().add(block).cast::<u8>();
                    let first = [splat(starts); GROUPS];
                    if L::SUB_BLOCK == 16 {
                        weigh::<L>(&mut weighted, products.half::<0>(first), &mut scales);
                        let second = [splat(starts.add(4)); GROUPS];
                        weigh::<L>(&mut weighted, products.half::<1>(second), &mut scales);
                    } else {
                        weigh::<L>(&mut weighted, products.all(first), &mut scales);
                    }
                    block += 1;
                }
            }
            let scale = splat(input.scales.as_ptr().add(8 * super_block).cast());
            for (group, (total, weighted)) in totals.iter_mut().zip(weighted).enumerate() {
                let scales = scales_of(group, 0);
                let own = if L::MINIMA { halves.low(scales) } else { scales };
                let mut worth = mul_f32(to_f32(weighted), own);
                if L::MINIMA {
                    let pairs = input.sums.as_ptr().add(super_block * 128 / L::SUB_BLOCK).cast::<u8>();
                    let mut minima = zero();
                    for word in 0..64 / L::SUB_BLOCK {
                        let bytes = scales_of(group, L::MINIMA_AT + word);
                        let pair = pairs.add(8 * word);
                        minima = add_i32(minima, dot_i16(and(bytes, low_bytes), splat(pair)));
                        minima = add_i32(minima, dot_i16(shr_u16::<8>(bytes), splat(pair.add(4))));
                    }
                    worth = sub_f32(worth, mul_f32(to_f32(minima), halves.high(scales)));
                }
                *total = mul_add_f32(worth, scale, *total);
            }
        }
    }
    totals
}

/// Adds the sums of a sub-block times its scales, which are the top bytes of `scales`; the next ones follow.
#[inline(always)]
fn weigh<L: Layout>(weighted: &mut [V; GROUPS], sums: [V; GROUPS], scales: &mut [V; GROUPS]) {
    for ((weighted, sum), scales) in weighted.iter_mut().zip(sums).zip(scales) {
        let sum = match L::Quants::SCALE {
            256 => shr_i32::<8>(sum),
            128 => shr_i32::<7>(sum),
            64 => shr_i32::<6>(sum),
            16 => shr_i32::<4>(sum),
            _ => sum,
        };
        *weighted = add_i32(*weighted, mul_i32(sum, shr_i32::<24>(*scales)));
        *scales = shl_i32::<8>(*scales);
    }
}
