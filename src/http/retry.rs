//! When to try again, and after how long.

use super::Response;
use std::time::Duration;
use web_time::{SystemTime, UNIX_EPOCH};

/// Servers that ask for more patience than this are taken to have refused.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Whether a request that got this status may do better later.
pub fn may_retry(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

/// Waits that double, with jitter: "full jitter" of
/// <https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>, with a floor.
#[derive(Debug, Clone)]
pub struct Backoff {
    /// Before the second attempt, at most.
    pub base: Duration,
    /// Between any two, at most.
    pub cap: Duration,
    /// Attempts that may fail in a row before one gives up.
    pub attempts: u32,
    failed: u32,
}

impl Backoff {
    /// Nothing has failed yet.
    pub fn new(base: Duration, cap: Duration, attempts: u32) -> Self {
        Backoff { base, cap, attempts, failed: 0 }
    }

    /// Something worked: what fails next is the first in a row.
    pub fn reset(&mut self) {
        self.failed = 0;
    }

    /// How long to wait after a failure; at least `asked`, where the server said so. Nothing when it is
    /// time to give up.
    pub fn next(&mut self, asked: Option<Duration>) -> Option<Duration> {
        self.failed += 1;
        if self.failed >= self.attempts || asked.is_some_and(|asked| asked > LONGEST_WAIT) {
            return None;
        }
        let ceiling = self.base.saturating_mul(1 << (self.failed - 1).min(20)).min(self.cap);
        // Half of it is certain: two clients that fail together part, and neither hurries.
        let wait = ceiling.mul_f64(0.5 + 0.5 * random());
        // What the server asks is the least; many clients hear the same number.
        Some(asked.map_or(wait, |asked| asked + wait.min(ceiling / 2)))
    }
}

/// From 0 to 1.
fn random() -> f64 {
    // Without randomness there is no jitter, which is no reason to fail.
    getrandom::u32().map_or(1.0, |number| f64::from(number) / f64::from(u32::MAX))
}

impl Response {
    /// How long the server asks to wait: `retry-after-ms`, as OpenAI has it; `Retry-After` in seconds, or parts of them, or
    /// as a date (RFC 9110); else the `RateLimit` header (draft-ietf-httpapi-ratelimit-headers) where nothing remains.
    pub fn wait(&self) -> Option<Duration> {
        let milliseconds = || seconds(self.header("retry-after-ms")?).map(|wait| wait / 1000);
        let asked = milliseconds().or_else(|| retry_after(self.header("Retry-After")?));
        asked.or_else(|| rate_limit(self.header("RateLimit")?))
    }
}

/// A number of seconds; less than none is none.
fn seconds(value: &str) -> Option<Duration> {
    let seconds: f64 = value.trim().trim_end_matches('s').parse().ok()?;
    // What is beyond all bounds is beyond the longest wait too.
    (!seconds.is_nan()).then(|| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

fn retry_after(value: &str) -> Option<Duration> {
    if let Some(seconds) = seconds(value) {
        return Some(seconds);
    }
    let date = httpdate::parse_http_date(value.trim()).ok()?;
    let date = date.duration_since(std::time::UNIX_EPOCH).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(now))
}

/// `"api";r=0;t=55`: r requests remain, the window ends in t seconds.
fn rate_limit(value: &str) -> Option<Duration> {
    let parameter = |name: &str| -> Option<u64> {
        let mut parameters = value.split([';', ',']).filter_map(|part| part.trim().split_once('='));
        parameters.find(|(key, _)| *key == name)?.1.trim().parse().ok()
    };
    (parameter("r")? == 0).then(|| parameter("t").map(Duration::from_secs))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_ask_for_patience() {
        assert_eq!(retry_after("12"), Some(Duration::from_secs(12)));
        assert_eq!(retry_after(" 0.25 "), Some(Duration::from_millis(250)));
        assert_eq!(retry_after("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(retry_after("-1"), Some(Duration::ZERO));
        assert_eq!(retry_after("1e300"), Some(Duration::MAX));
        assert_eq!(retry_after("NaN"), None);
        assert_eq!(retry_after("Sunday, 06-Nov-94 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(retry_after("Fri, 06 Nov 2099 08:49:37 GMT").unwrap() > LONGEST_WAIT);
        assert_eq!(retry_after("soon"), None);
        assert_eq!(rate_limit("\"api\";r=0;t=55"), Some(Duration::from_secs(55)));
        assert_eq!(rate_limit("\"resolvers\";r=12;t=55"), None);
        assert_eq!(rate_limit("nonsense"), None);
    }

    #[test]
    fn waits_grow_and_end() {
        let (base, cap) = (Duration::from_millis(100), Duration::from_millis(300));
        let mut backoff = Backoff::new(base, cap, 4);
        for ceiling in [100, 200, 300].map(Duration::from_millis) {
            let wait = backoff.next(None).unwrap();
            assert!(ceiling / 2 <= wait && wait <= ceiling, "{wait:?}");
        }
        assert_eq!(backoff.next(None), None);
        backoff.reset();
        let asked = Duration::from_secs(5);
        assert!(backoff.next(Some(asked)).unwrap() >= asked);
        assert_eq!(backoff.next(Some(2 * LONGEST_WAIT)), None);
    }
}
