//! OpenAI's request and answer shapes around the engine, for every face that speaks them.
//!
//! <https://platform.openai.com/docs/api-reference/chat/streaming>, with llama.cpp's additions:
//! more sampling settings, `prompt_progress` and `timings`.

mod answer;
mod chunk;
mod embeddings;
mod inputs;
pub(crate) mod lenient;
mod request;
mod unsupported;

pub use answer::Answer;
pub use chunk::{Chunk, ChunkChoice, Completion, Delta, FunctionCall, Origin, PromptProgress, Ran, ToolCall};
pub use embeddings::{
    EmbeddingEntry, EmbeddingList, EmbeddingRequest, EmbeddingUsage, Embeddings, Encoded, Encoding,
};
pub use request::{ChatRequest, CompletionRequest, check_settings};
pub(crate) use unsupported::unsupported;

use crate::Result;
use futures_util::stream::LocalBoxStream;

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
