//! A transformer's layers: their order, written once for every family, decoders and encoders, and every device.

use super::config::Config;
use super::loader::Loader;
use crate::backend::{Attention, Backend, Buffer, KvCache, Linear, Matrix, Norm, Rope, Tokens};
use crate::{Error, Result};

/// All between a text's tokens and the residual stream's last state.
///
/// Shapes in comments: n tokens of a step, d embedding, h·s query heads × head size, g·s key and
/// value heads × head size, f feed-forward width, v vocabulary.
pub(super) struct Layers {
    config: Config,
    /// Tokens that the KV cache holds.
    context: usize,
    /// Most tokens of a step.
    step_len: usize,
    /// v × d
    pub embedding: Matrix,
    /// Of the positions, where they are learned: the trained context × d.
    positions: Option<Matrix>,
    embedding_norm: Option<Norm>,
    layers: Vec<Layer>,
    buffers: Buffers,
}

struct Layer {
    attention_norm: Option<Norm>,
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
    attention_stream_norm: Option<Norm>,
    feed_forward_norm: Option<Norm>,
    /// f × d
    gate: Option<Linear>,
    /// f × d
    up: Linear,
    /// d × f
    down: Linear,
    feed_forward_output_norm: Option<Norm>,
    feed_forward_stream_norm: Option<Norm>,
}

/// The activations of a step, allocated once.
struct Buffers {
    /// The residual stream, n × d; where it is normed itself, the second is another one to do so to.
    streams: [Buffer; 2],
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
}

impl Layers {
    /// Puts tokens through the layers as the ones from `position` on; gives the stream, n × d.
    pub(super) fn forward(&self, b: &mut dyn Backend, tokens: Tokens, position: usize) -> Result<Buffer> {
        let n = tokens.len();
        if n > self.step_len || position + n > self.context {
            return Err(Error::internal(format!("a step of {n} tokens at {position} does not fit")));
        }
        let Buffers { streams: [mut x, mut spare], query, key, value, attended, gated } = self.buffers;
        let norm_stream = |b: &mut dyn Backend, norm: &Option<Norm>, x: &mut Buffer, spare: &mut Buffer| {
            let Some(norm) = norm else { return Ok(()) };
            std::mem::swap(x, spare);
            b.norm(n, *spare, norm, *x)
        };
        b.embed(tokens, self.embedding, self.config.embedding_scale, x)?;
        if let Some(positions) = self.positions {
            b.add_rows(position, n, positions, x)?;
        }
        norm_stream(b, &self.embedding_norm, &mut x, &mut spare)?;
        for layer in &self.layers {
            let projections = [(layer.query, query), (layer.key, key), (layer.value, value)];
            b.project(n, x, layer.attention_norm.as_ref(), &projections)?;
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
            norm_stream(b, &layer.attention_stream_norm, &mut x, &mut spare)?;
            let (norm, up, activation) =
                (layer.feed_forward_norm.as_ref(), &layer.up, self.config.activation);
            match &layer.gate {
                Some(gate) => b.gate(n, x, norm, [gate, up], activation, gated)?,
                None => b.activate(n, x, norm, up, activation, gated)?,
            }
            b.project_add(n, gated, &layer.down, layer.feed_forward_output_norm.as_ref(), x)?;
            norm_stream(b, &layer.feed_forward_stream_norm, &mut x, &mut spare)?;
        }
        Ok(x)
    }

    /// Where the stream of a decoder always is.
    pub(super) fn stream(&self) -> Buffer {
        self.buffers.streams[0]
    }

    /// Asks the loader for the weights. `context`: tokens that the KV cache shall hold.
    pub(super) async fn load(
        loader: &mut Loader<'_>,
        config: &Config,
        context: usize,
        step_len: usize,
    ) -> Result<Layers> {
        let (d, v) = (config.embedding, config.vocabulary);
        let rope_factors = match config.rope_factors_tensor(context) {
            Some(name) => Some(loader.values(name, config.rope_pairs()).await?),
            None => None,
        };
        let embedding = loader.matrix("token_embd.weight", v, d)?;
        let positions = match config.architecture.learns_positions() {
            true => Some(loader.positions(config).await?),
            false => None,
        };
        let embedding_norm = match config.architecture.norms_stream() {
            true => Some(loader.norm("token_embd_norm", d, config)?),
            false => None,
        };
        let shared = match config.architecture.is_encoder() {
            true => Some(loader.backend.kv_cache(context, config.heads)?),
            false => None,
        };
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let cache = match shared {
                Some(cache) => cache,
                None => loader.backend.kv_cache(context, config.heads)?,
            };
            layers.push(Layer::load(loader, config, index, rope_factors.as_deref(), cache)?);
        }
        // After the weights: until those have been found, the sizes are but what a file claims.
        let buffers = Buffers::allocate(loader.backend, config, step_len)?;
        let config = config.clone();
        Ok(Layers { config, context, step_len, embedding, positions, embedding_norm, layers, buffers })
    }
}

impl Layer {
    fn load(
        loader: &mut Loader<'_>,
        config: &Config,
        index: usize,
        rope_factors: Option<&[f32]>,
        cache: KvCache,
    ) -> Result<Layer> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let (d, f, heads) = (config.embedding, config.feed_forward, config.heads);
        let (q_rows, kv_rows) = (heads.query * heads.size, heads.kv * heads.size);

        let norms_stream = config.architecture.norms_stream();
        let attention_norm = match norms_stream {
            true => None,
            false => Some(loader.norm(&name("attn_norm"), d, config)?),
        };
        let [query, key, value] = match loader.has(&name("attn_qkv.weight")) {
            true => loader.split(&name("attn_qkv"), [q_rows, kv_rows, kv_rows], d)?,
            false => [
                loader.linear(&name("attn_q"), q_rows, d)?,
                loader.linear(&name("attn_k"), kv_rows, d)?,
                loader.linear(&name("attn_v"), kv_rows, d)?,
            ],
        };
        let head_norms = match config.architecture.norms_queries_and_keys() {
            true => Some([
                loader.norm(&name("attn_q_norm"), heads.size, config)?,
                loader.norm(&name("attn_k_norm"), heads.size, config)?,
            ]),
            false => None,
        };
        let attention_output = loader.linear(&name("attn_output"), d, q_rows)?;
        let [attention_output_norm, feed_forward_output_norm] = match config.architecture.norms_outputs() {
            true => [
                Some(loader.norm(&name("post_attention_norm"), d, config)?),
                Some(loader.norm(&name("post_ffw_norm"), d, config)?),
            ],
            false => [None, None],
        };
        let [attention_stream_norm, feed_forward_stream_norm] = match norms_stream {
            true => [
                Some(loader.norm(&name("attn_output_norm"), d, config)?),
                Some(loader.norm(&name("layer_output_norm"), d, config)?),
            ],
            false => [None, None],
        };
        let feed_forward_norm = match norms_stream {
            true => None,
            false => Some(loader.norm(&name("ffn_norm"), d, config)?),
        };
        let has_gate = config.architecture.has_gate();
        let (gate, up) = match has_gate && !loader.has(&name("ffn_gate.weight")) {
            true => {
                let [gate, up] = loader.split(&name("ffn_up"), [f, f], d)?;
                (Some(gate), up)
            }
            false => {
                let gate = match has_gate {
                    true => Some(loader.linear(&name("ffn_gate"), f, d)?),
                    false => None,
                };
                (gate, loader.linear(&name("ffn_up"), f, d)?)
            }
        };
        let down = loader.linear(&name("ffn_down"), d, f)?;
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
            attention_stream_norm,
            feed_forward_norm,
            gate,
            up,
            down,
            feed_forward_output_norm,
            feed_forward_stream_norm,
        })
    }
}

impl Buffers {
    fn allocate(backend: &mut dyn Backend, config: &Config, n: usize) -> Result<Self> {
        let (d, heads) = (config.embedding, config.heads);
        let x = backend.buffer(n, d)?;
        let spare = if config.architecture.norms_stream() { backend.buffer(n, d)? } else { x };
        Ok(Buffers {
            streams: [x, spare],
            query: backend.buffer(n, heads.query * heads.size)?,
            key: backend.buffer(n, heads.kv * heads.size)?,
            value: backend.buffer(n, heads.kv * heads.size)?,
            attended: backend.buffer(n, heads.query * heads.size)?,
            gated: backend.buffer(n, config.feed_forward)?,
        })
    }
}
