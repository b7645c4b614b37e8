//! The bodies of requests to a model on this device.

use super::inputs::Inputs;
use super::unsupported::{others, unsupported};
use crate::chat::Conversation;
use crate::engine::{Settings, Truncation};
use crate::json::{Fields, limit};
use crate::sampling::Sampling;
use crate::{Error, Result};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::fmt;

/// Settings that both endpoints take, beside [`Sampling`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Common {
    #[serde(deserialize_with = "limit")]
    max_tokens: Option<usize>,
    /// OpenAI's newer name.
    #[serde(deserialize_with = "limit")]
    max_completion_tokens: Option<usize>,
    /// llama.cpp's.
    #[serde(deserialize_with = "limit")]
    n_predict: Option<usize>,
    #[serde(deserialize_with = "stops")]
    stop: Vec<String>,
    n: Option<usize>,
    truncate: Option<Truncation>,
    ignore_eos: bool,
    return_tokens: bool,
    // What follows is for those around the engine; here only its form is checked.
    #[serde(rename = "stream")]
    _stream: bool,
    #[serde(rename = "stream_options")]
    _stream_options: StreamOptions,
    #[serde(rename = "model")]
    _model: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    #[serde(rename = "include_usage")]
    _include_usage: bool,
    #[serde(rename = "include_obfuscation")]
    _include_obfuscation: bool,
}

/// One or several.
fn stops<'de, D: Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    struct Reads;

    impl<'de> Visitor<'de> for Reads {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a text or a list of texts")
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut texts = Vec::new();
            while let Some(text) = items.next_element()? {
                texts.push(text);
            }
            Ok(texts)
        }
    }
    value.deserialize_any(Reads)
}

impl Common {
    /// The limit, by whichever of its names.
    fn limit(&self) -> Result<Option<usize>> {
        let names = [
            ("max_tokens", self.max_tokens),
            ("max_completion_tokens", self.max_completion_tokens),
            ("n_predict", self.n_predict),
        ];
        let mut given = names.iter().filter_map(|(name, limit)| Some((name, (*limit)?)));
        let Some((name, limit)) = given.next() else { return Ok(None) };
        match given.find(|(_, other)| *other != limit) {
            None => Ok(Some(limit)),
            Some((other, _)) => Err(Error::invalid_argument(format!(
                "{name} and {other} mean the same, but say different things; give one of them"
            ))),
        }
    }
}

/// Answers to one prompt, at most: as many as OpenAI gives.
const MOST_CHOICES: usize = 128;

/// What a request says of how to answer.
#[derive(Debug, Clone)]
pub(super) struct How {
    pub settings: Settings,
    /// Whether the answer has its token ids.
    pub tokens: bool,
}

impl How {
    fn read(fields: &Fields) -> Result<How> {
        let (common, sampling) = (fields.read::<Common>()?, fields.read::<Sampling>()?);
        sampling.validate()?;
        let defaults = Settings::default();
        let settings = Settings {
            sampling,
            max_tokens: common.limit()?.unwrap_or(defaults.max_tokens),
            stop: common.stop,
            truncation: common.truncate.unwrap_or_default(),
            choices: common.n.unwrap_or(1),
            ignore_eos: common.ignore_eos,
        };
        if !(1..=MOST_CHOICES).contains(&settings.choices) {
            return Err(Error::invalid_argument(format!(
                "n is {}; it must be from 1 to {MOST_CHOICES}",
                settings.choices
            )));
        }
        Ok(How { settings, tokens: common.return_tokens })
    }
}

/// Fails where a field that says how to answer is wrong, or is none. For whoever makes a request before there is a
/// model to ask.
pub fn check_settings(body: &Map<String, Value>) -> Result<()> {
    let body = Value::Object(body.clone());
    let fields = Fields::new("the request", &body)?;
    let How { settings, .. } = How::read(&fields)?;
    some_tokens(&settings)
}

fn some_tokens(settings: &Settings) -> Result<()> {
    match settings.max_tokens {
        0 => Err(Error::invalid_argument("max_tokens is 0; it must be at least 1, or -1 for no limit")),
        _ => Ok(()),
    }
}

/// The body of `/v1/chat/completions`.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// What is to be answered.
    pub conversation: Conversation,
    pub(super) how: How,
}

/// Fields of a chat that change the conversation.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Talk {
    /// Checked before.
    tool_choice: Option<Value>,
    /// Some templates ask for it.
    reasoning_effort: Option<String>,
}

impl TryFrom<Value> for ChatRequest {
    type Error = Error;

    fn try_from(body: Value) -> Result<Self> {
        let fields = Fields::new("the request", &body)?;
        if let Some(why) = unsupported(&body) {
            return Err(Error::invalid_argument(why));
        }
        if body.get("messages").is_none_or(Value::is_null) {
            return Err(Error::invalid_argument("messages is missing: what shall be answered?"));
        }
        let mut conversation: Conversation = fields.read()?;
        let talk: Talk = fields.read()?;
        // It shall call none: so it needs to know of none.
        if talk.tool_choice.is_some_and(|choice| choice == "none") {
            conversation.tools = None;
        }
        if let Some(effort) = talk.reasoning_effort {
            conversation.variables.entry("reasoning_effort").or_insert(effort.into());
        }
        let how = How::read(&fields)?;
        fields.end(&others())?;
        some_tokens(&how.settings)?;
        Ok(ChatRequest { conversation, how })
    }
}

/// The body of `/v1/completions`.
#[derive(Debug, Clone)]
pub struct CompletionRequest {
    pub(super) prompts: Inputs,
    /// Whether answers begin with their prompts.
    pub(super) echo: bool,
    pub(super) how: How,
}

#[derive(Debug, Clone, Deserialize)]
struct Continued {
    prompt: Inputs,
    #[serde(default)]
    echo: bool,
}

impl TryFrom<Value> for CompletionRequest {
    type Error = Error;

    fn try_from(mut body: Value) -> Result<Self> {
        // In OpenAI's interface that is the beginning of a text.
        if let Some(prompt @ Value::Null) = body.get_mut("prompt") {
            *prompt = "".into();
        }
        let fields = Fields::new("the request", &body)?;
        if let Some(why) = unsupported(&body) {
            return Err(Error::invalid_argument(why));
        }
        let Continued { prompt: prompts, echo } = fields.read()?;
        let how = How::read(&fields)?;
        fields.end(&others())?;
        // A prompt alone, with nothing after it, is something to give back.
        if !echo {
            some_tokens(&how.settings)?;
        }
        Ok(CompletionRequest { prompts, echo, how })
    }
}
