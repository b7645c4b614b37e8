//! The operations between the matrix products, over plain slices.

use super::super::{Activation, Attention, Rope, RopePairing, Top, Wanted};
use std::cmp::Ordering;

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

/// `x += factor · y`.
fn add_scaled(x: &mut [f32], factor: f32, y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += factor * y);
}

/// Norms each run of `scale.len()` numbers.
pub(super) fn rms_norm(values: &mut [f32], scale: &[f32], epsilon: f32) {
    for row in values.chunks_exact_mut(scale.len()) {
        let mean_square = dot(row, row) / row.len() as f32;
        let factor = 1.0 / (mean_square + epsilon).sqrt();
        row.iter_mut().zip(scale).for_each(|(value, scale)| *value *= factor * scale);
    }
}

/// Norms each run of `scale.len()` numbers around their mean: Ba, Kiros and Hinton, 2016.
pub(super) fn layer_norm(values: &mut [f32], scale: &[f32], bias: &[f32], epsilon: f32) {
    for row in values.chunks_exact_mut(scale.len()) {
        let mean = row.iter().sum::<f32>() / row.len() as f32;
        row.iter_mut().for_each(|value| *value -= mean);
        let factor = 1.0 / (dot(row, row) / row.len() as f32 + epsilon).sqrt();
        let columns = row.iter_mut().zip(scale.iter().zip(bias));
        columns.for_each(|(value, (scale, bias))| *value = *value * factor * scale + bias);
    }
}

/// Rotates every head of one token.
pub(super) fn rotate(heads: &mut [f32], head_size: usize, position: usize, rope: &Rope) {
    let pairs = rope.frequencies.len();
    for (pair, frequency) in rope.frequencies.iter().enumerate() {
        let (sin, cos) = (position as f32 * frequency).sin_cos();
        let (sin, cos) = (sin * rope.magnitude, cos * rope.magnitude);
        let (first, second) = match rope.pairing {
            RopePairing::Interleaved => (2 * pair, 2 * pair + 1),
            RopePairing::Halves => (pair, pair + pairs),
        };
        for head in heads.chunks_exact_mut(head_size) {
            let (a, b) = (head[first], head[second]);
            head[first] = a * cos - b * sin;
            head[second] = a * sin + b * cos;
        }
    }
}

/// One query head at `position` over the cache, by online softmax: one pass, no scores kept.
/// Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.
pub(super) fn attend(
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    kv_head: usize,
    position: usize,
    attention: &Attention,
    out: &mut [f32],
) {
    let size = attention.heads.size;
    let stride = attention.heads.kv * size;
    let first = attention.window.map_or(0, |window| (position + 1).saturating_sub(window));
    let (mut maximum, mut sum) = (f32::NEG_INFINITY, 0.0);
    out.fill(0.0);
    for seen in first..=position {
        let offset = seen * stride + kv_head * size;
        let mut score = attention.scale * dot(query, &keys[offset..offset + size]);
        if let Some(cap) = attention.softcap {
            score = cap * (score / cap).tanh();
        }
        if score > maximum {
            let shrink = (maximum - score).exp();
            sum *= shrink;
            out.iter_mut().for_each(|value| *value *= shrink);
            maximum = score;
        }
        let weight = (score - maximum).exp();
        sum += weight;
        add_scaled(out, weight, &values[offset..offset + size]);
    }
    out.iter_mut().for_each(|value| *value /= sum);
}

/// `gate = act(gate) · up`.
pub(super) fn gate(gate: &mut [f32], up: &[f32], activation: Activation) {
    activate(gate, activation);
    gate.iter_mut().zip(up).for_each(|(gate, up)| *gate *= up);
}

/// `x = act(x)`.
pub(super) fn activate(x: &mut [f32], activation: Activation) {
    match activation {
        Activation::Silu => x.iter_mut().for_each(|x| *x /= 1.0 + (-*x).exp()),
        Activation::Gelu => x.iter_mut().for_each(|x| *x = gelu(*x)),
    }
}

/// The tanh approximation: Hendrycks and Gimpel, <https://arxiv.org/abs/1606.08415>.
fn gelu(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)).tanh())
}

/// See [`crate::backend::Backend::top_k`].
pub(crate) fn top_k(scores: &[f32], wanted: &Wanted, out: &mut Top) {
    let Wanted { count, ref places, sum } = *wanted;
    let higher =
        |a: &(u32, f32), b: &(u32, f32)| b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal).then(a.0.cmp(&b.0));
    let best = &mut out.best;
    best.clear();
    out.finite = scores.iter().all(|score| !score.is_nan() && *score < f32::INFINITY);
    if !out.finite {
        return;
    }
    // With twice as many as wanted the lower half goes. A later score must then beat the lowest of the
    // others; if it only equals that one it loses, because its place is higher.
    let mut threshold = None;
    for (place, &score) in (0..).zip(scores) {
        if threshold.is_none_or(|threshold| score > threshold) {
            best.push((place, score));
            if best.len() == 2 * count {
                threshold = Some(best.select_nth_unstable_by(count - 1, higher).1.1);
                best.truncate(count);
            }
        }
    }
    best.sort_unstable_by(higher);
    best.truncate(count);
    out.picked.clear();
    out.picked.extend(places.iter().map(|&place| scores[place as usize]));
    let highest = best.first().map_or(0.0, |(_, highest)| *highest);
    out.sum = match sum && highest > f32::NEG_INFINITY {
        true => scores.iter().map(|score| f64::from((score - highest).exp())).sum(),
        false => 0.0,
    };
}

/// Calls `work(index, piece)` for each `width` numbers of `out`, on every core.
pub(super) fn parallel_rows(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let pieces = out.len() / width;
    let start = SendPointer(out.as_mut_ptr());
    candle_core::utils::barrier_pool().execute_chunked(pieces, |range| {
        let start = &start;
        for index in range {
            // SAFETY: pieces lie within `out` and do not overlap, and the pool gives each index
            // to one worker and returns when all are done.
            let piece = unsafe { std::slice::from_raw_parts_mut(start.0.add(index * width), width) };
            work(index, piece);
        }
    });
}

struct SendPointer(*mut f32);
// SAFETY: see `parallel_rows`.
unsafe impl Sync for SendPointer {}
