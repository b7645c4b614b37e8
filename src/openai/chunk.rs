//! The parts of an answer, and the whole that they make: the same for local and hosted models.

use crate::engine::{FinishReason, Progress, PromptTokensDetails, Timings, Usage};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// A part of a streamed answer. What a hosted model sends beside OpenAI's fields is kept in `other`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Chunk {
    /// The same on all chunks of an answer.
    #[serde(deserialize_with = "null_is_default")]
    pub id: String,
    /// `chat.completion.chunk` or `text_completion`.
    #[serde(deserialize_with = "null_is_default")]
    pub object: String,
    /// Seconds since 1970.
    #[serde(deserialize_with = "null_is_default")]
    pub created: u64,
    /// Who answers.
    #[serde(deserialize_with = "null_is_default")]
    pub model: String,
    /// None while nothing is said, and on the last chunk.
    #[serde(deserialize_with = "null_is_default")]
    pub choices: Vec<ChunkChoice>,
    /// On the last chunk.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "usage")]
    pub usage: Option<Usage>,
    /// On the last chunk of a local answer.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub timings: Option<Timings>,
    /// While the prompt goes through the model.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub prompt_progress: Option<PromptProgress>,
    /// While the model comes back from a lost GPU.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub recovery: Option<Progress>,
    /// A request to a hosted model failed and will be made again.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub retry: Option<Retrying>,
    /// Where the answer comes from: on the first chunk that says something, and on the last.
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub candlewick: Option<Origin>,
    /// Fields that candlewick has no name for, such as `system_fingerprint`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Chunk {
    /// Whether a reader would notice it: text, reasoning, a tool call, or an end.
    pub fn says_something(&self) -> bool {
        self.choices.iter().any(|choice| {
            let some = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
            let delta = &choice.delta;
            choice.finish_reason.is_some()
                || some(&choice.text)
                || delta.as_ref().is_some_and(|delta| {
                    some(&delta.content) || some(&delta.reasoning_content) || !delta.tool_calls.is_empty()
                })
        })
    }
}

/// Tokens of the prompt.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct PromptProgress {
    /// In all.
    pub total: usize,
    /// So far.
    pub processed: usize,
}

/// Why an answer takes longer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Retrying {
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// Milliseconds until the next.
    pub wait_ms: u64,
    /// Why it failed: an error's code.
    pub code: &'static str,
    /// The same for people.
    pub message: String,
}

/// Where an answer was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ran {
    /// On this device.
    Local,
    /// By a hosted model.
    Remote,
}

/// Where an answer comes from, and why from there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// On this device or elsewhere.
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
    pub waited_ms: u64,
    /// Given before, to the same request.
    #[serde(default, skip_serializing_if = "is_default")]
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
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChunkChoice {
    /// Which answer, from 0.
    #[serde(deserialize_with = "null_is_default")]
    pub index: usize,
    /// In a chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta>,
    /// Where a text is continued.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Ids of the tokens, where a request to a model on this device has `return_tokens`.
    #[serde(skip_serializing_if = "Vec::is_empty", skip_deserializing)]
    pub tokens: Vec<u32>,
    /// As the model's host gives them.
    pub logprobs: Option<Value>,
    /// On the last chunk of this answer.
    #[serde(deserialize_with = "finish_reason")]
    pub finish_reason: Option<FinishReason>,
}

/// A piece of a message, or all of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
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
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub tool_calls: Vec<ToolCall>,
    /// Fields that candlewick has no name for.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A call of a function, or a piece of one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToolCall {
    /// Which call. Whole answers have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// On the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// On the first piece: `function`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is called.
    #[serde(deserialize_with = "null_is_default")]
    pub function: FunctionCall,
}

/// A function's name and its arguments as JSON, to be appended to what came before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionCall {
    /// On the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON.
    #[serde(deserialize_with = "null_is_default")]
    pub arguments: String,
}

/// Hosted models write null where they mean nothing.
fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    value: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

/// Token counts, as far as they are given.
fn usage<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Usage>, D::Error> {
    let value = Value::deserialize(value)?;
    let count = |value: &Value| value.as_u64().unwrap_or(0) as usize;
    Ok(value.is_object().then(|| Usage {
        prompt_tokens: count(&value["prompt_tokens"]),
        completion_tokens: count(&value["completion_tokens"]),
        total_tokens: count(&value["total_tokens"]),
        prompt_tokens_details: PromptTokensDetails {
            cached_tokens: count(&value["prompt_tokens_details"]["cached_tokens"]),
        },
    }))
}

/// OpenAI's names, and those that hosts use instead.
fn finish_reason<'de, D: Deserializer<'de>>(value: D) -> Result<Option<FinishReason>, D::Error> {
    let name = Option::<String>::deserialize(value)?;
    Ok(name.filter(|name| !name.is_empty()).map(|name| match name.as_str() {
        "length" | "max_tokens" | "model_length" => FinishReason::Length,
        "tool_calls" | "tool_use" | "function_call" => FinishReason::ToolCalls,
        "content_filter" => FinishReason::ContentFilter,
        // `eos_token`, `stop_sequence`, `end_turn`…
        _ => FinishReason::Stop,
    }))
}

/// A whole answer: its chunks, put together.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Completion {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timings: Option<Timings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    candlewick: Option<Origin>,
    #[serde(flatten)]
    other: Map<String, Value>,
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
}

impl Completion {
    /// Puts the next chunk to what came before.
    pub fn add(&mut self, chunk: &Chunk) {
        if self.object.is_empty() {
            self.object = match chunk.object.as_str() {
                "text_completion" => "text_completion",
                _ => "chat.completion",
            };
            self.id.clone_from(&chunk.id);
            self.created = chunk.created;
            self.model.clone_from(&chunk.model);
        }
        for part in &chunk.choices {
            let place = self.choices.iter().position(|choice| choice.index == part.index);
            let place = place.unwrap_or_else(|| {
                self.choices.push(Choice { index: part.index, ..Choice::default() });
                self.choices.len() - 1
            });
            self.choices[place].add(part);
        }
        self.usage = chunk.usage.or(self.usage);
        self.timings = chunk.timings.or(self.timings);
        if chunk.candlewick.is_some() {
            self.candlewick.clone_from(&chunk.candlewick);
        }
        merge(&mut self.other, &chunk.other, false);
    }

    /// The text of the first answer.
    pub fn text(&self) -> &str {
        let Some(choice) = self.choices.iter().find(|choice| choice.index == 0) else { return "" };
        let content = || choice.message.as_ref()?.content.as_deref();
        choice.text.as_deref().or_else(content).unwrap_or_default()
    }

    /// Why the first answer ended.
    pub fn finish_reason(&self) -> Option<FinishReason> {
        self.choices.iter().find(|choice| choice.index == 0)?.finish_reason
    }

    /// Ids of the first answer's tokens, where it has them.
    pub fn tokens(&self) -> &[u32] {
        self.choices.iter().find(|choice| choice.index == 0).map_or(&[], |choice| &choice.tokens)
    }

    /// How fast it was, where a model on this device made it.
    pub fn timings(&self) -> Option<Timings> {
        self.timings
    }

    /// Tokens, where they were counted.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// Where it was made.
    pub fn origin(&self) -> Option<&Origin> {
        self.candlewick.as_ref()
    }
}

impl Choice {
    fn add(&mut self, part: &ChunkChoice) {
        if let Some(text) = &part.text {
            *self.text.get_or_insert_default() += text;
        }
        self.tokens.extend(&part.tokens);
        if let Some(delta) = &part.delta {
            self.message
                .get_or_insert_with(|| Delta { role: Some("assistant".into()), ..Delta::default() })
                .add(delta);
        }
        if let Some(new) = &part.logprobs {
            match &mut self.logprobs {
                Some(Value::Object(logprobs)) if new.is_object() => {
                    merge(logprobs, new.as_object().unwrap_or(&Map::new()), true)
                }
                logprobs => *logprobs = Some(new.clone()),
            }
        }
        self.finish_reason = part.finish_reason.or(self.finish_reason);
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
            // Some hosts leave the index out; a piece with an id then begins a call.
            let same = |known: &ToolCall| match call.index {
                Some(_) => known.index == call.index,
                None => call.id.is_none() || known.id == call.id,
            };
            match self.tool_calls.iter_mut().rev().find(|known| same(known)) {
                None => self.tool_calls.push(call.clone()),
                Some(known) => {
                    append_once(&mut known.id, &call.id);
                    append_once(&mut known.kind, &call.kind);
                    append_once(&mut known.function.name, &call.function.name);
                    known.function.arguments += &call.function.arguments;
                }
            }
        }
        merge(&mut self.other, &piece.other, true);
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

/// Later values replace earlier ones; where things `grow`, texts and lists are appended.
fn merge(fields: &mut Map<String, Value>, new: &Map<String, Value>, grow: bool) {
    for (key, new) in new {
        match (fields.get_mut(key), new) {
            (Some(Value::String(text)), Value::String(piece)) if grow => text.push_str(piece),
            (Some(Value::Array(list)), Value::Array(items)) if grow => list.extend_from_slice(items),
            (Some(_), Value::Null) => {}
            _ => _ = fields.insert(key.clone(), new.clone()),
        }
    }
}
