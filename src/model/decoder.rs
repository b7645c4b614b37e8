//! The transformer decoder: tokens in, the scores of what follows out.

use super::config::Config;
use super::layers::{self, Size};
use super::loader::{Loader, Progress};
use crate::backend::op::{Buffer, Linear, Score};
use crate::backend::{Backend, KernelTime, MOST_SCORED, MOST_SPANS, Program, Span, Step, Top, Wanted, pages};
use crate::format::gguf::Header;
use crate::hash::hex;
use crate::store::Source;
use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::rc::Rc;

/// A loaded model with its KV cache.
pub struct Decoder {
    config: Config,
    backend: Box<dyn Backend>,
    context: usize,
    /// Of weights and program.
    fingerprint: String,
    /// Scored rows × vocabulary.
    scores: Buffer,
    /// Rows that the last step scored.
    scored: usize,
}

impl Decoder {
    /// Puts the rows of a step through the model, and into the KV cache: at most [`Decoder::step_len`], of which
    /// at most [`MOST_SCORED`] are scored. Their scores are there until the next step.
    pub fn run(&mut self, step: &Step) -> Result<()> {
        let (rows, spans) = (step.rows(), step.spans.iter().map(|span| span.rows).sum::<usize>());
        let held = |span: &Span| span.rows > 0 && span.pages.len() >= pages(span.end());
        let fits = (1..=self.step_len()).contains(&rows) && rows == spans && step.spans.iter().all(held);
        let fits = fits && step.spans.len() <= MOST_SPANS;
        if !fits || step.scored > MOST_SCORED.min(rows) {
            return Err(Error::internal(format!("a step of {rows} tokens does not fit: {:?}", step.spans)));
        }
        self.scored = step.scored;
        self.backend.run(step)
    }

    /// All scores of a scored row, in `out`: as many numbers as the vocabulary has tokens.
    pub async fn scores(&mut self, row: usize, out: &mut Vec<f32>) -> Result<()> {
        self.backend.read(self.scores, row, 1, out).await
    }

    /// The highest scores of the first `candidates` tokens by a scored row.
    pub async fn top_k(
        &mut self,
        row: usize,
        candidates: usize,
        wanted: &Wanted,
        out: &mut Top,
    ) -> Result<()> {
        let candidates = candidates.min(self.config.vocabulary);
        self.backend.top_k(self.scores, row, candidates, wanted, out).await
    }

    /// Chooses what follows each scored row of the last step: the token with the highest score among the
    /// first `candidates`. It is there for [`Token::Chosen`](crate::backend::Token::Chosen) at once, and for
    /// [`Decoder::chosen`] later.
    pub fn choose(&mut self, candidates: usize) -> Result<()> {
        self.backend.choose(self.scores, self.scored, candidates.min(self.config.vocabulary))
    }

    /// The oldest choices that were not read yet, one a scored row. A loop that begins the next step before it reads
    /// the last one's choices never lets the device wait.
    pub async fn chosen(&mut self, out: &mut Vec<u32>) -> Result<()> {
        self.backend.chosen(out).await
    }

    /// Ends when everything enqueued has run.
    pub async fn wait(&mut self) -> Result<()> {
        self.backend.wait().await
    }

    /// Sequences whose states there is room for; 0 where layers have none, and need none.
    pub fn state_slots(&self) -> usize {
        self.config.state_slots()
    }

    /// What slot `from` holds is in slot `to` too.
    pub fn copy_state(&mut self, from: u32, to: u32) -> Result<()> {
        self.backend.copy_state(from, to)
    }

    /// Bytes of a sequence's state that is written out.
    pub fn state_size(&self) -> usize {
        self.backend.state_size()
    }

    /// Adds what a slot holds to `out`.
    pub async fn read_state(&mut self, slot: u32, out: &mut Vec<u8>) -> Result<()> {
        self.backend.read_state(slot, out).await
    }

    /// Puts what was read of a slot into one.
    pub fn write_state(&mut self, slot: u32, bytes: &[u8]) -> Result<()> {
        self.backend.write_state(slot, bytes)
    }

    /// What page `from` holds is in page `to` too.
    pub fn copy_page(&mut self, from: u32, to: u32) -> Result<()> {
        self.backend.copy_page(from, to)
    }

    /// Of what model, on what kind of device and in what form pages are: what two of them have in common, and nothing else.
    pub fn page_form(&self) -> String {
        format!("{} {}", self.fingerprint, self.backend.page_form())
    }

    /// Bytes of a page that is written out.
    pub fn page_size(&self) -> usize {
        self.backend.page_size()
    }

    /// Adds what the pages hold to `out`, one after the other.
    pub async fn read_pages(&mut self, pages: &[u32], out: &mut Vec<u8>) -> Result<()> {
        self.backend.read_pages(pages, out).await
    }

    /// Puts what was read of a page into one.
    pub fn write_page(&mut self, page: u32, bytes: &[u8]) -> Result<()> {
        self.backend.write_page(page, bytes)
    }

    /// Most tokens that [`Decoder::run`] takes at once.
    pub fn step_len(&self) -> usize {
        self.backend.prefill_rows()
    }

    /// Tokens that the KV cache holds, of all sequences together.
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
        let mut loader = Loader::new(source, header, true, progress);
        let scores = Self::record(&mut loader, &config, context, backend.prefill_rows()).await?;
        let program = Rc::new(std::mem::take(&mut loader.program));
        backend.expect(&program).await?;
        backend.prepare(&program)?;
        let samples = loader.finish(backend.as_mut()).await?;
        let fingerprint = fingerprint(&program, samples);
        backend.loaded().await?;
        Ok(Decoder { config, backend, context, fingerprint, scores, scored: 0 })
    }

    /// What the model will ask of a device, in steps of at most `rows` tokens. Only the header of `source` is used.
    pub async fn program(
        source: &dyn Source,
        header: &Header,
        config: &Config,
        context: usize,
        rows: usize,
    ) -> Result<Program> {
        let progress = &mut |_| Ok(());
        let mut loader = Loader::new(source, header, false, progress);
        Self::record(&mut loader, config, context, rows).await?;
        Ok(loader.program)
    }

    /// Gives the buffer of the scores.
    async fn record(loader: &mut Loader<'_>, config: &Config, context: usize, rows: usize) -> Result<Buffer> {
        if config.family.encoder {
            return Err(Error::internal("an encoder cannot be loaded as a decoder"));
        }
        let (d, v) = (config.embedding, config.vocabulary);
        let stream = layers::record(
            loader,
            config,
            Size { pages: pages(context), rows, context, slots: config.state_slots() },
        )
        .await?;
        // LFM 2's name for it.
        let last = if loader.has("output_norm.weight") { "output_norm" } else { "token_embd_norm" };
        let norm = loader.last_norm(last, d, config)?;
        let head = match loader.has("output.weight") {
            true => loader.linear("output", v, d)?,
            // Tied to the embedding.
            false => Linear { weight: stream.embedding, bias: None },
        };
        let out = loader.program.buffer(MOST_SCORED, v);
        loader.program.push(Score { x: stream.states, norm, head, softcap: config.logit_softcap, out });
        Ok(out)
    }
}

/// Names weights, of which `samples` is a hash, and what is computed with them. What it prints of a program may change with
/// this crate's version, and so may the bits that a program gives.
fn fingerprint(Program { matrices, vectors, operations, .. }: &Program, mut samples: Sha256) -> String {
    samples.update(concat!(env!("CARGO_PKG_VERSION"), "\n"));
    samples.update(format!("{matrices:?}\n{vectors:?}\n{operations:?}"));
    hex(&samples.finalize())
}
