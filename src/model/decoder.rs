//! The transformer decoder: tokens in, the scores of what follows out.

use super::config::Config;
use super::layers::Layers;
use super::loader::{Loader, Progress};
use crate::backend::{Backend, Buffer, KernelTime, Linear, Needs, Norm, Outline, Tokens, Top, Wanted};
use crate::format::gguf::Header;
use crate::store::Source;
use crate::{Error, Result};

/// A loaded model with its KV cache.
pub struct Decoder {
    config: Config,
    backend: Box<dyn Backend>,
    context: usize,
    layers: Layers,
    output_norm: Norm,
    /// Vocabulary × embedding.
    output: Linear,
    /// What the last step gave: its tokens × embedding.
    stream: Buffer,
    /// One for each token of the vocabulary.
    logits: Buffer,
}

impl Decoder {
    /// Puts `tokens` through the model as the ones from `position` on, and into the KV cache.
    /// At most [`Decoder::step_len`] at a time; everything before `position` must be in the cache.
    pub fn forward(&mut self, tokens: &[u32], position: usize) -> Result<()> {
        self.step(Tokens::Known(tokens), position)
    }

    /// The same for the token that the last [`Decoder::choose`] chose.
    pub fn forward_chosen(&mut self, position: usize) -> Result<()> {
        self.step(Tokens::Chosen, position)
    }

    fn step(&mut self, tokens: Tokens, position: usize) -> Result<()> {
        self.stream = self.layers.forward(self.backend.as_mut(), tokens, position)?;
        Ok(())
    }

    /// The scores of what follows row `row` of the last step: as many numbers as the vocabulary has tokens, in `out`.
    pub async fn logits(&mut self, row: usize, out: &mut Vec<f32>) -> Result<()> {
        self.score(row)?;
        self.scores(out).await
    }

    /// Computes the scores of what follows row `row` of the last step. They are there for
    /// [`Decoder::scores`] and [`Decoder::top_k`] until the next are computed.
    pub fn score(&mut self, row: usize) -> Result<()> {
        let softcap = self.config.logit_softcap;
        self.backend.logits(row, self.stream, &self.output_norm, &self.output, softcap, self.logits)
    }

    /// All scores, in `out`.
    pub async fn scores(&mut self, out: &mut Vec<f32>) -> Result<()> {
        self.backend.read(self.logits, self.config.vocabulary, out).await
    }

    /// The highest scores of the first `candidates` tokens.
    pub async fn top_k(&mut self, candidates: usize, wanted: &Wanted, out: &mut Top) -> Result<()> {
        let candidates = candidates.min(self.config.vocabulary);
        self.backend.top_k(self.logits, candidates, wanted, out).await
    }

    /// Chooses what follows row `row` of the last step: the token with the highest score among the
    /// first `candidates`. It is there for [`Decoder::forward_chosen`] at once, and for
    /// [`Decoder::chosen`] later.
    pub fn choose(&mut self, row: usize, candidates: usize) -> Result<()> {
        self.score(row)?;
        self.backend.choose(self.logits, candidates.min(self.config.vocabulary))
    }

    /// The oldest choice that was not read yet. A loop that begins the next step before it reads
    /// the last one's choice never lets the device wait.
    pub async fn chosen(&mut self) -> Result<u32> {
        self.backend.chosen().await
    }

    /// Ends when everything enqueued has run.
    pub async fn wait(&mut self) -> Result<()> {
        self.backend.wait().await
    }

    /// Most tokens that [`Decoder::forward`] takes at once.
    pub fn step_len(&self) -> usize {
        self.backend.prefill_rows()
    }

    /// Tokens that the KV cache holds.
    pub fn context(&self) -> usize {
        self.context
    }

    /// What the device's kernels have cost, where it was asked to measure.
    pub async fn kernel_times(&mut self) -> Result<Vec<KernelTime>> {
        self.backend.kernel_times().await
    }

    /// The model's sizes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it runs.
    pub fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// Lets go of the device's memory; what is called afterwards fails.
    pub fn release(&mut self) {
        self.backend.release();
    }

    /// Brings the weights of `source` to `backend`. `context` is the number of tokens that the
    /// KV cache shall hold.
    pub async fn load(
        source: &dyn Source,
        header: &Header,
        config: Config,
        mut backend: Box<dyn Backend>,
        context: usize,
        progress: &mut Progress<'_>,
    ) -> Result<Decoder> {
        backend.expect(&Decoder::needs(source, header, &config, context).await?).await?;
        Decoder::build(source, header, config, backend, context, progress).await
    }

    /// What the model will ask of a device. Only the header of `source` is used.
    pub async fn needs(
        source: &dyn Source,
        header: &Header,
        config: &Config,
        context: usize,
    ) -> Result<Needs> {
        let (outline, needs) = Outline::new();
        let outline = Box::new(outline);
        let mut decoder =
            Decoder::build(source, header, config.clone(), outline, context, &mut |_| Ok(())).await?;
        decoder.forward(&[0], 0)?;
        decoder.choose(0, usize::MAX)?;
        Ok(needs.take())
    }

    async fn build(
        source: &dyn Source,
        header: &Header,
        config: Config,
        mut backend: Box<dyn Backend>,
        context: usize,
        progress: &mut Progress<'_>,
    ) -> Result<Decoder> {
        if config.architecture.is_encoder() {
            return Err(Error::internal("an encoder cannot be loaded as a decoder"));
        }
        let (d, v) = (config.embedding, config.vocabulary);
        let step_len = backend.prefill_rows();
        let mut loader = Loader::new(source, header, backend.as_mut(), progress);
        let layers = Layers::load(&mut loader, &config, context, step_len).await?;
        let output_norm = loader.norm("output_norm", d, &config)?;
        let output = match loader.has("output.weight") {
            true => loader.linear("output", v, d)?,
            // Tied to the embedding.
            false => Linear { weight: layers.embedding, bias: None },
        };
        loader.finish().await?;
        let logits = backend.buffer(1, v)?;
        backend.loaded().await?;
        let stream = layers.stream();
        Ok(Decoder { config, backend, context, layers, output_norm, output, stream, logits })
    }
}
