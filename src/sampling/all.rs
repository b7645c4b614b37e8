//! Drawing from all tokens, where nothing but the temperature decides, as it is by default: no list of candidates, and
//! exponentials four at a time. A vocabulary of 150,000 would else take a tenth of a small model's token.

use super::{Sampler, no_candidate};
use crate::Result;
use crate::backend::cpu::exp_of;

/// Tokens whose weights are summed up together.
pub(super) const RUN: usize = 64;

impl Sampler {
    /// Whether nothing takes tokens out.
    pub(super) fn draws_from_all(&self) -> bool {
        let settings = &self.settings;
        settings.top_k == 0 && settings.typical_p >= 1.0 && settings.top_p >= 1.0 && settings.min_p <= 0.0
    }

    /// Draws by the probabilities of all tokens at the temperature.
    pub(super) fn draw_from_all(&mut self, logits: &[f32]) -> Result<u32> {
        let (runs, rest) = logits.as_chunks::<RUN>();
        let mut last = [f32::NEG_INFINITY; RUN];
        last[..rest.len()].copy_from_slice(rest);
        let runs = || runs.iter().chain([&last]);
        let highest = runs().map(highest).fold(f32::NEG_INFINITY, f32::max);
        if highest == f32::NEG_INFINITY {
            return Err(no_candidate());
        }
        let temperature = self.settings.temperature;
        let mut sums = std::mem::take(&mut self.sums);
        sums.clear();
        sums.extend(runs().map(|run| sum(&weights(run, highest, temperature))));
        let target = self.unit() * sums.iter().sum::<f64>();
        // The last ones with any weight are kept as the answer in case rounding leaves the total below the target.
        let (mut passed, mut place) = (0.0, 0);
        for (index, sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
            place = index;
            if passed + sum > target {
                break;
            }
            passed += sum;
        }
        self.sums = sums;
        let run = runs().nth(place).ok_or_else(no_candidate)?;
        let mut chosen = None;
        for (index, weight) in weights(run, highest, temperature).into_iter().enumerate() {
            if weight > 0.0 {
                chosen = Some((RUN * place + index) as u32);
                passed += f64::from(weight);
                if passed > target {
                    break;
                }
            }
        }
        chosen.ok_or_else(no_candidate)
    }
}

fn highest(run: &[f32; RUN]) -> f32 {
    let lanes = run.as_chunks::<8>().0.iter().fold([f32::NEG_INFINITY; 8], |highest, eight| {
        std::array::from_fn(|lane| if eight[lane] > highest[lane] { eight[lane] } else { highest[lane] })
    });
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

/// `exp((logit − highest) / temperature)`: the probabilities but for a common factor.
pub(super) fn weights(run: &[f32; RUN], highest: f32, temperature: f32) -> [f32; RUN] {
    let mut weights = [0.0; RUN];
    for (weights, logits) in weights.as_chunks_mut::<4>().0.iter_mut().zip(run.as_chunks::<4>().0) {
        *weights = exp_of(logits.map(|logit| (logit - highest) / temperature));
    }
    weights
}

fn sum(weights: &[f32; RUN]) -> f64 {
    let fours = weights.as_chunks::<4>().0.iter();
    let lanes =
        fours.fold([0.0; 4], |sums: [f32; 4], four| std::array::from_fn(|lane| sums[lane] + four[lane]));
    lanes.into_iter().map(f64::from).sum()
}
