//! What an answer took: tokens and time.

use super::Event;
use serde::Serialize;
use web_time::Instant;

/// Token counts in OpenAI's terms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Usage {
    /// Of the prompt.
    pub prompt_tokens: usize,
    /// Of all answers.
    pub completion_tokens: usize,
    /// Both.
    pub total_tokens: usize,
    /// Where some of the prompt needed no work.
    #[cfg_attr(test, ts(inline))]
    pub prompt_tokens_details: PromptTokensDetails,
}

impl Usage {
    /// Counts another prompt and its answers.
    pub(crate) fn add(&mut self, more: Usage) {
        self.prompt_tokens += more.prompt_tokens;
        self.completion_tokens += more.completion_tokens;
        self.total_tokens += more.total_tokens;
        let (details, more) = (&mut self.prompt_tokens_details, more.prompt_tokens_details);
        details.cached_tokens += more.cached_tokens;
        details.dropped_messages += more.dropped_messages;
    }
}

/// Part of [`Usage`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct PromptTokensDetails {
    /// Tokens that were still in the KV cache.
    pub cached_tokens: usize,
    /// Messages that were left out of it, where the oldest turns go when there is no room for them. Not sent where
    /// it is 0.
    #[serde(skip_serializing_if = "is_zero")]
    #[cfg_attr(test, ts(optional, as = "Option<usize>"))]
    pub dropped_messages: usize,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Speed of an answer. Times are wall-clock, without waiting for the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Timings {
    /// Prompt tokens that went through the model.
    pub prompt_n: usize,
    /// Tokens a second.
    pub prompt_per_second: f64,
    /// Tokens generated.
    pub predicted_n: usize,
    /// Tokens a second, after the first; 0 where there was but one.
    pub predicted_per_second: f64,
    /// Milliseconds from when it was asked, waiting for room included.
    pub time_to_first_token_ms: f64,
}

impl Timings {
    /// Counts a later answer.
    pub(crate) fn add(&mut self, more: Timings) {
        let rate = |n: usize, speed: f64, more_n: usize, more_speed: f64| {
            let seconds = |n: usize, speed: f64| if speed > 0.0 { n as f64 / speed } else { 0.0 };
            let timed = |n: usize, speed: f64| if speed > 0.0 { n as f64 } else { 0.0 };
            let seconds = seconds(n, speed) + seconds(more_n, more_speed);
            if seconds > 0.0 { (timed(n, speed) + timed(more_n, more_speed)) / seconds } else { 0.0 }
        };
        let first = self.prompt_n + self.predicted_n == 0;
        *self = Timings {
            prompt_n: self.prompt_n + more.prompt_n,
            prompt_per_second: rate(
                self.prompt_n,
                self.prompt_per_second,
                more.prompt_n,
                more.prompt_per_second,
            ),
            predicted_n: self.predicted_n + more.predicted_n,
            predicted_per_second: rate(
                self.predicted_n,
                self.predicted_per_second,
                more.predicted_n,
                more.predicted_per_second,
            ),
            time_to_first_token_ms: match first {
                true => more.time_to_first_token_ms,
                false => self.time_to_first_token_ms,
            },
        };
    }
}

/// Adds up the time of the steps.
pub(super) struct Clock {
    start: Instant,
    prompt_seconds: f64,
    /// Of the steps that put a token through the model.
    decode_seconds: f64,
    decode_steps: usize,
    first_token_seconds: Option<f64>,
}

impl Clock {
    pub(super) fn new() -> Self {
        Clock {
            start: Instant::now(),
            prompt_seconds: 0.0,
            decode_seconds: 0.0,
            decode_steps: 0,
            first_token_seconds: None,
        }
    }

    /// `first`: the answer has no token yet. Its first one the prompt has paid for.
    pub(super) fn count(&mut self, event: &Event, step_start: Instant, first: bool) {
        let seconds = step_start.elapsed().as_secs_f64();
        match event {
            // After a loss, what has an answer's tokens in it is no prompt any more.
            Event::Prompt { .. } if first => self.prompt_seconds += seconds,
            Event::Prompt { .. } | Event::Recovery(_) => {}
            Event::Token { .. } | Event::Finish { .. } => {
                if !first {
                    self.decode_seconds += seconds;
                    self.decode_steps += 1;
                }
                self.first_token_seconds.get_or_insert(self.start.elapsed().as_secs_f64());
            }
        }
    }

    pub(super) fn timings(&self, prompt_n: usize, predicted_n: usize) -> Timings {
        let rate = |n: usize, seconds: f64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        Timings {
            prompt_n,
            prompt_per_second: rate(prompt_n, self.prompt_seconds),
            predicted_n,
            predicted_per_second: rate(self.decode_steps, self.decode_seconds),
            time_to_first_token_ms: self.first_token_seconds.unwrap_or(0.0) * 1000.0,
        }
    }
}
