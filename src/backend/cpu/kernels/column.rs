//! Matrix times one column, which is what a new token costs.

use super::input::Input;
use super::layout::{Halves, Layout};
use super::quants::{Lanes, Quants};
use super::simd::{
    V, add_i32, and, dot_i16, load, mul_add_f32, mul_f32, mul_i32, opaque, shl_i32, shr_i32, shr_u16, splat,
    sub_f32, to_f32, zero,
};
use super::unroll;
use std::array::from_fn;

/// The products of a strip of `GROUPS` groups of four rows with the input.
///
/// # Safety
/// `strip` points to as many chunks as the input has.
#[inline(always)]
pub unsafe fn multiply<L: Layout, const GROUPS: usize>(strip: *const u8, input: &Input) -> [V; GROUPS] {
    // SAFETY: passed on.
    unsafe {
        if L::BLOCK == 32 {
            plain::<L, GROUPS>(strip, input)
        } else {
            with_sub_blocks::<L, GROUPS>(strip, input)
        }
    }
}

/// Adds the products of the first or second half of a block with the input at `$lanes` to `$sums`. The block's integers
/// are at `$integers` in each group.
macro_rules! products {
    ($sums:ident, $half:literal, $integers:ident, $lanes:ident, $masks:ident) => {
        if let Lanes::Pairs = L::Quants::LANES {
            unroll!(STEP in [0 1 2 3 4 5 6 7] {
                let step = 8 * $half + STEP;
                let input = L::Quants::input($lanes, step);
                for (sum, at) in $sums.iter_mut().zip($integers) {
                    *sum = L::Quants::add(*sum, L::Quants::step(at, step, $masks), input);
                }
            });
        } else {
            for (sum, at) in $sums.iter_mut().zip($integers) {
                unroll!(STEP in [0 1 2 3] {
                    let step = 4 * $half + STEP;
                    let input = L::Quants::input($lanes, step);
                    *sum = L::Quants::add(*sum, L::Quants::step(at, step, $masks), input);
                });
                pin(*sum);
            }
        }
    };
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
unsafe fn plain<L: Layout, const GROUPS: usize>(strip: *const u8, input: &Input) -> [V; GROUPS] {
    let (masks, halves) = (L::Quants::masks(), Halves::new());
    let mut totals = [zero(); GROUPS];
    for chunk in 0..input.blocks / 2 {
        // SAFETY: the chunk is there, and the input has as many blocks.
        unsafe {
            let at = strip.add(chunk * L::BYTES);
            unroll!(SECOND in [0 1] {
                let integers: [_; GROUPS] = from_fn(|group| at.add(L::integers_at(group, SECOND)));
                let block = 2 * chunk + SECOND;
                let lanes = input.lanes.as_ptr().add(L::Quants::LANES.count() * block).cast::<u8>();
                let mut sums = [splat(input.starts.as_ptr().add(block).cast()); GROUPS];
                products!(sums, 0, integers, lanes, masks);
                products!(sums, 1, integers, lanes, masks);
                let scale = splat(input.scales.as_ptr().add(block).cast());
                let block_sum = splat(input.block_sums.as_ptr().add(block).cast());
                let half = |group, word| {
                    let halves_of = load(at.add(L::scales_at(group, word)));
                    if SECOND == 0 { halves.low(halves_of) } else { halves.high(halves_of) }
                };
                for (group, (total, sum)) in totals.iter_mut().zip(sums).enumerate() {
                    *total = mul_add_f32(mul_f32(to_f32(sum), scale), half(group, 0), *total);
                    if L::MINIMA {
                        *total = mul_add_f32(half(group, L::MINIMA_AT), block_sum, *total);
                    }
                }
            });
        }
    }
    totals
}

#[inline(always)]
unsafe fn with_sub_blocks<L: Layout, const GROUPS: usize>(strip: *const u8, input: &Input) -> [V; GROUPS] {
    let (masks, halves, low_bytes) = (L::Quants::masks(), Halves::new(), opaque(0x00ff_00ff));
    let mut totals = [zero(); GROUPS];
    for super_block in 0..input.blocks / 8 {
        // SAFETY: the chunk is there, and the input has as many blocks.
        unsafe {
            let at = strip.add(super_block * L::BYTES);
            let scales_of = |group, word| load(at.add(L::scales_at(group, word)));
            let mut weighted = [zero(); GROUPS];
            // Blocks whose sub-blocks' scales are one word.
            let together = L::SUB_BLOCK / 8;
            for word in 0..8 / together {
                let mut scales: [_; GROUPS] = from_fn(|group| scales_of(group, 1 + word));
                for block in together * word..together * (word + 1) {
                    let integers: [_; GROUPS] = from_fn(|group| at.add(L::integers_at(group, block)));
                    let block = 8 * super_block + block;
                    let lanes = input.lanes.as_ptr().add(L::Quants::LANES.count() * block).cast::<u8>();
                    let starts = input.starts.as_ptr().add(block).cast::<u8>();
                    let mut sums = [splat(starts); GROUPS];
                    products!(sums, 0, integers, lanes, masks);
                    if L::SUB_BLOCK == 16 {
                        weigh::<L, GROUPS>(&mut weighted, sums, &mut scales);
                        sums = [splat(starts.add(4)); GROUPS];
                    }
                    products!(sums, 1, integers, lanes, masks);
                    weigh::<L, GROUPS>(&mut weighted, sums, &mut scales);
                }
            }
            let scale = splat(input.scales.as_ptr().add(8 * super_block).cast());
            for (group, (total, weighted)) in totals.iter_mut().zip(weighted).enumerate() {
                let scales = scales_of(group, 0);
                let mut worth = mul_f32(to_f32(weighted), halves.low(scales));
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
fn weigh<L: Layout, const GROUPS: usize>(
    weighted: &mut [V; GROUPS],
    sums: [V; GROUPS],
    scales: &mut [V; GROUPS],
) {
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
