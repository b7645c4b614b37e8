//! From a text to its vector.

use super::Engine;
use crate::backend::MOST_SPANS;
use crate::model::normalize;
use crate::turns::Turns;
use crate::{Error, Result};

/// A text to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// A text, around which the model's CLS and SEP go.
    Text(String),
    /// Tokens, taken as they are.
    Tokens(Vec<u32>),
}

/// How to embed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EmbeddingSettings {
    /// Whether a text that is too long loses its end. Otherwise it fails with `context_length_exceeded`. Hosted models
    /// have their own ways.
    pub truncate: bool,
    /// Keeps so many numbers of the vector, and makes its length 1 again: for models trained so (Matryoshka).
    pub dimensions: Option<usize>,
}

impl EmbeddingSettings {
    /// Whether a vector of `width` numbers has as many as are wanted.
    fn check(self, width: usize) -> Result<()> {
        match self.dimensions {
            Some(dimensions) if !(1..=width).contains(&dimensions) => Err(Error::invalid_argument(format!(
                "dimensions is {dimensions}; it must be from 1 to the {width} that the model gives"
            ))),
            _ => Ok(()),
        }
    }

    /// Keeps what is wanted of a vector.
    pub(crate) fn cut(self, vector: &mut Vec<f32>) -> Result<()> {
        self.check(vector.len())?;
        if let Some(dimensions) = self.dimensions.filter(|&dimensions| dimensions < vector.len()) {
            vector.truncate(dimensions);
            normalize(vector);
        }
        Ok(())
    }
}

/// A text as numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    /// Of length 1: the scalar product of two is the cosine of their angle.
    pub vector: Vec<f32>,
    /// That the model has read.
    pub tokens: usize,
}

impl Engine {
    /// The vector of a text; of an encoder only. Waits until the requests before this one have ended.
    pub async fn embed(&self, document: &Document, settings: EmbeddingSettings) -> Result<Embedding> {
        let mut embeddings = self.embed_all(std::slice::from_ref(document), settings).await?;
        embeddings.pop().unwrap_or_else(|| Err(Error::internal("a text has no vector")))
    }

    /// The vectors of several texts, short ones many at a time. One that fails does not fail the others, unless the
    /// model or the settings are wrong.
    pub async fn embed_all(
        &self,
        documents: &[Document],
        settings: EmbeddingSettings,
    ) -> Result<Vec<Result<Embedding>>> {
        let info = self.info();
        let encoder = self.encoder()?;
        settings.check(info.embedding_length)?;
        let mut turns = Turns::new();
        let mut embeddings = Vec::with_capacity(documents.len());
        while embeddings.len() < documents.len() {
            // No more are made into tokens than may go together.
            let next = documents[embeddings.len()..].iter().take(MOST_SPANS);
            let mut texts = Vec::new();
            for document in next {
                texts.push(self.document_tokens(document, info.context_length, settings.truncate).await);
            }
            let mut texts = texts.into_iter().peekable();
            while texts.peek().is_some() {
                // Between steps others have their turn, and waiting can be given up.
                turns.pause().await;
                if let Some(failed) = texts.next_if(Result::is_err) {
                    embeddings.push(failed.map(|_| Embedding { vector: Vec::new(), tokens: 0 }));
                    continue;
                }
                let mut encoder = encoder.lock_arc().await;
                let mut together: Vec<Vec<u32>> = Vec::new();
                while let Some(Ok(tokens)) = texts.next_if(|text| {
                    let Ok(tokens) = text else { return false };
                    let lens = together.iter().chain([tokens]).map(Vec::len);
                    encoder.fit_together(lens) > together.len()
                }) {
                    together.push(tokens);
                }
                let slices: Vec<&[u32]> = together.iter().map(Vec::as_slice).collect();
                for (vector, tokens) in encoder.embed_together(&slices).await?.into_iter().zip(&slices) {
                    embeddings.push(vector.and_then(|mut vector| {
                        settings.cut(&mut vector)?;
                        Ok(Embedding { vector, tokens: tokens.len() })
                    }));
                }
            }
        }
        Ok(embeddings)
    }

    async fn document_tokens(&self, document: &Document, context: usize, truncate: bool) -> Result<Vec<u32>> {
        let tokenizer = &self.language.tokenizer;
        let mut tokens = match document {
            // As in llama.cpp and transformers, "[MASK]" in a text is the token.
            Document::Text(text) => {
                tokenizer.encode_with_special_in_turns(text, true, &mut Turns::new()).await?
            }
            Document::Tokens(tokens) => {
                tokenizer.check(tokens)?;
                tokens.clone()
            }
        };
        if tokens.is_empty() {
            return Err(Error::invalid_argument("a text without tokens has no vector"));
        }
        if tokens.len() > context {
            if !truncate {
                return Err(Error::context_length_exceeded(format!(
                    "a text of {} tokens, and the model reads {context}. Cut it into parts, or set truncate to read \
                     its beginning only",
                    tokens.len()
                )));
            }
            // What ends a text stays at its end.
            let last = tokens[tokens.len() - 1];
            tokens.truncate(context);
            if Some(last) == tokenizer.separator() {
                tokens[context - 1] = last;
            }
        }
        Ok(tokens)
    }
}
