//! How many tokens of context a model gets.

use super::info::Memory;
use super::{Options, estimate};
use crate::backend::room;
use crate::format::gguf::Header;
use crate::json::Whole;
use crate::model::Config;
use crate::{Code, Error, Result};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::str::FromStr;

/// Tokens of context when nobody asks for another number and the model allows it.
const DEFAULT: usize = 4096;
/// Tokens below which no context shrinks: less is of little use, and saves little.
const LEAST: usize = 512;
/// What a context shrinks to is a multiple of that many tokens.
const STEP: usize = 256;
/// Where the KV cache is a smaller part of a model than one of so many, a smaller one would not make it fit.
const WORTH: u64 = 16;

/// Tokens that prompt and answer may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// So many, or an error.
    Exactly(usize),
    /// As many as the model was trained for and memory allows, and no more than this.
    AtMost(usize),
}

impl Context {
    /// As many as the model was trained for and memory allows.
    pub const MAX: Context = Context::AtMost(usize::MAX);

    fn at_most(tokens: i128) -> Option<Context> {
        (tokens >= 1).then(|| Context::AtMost(usize::try_from(tokens).unwrap_or(usize::MAX)))
    }
}

impl From<usize> for Context {
    fn from(tokens: usize) -> Context {
        Context::Exactly(tokens)
    }
}

/// As it is typed: `4096`, `max`, `max:4096`.
impl FromStr for Context {
    type Err = Error;

    fn from_str(text: &str) -> Result<Context> {
        let text = text.trim();
        let context = match text.strip_prefix("max") {
            Some("") => Some(Context::MAX),
            Some(most) => {
                most.strip_prefix(':').and_then(|most| most.parse().ok()).and_then(Context::at_most)
            }
            None => text.parse().ok().map(Context::Exactly),
        };
        context.ok_or_else(|| {
            Error::invalid_argument("it must be a number of tokens, max, or max: and a number of at least 1")
        })
    }
}

/// As JSON has it: `4096`, `"max"`, `{"max": 4096}`.
impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Most {
            max: Whole,
        }
        struct Reads;
        impl<'de> Visitor<'de> for Reads {
            type Value = Context;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a whole number of tokens, \"max\" or {\"max\": tokens}")
            }

            fn visit_u64<E>(self, tokens: u64) -> Result<Context, E> {
                Ok(Context::Exactly(usize::try_from(tokens).unwrap_or(usize::MAX)))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Context, E> {
                match number.fract() == 0.0 && number >= 0.0 {
                    // A cast of what is too large gives the largest there is.
                    true => Ok(Context::Exactly(number as usize)),
                    false => Err(E::invalid_type(Unexpected::Float(number), &self)),
                }
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Context, E> {
                match text {
                    "max" => Ok(Context::MAX),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Context, A::Error> {
                let Most { max: Whole(tokens) } = Most::deserialize(MapAccessDeserializer::new(map))?;
                Context::at_most(tokens).ok_or_else(|| {
                    A::Error::custom(format!("must have a \"max\" of at least 1, not {tokens}"))
                })
            }
        }
        value.deserialize_any(Reads)
    }
}

/// The context that a model has, and why it is smaller than the one that was asked for.
pub(super) struct Granted {
    pub tokens: usize,
    pub note: Option<String>,
}

impl Granted {
    /// `tokens` is what became of what `options` ask for.
    pub(super) fn new(options: &Options, config: &Config, tokens: usize) -> Granted {
        let trained = config.trained_context;
        let note = match options.context {
            Some(Context::AtMost(most)) if tokens < most.min(trained) => Some(format!(
                "The context is {tokens} tokens instead of {}: there is no memory for more.",
                most.min(trained)
            )),
            Some(Context::AtMost(most)) if tokens < most && most < usize::MAX => Some(format!(
                "The context is {tokens} tokens instead of {most}: the model was trained for no more."
            )),
            _ => None,
        };
        Granted { tokens, note }
    }
}

/// What was asked for, whatever memory there is. Fails with `invalid_argument` where that is a number, and one that the
/// model was not trained for.
pub(super) fn wanted(options: &Options, config: &Config) -> Result<usize> {
    let trained = config.trained_context;
    match options.context {
        None => Ok(trained.min(DEFAULT)),
        Some(Context::AtMost(most)) => Ok(most.clamp(1, trained.max(1))),
        Some(Context::Exactly(tokens)) if (1..=trained).contains(&tokens) => Ok(tokens),
        Some(Context::Exactly(tokens)) => Err(Error::invalid_argument(format!(
            "a context of {tokens} tokens; it must be from 1 to the {trained} that the model was trained for"
        ))),
    }
}

/// What of `wanted` tokens to try on the CPU or a GPU: all, where that many were asked for; else what the memory that is
/// there holds without strain, as far as it is known.
pub(super) fn fitting(
    options: &Options,
    header: &Header,
    config: &Config,
    wanted: usize,
    gpu: bool,
) -> usize {
    let fixed = fixed(header, config);
    // GPUs keep numbers of 16 bits, most of them.
    let number = if gpu { 2 } else { number_on_cpu(options) };
    let there = room(gpu).map(|room| (room.bytes as f64 * estimate::COMFORTABLE) as u64);
    let working = estimate::working(config, estimate::MOST_ROWS);
    let of_room = within(there, fixed.saturating_add(working), config.kv_width().saturating_mul(number));
    let tokens = of_room.min(within_limit(options, header, config));
    shrunk(options, wanted, tokens)
}

/// The same where nothing counts but the limit that the options set.
pub(super) fn limited(options: &Options, header: &Header, config: &Config, wanted: usize) -> usize {
    shrunk(options, wanted, within_limit(options, header, config))
}

/// The next smaller context to try where `tokens` were too many for a device, if that may be and could help.
pub(super) fn smaller(
    options: &Options,
    header: &Header,
    config: &Config,
    tokens: usize,
    error: &Error,
) -> Option<usize> {
    let Memory { weights, kv_cache } = Memory::of(header, config, tokens, None);
    let worth = error.code == Code::ResourceExhausted && kv_cache >= weights / WORTH;
    let less = shrunk(options, tokens, tokens / 2);
    (worth && less < tokens).then_some(less)
}

fn within_limit(options: &Options, header: &Header, config: &Config) -> usize {
    let fixed = fixed(header, config);
    within(options.max_memory, fixed, config.kv_width().saturating_mul(number_on_cpu(options)))
}

/// Bytes of what does not grow with the context.
fn fixed(header: &Header, config: &Config) -> u64 {
    let Memory { weights, kv_cache } = Memory::of(header, config, 0, None);
    weights.saturating_add(kv_cache)
}

/// Bytes of a number in the KV cache there.
fn number_on_cpu(options: &Options) -> u64 {
    if options.kv_8bit { 1 } else { size_of::<f32>() as u64 }
}

/// Tokens that have room in so many bytes beside what takes `fixed` of them.
fn within(bytes: Option<u64>, fixed: u64, a_token: u64) -> usize {
    bytes.map_or(usize::MAX, |bytes| {
        let tokens = bytes.saturating_sub(fixed) / a_token.max(1);
        usize::try_from(tokens).unwrap_or(usize::MAX)
    })
}

/// `room` tokens instead of `wanted`, where the options let a context shrink.
fn shrunk(options: &Options, wanted: usize, room: usize) -> usize {
    match options.context {
        Some(Context::AtMost(_)) if room < wanted => (room / STEP * STEP).max(LEAST).min(wanted),
        _ => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use serde_json::{Value, json};

    #[test]
    fn as_it_is_written() {
        let read = |value: Value| json::read::<Context>("contextLength", &value);
        for (value, context) in [
            (json!(4096), Context::Exactly(4096)),
            (json!(4096.0), Context::Exactly(4096)),
            (json!(0), Context::Exactly(0)),
            (json!("max"), Context::MAX),
            (json!({ "max": 9e15 }), Context::at_most(9_000_000_000_000_000).unwrap()),
            (json!({ "max": 1000.0 }), Context::AtMost(1000)),
        ] {
            assert_eq!(read(value.clone()).unwrap(), context, "{value}");
        }
        let must = "contextLength must be a whole number of tokens, \"max\" or {\"max\": tokens}, not ";
        for (value, message) in [
            (json!(-1), format!("{must}-1")),
            (json!(0.5), format!("{must}0.5")),
            (json!("most"), format!("{must}the text \"most\"")),
            (json!(true), format!("{must}true")),
            (json!([1]), format!("{must}a list")),
            (json!({}), "contextLength.max is missing".to_owned()),
            (
                json!({ "max": "all" }),
                "contextLength.max must be a whole number, not the text \"all\"".to_owned(),
            ),
            (json!({ "max": 0 }), "contextLength must have a \"max\" of at least 1, not 0".to_owned()),
            (json!({ "most": 1 }), "contextLength: there is no \"most\" here. There is \"max\"".to_owned()),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert_eq!((error.code, error.message), (Code::InvalidArgument, message), "{value}");
        }
    }

    #[test]
    fn as_it_is_typed() {
        for (text, context) in [
            ("4096", Some(Context::Exactly(4096))),
            ("max", Some(Context::MAX)),
            ("max:8192", Some(Context::AtMost(8192))),
            ("max:0", None),
            ("max:", None),
            ("maximum", None),
            ("-1", None),
            ("", None),
        ] {
            assert_eq!(text.parse::<Context>().ok(), context, "{text:?}");
        }
    }

    #[test]
    fn what_may_shrink_does() {
        let options = |context| Options { context, ..Options::default() };
        let most = options(Some(Context::MAX));
        assert_eq!(shrunk(&most, 8192, within(Some(1_000_000), 400_000, 100)), 5888);
        assert_eq!(shrunk(&most, 8192, within(Some(100), 400_000, 100)), LEAST);
        assert_eq!(shrunk(&most, 300, within(Some(100), 400_000, 100)), 300);
        assert_eq!(shrunk(&most, 8192, within(None, 400_000, 100)), 8192);
        for fixed in [options(Some(Context::Exactly(8192))), options(None)] {
            assert_eq!(shrunk(&fixed, 8192, 1000), 8192);
        }
    }
}
