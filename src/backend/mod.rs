//! What a device must be able to do: about a dozen fused operations over opaque buffers.
//!
//! The decoder is written once against [`Backend`]. Calls enqueue work and do not wait for it;
//! only those that give a future do. Handles are plain numbers, of one device's.
//!
//! Activations are f32, row-major, one row a token: a buffer of `rows × width`.

pub mod cpu;
mod estimate;
#[cfg(feature = "gpu")]
pub mod gpu;
mod outline;
#[cfg(feature = "gpu")]
mod random;
mod room;
#[cfg(feature = "gpu")]
mod trial;

pub(crate) use estimate::seconds_a_token;
pub(crate) use outline::Outline;
pub use outline::{LinearShape, Needs, NormShape, Operation, Shape};
#[cfg(feature = "gpu")]
#[doc(hidden)]
pub use random::Random;
pub use room::{Room, room};

use crate::Result;
use crate::format::gguf::TensorType;
use futures_util::future::LocalBoxFuture;
use serde::Serialize;

/// Activations: `rows × width` numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer(pub(crate) usize);

/// A weight matrix of `rows × columns`, applied as `y = W·x`: `columns` in, `rows` out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix(pub(crate) usize);

/// A weight vector: a norm's scale or a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vector(pub(crate) usize);

/// The keys and values of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCache(pub(crate) usize);

/// A matrix with its bias: `y = W·x + b`.
#[derive(Debug, Clone, Copy)]
pub struct Linear {
    /// `out × in`.
    pub weight: Matrix,
    /// `out`.
    pub bias: Option<Vector>,
}

/// A norm over a row.
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// Which one.
    pub kind: NormKind,
    /// One number a column.
    pub scale: Vector,
    /// Added to the mean square.
    pub epsilon: f32,
}

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// RMSNorm: `y = x / sqrt(mean(x²) + epsilon) · scale`.
    Rms,
    /// LayerNorm: `y = c / sqrt(mean(c²) + epsilon) · scale + bias` of the centred `c = x − mean(x)`.
    Layer {
        /// One number a column.
        bias: Vector,
    },
}

impl Norm {
    /// RMSNorm.
    pub fn rms(scale: Vector, epsilon: f32) -> Norm {
        Norm { kind: NormKind::Rms, scale, epsilon }
    }

    /// LayerNorm.
    pub fn layer(scale: Vector, bias: Vector, epsilon: f32) -> Norm {
        Norm { kind: NormKind::Layer { bias }, scale, epsilon }
    }
}

/// Rotary position embedding: element pairs of a head are rotated by `position · frequency`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Which elements form a pair.
    pub pairing: RopePairing,
    /// Radians a position, one for each pair. Heads may be longer than twice this; the rest stays.
    pub frequencies: Vec<f32>,
    /// Multiplies sine and cosine (YaRN's and LongRoPE's attention factor).
    pub magnitude: f32,
}

/// Which elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopePairing {
    /// (0,1), (2,3), …: llama. ggml calls it "norm".
    Interleaved,
    /// (0,n/2), (1,n/2+1), …: GPT-NeoX and most others.
    Halves,
}

/// Sizes of a layer's attention, in heads and in elements of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: usize,
    /// Key and value heads; divides `query`.
    pub kv: usize,
    /// Elements of a head.
    pub size: usize,
}

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Heads and their size.
    pub heads: Heads,
    /// Multiplies `q·k`.
    pub scale: f32,
    /// `s ← cap · tanh(s / cap)`.
    pub softcap: Option<f32>,
    /// A token sees itself and the `window − 1` tokens before it; without a window, all before it.
    pub window: Option<usize>,
    /// Whether a token sees none after it. Otherwise it sees all of its step too, and there is no window.
    pub causal: bool,
}

/// The nonlinearity of a feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU, tanh approximation.
    Gelu,
    /// GELU as it is defined: `x · Φ(x)`.
    GeluErf,
}

/// The tokens of a step.
#[derive(Debug, Clone, Copy)]
pub enum Tokens<'a> {
    /// These.
    Known(&'a [u32]),
    /// The one that the last [`Backend::choose`] chose. It may not have reached this side yet.
    Chosen,
}

impl Tokens<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Tokens::Known(tokens) => tokens.len(),
            Tokens::Chosen => 1,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What to look up in many scores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// How many of the highest; from 1 to [`Wanted::MOST`].
    pub count: usize,
    /// Places whose scores to give, whatever they are; at most [`Wanted::MOST`].
    pub places: Vec<u32>,
    /// Whether [`Top::sum`] is of interest.
    pub sum: bool,
}

impl Wanted {
    /// Beyond it, reading all scores costs little more.
    pub const MOST: usize = 512;
}

/// The highest of many scores, and what a sampler has to know of the others.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Top {
    /// (place, score), the highest first, of equals the first place.
    pub best: Vec<(u32, f32)>,
    /// The scores at the places that were asked for.
    pub picked: Vec<f32>,
    /// `Σ exp(score − highest score)` over all scores, where it was asked for.
    pub sum: f64,
    /// Whether no score is NaN or +∞; otherwise nothing else here counts.
    pub finite: bool,
}

impl Top {
    /// How far [`Top::sum`] may be off, as a share of it. WGSL lets `exp(x)` err by 3 + 2·|x| units in the
    /// last place.
    pub const SUM_ERROR: f64 = 1e-4;
}

/// A GPU and how it is used, for people.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "GPUInfo", optional_fields))]
pub struct GpuInfo {
    /// The adapter's name.
    pub adapter: String,
    /// `vulkan`, `metal`, `dx12` or `webgpu`.
    pub backend: String,
    /// Optional features of the device that are on.
    pub features: Vec<&'static str>,
    /// Which variants of the kernels run.
    pub variants: Vec<&'static str>,
    /// Types of weights that take more room than in the file, in words: `Q3_K as Q6_K`. Nothing is rounded.
    pub wider: Vec<&'static str>,
    /// Pipelines that are made.
    pub pipelines: usize,
    /// Every kernel is compared with the CPU when a model first meets a GPU: what that found, where it was done.
    #[cfg(feature = "gpu")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(inline))]
    pub self_test: Option<gpu::SelfTest>,
}

/// What one kernel of a device has cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct KernelTime {
    /// With the variant's constants.
    pub kernel: String,
    /// Dispatches measured.
    pub calls: u64,
    /// Over all of them. Browsers round each to 100 µs, unless they were started for developers.
    pub nanoseconds: u64,
}

/// A device that runs a model.
///
/// `rows` is the number of tokens in this step, `position` the place of the first of them.
/// Sizes are checked when a model is loaded; operations may rely on them.
pub trait Backend {
    /// `cpu` or `gpu`.
    fn device(&self) -> &'static str;

    /// Time in each kernel since the last call, longest first, where the device was asked to measure.
    fn kernel_times(&mut self) -> LocalBoxFuture<'_, Result<Vec<KernelTime>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Tokens that should go through the model in one step of the prompt. Between steps a
    /// caller can report progress and stop.
    fn prefill_rows(&self) -> usize;

    /// Whether it wants the weights themselves; an outline only has to know their shapes.
    fn wants_weights(&self) -> bool {
        true
    }

    /// Hears what will come. A device that cannot hold it says so now, before anything is loaded.
    fn expect(&mut self, needs: &Needs) -> LocalBoxFuture<'_, Result<()>> {
        _ = needs;
        Box::pin(std::future::ready(Ok(())))
    }

    /// Bytes that a matrix takes here; as many as in its file, unless the device's layout is wider.
    fn matrix_size(&self, shape: &Shape) -> u64 {
        shape.size()
    }

    /// Bytes of a number in the KV cache.
    fn kv_number_size(&self) -> u64 {
        size_of::<f32>() as u64
    }

    /// The GPU, where that is the device.
    fn gpu(&self) -> Option<GpuInfo> {
        None
    }

    /// Lets go of all memory. Whatever is called afterwards fails with `device_lost`, where the device can be lost.
    fn release(&mut self) {}

    /// Threads at work, where that is known.
    fn threads(&self) -> Option<usize> {
        None
    }

    /// Hears that a model is loaded, and gets ready to run it.
    fn loaded(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Whether tokens chosen on the device spare it a wait: [`Backend::choose`] enqueues.
    fn chooses_ahead(&self) -> bool {
        false
    }

    /// Ends when everything enqueued has run.
    fn wait(&mut self) -> LocalBoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Room for a matrix; its rows are written with [`Backend::write_rows`].
    fn matrix(&mut self, rows: usize, columns: usize, kind: TensorType) -> Result<Matrix>;

    /// Puts whole rows, in the encoding of the matrix's type, at row `first` and after.
    fn write_rows(&mut self, matrix: Matrix, first: usize, bytes: &[u8]) -> Result<()>;

    /// Room for a vector of `len` numbers; they are written with [`Backend::write_vector`].
    fn vector(&mut self, len: usize) -> Result<Vector>;

    /// Puts all of a vector's numbers.
    fn write_vector(&mut self, vector: Vector, values: &[f32]) -> Result<()>;

    /// A buffer of `rows × width` numbers.
    fn buffer(&mut self, rows: usize, width: usize) -> Result<Buffer>;

    /// Puts rows at the start of a buffer: for trials of a device. Models fill buffers by operations.
    fn write(&mut self, buffer: Buffer, values: &[f32]) -> Result<()>;

    /// Room for the keys and values, each `heads.kv · heads.size` numbers, of `context` tokens.
    fn kv_cache(&mut self, context: usize, heads: Heads) -> Result<KvCache>;

    /// `out[i] = scale · table[tokens[i]]`.
    fn embed(&mut self, tokens: Tokens, table: Matrix, scale: f32, out: Buffer) -> Result<()>;

    /// `x[i] += table[first + i]`.
    fn add_rows(&mut self, first: usize, rows: usize, table: Matrix, x: Buffer) -> Result<()>;

    /// `out = norm(x)`; another buffer than `x`.
    fn norm(&mut self, rows: usize, x: Buffer, norm: &Norm, out: Buffer) -> Result<()>;

    /// `out = W·norm(x) + b` for each of `outputs`, all from the same input; without a norm, `out = W·x + b`.
    fn project(
        &mut self,
        rows: usize,
        x: Buffer,
        norm: Option<&Norm>,
        outputs: &[(Linear, Buffer)],
    ) -> Result<()>;

    /// `x += norm(W·input + b)`, an RMSNorm; without a norm, `x += W·input + b`.
    fn project_add(
        &mut self,
        rows: usize,
        input: Buffer,
        linear: &Linear,
        norm: Option<&Norm>,
        x: Buffer,
    ) -> Result<()>;

    /// Applies the per-head norms (query's, key's; RMSNorm) and the rotation to queries and keys in place,
    /// then writes keys and values to the cache at `position`.
    #[allow(clippy::too_many_arguments, reason = "one fused operation")]
    fn rotate_and_store(
        &mut self,
        position: usize,
        rows: usize,
        qkv: [Buffer; 3],
        heads: Heads,
        norms: Option<&[Norm; 2]>,
        rope: &Rope,
        cache: KvCache,
    ) -> Result<()>;

    /// Attention of the `rows` queries at `position` over the cache.
    fn attend(
        &mut self,
        position: usize,
        rows: usize,
        q: Buffer,
        cache: KvCache,
        attention: &Attention,
        out: Buffer,
    ) -> Result<()>;

    /// `out = act(gate·norm(x)) · (up·norm(x))`, elementwise. The norm may be missing, as in `project`.
    #[allow(clippy::too_many_arguments, reason = "one fused operation")]
    fn gate(
        &mut self,
        rows: usize,
        x: Buffer,
        norm: Option<&Norm>,
        gate_up: [&Linear; 2],
        activation: Activation,
        out: Buffer,
    ) -> Result<()>;

    /// `out = act(up·norm(x) + b)`: a feed-forward layer without a gate. The norm may be missing, as in `project`.
    fn activate(
        &mut self,
        rows: usize,
        x: Buffer,
        norm: Option<&Norm>,
        up: &Linear,
        activation: Activation,
        out: Buffer,
    ) -> Result<()>;

    /// The scores of what follows row `row`: `out = cap(W·norm(x[row]) + b)`.
    fn logits(
        &mut self,
        row: usize,
        x: Buffer,
        norm: &Norm,
        head: &Linear,
        softcap: Option<f32>,
        out: Buffer,
    ) -> Result<()>;

    /// Chooses the place of the highest of `len` scores, the first of equals: for the next step's
    /// [`Tokens::Chosen`], and for [`Backend::chosen`].
    fn choose(&mut self, scores: Buffer, len: usize) -> Result<()>;

    /// The oldest choice that was not read yet. Reading each one a step late keeps the device busy.
    fn chosen(&mut self) -> LocalBoxFuture<'_, Result<u32>>;

    /// The highest of `len` scores, and what else is wanted. The scores stay where they are.
    fn top_k<'a>(
        &'a mut self,
        scores: Buffer,
        len: usize,
        wanted: &'a Wanted,
        out: &'a mut Top,
    ) -> LocalBoxFuture<'a, Result<()>>;

    /// The first `len` numbers of `buffer`, row by row, once everything enqueued has run.
    fn read<'a>(
        &'a mut self,
        buffer: Buffer,
        len: usize,
        out: &'a mut Vec<f32>,
    ) -> LocalBoxFuture<'a, Result<()>>;
}
