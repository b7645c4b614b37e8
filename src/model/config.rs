//! A model's sizes and numbers, read from a file's metadata.
//!
//! Key names: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Where a file leaves a
//! value out, the default is the family's, as transformers and llama.cpp have it.

use super::family::{Family, LogitScale, Norms, Parallel, Recurrence, SlidingRope, Unrotated};
use super::keys::{Keys, check_layers};
use super::rope::RopeConfig;
use crate::backend::op::{Attention, DeltaHeads, Gating, Heads, Rope, ScanHeads};
use crate::format::gguf::Header;
use crate::{Error, Result};

/// Larger than any published model. With it a row's bytes can be counted in 32 bits, whatever a hostile file says.
pub(super) const MAX_WIDTH: u32 = 1 << 20;
const MAX_LAYERS: u32 = 1 << 12;
/// Bytes for states of sequences, about, and how many there are at least and at most.
const STATES: u64 = 128 << 20;
const LEAST_SLOTS: u64 = 4;
const MOST_SLOTS: u64 = 64;

/// A model's sizes and variations.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How it is built.
    pub family: &'static Family,
    /// Each of its layers.
    pub layers: Vec<LayerConfig>,
    /// Width of the residual stream.
    pub embedding: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Tokens of context the model was trained for, or stretched to.
    pub trained_context: usize,
    /// Of every norm.
    pub norm_epsilon: f32,
    /// Multiplies the embeddings.
    pub embedding_scale: f32,
    /// Multiplies what attention and feed-forward layer add to the stream.
    pub residual_scale: f32,
    /// Multiplies query times key.
    pub attention_scale: f32,
    /// Caps attention scores.
    pub attention_softcap: Option<f32>,
    /// Multiplies the logits.
    pub logit_scale: f32,
    /// Caps the logits.
    pub logit_softcap: Option<f32>,
    /// Attention and feed-forward layer read the same stream.
    pub parallel: bool,
    rope: RopeConfig,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// What brings tokens together.
    pub mixer: Mixer,
    /// Attention heads, where that is it.
    pub heads: Heads,
    /// Its experts, where the feed-forward layer is so many.
    pub experts: Option<ExpertConfig>,
    /// Width of the feed-forward layer; 0: there is none.
    pub feed_forward: usize,
    /// A token sees so many, itself and those before it; without a window, all.
    pub window: Option<usize>,
    rotation: Rotation,
}

/// Feed-forward layers of which each token goes to a few.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertConfig {
    /// How many there are.
    pub count: usize,
    /// How many a token goes to.
    pub chosen: usize,
    /// Width of each.
    pub width: usize,
    /// How scores become weights.
    pub gating: Gating,
    /// Weights of those that are chosen add up to 1.
    pub normalized: bool,
    /// Multiplies the weights.
    pub scale: f32,
}

/// How a layer brings tokens together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixer {
    /// Attention over all that was.
    Attention,
    /// A short convolution, gated before and after.
    Convolution {
        /// Tokens that it sees.
        taps: usize,
    },
    /// A short convolution and the gated delta rule.
    Delta {
        /// Tokens that the convolution sees.
        taps: usize,
        /// Sizes.
        heads: DeltaHeads,
    },
    /// A short convolution and a selective scan: Mamba 2.
    Scan {
        /// Tokens that the convolution sees.
        taps: usize,
        /// Sizes.
        heads: ScanHeads,
    },
    /// Not at all.
    None,
}

impl Mixer {
    /// Numbers that it remembers of a sequence, whatever its length: of its convolution, and of the rest.
    pub fn state(&self, embedding: usize) -> [usize; 2] {
        match *self {
            Mixer::Attention | Mixer::None => [0, 0],
            Mixer::Convolution { taps } => [(taps - 1) * embedding, 0],
            Mixer::Delta { taps, heads } => [(taps - 1) * heads.width(), heads.state()],
            Mixer::Scan { taps, heads } => {
                [(taps - 1) * heads.width(), heads.inner().saturating_mul(heads.state)]
            }
        }
    }
}

/// How a layer rotates queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rotation {
    None,
    /// As the file says for all layers.
    Scaled,
    /// With this base, unscaled.
    Unscaled(f32),
}

/// Layers that see only the last tokens.
#[derive(Debug, Clone, PartialEq)]
struct Sliding {
    window: usize,
    sees_all: SeesAll,
    rotation: Rotation,
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
        Self::of_family(header, Family::named(&name)?, &name)
    }

    /// The same for a file whose keys begin with `prefix`, by the rules of `family`.
    pub(super) fn of_family(header: &Header, family: &'static Family, prefix: &str) -> Result<Config> {
        let metadata = &header.metadata;
        let keys = Keys { metadata, prefix };
        let layers = keys.required("block_count", MAX_LAYERS)?;
        // The last ones, which predict further tokens, are not needed.
        let further = keys.metadata.u32(&keys.name("nextn_predict_layers"))?.unwrap_or(0) as usize;
        if further >= layers {
            return Err(Error::corrupt_model(format!("{further} of {layers} layers predict further tokens")));
        }
        let embedding = keys.required("embedding_length", MAX_WIDTH)?;
        let least = u32::from(family.recurrence == Recurrence::None);
        let heads = heads(&keys, layers, embedding, least)?;
        let head_size = heads[0].size;
        let least = u32::from(family.recurrence != Recurrence::ScanAlone);
        let feed_forward = keys.required_layered("feed_forward_length", least, MAX_WIDTH, layers)?;
        let mixers = mixers(&keys, family, &heads, &feed_forward)?;
        let experts = experts(&keys, header, family, &feed_forward)?;
        let mut trained_context = keys.size("context_length", u32::MAX)?.unwrap_or(2048);
        let norm_epsilon = match family.norm.is_layer_norm() {
            true => "attention.layer_norm_epsilon",
            false => "attention.layer_norm_rms_epsilon",
        };
        let rope = RopeConfig::read(&keys, header, family, head_size, trained_context)?;
        // Beyond the context of the first training, these models also scale queries by their position.
        if keys.positive("attention.temperature_scale")?.is_some() {
            trained_context = trained_context.min(rope.original_context(&keys, trained_context)?);
        }
        let sliding = Sliding::read(&keys, family, layers)?;
        let rotates = !family.learns_positions()
            && rope.pairs() > 0
            && keys.metadata.bool(&keys.name("rope.scaling.finetuned"))? != Some(false);
        let layer = |index: usize| {
            let slides = sliding.as_ref().filter(|sliding| !sliding.sees_all.at(index));
            let rotation = match (slides, family.unrotated) {
                _ if !rotates || family.unrotated == Unrotated::All => Rotation::None,
                (_, Unrotated::Every(period)) if (index + 1).is_multiple_of(period) => Rotation::None,
                (None, Unrotated::Full) if sliding.is_some() => Rotation::None,
                (Some(sliding), _) => sliding.rotation,
                (None, _) => Rotation::Scaled,
            };
            let window = slides.map(|sliding| sliding.window);
            // Of layers that are but one thing, those that bring tokens together have no feed-forward layer.
            let alone = family.recurrence == Recurrence::ScanAlone && mixers[index] != Mixer::None;
            LayerConfig {
                mixer: mixers[index],
                experts: experts[index],
                heads: heads[index],
                feed_forward: if alone { 0 } else { feed_forward[index] },
                window,
                rotation,
            }
        };
        let scales = Scales::read(&keys, family, layers, embedding)?;
        // The stream is kept smaller by it, which only norms of what goes into a layer take out again.
        if scales.residual != 1.0 && (family.norms != Norms::Before || family.learns_positions()) {
            return Err(Error::unsupported_model(format!(
                "{} with a residual_scale is not supported",
                family.name
            )));
        }
        let softcap = |key: &str, index: usize| {
            let default = family.softcaps.map(|caps| caps[index]);
            Ok::<_, Error>(keys.positive(key)?.or(default))
        };
        Ok(Config {
            family,
            layers: (0..layers - further).map(layer).collect(),
            embedding,
            vocabulary: vocabulary(header)?,
            trained_context,
            norm_epsilon: keys.positive(norm_epsilon)?.unwrap_or(1e-5),
            embedding_scale: scales.embedding,
            residual_scale: scales.residual,
            attention_scale: match keys.positive("attention.scale")? {
                Some(scale) => scale,
                None => 1.0 / (query_scale_width(family, layers, embedding, heads[0]) as f32).sqrt(),
            },
            attention_softcap: softcap("attn_logit_softcapping", 0)?,
            logit_scale: scales.logit,
            logit_softcap: softcap("final_logit_softcapping", 1)?,
            parallel: match family.parallel {
                Parallel::No => false,
                Parallel::Shared => true,
                Parallel::Said => keys.metadata.bool(&keys.name("use_parallel_residual"))?.unwrap_or(true),
                Parallel::WithOneNorm => header.tensor("blk.0.ffn_norm.weight").is_none(),
            },
            rope,
        })
    }

    /// Name of the tensor that holds the divisors of the RoPE frequencies for an engine that
    /// allocates `context` tokens, where the model has one.
    pub fn rope_factors_tensor(&self, context: usize) -> Option<&'static str> {
        self.rope.factors_tensor(context)
    }

    /// Pairs of elements of a head that are rotated.
    pub fn rope_pairs(&self) -> usize {
        self.rope.pairs()
    }

    /// The attention of layer `index`.
    pub fn attention(&self, index: usize) -> Attention {
        Attention {
            heads: self.layers[index].heads,
            scale: self.attention_scale,
            softcap: self.attention_softcap,
            window: self.layers[index].window,
            causal: !self.family.encoder,
        }
    }

    /// The rotation of layer `index`; `factors` are the values of [`Config::rope_factors_tensor`].
    pub fn rope(&self, index: usize, factors: Option<&[f32]>) -> Rope {
        match self.layers[index].rotation {
            Rotation::None => self.rope.none(),
            Rotation::Scaled => self.rope.table(factors),
            Rotation::Unscaled(base) => self.rope.unscaled(base).table(None),
        }
    }

    /// Numbers that recurrent layers remember of a sequence, however long it is.
    pub fn state_width(&self) -> u64 {
        let states = self.layers.iter().flat_map(|layer| layer.mixer.state(self.embedding));
        states.map(|numbers| numbers as u64).sum()
    }

    /// Sequences whose states there is room for: those that go on, and what others may begin with.
    pub fn state_slots(&self) -> usize {
        match self.state_width().saturating_mul(size_of::<f32>() as u64) {
            0 => 0,
            bytes => (STATES / bytes).clamp(LEAST_SLOTS, MOST_SLOTS) as usize,
        }
    }

    /// Numbers that keys and values of one token take, over all layers; in an encoder these share their cache.
    pub fn kv_width(&self) -> u64 {
        let attend = self.layers.iter().filter(|layer| layer.mixer == Mixer::Attention);
        let widths = attend.map(|LayerConfig { heads, .. }| 2 * (heads.kv * heads.size) as u64);
        if self.family.encoder { widths.max().unwrap_or(0) } else { widths.sum() }
    }
}

/// The heads of each layer; `least` is 0 where there may be none.
fn heads(keys: &Keys, layers: usize, embedding: usize, least: u32) -> Result<Vec<Heads>> {
    let query = keys.required_layered("attention.head_count", least, MAX_WIDTH, layers)?;
    let kv = keys.layered("attention.head_count_kv", least, MAX_WIDTH, layers)?;
    let kv = kv.unwrap_or_else(|| query.clone());
    let most = query.iter().copied().max().unwrap_or(0);
    let size = match keys.size("attention.key_length", MAX_WIDTH)? {
        Some(size) => size,
        // Nobody attends.
        None if most == 0 => 0,
        None if embedding.is_multiple_of(most) => embedding / most,
        None => {
            return Err(Error::corrupt_model(format!("{embedding} is not divisible by {most} heads")));
        }
    };
    if keys.size("attention.value_length", MAX_WIDTH)?.is_some_and(|value| value != size) {
        return Err(Error::unsupported_model("keys and values of different lengths are not supported"));
    }
    let checked = |(query, kv): (usize, usize)| {
        if kv > 0 && (query == 0 || !query.is_multiple_of(kv)) {
            return Err(Error::corrupt_model(format!("{query} query heads cannot share {kv} key heads")));
        }
        if query.saturating_mul(size) > MAX_WIDTH as usize {
            return Err(Error::corrupt_model(format!("{query} heads of {size} elements are too many")));
        }
        Ok(Heads { query, kv, size })
    };
    query.into_iter().zip(kv).map(checked).collect()
}

/// Most experts, and most that a token goes to.
const MAX_EXPERTS: u32 = 1024;
const MAX_CHOSEN: u32 = 32;

/// The experts of each layer that has some.
fn experts(
    keys: &Keys,
    header: &Header,
    family: &Family,
    feed_forward: &[usize],
) -> Result<Vec<Option<ExpertConfig>>> {
    let layers = feed_forward.len();
    let has = |index: usize| header.tensor(&format!("blk.{index}.ffn_up_exps.weight")).is_some();
    if !(0..layers).any(has) {
        return Ok(vec![None; layers]);
    }
    if family.norms != Norms::Before {
        let message = format!("{} with experts is not supported", family.name);
        return Err(Error::unsupported_model(message));
    }
    let count = keys.required("expert_count", MAX_EXPERTS)?;
    let chosen = keys.required("expert_used_count", MAX_CHOSEN)?;
    if chosen > count {
        return Err(Error::corrupt_model(format!("{chosen} of {count} experts cannot be chosen")));
    }
    let groups = keys.metadata.u32(&keys.name("expert_group_count"))?.unwrap_or(1);
    if groups > 1 {
        return Err(Error::unsupported_model("experts that are chosen by groups are not supported yet"));
    }
    let widths = keys.layered("expert_feed_forward_length", 0, MAX_WIDTH, layers)?;
    let gating = match keys.metadata.u32(&keys.name("expert_gating_func"))?.unwrap_or(1) {
        0 | 1 => Gating::Softmax,
        2 => Gating::Sigmoid,
        3 => Gating::SoftmaxOfChosen,
        other => {
            return Err(Error::unsupported_model(format!("experts' gating {other} is not supported")));
        }
    };
    let said = keys.metadata.bool(&keys.name("expert_weights_norm"))?;
    let normalized = said.unwrap_or(family.experts_normalized);
    let scale = keys.positive("expert_weights_scale")?.unwrap_or(1.0);
    let experts = |index: usize| {
        let width = widths.as_ref().map_or(feed_forward[index], |widths| widths[index]);
        match width {
            0 => Err(Error::corrupt_model(format!("experts of layer {index} have no width"))),
            width => Ok(ExpertConfig { count, chosen, width, gating, normalized, scale }),
        }
    };
    (0..layers).map(|index| has(index).then(|| experts(index)).transpose()).collect()
}

/// Longest convolution.
const MAX_TAPS: u32 = 16;
/// Most numbers of a layer that a sequence's state has.
const MAX_STATE: usize = 1 << 28;

/// How each layer brings tokens together.
fn mixers(keys: &Keys, family: &Family, heads: &[Heads], feed_forward: &[usize]) -> Result<Vec<Mixer>> {
    let layers = heads.len();
    let attends = |index: usize| heads[index].kv > 0;
    let recurrent = match family.recurrence {
        Recurrence::None => return Ok(vec![Mixer::Attention; layers]),
        Recurrence::Convolution => Mixer::Convolution { taps: taps(keys, "shortconv.l_cache")? },
        Recurrence::Delta => {
            let taps = taps(keys, "ssm.conv_kernel")?;
            let size = keys.required("ssm.state_size", MAX_WIDTH)?;
            let [key, value] = [
                keys.required("ssm.group_count", MAX_WIDTH)?,
                keys.required("ssm.time_step_rank", MAX_WIDTH)?,
            ];
            let inner = keys.required("ssm.inner_size", MAX_WIDTH)?;
            if !value.is_multiple_of(key) || value.saturating_mul(size) != inner {
                return Err(Error::corrupt_model(format!(
                    "{value} heads of {size} for {key} keys do not make {inner}"
                )));
            }
            Mixer::Delta { taps, heads: DeltaHeads { key, value, size } }
        }
        Recurrence::Scan | Recurrence::ScanAlone => {
            let taps = taps(keys, "ssm.conv_kernel")?;
            let inner = keys.required("ssm.inner_size", MAX_WIDTH)?;
            let count = keys.required("ssm.time_step_rank", MAX_WIDTH)?;
            let groups = keys.size("ssm.group_count", MAX_WIDTH)?.unwrap_or(1);
            if !inner.is_multiple_of(count) || !count.is_multiple_of(groups) {
                return Err(Error::corrupt_model(format!(
                    "{inner} numbers cannot be {count} heads in {groups} groups"
                )));
            }
            let state = keys.required("ssm.state_size", MAX_WIDTH)?;
            Mixer::Scan { taps, heads: ScanHeads { count, size: inner / count, groups, state } }
        }
    };
    let width = recurrent.state(0).into_iter().max().unwrap_or(0);
    let too_wide = match recurrent {
        Mixer::Delta { heads, .. } => heads.width() > MAX_WIDTH as usize,
        Mixer::Scan { heads, .. } => heads.width() > MAX_WIDTH as usize,
        _ => false,
    };
    if width > MAX_STATE || too_wide {
        return Err(Error::corrupt_model(format!("a layer's state of {width} numbers is too large")));
    }
    let attends_by_interval = attending(keys, layers)?;
    let mixer = |index: usize| match family.recurrence {
        Recurrence::Delta if attends_by_interval[index] => Mixer::Attention,
        Recurrence::Delta => recurrent,
        _ if attends(index) => Mixer::Attention,
        Recurrence::ScanAlone if feed_forward[index] > 0 => Mixer::None,
        _ => recurrent,
    };
    let mixers: Vec<Mixer> = (0..layers).map(mixer).collect();
    if mixers.iter().zip(heads).any(|(mixer, heads)| *mixer == Mixer::Attention && heads.kv == 0) {
        return Err(Error::corrupt_model("a layer that attends has no heads"));
    }
    Ok(mixers)
}

fn taps(keys: &Keys, key: &str) -> Result<usize> {
    let taps = keys.required(key, MAX_TAPS)?;
    match taps {
        1 => Err(Error::corrupt_model(format!("metadata {} is 1; it must be at least 2", keys.name(key)))),
        taps => Ok(taps),
    }
}

/// Which layers attend, where others follow the delta rule.
fn attending(keys: &Keys, layers: usize) -> Result<Vec<bool>> {
    let name = keys.name("attention.recurrent_layers");
    if let Some(len) = keys.metadata.array_len(&name) {
        check_layers(&name, len, layers)?;
        let recurrent = keys.metadata.integers(&name)?.unwrap_or_default();
        return Ok(recurrent.into_iter().map(|recurrent| recurrent == 0).collect());
    }
    let period = keys.size("full_attention_interval", MAX_LAYERS)?.unwrap_or(4);
    Ok((1..=layers).map(|layer| layer.is_multiple_of(period)).collect())
}

/// Factors of what goes along the stream.
struct Scales {
    embedding: f32,
    residual: f32,
    logit: f32,
}

impl Scales {
    fn read(keys: &Keys, family: &Family, layers: usize, embedding: usize) -> Result<Scales> {
        let d = embedding as f32;
        let [of_embedding, of_residual, of_logit] = match family.minicpm_scales {
            true => [12.0, 1.4 / (layers as f32).sqrt(), d / 256.0],
            false => [if family.root_scale { d.sqrt() } else { 1.0 }, 1.0, 1.0],
        };
        let logit = keys.positive("logit_scale")?.unwrap_or(of_logit);
        Ok(Scales {
            embedding: keys.positive("embedding_scale")?.unwrap_or(of_embedding),
            residual: keys.positive("residual_scale")?.unwrap_or(of_residual),
            logit: match family.logit_scale {
                LogitScale::Divides => 1.0 / logit,
                LogitScale::Multiplies => logit,
            },
        })
    }
}

/// Gemma's largest models scale queries by the width a head has in the stream, the others by its own.
fn query_scale_width(family: &Family, layers: usize, embedding: usize, heads: Heads) -> usize {
    match (family.name, layers) {
        ("gemma2", 46) | ("gemma3", 62) => embedding / heads.query,
        _ => heads.size,
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
    fn read(keys: &Keys, family: &Family, layers: usize) -> Result<Option<Sliding>> {
        let name = keys.name("attention.sliding_window");
        let window = keys.metadata.u32(&name)?.unwrap_or(0) as usize;
        if window == 0 {
            return Ok(None);
        }
        let name = keys.name("attention.sliding_window_pattern");
        let sees_all = match keys.metadata.array_len(&name) {
            None => {
                let period = keys.metadata.u32(&name)?.map(|period| period as usize);
                SeesAll::Every(period.unwrap_or(family.sliding_period))
            }
            Some(len) => {
                check_layers(&name, len, layers)?;
                let slides = keys.metadata.integers(&name)?.unwrap_or_default();
                SeesAll::Layers(slides.into_iter().map(|slides| slides == 0).collect())
            }
        };
        let rotation = match family.sliding_rope {
            SlidingRope::Same => Rotation::Scaled,
            SlidingRope::Unscaled => {
                Rotation::Unscaled(keys.positive("rope.freq_base")?.unwrap_or(family.rope_base))
            }
            SlidingRope::Base(base) => {
                Rotation::Unscaled(keys.positive("rope.freq_base_swa")?.unwrap_or(base))
            }
        };
        Ok(Some(Sliding { window, sees_all, rotation }))
    }
}
