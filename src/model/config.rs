//! What varies between transformer families, read from a file's metadata.
//!
//! Key names: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Where a file leaves a
//! value out, the default is the family's, as transformers and llama.cpp have it.

use super::keys::{Keys, check_layers};
use super::rope::RopeConfig;
use crate::backend::op::{Activation, Attention, Heads, Rope};
use crate::format::gguf::Header;
use crate::{Error, Result};

/// Larger than any published model. With it a row's bytes can be counted in 32 bits, whatever a hostile file says.
pub(super) const MAX_WIDTH: u32 = 1 << 20;
const MAX_LAYERS: u32 = 1 << 12;

/// Gemma's sliding layers always rotate with this base, whatever the others use.
const GEMMA3_LOCAL_ROPE_BASE: f32 = 10_000.0;

/// Transformer families that candlewick runs: decoders, and one of encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1 to 3, Mistral, SmolLM, TinyLlama and many more.
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3, dense.
    Qwen3,
    /// Phi 3, 3.5 and 4.
    Phi3,
    /// Gemma 1.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, text.
    Gemma3,
    /// StarCoder 2.
    Starcoder2,
    /// GPT-2.
    Gpt2,
    /// BERT: MiniLM, bge, e5, gte and other models that turn texts into vectors.
    Bert,
}

impl Architecture {
    const ALL: [(&str, Architecture); 10] = [
        ("llama", Architecture::Llama),
        ("qwen2", Architecture::Qwen2),
        ("qwen3", Architecture::Qwen3),
        ("phi3", Architecture::Phi3),
        ("gemma", Architecture::Gemma),
        ("gemma2", Architecture::Gemma2),
        ("gemma3", Architecture::Gemma3),
        ("starcoder2", Architecture::Starcoder2),
        ("gpt2", Architecture::Gpt2),
        ("bert", Architecture::Bert),
    ];

    fn named(name: &str) -> Result<Self> {
        match Self::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, architecture)) => Ok(*architecture),
            None => Err(Error::unsupported_model(format!(
                "candlewick does not run the architecture \"{name}\". It runs {}",
                Self::ALL.map(|(known, _)| known).join(", ")
            ))),
        }
    }

    fn is_gemma(self) -> bool {
        matches!(self, Architecture::Gemma | Architecture::Gemma2 | Architecture::Gemma3)
    }

    /// LayerNorm in place of RMSNorm.
    pub(super) fn has_layer_norm(self) -> bool {
        matches!(self, Architecture::Starcoder2 | Architecture::Gpt2 | Architecture::Bert)
    }

    /// A gate beside the feed-forward layer's first product.
    pub(super) fn has_gate(self) -> bool {
        !matches!(self, Architecture::Starcoder2 | Architecture::Gpt2 | Architecture::Bert)
    }

    /// It turns a text into a vector, and continues none: every token sees all others.
    pub fn is_encoder(self) -> bool {
        self == Architecture::Bert
    }

    /// The stream itself is normed, after the embedding and after what attention and MLP add, and nothing else.
    pub(super) fn norms_stream(self) -> bool {
        self == Architecture::Bert
    }

    /// Embeddings of positions are added to those of tokens; nothing is rotated then.
    pub(super) fn learns_positions(self) -> bool {
        matches!(self, Architecture::Gpt2 | Architecture::Bert)
    }

    /// Gemma 2 and 3 norm what attention and MLP give before adding it to the stream.
    pub(super) fn norms_outputs(self) -> bool {
        matches!(self, Architecture::Gemma2 | Architecture::Gemma3)
    }

    /// Queries and keys are normed head by head before the rotation.
    pub(super) fn norms_queries_and_keys(self) -> bool {
        matches!(self, Architecture::Qwen3 | Architecture::Gemma3)
    }
}

/// A model's sizes and variations.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The family.
    pub architecture: Architecture,
    /// Its name in the file.
    pub architecture_name: String,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub embedding: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Tokens of context the model was trained for, or stretched to.
    pub trained_context: usize,
    /// Attention heads.
    pub heads: Heads,
    /// Of every norm.
    pub norm_epsilon: f32,
    /// Multiplies the embeddings.
    pub embedding_scale: f32,
    /// Multiplies query times key.
    pub attention_scale: f32,
    /// Caps attention scores.
    pub attention_softcap: Option<f32>,
    /// Caps the logits.
    pub logit_softcap: Option<f32>,
    /// Of the feed-forward layer.
    pub activation: Activation,
    rope: RopeConfig,
    sliding: Option<Sliding>,
}

/// Layers that see only the last tokens.
#[derive(Debug, Clone, PartialEq)]
struct Sliding {
    window: usize,
    sees_all: SeesAll,
    /// RoPE base of the sliding layers, unscaled, where it differs.
    rope_base: Option<f32>,
}

/// Which layers are no sliding ones.
#[derive(Debug, Clone, PartialEq)]
enum SeesAll {
    /// The last of each so many; 0: none.
    Every(usize),
    /// Layer by layer.
    Layers(Vec<bool>),
}

impl SeesAll {
    fn at(&self, index: usize) -> bool {
        match self {
            SeesAll::Every(period) => *period > 0 && (index + 1).is_multiple_of(*period),
            SeesAll::Layers(layers) => layers.get(index).copied().unwrap_or(false),
        }
    }
}

impl Config {
    /// Reads and checks a file's metadata.
    pub fn from_header(header: &Header) -> Result<Config> {
        let metadata = &header.metadata;
        if header.is_part()? {
            return Err(Error::unsupported_model(
                "this is one part of a split model. Give all its files, under the names they came with (…-00001-of-…)",
            ));
        }
        let name = metadata
            .text("general.architecture")?
            .ok_or_else(|| Error::corrupt_model("metadata general.architecture is missing"))?;
        let name = &name[..];
        let architecture = Architecture::named(name)?;
        let keys = Keys { metadata, prefix: name };

        let layers = keys.required("block_count", MAX_LAYERS)?;
        let embedding = keys.required("embedding_length", MAX_WIDTH)?;
        let query = keys.required_layered("attention.head_count", MAX_WIDTH, layers)?;
        let kv = keys.layered("attention.head_count_kv", MAX_WIDTH, layers)?.unwrap_or(query);
        if !query.is_multiple_of(kv) {
            return Err(Error::corrupt_model(format!("{query} query heads cannot share {kv} key heads")));
        }
        let size = match keys.size("attention.key_length", MAX_WIDTH)? {
            Some(size) => size,
            None if embedding.is_multiple_of(query) => embedding / query,
            None => {
                return Err(Error::corrupt_model(format!("{embedding} is not divisible by {query} heads")));
            }
        };
        if query.saturating_mul(size) > MAX_WIDTH as usize {
            return Err(Error::corrupt_model(format!("{query} heads of {size} elements are too many")));
        }
        if keys.size("attention.value_length", MAX_WIDTH)?.is_some_and(|value| value != size) {
            return Err(Error::unsupported_model("keys and values of different lengths are not supported"));
        }
        if keys.size("expert_count", MAX_WIDTH).is_ok_and(|experts| experts.is_some()) {
            return Err(Error::unsupported_model("mixture-of-experts models are not supported yet"));
        }

        let trained_context = keys.size("context_length", u32::MAX)?.unwrap_or(2048);
        let norm_epsilon = match architecture.has_layer_norm() {
            true => "attention.layer_norm_epsilon",
            false => "attention.layer_norm_rms_epsilon",
        };
        Ok(Config {
            architecture,
            architecture_name: name.to_owned(),
            layers,
            embedding,
            feed_forward: keys.required_layered("feed_forward_length", MAX_WIDTH, layers)?,
            vocabulary: vocabulary(header)?,
            trained_context,
            heads: Heads { query, kv, size },
            norm_epsilon: keys.positive(norm_epsilon)?.unwrap_or(1e-5),
            embedding_scale: if architecture.is_gemma() { (embedding as f32).sqrt() } else { 1.0 },
            attention_scale: match keys.positive("attention.scale")? {
                Some(scale) => scale,
                None => 1.0 / (query_scale_width(architecture, layers, embedding, query, size) as f32).sqrt(),
            },
            attention_softcap: match architecture {
                Architecture::Gemma2 => Some(keys.positive("attn_logit_softcapping")?.unwrap_or(50.0)),
                _ => keys.positive("attn_logit_softcapping")?,
            },
            logit_softcap: match architecture {
                Architecture::Gemma2 => Some(keys.positive("final_logit_softcapping")?.unwrap_or(30.0)),
                _ => keys.positive("final_logit_softcapping")?,
            },
            activation: match architecture {
                Architecture::Bert => Activation::GeluErf,
                _ if architecture.is_gemma() || !architecture.has_gate() => Activation::Gelu,
                _ => Activation::Silu,
            },
            rope: RopeConfig::read(&keys, header, architecture, size, trained_context)?,
            sliding: Sliding::read(&keys, architecture, layers)?,
        })
    }

    /// Name of the tensor that holds the divisors of the RoPE frequencies for an engine that
    /// allocates `context` tokens, where the model has one.
    pub fn rope_factors_tensor(&self, context: usize) -> Option<&'static str> {
        self.rope.factors_tensor(self.architecture, context)
    }

    /// Pairs of elements of a head that are rotated.
    pub fn rope_pairs(&self) -> usize {
        self.rope.pairs()
    }

    /// The attention of layer `index`.
    pub fn attention(&self, index: usize) -> Attention {
        Attention {
            heads: self.heads,
            scale: self.attention_scale,
            softcap: self.attention_softcap,
            window: self.sliding_at(index).map(|sliding| sliding.window),
            causal: !self.architecture.is_encoder(),
        }
    }

    /// The rotation of layer `index`; `factors` are the values of [`Config::rope_factors_tensor`].
    pub fn rope(&self, index: usize, factors: Option<&[f32]>) -> Rope {
        match self.sliding_at(index).and_then(|sliding| sliding.rope_base) {
            Some(base) => self.rope.unscaled(base).table(None),
            None => self.rope.table(factors),
        }
    }

    fn sliding_at(&self, index: usize) -> Option<&Sliding> {
        self.sliding.as_ref().filter(|sliding| !sliding.sees_all.at(index))
    }

    /// Numbers that keys and values of one token take, over all layers; in an encoder these share their cache.
    pub fn kv_width(&self) -> u64 {
        let caches = if self.architecture.is_encoder() { 1 } else { self.layers as u64 };
        2 * caches * (self.heads.kv * self.heads.size) as u64
    }
}

/// Gemma's largest models scale queries by the width a head has in the stream, the others by its own.
fn query_scale_width(
    architecture: Architecture,
    layers: usize,
    embedding: usize,
    query_heads: usize,
    head_size: usize,
) -> usize {
    match (architecture, layers) {
        (Architecture::Gemma2, 46) | (Architecture::Gemma3, 62) => embedding / query_heads,
        _ => head_size,
    }
}

fn vocabulary(header: &Header) -> Result<usize> {
    let size = match header.tensor("token_embd.weight") {
        Some(tensor) => {
            let rows = tensor.dimension(1);
            usize::try_from(rows)
                .map_err(|_| Error::unsupported_model(format!("{rows} tokens are too many")))?
        }
        None => header.metadata.array_len("tokenizer.ggml.tokens").unwrap_or(0),
    };
    if size == 0 { Err(Error::corrupt_model("the file has no vocabulary")) } else { Ok(size) }
}

impl Sliding {
    fn read(keys: &Keys, architecture: Architecture, layers: usize) -> Result<Option<Sliding>> {
        let name = keys.name("attention.sliding_window");
        let window = keys.metadata.u32(&name)?.unwrap_or(0) as usize;
        if window == 0 {
            return Ok(None);
        }
        let default_period = match architecture {
            Architecture::Gemma2 => 2,
            Architecture::Gemma3 => 6,
            _ => 0,
        };
        let name = keys.name("attention.sliding_window_pattern");
        let sees_all = match keys.metadata.array_len(&name) {
            None => {
                SeesAll::Every(keys.metadata.u32(&name)?.map_or(default_period, |period| period as usize))
            }
            Some(len) => {
                check_layers(&name, len, layers)?;
                let slides = keys.metadata.integers(&name)?.unwrap_or_default();
                SeesAll::Layers(slides.into_iter().map(|slides| slides == 0).collect())
            }
        };
        let rope_base = match architecture {
            Architecture::Gemma3 => {
                Some(keys.positive("rope.freq_base_swa")?.unwrap_or(GEMMA3_LOCAL_ROPE_BASE))
            }
            _ => None,
        };
        Ok(Some(Sliding { window, sees_all, rope_base }))
    }
}
