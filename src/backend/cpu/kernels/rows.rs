//! Matrix times several columns, a prompt, where steps are quads. Sixteen columns of eight weight rows stay in registers
//! while the rows of the input pass, four at a time: what these need lies at constant distances, which V8 puts into loads.

use super::input::Input;
use super::layout::{Halves, Layout, Strip};
use super::quants::{GROUPS, Lanes, Quants};
use super::simd::{
    V, add_i32, and, dot_i16, lane_at, load, mul_add_f32, mul_f32, mul_i32, opaque, shl_i32, shr_i32,
    shr_u16, sub_f32, to_f32, zero,
};
use super::unroll;

/// Rows of the input that go together.
pub const ROWS: usize = 4;
/// Most rows of the input.
pub const MOST_ROWS: usize = 64;
/// Groups that go together.
const PAIR: usize = 2;
/// Steps of half a block.
const STEPS: usize = 4;

/// Adds the products of a strip with every row of the input to `totals`, which has them by tiles of rows.
///
/// # Safety
/// The strip has as many columns as the input, and this as many tiles as `totals`.
pub unsafe fn multiply<L: Layout>(strip: Strip, input: &Input, totals: &mut [[[V; GROUPS]; ROWS]]) {
    let mut room = [[[zero(); PAIR]; ROWS]; MOST_ROWS / ROWS];
    for block in 0..input.blocks / (L::BLOCK / 32) {
        for first in (0..GROUPS).step_by(PAIR) {
            // SAFETY: passed on.
            unsafe {
                let room = &mut room[..totals.len()];
                if L::BLOCK == 32 {
                    plain::<L>(strip, block, first, input, room, totals);
                } else {
                    with_sub_blocks::<L>(strip, block, first, input, room, totals);
                }
            }
        }
    }
}

/// Calls `work` with the number of each tile, the place of its block `block` among those of the input, and its lanes.
///
/// # Safety
/// The input has the block, and as many tiles.
#[inline(always)]
unsafe fn each_tile<L: Layout>(
    input: &Input,
    block: usize,
    tiles: usize,
    mut work: impl FnMut(usize, usize, *const u8),
) {
    for tile in 0..tiles {
        let place = (tile * input.blocks + block) * ROWS;
        // SAFETY: the caller's.
        work(tile, place, unsafe { input.lanes.as_ptr().add(L::Quants::LANES.count() * place).cast() });
    }
}

/// The weights of a block's first or second half in each of two groups.
#[inline(always)]
unsafe fn weights<L: Layout, const HALF: usize>(
    integers: [*const u8; PAIR],
    masks: <L::Quants as Quants>::Masks,
) -> [[V; STEPS]; PAIR] {
    let mut weights = [[zero(); STEPS]; PAIR];
    // Not `map`, which the compiler leaves as calls.
    for (weights, at) in weights.iter_mut().zip(integers) {
        unroll!(STEP in [0 1 2 3] {
            // SAFETY: the caller's.
            weights[STEP] = unsafe { L::Quants::step(at, STEPS * HALF + STEP, masks) };
        });
    }
    weights
}

/// `sums` and the products of a half with row `row` of a tile.
#[inline(always)]
unsafe fn products<L: Layout, const HALF: usize>(
    mut sums: [V; PAIR],
    weights: &[[V; STEPS]; PAIR],
    lanes: *const u8,
    row: usize,
) -> [V; PAIR] {
    unroll!(STEP in [0 1 2 3] {
        // SAFETY: the lanes are of a block.
        let input = unsafe { L::Quants::input(lanes.add(4 * L::Quants::LANES.count() * row), STEPS * HALF + STEP) };
        for (sum, weights) in sums.iter_mut().zip(weights) {
            *sum = L::Quants::add(*sum, weights[STEP], input);
        }
    });
    sums
}

/// What sums of a block, or of its first or second half, start with in row `row` of the tile at `place`.
#[inline(always)]
unsafe fn start<L: Layout, const HALF: usize>(input: &Input, place: usize, row: usize) -> [V; PAIR] {
    if L::OFFSET != 0 || matches!(L::Quants::LANES, Lanes::SignedQuads) {
        // SAFETY: the place is one of the input.
        [unsafe { lane_at(input.starts.as_ptr().add(place).cast(), 2 * row + HALF) }; PAIR]
    } else {
        [zero(); PAIR]
    }
}

#[inline(always)]
unsafe fn plain<L: Layout>(
    strip: Strip,
    block: usize,
    first: usize,
    input: &Input,
    sums: &mut [[[V; PAIR]; ROWS]],
    totals: &mut [[[V; GROUPS]; ROWS]],
) {
    let (masks, halves) = (L::Quants::masks(strip.table), Halves::new());
    let (tiles, sums, totals) = (totals.len(), sums.as_mut_ptr(), totals.as_mut_ptr());
    // SAFETY: the block is there, the input has as many, and there are so many sums and totals.
    unsafe {
        let integers = [0, 1].map(|group| strip.integers.add(L::integers_at(first + group, block)));
        let held = weights::<L, 0>(integers, masks);
        each_tile::<L>(input, block, tiles, |tile, place, lanes| {
            let sums = &mut *sums.add(tile);
            unroll!(ROW in [0 1 2 3] {
                sums[ROW] = products::<L, 0>(start::<L, 0>(input, place, ROW), &held, lanes, ROW);
            });
        });
        let held = weights::<L, 1>(integers, masks);
        let scales_of = |word| {
            let scales = strip.scales.add(block * L::SCALES_STEP);
            [0, 1].map(|group| halves.four(scales.add(L::scales_at(first + group, word))))
        };
        let scales = scales_of(0);
        let minima = if L::MINIMA { scales_of(L::MINIMA_AT) } else { [zero(); PAIR] };
        each_tile::<L>(input, block, tiles, |tile, place, lanes| {
            let (sums, totals) = (&*sums.add(tile), &mut *totals.add(tile));
            unroll!(ROW in [0 1 2 3] {
                let sums = products::<L, 1>(sums[ROW], &held, lanes, ROW);
                let scale = lane_at(input.scales.as_ptr().add(place).cast(), ROW);
                for group in 0..PAIR {
                    let total = &mut totals[ROW][first + group];
                    // In the order in which the kernel for one column adds them: to the bit the same.
                    *total = mul_add_f32(mul_f32(to_f32(sums[group]), scale), scales[group], *total);
                    if L::MINIMA {
                        let block_sum = lane_at(input.block_sums.as_ptr().add(place).cast(), ROW);
                        *total = mul_add_f32(minima[group], block_sum, *total);
                    }
                }
            });
        });
    }
}

#[inline(always)]
unsafe fn with_sub_blocks<L: Layout>(
    strip: Strip,
    super_block: usize,
    first: usize,
    input: &Input,
    sums: &mut [[[V; PAIR]; ROWS]],
    totals: &mut [[[V; GROUPS]; ROWS]],
) {
    let (masks, halves, low_bytes) = (L::Quants::masks(strip.table), Halves::new(), opaque(0x00ff_00ff));
    let (tiles, sums) = (totals.len(), sums.as_mut_ptr());
    let mut weighted = [[[zero(); PAIR]; ROWS]; MOST_ROWS / ROWS];
    let weighted = weighted[..tiles].as_mut_ptr();
    let scales_of = |group: usize, word| {
        // SAFETY: the block has the word.
        unsafe {
            let scales = strip.scales.add(super_block * L::SCALES_STEP);
            load(scales.add(L::scales_at(first + group, word)))
        }
    };
    let weigh = |weighted: &mut [V; PAIR], sums: [V; PAIR], scales: [V; PAIR]| {
        for group in 0..PAIR {
            weighted[group] = add_i32(weighted[group], mul_i32(sums[group], shr_i32::<24>(scales[group])));
        }
    };
    // SAFETY: the block is there, the input has as many blocks, and there are so many sums and totals.
    unsafe {
        // A word has the scales of so many blocks' sub-blocks.
        for word in 0..L::SUB_SCALES {
            let mut scales = [0, 1].map(|group| scales_of(group, 1 + word));
            let together = L::SUB_BLOCK / 8;
            for block in (together * word..together * (word + 1)).map(|block| 8 * super_block + block) {
                let integers = [0, 1].map(|group| strip.integers.add(L::integers_at(first + group, block)));
                let held = weights::<L, 0>(integers, masks);
                each_tile::<L>(input, block, tiles, |tile, place, lanes| {
                    let (weighted, sums) = (&mut *weighted.add(tile), &mut *sums.add(tile));
                    unroll!(ROW in [0 1 2 3] {
                        let products = products::<L, 0>(start::<L, 0>(input, place, ROW), &held, lanes, ROW);
                        if L::SUB_BLOCK == 16 {
                            weigh(&mut weighted[ROW], products, scales);
                        } else {
                            sums[ROW] = products;
                        }
                    });
                });
                if L::SUB_BLOCK == 16 {
                    scales = scales.map(shl_i32::<8>);
                }
                let held = weights::<L, 1>(integers, masks);
                each_tile::<L>(input, block, tiles, |tile, place, lanes| {
                    let (weighted, sums) = (&mut *weighted.add(tile), &*sums.add(tile));
                    unroll!(ROW in [0 1 2 3] {
                        let before = if L::SUB_BLOCK == 16 { start::<L, 1>(input, place, ROW) } else { sums[ROW] };
                        weigh(&mut weighted[ROW], products::<L, 1>(before, &held, lanes, ROW), scales);
                    });
                });
                scales = scales.map(shl_i32::<8>);
            }
        }
        // Pairs of sub-blocks.
        for pair in 0..if L::MINIMA { 128 / L::SUB_BLOCK } else { 0 } {
            let minima = [0, 1].map(|group| {
                let bytes = scales_of(group, L::MINIMA_AT + pair / 2);
                if pair % 2 == 0 { and(bytes, low_bytes) } else { shr_u16::<8>(bytes) }
            });
            each_tile::<L>(input, super_block * 128 / L::SUB_BLOCK + pair, tiles, |tile, place, _| {
                let sums = &mut *sums.add(tile);
                unroll!(ROW in [0 1 2 3] {
                    let pair_sums = lane_at(input.sums.as_ptr().add(place).cast(), ROW);
                    for (sum, minima) in sums[ROW].iter_mut().zip(minima) {
                        let before = if pair == 0 { zero() } else { *sum };
                        *sum = add_i32(before, dot_i16(minima, pair_sums));
                    }
                });
            });
        }
        let scales = [0, 1].map(|group| scales_of(group, 0));
        let minimum_scales = scales.map(|at| halves.high(at));
        let scales = if L::MINIMA { scales.map(|at| halves.low(at)) } else { scales };
        let totals = totals.as_mut_ptr();
        each_tile::<L>(input, 8 * super_block, tiles, |tile, place, _| {
            let (weighted, sums, totals) = (&*weighted.add(tile), &*sums.add(tile), &mut *totals.add(tile));
            unroll!(ROW in [0 1 2 3] {
                let scale = lane_at(input.scales.as_ptr().add(place).cast(), ROW);
                for group in 0..PAIR {
                    let mut worth = mul_f32(to_f32(weighted[ROW][group]), scales[group]);
                    if L::MINIMA {
                        let minima = to_f32(sums[ROW][group]);
                        worth = sub_f32(worth, mul_f32(minima, minimum_scales[group]));
                    }
                    let total = &mut totals[ROW][first + group];
                    *total = mul_add_f32(worth, scale, *total);
                }
            });
        });
    }
}
