//! A matrix's input, rounded to 8 bits, in the order in which kernels read it.

use super::super::pool::{Parts, Pool};
use super::layout::Layout;
use super::quants::{Lanes, MOST_STEPS, Quants};
use super::simd::{
    self, V, add_f32, add_i32, all_f32, and, dot_i16, less_i16, max_f32, mul_f32, mul_i16, opaque, pack_i16,
    pack_i32, shl_i16, sub_i16, sub_i32, xor, zero,
};
use super::{rows, tile};
use crate::Result;

/// What a matrix type asks of its input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Order {
    /// Columns with one scale: 32 or 256.
    block: usize,
    /// Columns with one sum: 16 or 32.
    sub_block: usize,
    /// What a step takes.
    lanes: Lanes,
    /// Of each step; see [`Quants::FACTORS`].
    factors: [i16; MOST_STEPS],
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
            lanes: L::Quants::LANES,
            factors: L::Quants::FACTORS,
            excess: if L::BLOCK == 32 { scale as f32 } else { 1.0 },
            start: -L::OFFSET * scale,
            rows: 1,
        }
    }

    /// For several. The kernel for pairs unpacks weights, with their offset.
    pub const fn several<L: Layout>() -> Self {
        let one = Self::one::<L>();
        match L::Quants::LANES {
            Lanes::Pairs | Lanes::BytePairs => Order {
                lanes: Lanes::Pairs,
                factors: [1; MOST_STEPS],
                excess: 1.0,
                start: 0,
                rows: tile::ROWS,
                ..one
            },
            Lanes::Quads | Lanes::SignedQuads => Order { rows: rows::ROWS, ..one },
        }
    }
}

/// Rounded rows. Kept for the next use: it grows to the largest. In tiles of rows; in these, by blocks of 32
/// columns (or what each list says); in these, by rows.
#[derive(Debug, Default)]
pub struct Input {
    /// Of a row.
    pub blocks: usize,
    /// As [`Lanes`] has them.
    pub lanes: Vec<u32>,
    /// What an integer is worth. A block of 256 has it eight times.
    pub scales: Vec<f32>,
    /// The sum of the numbers of a block.
    pub block_sums: Vec<f32>,
    /// What the sums of products of the block's sub-blocks start with.
    pub starts: Vec<[i32; 2]>,
    /// The sums of the integers of two sub-blocks: one entry for each block or for two.
    pub sums: Vec<[i16; 2]>,
    /// Of what it is made: the order, and where the numbers are and how many.
    made: Option<(Order, usize, usize)>,
}

impl Input {
    /// The numbers have changed.
    pub fn forget(&mut self) {
        self.made = None;
    }

    /// Rounds rows of `columns` numbers, unless they are those of the last time: several matrices have the same input.
    pub fn fill(&mut self, pool: &Pool, order: &Order, columns: usize, input: &[f32]) -> Result<()> {
        let made = Some((*order, input.as_ptr().addr(), input.len()));
        if self.made == made {
            return Ok(());
        }
        self.made = None;
        let blocks = columns / 32;
        let tiles = input.chunks(order.rows * columns).len();
        let len = order.rows * blocks;
        self.blocks = blocks;
        let count = order.lanes.count();
        let lanes = room(&mut self.lanes, tiles * count * len);
        let scales = room(&mut self.scales, tiles * len);
        let block_sums = room(&mut self.block_sums, tiles * len);
        let starts = room(&mut self.starts, tiles * len);
        let sums = room(&mut self.sums, tiles * len);
        pool.each(tiles, 4 * order.rows * columns, |index| {
            // SAFETY: tiles do not overlap, and each comes once.
            let mut tile = unsafe {
                Tile {
                    order,
                    lanes: lanes.part(index * count * len, count * len),
                    scales: scales.part(index * len, len),
                    block_sums: block_sums.part(index * len, len),
                    starts: starts.part(index * len, len),
                    sums: sums.part(index * len, len),
                }
            };
            let rows = input[index * order.rows * columns..].chunks_exact(columns).take(order.rows);
            if rows.len() < order.rows {
                tile.clear();
            }
            rows.enumerate().for_each(|(lane, row)| tile.fill(lane, row));
        })?;
        self.made = made;
        Ok(())
    }
}

/// What one tile has of each list.
struct Tile<'a> {
    order: &'a Order,
    lanes: &'a mut [u32],
    scales: &'a mut [f32],
    block_sums: &'a mut [f32],
    starts: &'a mut [[i32; 2]],
    sums: &'a mut [[i16; 2]],
}

impl Tile<'_> {
    /// Zeros, for the rows that are not there.
    fn clear(&mut self) {
        self.lanes.fill(Default::default());
        self.scales.fill(Default::default());
        self.block_sums.fill(Default::default());
        self.starts.fill(Default::default());
        self.sums.fill(Default::default());
    }

    fn fill(&mut self, row: usize, input: &[f32]) {
        let (order, rounding) = (self.order, Rounding::new(&self.order.factors));
        let place = |block: usize| block * order.rows + row;
        for (part, input) in input.chunks_exact(order.block).enumerate() {
            let scale = rounding.largest(input) / 127.0;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            for (index, input) in input.as_chunks::<32>().0.iter().enumerate() {
                let block = part * (order.block / 32) + index;
                let at = place(block);
                let integers = rounding.round(input, inverse);
                let halves = [0, 2].map(|eight| rounding.sum([integers[eight], integers[eight + 1]]));
                let sum = halves[0] + halves[1];
                // What is no number may give any integer.
                let mut starts = halves.map(|half| order.start.wrapping_mul(half));
                match order.lanes {
                    Lanes::Pairs => self.write(block, row, rounding.pairs(integers)),
                    Lanes::BytePairs => {
                        let (lanes, excess) = rounding.byte_pairs(integers);
                        self.write(block, row, lanes);
                        starts = [0, 1].map(|half| starts[half].wrapping_sub(excess[half]));
                    }
                    Lanes::Quads => self.write(block, row, quads(integers)),
                    Lanes::SignedQuads => {
                        let (lanes, lacking) = signed_quads(integers);
                        self.write(block, row, lanes);
                        starts = [0, 1].map(|half| starts[half].wrapping_add(lacking[half]));
                    }
                }
                self.scales[at] = scale / order.excess;
                self.block_sums[at] = scale * sum as f32;
                if order.sub_block == 16 {
                    self.starts[at] = starts;
                    self.sums[at] = halves.map(|half| half as i16);
                } else {
                    self.starts[at][0] = starts[0].wrapping_add(starts[1]);
                    self.sums[place(block / 2)][block % 2] = sum as i16;
                }
            }
        }
    }

    /// Puts a row's lanes of a block to those of the other rows: pairs between them, quads after them.
    fn write<const LANES: usize>(&mut self, block: usize, row: usize, lanes: [u32; LANES]) {
        let rows = self.order.rows;
        let target = &mut self.lanes[block * LANES * rows..][..LANES * rows];
        if let Lanes::Pairs = self.order.lanes {
            for (target, lane) in target.chunks_exact_mut(rows).zip(lanes) {
                target[row] = lane;
            }
        } else {
            target[row * LANES..][..LANES].copy_from_slice(&lanes);
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

/// What rounding needs, in registers.
struct Rounding {
    magnitude: V,
    magic: V,
    ones: V,
    /// Of pairs.
    factors: [V; 4],
}

impl Rounding {
    fn new(factors: &[i16; MOST_STEPS]) -> Self {
        let factors = factors.map(|factor| [factor; 2]);
        Rounding {
            magnitude: opaque(0x7fff_ffff),
            // Adding 1.5·2²³ leaves the nearest integer, ties to even, in the low bits.
            magic: opaque(12_582_912f32.to_bits()),
            ones: opaque(0x0001_0001),
            // SAFETY: the pointers are to 16 bytes of the factors.
            factors: std::array::from_fn(|four| unsafe { simd::load(factors.as_ptr().add(4 * four).cast()) }),
        }
    }

    /// The largest magnitude of some eights.
    #[inline(always)]
    fn largest(&self, input: &[f32]) -> f32 {
        let mut largest = [zero(); 2];
        for pair in input.as_chunks::<8>().0 {
            for (largest, four) in largest.iter_mut().zip(pair.as_chunks::<4>().0) {
                // SAFETY: the pointer is to 16 bytes.
                *largest =
                    max_f32(*largest, and(unsafe { simd::load(four.as_ptr().cast()) }, self.magnitude));
            }
        }
        to_array(max_f32(largest[0], largest[1])).iter().fold(0.0, |a, b| if *b > a { *b } else { a })
    }

    /// Rounds a block to integers of 16 bits.
    #[inline(always)]
    fn round(&self, input: &[f32; 32], inverse: f32) -> [V; 4] {
        let inverse = all_f32(inverse);
        std::array::from_fn(|eight| {
            let [low, high] = [0, 4].map(|more| {
                // SAFETY: the pointer is to 16 bytes of the block.
                let four = unsafe { simd::load(input.as_ptr().add(8 * eight + more).cast()) };
                sub_i32(add_f32(mul_f32(four, inverse), self.magic), self.magic)
            });
            pack_i32(low, high)
        })
    }

    /// The sum of 16 integers.
    #[inline(always)]
    fn sum(&self, integers: [V; 2]) -> i32 {
        let sums = integers.map(|eight| dot_i16(eight, self.ones));
        to_array(add_i32(sums[0], sums[1])).iter().map(|lane| lane.to_bits() as i32).sum()
    }

    /// A block's pairs for [`Lanes::BytePairs`], and what those of its halves give too much.
    #[inline(always)]
    fn byte_pairs(&self, integers: [V; 4]) -> ([u32; 16], [i32; 2]) {
        let [a, b, c, d] = integers;
        let rest = |whole, upper| to_lanes::<1, 4>([sub_i16(upper, shl_i16::<8>(whole))]);
        let halves = [(to_lanes::<1, 4>([a]), rest(a, b)), (to_lanes([c]), rest(c, d))];
        let lanes = std::array::from_fn(|step| {
            let (whole, rest) = &halves[step / 8];
            if step.is_multiple_of(2) { whole[step % 8 / 2] } else { rest[step % 8 / 2] }
        });
        (lanes, [a, c].map(|whole| 128 * self.sum([whole, zero()])))
    }

    /// A block's pairs.
    #[inline(always)]
    fn pairs(&self, integers: [V; 4]) -> [u32; 16] {
        to_lanes(std::array::from_fn::<_, 4, _>(|eight| mul_i16(integers[eight], self.factors[eight])))
    }
}

fn to_array(lanes: V) -> [f32; 4] {
    let mut array = [0.0; 4];
    // SAFETY: the pointer is to 16 bytes.
    unsafe { simd::store(array.as_mut_ptr().cast(), lanes) };
    array
}

fn to_lanes<const VECTORS: usize, const LANES: usize>(vectors: [V; VECTORS]) -> [u32; LANES] {
    const { assert!(4 * VECTORS == LANES) };
    let mut lanes = [0; LANES];
    for (index, vector) in vectors.into_iter().enumerate() {
        // SAFETY: the pointer is to 16 bytes of the lanes.
        unsafe { simd::store(lanes.as_mut_ptr().add(4 * index).cast(), vector) };
    }
    lanes
}

fn quads(integers: [V; 4]) -> [u32; 8] {
    to_lanes([pack_i16(integers[0], integers[1]), pack_i16(integers[2], integers[3])])
}

/// And the sums of the magnitudes of negative numbers, of both halves.
fn signed_quads(integers: [V; 4]) -> ([u32; 16], [i32; 2]) {
    let signs = integers.map(|eight| less_i16(eight, zero()));
    let magnitudes: [V; 4] =
        std::array::from_fn(|eight| sub_i16(xor(integers[eight], signs[eight]), signs[eight]));
    // No more than 7 bits, even where the input is no number: what a relaxed product gives for more is not defined.
    let magnitudes = quads(magnitudes).map(|lane| lane & 0x7f7f_7f7f);
    let lacking = [0, 2].map(|first| {
        let [first, second] = [first, first + 1].map(|eight| dot_i16(integers[eight], signs[eight]));
        to_array(add_i32(first, second)).iter().map(|lane| lane.to_bits() as i32).sum()
    });
    let mut lanes = [0; 16];
    lanes[..8].copy_from_slice(&magnitudes);
    lanes[8..].copy_from_slice(&quads(signs));
    (lanes, lacking)
}
