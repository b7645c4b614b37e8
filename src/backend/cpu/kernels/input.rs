//! A matrix's input, rounded to 8 bits, in the order in which kernels read it.

use super::super::pool::{Parts, Pool};
use super::layout::Layout;
use super::quants::{PAIRS, Quants};
use super::simd::{
    self, V, add_f32, add_i32, all_f32, and, dot_i16, max_f32, mul_f32, mul_i16, opaque, pack_i32, sub_i32,
    zero,
};
use crate::Result;

/// Rows of the input that the kernel for several takes at once.
pub const ROWS: usize = 4;

/// What a matrix type asks of its input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Order {
    /// Columns with one scale: 32 or 256.
    block: usize,
    /// Columns with one sum: 16 or 32.
    sub_block: usize,
    /// Columns are made up to a multiple of this with zeros.
    chunk: usize,
    /// Of each pair; see [`Quants::FACTORS`].
    factors: [i16; PAIRS],
    /// How many times too large a kernel's sums are when it multiplies them by the input's scale.
    excess: f32,
    /// The sum of products starts with this times the sum of the input.
    start: i32,
    /// Interleaved by blocks, which makes a tile.
    rows: usize,
}

impl Order {
    /// For one row, whose kernel leaves integers where they are packed.
    pub const fn one<L: Layout>() -> Self {
        let scale = L::Quants::SCALE;
        Order {
            block: L::BLOCK,
            sub_block: L::SUB_BLOCK,
            chunk: L::COLUMNS,
            factors: L::Quants::FACTORS,
            excess: if L::BLOCK == 32 { scale as f32 } else { 1.0 },
            start: -L::OFFSET * scale,
            rows: 1,
        }
    }

    /// For several, whose kernel has unpacked weights.
    pub const fn several<L: Layout>() -> Self {
        Order { factors: [1; PAIRS], excess: 1.0, start: 0, rows: ROWS, ..Self::one::<L>() }
    }
}

/// Rounded rows. Kept for the next use: it grows to the largest. In tiles of rows; in these, by blocks of 32
/// columns (or what each list says); in these, by rows.
#[derive(Debug, Default)]
pub struct Input {
    /// Of a row.
    pub blocks: usize,
    /// Sixteen for each block: two integers, times their factor.
    pub pairs: Vec<[i16; 2]>,
    /// What an integer is worth. A block of 256 has it eight times.
    pub scales: Vec<f32>,
    /// The sum of the numbers of a block.
    pub block_sums: Vec<f32>,
    /// What the sums of products of the block's sub-blocks start with.
    pub starts: Vec<[i32; 2]>,
    /// The sums of the integers of two sub-blocks: one entry for each block or for two.
    pub sums: Vec<[i16; 2]>,
}

impl Input {
    /// Rounds rows of `columns` numbers.
    pub fn fill(&mut self, pool: &Pool, order: &Order, columns: usize, input: &[f32]) -> Result<()> {
        let blocks = columns.div_ceil(order.chunk) * order.chunk / 32;
        let tiles = input.chunks(order.rows * columns).len();
        let len = order.rows * blocks;
        self.blocks = blocks;
        let pairs = room(&mut self.pairs, tiles * PAIRS * len);
        let scales = room(&mut self.scales, tiles * len);
        let block_sums = room(&mut self.block_sums, tiles * len);
        let starts = room(&mut self.starts, tiles * len);
        let sums = room(&mut self.sums, tiles * len);
        pool.each(tiles, 4 * order.rows * columns, |index| {
            // SAFETY: tiles do not overlap, and each comes once.
            let mut tile = unsafe {
                Tile {
                    order,
                    pairs: pairs.part(index * PAIRS * len, PAIRS * len),
                    scales: scales.part(index * len, len),
                    block_sums: block_sums.part(index * len, len),
                    starts: starts.part(index * len, len),
                    sums: sums.part(index * len, len),
                }
            };
            tile.clear();
            let rows = input[index * order.rows * columns..].chunks_exact(columns).take(order.rows);
            rows.enumerate().for_each(|(lane, row)| tile.fill(lane, row));
        })
    }
}

/// What one tile has of each list.
struct Tile<'a> {
    order: &'a Order,
    pairs: &'a mut [[i16; 2]],
    scales: &'a mut [f32],
    block_sums: &'a mut [f32],
    starts: &'a mut [[i32; 2]],
    sums: &'a mut [[i16; 2]],
}

impl Tile<'_> {
    /// Zeros, for the rows and columns that are not there.
    fn clear(&mut self) {
        self.pairs.fill(Default::default());
        self.scales.fill(Default::default());
        self.block_sums.fill(Default::default());
        self.starts.fill(Default::default());
        self.sums.fill(Default::default());
    }

    fn fill(&mut self, lane: usize, input: &[f32]) {
        let order = self.order;
        let place = |block: usize| block * order.rows + lane;
        for (part, input) in input.chunks_exact(order.block).enumerate() {
            let scale = largest(input) / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            for (index, input) in input.as_chunks::<32>().0.iter().enumerate() {
                let block = part * (order.block / 32) + index;
                let at = place(block);
                let (pairs, halves) = round(input, inverse, &order.factors);
                for (index, pair) in pairs.into_iter().enumerate() {
                    self.pairs[(block * PAIRS + index) * order.rows + lane] = pair;
                }
                let sum = halves[0] + halves[1];
                self.scales[at] = scale / order.excess;
                self.block_sums[at] = scale * sum as f32;
                if order.sub_block == 16 {
                    self.starts[at] = halves.map(|half| order.start * half);
                    self.sums[at] = halves.map(|half| half as i16);
                } else {
                    self.starts[at][0] = order.start * sum;
                    self.sums[place(block / 2)][block % 2] = sum as i16;
                }
            }
        }
    }
}

/// Room for `len` of them, whatever they are.
fn room<T: Clone + Default>(list: &mut Vec<T>, len: usize) -> Parts<'_, T> {
    if list.len() < len {
        list.resize(len, T::default());
    }
    Parts::new(list)
}

/// The largest magnitude.
fn largest(input: &[f32]) -> f32 {
    let magnitude = opaque(0x7fff_ffff);
    let mut largest = [zero(); 2];
    for pair in input.as_chunks::<8>().0 {
        for (largest, four) in largest.iter_mut().zip(pair.as_chunks::<4>().0) {
            // SAFETY: the pointer is to 16 bytes.
            *largest = max_f32(*largest, and(unsafe { simd::load(four.as_ptr().cast()) }, magnitude));
        }
    }
    to_array(max_f32(largest[0], largest[1])).iter().fold(0.0, |a, b| f32::max(a, *b))
}

fn to_array(lanes: V) -> [f32; 4] {
    let mut array = [0.0; 4];
    // SAFETY: the pointer is to 16 bytes.
    unsafe { simd::store(array.as_mut_ptr().cast(), lanes) };
    array
}

/// Rounds a block to integers: those times their factors, and the sums of both halves.
fn round(input: &[f32; 32], inverse: f32, factors: &[i16; PAIRS]) -> ([[i16; 2]; PAIRS], [i32; 2]) {
    // Adding 1.5·2²³ leaves the nearest integer, ties to even, in the low bits.
    let magic = all_f32(12_582_912.0);
    let (inverse, ones) = (all_f32(inverse), opaque(0x0001_0001));
    let factors: [[i16; 2]; PAIRS] = factors.map(|factor| [factor; 2]);
    let (mut pairs, mut halves) = ([[0; 2]; PAIRS], [0; 2]);
    for (half, sum) in halves.iter_mut().enumerate() {
        let mut sums = zero();
        for eight in [2 * half, 2 * half + 1] {
            // SAFETY: the pointers are to 16 bytes within the arrays, whose lengths are known.
            unsafe {
                let [low, high] = [0, 4].map(|more| {
                    let four = simd::load(input.as_ptr().add(8 * eight + more).cast());
                    sub_i32(add_f32(mul_f32(four, inverse), magic), magic)
                });
                let integers = pack_i32(low, high);
                sums = add_i32(sums, dot_i16(integers, ones));
                let factors = simd::load(factors.as_ptr().add(4 * eight).cast());
                simd::store(pairs.as_mut_ptr().add(4 * eight).cast(), mul_i16(integers, factors));
            }
        }
        *sum = to_array(sums).iter().map(|lane| lane.to_bits() as i32).sum();
    }
    (pairs, halves)
}
