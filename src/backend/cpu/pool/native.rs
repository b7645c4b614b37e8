//! Helpers as threads of the system.

use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU32;
use std::thread::{Builder, JoinHandle};

/// Threads that run at a time here; `RAYON_NUM_THREADS` may say fewer, as it does to candle.
pub(super) fn cores() -> usize {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|count| count.parse().ok());
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, NonZeroUsize::get))
}

pub(super) struct Helper(JoinHandle<()>);

/// Nothing where the system refuses a thread. A panic is caught by the work itself: no helper crashes.
pub(super) fn start(
    index: usize,
    _crashed: &AtomicU32,
    help: impl FnOnce() + Send + 'static,
) -> Option<Helper> {
    Builder::new().name(format!("candlewick-{index}")).spawn(help).ok().map(Helper)
}

impl Helper {
    pub(super) async fn started(&mut self) {}

    pub(super) fn runs(&self) -> bool {
        true
    }

    pub(super) fn join(self) {
        // It cannot have panicked, and if it has, there is nothing to do about it.
        _ = self.0.join();
    }
}
