//! How positions rotate queries and keys: RoPE, and the ways to stretch it over longer contexts.

use super::config::MAX_WIDTH;
use super::family::{Family, Positions};
use super::keys::Keys;
use crate::backend::op::{Rope, RopePairing};
use crate::format::gguf::Header;
use crate::{Error, Result};

/// As a file's metadata have it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RopeConfig {
    pairing: RopePairing,
    /// Elements of a head that are rotated.
    dimensions: usize,
    base: f32,
    scaling: RopeScaling,
    /// For [`RopeScaling::Factors`]; other kinds know their own.
    magnitude: f32,
}

#[derive(Debug, Clone, PartialEq)]
enum RopeScaling {
    None,
    /// Positions are divided.
    Linear {
        factor: f32,
    },
    /// <https://arxiv.org/abs/2309.00071>
    Yarn {
        factor: f32,
        /// Divides the magnitude by what it would be with so much of the factor's logarithm.
        log_multiplier: Option<f32>,
        original_context: f32,
        beta_fast: f32,
        beta_slow: f32,
    },
    /// A divisor a frequency, from tensors: Llama 3's one list, or LongRoPE's two.
    Factors {
        original_context: usize,
        /// The one list.
        one: bool,
    },
}

impl RopeConfig {
    pub(super) fn read(
        keys: &Keys,
        header: &Header,
        family: &Family,
        head_size: usize,
        trained_context: usize,
    ) -> Result<RopeConfig> {
        let dimensions = match family.learns_positions() {
            true => 0,
            false => keys.size("rope.dimension_count", MAX_WIDTH)?.unwrap_or(head_size),
        };
        if dimensions > head_size || !dimensions.is_multiple_of(2) {
            return Err(Error::corrupt_model(format!("cannot rotate {dimensions} of {head_size} elements")));
        }
        Ok(RopeConfig {
            pairing: match family.positions {
                Positions::Rotated(pairing) => pairing,
                Positions::Learned => RopePairing::Halves,
            },
            dimensions,
            base: keys.positive("rope.freq_base")?.unwrap_or(family.rope_base),
            scaling: RopeScaling::read(keys, header, trained_context)?,
            magnitude: keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0),
        })
    }

    /// No rotation.
    pub(super) fn none(&self) -> Rope {
        Rope { pairing: self.pairing, frequencies: Vec::new(), magnitude: 1.0 }
    }

    /// The context of the first training, before that was stretched.
    pub(super) fn original_context(&self, keys: &Keys, trained_context: usize) -> Result<usize> {
        Ok(keys.size("rope.scaling.original_context_length", u32::MAX)?.unwrap_or(trained_context))
    }

    /// The same with another base, and no scaling.
    pub(super) fn unscaled(&self, base: f32) -> RopeConfig {
        RopeConfig { base, scaling: RopeScaling::None, ..self.clone() }
    }

    /// Pairs of elements of a head that are rotated.
    pub(super) fn pairs(&self) -> usize {
        self.dimensions / 2
    }

    /// See [`Config::rope_factors_tensor`](super::Config::rope_factors_tensor).
    pub(super) fn factors_tensor(&self, context: usize) -> Option<&'static str> {
        match self.scaling {
            RopeScaling::Factors { one: true, .. } => Some("rope_freqs.weight"),
            RopeScaling::Factors { original_context, .. } if context > original_context => {
                Some("rope_factors_long.weight")
            }
            RopeScaling::Factors { .. } => Some("rope_factors_short.weight"),
            _ => None,
        }
    }

    /// The rotation; `factors` are the values of [`RopeConfig::factors_tensor`].
    pub(super) fn table(&self, factors: Option<&[f32]>) -> Rope {
        let pairs = self.pairs();
        let frequency = |pair: usize| self.base.powf(-2.0 * pair as f32 / self.dimensions as f32);
        let (frequencies, magnitude) = match self.scaling {
            RopeScaling::None => ((0..pairs).map(frequency).collect(), 1.0),
            RopeScaling::Linear { factor } => {
                ((0..pairs).map(|pair| frequency(pair) / factor).collect(), 1.0)
            }
            RopeScaling::Factors { .. } => {
                let divisor = |pair: usize| factors.map_or(1.0, |factors| factors[pair]);
                ((0..pairs).map(|pair| frequency(pair) / divisor(pair)).collect(), self.magnitude)
            }
            RopeScaling::Yarn { factor, log_multiplier, original_context, beta_fast, beta_slow } => {
                // The pair that turns `turns` times over the original context.
                let pair_of = |turns: f32| {
                    self.dimensions as f32 * (original_context / (turns * std::f32::consts::TAU)).ln()
                        / (2.0 * self.base.ln())
                };
                let low = pair_of(beta_fast).floor().max(0.0);
                let high = pair_of(beta_slow).ceil().min(self.dimensions as f32 - 1.0);
                let blend = |pair: usize| {
                    let ramp = ((pair as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    frequency(pair) * ((1.0 - ramp) + ramp / factor)
                };
                let grown = |multiplier: f32| 1.0 + 0.1 * multiplier * factor.ln();
                let magnitude = grown(1.0) / log_multiplier.map_or(1.0, grown) * self.magnitude;
                ((0..pairs).map(blend).collect(), magnitude)
            }
        };
        Rope { pairing: self.pairing, frequencies, magnitude }
    }
}

impl RopeScaling {
    fn read(keys: &Keys, header: &Header, trained_context: usize) -> Result<RopeScaling> {
        let original_context =
            keys.size("rope.scaling.original_context_length", u32::MAX)?.unwrap_or(trained_context);
        let has = |name: &str| header.tensor(name).is_some();
        let one = has("rope_freqs.weight");
        if one || has("rope_factors_long.weight") || has("rope_factors_short.weight") {
            return Ok(RopeScaling::Factors { original_context, one });
        }
        let factor = match keys.positive("rope.scaling.factor")? {
            Some(factor) => factor,
            // Old files: a divisor of positions.
            None => keys.positive("rope.scale_linear")?.unwrap_or(1.0),
        };
        let name = keys.name("rope.scaling.type");
        match keys.metadata.text(&name)?.as_deref() {
            _ if factor == 1.0 => Ok(RopeScaling::None),
            None | Some("linear") => Ok(RopeScaling::Linear { factor }),
            Some("none" | "longrope") => Ok(RopeScaling::None),
            Some("yarn") => Ok(RopeScaling::Yarn {
                factor,
                log_multiplier: keys.positive("rope.scaling.yarn_log_multiplier")?,
                original_context: original_context as f32,
                beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            }),
            Some(other) => Err(Error::unsupported_model(format!("unknown RoPE scaling \"{other}\""))),
        }
    }
}
