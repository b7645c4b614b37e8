//! How many threads are the fastest here and now.

use super::super::math::dot;
use super::Pool;
use crate::Result;
use std::sync::atomic::Ordering::SeqCst;
use web_time::Instant;

/// Floats that the measured work goes over: more than a core's own caches hold, as weights are.
const FLOATS: usize = 1 << 19;
const PIECES: usize = 64;
/// The fastest counts: what else the machine does makes the others slower.
const ROUNDS: usize = 8;
/// Another thread must save at least this share of the time.
const GAIN: f64 = 0.05;

impl Pool {
    /// Measures for some milliseconds, and from then on works with the number of threads that was the fastest. The
    /// others end.
    pub(crate) fn tune(&self) -> Result<()> {
        let most = self.threads();
        if most == 1 {
            return Ok(());
        }
        let numbers = vec![1.0; FLOATS];
        let (mut best, mut least) = (1, f64::INFINITY);
        let counts = (0..).map(|step| (2 + step % 2) << (step / 2)).take_while(|count| *count < most);
        for threads in [1].into_iter().chain(counts).chain([most]) {
            self.shared.limit.store(threads, SeqCst);
            let seconds = self.measure(&numbers)?;
            if seconds < least * (1.0 - GAIN) {
                (best, least) = (threads, seconds);
            }
        }
        self.keep(best);
        Ok(())
    }

    fn measure(&self, numbers: &[f32]) -> Result<f64> {
        let mut least = f64::INFINITY;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            self.each(PIECES, FLOATS / PIECES, |piece| {
                let numbers = &numbers[piece * (FLOATS / PIECES)..][..FLOATS / PIECES];
                std::hint::black_box(dot(numbers, numbers));
            })?;
            least = start.elapsed().as_secs_f64().min(least);
        }
        Ok(least)
    }
}
