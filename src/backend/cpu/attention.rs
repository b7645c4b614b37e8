//! Keys and values of the tokens so far, and attention over them.

use super::super::{Attention, Heads};
use super::kernels::float::{exp, lanes};
use super::kernels::simd::{self, V, add_f32, all_f32, mul_add_f32, mul_f32, splat, store, sub_f32, zero};
use super::pool::{Parts, Pool};
use super::zeros;
use crate::Result;

/// Numbers that a kernel takes of a row at once: positions of keys, elements of values.
const PANEL: usize = 8;
/// Positions whose scores are computed before their values are read.
const BLOCK: usize = 64;
/// Queries that share what is read of the cache.
const QUERIES: usize = 4;

/// A layer's keys and values.
pub(super) struct Cache {
    heads: Heads,
    /// Positions in whole panels.
    positions: usize,
    /// `kv heads × panels × head size × PANEL`: of each panel's positions element 0, then element 1, ….
    keys: Vec<f32>,
    /// `kv heads × positions × head size`, the last in whole panels.
    values: Vec<f32>,
}

impl Cache {
    pub fn new(context: usize, heads: Heads) -> Result<Self> {
        // What does not fit a number does not fit the memory.
        let positions = context.saturating_add(PANEL - 1) / PANEL * PANEL;
        let numbers = |width: usize| positions.saturating_mul(heads.kv).saturating_mul(width);
        let (keys, values) = (zeros(numbers(heads.size))?, zeros(numbers(width(heads)))?);
        Ok(Cache { heads, positions, keys, values })
    }

    /// Writes one position: `kv heads × head size` numbers each.
    pub fn store(&mut self, position: usize, keys: &[f32], values: &[f32]) {
        let (size, width) = (self.heads.size, width(self.heads));
        for head in 0..self.heads.kv {
            let panel = (head * self.positions / PANEL + position / PANEL) * size * PANEL;
            let target = self.keys[panel..][..size * PANEL].as_chunks_mut::<PANEL>().0;
            for (target, key) in target.iter_mut().zip(&keys[head * size..]) {
                target[position % PANEL] = *key;
            }
            let row = (head * self.positions + position) * width;
            self.values[row..][..size].copy_from_slice(&values[head * size..][..size]);
        }
    }

    /// Attention of the queries, each row `query heads × head size`, of which the first is at `position`.
    pub fn attend(
        &self,
        pool: &Pool,
        position: usize,
        queries: &[f32],
        attention: &Attention,
        out: &mut [f32],
    ) -> Result<()> {
        let Heads { query, kv, size } = self.heads;
        let group = query / kv;
        // Queries that share a head's keys and values: heads of the group in each row, row after row.
        let rows = queries.len() / (query * size);
        let sharing = rows * group;
        let tiles = sharing.div_ceil(QUERIES);
        let out = Parts::new(out);
        let cost = 2 * QUERIES * size * (position + rows);
        pool.each(kv * tiles, cost, |index| {
            let (head, tile) = (index / tiles, index % tiles);
            let first = tile * QUERIES;
            let task = |query_index: usize| {
                let (row, member) = ((first + query_index) / group, (first + query_index) % group);
                let offset = (row * query + head * group + member) * size;
                // SAFETY: every query has its own `size` numbers of `out`.
                let out = unsafe { out.part(offset, size) };
                let last = if attention.causal { position + row } else { position + rows - 1 };
                Query { elements: &queries[offset..offset + size], last, out }
            };
            match (sharing - first).min(QUERIES) {
                1 => self.attend_tile([0].map(task), head, attention),
                2 => self.attend_tile([0, 1].map(task), head, attention),
                3 => self.attend_tile([0, 1, 2].map(task), head, attention),
                _ => self.attend_tile([0, 1, 2, 3].map(task), head, attention),
            }
        })
    }

    /// Online softmax, block by block: no scores of more than a block are kept.
    /// Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
    fn attend_tile<const N: usize>(&self, mut queries: [Query; N], head: usize, attention: &Attention) {
        let (size, width) = (self.heads.size, width(self.heads));
        let keys = &self.keys[head * self.positions * size..][..self.positions * size];
        let values = &self.values[head * self.positions * width..][..self.positions * width];
        let begins = queries.each_ref().map(|query| query.first(attention));
        let elements = queries.each_ref().map(|query| query.elements.as_ptr());
        let first = begins.iter().min().expect("a tile has queries") / PANEL * PANEL;
        let end = 1 + queries.iter().map(|query| query.last).max().expect("a tile has queries");
        let mut scores = [[0.0; BLOCK]; N];
        let mut maxima = [f32::MIN; N];
        let mut sums = [zero(); N];
        queries.iter_mut().for_each(|query| query.out.fill(0.0));
        for start in (first..end).step_by(BLOCK) {
            let seen = BLOCK.min(end - start);
            let panels = &keys[start * size..][..seen.div_ceil(PANEL) * PANEL * size];
            for (panel, keys) in panels.chunks_exact(size * PANEL).enumerate() {
                // SAFETY: queries have `size` elements and so many rows has the panel.
                let products = unsafe { products(elements, keys.as_ptr(), PANEL, size) };
                for (scores, products) in scores.iter_mut().zip(products) {
                    write(&mut scores[panel * PANEL..], products.map(|four| score(four, attention)));
                }
            }
            let mut shrink = [0.0; N];
            for index in 0..N {
                let (query, scores) = (&queries[index], &mut scores[index][..seen.div_ceil(PANEL) * PANEL]);
                // What the query must not see.
                let before = begins[index].saturating_sub(start).min(scores.len());
                scores[..before].fill(f32::NEG_INFINITY);
                let after = (query.last + 1).saturating_sub(start).min(scores.len());
                scores[after..].fill(f32::NEG_INFINITY);
                let highest = scores.iter().fold(maxima[index], |highest, &score| highest.max(score));
                shrink[index] = lanes(exp(all_f32(maxima[index] - highest)))[0];
                maxima[index] = highest;
                let (highest, mut sum) = (all_f32(highest), mul_f32(sums[index], all_f32(shrink[index])));
                for four in scores.as_chunks_mut::<4>().0 {
                    // SAFETY: the pointers are to 16 bytes.
                    unsafe {
                        let weights = exp(sub_f32(simd::load(four.as_ptr().cast()), highest));
                        sum = add_f32(sum, weights);
                        store(four.as_mut_ptr().cast(), weights);
                    }
                }
                sums[index] = sum;
            }
            let weights = scores.each_ref().map(|scores| scores.as_ptr());
            let values = &values[start * width..][..seen * width];
            for element in (0..size).step_by(PANEL) {
                // SAFETY: there are `seen` weights and so many rows of `width` values; `element` is a panel's start.
                let products = unsafe { products(weights, values.as_ptr().add(element), width, seen) };
                for ((query, products), shrink) in queries.iter_mut().zip(products).zip(shrink) {
                    accumulate(&mut query.out[element..], shrink, products);
                }
            }
        }
        for (query, sum) in queries.iter_mut().zip(sums) {
            let sum: f32 = lanes(sum).iter().sum();
            query.out.iter_mut().for_each(|value| *value /= sum);
        }
    }
}

/// Elements of a value with its padding.
fn width(heads: Heads) -> usize {
    heads.size.next_multiple_of(PANEL)
}

struct Query<'a> {
    elements: &'a [f32],
    /// The last position that it sees; its own, in causal attention.
    last: usize,
    out: &'a mut [f32],
}

impl Query<'_> {
    /// The first position that it sees.
    fn first(&self, attention: &Attention) -> usize {
        attention.window.map_or(0, |window| (self.last + 1).saturating_sub(window))
    }
}

#[inline(always)]
fn score(product: V, attention: &Attention) -> V {
    let score = mul_f32(product, all_f32(attention.scale));
    match attention.softcap {
        Some(cap) => super::ops::cap(score, cap),
        None => score,
    }
}

/// `Σ left[n][k] · right[k · step ..][.. PANEL]` over k below `len`, for each n.
///
/// # Safety
/// The pointers are to as many numbers.
#[inline(always)]
unsafe fn products<const N: usize>(
    left: [*const f32; N],
    right: *const f32,
    step: usize,
    len: usize,
) -> [[V; 2]; N] {
    let mut sums = [[zero(); 2]; N];
    for k in 0..len {
        // SAFETY: the caller's.
        unsafe {
            let right = right.add(k * step);
            let right = [simd::load(right.cast()), simd::load(right.add(4).cast())];
            for (sums, left) in sums.iter_mut().zip(left) {
                let left = splat(left.add(k).cast());
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = mul_add_f32(left, right, *sum);
                }
            }
        }
    }
    sums
}

#[inline(always)]
fn write(target: &mut [f32], [low, high]: [V; 2]) {
    let target = &mut target[..PANEL];
    // SAFETY: the target has eight numbers.
    unsafe {
        store(target.as_mut_ptr().cast(), low);
        store(target.as_mut_ptr().add(4).cast(), high);
    }
}

/// `target = shrink · target + products`, as far as the target goes.
#[inline(always)]
fn accumulate(target: &mut [f32], shrink: f32, products: [V; 2]) {
    let mut added = [0.0; PANEL];
    write(&mut added, products);
    for (target, added) in target.iter_mut().zip(added) {
        *target = shrink * *target + added;
    }
}
