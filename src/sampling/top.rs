//! Drawing from the likeliest tokens alone, where that gives what drawing from all would give.
//!
//! Biases and penalties touch known tokens, whose logits are asked for. Of the others only the highest can
//! matter to greedy choice and to `top_k`. What `top_p` and `min_p` keep is known where it ends before
//! the last logit that was read; for `top_p` the sum over all tokens must be certain enough to
//! say so. Everywhere else all logits are needed.

use super::{Candidate, Sampler, likelier, no_candidate, not_finite};
use crate::Result;
use crate::backend::{Top, Wanted};
use std::ops::RangeInclusive;

/// Candidates to ask for where only `top_p` or `min_p` says how many there are.
const CANDIDATES: usize = 192;

impl Sampler {
    /// What [`Sampler::sample_top`] has to know; `None` where only all logits will do.
    pub fn wanted(&self) -> Option<Wanted> {
        let settings = &self.settings;
        let open = settings.top_k == 0 && settings.temperature > 0.0;
        let count = match settings.top_k as usize {
            _ if settings.temperature == 0.0 => 1,
            0 if settings.typical_p < 1.0 || (settings.top_p >= 1.0 && settings.min_p <= 0.0) => return None,
            0 => CANDIDATES,
            k => k,
        };
        let places = self.touched();
        // Every touched token may turn out to be one of the highest, and then to fall behind.
        let count = count.checked_add(places.len()).filter(|count| *count <= Wanted::MOST)?;
        Some(Wanted { count, places, sum: open && settings.top_p < 1.0 })
    }

    /// As [`Sampler::sample`], from what [`Sampler::wanted`] asked for. `None`: this time it takes all logits.
    pub fn sample_top(&mut self, top: &Top) -> Result<Option<u32>> {
        if !top.finite {
            return Err(not_finite());
        }
        let touched = self.touched();
        let candidate = |id, logit| Candidate { id, logit, weight: 0.0, surprise: 0.0 };
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        candidates
            .extend(touched.iter().zip(&top.picked).map(|(&id, &raw)| candidate(id, self.adjusted(id, raw))));
        let untouched = top.best.iter().filter(|(id, _)| touched.binary_search(id).is_err());
        candidates.extend(untouched.map(|&(id, logit)| candidate(id, logit)));
        candidates.retain(|candidate| candidate.logit > f32::NEG_INFINITY);
        candidates.sort_unstable_by(likelier);
        self.candidates = candidates;
        let Some(first) = self.candidates.first() else { return Err(no_candidate()) };
        if self.settings.temperature == 0.0 {
            return Ok(Some(first.id));
        }
        // What was not read is no higher.
        let floor = match top.best.last() {
            Some((_, lowest)) if top.best.len() < self.vocabulary => *lowest,
            _ => f32::NEG_INFINITY,
        };
        if self.settings.top_k > 0 {
            self.candidates.truncate(self.settings.top_k as usize);
            self.typical();
            self.top_p();
        } else if self.settings.top_p < 1.0 {
            let sum = self.bounds_of_sum(top, &touched, first.logit);
            if !self.top_p_above(floor, sum) {
                return Ok(None);
            }
        } else {
            if floor >= self.min_p_limit() {
                return Ok(None);
            }
            // As they are when all are candidates: the draw goes by their order.
            self.candidates.sort_unstable_by_key(|candidate| candidate.id);
        }
        self.min_p();
        self.draw().map(Some)
    }

    /// Between what the weights of all tokens sum to, relative to the `highest` adjusted logit.
    fn bounds_of_sum(&self, top: &Top, touched: &[u32], highest: f32) -> RangeInclusive<f64> {
        let highest_read = top.best.first().map_or(highest, |(_, logit)| *logit);
        let weight = |logit: f32, highest: f32| libm::exp(f64::from(logit) - f64::from(highest));
        let (mut before, mut after) = (0.0, 0.0);
        for (&id, &raw) in touched.iter().zip(&top.picked) {
            before += weight(raw, highest_read);
            after += weight(self.adjusted(id, raw), highest);
        }
        // Infinite or no number where everything that was high has been pushed far down: nothing is certain then.
        let scale = weight(highest_read, highest);
        let error = Top::SUM_ERROR * (top.sum * scale + after);
        let sum = (top.sum - before) * scale + after;
        sum - error..=sum + error
    }

    /// [`Sampler::top_p`] with the sum known only within bounds, and logits only above `floor`. Gives false
    /// where that leaves open what is kept.
    fn top_p_above(&mut self, floor: f32, sum: RangeInclusive<f64>) -> bool {
        let top_p = f64::from(self.settings.top_p);
        self.weigh(1.0);
        let mut kept = 0.0;
        for index in 0..self.candidates.len() {
            let Candidate { logit, weight, .. } = self.candidates[index];
            if logit <= floor {
                return false;
            }
            kept += f64::from(weight);
            if kept >= top_p * sum.end() {
                self.candidates.truncate(index + 1);
                return true;
            }
            // Not `>=`: the bounds may be no numbers.
            let too_few = kept < top_p * sum.start();
            if !too_few {
                return false;
            }
        }
        false
    }
}
