//! A transformer's layers: their order, written once for every family, decoders and encoders, and every device.

use super::config::Config;
use super::family::{HeadNorms, Norms, Parallel};
use super::loader::Loader;
use crate::Result;
use crate::backend::op::{
    Activate, AddPositions, Attend, Buffer, Embed, Gate, Heads, KvCache, Linear, Matrix, Norm, Normalize,
    Project, ProjectAdd,
};
use std::collections::HashMap;

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
    /// n
    rows: usize,
    /// The residual stream, n × d; where it is normed itself, the second is another one to do so to.
    streams: [Buffer; 2],
    /// What lies between a layer's operations, by its use and width: layers of the same sizes share it.
    between: HashMap<(&'static str, usize), Buffer>,
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
    let scale = config.embedding_scale / config.residual_scale;
    loader.program.push(Embed { table: embedding, scale, out: buffers.streams[0] });
    if config.family.learns_positions() {
        let table = loader.positions(config).await?;
        loader.program.push(AddPositions { table, x: buffers.streams[0] });
    }
    if config.family.norms_stream() {
        let norm = loader.norm("token_embd_norm", d, config)?;
        buffers.norm_stream(loader, norm);
    }
    let mut caches: Vec<(Heads, KvCache)> = Vec::new();
    for (index, layer) in config.layers.iter().enumerate() {
        // An encoder looks at what it stored only while it is in that layer.
        let kept = caches.iter().find(|(heads, _)| config.family.encoder && *heads == layer.heads);
        let cache = kept.map(|(_, cache)| *cache);
        let cache = cache.unwrap_or_else(|| loader.program.cache(size.pages, layer.heads));
        caches.push((layer.heads, cache));
        let rope_factors = rope_factors.as_deref();
        let mut layer = Layer { loader, config, index, buffers: &mut buffers, cache, rope_factors };
        layer.record()?;
    }
    loader.check_layers(config.layers.len())?;
    Ok(Stream { embedding, states: buffers.streams[0] })
}

/// What a half of a layer ends with.
struct Added {
    operation: ProjectAdd,
    stream_norm: Option<Norm>,
}

impl Layer<'_, '_> {
    fn record(&mut self) -> Result<()> {
        let norm = self.input_norm(&["attn_norm"])?;
        // Falcon's larger models have one for each half.
        let attention_norm = match self.has("attn_norm_2") {
            true => self.input_norm(&["attn_norm_2"])?,
            false => norm,
        };
        let attended = self.attention(attention_norm)?;
        let shares_norm = matches!(self.config.family.parallel, Parallel::Shared | Parallel::WithOneNorm);
        if self.config.parallel {
            let norm = if shares_norm { norm } else { self.input_norm(&["ffn_norm"])? };
            let fed = self.feed_forward(norm)?;
            self.add(attended);
            self.add(fed);
        } else {
            self.add(attended);
            // Seed-OSS's and gpt-oss's name for it.
            let norm = self.input_norm(&["ffn_norm", "post_attention_norm"])?;
            let fed = self.feed_forward(norm)?;
            self.add(fed);
        }
        Ok(())
    }

    fn attention(&mut self, norm: Option<Norm>) -> Result<Added> {
        let config = self.config;
        let (d, heads) = (config.embedding, config.layers[self.index].heads);
        let (q_rows, kv_rows) = (heads.query * heads.size, heads.kv * heads.size);
        let stacked = self.name("attn_qkv");
        let linears = match self.has("attn_qkv") {
            true => self.loader.split(&stacked, [q_rows, kv_rows, kv_rows], d)?,
            false => [
                self.linear("attn_q", q_rows, d)?,
                self.linear("attn_k", kv_rows, d)?,
                self.linear("attn_v", kv_rows, d)?,
            ],
        };
        let head_norms = config.family.head_norms;
        let norms = match head_norms {
            HeadNorms::None => None,
            HeadNorms::Before | HeadNorms::After => Some([heads.size, heads.size]),
            HeadNorms::Whole => Some([q_rows, kv_rows]),
        };
        let norms = match norms {
            Some([q, k]) => Some([self.head_norm("attn_q_norm", q)?, self.head_norm("attn_k_norm", k)?]),
            None => None,
        };
        let linear = self.linear("attn_output", d, q_rows)?;
        let output_norm = self.output_norm("post_attention_norm")?;
        let stream_norm = self.stream_norm("attn_output_norm")?;

        let x = self.buffers.streams[0];
        let [mut query, mut key] = [self.between("query", q_rows), self.between("key", kv_rows)];
        let [value, attended] = [self.between("value", kv_rows), self.between("attended", q_rows)];
        let outputs = linears.into_iter().zip([query, key, value]).collect();
        self.loader.program.push(Project { x, norm, outputs });
        if let (HeadNorms::Whole, Some([q_norm, k_norm])) = (head_norms, norms) {
            let out = [self.between("normed query", q_rows), self.between("normed key", kv_rows)];
            self.loader.program.push(Normalize { x: query, norm: q_norm, out: out[0] });
            self.loader.program.push(Normalize { x: key, norm: k_norm, out: out[1] });
            [query, key] = out;
        }
        self.loader.program.push(Attend {
            query,
            key,
            value,
            norms: norms.filter(|_| head_norms != HeadNorms::Whole),
            norms_rotated: head_norms == HeadNorms::After,
            rope: config.rope(self.index, self.rope_factors),
            cache: self.cache,
            attention: config.attention(self.index),
            out: attended,
        });
        Ok(Added { operation: ProjectAdd { input: attended, linear, norm: output_norm, x }, stream_norm })
    }

    fn feed_forward(&mut self, norm: Option<Norm>) -> Result<Added> {
        let config = self.config;
        let (d, f) = (config.embedding, config.layers[self.index].feed_forward);
        let (has_gate, activation) = (config.family.gate, config.family.activation);
        let (gate, up) = match has_gate && !self.has("ffn_gate") {
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

        let (x, out) = (self.buffers.streams[0], self.between("gated", f));
        let program = &mut self.loader.program;
        match gate {
            Some(gate) => program.push(Gate { x, norm, gate, up, activation, out }),
            None => program.push(Activate { x, norm, up, activation, out }),
        }
        Ok(Added { operation: ProjectAdd { input: out, linear, norm: output_norm, x }, stream_norm })
    }

    fn add(&mut self, Added { operation, stream_norm }: Added) {
        self.loader.program.push(operation);
        if let Some(norm) = stream_norm {
            self.buffers.norm_stream(self.loader, norm);
        }
    }

    /// Activations for one use of so many numbers a row.
    fn between(&mut self, name: &'static str, width: usize) -> Buffer {
        let Buffers { rows, between, .. } = &mut *self.buffers;
        *between.entry((name, width)).or_insert_with(|| self.loader.program.buffer(*rows, width))
    }

    fn has(&self, part: &str) -> bool {
        self.loader.has(&format!("{}.weight", self.name(part)))
    }

    fn name(&self, part: &str) -> String {
        format!("blk.{}.{part}", self.index)
    }

    fn linear(&mut self, part: &str, rows: usize, columns: usize) -> Result<Linear> {
        self.loader.linear(&self.name(part), rows, columns)
    }

    fn norm(&mut self, part: &str) -> Result<Norm> {
        self.loader.norm(&self.name(part), self.config.embedding, self.config)
    }

    /// Of queries or keys.
    fn head_norm(&mut self, part: &str, width: usize) -> Result<Norm> {
        self.loader.head_norm(&self.name(part), width, self.config)
    }

    /// Of what goes into a half of the layer, by the first name that the file has.
    fn input_norm(&mut self, parts: &[&str]) -> Result<Option<Norm>> {
        let there_is_one = matches!(self.config.family.norms, Norms::Before | Norms::Around);
        let part = parts.iter().find(|part| self.has(part)).unwrap_or(&parts[0]);
        self.norm_where(part, there_is_one)
    }

    /// Of what comes out of a half of the layer, before it is added to the stream.
    fn output_norm(&mut self, part: &str) -> Result<Option<Norm>> {
        self.norm_where(part, matches!(self.config.family.norms, Norms::Around | Norms::After))
    }

    /// Of the stream itself.
    fn stream_norm(&mut self, part: &str) -> Result<Option<Norm>> {
        self.norm_where(part, self.config.family.norms_stream())
    }

    fn norm_where(&mut self, part: &str, there_is_one: bool) -> Result<Option<Norm>> {
        if there_is_one { self.norm(part).map(Some) } else { Ok(None) }
    }
}

impl Buffers {
    fn declare(loader: &mut Loader<'_>, config: &Config, rows: usize) -> Self {
        let d = config.embedding;
        let x = loader.program.buffer(rows, d);
        let spare = if config.family.norms_stream() { loader.program.buffer(rows, d) } else { x };
        Buffers { rows, streams: [x, spare], between: HashMap::new() }
    }

    /// The stream goes on, normed, in the other buffer.
    fn norm_stream(&mut self, loader: &mut Loader<'_>, norm: Norm) {
        let [x, out] = self.streams;
        loader.program.push(Normalize { x, norm, out });
        self.streams = [out, x];
    }
}
