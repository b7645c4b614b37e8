//! From a conversation to the text of a prompt.
//!
//! A model's file carries a Jinja template that says how its conversations are written. It is run
//! here as Hugging Face transformers runs it, so that the model reads what it was trained on. Files
//! without a template get one of a few [named formats](formats), which are small templates too.

mod budget;
mod clock;
mod continuation;
mod digits;
mod filters;
pub mod formats;
mod formatting;
mod json;
mod lists;
mod literal;
mod macros;
mod messages;
mod methods;
mod needs;
mod operators;
mod python;
mod source;
mod tag;
mod template;
mod texts;

pub use clock::LocalTime;
pub use template::{ChatTemplate, SpecialTokens};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A conversation, and how its prompt is to end.
///
/// Messages and tools are kept as JSON, in their own order of keys: templates see all that the
/// caller gave, also what candlewick has no name for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conversation {
    /// Objects with a `role` and mostly a `content`: a string, null, or parts such as
    /// `{"type": "text", "text": "…"}`. Often also `tool_calls`, `tool_call_id`, `name`,
    /// `reasoning_content`.
    pub messages: Vec<Value>,
    /// JSON descriptions of functions, as OpenAI's API has them.
    pub tools: Option<Vec<Value>>,
    /// Whether the prompt ends with the start of an answer. `None`: yes, unless the last message is
    /// to be continued.
    pub add_generation_prompt: Option<bool>,
    /// Whether the last message is left open, for the model to go on with.
    pub continue_final_message: bool,
    /// Further variables for the template, such as `enable_thinking` or `documents`.
    #[serde(rename = "chat_template_kwargs")]
    pub variables: Map<String, Value>,
    /// What `strftime_now` tells the template. `None`: the template has no clock.
    #[serde(skip)]
    pub now: Option<LocalTime>,
}

impl Conversation {
    /// One that asks for an answer to `messages`.
    pub fn new(messages: Vec<Value>) -> Self {
        Conversation { messages, ..Self::default() }
    }
}

/// A message with nothing but a role and a text.
pub fn message(role: &str, content: &str) -> Value {
    serde_json::json!({ "role": role, "content": content })
}
