//! The parts of an answer, and the whole that they make: the same for local and hosted models.

use super::lenient;
use crate::engine::{FinishReason, Timings, Usage};
use crate::http::Retrying;
use crate::progress::Progress;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::HashMap;

/// A part of a streamed answer. What a hosted model sends beside OpenAI's fields is kept in `other`; it is read leniently,
/// where the answer does not depend on it.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// The same on all chunks of an answer.
    pub id: String,
    /// `chat.completion.chunk` or `text_completion`.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Who answers.
    pub model: String,
    /// None while nothing is said, and on the last chunk.
    pub choices: Vec<ChunkChoice>,
    /// On the last chunk.
    pub usage: Option<Usage>,
    /// What a host says in `usage` beside that, such as `cost`.
    pub usage_details: Map<String, Value>,
    /// On the last chunk of a local answer.
    pub timings: Option<Timings>,
    /// While the prompt goes through the model.
    pub prompt_progress: Option<PromptProgress>,
    /// While the model comes back from a lost GPU.
    pub recovery: Option<Progress>,
    /// A request to a hosted model failed and will be made again.
    pub retry: Option<Retrying>,
    /// Where the answer comes from: on the first chunk that says something, and on the last.
    pub candlewick: Option<Origin>,
    /// Fields that candlewick has no name for, such as `system_fingerprint`.
    pub other: Map<String, Value>,
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(body: D) -> Result<Self, D::Error> {
        lenient::chunk(Value::deserialize(body)?).map_err(serde::de::Error::custom)
    }
}

impl Serialize for Chunk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            id: &'a str,
            object: &'a str,
            created: u64,
            model: &'a str,
            choices: &'a [ChunkChoice],
            #[serde(skip_serializing_if = "Option::is_none")]
            usage: Option<Counted<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            timings: Option<Timings>,
            #[serde(skip_serializing_if = "Option::is_none")]
            prompt_progress: Option<PromptProgress>,
            #[serde(skip_serializing_if = "Option::is_none")]
            recovery: &'a Option<Progress>,
            #[serde(skip_serializing_if = "Option::is_none")]
            retry: &'a Option<Retrying>,
            #[serde(skip_serializing_if = "Option::is_none")]
            candlewick: &'a Option<Origin>,
            #[serde(flatten)]
            other: &'a Map<String, Value>,
        }
        let Chunk { id, object, created, model, choices, usage, usage_details, .. } = self;
        let Chunk { timings, prompt_progress, recovery, retry, candlewick, other, .. } = self;
        Written {
            id,
            object,
            created: *created,
            model,
            choices,
            usage: Counted::new(*usage, usage_details),
            timings: *timings,
            prompt_progress: *prompt_progress,
            recovery,
            retry,
            candlewick,
            other,
        }
        .serialize(serializer)
    }
}

/// Token counts together with what else a host says of them.
struct Counted<'a>(Option<Usage>, &'a Map<String, Value>);

impl<'a> Counted<'a> {
    fn new(usage: Option<Usage>, details: &'a Map<String, Value>) -> Option<Self> {
        (usage.is_some() || !details.is_empty()).then_some(Counted(usage, details))
    }
}

impl Serialize for Counted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Counted(usage, details) = self;
        match usage {
            Some(usage) if details.is_empty() => usage.serialize(serializer),
            usage => {
                let counts = serde_json::to_value(usage).map_err(serde::ser::Error::custom)?;
                let mut fields = counts.as_object().cloned().unwrap_or_default();
                merge(&mut fields, details, true);
                fields.serialize(serializer)
            }
        }
    }
}

/// What a reader would notice of a piece of a message beside its text, thoughts and calls.
const NOTICED: [&str; 8] = [
    "refusal",
    "images",
    "audio",
    "function_call",
    "reasoning_details",
    "thinking_blocks",
    "annotations",
    "content_parts",
];

impl Chunk {
    /// Whether a reader would notice it: text, reasoning, a tool call, a refusal, a picture, or an end.
    pub fn says_something(&self) -> bool {
        self.choices.iter().any(|choice| {
            let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
            let delta = &choice.delta;
            choice.finish_reason.is_some()
                || some(&choice.text)
                || delta.as_ref().is_some_and(|delta| {
                    let noticed =
                        |name: &&str| delta.other.get(*name).is_some_and(|value| !says_nothing(value));
                    some(&delta.content)
                        || some(&delta.reasoning_content)
                        || !delta.tool_calls.is_empty()
                        || NOTICED.iter().any(noticed)
                })
        })
    }

    /// Puts what came before it in front of it.
    pub(crate) fn follow(&mut self, mut before: Chunk) {
        for choice in std::mem::take(&mut self.choices) {
            match before.choices.iter_mut().find(|known| known.index == choice.index) {
                Some(known) => known.add(choice),
                None => before.choices.push(choice),
            }
        }
        self.choices = before.choices;
        merge(&mut before.other, &self.other, false);
        self.other = before.other;
    }
}

/// Tokens of the prompt.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct PromptProgress {
    /// In all.
    pub total: usize,
    /// So far.
    pub processed: usize,
}

/// Where an answer was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(ts_rs::TS))]
pub enum Ran {
    /// On this device.
    Local,
    /// By a hosted model.
    Remote,
}

/// Where an answer comes from, and why from there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(ts_rs::TS), ts(optional_fields))]
pub struct Origin {
    /// On this device or elsewhere.
    #[cfg_attr(test, ts(inline))]
    pub ran: Ran,
    /// The device (`cpu`, `gpu`), or the name of the hosted provider.
    pub provider: String,
    /// Which model.
    pub model: String,
    /// Why there.
    pub reason: String,
    /// Requests that were made for it; 0 where it was in the cache.
    pub attempts: u32,
    /// Milliseconds of waiting between them.
    #[serde(default, skip_serializing_if = "is_default")]
    #[cfg_attr(test, ts(optional, as = "Option<u64>"))]
    pub waited_ms: u64,
    /// Given before, to the same request.
    #[serde(default, skip_serializing_if = "is_default")]
    #[cfg_attr(test, ts(optional, as = "Option<bool>"))]
    pub cached: bool,
    /// US dollars, where the price is known. On the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
    /// What repeats the answer, with the same request and device; where JavaScript's numbers hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What is new in one of the answers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ChunkChoice {
    /// Which answer, from 0.
    pub index: usize,
    /// In a chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    /// Where a text is continued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Ids of the tokens, where a request to a model on this device has `return_tokens`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<u32>,
    /// As the model's host gives them.
    pub logprobs: Option<Value>,
    /// On the last chunk of this answer.
    pub finish_reason: Option<FinishReason>,
    /// Fields that candlewick has no name for, such as `native_finish_reason`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ChunkChoice {
    /// Puts the next piece to this one.
    fn add(&mut self, piece: ChunkChoice) {
        append(&mut self.text, &piece.text);
        match (&mut self.delta, piece.delta) {
            (Some(delta), Some(piece)) => delta.add(&piece),
            (delta, piece) => *delta = delta.take().or(piece),
        }
        add_logprobs(&mut self.logprobs, &piece.logprobs);
        self.finish_reason = piece.finish_reason.or(self.finish_reason);
        merge(&mut self.other, &piece.other, false);
    }
}

/// A piece of a message, or all of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Delta {
    /// On the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Text to append.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Thoughts to append.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Pieces of tool calls, each with the `index` of its call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Fields that candlewick has no name for, such as `refusal`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A call of a function, or a piece of one.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ToolCall {
    /// Which call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// On the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// On the first piece: `function`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is called.
    pub function: FunctionCall,
    /// Fields that candlewick has no name for, such as `extra_content`, which Gemini wants back.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A function's name and its arguments as JSON, to be appended to what came before.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FunctionCall {
    /// On the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON.
    pub arguments: String,
    /// Fields that candlewick has no name for.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A whole answer: its chunks, put together.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    /// Where each choice is, by its index.
    #[serde(skip)]
    places: HashMap<usize, usize>,
    #[serde(skip_serializing_if = "UsageOf::is_none")]
    usage: UsageOf,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candlewick: Option<Origin>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// Of a whole answer.
#[derive(Debug, Clone, Default)]
struct UsageOf(Option<Usage>, Map<String, Value>);

impl UsageOf {
    fn is_none(&self) -> bool {
        Counted::new(self.0, &self.1).is_none()
    }
}

impl Serialize for UsageOf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Counted(self.0, &self.1).serialize(serializer)
    }
}

#[derive(Debug, Clone, Default, Serialize)]
struct Choice {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Delta>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<u32>,
    logprobs: Option<Value>,
    finish_reason: Option<FinishReason>,
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Completion {
    /// Puts the next chunk to what came before.
    pub fn add(&mut self, chunk: &Chunk) {
        // A retry is not the answer's yet: it has no id, and another model may answer.
        if self.object.is_empty() && chunk.retry.is_none() {
            self.object = match chunk.object.as_str() {
                "text_completion" => "text_completion",
                _ => "chat.completion",
            };
            self.id.clone_from(&chunk.id);
            self.created = chunk.created;
            self.model.clone_from(&chunk.model);
        }
        for part in &chunk.choices {
            let place = *self.places.entry(part.index).or_insert_with(|| {
                self.choices.push(Choice { index: part.index, ..Choice::default() });
                self.choices.len() - 1
            });
            self.choices[place].add(part);
        }
        self.usage.0 = chunk.usage.or(self.usage.0);
        merge(&mut self.usage.1, &chunk.usage_details, false);
        self.timings = chunk.timings.or(self.timings);
        if chunk.candlewick.is_some() {
            self.candlewick.clone_from(&chunk.candlewick);
        }
        merge(&mut self.other, &chunk.other, false);
    }

    /// The text of the first answer.
    pub fn text(&self) -> &str {
        let Some(choice) = self.first() else { return "" };
        let content = || choice.message.as_ref()?.content.as_deref();
        choice.text.as_deref().or_else(content).unwrap_or_default()
    }

    /// Why the first answer ended.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.first()?.finish_reason
    }

    fn first(&self) -> Option<&Choice> {
        self.choices.get(*self.places.get(&0)?)
    }

    /// Ids of the first answer's tokens, where it has them.
    pub fn tokens(&self) -> &[u32] {
        self.first().map_or(&[], |choice| &choice.tokens)
    }

    /// How fast it was, where a model on this device made it.
    pub fn timings(&self) -> Option<Timings> {
        self.timings
    }

    /// Tokens, where they were counted.
    pub fn usage(&self) -> Option<Usage> {
        self.usage.0
    }

    /// Where it was made.
    pub fn origin(&self) -> Option<&Origin> {
        self.candlewick.as_ref()
    }
}

impl Choice {
    fn add(&mut self, part: &ChunkChoice) {
        append(&mut self.text, &part.text);
        self.tokens.extend(&part.tokens);
        if let Some(delta) = &part.delta {
            self.message
                .get_or_insert_with(|| Delta { role: Some("assistant".into()), ..Delta::default() })
                .add(delta);
        }
        add_logprobs(&mut self.logprobs, &part.logprobs);
        self.finish_reason = part.finish_reason.or(self.finish_reason);
        merge(&mut self.other, &part.other, false);
    }
}

impl Delta {
    fn add(&mut self, piece: &Delta) {
        if piece.role.is_some() {
            self.role.clone_from(&piece.role);
        }
        append(&mut self.content, &piece.content);
        append(&mut self.reasoning_content, &piece.reasoning_content);
        for call in &piece.tool_calls {
            match self.place(call.index) {
                None => self.tool_calls.push(call.clone()),
                Some(place) => self.tool_calls[place].add(call),
            }
        }
        merge(&mut self.other, &piece.other, true);
    }

    /// Where the call with this index is.
    fn place(&self, index: Option<usize>) -> Option<usize> {
        let index = index?;
        let is = |call: &ToolCall| call.index == Some(index);
        // Candlewick numbers them in their order: so they are found without a search.
        match self.tool_calls.get(index) {
            Some(call) if is(call) => Some(index),
            None if self.tool_calls.last().is_none_or(|last| last.index.is_some_and(|last| last < index)) => {
                None
            }
            _ => self.tool_calls.iter().rposition(is),
        }
    }
}

impl ToolCall {
    fn add(&mut self, piece: &ToolCall) {
        append_once(&mut self.id, &piece.id);
        append_once(&mut self.kind, &piece.kind);
        append_once(&mut self.function.name, &piece.function.name);
        self.function.arguments += &piece.function.arguments;
        merge(&mut self.function.other, &piece.function.other, false);
        merge(&mut self.other, &piece.other, false);
    }
}

fn append(text: &mut Option<String>, piece: &Option<String>) {
    if let Some(piece) = piece {
        *text.get_or_insert_default() += piece;
    }
}

fn append_once(value: &mut Option<String>, piece: &Option<String>) {
    if value.as_ref().is_none_or(String::is_empty) {
        value.clone_from(piece);
    }
}

fn add_logprobs(logprobs: &mut Option<Value>, piece: &Option<Value>) {
    match (logprobs, piece) {
        (Some(Value::Object(logprobs)), Some(Value::Object(piece))) => merge(logprobs, piece, true),
        (_, None) => {}
        (logprobs, piece) => logprobs.clone_from(piece),
    }
}

/// Null, and what is empty.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// Texts that are whole in every piece that has them.
const WHOLE: [&str; 11] =
    ["id", "type", "name", "role", "format", "object", "model", "status", "url", "signature", "service_tier"];

/// Later values replace earlier ones, unless they are empty; where things `grow`, texts, lists and objects are appended.
fn merge(fields: &mut Map<String, Value>, new: &Map<String, Value>, grow: bool) {
    for (key, new) in new {
        match (fields.get_mut(key), new) {
            (Some(Value::Null) | None, new) => _ = fields.insert(key.clone(), new.clone()),
            (Some(_), new) if says_nothing(new) => {}
            (Some(Value::String(text)), Value::String(piece)) if grow && !WHOLE.contains(&key.as_str()) => {
                text.push_str(piece)
            }
            (Some(Value::Array(list)), Value::Array(items)) if grow => match key.as_str() {
                "reasoning_details" | "thinking_blocks" => add_thoughts(list, items),
                _ => list.extend_from_slice(items),
            },
            (Some(Value::Object(known)), Value::Object(new)) if grow => merge(known, new, true),
            _ => _ = fields.insert(key.clone(), new.clone()),
        }
    }
}

/// The first of new thoughts may go on with the last one before them; encrypted ones are whole.
fn add_thoughts(list: &mut Vec<Value>, items: &[Value]) {
    let [first, rest @ ..] = items else { return };
    let goes_on = |known: &Map<String, Value>, piece: &Map<String, Value>| {
        ["type", "index"].iter().all(|field| known.get(*field) == piece.get(*field))
            && !piece.contains_key("data")
    };
    match (list.last_mut(), first) {
        (Some(Value::Object(known)), Value::Object(piece)) if goes_on(known, piece) => {
            merge(known, piece, true)
        }
        _ => list.push(first.clone()),
    }
    list.extend_from_slice(rest);
}
