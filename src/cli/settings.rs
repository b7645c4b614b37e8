//! How to answer, as it can be typed; and the request that it makes.

use crate::openai::check_settings;
use crate::{Error, Result};
use clap::Args;
use serde_json::{Map, Number, Value};
use std::ffi::OsString;

/// Who else may answer.
#[derive(Debug, Args)]
pub(super) struct Fallbacks {
    /// A model that answers where those before it cannot, hosted (hf:org/name, PROVIDER[:model]) or local; again for more
    #[arg(long = "fallback", value_name = "MODEL")]
    pub models: Vec<OsString>,
}

/// How to answer. A host of a model is told what was typed, and nothing else.
#[derive(Debug, Args)]
pub(super) struct AnswerArguments {
    /// Tokens to generate at most, -1 for no limit [default: 512; hosted models: theirs]
    #[arg(short = 'n', long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    pub max_tokens: Option<Number>,
    /// 0 takes the likeliest token; higher is more random [default: 0.7; hosted models: theirs]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temp: Option<f64>,
    /// Keep the likeliest tokens that have this probability together, from 0 to 1 [default: 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f64>,
    /// Keep this many of the likeliest tokens; 0 or -1 keeps all [default: 0]
    #[arg(long, value_name = "K", value_parser = whole, allow_negative_numbers = true)]
    pub top_k: Option<Number>,
    /// Keep tokens at least this likely, as a share of the likeliest's probability [default: 0]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f64>,
    /// Keep the most typical tokens that have this probability together, from 0 to 1 [default: 1]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub typical_p: Option<f64>,
    /// Makes tokens that came before less likely; 1 is off [default: 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f64>,
    /// How many tokens the penalties look back; -1 is all [default: 64]
    #[arg(long, value_name = "N", value_parser = whole, allow_negative_numbers = true)]
    pub repeat_last_n: Option<Number>,
    /// Taken from the score of tokens that came before [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f64>,
    /// Taken from the score of a token for each time it came before [default: 0]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f64>,
    /// Repeats the same answer; -1 is random [default: random]
    #[arg(long, value_name = "S", value_parser = whole, allow_negative_numbers = true)]
    pub seed: Option<Number>,
    /// A text that ends the answer; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// What to do with a prompt that is too long: take tokens out of its middle, or leave out a conversation's oldest turns
    /// [default: fail; without a value: middle]
    #[arg(long, value_name = "WHAT", num_args = 0..=1, require_equals = true, default_missing_value = "middle",
        value_parser = ["middle", "oldest"])]
    pub truncate: Option<String>,
    /// Any other field of the request, such as reasoning_effort=low or max_completion_tokens=500: JSON, or else a text;
    /// may be given several times
    #[arg(long = "field", value_name = "NAME=VALUE", value_parser = field)]
    pub fields: Vec<(String, Value)>,
}

impl AnswerArguments {
    /// The fields of a request: what was typed. Fails with `invalid_argument` where one is out of its range.
    pub(super) fn body(&self) -> Result<Map<String, Value>> {
        let whole = |number: &Option<Number>| number.clone().map(Value::Number);
        let fields = [
            ("max_tokens", whole(&self.max_tokens)),
            ("temperature", finite("temperature", self.temp)?),
            ("top_p", finite("top_p", self.top_p)?),
            ("top_k", whole(&self.top_k)),
            ("min_p", finite("min_p", self.min_p)?),
            ("typical_p", finite("typical_p", self.typical_p)?),
            ("repetition_penalty", finite("repeat_penalty", self.repeat_penalty)?),
            ("repeat_last_n", whole(&self.repeat_last_n)),
            ("presence_penalty", finite("presence_penalty", self.presence_penalty)?),
            ("frequency_penalty", finite("frequency_penalty", self.frequency_penalty)?),
            // A random one is what everybody takes who is told none.
            ("seed", whole(&self.seed).filter(|seed| *seed != -1)),
            ("stop", (!self.stop.is_empty()).then(|| self.stop.clone().into())),
            ("truncate", self.truncate.clone().map(Value::from)),
        ];
        let typed = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let body = typed.chain(self.fields.iter().cloned()).collect();
        check_settings(&body)?;
        Ok(body)
    }
}

fn finite(name: &str, number: Option<f64>) -> Result<Option<Value>> {
    match number {
        Some(number) if !number.is_finite() => {
            Err(Error::invalid_argument(format!("{name} must be a finite number, not {number}")))
        }
        number => Ok(number.map(Value::from)),
    }
}

fn whole(text: &str) -> Result<Number, String> {
    let number: i128 = text.trim().parse().map_err(|_| "it must be a whole number".to_owned())?;
    let number = Number::from_i128(number);
    number.ok_or_else(|| format!("it must be a whole number from {} to {}", i64::MIN, u64::MAX))
}

fn field(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
            Ok((name.trim().to_owned(), value))
        }
        _ => Err("it must be NAME=VALUE".to_owned()),
    }
}
