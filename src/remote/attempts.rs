//! When a request that failed is made again, and when that ends.

use crate::http::{Again, Backoff, Failure, Retrying, Timeouts, given_up, sleep};
use crate::{Error, Result};
use futures_util::future::{Either, LocalBoxFuture, select};
use serde::Deserialize;
use std::pin::pin;
use std::time::Duration;
use web_time::Instant;

/// In the middle of an answer. Servers send comments while a model thinks.
const LONGEST_SILENCE: Duration = Duration::from_secs(120);

/// How patient to be. In JSON, times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Attempts that may fail; 1 never tries again.
    pub attempts: u32,
    /// The wait after the first failure. It doubles with each, and half of it is random.
    #[serde(deserialize_with = "milliseconds")]
    pub base: Duration,
    /// The longest wait, unless the server asks for more.
    #[serde(deserialize_with = "milliseconds")]
    pub cap: Duration,
    /// The longest wait between two looks at a model that is being loaded. They are not counted.
    #[serde(deserialize_with = "milliseconds")]
    pub loading: Duration,
    /// For everything: attempts, waits, and the answer to its end.
    #[serde(deserialize_with = "milliseconds")]
    pub timeout: Duration,
}

/// A time in JSON.
pub(crate) fn milliseconds<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Duration, D::Error> {
    u32::deserialize(value).map(|number| Duration::from_millis(number.into()))
}

/// A time in JSON that may be missing.
pub(crate) fn some_milliseconds<'de, D: serde::Deserializer<'de>>(
    value: D,
) -> Result<Option<Duration>, D::Error> {
    Ok(Option::<u32>::deserialize(value)?.map(|number| Duration::from_millis(number.into())))
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            attempts: 5,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(20),
            loading: Duration::from_secs(20),
            timeout: Duration::from_secs(600),
        }
    }
}

impl Retry {
    /// Of one attempt: models think before they speak, the time limit sees to the rest.
    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts { head: self.timeout, stall: self.timeout.min(LONGEST_SILENCE) }
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.attempts == 0 || self.timeout.is_zero() || self.base.is_zero() || self.loading.is_zero() {
            return Err(Error::invalid_argument(
                "retry: attempts, base, loading and timeout must be more than 0",
            ));
        }
        Ok(())
    }
}

/// The attempts of one request.
pub(super) struct Attempts {
    retry: Retry,
    backoff: Backoff,
    end: Instant,
    /// Comes at the end.
    timer: LocalBoxFuture<'static, ()>,
    pub made: u32,
    pub waited: Duration,
}

impl Attempts {
    pub(super) fn new(retry: Retry) -> Attempts {
        Attempts {
            retry,
            backoff: Backoff::new(retry.base, retry.cap, retry.attempts),
            end: Instant::now() + retry.timeout,
            timer: Box::pin(sleep(retry.timeout)),
            made: 0,
            waited: Duration::ZERO,
        }
    }

    /// Makes an attempt.
    pub(super) async fn within<T>(
        &mut self,
        attempt: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.made += 1;
        self.in_time(attempt).await
    }

    /// Waits for `future`, but not longer than there is time.
    pub(super) async fn in_time<T>(
        &mut self,
        future: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match select(pin!(future), &mut self.timer).await {
            Either::Left((output, _)) => output,
            Either::Right(_) => {
                let seconds = self.retry.timeout.as_secs_f64();
                let error =
                    Error::network(format!("not answered within {seconds} s, the request's time limit"));
                Err(Failure::never(error))
            }
        }
    }

    /// How long to wait after a failure, and what to tell of it; the error, where the request has failed for good.
    pub(super) fn after(&mut self, failure: Failure) -> Result<(Duration, Retrying)> {
        let Failure { error, again } = failure;
        let wait = match again {
            Again::Never => None,
            Again::Later(asked) => self.backoff.next(asked),
            Again::Unreachable => self.backoff.next(None),
            Again::Loading { estimate, asked } => {
                // Estimates are rough, and a look costs little. What the server asks is the least.
                let look =
                    estimate.unwrap_or(self.retry.loading).min(self.retry.loading).max(self.retry.base);
                Some(asked.map_or(look, |asked| asked.max(look)))
            }
        };
        let left = self.end.saturating_duration_since(Instant::now());
        match wait {
            Some(wait) if wait <= left => {
                self.waited += wait;
                Ok((wait, Retrying::new(self.made, error, wait)))
            }
            Some(wait) => Err(self.explain(
                error,
                &format!("the next attempt would be {:.0} s later, past the time limit", wait.as_secs_f64()),
            )),
            None => Err(self.explain(error, "")),
        }
    }

    fn explain(&self, error: Error, why: &str) -> Error {
        let mut error = given_up(error, self.made);
        if !why.is_empty() {
            error.message += &format!("; {why}");
        }
        error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(asked: Option<u64>) -> Failure {
        let again = Again::Later(asked.map(Duration::from_secs));
        Failure { error: Error::provider_error("no"), again }
    }

    #[test]
    fn patience_ends() {
        let mut attempts = Attempts::new(Retry { attempts: 3, ..Retry::default() });
        attempts.made = 1;
        assert!(attempts.after(later(None)).unwrap().0 <= Duration::from_millis(500));
        attempts.made = 2;
        assert!(attempts.after(later(Some(7))).unwrap().0 >= Duration::from_secs(7));
        attempts.made = 3;
        assert_eq!(attempts.after(later(None)).unwrap_err().message, "no (after 3 attempts)");
    }

    #[test]
    fn servers_cannot_ask_for_more_than_there_is() {
        let mut attempts = Attempts::new(Retry { timeout: Duration::from_secs(10), ..Retry::default() });
        let error = attempts.after(later(Some(11))).unwrap_err();
        assert!(error.message.contains("past the time limit"), "{error}");
    }

    #[test]
    fn loading_takes_its_time() {
        let mut attempts = Attempts::new(Retry { attempts: 1, ..Retry::default() });
        for (estimate, wait) in [(Some(3), 3), (Some(400), 20), (None, 20)] {
            let estimate = estimate.map(Duration::from_secs);
            let failure = Failure {
                error: Error::provider_error("loading"),
                again: Again::Loading { estimate, asked: None },
            };
            assert_eq!(attempts.after(failure).unwrap().0, Duration::from_secs(wait));
        }
        let never = Failure::never(Error::unauthorized("no"));
        assert_eq!(attempts.after(never).unwrap_err(), Error::unauthorized("no"));
    }
}
