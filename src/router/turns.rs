//! Models that compute on this thread leave nobody a turn: neither transfers, nor whoever wants to abort.

use crate::http::sleep;
use std::time::Duration;
use web_time::Instant;

/// How long one works before others get a turn.
const TURN: Duration = Duration::from_millis(20);

/// Since when one has worked.
pub(super) struct Turns(Instant);

impl Turns {
    pub fn new() -> Turns {
        Turns(Instant::now())
    }

    /// Lets others work where that is due.
    pub async fn pause(&mut self) {
        if self.0.elapsed() > TURN {
            sleep(Duration::ZERO).await;
            self.0 = Instant::now();
        }
    }
}
