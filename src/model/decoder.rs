//! The transformer decoder: its layer order, written once for every family and every device.

use super::config::Config;
use super::gguf::Header;
use super::loader::{Loader, Progress};
use crate::backend::{
    Attention, Backend, Buffer, KernelTime, KvCache, Linear, Matrix, Needs, Norm, Outline, Rope, Tokens, Top,
    Wanted,
};
use crate::store::Source;
use crate::{Error, Result};

/// A loaded model with its KV cache.
///
/// Shapes in comments: n tokens of a step, d embedding, h·s query heads × head size, g·s key and
/// value heads × head size, f feed-forward width, v vocabulary.
pub struct Decoder {
    config: Config,
    backend: Box<dyn Backend>,
    context: usize,
    /// v × d
    embedding: Matrix,
    /// Of the positions, where they are learned: the trained context × d.
    positions: Option<Matrix>,
    layers: Vec<Layer>,
    output_norm: Norm,
    /// v × d
    output: Linear,
    buffers: Buffers,
}

struct Layer {
    attention_norm: Norm,
    /// h·s × d
    query: Linear,
    /// g·s × d
    key: Linear,
    /// g·s × d
    value: Linear,
    /// Of each head of query and key.
    head_norms: Option<[Norm; 2]>,
    rope: Rope,
    cache: KvCache,
    attention: Attention,
    /// d × h·s
    attention_output: Linear,
    attention_output_norm: Option<Norm>,
    feed_forward_norm: Norm,
    /// f × d
    gate: Option<Linear>,
    /// f × d
    up: Linear,
    /// d × f
    down: Linear,
    feed_forward_output_norm: Option<Norm>,
}

/// The activations of a step, allocated once.
struct Buffers {
    /// The residual stream, n × d.
    x: Buffer,
    /// n × h·s
    query: Buffer,
    /// n × g·s
    key: Buffer,
    /// n × g·s
    value: Buffer,
    /// n × h·s
    attended: Buffer,
    /// n × f
    gated: Buffer,
    /// v
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
        let n = tokens.len();
        if n > self.step_len() || position + n > self.context {
            return Err(Error::internal(format!("a step of {n} tokens at {position} does not fit")));
        }
        let Buffers { x, query, key, value, attended, gated, .. } = self.buffers;
        let b = self.backend.as_mut();
        b.embed(tokens, self.embedding, self.config.embedding_scale, x)?;
        if let Some(positions) = self.positions {
            b.add_rows(position, n, positions, x)?;
        }
        for layer in &self.layers {
            let projections = [(layer.query, query), (layer.key, key), (layer.value, value)];
            b.project(n, x, &layer.attention_norm, &projections)?;
            let (norms, rope) = (layer.head_norms.as_ref(), &layer.rope);
            b.rotate_and_store(
                position,
                n,
                [query, key, value],
                self.config.heads,
                norms,
                rope,
                layer.cache,
            )?;
            b.attend(position, n, query, layer.cache, &layer.attention, attended)?;
            b.project_add(n, attended, &layer.attention_output, layer.attention_output_norm.as_ref(), x)?;
            let (norm, up, activation) = (&layer.feed_forward_norm, &layer.up, self.config.activation);
            match &layer.gate {
                Some(gate) => b.gate(n, x, norm, [gate, up], activation, gated)?,
                None => b.activate(n, x, norm, up, activation, gated)?,
            }
            b.project_add(n, gated, &layer.down, layer.feed_forward_output_norm.as_ref(), x)?;
        }
        Ok(())
    }

    /// The scores of what follows row `row` of the last step: v numbers in `out`.
    pub async fn logits(&mut self, row: usize, out: &mut Vec<f32>) -> Result<()> {
        self.score(row)?;
        self.scores(out).await
    }

    /// Computes the scores of what follows row `row` of the last step. They are there for
    /// [`Decoder::scores`] and [`Decoder::top_k`] until the next are computed.
    pub fn score(&mut self, row: usize) -> Result<()> {
        let Buffers { x, logits, .. } = self.buffers;
        let softcap = self.config.logit_softcap;
        self.backend.logits(row, x, &self.output_norm, &self.output, softcap, logits)
    }

    /// All scores, v numbers in `out`.
    pub async fn scores(&mut self, out: &mut Vec<f32>) -> Result<()> {
        self.backend.read(self.buffers.logits, self.config.vocabulary, out).await
    }

    /// The highest scores of the first `candidates` tokens.
    pub async fn top_k(&mut self, candidates: usize, wanted: &Wanted, out: &mut Top) -> Result<()> {
        let candidates = candidates.min(self.config.vocabulary);
        self.backend.top_k(self.buffers.logits, candidates, wanted, out).await
    }

    /// Chooses what follows row `row` of the last step: the token with the highest score among the
    /// first `candidates`. It is there for [`Decoder::forward_chosen`] at once, and for
    /// [`Decoder::chosen`] later.
    pub fn choose(&mut self, row: usize, candidates: usize) -> Result<()> {
        self.score(row)?;
        self.backend.choose(self.buffers.logits, candidates.min(self.config.vocabulary))
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
        let (d, v) = (config.embedding, config.vocabulary);
        let mut loader = Loader::new(source, header, backend.as_mut(), progress);
        let rope_factors = match config.rope_factors_tensor(context) {
            Some(name) => Some(loader.values(name, config.rope_pairs()).await?),
            None => None,
        };
        let embedding = loader.matrix("token_embd.weight", v, d).await?;
        let positions = match config.architecture.learns_positions() {
            true => Some(loader.matrix("position_embd.weight", config.trained_context, d).await?),
            false => None,
        };
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            layers.push(Layer::load(&mut loader, &config, index, rope_factors.as_deref(), context).await?);
        }
        let output_norm = loader.norm("output_norm", d, &config).await?;
        let output = match loader.has("output.weight") {
            true => loader.linear("output", v, d).await?,
            // Tied to the embedding.
            false => Linear { weight: embedding, bias: None },
        };
        // After the weights: until those have been found, the sizes are but what a file claims.
        let buffers = Buffers::allocate(backend.as_mut(), &config)?;
        backend.loaded().await?;
        Ok(Decoder { config, backend, context, embedding, positions, layers, output_norm, output, buffers })
    }
}

impl Layer {
    async fn load(
        loader: &mut Loader<'_>,
        config: &Config,
        index: usize,
        rope_factors: Option<&[f32]>,
        context: usize,
    ) -> Result<Layer> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (d, f, heads) = (config.embedding, config.feed_forward, config.heads);
        let (q_rows, kv_rows) = (heads.query * heads.size, heads.kv * heads.size);

        let attention_norm = loader.norm(&name("attn_norm"), d, config).await?;
        let [query, key, value] = match loader.has(&name("attn_qkv.weight")) {
            true => loader.split(&name("attn_qkv"), [q_rows, kv_rows, kv_rows], d).await?,
            false => [
                loader.linear(&name("attn_q"), q_rows, d).await?,
                loader.linear(&name("attn_k"), kv_rows, d).await?,
                loader.linear(&name("attn_v"), kv_rows, d).await?,
            ],
        };
        let head_norms = match config.architecture.norms_queries_and_keys() {
            true => Some([
                loader.norm(&name("attn_q_norm"), heads.size, config).await?,
                loader.norm(&name("attn_k_norm"), heads.size, config).await?,
            ]),
            false => None,
        };
        let attention_output = loader.linear(&name("attn_output"), d, q_rows).await?;
        let [attention_output_norm, feed_forward_output_norm] = match config.architecture.norms_outputs() {
            true => [
                Some(loader.norm(&name("post_attention_norm"), d, config).await?),
                Some(loader.norm(&name("post_ffw_norm"), d, config).await?),
            ],
            false => [None, None],
        };
        let feed_forward_norm = loader.norm(&name("ffn_norm"), d, config).await?;
        let has_gate = config.architecture.has_gate();
        let (gate, up) = match has_gate && !loader.has(&name("ffn_gate.weight")) {
            true => {
                let [gate, up] = loader.split(&name("ffn_up"), [f, f], d).await?;
                (Some(gate), up)
            }
            false => {
                let gate = match has_gate {
                    true => Some(loader.linear(&name("ffn_gate"), f, d).await?),
                    false => None,
                };
                (gate, loader.linear(&name("ffn_up"), f, d).await?)
            }
        };
        let down = loader.linear(&name("ffn_down"), d, f).await?;
        let cache = loader.backend.kv_cache(context, heads)?;
        Ok(Layer {
            attention_norm,
            query,
            key,
            value,
            head_norms,
            rope: config.rope(index, rope_factors),
            cache,
            attention: config.attention(index),
            attention_output,
            attention_output_norm,
            feed_forward_norm,
            gate,
            up,
            down,
            feed_forward_output_norm,
        })
    }
}

impl Buffers {
    fn allocate(backend: &mut dyn Backend, config: &Config) -> Result<Self> {
        let (n, heads) = (backend.prefill_rows(), config.heads);
        Ok(Buffers {
            x: backend.buffer(n, config.embedding)?,
            query: backend.buffer(n, heads.query * heads.size)?,
            key: backend.buffer(n, heads.kv * heads.size)?,
            value: backend.buffer(n, heads.kv * heads.size)?,
            attended: backend.buffer(n, heads.query * heads.size)?,
            gated: backend.buffer(n, config.feed_forward)?,
            logits: backend.buffer(1, config.vocabulary)?,
        })
    }
}
