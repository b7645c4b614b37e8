//! Which model for which task: a table that the user can replace.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// A conversation.
    Chat,
    /// Programs.
    Code,
    /// Texts as vectors.
    Embeddings,
    /// What kind of text it is.
    Classification,
    /// The same in fewer words.
    Summarization,
    /// The same in another language.
    Translation,
    /// A picture.
    Image,
}

/// A model for a task, up to a length of input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Row {
    /// For this.
    pub task: Task,
    /// Tokens of input, at most; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_to: Option<usize>,
    /// As `run` takes it: `hf:org/name`, or a local model.
    pub model: String,
    /// Fields of the request, where it does not have them itself.
    #[serde(default)]
    pub settings: Map<String, Value>,
}

/// The choice, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pick {
    /// Which model.
    pub model: String,
    /// Fields of the request, where it does not have them itself.
    pub settings: Map<String, Value>,
    /// Why this one.
    pub reason: String,
}

/// Rows; of those for a task the first that is long enough counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Table(pub Vec<Row>);

impl Default for Table {
    /// Well-known models of the Hub for each task; lengths are what they were trained for.
    fn default() -> Self {
        let row = |task, up_to, model: &str, settings: Value| Row {
            task,
            up_to,
            model: format!("hf:{model}"),
            settings: settings.as_object().cloned().unwrap_or_default(),
        };
        Table(vec![
            row(
                Task::Chat,
                Some(4000),
                "Qwen/Qwen2.5-7B-Instruct",
                json!({ "temperature": 0.7, "max_tokens": 512 }),
            ),
            row(
                Task::Chat,
                None,
                "meta-llama/Llama-3.3-70B-Instruct",
                json!({ "temperature": 0.7, "max_tokens": 1024 }),
            ),
            row(
                Task::Code,
                None,
                "Qwen/Qwen2.5-Coder-32B-Instruct",
                json!({ "temperature": 0.2, "max_tokens": 1024 }),
            ),
            // 384 and 768 numbers.
            row(Task::Embeddings, Some(256), "sentence-transformers/all-MiniLM-L6-v2", json!({})),
            row(Task::Embeddings, None, "sentence-transformers/all-mpnet-base-v2", json!({})),
            row(
                Task::Classification,
                None,
                "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
                json!({}),
            ),
            row(Task::Summarization, Some(512), "google/pegasus-xsum", json!({ "max_length": 64 })),
            row(
                Task::Summarization,
                None,
                "facebook/bart-large-cnn",
                json!({ "max_length": 142, "min_length": 30 }),
            ),
            row(Task::Translation, None, "Helsinki-NLP/opus-mt-en-fr", json!({})),
            row(Task::Image, None, "black-forest-labs/FLUX.1-schnell", json!({})),
        ])
    }
}

impl Table {
    /// The model for a task with an input of about `tokens` tokens.
    pub fn pick(&self, task: Task, tokens: usize) -> Result<Pick> {
        let mut rows = self.0.iter().filter(|row| row.task == task);
        let found = rows.find(|row| row.up_to.is_none_or(|limit| tokens <= limit));
        let row = found.ok_or_else(|| {
            Error::unsupported_model(format!(
                "the table has no model for {task:?} with {tokens} tokens of input"
            ))
        })?;
        let reason = match row.up_to {
            Some(limit) => format!("{tokens} tokens of input, of at most {limit}"),
            None => format!("{tokens} tokens of input"),
        };
        Ok(Pick { model: row.model.clone(), settings: row.settings.clone(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_decides() {
        let table = Table::default();
        let model = |task, tokens| table.pick(task, tokens).unwrap().model;
        assert!(model(Task::Embeddings, 256).ends_with("all-MiniLM-L6-v2"));
        assert!(model(Task::Embeddings, 257).ends_with("all-mpnet-base-v2"));
        let mine: Table =
            serde_json::from_value(json!([{ "task": "chat", "upTo": 10, "model": "small.gguf" }])).unwrap();
        assert_eq!(mine.pick(Task::Chat, 10).unwrap().model, "small.gguf");
        assert_eq!(mine.pick(Task::Chat, 11).unwrap_err().code, crate::Code::UnsupportedModel);
        assert!(mine.pick(Task::Code, 1).is_err());
    }
}
