//! What hosted answers cost, and when that is enough.

use super::models::{HostedModel, Price};
use crate::engine::Usage;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Characters of a token, roughly: where nobody counts tokens.
const CHARACTERS: usize = 4;

/// What may be spent. In all, from the beginning of the program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// US dollars. Needs prices: those of the list of models, or of the configuration.
    pub dollars: Option<f64>,
    /// Of prompts and answers.
    pub tokens: Option<u64>,
    /// Answers begun.
    pub requests: Option<u64>,
}

/// What was spent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Totals {
    /// Answers begun.
    pub requests: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// US dollars for those whose price is known.
    pub dollars: f64,
    /// Answers whose price is not known.
    pub unpriced: u64,
    /// Answers whose tokens were not counted by their host: those numbers are from their characters.
    pub estimated: u64,
}

impl Price {
    /// US dollars.
    pub fn of(self, usage: Usage) -> f64 {
        (self.input * usage.prompt_tokens as f64 + self.output * usage.completion_tokens as f64) / 1e6
    }
}

impl Totals {
    /// Refuses what would go beyond `budget`: a prompt of about `prompt_tokens`.
    pub(super) fn check(&self, budget: Budget, prompt_tokens: usize, price: Option<Price>) -> Result<()> {
        let exhausted =
            |what: String| Err(Error::resource_exhausted(format!("the budget of {what} is used up")));
        if budget.requests.is_some_and(|limit| self.requests >= limit) {
            return exhausted(format!("{} requests", budget.requests.unwrap_or(0)));
        }
        let tokens =
            self.prompt_tokens.saturating_add(self.completion_tokens).saturating_add(prompt_tokens as u64);
        if budget.tokens.is_some_and(|limit| tokens > limit) {
            return exhausted(format!("{} tokens", budget.tokens.unwrap_or(0)));
        }
        let Some(limit) = budget.dollars else { return Ok(()) };
        let price = price.ok_or_else(|| {
            Error::invalid_argument(
                "a budget in dollars needs the model's price, which is not known: set `prices`",
            )
        })?;
        let prompt = price.of(Usage { prompt_tokens, ..Usage::default() });
        if self.dollars >= limit || self.dollars + prompt > limit {
            return exhausted(format!("${limit}"));
        }
        Ok(())
    }

    /// Counts an answer, and gives its price.
    pub(super) fn add(&mut self, usage: Usage, counted: bool, price: Option<Price>) -> Option<f64> {
        self.prompt_tokens = self.prompt_tokens.saturating_add(usage.prompt_tokens as u64);
        self.completion_tokens = self.completion_tokens.saturating_add(usage.completion_tokens as u64);
        self.estimated += u64::from(!counted);
        let dollars = price.map(|price| price.of(usage));
        match dollars {
            Some(dollars) => self.dollars += dollars,
            None => self.unpriced += 1,
        }
        dollars
    }
}

impl HostedModel {
    /// What it costs where `provider` runs it. Where that is not known: the highest price of all that may.
    pub fn price(&self, provider: Option<&str>) -> Option<Price> {
        let known = provider.and_then(|name| self.providers.iter().find(|provider| provider.name == name));
        if let Some(known) = known {
            return known.price;
        }
        let prices =
            self.providers.iter().filter(|provider| provider.live).filter_map(|provider| provider.price);
        prices.max_by(|a, b| (a.input + a.output).total_cmp(&(b.input + b.output)))
    }
}

/// About how many tokens a text has.
pub fn tokens(text: &str) -> usize {
    text.chars().count().div_ceil(CHARACTERS)
}

/// About how many tokens the prompt of a request has.
pub fn prompt_tokens(body: &Map<String, Value>) -> usize {
    fn texts(value: &Value) -> usize {
        match value {
            Value::String(text) => tokens(text),
            Value::Array(list) if list.iter().all(Value::is_u64) => list.len(),
            Value::Array(list) => list.iter().map(texts).sum(),
            // An address of a picture, or the picture itself, is no text.
            Value::Object(fields) => {
                fields.iter().filter(|(key, _)| *key != "image_url").map(|(_, value)| texts(value)).sum()
            }
            _ => 0,
        }
    }
    ["messages", "prompt", "tools"].iter().filter_map(|field| body.get(*field)).map(texts).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn budgets_end() {
        let price = Price { input: 1.0, output: 4.0 };
        let mut totals = Totals { requests: 1, ..Totals::default() };
        let usage = Usage { prompt_tokens: 1_000_000, completion_tokens: 500_000, ..Usage::default() };
        assert_eq!(totals.add(usage, true, Some(price)), Some(3.0));
        assert_eq!(totals.add(usage, false, None), None);
        assert_eq!((totals.dollars, totals.unpriced, totals.estimated), (3.0, 1, 1));
        let dollars = |limit| Budget { dollars: Some(limit), ..Budget::default() };
        assert!(totals.check(dollars(3.0), 0, Some(price)).is_err());
        assert!(totals.check(dollars(3.1), 1000, Some(price)).is_ok());
        assert!(totals.check(dollars(3.1), 200_000, Some(price)).is_err());
        assert_eq!(totals.check(dollars(9.0), 0, None).unwrap_err().code, crate::Code::InvalidArgument);
        let tokens = Budget { tokens: Some(3_000_000), ..Budget::default() };
        assert!(totals.check(tokens, 0, None).is_ok());
        let error = totals.check(tokens, 1, None).unwrap_err();
        assert_eq!(error.code, crate::Code::ResourceExhausted);
        let requests = Budget { requests: Some(1), ..Budget::default() };
        assert!(totals.check(requests, 0, None).is_err());
    }

    #[test]
    fn prompts_are_estimated() {
        let picture = json!({ "type": "image_url", "image_url": { "url": "data:".repeat(1000) } });
        let body = json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "x".repeat(400) }, picture] }] });
        assert!((100..120).contains(&prompt_tokens(body.as_object().unwrap())));
        let tokens = json!({ "prompt": [1, 2, 3] });
        assert_eq!(prompt_tokens(tokens.as_object().unwrap()), 3);
    }
}
