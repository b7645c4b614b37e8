//! Which form of a kernel is the faster one here, where there are two.
//!
//! Relaxed SIMD multiplies four columns at once where the processor has an instruction for that. Where it has none,
//! browsers put two or three in its place, and for some types of matrices plain SIMD is faster: a type of which a model has
//! matrices is measured once, for some milliseconds.

use super::blocks::{Blocks, packed_as};
use super::kernels::input::Input;
use super::kernels::quants::{Pairs, Quads};
use super::pool::Pool;
use crate::format::gguf::TensorType;
use crate::{Error, Result};
use std::cell::RefCell;
use std::time::Duration;
use web_time::Instant;

/// Of the measured matrix: small enough for a core's own caches. How fast memory is, is the same for both forms.
const ROWS: usize = 256;
const COLUMNS: usize = 1024;
/// Of the input, as in a step through a prompt.
const PROMPT: usize = 64;
/// Products with one column that are measured together: one is about as short as clocks of browsers are coarse.
const ANSWERS: usize = 16;
/// Browsers replace code by faster code while it runs: it is measured until it has not become faster for so long.
const CALM: Duration = Duration::from_millis(8);
const LIMIT: Duration = Duration::from_millis(60);
/// The shortest of fewer times may be one in which the machine did something else.
const LEAST_ROUNDS: usize = 5;
/// The form that is the faster one on most processors is taken unless the other one saves at least this share of the time.
const GAIN: f64 = 0.05;

thread_local! {
    static MEASURED: RefCell<Vec<(TensorType, bool)>> = const { RefCell::new(Vec::new()) };
}

/// Whether plain SIMD's form is the faster one for this type. Measured at the first call.
pub(super) fn pairs_are_faster(kind: TensorType) -> bool {
    let known = MEASURED.with_borrow(|all| all.iter().find(|(of, _)| *of == kind).map(|(_, faster)| *faster));
    known.unwrap_or_else(|| {
        // Where it cannot be measured, it does not matter.
        let faster = saved(kind).is_ok_and(|saved| saved > GAIN);
        MEASURED.with_borrow_mut(|all| all.push((kind, faster)));
        faster
    })
}

/// The share of the time that pairs save, or minus what they cost: prompts and answers count the same.
fn saved(kind: TensorType) -> Result<f64> {
    // These have one form.
    if let TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::NVFP4 = kind {
        return Ok(0.0);
    }
    let missing = || Error::internal(format!("{} is not packed", kind.name()));
    let mut pairs = Timed::new(packed_as::<Pairs>(kind, ROWS, COLUMNS).ok_or_else(missing)??);
    let mut quads = Timed::new(packed_as::<Quads>(kind, ROWS, COLUMNS).ok_or_else(missing)??);
    let start = Instant::now();
    let mut faster = start;
    let mut rounds = 0;
    while rounds < LEAST_ROUNDS || (faster.elapsed() < CALM && start.elapsed() < LIMIT) {
        rounds += 1;
        // In turns, so that what else the machine does hits both.
        if pairs.measure()? | quads.measure()? {
            faster = Instant::now();
        }
    }
    let ratio = pairs.prompt / quads.prompt * (pairs.answer / quads.answer);
    Ok(1.0 - ratio.sqrt())
}

/// A matrix, and the shortest times that products with it took, in seconds.
struct Timed {
    matrix: Box<dyn Blocks>,
    pool: Pool,
    numbers: Vec<f32>,
    rounded: Input,
    out: Vec<f32>,
    prompt: f64,
    answer: f64,
}

impl Timed {
    fn new(matrix: Box<dyn Blocks>) -> Self {
        Timed {
            matrix,
            pool: Pool::default(),
            numbers: vec![1.0; PROMPT * COLUMNS],
            rounded: Input::default(),
            out: vec![0.0; PROMPT * ROWS],
            prompt: f64::INFINITY,
            answer: f64::INFINITY,
        }
    }

    /// Whether either has become noticeably faster.
    fn measure(&mut self) -> Result<bool> {
        let prompt = self.time(PROMPT, 1)?;
        let answer = self.time(1, ANSWERS)?;
        let faster = prompt < self.prompt * (1.0 - GAIN) || answer < self.answer * (1.0 - GAIN);
        self.prompt = self.prompt.min(prompt);
        self.answer = self.answer.min(answer);
        Ok(faster)
    }

    fn time(&mut self, columns: usize, times: usize) -> Result<f64> {
        // What becomes of the input is measured, too: it differs.
        self.rounded.forget();
        let (input, out) = (&self.numbers[..columns * COLUMNS], &mut self.out[..columns * ROWS]);
        let start = Instant::now();
        for _ in 0..times {
            self.matrix.multiply(&self.pool, columns, input, &mut self.rounded, out)?;
        }
        // No clock that stands still makes a form endlessly fast.
        Ok(start.elapsed().as_secs_f64().max(1e-9))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_kept() {
        for kind in [TensorType::Q4_0, TensorType::Q8_0, TensorType::Q6_K] {
            let saved = saved(kind).unwrap();
            assert!(saved.is_finite() && saved < 1.0, "{}: {saved} saved", kind.name());
            let faster = pairs_are_faster(kind);
            assert!(
                MEASURED.with_borrow(|all| all.contains(&(kind, faster))),
                "{} was not kept",
                kind.name()
            );
            assert_eq!(pairs_are_faster(kind), faster);
        }
        assert_eq!(MEASURED.with_borrow(Vec::len), 3);
    }

    #[test]
    fn types_of_one_form_are_not_measured() {
        for kind in [TensorType::F32, TensorType::F16, TensorType::BF16, TensorType::NVFP4] {
            assert_eq!(saved(kind).unwrap(), 0.0);
        }
    }
}
