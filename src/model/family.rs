//! Families of transformers: how each differs from Llama.
//!
//! What a family computes is a row of [`FAMILIES`]; sizes and numbers are a file's ([`Config`](super::Config)).
//! Names are those of `general.architecture`. Sources: transformers' `modeling_*.py` and llama.cpp's `src/models`.

use crate::backend::op::{Activation, RopePairing};
use crate::{Error, Result};

/// A family of models with one layer order.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// In files.
    pub name: &'static str,
    /// It turns a text into a vector, and continues none: every token sees all others.
    pub encoder: bool,
    pub(super) norm: NormStyle,
    pub(super) norms: Norms,
    /// The feed-forward layer reads what attention reads, and both are added to the stream.
    pub(super) parallel: Parallel,
    pub(super) head_norms: HeadNorms,
    pub(super) positions: Positions,
    pub(super) unrotated: Unrotated,
    pub(super) rope_base: f32,
    /// RoPE base of sliding layers, unscaled, where a file does not say it.
    pub(super) sliding_rope: SlidingRope,
    /// Of so many layers one sees everything, where there is a window and the file does not say which; 0: none.
    pub(super) sliding_period: usize,
    /// What layers have that do not attend.
    pub(super) recurrence: Recurrence,
    /// Queries come with gates of what attention gives.
    pub(super) output_gate: bool,
    /// Where layers have experts, and the file does not say how many count: weights of those that are chosen add up to 1.
    pub(super) experts_normalized: bool,
    /// A gate beside the feed-forward layer's first product.
    pub(super) gate: bool,
    pub(super) activation: Activation,
    /// Embeddings are multiplied by the root of their width.
    pub(super) root_scale: bool,
    /// Caps of attention scores and of logits, where a file does not say them.
    pub(super) softcaps: Option<[f32; 2]>,
    pub(super) logit_scale: LogitScale,
    /// Scales of embeddings, of what is added to the stream, and of logits, where a file does not say them.
    pub(super) minicpm_scales: bool,
}

/// Which kind of norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NormStyle {
    Rms,
    /// LayerNorm, with a bias where the file has one.
    Layer,
    /// LayerNorm without scale and bias.
    Bare,
}

impl NormStyle {
    pub(super) fn is_layer_norm(self) -> bool {
        self != NormStyle::Rms
    }
}

/// Where norms are, besides the one before the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norms {
    /// Of what goes into attention and feed-forward layer.
    Before,
    /// Of what goes in, and of what comes out before it is added to the stream.
    Around,
    /// Of what comes out.
    After,
    /// Of the stream itself, after the embedding and after each addition, and nothing else.
    Stream,
}

/// See [`Family::parallel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parallel {
    No,
    /// Both read the same normed stream.
    Shared,
    /// Where the file says so; each has a norm.
    Said,
    /// Where the file has but one norm a layer.
    WithOneNorm,
}

/// RMSNorms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadNorms {
    None,
    /// Of each head, before the rotation.
    Before,
    /// Of each head, after the rotation.
    After,
    /// Of all heads together, before the rotation.
    Whole,
}

/// How a model knows the order of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Positions {
    Rotated(RopePairing),
    /// Embeddings of positions are added to those of tokens.
    Learned,
}

/// Layers whose memory does not grow: which, and what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recurrence {
    None,
    /// A gated short convolution, where a layer has no key heads.
    Convolution,
    /// The gated delta rule, but for the last of each so many layers.
    Delta,
    /// Mamba 2, where a layer has no key heads.
    Scan,
    /// The same, and each layer is but one thing: Mamba 2, attention, or a feed-forward layer, which alone has a width.
    ScanAlone,
}

/// Layers that do not rotate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unrotated {
    None,
    All,
    /// The last of each so many.
    Every(usize),
    /// Those that see everything, where others have a window.
    Full,
}

/// How sliding layers rotate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum SlidingRope {
    /// As the others.
    Same,
    /// With the base of the others, unscaled.
    Unscaled,
    /// With a base of their own, unscaled.
    Base(f32),
}

/// What a file's `logit_scale` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogitScale {
    Divides,
    Multiplies,
}

const INTERLEAVED: Positions = Positions::Rotated(RopePairing::Interleaved);
const HALVES: Positions = Positions::Rotated(RopePairing::Halves);

/// Llama 1 to 3, Mistral, SmolLM, TinyLlama and many more.
const LLAMA: Family = Family {
    name: "llama",
    encoder: false,
    norm: NormStyle::Rms,
    norms: Norms::Before,
    parallel: Parallel::No,
    head_norms: HeadNorms::None,
    positions: INTERLEAVED,
    unrotated: Unrotated::None,
    rope_base: 10_000.0,
    sliding_rope: SlidingRope::Same,
    sliding_period: 0,
    recurrence: Recurrence::None,
    output_gate: false,
    experts_normalized: true,
    gate: true,
    activation: Activation::Silu,
    root_scale: false,
    softcaps: None,
    logit_scale: LogitScale::Divides,
    minicpm_scales: false,
};

/// Qwen 2 and 2.5; the text side of Qwen 2 VL, whose three kinds of positions are one in texts.
const QWEN2: Family = Family { name: "qwen2", positions: HALVES, ..LLAMA };

/// Qwen 3, dense; the text side of Qwen 3 VL.
const QWEN3: Family = Family { name: "qwen3", head_norms: HeadNorms::Before, ..QWEN2 };

const GEMMA: Family =
    Family { name: "gemma", positions: HALVES, activation: Activation::Gelu, root_scale: true, ..LLAMA };

/// LayerNorm and no gate.
const PLAIN: Family = Family {
    name: "starcoder2",
    norm: NormStyle::Layer,
    positions: HALVES,
    gate: false,
    activation: Activation::Gelu,
    ..LLAMA
};

/// Command R: attention and feed-forward layer side by side.
const COHERE: Family = Family {
    name: "command-r",
    norm: NormStyle::Layer,
    parallel: Parallel::Shared,
    logit_scale: LogitScale::Multiplies,
    ..LLAMA
};

/// All that candlewick runs; of those that have the same tensors, the best known first.
pub(super) static FAMILIES: &[Family] = &[
    LLAMA,
    // Falcon 3, Yi, InternLM 2 and 3, ERNIE 4.5 dense: Llama by other names.
    Family { name: "internlm2", ..LLAMA },
    Family { name: "ernie4_5", ..LLAMA },
    Family { name: "mistral3", ..LLAMA },
    Family { name: "granite", ..LLAMA },
    Family { name: "granitemoe", ..LLAMA },
    Family { name: "ernie4_5-moe", ..LLAMA },
    Family { name: "granitehybrid", recurrence: Recurrence::Scan, ..LLAMA },
    Family { name: "mamba2", recurrence: Recurrence::ScanAlone, unrotated: Unrotated::All, ..LLAMA },
    Family {
        name: "nemotron_h",
        recurrence: Recurrence::ScanAlone,
        unrotated: Unrotated::All,
        gate: false,
        activation: Activation::SquaredRelu,
        ..LLAMA
    },
    Family { name: "minicpm", minicpm_scales: true, ..LLAMA },
    Family { name: "smollm3", unrotated: Unrotated::Every(4), ..LLAMA },
    Family { name: "arcee", gate: false, activation: Activation::SquaredRelu, ..LLAMA },
    Family { name: "olmo", norm: NormStyle::Bare, ..LLAMA },
    Family { name: "glm4", norms: Norms::Around, ..LLAMA },
    QWEN2,
    Family { name: "qwen2vl", ..QWEN2 },
    Family { name: "phi3", ..QWEN2 },
    Family { name: "seed_oss", ..QWEN2 },
    Family {
        name: "olmo2",
        norms: Norms::After,
        head_norms: HeadNorms::Whole,
        sliding_rope: SlidingRope::Unscaled,
        sliding_period: 4,
        ..QWEN2
    },
    Family { name: "qwen2moe", experts_normalized: false, ..QWEN2 },
    Family { name: "olmoe", head_norms: HeadNorms::Whole, experts_normalized: false, ..QWEN2 },
    QWEN3,
    Family { name: "qwen3vl", ..QWEN3 },
    Family { name: "qwen3moe", ..QWEN3 },
    Family { name: "qwen3vlmoe", ..QWEN3 },
    Family { name: "bailingmoe2", experts_normalized: false, ..QWEN3 },
    // LFM 2 and 2.5, dense.
    Family { name: "lfm2", recurrence: Recurrence::Convolution, ..QWEN3 },
    Family { name: "lfm2moe", recurrence: Recurrence::Convolution, ..QWEN3 },
    // Qwen 3.5 and later; the text side.
    Family { name: "qwen35", recurrence: Recurrence::Delta, output_gate: true, ..QWEN3 },
    Family { name: "qwen35moe", recurrence: Recurrence::Delta, output_gate: true, ..QWEN3 },
    Family { name: "hunyuan-dense", head_norms: HeadNorms::After, ..QWEN2 },
    Family { name: "exaone4", norms: Norms::After, unrotated: Unrotated::Full, sliding_period: 4, ..QWEN3 },
    GEMMA,
    Family { name: "gemma2", norms: Norms::Around, sliding_period: 2, softcaps: Some([50.0, 30.0]), ..GEMMA },
    Family {
        name: "gemma3",
        norms: Norms::Around,
        head_norms: HeadNorms::Before,
        rope_base: 1_000_000.0,
        // Whatever the others use.
        sliding_rope: SlidingRope::Base(10_000.0),
        sliding_period: 6,
        ..GEMMA
    },
    PLAIN,
    Family { name: "gpt2", positions: Positions::Learned, ..PLAIN },
    Family { name: "starcoder", positions: Positions::Learned, ..PLAIN },
    Family { name: "phi2", parallel: Parallel::Shared, ..PLAIN },
    Family { name: "nemotron", activation: Activation::SquaredRelu, ..PLAIN },
    Family { name: "gptneox", parallel: Parallel::Said, activation: Activation::GeluErf, ..PLAIN },
    Family { name: "falcon", parallel: Parallel::Shared, activation: Activation::GeluErf, ..PLAIN },
    Family {
        name: "stablelm",
        parallel: Parallel::WithOneNorm,
        gate: true,
        activation: Activation::Silu,
        ..PLAIN
    },
    COHERE,
    Family { name: "cohere2", unrotated: Unrotated::Full, sliding_period: 4, ..COHERE },
    // MiniLM, bge, e5, gte and other models that turn texts into vectors.
    Family {
        name: "bert",
        encoder: true,
        norms: Norms::Stream,
        positions: Positions::Learned,
        activation: Activation::GeluErf,
        ..PLAIN
    },
];

impl Family {
    pub(super) fn named(name: &str) -> Result<&'static Family> {
        FAMILIES.iter().find(|family| family.name == name).ok_or_else(|| {
            let names: Vec<&str> = FAMILIES.iter().map(|family| family.name).collect();
            Error::unsupported_model(format!(
                "candlewick does not run the architecture \"{name}\". It runs {}",
                names.join(", ")
            ))
        })
    }

    pub(super) fn norms_stream(&self) -> bool {
        self.norms == Norms::Stream
    }

    pub(super) fn learns_positions(&self) -> bool {
        self.positions == Positions::Learned
    }
}
