//! A transformer's layers: their order, written once for every family, decoders and encoders, and every device.

use super::config::{Config, ExpertConfig, Mixer};
use super::family::{HeadNorms, Norms, Parallel};
use super::loader::Loader;
use crate::Result;
use crate::backend::op::{
    Activate, Activation, AddPositions, Attend, Buffer, Convolve, Delta, DeltaHeads, Embed, Experts, Gate,
    Heads, KvCache, Linear, Matrix, Norm, Normalize, OutputGate, Project, ProjectAdd, Route, Scan, ScanHeads,
    State, Vector,
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
    /// Sequences that recurrent layers remember at a time.
    pub slots: usize,
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
    size: Size,
    caches: &'l mut Vec<(Heads, KvCache)>,
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
    for index in 0..config.layers.len() {
        let (rope_factors, buffers, caches) = (rope_factors.as_deref(), &mut buffers, &mut caches);
        Layer { loader, config, index, buffers, size, caches, rope_factors }.record()?;
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
        let Some(attended) = self.mix(attention_norm)? else {
            return self.feed(norm);
        };
        if self.config.layers[self.index].feed_forward == 0 {
            self.add(attended);
            return Ok(());
        }
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
            self.feed(norm)?;
        }
        Ok(())
    }

    /// The half of the layer that looks at each token by itself.
    fn feed(&mut self, norm: Option<Norm>) -> Result<()> {
        match self.config.layers[self.index].experts {
            Some(experts) => self.experts(norm, experts),
            None => {
                let fed = self.feed_forward(norm)?;
                self.add(fed);
                Ok(())
            }
        }
    }

    /// What a few of many feed-forward layers give, and where there is one that all tokens go to, what that gives.
    fn experts(&mut self, norm: Option<Norm>, experts: ExpertConfig) -> Result<()> {
        let (config, d) = (self.config, self.config.embedding);
        let ExpertConfig { count, chosen, width, gating, normalized, scale } = experts;
        let gate = self.linear("ffn_gate_inp", count, d)?;
        let bias = match self.loader.has(&self.name("exp_probs_b.bias")) {
            true => Some(self.vector("exp_probs_b.bias", count, 1.0)?),
            false => None,
        };
        let parts = [("ffn_gate_exps", width, d), ("ffn_up_exps", width, d), ("ffn_down_exps", d, width)];
        let mut matrices = Vec::with_capacity(parts.len());
        for (part, rows, columns) in parts {
            matrices.push(self.loader.experts(&self.name(part), count, rows, columns)?);
        }
        let stream = self.buffers.streams[0];
        let (scores, routes) = (self.between("scores of experts", count), self.between("routes", 2 * chosen));
        let x = match norm {
            None => stream,
            Some(norm) => {
                let out = self.between("normed", d);
                self.loader.program.push(Normalize { x: stream, norm, out });
                out
            }
        };
        // It reads the same, before anything is added to the stream.
        let shared = if self.has("ffn_up_shexp") { Some(self.shared_expert(x)?) } else { None };
        let route = Route { x, gate, bias, gating, chosen, normalized, scale, scores, out: routes };
        self.loader.program.push(route);
        self.loader.program.push(Experts {
            x,
            routes,
            chosen,
            gate: matrices[0],
            up: matrices[1],
            down: matrices[2],
            activation: config.family.activation,
            out: stream,
        });
        if let Some(operation) = shared {
            self.loader.program.push(operation);
        }
        Ok(())
    }

    /// One that all tokens go to, perhaps with a gate for what it gives.
    fn shared_expert(&mut self, x: Buffer) -> Result<ProjectAdd> {
        let d = self.config.embedding;
        let width = self.loader.rows_of(&format!("{}.weight", self.name("ffn_up_shexp")))?;
        let gate = self.linear("ffn_gate_shexp", width, d)?;
        let up = self.linear("ffn_up_shexp", width, d)?;
        let linear = self.linear("ffn_down_shexp", d, width)?;
        let (out, activation) = (self.between("shared", width), self.config.family.activation);
        self.loader.program.push(Gate { x, norm: None, gate, up, activation, out });
        if self.has("ffn_gate_inp_shexp") {
            let linear = self.linear("ffn_gate_inp_shexp", 1, d)?;
            let gate = self.between("shared gate", 1);
            self.loader.program.push(Project { x, norm: None, outputs: vec![(linear, gate)] });
            self.loader.program.push(OutputGate { gate, x: out });
        }
        Ok(ProjectAdd { input: out, linear, norm: None, x: self.buffers.streams[0] })
    }

    /// The half of the layer that brings tokens together, where it has one.
    fn mix(&mut self, norm: Option<Norm>) -> Result<Option<Added>> {
        match self.config.layers[self.index].mixer {
            Mixer::Attention => self.attention(norm).map(Some),
            Mixer::Convolution { taps } => self.convolution(norm, taps).map(Some),
            Mixer::Delta { taps, heads } => self.delta(norm, taps, heads).map(Some),
            Mixer::Scan { taps, heads } => self.scan(norm, taps, heads).map(Some),
            Mixer::None => Ok(None),
        }
    }

    /// LFM 2's.
    fn convolution(&mut self, norm: Option<Norm>, taps: usize) -> Result<Added> {
        let d = self.config.embedding;
        let [before, after, input] = self.loader.split(&self.name("shortconv.in_proj"), [d; 3], d)?;
        let kernel = self.vector("shortconv.conv.weight", d * taps, 1.0)?;
        let linear = self.linear("shortconv.out_proj", d, d)?;
        let buffers = ["convolution's gate", "second gate", "convolution's input", "convolved"];
        let [first, second, x, out] = buffers.map(|name| self.between(name, d));
        let outputs = vec![(before, first), (after, second), (input, x)];
        let stream = self.buffers.streams[0];
        let state = self.state(0);
        self.loader.program.push(Project { x: stream, norm, outputs });
        self.loader.program.push(Convolve {
            x,
            before: Some(first),
            after: Some(second),
            kernel,
            taps,
            bias: None,
            activation: None,
            state,
            out,
        });
        Ok(Added { operation: ProjectAdd { input: out, linear, norm: None, x: stream }, stream_norm: None })
    }

    /// Qwen 3.5's.
    fn delta(&mut self, norm: Option<Norm>, taps: usize, heads: DeltaHeads) -> Result<Added> {
        let (d, width, inner) = (self.config.embedding, heads.width(), heads.value * heads.size);
        let parts = [
            ("attn_qkv", width),
            ("attn_gate", inner),
            ("ssm_alpha", heads.value),
            ("ssm_beta", heads.value),
        ];
        let mut outputs = Vec::with_capacity(parts.len());
        for (part, rows) in parts {
            outputs.push((self.linear(part, rows, d)?, self.between(part, rows)));
        }
        let [qkv, z, alpha, beta] = [0, 1, 2, 3].map(|index: usize| outputs[index].1);
        let rate = self.vector("ssm_a", heads.value, -1.0)?;
        let bias = self.vector("ssm_dt.bias", heads.value, 1.0)?;
        let head_norm = self.head_norm("ssm_norm", heads.size)?;
        let linear = self.linear("ssm_out", d, inner)?;
        let (out, x, state) = (self.between("recurred", inner), self.buffers.streams[0], self.state(1));
        self.loader.program.push(Project { x, norm, outputs });
        let qkv = self.short_convolution(qkv, width, taps)?;
        let norm = head_norm;
        self.loader.program.push(Delta { qkv, alpha, beta, z, rate, bias, norm, heads, state, out });
        Ok(Added { operation: ProjectAdd { input: out, linear, norm: None, x }, stream_norm: None })
    }

    /// Mamba 2's.
    fn scan(&mut self, norm: Option<Norm>, taps: usize, heads: ScanHeads) -> Result<Added> {
        let (d, width, inner) = (self.config.embedding, heads.width(), heads.inner());
        let linears = self.loader.split(&self.name("ssm_in"), [inner, width, heads.count], d)?;
        let buffers = [self.between("z", inner), self.between("xbc", width), self.between("dt", heads.count)];
        let [z, xbc, dt] = buffers;
        let rate = self.vector("ssm_a", heads.count, -1.0)?;
        let bias = self.vector("ssm_dt.bias", heads.count, 1.0)?;
        let skip = self.vector("ssm_d", heads.count, 1.0)?;
        let group_norm = match self.has("ssm_norm") {
            true => Some(self.head_norm("ssm_norm", inner)?),
            false => None,
        };
        let linear = self.linear("ssm_out", d, inner)?;
        let (out, x, state) = (self.between("recurred", inner), self.buffers.streams[0], self.state(1));
        let outputs = linears.into_iter().zip(buffers).collect();
        self.loader.program.push(Project { x, norm, outputs });
        let xbc = self.short_convolution(xbc, width, taps)?;
        let norm = group_norm;
        self.loader.program.push(Scan { xbc, dt, z, rate, bias, skip, norm, heads, state, out });
        Ok(Added { operation: ProjectAdd { input: out, linear, norm: None, x }, stream_norm: None })
    }

    /// What goes into a recurrence.
    fn short_convolution(&mut self, x: Buffer, width: usize, taps: usize) -> Result<Buffer> {
        let kernel = self.vector("ssm_conv1d.weight", width * taps, 1.0)?;
        let bias = match self.loader.has(&self.name("ssm_conv1d.bias")) {
            true => Some(self.vector("ssm_conv1d.bias", width, 1.0)?),
            false => None,
        };
        let (state, out) = (self.state(0), self.between("convolved", width));
        let activation = Some(Activation::Silu);
        self.loader.program.push(Convolve {
            x,
            before: None,
            after: None,
            kernel,
            taps,
            bias,
            activation,
            state,
            out,
        });
        Ok(out)
    }

    /// What the layer remembers: of its convolution, or of what follows that.
    fn state(&mut self, which: usize) -> State {
        let width = self.config.layers[self.index].mixer.state(self.config.embedding)[which];
        self.loader.program.state(self.size.slots, width)
    }

    /// Keys and values of the layer.
    fn cache(&mut self) -> KvCache {
        let heads = self.config.layers[self.index].heads;
        // An encoder looks at what it stored only while it is in that layer.
        let kept = self.caches.iter().find(|(other, _)| self.config.family.encoder && *other == heads);
        let cache = kept.map(|(_, cache)| *cache);
        let cache = cache.unwrap_or_else(|| self.loader.program.cache(self.size.pages, heads));
        self.caches.push((heads, cache));
        cache
    }

    fn attention(&mut self, norm: Option<Norm>) -> Result<Added> {
        let config = self.config;
        let (d, heads) = (config.embedding, config.layers[self.index].heads);
        let (q_rows, kv_rows) = (heads.query * heads.size, heads.kv * heads.size);
        let stacked = self.name("attn_qkv");
        let mut gate = None;
        let linears = match self.has("attn_qkv") {
            true => self.loader.split(&stacked, [q_rows, kv_rows, kv_rows], d)?,
            false => {
                let query = match config.family.output_gate {
                    true => {
                        let [query, of_gate] =
                            self.loader.alternate(&self.name("attn_q"), heads.size, q_rows, d)?;
                        gate = Some((of_gate, self.between("gate", q_rows)));
                        query
                    }
                    false => self.linear("attn_q", q_rows, d)?,
                };
                [query, self.linear("attn_k", kv_rows, d)?, self.linear("attn_v", kv_rows, d)?]
            }
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
        let outputs = linears.into_iter().zip([query, key, value]).chain(gate).collect();
        let cache = self.cache();
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
            cache,
            attention: config.attention(self.index),
            out: attended,
        });
        if let Some((_, gate)) = gate {
            self.loader.program.push(OutputGate { gate, x: attended });
        }
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

    /// A tensor of the layer, whose name is all there is; each number is multiplied by `factor`.
    fn vector(&mut self, name: &str, len: usize, factor: f32) -> Result<Vector> {
        self.loader.vector(&self.name(name), len, factor)
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
