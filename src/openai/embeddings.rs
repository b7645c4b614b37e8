//! The shapes of `/v1/embeddings`: <https://platform.openai.com/docs/api-reference/embeddings>.

use super::Origin;
use super::inputs::{Input, Inputs};
use crate::engine::{Document, EmbeddingSettings};
use crate::json::Fields;
use crate::{Error, Result};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The body of `/v1/embeddings`.
#[derive(Debug, Clone)]
pub struct EmbeddingRequest {
    /// At least one.
    pub documents: Vec<Document>,
    /// For all of them.
    pub settings: EmbeddingSettings,
    /// How the answer writes numbers.
    pub encoding: Encoding,
}

/// How an answer writes a vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As a list of numbers.
    #[default]
    Float,
    /// As base64 of little-endian 32-bit floats.
    Base64,
}

#[derive(Deserialize)]
struct Body {
    input: Inputs,
    #[serde(default)]
    encoding_format: Encoding,
    dimensions: Option<usize>,
    /// As in Hugging Face's text-embeddings-inference.
    #[serde(default)]
    truncate: bool,
    /// The one that was loaded answers.
    #[serde(default, rename = "model")]
    _model: String,
}

impl TryFrom<Value> for EmbeddingRequest {
    type Error = Error;

    fn try_from(body: Value) -> Result<Self> {
        let fields = Fields::new("the request", &body)?;
        let Body { input: Inputs(inputs), encoding_format: encoding, dimensions, truncate, .. } =
            fields.read()?;
        fields.end(&["user"])?;
        let document = |input| match input {
            Input::Text(text) => Document::Text(text),
            Input::Tokens(tokens) => Document::Tokens(tokens),
        };
        let documents = inputs.into_iter().map(document).collect();
        Ok(EmbeddingRequest { documents, settings: EmbeddingSettings { truncate, dimensions }, encoding })
    }
}

/// Texts as vectors: each with its own status, so that one that fails does not fail the rest.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// In the order of the request.
    pub vectors: Vec<Result<Vec<f32>>>,
    /// Tokens that were read, where they were counted.
    pub tokens: usize,
    /// Where they were made.
    pub origin: Origin,
}

/// The answer of `/v1/embeddings`.
#[derive(Debug, Clone, Serialize)]
pub struct EmbeddingList {
    object: &'static str,
    /// In the order of the request.
    pub data: Vec<EmbeddingEntry>,
    /// The model's name.
    pub model: String,
    /// Tokens.
    pub usage: EmbeddingUsage,
    /// Where they were made.
    pub candlewick: Origin,
}

/// A text's vector.
#[derive(Debug, Clone, Serialize)]
pub struct EmbeddingEntry {
    object: &'static str,
    /// Place of the text in the request.
    pub index: usize,
    /// The numbers.
    pub embedding: Encoded,
}

/// A vector as it was asked for.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Encoded {
    /// See [`Encoding::Float`].
    Float(Vec<f32>),
    /// See [`Encoding::Base64`].
    Base64(String),
}

/// Tokens of a request for vectors.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct EmbeddingUsage {
    /// Of all texts.
    pub prompt_tokens: usize,
    /// The same.
    pub total_tokens: usize,
}

impl Embeddings {
    /// The answer in OpenAI's shape, which has no place for a text that failed: the first failure fails all.
    pub fn list(self, encoding: Encoding) -> Result<EmbeddingList> {
        let many = self.vectors.len() > 1;
        let entry = |(index, vector): (usize, Result<Vec<f32>>)| {
            let in_list = |error: Error| if many { error.context(format!("input[{index}]")) } else { error };
            Ok(EmbeddingEntry {
                object: "embedding",
                index,
                embedding: encoding.encode(vector.map_err(in_list)?),
            })
        };
        Ok(EmbeddingList {
            object: "list",
            data: self.vectors.into_iter().enumerate().map(entry).collect::<Result<_>>()?,
            model: self.origin.model.clone(),
            usage: EmbeddingUsage { prompt_tokens: self.tokens, total_tokens: self.tokens },
            candlewick: self.origin,
        })
    }
}

impl Encoding {
    fn encode(self, vector: Vec<f32>) -> Encoded {
        match self {
            Encoding::Float => Encoded::Float(vector),
            Encoding::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
                Encoded::Base64(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}
