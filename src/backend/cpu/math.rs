//! The operations between the matrix products, over plain slices.

use super::super::op::{Activation, Rope, RopePairing};
use super::super::{Top, Wanted};
use super::kernels::float::{exp, from_lanes, lanes, sigmoid};
use super::kernels::simd::{V, add_f32, all_f32, div_f32, max_f32, mul_f32, sub_f32};
use std::cmp::Ordering;
use std::f32::consts::FRAC_1_SQRT_2;

/// Lanes of partial sums: lets the compiler vectorize a reduction, whose order Rust must keep.
const LANES: usize = 8;

pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// `x += y`, as far as `y` goes.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// `ln(1 + eˣ)`, which of large numbers is these.
pub(super) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// Norms a row. (To copy it first and norm that would take V8 longer than the rest.)
pub(super) fn rms_norm(row: &[f32], scale: &[f32], epsilon: f32, out: &mut [f32]) {
    let factor = rms_factor(row, epsilon);
    let columns = out.iter_mut().zip(row.iter().zip(scale));
    columns.for_each(|(out, (value, scale))| *out = value * (factor * scale));
}

/// Norms each run of `scale.len()` numbers.
pub(super) fn rms_norm_runs(values: &mut [f32], scale: &[f32], epsilon: f32) {
    for run in values.chunks_exact_mut(scale.len()) {
        let factor = rms_factor(run, epsilon);
        run.iter_mut().zip(scale).for_each(|(value, scale)| *value *= factor * scale);
    }
}

fn rms_factor(row: &[f32], epsilon: f32) -> f32 {
    1.0 / (dot(row, row) / row.len() as f32 + epsilon).sqrt()
}

/// Norms a row around its mean: Ba, Kiros and Hinton, 2016.
pub(super) fn layer_norm(row: &[f32], scale: &[f32], bias: &[f32], epsilon: f32, out: &mut [f32]) {
    let mean = row.iter().sum::<f32>() / row.len() as f32;
    out.iter_mut().zip(row).for_each(|(out, value)| *out = value - mean);
    let factor = rms_factor(out, epsilon);
    let columns = out.iter_mut().zip(scale.iter().zip(bias));
    columns.for_each(|(value, (scale, bias))| *value = *value * factor * scale + bias);
}

/// Sines and cosines of a step's rotations: every layer needs the same.
#[derive(Default)]
pub(super) struct Rotations {
    /// One for each rope of the model.
    tables: Vec<Table>,
}

struct Table {
    rope: Rope,
    /// Of the rows.
    positions: Vec<usize>,
    /// (sine, cosine), for each row and pair.
    angles: Vec<(f32, f32)>,
}

impl Rotations {
    /// For each of the rows, which are at `positions`: the (sine, cosine) of each pair.
    pub(super) fn angles(
        &mut self,
        positions: impl Iterator<Item = usize> + Clone,
        rope: &Rope,
    ) -> impl Iterator<Item = &[(f32, f32)]> {
        let known = self.tables.iter().position(|table| table.rope == *rope);
        let index = known.unwrap_or_else(|| {
            self.tables.push(Table { rope: rope.clone(), positions: Vec::new(), angles: Vec::new() });
            self.tables.len() - 1
        });
        let table = &mut self.tables[index];
        if !table.positions.iter().copied().eq(positions.clone()) {
            table.positions.clear();
            table.positions.extend(positions);
            table.angles.clear();
            for &position in &table.positions {
                table.angles.extend(rope.frequencies.iter().map(|frequency| {
                    let (sin, cos) = (position as f32 * frequency).sin_cos();
                    (sin * rope.magnitude, cos * rope.magnitude)
                }));
            }
        }
        table.angles.chunks_exact(rope.frequencies.len().max(1))
    }
}

/// Rotates every head of one token.
pub(super) fn rotate(heads: &mut [f32], head_size: usize, angles: &[(f32, f32)], pairing: RopePairing) {
    let rotate = |a: &mut f32, b: &mut f32, (sin, cos): (f32, f32)| {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    };
    for head in heads.chunks_exact_mut(head_size) {
        match pairing {
            RopePairing::Interleaved => {
                for ([a, b], angle) in head.as_chunks_mut().0.iter_mut().zip(angles) {
                    rotate(a, b, *angle);
                }
            }
            RopePairing::Halves => {
                let (first, second) = head.split_at_mut(angles.len());
                for ((a, b), angle) in first.iter_mut().zip(second).zip(angles) {
                    rotate(a, b, *angle);
                }
            }
        }
    }
}

/// Puts `work(x)` in the place of each x.
fn map(values: &mut [f32], work: impl Fn(V) -> V) {
    let (fours, rest) = values.as_chunks_mut::<4>();
    for four in fours {
        *four = lanes(work(from_lanes(four)));
    }
    for value in rest {
        *value = lanes(work(all_f32(*value)))[0];
    }
}

/// `limit · tanh(x / limit)`, as `limit · (2 · sigmoid(2x / limit) − 1)`.
pub(super) fn cap(x: V, limit: f32) -> V {
    let double = sigmoid(mul_f32(x, all_f32(2.0 / limit)));
    sub_f32(mul_f32(double, all_f32(2.0 * limit)), all_f32(limit))
}

/// The same for each of `values`.
pub(super) fn cap_all(values: &mut [f32], limit: f32) {
    map(values, |x| cap(x, limit));
}

/// `gate = act(gate) · up`.
pub(super) fn gate(gate: &mut [f32], up: &[f32], activation: Activation) {
    activate(gate, activation);
    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
}

/// `x = act(x)`.
pub(super) fn activate(x: &mut [f32], activation: Activation) {
    match activation {
        Activation::Silu => map(x, |x| mul_f32(x, sigmoid(x))),
        Activation::Gelu => map(x, gelu),
        Activation::GeluErf => map(x, gelu_erf),
        Activation::SquaredRelu => map(x, |x| {
            let positive = max_f32(x, all_f32(0.0));
            mul_f32(positive, positive)
        }),
    }
}

/// The tanh approximation (Hendrycks and Gimpel, <https://arxiv.org/abs/1606.08415>), which is
/// x · sigmoid(2 · sqrt(2/π) · (x + 0.044715 x³)).
#[inline(always)]
fn gelu(x: V) -> V {
    const FACTOR: f32 = 1.595_769;
    let inner = add_f32(all_f32(FACTOR), mul_f32(all_f32(FACTOR * 0.044715), mul_f32(x, x)));
    mul_f32(x, sigmoid(mul_f32(x, inner)))
}

/// x · Φ(x), which is max(x, 0) − |x| · Φ(−|x|). Φ from formula 7.1.26 of Abramowitz and Stegun, off by 1e-7 at most.
#[inline(always)]
fn gelu_erf(x: V) -> V {
    let (zero, one) = (all_f32(0.0), all_f32(1.0));
    let size = max_f32(x, sub_f32(zero, x));
    let t = div_f32(one, add_f32(one, mul_f32(all_f32(0.327_591_1 * FRAC_1_SQRT_2), size)));
    let mut sum = all_f32(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        sum = add_f32(mul_f32(sum, t), all_f32(coefficient));
    }
    let tail = mul_f32(mul_f32(sum, t), exp(mul_f32(all_f32(-0.5), mul_f32(x, x))));
    sub_f32(max_f32(x, zero), mul_f32(mul_f32(all_f32(0.5), size), tail))
}

/// `eˣ` of each, by basic operations of IEEE 754 alone: the same on every platform.
pub(crate) fn exp_of(x: [f32; 4]) -> [f32; 4] {
    lanes(exp(from_lanes(&x)))
}

/// Scores of a vocabulary that are looked at together: hardly any is among the best.
const RUN: usize = 64;

/// Whether all are numbers below infinity.
fn all_below_infinity(scores: &[f32]) -> bool {
    scores.iter().fold(true, |all, score| all & (*score < f32::INFINITY))
}

/// Whether no score is above `threshold`.
fn none_above(scores: &[f32], threshold: f32) -> bool {
    !scores.iter().fold(false, |any, score| any | (*score > threshold))
}

/// `Σ exp(score − highest)`.
fn sum_of_exp(scores: &[f32], highest: f32) -> f32 {
    let (fours, rest) = scores.as_chunks::<4>();
    let part = |scores: &[f32; 4]| exp(sub_f32(from_lanes(scores), all_f32(highest)));
    let fours = fours.iter().fold(all_f32(0.0), |sum, four| add_f32(sum, part(four)));
    let rest = rest.iter().map(|score| lanes(part(&[*score; 4]))[0]);
    lanes(fours).into_iter().chain(rest).sum()
}

/// See [`crate::backend::Backend::top_k`].
pub(crate) fn top_k(scores: &[f32], wanted: &Wanted, out: &mut Top) {
    let Wanted { count, ref places, sum } = *wanted;
    let higher =
        |a: &(u32, f32), b: &(u32, f32)| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0));
    let best = &mut out.best;
    best.clear();
    out.finite = scores.chunks(RUN).all(all_below_infinity);
    if !out.finite {
        return;
    }
    // With twice as many as wanted the lower half goes. A later score must then beat the lowest of the
    // others; if it only equals that one it loses, because its place is higher.
    let mut threshold = None;
    for (run, scores) in scores.chunks(RUN).enumerate() {
        if threshold.is_some_and(|threshold| none_above(scores, threshold)) {
            continue;
        }
        for (place, &score) in (run * RUN..).zip(scores) {
            if threshold.is_none_or(|threshold| score > threshold) {
                best.push((place as u32, score));
                if best.len() == 2 * count {
                    threshold = Some(best.select_nth_unstable_by(count - 1, higher).1.1);
                    best.truncate(count);
                }
            }
        }
    }
    best.sort_unstable_by(higher);
    best.truncate(count);
    out.picked.clear();
    out.picked.extend(places.iter().map(|&place| scores[place as usize]));
    let highest = best.first().map_or(0.0, |(_, highest)| *highest);
    out.sum = match sum && highest > f32::NEG_INFINITY {
        true => scores.chunks(RUN).map(|run| f64::from(sum_of_exp(run, highest))).sum(),
        false => 0.0,
    };
}
