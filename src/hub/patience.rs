//! When a request for models is made again, and who hears of it.

use super::client::Client;
use crate::Result;
use crate::http::{Again, Backoff, Failure, Retrying, given_up, sleep};
use std::time::Duration;
use web_time::Instant;

/// Waits between the attempts of one request: half a second, doubling to half a minute, eight attempts in a row.
pub(super) fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(500), Duration::from_secs(30), 8)
}

/// Attempts while no server has answered anything, which may be because there is no network.
const FIRST_ATTEMPTS: u32 = 3;
/// Attempts where the Hub has answered, and only the server of its files is out of reach.
const FILE_ATTEMPTS: u32 = 5;
/// None of these begins later.
const FIRST_CONTACT: Duration = Duration::from_secs(10);
/// How long each of them waits for an answer's head, connecting included.
pub(super) const FIRST_ANSWER: Duration = Duration::from_secs(6);

/// The attempts of one request.
pub(super) struct Patience<'a> {
    client: &'a Client,
    backoff: Backoff,
    start: Instant,
    failed: u32,
}

impl Patience<'_> {
    pub(super) fn new(client: &Client) -> Patience<'_> {
        Patience { client, backoff: client.backoff.clone(), start: Instant::now(), failed: 0 }
    }

    /// Something worked: what fails next is the first in a row.
    pub(super) fn reset(&mut self) {
        self.backoff.reset();
        self.failed = 0;
    }

    /// Waits until it is time for the next attempt; the error, where there is none. `heard`: something has come before, so
    /// that a server that is out of reach will be back.
    pub(super) async fn after(&mut self, failure: Failure, heard: bool) -> Result<()> {
        self.failed += 1;
        let Failure { error, again } = failure;
        let (asked, last) = match again {
            Again::Never => return Err(error),
            Again::Later(asked) | Again::Loading { asked, .. } => (asked, false),
            Again::Unreachable => {
                let most = if self.client.is_reached() { FILE_ATTEMPTS } else { FIRST_ATTEMPTS };
                let enough = self.failed >= most || self.start.elapsed() >= FIRST_CONTACT;
                (None, enough && !heard)
            }
        };
        match self.backoff.next(asked).filter(|_| !last) {
            Some(wait) => {
                self.client.on_retry.tell(&Retrying::new(self.failed, error, wait));
                sleep(wait).await;
                Ok(())
            }
            None => Err(given_up(error, self.failed)),
        }
    }
}
