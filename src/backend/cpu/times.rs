//! Where the time goes, for those who ask.

use super::super::KernelTime;
use std::cell::RefCell;
use web_time::Instant;

/// Adds up the time of operations by their names. Off, it costs nothing.
#[derive(Default)]
pub(super) struct Times(Option<RefCell<Vec<KernelTime>>>);

impl Times {
    pub(super) fn on() -> Self {
        Times(Some(RefCell::default()))
    }

    pub(super) fn start(&self) -> Option<Instant> {
        self.0.as_ref().map(|_| Instant::now())
    }

    pub(super) fn stop(&self, started: Option<Instant>, name: impl FnOnce() -> String) {
        let (Some(times), Some(started)) = (&self.0, started) else { return };
        let (mut times, kernel) = (times.borrow_mut(), name());
        let index = times.iter().position(|time| time.kernel == kernel).unwrap_or_else(|| {
            times.push(KernelTime { kernel, ..KernelTime::default() });
            times.len() - 1
        });
        times[index].calls += 1;
        times[index].nanoseconds += started.elapsed().as_nanos() as u64;
    }

    /// All since the last call, longest first.
    pub(super) fn take(&mut self) -> Vec<KernelTime> {
        let mut times = self.0.as_mut().map(|times| std::mem::take(times.get_mut())).unwrap_or_default();
        times.sort_by_key(|time| std::cmp::Reverse(time.nanoseconds));
        times
    }
}
