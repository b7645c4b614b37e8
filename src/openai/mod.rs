//! OpenAI's request and answer shapes around the engine, for every face that speaks them.
//!
//! <https://platform.openai.com/docs/api-reference/chat/streaming>, with llama.cpp's additions:
//! more sampling settings, `prompt_progress` and `timings`.

mod chunk;
mod embeddings;
pub(crate) mod lenient;

pub use chunk::{
    Chunk, ChunkChoice, Completion, Delta, FunctionCall, Origin, PromptProgress, Ran, Retrying, ToolCall,
};

pub use embeddings::{
    EmbeddingEntry, EmbeddingList, EmbeddingRequest, EmbeddingUsage, Embeddings, Encoded, Encoding,
};

use crate::chat::Conversation;
use crate::engine::{Engine, Event, FinishReason, Generation, Prompt, Settings, Truncation};
use crate::sampling::Sampling;
use crate::{Error, Result};
use futures_util::stream::LocalBoxStream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use web_time::{SystemTime, UNIX_EPOCH};

/// Settings that both endpoints take.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Common {
    #[serde(alias = "max_completion_tokens")]
    max_tokens: Option<usize>,
    stop: Option<OneOrMany>,
    n: Option<usize>,
    truncate: Option<Truncation>,
    ignore_eos: bool,
    logprobs: Option<Value>,
    response_format: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl Common {
    fn settings(self, sampling: Sampling) -> Result<Settings> {
        let asked = |value: &Option<Value>| !matches!(value, None | Some(Value::Null | Value::Bool(false)));
        if asked(&self.logprobs) {
            return Err(Error::invalid_argument("logprobs are not supported"));
        }
        if self.response_format.is_some_and(|format| format["type"] != "text") {
            return Err(Error::invalid_argument("response_format: only {\"type\": \"text\"} is supported"));
        }
        let defaults = Settings::default();
        Ok(Settings {
            sampling,
            max_tokens: self.max_tokens.unwrap_or(defaults.max_tokens),
            stop: match self.stop {
                None => Vec::new(),
                Some(OneOrMany::One(stop)) => vec![stop],
                Some(OneOrMany::Many(stops)) => stops,
            },
            truncation: self.truncate.unwrap_or_default(),
            choices: self.n.unwrap_or(1),
            ignore_eos: self.ignore_eos,
        })
    }
}

/// The body of `/v1/chat/completions`.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// What is to be answered.
    pub conversation: Conversation,
    settings: Settings,
}

/// The body of `/v1/completions`.
#[derive(Debug, Clone)]
pub struct CompletionRequest {
    input: Input,
    settings: Settings,
}

#[derive(Debug, Clone, Deserialize)]
struct Input {
    prompt: TextOrTokens,
    #[serde(default)]
    echo: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum TextOrTokens {
    Text(String),
    Tokens(Vec<u32>),
}

impl TryFrom<Value> for ChatRequest {
    type Error = Error;

    fn try_from(body: Value) -> Result<Self> {
        let body = without_nulls(body)?;
        Ok(ChatRequest { conversation: read(&body)?, settings: settings(&body)? })
    }
}

impl TryFrom<Value> for CompletionRequest {
    type Error = Error;

    fn try_from(body: Value) -> Result<Self> {
        let body = without_nulls(body)?;
        Ok(CompletionRequest { input: read(&body)?, settings: settings(&body)? })
    }
}

fn settings(body: &Value) -> Result<Settings> {
    read::<Common>(body)?.settings(read(body)?)
}

/// OpenAI's clients write null where they mean nothing.
fn without_nulls(mut body: Value) -> Result<Value> {
    let fields =
        body.as_object_mut().ok_or_else(|| Error::invalid_argument("the request is not an object"))?;
    fields.retain(|_, value| !value.is_null());
    Ok(body)
}

/// The fields of `body` that `T` knows. Errors name the field, which serde's `flatten` would not.
fn read<T: DeserializeOwned>(body: &Value) -> Result<T> {
    serde_path_to_error::deserialize(body).map_err(Error::invalid_argument)
}

/// An answer as it comes. Chunks without choices tell of retries and, at the end, of usage and origin.
/// After an error nothing comes. Dropping it ends the transfer.
pub type Chunks = LocalBoxStream<'static, Result<Chunk>>;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// An answer to a conversation.
    Chat,
    /// The continuation of a text.
    Completions,
}

impl Endpoint {
    /// Below the base address.
    pub fn path(self) -> &'static str {
        match self {
            Endpoint::Chat => "/chat/completions",
            Endpoint::Completions => "/completions",
        }
    }

    /// The `object` of its chunks.
    pub fn object(self) -> &'static str {
        match self {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completions => "text_completion",
        }
    }
}

/// An answer in the making: chunk by chunk, and whole at the end.
pub struct Answer {
    generation: Generation,
    endpoint: Endpoint,
    id: String,
    created: u64,
    model: String,
    /// Answers that have begun.
    begun: usize,
    /// Put before each text.
    prefix: String,
    usage_given: bool,
}

impl Answer {
    /// Waits for its turn, then begins to answer a conversation.
    pub async fn chat(engine: &Engine, request: ChatRequest) -> Result<Answer> {
        let generation = engine.generate(Prompt::Chat(request.conversation), request.settings).await?;
        Ok(Answer::new(engine, generation, Endpoint::Chat, String::new()))
    }

    /// Waits for its turn, then begins to continue a text.
    pub async fn complete(engine: &Engine, request: CompletionRequest) -> Result<Answer> {
        let Input { prompt, echo } = request.input;
        let prefix = match (&prompt, echo) {
            (_, false) => String::new(),
            (TextOrTokens::Text(text), true) => text.clone(),
            (TextOrTokens::Tokens(tokens), true) => engine.language().tokenizer.decode(tokens),
        };
        let prompt = match prompt {
            TextOrTokens::Text(text) => Prompt::Text(text),
            TextOrTokens::Tokens(tokens) => Prompt::Tokens(tokens),
        };
        let generation = engine.generate(prompt, request.settings).await?;
        Ok(Answer::new(engine, generation, Endpoint::Completions, prefix))
    }

    fn new(engine: &Engine, generation: Generation, endpoint: Endpoint, prefix: String) -> Answer {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let kind = match endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completions => "cmpl",
        };
        Answer {
            id: format!("{kind}-{:x}{:08x}", since_epoch.as_nanos(), generation.seed() as u32),
            generation,
            endpoint,
            created: since_epoch.as_secs(),
            model: engine.info().name.clone(),
            begun: 0,
            prefix,
            usage_given: false,
        }
    }

    /// One step. While the prompt is processed, and at the very end, chunks have no choices; the
    /// last one carries usage and timings.
    pub async fn next(&mut self) -> Result<Option<Chunk>> {
        Ok(Some(match self.generation.next().await? {
            Some(Event::Prompt { processed, total }) => {
                Chunk { prompt_progress: Some(PromptProgress { total, processed }), ..self.chunk() }
            }
            Some(Event::Recovery(progress)) => Chunk { recovery: Some(progress), ..self.chunk() },
            Some(Event::Token { choice, text, .. }) => self.part(choice, text, None),
            Some(Event::Finish { choice, reason, text, .. }) => self.part(choice, text, Some(reason)),
            None if self.usage_given => return Ok(None),
            None => {
                self.usage_given = true;
                let (usage, timings) = (self.generation.usage(), self.generation.timings());
                Chunk { usage: Some(usage), timings: Some(timings), ..self.chunk() }
            }
        }))
    }

    fn chunk(&self) -> Chunk {
        Chunk {
            id: self.id.clone(),
            object: self.endpoint.object().to_owned(),
            created: self.created,
            model: self.model.clone(),
            ..Chunk::default()
        }
    }

    fn part(&mut self, index: usize, mut text: String, finish_reason: Option<FinishReason>) -> Chunk {
        let begins = self.begun == index;
        if begins {
            text.insert_str(0, &self.prefix);
            self.begun += 1;
        }
        let choice = ChunkChoice { index, finish_reason, ..ChunkChoice::default() };
        let choice = match self.endpoint {
            Endpoint::Chat => {
                let role = begins.then(|| "assistant".to_owned());
                ChunkChoice { delta: Some(Delta { role, content: Some(text), ..Delta::default() }), ..choice }
            }
            Endpoint::Completions => ChunkChoice { text: Some(text), ..choice },
        };
        Chunk { choices: vec![choice], ..self.chunk() }
    }
}
