//! Cooperative yielding: lets the event loop run between slices of computation, for transfers, and for whoever wants to
//! abort.

use crate::http::sleep;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;
use web_time::Instant;

/// How long one works before others get a turn.
const TURN: Duration = Duration::from_millis(20);

/// Steps of [`Turns::step`] between two looks at the clock.
const STEPS: u32 = 1 << 12;

/// Lets other tasks of this thread go on that can: pending once.
pub(crate) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| match std::mem::replace(&mut yielded, true) {
        true => Poll::Ready(()),
        false => {
            context.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

/// Since when one has worked.
pub(crate) struct Turns {
    since: Option<Instant>,
    steps: u32,
}

impl Turns {
    pub(crate) fn new() -> Turns {
        Turns { since: Some(Instant::now()), steps: 0 }
    }

    /// For who cannot wait: it never pauses.
    pub(crate) fn none() -> Turns {
        Turns { since: None, steps: 0 }
    }

    /// Lets others work where that is due.
    pub(crate) async fn pause(&mut self) {
        if self.since.is_some_and(|since| since.elapsed() > TURN) {
            sleep(Duration::ZERO).await;
            self.since = Some(Instant::now());
        }
    }

    /// As [`pause`](Self::pause), for steps of a microsecond or less.
    pub(crate) async fn step(&mut self) {
        self.steps += 1;
        if self.steps == STEPS {
            self.steps = 0;
            self.pause().await;
        }
    }
}
