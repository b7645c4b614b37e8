//! The transformer encoder: a text's tokens in, one vector out.

use super::config::Config;
use super::layers::{self, Size};
use super::loader::{Loader, Progress};
use crate::backend::op::Buffer;
use crate::backend::{Backend, KernelTime, MOST_SPANS, Program, Span, Step, Token, pages};
use crate::format::gguf::{Header, Metadata};
use crate::store::Source;
use crate::{Error, Result};
use std::rc::Rc;

/// Tokens that texts may have together in a step, if not one alone may have more.
const TOGETHER: usize = 256;

/// How the states of a text's tokens become its vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first one's, which is CLS.
    First,
    /// The last one's.
    Last,
}

impl Pooling {
    /// `{architecture}.pooling_type`; the mean where the file does not say, or says none.
    fn read(metadata: &Metadata, config: &Config) -> Result<Pooling> {
        let key = format!("{}.pooling_type", config.family.name);
        match metadata.u32(&key)? {
            None | Some(0 | 1) => Ok(Pooling::Mean),
            Some(2) => Ok(Pooling::First),
            Some(3) => Ok(Pooling::Last),
            Some(4) => Err(Error::unsupported_model(
                "this model ranks pairs of texts; candlewick runs encoders that give each text a vector",
            )),
            Some(kind) => {
                Err(Error::corrupt_model(format!("metadata {key} is {kind}; it must be from 0 to 4")))
            }
        }
    }
}

/// A loaded encoder.
pub struct Encoder {
    config: Config,
    pooling: Pooling,
    backend: Box<dyn Backend>,
    /// Most tokens of a text.
    context: usize,
    /// Most tokens of a step.
    rows: usize,
    /// Pages of a step's texts, at most.
    pages: usize,
    /// Where a step leaves its tokens' states.
    stream: Buffer,
    states: Vec<f32>,
}

impl Encoder {
    /// The vector of a text: see [`Encoder::embed_together`].
    pub async fn embed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut vectors = self.embed_together(&[tokens]).await?;
        vectors.pop().unwrap_or_else(|| Err(Error::internal("a text has no vector")))
    }

    /// How many texts of these lengths, from the first on, go through the model together: at least one.
    pub fn fit_together(&self, lens: impl IntoIterator<Item = usize>) -> usize {
        let (mut rows, mut taken) = (0, 0);
        let mut fits = |len: usize| {
            rows += len;
            taken += pages(len);
            rows <= self.rows && taken <= self.pages
        };
        lens.into_iter().take(MOST_SPANS).take_while(|len| fits(*len)).count().max(1)
    }

    /// The vectors of texts, of length 1: [`Config::embedding`] numbers each. Each text's tokens, from 1 to the context,
    /// begin with CLS and end with SEP, where the model has these. No more texts than [`Encoder::fit_together`].
    pub async fn embed_together(&mut self, texts: &[&[u32]]) -> Result<Vec<Result<Vec<f32>>>> {
        if texts.iter().any(|tokens| tokens.is_empty()) {
            return Err(Error::invalid_argument("a text without tokens has no vector"));
        }
        let longest = texts.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        if longest > self.context || self.fit_together(texts.iter().map(|tokens| tokens.len())) < texts.len()
        {
            return Err(Error::internal(format!("{} texts of {longest} tokens do not fit", texts.len())));
        }
        let (mut step, mut next) = (Step::default(), 0);
        for tokens in texts {
            let end = next + pages(tokens.len()) as u32;
            step.spans.push(Span { pages: (next..end).collect(), rows: tokens.len(), ..Span::default() });
            step.tokens.extend(tokens.iter().copied().map(Token::Known));
            next = end;
        }
        self.backend.run(&step)?;
        self.backend.read(self.stream, 0, step.rows(), &mut self.states).await?;
        let vector = |(first, span): (usize, &Span)| {
            let width = self.config.embedding;
            self.pool(&self.states[first * width..][..span.rows * width])
        };
        Ok(step.spans().map(vector).collect())
    }

    /// The vector of a text, from its tokens' states.
    fn pool(&self, states: &[f32]) -> Result<Vec<f32>> {
        let width = self.config.embedding;
        let mut rows = states.chunks_exact(width);
        let mut vector = match self.pooling {
            Pooling::First => rows.next().unwrap_or_default().to_vec(),
            Pooling::Last => rows.last().unwrap_or_default().to_vec(),
            Pooling::Mean => {
                let mut sum = vec![0.0; width];
                rows.for_each(|row| sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value));
                sum
            }
        };
        normalize(&mut vector);
        // A mean hides no number that is none.
        match vector.iter().all(|value| value.is_finite()) {
            true => Ok(vector),
            false => Err(Error::corrupt_model(
                "the model gave a vector with a number that is not finite: its weights are damaged",
            )),
        }
    }

    /// Most tokens of a text.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it runs.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// What the device's kernels have cost, where it was asked to measure.
    pub async fn kernel_times(&mut self) -> Result<Vec<KernelTime>> {
        self.backend.kernel_times().await
    }

    /// What the model will ask of a device. Only the header of `source` is used.
    pub async fn program(
        source: &dyn Source,
        header: &Header,
        config: &Config,
        context: usize,
    ) -> Result<Program> {
        let progress = &mut |_| Ok(());
        let mut loader = Loader::new(source, header, false, progress);
        Self::record(&mut loader, config, context).await?;
        Ok(loader.program)
    }

    /// Brings the weights of `source` to `backend`. `context` is the most tokens that a text shall have.
    pub async fn load(
        source: &dyn Source,
        header: &Header,
        config: Config,
        mut backend: Box<dyn Backend>,
        context: usize,
        progress: &mut Progress<'_>,
    ) -> Result<Encoder> {
        let pooling = Pooling::read(&header.metadata, &config)?;
        let mut loader = Loader::new(source, header, true, progress);
        let stream = Self::record(&mut loader, &config, context).await?;
        backend.prepare(&Rc::new(std::mem::take(&mut loader.program)))?;
        loader.finish(backend.as_mut()).await?;
        backend.loaded().await?;
        let Size { rows, pages, .. } = Self::size(context);
        Ok(Encoder { config, pooling, backend, context, rows, pages, stream, states: Vec::new() })
    }

    /// Gives the buffer of the tokens' states.
    async fn record(loader: &mut Loader<'_>, config: &Config, context: usize) -> Result<Buffer> {
        Ok(layers::record(loader, config, Self::size(context)).await?.states)
    }

    fn size(context: usize) -> Size {
        // A text goes through each layer in one piece: every token sees all others. Short ones go together.
        let rows = context.max(TOGETHER);
        Size { pages: pages(rows).max(MOST_SPANS), rows, context, slots: 0 }
    }
}

/// Makes a vector's length 1. All zeros stay as they are, and so does what is not finite.
pub(crate) fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 && length.is_finite() {
        vector.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
    }
}
