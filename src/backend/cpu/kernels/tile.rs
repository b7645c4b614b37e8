//! Matrix times several columns, a prompt, where steps are pairs. Weights are unpacked once for all of them.

use super::input::Input;
use super::layout::{Halves, Layout, Strip};
use super::quants::pairs::PAIRS;
use super::quants::{GROUPS, Quants};
use super::simd::{
    V, add_i16, add_i32, and, dot_i16, load, mul_add_f32, mul_f32, mul_i16, opaque, or, shl_i32, shr_i32,
    shr_u16, splat, sub_f32, to_f32, zero,
};
use super::unroll;

/// Rows of the input that go together.
pub const ROWS: usize = 4;
/// Groups of a strip that go together.
const PAIR: usize = 2;
/// Blocks of 32 columns of a panel: what of the weights is unpacked at a time.
const PANEL: usize = 8;

/// Weights of `PAIR` groups of four rows and `PANEL` blocks, as 16-bit integers. It stays in the first-level cache.
pub struct Panel {
    /// Without the offset, times the scale of the sub-block.
    integers: [[[V; PAIR]; PAIRS]; PANEL],
    /// By blocks of 32, or the first for all.
    scales: [[V; PAIR]; PANEL],
    /// By blocks of 32, or the first for all.
    minimum_scales: [[V; PAIR]; PANEL],
    /// By pairs of sub-blocks.
    minima: [[V; PAIR]; PANEL],
}

impl Panel {
    pub fn new() -> Self {
        let zeros = [[zero(); PAIR]; PANEL];
        Panel {
            integers: [[[zero(); PAIR]; PAIRS]; PANEL],
            scales: zeros,
            minimum_scales: zeros,
            minima: zeros,
        }
    }

    /// Unpacks `blocks` blocks from `first` on, of group `from` of a strip as the panel's group `group`.
    ///
    /// # Safety
    /// They are in the strip, and `first` is the first block of 32 columns of one of the file's.
    unsafe fn fill<L: Layout>(
        &mut self,
        group: usize,
        strip: Strip,
        from: usize,
        (first, blocks): (usize, usize),
    ) {
        let (masks, halves, low_bytes) = (L::Quants::masks(strip.table), Halves::new(), opaque(0x00ff_00ff));
        let low_halves = opaque(0x0000_ffff);
        let offset = opaque((-L::OFFSET as i16 as u16 as u32) * 0x1_0001);
        for block in 0..blocks {
            // SAFETY: the blocks are there.
            unsafe {
                let integers = strip.integers.add(L::integers_at(from, first + block));
                let scales = strip.scales.add((first + block) / (L::BLOCK / 32) * L::SCALES_STEP);
                let scales_of = |word| load(scales.add(L::scales_at(from, word)));
                // The scales of the block's two halves, in both 16-bit lanes.
                let weights = [0, 1].map(|half| {
                    if L::BLOCK == 32 {
                        return zero();
                    }
                    let sub_block = (32 * block + 16 * half) / L::SUB_BLOCK;
                    let bytes = scales_of(1 + sub_block / 4);
                    let scale = shr_i32::<24>(match sub_block % 4 {
                        0 => bytes,
                        1 => shl_i32::<8>(bytes),
                        2 => shl_i32::<16>(bytes),
                        _ => shl_i32::<24>(bytes),
                    });
                    or(and(scale, low_halves), shl_i32::<16>(scale))
                });
                unroll!(STEP in [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15] {
                    let value = L::Quants::integers(integers, STEP, masks);
                    let value = if L::OFFSET == 0 { value } else { add_i16(value, offset) };
                    self.integers[block][STEP][group] =
                        if L::BLOCK == 32 { value } else { mul_i16(value, weights[STEP / 8]) };
                });
                if L::BLOCK == 32 {
                    self.scales[block][group] = halves.four(scales.add(L::scales_at(from, 0)));
                    if L::MINIMA {
                        let minima = scales.add(L::scales_at(from, L::MINIMA_AT));
                        self.minimum_scales[block][group] = halves.four(minima);
                    }
                } else if block == 0 {
                    self.scales[0][group] = if L::MINIMA { halves.low(scales_of(0)) } else { scales_of(0) };
                    if L::MINIMA {
                        self.minimum_scales[0][group] = halves.high(scales_of(0));
                        for word in 0..64 / L::SUB_BLOCK {
                            let bytes = scales_of(L::MINIMA_AT + word);
                            self.minima[2 * word][group] = and(bytes, low_bytes);
                            self.minima[2 * word + 1][group] = shr_u16::<8>(bytes);
                        }
                    }
                }
            }
        }
    }

    /// Adds the products of blocks from `first` on with tile `tile` of the input to those of the groups from `from` on in
    /// `totals`, which has four weight rows of each group of each of its rows.
    #[inline(always)]
    unsafe fn multiply<L: Layout>(
        &self,
        first: usize,
        blocks: usize,
        tile: usize,
        input: &Input,
        from: usize,
        totals: &mut [[V; GROUPS]; ROWS],
    ) {
        let (step, scaled) = if L::BLOCK == 32 { (1, blocks) } else { (blocks, 1) };
        for place in 0..scaled {
            // SAFETY: the input has the blocks.
            unsafe {
                let mut sums = [[zero(); PAIR]; ROWS];
                let at = (tile * input.blocks + first + place) * ROWS;
                let mut lanes = input.lanes.as_ptr().add(PAIRS * at).cast::<u8>();
                let mut weights = self.integers[place..].as_ptr().cast::<u8>();
                // Loops of four pairs: unrolled further, the compiler loads more than registers hold.
                for _ in 0..step * PAIRS / 4 {
                    unroll!(STEP in [0 1 2 3] {
                        let weights = [0, 1].map(|group| load(weights.add(16 * (PAIR * STEP + group))));
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let input = splat(lanes.add(4 * (ROWS * STEP + row)));
                            for (sum, weights) in sums.iter_mut().zip(weights) {
                                *sum = add_i32(*sum, dot_i16(weights, input));
                            }
                        }
                    });
                    lanes = lanes.add(4 * 4 * ROWS);
                    weights = weights.add(4 * 16 * PAIR);
                }
                for (row, (totals, sums)) in totals.iter_mut().zip(sums).enumerate() {
                    let scale = splat(input.scales.as_ptr().add(at + row).cast());
                    let block_sum = splat(input.block_sums.as_ptr().add(at + row).cast());
                    // In the order in which the kernel for one column adds them: to the bit the same.
                    for group in 0..PAIR {
                        let (sum, weight) = (to_f32(sums[group]), self.scales[place][group]);
                        let total = &mut totals[from + group];
                        if L::BLOCK == 32 {
                            *total = mul_add_f32(mul_f32(sum, scale), weight, *total);
                            if L::MINIMA {
                                let minimum = self.minimum_scales[place][group];
                                *total = mul_add_f32(minimum, block_sum, *total);
                            }
                            continue;
                        }
                        let mut worth = mul_f32(sum, weight);
                        if L::MINIMA {
                            let mut minima = zero();
                            for pair in 0..128 / L::SUB_BLOCK {
                                let at =
                                    (tile * input.blocks + first * 16 / L::SUB_BLOCK + pair) * ROWS + row;
                                let sums = splat(input.sums.as_ptr().add(at).cast());
                                minima = add_i32(minima, dot_i16(self.minima[pair][group], sums));
                            }
                            worth = sub_f32(worth, mul_f32(to_f32(minima), self.minimum_scales[0][group]));
                        }
                        *total = mul_add_f32(worth, scale, *total);
                    }
                }
            }
        }
    }
}

/// The products of a strip with every row of the input: `totals[tile][row][group]`.
///
/// # Safety
/// The strip has as many columns as the input, and this as many tiles as `totals`.
pub unsafe fn multiply<L: Layout>(strip: Strip, input: &Input, totals: &mut [[[V; GROUPS]; ROWS]]) {
    let mut panel = Panel::new();
    totals.fill([[zero(); GROUPS]; ROWS]);
    for first in (0..input.blocks).step_by(PANEL) {
        let blocks = PANEL.min(input.blocks - first);
        for from in (0..GROUPS).step_by(PAIR) {
            for group in 0..PAIR {
                // SAFETY: passed on; a panel is no more than one block of 256 columns.
                unsafe { panel.fill::<L>(group, strip, from + group, (first, blocks)) };
            }
            for (tile, totals) in totals.iter_mut().enumerate() {
                // SAFETY: the input has the tile.
                unsafe { panel.multiply::<L>(first, blocks, tile, input, from, totals) };
            }
        }
    }
}
