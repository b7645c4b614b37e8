//! An attempt that failed: what may be done about it, and who hears of it.

use crate::{Code, Error};
use serde::Serialize;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For the caller, if there is no other attempt.
    pub error: Error,
    /// Whether there is.
    pub again: Again,
}

/// What may be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It will not pass.
    Never,
    /// It may pass; the server may have said when.
    Later(Option<Duration>),
    /// There was no answer at all.
    Unreachable,
    /// The model is being loaded, which takes about as long as the estimate.
    Loading {
        /// Of the server.
        estimate: Option<Duration>,
        /// How long the server asks to wait.
        asked: Option<Duration>,
    },
}

impl Failure {
    /// It will not pass.
    pub fn never(error: Error) -> Failure {
        Failure { error, again: Again::Never }
    }

    /// It may pass, after the time that the server asked for.
    pub fn later(error: Error, asked: Option<Duration>) -> Failure {
        Failure { error, again: Again::Later(asked) }
    }

    /// There was no answer at all.
    pub fn unreachable(error: Error) -> Failure {
        Failure { error, again: Again::Unreachable }
    }
}

/// By its code: faults of the network, hosts that fail and rate limits may pass, nothing else does.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error.code {
            Code::Network | Code::ProviderError | Code::RateLimited => Failure::later(error, None),
            _ => Failure::never(error),
        }
    }
}

/// What is told of an attempt that failed, before the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "Retry"))]
pub struct Retrying {
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// Milliseconds until the next.
    pub wait_ms: u64,
    /// Why it failed: an error's code.
    #[cfg_attr(test, ts(type = "ErrorCode"))]
    pub code: &'static str,
    /// The same for people.
    pub message: String,
}

impl Retrying {
    /// Attempt number `attempt` ended in `error`; the next one comes after `wait`.
    pub fn new(attempt: u32, error: Error, wait: Duration) -> Retrying {
        let wait_ms = wait.as_millis() as u64;
        Retrying { attempt, wait_ms, code: error.code.as_str(), message: error.message }
    }
}

/// The error of a request that was made `attempts` times and is not made again.
pub(crate) fn given_up(mut error: Error, attempts: u32) -> Error {
    if attempts > 1 {
        error.message += &format!(" (after {attempts} attempts)");
    }
    error
}

/// Hears that a request failed and will be made again. By default nobody does.
#[derive(Clone)]
pub struct OnRetry(Rc<dyn Fn(&Retrying)>);

impl OnRetry {
    /// Calls `hear`.
    pub fn new(hear: impl Fn(&Retrying) + 'static) -> OnRetry {
        OnRetry(Rc::new(hear))
    }

    /// Tells it.
    pub(crate) fn tell(&self, retry: &Retrying) {
        (self.0)(retry);
    }
}

impl Default for OnRetry {
    fn default() -> OnRetry {
        OnRetry::new(|_| ())
    }
}

impl fmt::Debug for OnRetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnRetry")
    }
}
