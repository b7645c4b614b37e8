//! Matrix times several columns, a prompt, where steps are quads. Sixteen columns of eight weight rows stay in registers
//! while the rows of the input pass.

use super::input::Input;
use super::layout::{Halves, Layout};
use super::quants::{Lanes, Quants};
use super::simd::{
    V, add_i32, and, dot_i16, load, mul_add_f32, mul_f32, mul_i32, opaque, shl_i32, shr_i32, shr_u16, splat,
    sub_f32, to_f32, zero,
};
use super::unroll;

/// Rows of the input that lie together.
pub const ROWS: usize = 8;
/// Most rows of the input.
pub const MOST_ROWS: usize = 64;
/// Groups of a strip.
pub const GROUPS: usize = 4;
/// Groups that go together.
const PAIR: usize = 2;
/// Steps of half a block.
const STEPS: usize = 4;

/// The products of a strip with every row of the input, of which `totals` has so many.
///
/// # Safety
/// `strip` points to as many chunks of each group as the input has.
pub unsafe fn multiply<L: Layout>(strip: *const u8, input: &Input, totals: &mut [[V; GROUPS]]) {
    totals.fill([zero(); GROUPS]);
    let mut room = [[zero(); PAIR]; MOST_ROWS];
    for chunk in 0..input.blocks / (L::COLUMNS / 32) {
        for first in (0..GROUPS).step_by(PAIR) {
            // SAFETY: passed on.
            unsafe {
                let at = strip.add((chunk * GROUPS + first) * L::BYTES);
                let (chunks, room) = ([at, at.add(L::BYTES)], &mut room[..totals.len()]);
                if L::BLOCK == 32 {
                    plain::<L>(chunks, chunk, first, input, room, totals);
                } else {
                    with_sub_blocks::<L>(chunks, chunk, first, input, room, totals);
                }
            }
        }
    }
}

/// Calls `work` with the number of each row, the place of its block `block` among those of the input, and its lanes.
///
/// # Safety
/// The input has the block, and as many rows.
#[inline(always)]
unsafe fn each_row<L: Layout>(
    input: &Input,
    block: usize,
    rows: usize,
    mut work: impl FnMut(usize, usize, *const u8),
) {
    for first in (0..rows).step_by(ROWS) {
        let place = first * input.blocks + block * ROWS;
        // SAFETY: the caller's.
        let mut lanes = unsafe { input.lanes.as_ptr().add(L::Quants::LANES.count() * place).cast::<u8>() };
        for row in first..rows.min(first + ROWS) {
            work(row, place + row - first, lanes);
            lanes = lanes.wrapping_add(4 * L::Quants::LANES.count());
        }
    }
}

/// The weights of a block's first or second half in each of two groups.
#[inline(always)]
unsafe fn weights<L: Layout, const HALF: usize>(
    integers: [*const u8; PAIR],
    masks: <L::Quants as Quants>::Masks,
) -> [[V; STEPS]; PAIR] {
    // SAFETY: the caller's.
    integers.map(|at| [0, 1, 2, 3].map(|step| unsafe { L::Quants::step(at, STEPS * HALF + step, masks) }))
}

/// `sums` and the products of a half with a row of the input.
#[inline(always)]
unsafe fn products<L: Layout, const HALF: usize>(
    mut sums: [V; PAIR],
    weights: &[[V; STEPS]; PAIR],
    lanes: *const u8,
) -> [V; PAIR] {
    unroll!(STEP in [0 1 2 3] {
        // SAFETY: the lanes are of a block.
        let input = unsafe { L::Quants::input(lanes, STEPS * HALF + STEP) };
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = L::Quants::add(*sum, weights[STEP], input);
        }
    });
    sums
}

/// What sums of a block start with, or of its first or second half.
#[inline(always)]
unsafe fn start<L: Layout, const HALF: usize>(input: &Input, place: usize) -> [V; PAIR] {
    if L::OFFSET != 0 || matches!(L::Quants::LANES, Lanes::SignedQuads) {
        // SAFETY: the place is one of the input.
        [unsafe { splat(input.starts.as_ptr().add(place).cast::<u8>().add(4 * HALF)) }; PAIR]
    } else {
        [zero(); PAIR]
    }
}

#[inline(always)]
unsafe fn plain<L: Layout>(
    chunks: [*const u8; PAIR],
    chunk: usize,
    first: usize,
    input: &Input,
    sums: &mut [[V; PAIR]],
    totals: &mut [[V; GROUPS]],
) {
    let (masks, halves) = (L::Quants::masks(), Halves::new());
    let (rows, sums, totals) = (totals.len(), sums.as_mut_ptr(), totals.as_mut_ptr());
    unroll!(SECOND in [0 1] {
        // SAFETY: the chunks are there, the input has as many blocks, and there are so many sums and totals.
        unsafe {
            let block = 2 * chunk + SECOND;
            let integers = chunks.map(|at| at.add(L::INTEGERS_AT + SECOND * L::Quants::BYTES));
            let held = weights::<L, 0>(integers, masks);
            each_row::<L>(input, block, rows, |row, place, lanes| {
                *sums.add(row) = products::<L, 0>(start::<L, 0>(input, place), &held, lanes);
            });
            let held = weights::<L, 1>(integers, masks);
            let half = |at: *const u8| if SECOND == 0 { halves.low(load(at)) } else { halves.high(load(at)) };
            let scales = chunks.map(half);
            let minima = if L::MINIMA { chunks.map(|at| half(at.add(L::MINIMA_AT))) } else { [zero(); PAIR] };
            each_row::<L>(input, block, rows, |row, place, lanes| {
                let sums = products::<L, 1>(*sums.add(row), &held, lanes);
                let scale = splat(input.scales.as_ptr().add(place).cast());
                let block_sum = splat(input.block_sums.as_ptr().add(place).cast());
                for group in 0..PAIR {
                    let total = &mut (*totals.add(row))[first + group];
                    // In the order in which the kernel for one column adds them: to the bit the same.
                    *total = mul_add_f32(mul_f32(to_f32(sums[group]), scale), scales[group], *total);
                    if L::MINIMA {
                        *total = mul_add_f32(minima[group], block_sum, *total);
                    }
                }
            });
        }
    });
}

#[inline(always)]
unsafe fn with_sub_blocks<L: Layout>(
    chunks: [*const u8; PAIR],
    super_block: usize,
    first: usize,
    input: &Input,
    sums: &mut [[V; PAIR]],
    totals: &mut [[V; GROUPS]],
) {
    let (masks, halves, low_bytes) = (L::Quants::masks(), Halves::new(), opaque(0x00ff_00ff));
    let (rows, sums) = (totals.len(), sums.as_mut_ptr());
    let mut weighted = [[zero(); PAIR]; MOST_ROWS];
    let weighted = weighted[..rows].as_mut_ptr();
    let weigh = |row: usize, sums: [V; PAIR], scales: [V; PAIR]| {
        for group in 0..PAIR {
            // SAFETY: there are as many rows.
            let weighted = unsafe { &mut (*weighted.add(row))[group] };
            *weighted = add_i32(*weighted, mul_i32(sums[group], shr_i32::<24>(scales[group])));
        }
    };
    // SAFETY: the chunks are there, the input has as many blocks, and there are so many sums and totals.
    unsafe {
        // Blocks whose sub-blocks' scales are one word.
        let together = L::SUB_BLOCK / 8;
        for word in 0..8 / together {
            let mut scales = chunks.map(|at| load(at.add(16 + 16 * word)));
            for block in together * word..together * (word + 1) {
                let integers = chunks.map(|at| at.add(L::INTEGERS_AT + block * L::Quants::BYTES));
                let block = 8 * super_block + block;
                let held = weights::<L, 0>(integers, masks);
                each_row::<L>(input, block, rows, |row, place, lanes| {
                    let products = products::<L, 0>(start::<L, 0>(input, place), &held, lanes);
                    if L::SUB_BLOCK == 16 {
                        weigh(row, products, scales);
                    } else {
                        *sums.add(row) = products;
                    }
                });
                if L::SUB_BLOCK == 16 {
                    scales = scales.map(shl_i32::<8>);
                }
                let held = weights::<L, 1>(integers, masks);
                each_row::<L>(input, block, rows, |row, place, lanes| {
                    let sums = if L::SUB_BLOCK == 16 { start::<L, 1>(input, place) } else { *sums.add(row) };
                    weigh(row, products::<L, 1>(sums, &held, lanes), scales);
                });
                scales = scales.map(shl_i32::<8>);
            }
        }
        // Pairs of sub-blocks.
        for pair in 0..if L::MINIMA { 128 / L::SUB_BLOCK } else { 0 } {
            let minima = chunks.map(|at| {
                let bytes = load(at.add(L::MINIMA_AT + 16 * (pair / 2)));
                if pair % 2 == 0 { and(bytes, low_bytes) } else { shr_u16::<8>(bytes) }
            });
            each_row::<L>(input, super_block * 128 / L::SUB_BLOCK + pair, rows, |row, place, _| {
                let pair_sums = splat(input.sums.as_ptr().add(place).cast());
                let sums = &mut *sums.add(row);
                for group in 0..PAIR {
                    let before = if pair == 0 { zero() } else { sums[group] };
                    sums[group] = add_i32(before, dot_i16(minima[group], pair_sums));
                }
            });
        }
        let scales = chunks.map(|at| load(at));
        let (scales, minimum_scales) = (scales.map(|at| halves.low(at)), scales.map(|at| halves.high(at)));
        let totals = totals.as_mut_ptr();
        each_row::<L>(input, 8 * super_block, rows, |row, place, _| {
            let scale = splat(input.scales.as_ptr().add(place).cast());
            for group in 0..PAIR {
                let mut worth = mul_f32(to_f32((*weighted.add(row))[group]), scales[group]);
                if L::MINIMA {
                    let minima = to_f32((*sums.add(row))[group]);
                    worth = sub_f32(worth, mul_f32(minima, minimum_scales[group]));
                }
                let total = &mut (*totals.add(row))[first + group];
                *total = mul_add_f32(worth, scale, *total);
            }
        });
    }
}
