//! A transformer's layers: their order, written once for every family, decoders and encoders, and every device.

use super::config::Config;
use super::loader::Loader;
use crate::Result;
use crate::backend::op::{
    Activate, AddPositions, Attend, Buffer, Embed, Gate, KvCache, Linear, Matrix, Norm, Normalize, Project,
    ProjectAdd,
};

/// What a model is to have room for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// Pages of keys and values, of all sequences together.
    pub pages: usize,
    /// Most tokens of a step.
    pub rows: usize,
    /// Most tokens of a sequence.
    pub context: usize,
}

/// What comes before and after the layers.
pub(super) struct Stream {
    /// v × d
    pub embedding: Matrix,
    /// What a step leaves of its tokens: n × d.
    pub states: Buffer,
}

/// The activations of a step.
///
/// Shapes in comments: n tokens of a step, d embedding, h·s query heads × head size, g·s key and
/// value heads × head size, f feed-forward width, v vocabulary.
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

/// A layer in the making.
struct Layer<'l, 's> {
    loader: &'l mut Loader<'s>,
    config: &'l Config,
    index: usize,
    buffers: &'l mut Buffers,
    cache: KvCache,
    rope_factors: Option<&'l [f32]>,
}

/// Records all between a text's tokens and the residual stream's last state, and asks the loader for the weights.
pub(super) async fn record(loader: &mut Loader<'_>, config: &Config, size: Size) -> Result<Stream> {
    let (d, v) = (config.embedding, config.vocabulary);
    let rope_factors = match config.rope_factors_tensor(size.context) {
        Some(name) => Some(loader.values(name, config.rope_pairs()).await?),
        None => None,
    };
    let embedding = loader.matrix("token_embd.weight", v, d)?;
    let mut buffers = Buffers::declare(loader, config, size.rows);
    loader.program.push(Embed { table: embedding, scale: config.embedding_scale, out: buffers.streams[0] });
    if config.architecture.learns_positions() {
        let table = loader.positions(config).await?;
        loader.program.push(AddPositions { table, x: buffers.streams[0] });
    }
    if config.architecture.norms_stream() {
        let norm = loader.norm("token_embd_norm", d, config)?;
        buffers.norm_stream(loader, norm);
    }
    let mut cache = loader.program.cache(size.pages, config.heads);
    for index in 0..config.layers {
        // An encoder looks at what it stored only while it is in that layer.
        if index > 0 && !config.architecture.is_encoder() {
            cache = loader.program.cache(size.pages, config.heads);
        }
        let rope_factors = rope_factors.as_deref();
        let mut layer = Layer { loader, config, index, buffers: &mut buffers, cache, rope_factors };
        layer.attention()?;
        layer.feed_forward()?;
    }
    Ok(Stream { embedding, states: buffers.streams[0] })
}

impl Layer<'_, '_> {
    fn attention(&mut self) -> Result<()> {
        let config = self.config;
        let (d, heads) = (config.embedding, config.heads);
        let (q_rows, kv_rows) = (heads.query * heads.size, heads.kv * heads.size);
        let norm = self.input_norm("attn_norm")?;
        let stacked = self.name("attn_qkv");
        let linears = match self.loader.has(&format!("{stacked}.weight")) {
            true => self.loader.split(&stacked, [q_rows, kv_rows, kv_rows], d)?,
            false => [
                self.linear("attn_q", q_rows, d)?,
                self.linear("attn_k", kv_rows, d)?,
                self.linear("attn_v", kv_rows, d)?,
            ],
        };
        let norms = match config.architecture.norms_queries_and_keys() {
            true => Some([self.norm("attn_q_norm", heads.size)?, self.norm("attn_k_norm", heads.size)?]),
            false => None,
        };
        let linear = self.linear("attn_output", d, q_rows)?;
        let output_norm = self.output_norm("post_attention_norm")?;
        let stream_norm = self.stream_norm("attn_output_norm")?;

        let Buffers { streams: [x, _], query, key, value, attended, .. } = *self.buffers;
        let program = &mut self.loader.program;
        program.push(Project { x, norm, outputs: linears.into_iter().zip([query, key, value]).collect() });
        program.push(Attend {
            query,
            key,
            value,
            norms,
            rope: config.rope(self.index, self.rope_factors),
            cache: self.cache,
            attention: config.attention(self.index),
            out: attended,
        });
        program.push(ProjectAdd { input: attended, linear, norm: output_norm, x });
        self.norm_stream(stream_norm);
        Ok(())
    }

    fn feed_forward(&mut self) -> Result<()> {
        let config = self.config;
        let (d, f, activation) = (config.embedding, config.feed_forward, config.activation);
        let norm = self.input_norm("ffn_norm")?;
        let has_gate = config.architecture.has_gate();
        let (gate, up) = match has_gate && !self.loader.has(&self.name("ffn_gate.weight")) {
            true => {
                let [gate, up] = self.loader.split(&self.name("ffn_up"), [f, f], d)?;
                (Some(gate), up)
            }
            false => {
                let gate = if has_gate { Some(self.linear("ffn_gate", f, d)?) } else { None };
                (gate, self.linear("ffn_up", f, d)?)
            }
        };
        let linear = self.linear("ffn_down", d, f)?;
        let output_norm = self.output_norm("post_ffw_norm")?;
        let stream_norm = self.stream_norm("layer_output_norm")?;

        let Buffers { streams: [x, _], gated, .. } = *self.buffers;
        let program = &mut self.loader.program;
        match gate {
            Some(gate) => program.push(Gate { x, norm, gate, up, activation, out: gated }),
            None => program.push(Activate { x, norm, up, activation, out: gated }),
        }
        program.push(ProjectAdd { input: gated, linear, norm: output_norm, x });
        self.norm_stream(stream_norm);
        Ok(())
    }

    fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.index)
    }

    fn linear(&mut self, part: &str, rows: usize, columns: usize) -> Result<Linear> {
        self.loader.linear(&self.name(part), rows, columns)
    }

    fn norm(&mut self, part: &str, width: usize) -> Result<Norm> {
        self.loader.norm(&self.name(part), width, self.config)
    }

    /// Of what goes into a half of the layer.
    fn input_norm(&mut self, part: &str) -> Result<Option<Norm>> {
        self.norm_where(part, !self.config.architecture.norms_stream())
    }

    /// Of what comes out of a half of the layer, before it is added to the stream.
    fn output_norm(&mut self, part: &str) -> Result<Option<Norm>> {
        self.norm_where(part, self.config.architecture.norms_outputs())
    }

    /// Of the stream itself.
    fn stream_norm(&mut self, part: &str) -> Result<Option<Norm>> {
        self.norm_where(part, self.config.architecture.norms_stream())
    }

    fn norm_where(&mut self, part: &str, there_is_one: bool) -> Result<Option<Norm>> {
        match there_is_one {
            true => self.norm(part, self.config.embedding).map(Some),
            false => Ok(None),
        }
    }

    fn norm_stream(&mut self, norm: Option<Norm>) {
        if let Some(norm) = norm {
            self.buffers.norm_stream(self.loader, norm);
        }
    }
}

impl Buffers {
    fn declare(loader: &mut Loader<'_>, config: &Config, n: usize) -> Self {
        let (d, heads, program) = (config.embedding, config.heads, &mut loader.program);
        let x = program.buffer(n, d);
        let spare = if config.architecture.norms_stream() { program.buffer(n, d) } else { x };
        Buffers {
            streams: [x, spare],
            query: program.buffer(n, heads.query * heads.size),
            key: program.buffer(n, heads.kv * heads.size),
            value: program.buffer(n, heads.kv * heads.size),
            attended: program.buffer(n, heads.query * heads.size),
            gated: program.buffer(n, config.feed_forward),
        }
    }

    /// The stream goes on, normed, in the other buffer.
    fn norm_stream(&mut self, loader: &mut Loader<'_>, norm: Norm) {
        let [x, out] = self.streams;
        loader.program.push(Normalize { x, norm, out });
        self.streams = [out, x];
    }
}
