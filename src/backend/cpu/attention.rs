//! Attention over the keys and values of the tokens so far.

use super::super::Span;
use super::super::op::{Attention, Heads};
use super::cache::{BLOCK, Cache, PANEL};
use super::kernels::float::{exp, from_lanes, lanes};
use super::kernels::simd::{
    self, V, add_f32, all_f32, max_f32, mul_add_f32, mul_f32, splat, store, sub_f32, zero,
};
use super::pool::{Parts, Pool};
use crate::Result;
use std::ops::Range;

/// Queries that share what is read of the cache.
const QUERIES: usize = 4;
/// Positions of a range. What a query sees of one is summed up by itself, and ranges are merged in their order: threads
/// share contexts, and neither their number nor the rows of a step changes a bit.
const RANGE: usize = 4 * BLOCK;
/// Of the first one, after which another has the rest of `RANGE`: three heads are no even work for two threads.
const FIRST_RANGE: usize = BLOCK;
/// Pieces that are enough for any number of threads.
const PIECES: usize = 64;

/// The positions of range `index`.
fn range(index: usize) -> Range<usize> {
    match index {
        0 => 0..FIRST_RANGE,
        1 => FIRST_RANGE..RANGE,
        _ => (index - 1) * RANGE..index * RANGE,
    }
}

/// The range of a position.
fn range_of(position: usize) -> usize {
    if position < FIRST_RANGE { 0 } else { 1 + position / RANGE }
}

impl Cache {
    /// Attention of the queries of a span, each row `query heads × head size`. `scratch` grows to what it needs.
    pub(super) fn attend(
        &self,
        pool: &Pool,
        span: &Span,
        queries: &[f32],
        attention: &Attention,
        scratch: &mut Vec<f32>,
        out: &mut [f32],
    ) -> Result<()> {
        let Heads { query, kv, size } = self.heads;
        let (position, pages) = (span.position, span.pages.as_slice());
        let group = query / kv;
        // Queries that share a head's keys and values: heads of the group in each row, row after row.
        let rows = span.rows;
        let sharing = rows * group;
        let tiles = sharing.div_ceil(QUERIES);
        let end = position + rows;
        // The first row's window begins earliest.
        let last = if attention.causal { position } else { end - 1 };
        let begin = attention.window.map_or(0, |window| (last + 1).saturating_sub(window));
        let ranges = range_of(begin)..1 + range_of(end - 1);
        let together = (PIECES / (kv * tiles)).clamp(1, ranges.len());
        // A sum for each query: of all ranges so far, and of each that is computed together with others.
        let (count, width) = (rows * query, size + SOFTMAX);
        super::resize(scratch, (1 + together) * count * width)?;
        let (totals, parts) = scratch.split_at_mut(count * width);
        totals.chunks_exact_mut(width).for_each(clear);
        for first_range in ranges.clone().step_by(together) {
            let together = together.min(ranges.end - first_range);
            // The two short ranges go together where there are longer ones: pieces are to take equally long.
            let joined = usize::from(first_range == 0 && together > 2);
            let pieces = together - joined;
            let parts = &mut parts[..together * count * width];
            let shared = Parts::new(parts);
            let cost = 2 * QUERIES * size * RANGE.min(end);
            pool.each(kv * pieces * tiles, cost, |index| {
                let (head, piece, tile) = (index / tiles / pieces, index / tiles % pieces, index % tiles);
                let first = tile * QUERIES;
                let task = |part: usize, query_index: usize| {
                    let (row, member) = ((first + query_index) / group, (first + query_index) % group);
                    let place = row * query + head * group + member;
                    // SAFETY: every query has its own sum in each range.
                    let sum = unsafe { shared.part((part * count + place) * width, width) };
                    let last = if attention.causal { position + row } else { end - 1 };
                    Query { elements: &queries[place * size..][..size], last, sum }
                };
                for part in if piece == 0 { 0..1 + joined } else { piece + joined..piece + joined + 1 } {
                    let (task, positions) = (|index| task(part, index), range(first_range + part));
                    match (sharing - first).min(QUERIES) {
                        1 => self.attend_tile([0].map(task), head, pages, positions, attention),
                        2 => self.attend_tile([0, 1].map(task), head, pages, positions, attention),
                        3 => self.attend_tile([0, 1, 2].map(task), head, pages, positions, attention),
                        _ => self.attend_tile([0, 1, 2, 3].map(task), head, pages, positions, attention),
                    }
                }
            })?;
            let parts = &*parts;
            pool.rows(totals, width, 2 * together * width, |place, total| {
                parts
                    .chunks_exact(count * width)
                    .for_each(|range| merge(total, &range[place * width..][..width]));
            })?;
        }
        for (out, total) in out.chunks_exact_mut(size).zip(totals.chunks_exact(width)) {
            let weights = total[size + 1];
            out.iter_mut().zip(total).for_each(|(out, value)| *out = value / weights);
        }
        Ok(())
    }

    /// Online softmax over a range of positions, block by block: no scores of more than a block are kept.
    /// Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
    fn attend_tile<const N: usize>(
        &self,
        mut queries: [Query; N],
        head: usize,
        pages: &[u32],
        positions: Range<usize>,
        attention: &Attention,
    ) {
        let size = self.heads.size;
        let mut scratch = self.scratch();
        let begins = queries.each_ref().map(|query| query.first(attention));
        let elements = queries.each_ref().map(|query| query.elements.as_ptr());
        let first = positions.start.max(begins.iter().min().expect("a tile has queries") / BLOCK * BLOCK);
        let end = 1 + queries.iter().map(|query| query.last).max().expect("a tile has queries");
        let end = positions.end.min(end);
        let mut scores = [[0.0; BLOCK]; N];
        let mut maxima = [f32::MIN; N];
        let mut sums = [zero(); N];
        queries.iter_mut().for_each(|query| clear(query.sum));
        for start in (first..end).step_by(BLOCK) {
            let seen = BLOCK.min(end - start);
            let block = pages[start / BLOCK] as usize * self.heads.kv + head;
            for (panel, keys) in self.keys(block, seen.div_ceil(PANEL), &mut scratch).enumerate() {
                // SAFETY: queries have `size` elements and so many rows has the panel.
                let products = unsafe { products(elements, keys.as_ptr(), size) };
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
                let highest = highest(scores, maxima[index]);
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
            let values = self.values(block, &mut scratch);
            for element in (0..size).step_by(PANEL) {
                // SAFETY: there are `seen` weights and a block of values; `element` is a panel's start.
                let products = unsafe { products(weights, values.as_ptr().add(element * BLOCK), seen) };
                for ((query, products), shrink) in queries.iter_mut().zip(products).zip(shrink) {
                    let end = size.min(element + PANEL);
                    accumulate(&mut query.sum[element..end], shrink, products);
                }
            }
        }
        for (query, (maximum, sum)) in queries.iter_mut().zip(maxima.into_iter().zip(sums)) {
            query.sum[size..].copy_from_slice(&[maximum, lanes(sum).iter().sum()]);
        }
        self.put_back(scratch);
    }
}

/// What comes after a sum of values by their weights: the highest score, whose weight is 1, and the sum of the weights.
const SOFTMAX: usize = 2;

/// Makes it the sum of nothing.
fn clear(sum: &mut [f32]) {
    let (values, softmax) = sum.split_at_mut(sum.len() - SOFTMAX);
    values.fill(0.0);
    softmax.copy_from_slice(&[f32::MIN, 0.0]);
}

/// Adds the sum of a range to that of those before it.
fn merge(total: &mut [f32], range: &[f32]) {
    let size = total.len() - SOFTMAX;
    let highest = total[size].max(range[size]);
    let [old, new] = [total[size], range[size]].map(|score| lanes(exp(all_f32(score - highest)))[0]);
    total.iter_mut().zip(range).for_each(|(total, value)| *total = *total * old + value * new);
    total[size] = highest;
}

struct Query<'a> {
    elements: &'a [f32],
    /// The last position that it sees; its own, in causal attention.
    last: usize,
    /// See [`SOFTMAX`].
    sum: &'a mut [f32],
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
        Some(cap) => super::math::cap(score, cap),
        None => score,
    }
}

/// `Σ left[n][k] · right[k · PANEL ..][.. PANEL]` over k below `len`, for each n.
///
/// # Safety
/// The pointers are to as many numbers.
#[inline(always)]
unsafe fn products<const N: usize>(left: [*const f32; N], right: *const f32, len: usize) -> [[V; 2]; N] {
    let mut sums = [[zero(); 2]; N];
    for k in 0..len {
        // SAFETY: the caller's.
        unsafe {
            let right = right.add(k * PANEL);
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

/// The highest of `scores` and `least`.
#[inline(always)]
fn highest(scores: &[f32], least: f32) -> f32 {
    let fours = scores.as_chunks().0.iter().map(from_lanes);
    lanes(fours.fold(all_f32(least), max_f32)).into_iter().fold(least, f32::max)
}

/// `target = shrink · target + products`, as far as the target goes.
#[inline(always)]
fn accumulate(target: &mut [f32], shrink: f32, products: [V; 2]) {
    if let Ok(target) = <&mut [f32; PANEL]>::try_from(&mut *target) {
        for (four, products) in target.as_chunks_mut().0.iter_mut().zip(products) {
            *four = lanes(mul_add_f32(all_f32(shrink), from_lanes(four), products));
        }
        return;
    }
    let mut added = [0.0; PANEL];
    write(&mut added, products);
    for (target, added) in target.iter_mut().zip(added) {
        *target = shrink * *target + added;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than two ranges, the last not whole.
    const CONTEXT: usize = 2 * RANGE + 75;
    const PAGES: usize = CONTEXT.div_ceil(BLOCK);

    fn numbers(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|index| ((index * 7919 + seed) % 1009) as f32 / 252.0 - 2.0).collect()
    }

    /// Attention of every position, in steps of `step` rows.
    fn attended(attention: &Attention, threads: usize, step: usize) -> Vec<f32> {
        let Heads { query, kv, size } = attention.heads;
        let (pool, mut cache) = (Pool::new(threads), Cache::new(PAGES, attention.heads, false).unwrap());
        // Pages lie anywhere.
        let pages: Vec<u32> = (0..PAGES as u32).map(|page| page * 7 % PAGES as u32).collect();
        let [queries, keys, values] = inputs(attention.heads);
        let mut out = vec![0.0; queries.len()];
        let mut scratch = Vec::new();
        let width = query * size;
        for first in (0..CONTEXT).step_by(step) {
            let end = CONTEXT.min(first + step);
            for position in first..end {
                let row = position * kv * size..(position + 1) * kv * size;
                cache.store(pages[position / BLOCK], position, &keys[row.clone()], &values[row]);
            }
            let rows = first * width..end * width;
            let (queries, out) = (&queries[rows.clone()], &mut out[rows]);
            let span = Span { pages: pages.clone(), position: first, rows: end - first, ..Span::default() };
            cache.attend(&pool, &span, queries, attention, &mut scratch, out).unwrap();
        }
        out
    }

    fn inputs(Heads { query, kv, size }: Heads) -> [Vec<f32>; 3] {
        [(query, 1), (kv, 2), (kv, 3)].map(|(heads, seed)| numbers(CONTEXT * heads * size, seed))
    }

    /// The same, by definition.
    fn expected(attention: &Attention) -> Vec<f64> {
        let Heads { query, kv, size } = attention.heads;
        let [queries, keys, values] = inputs(attention.heads);
        let mut out = Vec::new();
        for position in 0..CONTEXT {
            for head in 0..query {
                let first = attention.window.map_or(0, |window| (position + 1).saturating_sub(window));
                let last = if attention.causal { position } else { CONTEXT - 1 };
                let shared = |at: usize| (at * kv + head / (query / kv)) * size;
                let q = &queries[(position * query + head) * size..][..size];
                let dot = |at| q.iter().zip(&keys[shared(at)..]).map(|(a, b)| f64::from(a * b)).sum::<f64>();
                let cap = |score: f64| match attention.softcap {
                    Some(cap) => f64::from(cap) * (score / f64::from(cap)).tanh(),
                    None => score,
                };
                let weights: Vec<f64> =
                    (first..=last).map(|at| cap(f64::from(attention.scale) * dot(at)).exp()).collect();
                let total: f64 = weights.iter().sum();
                out.extend((0..size).map(|element| {
                    let weighted = (first..=last).zip(&weights);
                    weighted.map(|(at, weight)| weight * f64::from(values[shared(at) + element])).sum::<f64>()
                        / total
                }));
            }
        }
        out
    }

    #[test]
    fn long_contexts_are_attended_to_whatever_threads_and_steps() {
        let heads = |query, kv, size| Heads { query, kv, size };
        let plain =
            Attention { heads: heads(3, 1, 20), scale: 0.2, softcap: None, window: None, causal: true };
        let cases = [
            plain,
            Attention { window: Some(RANGE + 10), softcap: Some(5.0), ..plain },
            Attention { heads: heads(5, 1, 16), window: Some(40), ..plain },
            Attention { heads: heads(2, 2, 8), causal: false, ..plain },
            Attention { heads: heads(4, 2, 20), window: Some(RANGE / 2), ..plain },
        ];
        for attention in cases {
            let whole = attended(&attention, 1, CONTEXT);
            for (out, expected) in whole.iter().zip(expected(&attention)) {
                assert!((f64::from(*out) - expected).abs() < 2e-5, "{attention:?}: {out} for {expected}");
            }
            // Without causality what a step sees is the step.
            let steps: &[usize] = if attention.causal { &[1, 7, 24, 32, 64] } else { &[] };
            for &step in steps {
                assert!(attended(&attention, 1, step) == whole, "{attention:?}, steps of {step}");
            }
            for threads in [2, 3] {
                assert!(attended(&attention, threads, CONTEXT) == whole, "{attention:?}, {threads} threads");
            }
            if attention.causal {
                assert!(attended(&attention, 3, 1) == whole, "{attention:?}, 3 threads, steps of 1");
            }
        }
    }
}
