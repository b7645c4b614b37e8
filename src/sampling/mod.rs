//! From logits to a token.
//!
//! The order, and what each setting means, are llama.cpp's: logit bias → penalties → top_k →
//! typical_p → top_p → min_p → temperature → a draw.
//!
//! The same settings, seed and logits give the same tokens on every platform: randomness comes from
//! ChaCha8, and arithmetic is IEEE 754 basic operations plus `exp` and `log` made of these, from `libm` and from our
//! kernels, rather than whatever the platform's own library gives.

mod all;
mod settings;
mod top;

pub use settings::Sampling;

use crate::{Error, Result};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

/// How many candidates a cumulative filter sorts first; four times as many each further time.
const FIRST_SORT: usize = 64;

/// A token that may still be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    /// exp(logit − the largest logit): the probability but for a common factor.
    weight: f32,
    /// What typical_p sorts by.
    surprise: f32,
}

/// The most likely first, then the lowest id. No logit is NaN here.
fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

/// Draws tokens; keeps the random state and the penalties' window of one generation.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Sampling,
    vocabulary: usize,
    seed: u64,
    rng: ChaCha8Rng,
    window: Window,
    /// Kept between calls for its memory.
    candidates: Vec<Candidate>,
    /// The same: of the weights of runs of tokens.
    sums: Vec<f64>,
}

impl Sampler {
    /// Checks `settings` for a model with `vocabulary` tokens. Without a seed it takes a random one.
    pub fn new(settings: &Sampling, vocabulary: usize) -> Result<Self> {
        settings.validate()?;
        if let Some(id) = settings.logit_bias.keys().find(|&&id| id as usize >= vocabulary) {
            return Err(Error::invalid_argument(format!(
                "logit_bias names token {id}, but the model has only {vocabulary} tokens"
            )));
        }
        let seed = match settings.seed {
            Some(seed) => seed,
            None => random_seed()?,
        };
        Ok(Sampler {
            settings: settings.clone(),
            vocabulary,
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
            window: Window::new(settings),
            candidates: Vec::new(),
            sums: Vec::new(),
        })
    }

    /// The seed in use, for repeating this generation.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Starts the random numbers over from `seed`.
    pub fn reseed(&mut self, seed: u64) {
        self.seed = seed;
        self.rng = ChaCha8Rng::seed_from_u64(seed);
    }

    /// Enters a token, of the prompt or generated, into the window of the penalties.
    pub fn accept(&mut self, token: u32) {
        if (token as usize) < self.vocabulary {
            self.window.push(token);
        }
    }

    /// Draws the next token. `logits` has one value a token, and is changed.
    ///
    /// It does not [`accept`](Self::accept) the token. Fails with `corrupt_model` if a logit is NaN or +∞.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<u32> {
        if logits.len() != self.vocabulary {
            return Err(Error::internal(format!("{} logits for {} tokens", logits.len(), self.vocabulary)));
        }
        // Not `all` of single ones, which looks at one after the other.
        let below_infinity = |run: &[f32]| run.iter().fold(true, |all, logit| all & (*logit < f32::INFINITY));
        if !logits.chunks(64).all(below_infinity) {
            return Err(not_finite());
        }
        self.adjust(logits);
        if self.settings.temperature == 0.0 {
            return argmax(logits);
        }
        if self.draws_from_all() {
            return self.draw_from_all(logits);
        }
        self.collect(logits);
        if self.candidates.is_empty() {
            return Err(no_candidate());
        }
        self.typical();
        self.top_p();
        self.min_p();
        self.draw()
    }

    /// Adds the biases and applies the penalties.
    fn adjust(&self, logits: &mut [f32]) {
        for id in self.touched() {
            logits[id as usize] = self.adjusted(id, logits[id as usize]);
        }
    }

    /// The tokens that biases and penalties touch, in order.
    fn touched(&self) -> Vec<u32> {
        let mut ids: Vec<u32> =
            self.settings.logit_bias.keys().chain(self.window.counts.keys()).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// A token's logit with its bias and penalties.
    fn adjusted(&self, id: u32, mut logit: f32) -> f32 {
        // Extreme settings may overflow; infinite logits would make NaN probabilities.
        let bounded = |logit: f32| logit.min(f32::MAX);
        if let Some(bias) = self.settings.logit_bias.get(&id) {
            logit = bounded(logit + bias);
        }
        if let Some(&count) = self.window.counts.get(&id) {
            let Sampling { repeat_penalty, presence_penalty, frequency_penalty, .. } = self.settings;
            logit = if logit <= 0.0 { logit * repeat_penalty } else { logit / repeat_penalty };
            logit = bounded(logit - (count as f32 * frequency_penalty + presence_penalty));
        }
        logit
    }

    /// Makes the candidates: all possible tokens in the order of their ids, or the `top_k` most likely.
    fn collect(&mut self, logits: &[f32]) {
        let candidates = &mut self.candidates;
        candidates.clear();
        let k = match self.settings.top_k as usize {
            0 => usize::MAX,
            k => k,
        };
        // With 2k candidates the lower half goes. A later token must then beat the worst of the best k;
        // if it only equals that one it loses, because its id is higher.
        let mut threshold = f32::NEG_INFINITY;
        for (id, &logit) in logits.iter().enumerate() {
            if logit > threshold {
                candidates.push(Candidate { id: id as u32, logit, weight: 0.0, surprise: 0.0 });
                if candidates.len() == k.saturating_mul(2) {
                    threshold = candidates.select_nth_unstable_by(k - 1, likelier).1.logit;
                    candidates.truncate(k);
                }
            }
        }
        if k != usize::MAX {
            candidates.sort_unstable_by(likelier);
            candidates.truncate(k);
        }
    }

    /// Sets the weights, at `temperature`; gives their sum, and the largest logit.
    fn weigh(&mut self, temperature: f32) -> (f64, f32) {
        let highest = self.candidates.iter().fold(f32::NEG_INFINITY, |highest, c| highest.max(c.logit));
        let mut sum = 0.0;
        for candidate in &mut self.candidates {
            candidate.weight = libm::expf((candidate.logit - highest) / temperature);
            sum += f64::from(candidate.weight);
        }
        (sum, highest)
    }

    /// Locally typical sampling (Meister et al., 2022): keeps the tokens whose surprise is nearest to
    /// the entropy, until their probabilities sum to more than `typical_p`.
    fn typical(&mut self) {
        let typical_p = f64::from(self.settings.typical_p);
        if typical_p >= 1.0 {
            return;
        }
        let (sum, highest) = self.weigh(1.0);
        // −ln p = ln(sum) − (logit − highest)
        let log_sum = libm::log(sum);
        let surprise = |c: &Candidate| log_sum - f64::from(c.logit - highest);
        let entropy: f64 = (self.candidates.iter())
            .filter(|c| c.weight > 0.0)
            .map(|c| f64::from(c.weight) / sum * surprise(c))
            .sum();
        for candidate in &mut self.candidates {
            candidate.surprise = (surprise(candidate) - entropy).abs() as f32;
        }
        let nearest = |a: &Candidate, b: &Candidate| a.surprise.total_cmp(&b.surprise).then(likelier(a, b));
        keep_until(&mut self.candidates, nearest, |kept| kept > typical_p * sum);
    }

    /// Nucleus sampling (Holtzman et al., 2020): keeps the most likely tokens, until their
    /// probabilities sum to `top_p`.
    fn top_p(&mut self) {
        let top_p = f64::from(self.settings.top_p);
        if top_p >= 1.0 {
            return;
        }
        let (sum, _) = self.weigh(1.0);
        keep_until(&mut self.candidates, likelier, |kept| kept >= top_p * sum);
    }

    /// Drops tokens less than `min_p` times as likely as the likeliest.
    fn min_p(&mut self) {
        if self.settings.min_p <= 0.0 {
            return;
        }
        let lowest = self.min_p_limit();
        self.candidates.retain(|candidate| candidate.logit >= lowest);
    }

    /// The lowest logit that [`Sampler::min_p`] keeps.
    fn min_p_limit(&self) -> f32 {
        let highest = self.candidates.iter().fold(f32::NEG_INFINITY, |highest, c| highest.max(c.logit));
        highest + libm::logf(self.settings.min_p)
    }

    /// From 0 to below 1. One call takes 64 bits from the generator.
    fn unit(&mut self) -> f64 {
        (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Draws by the probabilities at the temperature.
    fn draw(&mut self) -> Result<u32> {
        let (sum, _) = self.weigh(self.settings.temperature);
        let target = self.unit() * sum;
        let mut passed = 0.0;
        let mut chosen = None;
        for candidate in self.candidates.iter().filter(|candidate| candidate.weight > 0.0) {
            // Kept as the answer in case rounding leaves the total below the target.
            chosen = Some(candidate.id);
            passed += f64::from(candidate.weight);
            if passed > target {
                break;
            }
        }
        chosen.ok_or_else(no_candidate)
    }
}

fn not_finite() -> Error {
    Error::corrupt_model("the model gave a logit that is not a finite number: its weights are damaged")
}

fn no_candidate() -> Error {
    Error::internal("every token is excluded: all logits are −∞")
}

/// The index of the largest logit; the first of equal ones.
fn argmax(logits: &[f32]) -> Result<u32> {
    let mut best = (f32::NEG_INFINITY, None);
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.0 {
            best = (logit, Some(id as u32));
        }
    }
    best.1.ok_or_else(no_candidate)
}

/// Keeps the first candidates by `order`, through the one with which their weights' sum is `enough`.
/// Sorts only as much of the front as that takes: usually a few dozen of 150,000.
fn keep_until(
    candidates: &mut Vec<Candidate>,
    order: impl Fn(&Candidate, &Candidate) -> Ordering,
    enough: impl Fn(f64) -> bool,
) {
    let mut sum = 0.0;
    let mut sorted = 0;
    let mut more = FIRST_SORT;
    while sorted < candidates.len() {
        let end = (sorted + more).min(candidates.len());
        if end < candidates.len() {
            candidates[sorted..].select_nth_unstable_by(end - sorted, &order);
        }
        candidates[sorted..end].sort_unstable_by(&order);
        for index in sorted..end {
            sum += f64::from(candidates[index].weight);
            if enough(sum) {
                candidates.truncate(index + 1);
                return;
            }
        }
        sorted = end;
        more *= 4;
    }
}

/// A random seed that JavaScript numbers hold exactly.
fn random_seed() -> Result<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal(format!("the system gives no random numbers: {error}")))?;
    Ok(u64::from_le_bytes(bytes) >> 11)
}

/// The tokens that are penalized, with how often each occurs.
#[derive(Debug, Clone)]
struct Window {
    counts: HashMap<u32, u32>,
    /// In order of arrival; unused when the window has no end.
    recent: VecDeque<u32>,
    length: usize,
}

impl Window {
    fn new(settings: &Sampling) -> Self {
        let length = match settings.penalizes() {
            true => usize::try_from(settings.repeat_last_n).unwrap_or(usize::MAX),
            false => 0,
        };
        Window { counts: HashMap::new(), recent: VecDeque::new(), length }
    }

    fn push(&mut self, token: u32) {
        if self.length == 0 {
            return;
        }
        *self.counts.entry(token).or_default() += 1;
        if self.length == usize::MAX {
            return;
        }
        self.recent.push_back(token);
        if self.recent.len() > self.length
            && let Some(old) = self.recent.pop_front()
            && let Some(count) = self.counts.get_mut(&old)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&old);
            }
        }
    }
}

#[cfg(test)]
mod tests;
