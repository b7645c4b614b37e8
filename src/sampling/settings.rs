//! What a caller can set.

use crate::json::Whole;
use crate::{Error, Result};
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// How tokens are chosen. The defaults draw at temperature 0.7 from all tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// Divides the logits: higher is more random, 0 always takes the most likely token. At least 0.
    pub temperature: f32,
    /// Keep this many of the most likely tokens; 0 keeps all, in JSON -1 too.
    #[serde(deserialize_with = "top_k")]
    pub top_k: u32,
    /// Keep the most likely tokens whose probabilities sum to this, from 0 to 1; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this times as likely as the most likely one, from 0 to 1; 0 keeps all.
    pub min_p: f32,
    /// Keep the tokens of most typical surprise whose probabilities sum to this, from 0 to 1; 1 keeps all.
    pub typical_p: f32,
    /// Divides positive logits of tokens in the window, and multiplies negative ones. Above 0; 1 is off.
    #[serde(alias = "repetition_penalty")]
    pub repeat_penalty: f32,
    /// Length in tokens of the penalties' window over the prompt and answer; −1 is all, 0 none.
    pub repeat_last_n: i32,
    /// Subtracted from the logit of each token in the window; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit for each time it occurs in the window; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of these token ids. In JSON the ids are strings: `{"123": -100}`; or pairs, as llama.cpp
    /// has them: `[[123, -100]]`.
    #[serde(deserialize_with = "biases")]
    pub logit_bias: BTreeMap<u32, f32>,
    /// Of the random draw; `None` takes a random one, as -1 does in JSON. Other negative numbers are 2^64 higher.
    #[serde(deserialize_with = "seed")]
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.7,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: None,
        }
    }
}

impl Sampling {
    /// Fails with `invalid_argument`, naming the first setting that is out of its range, and the range.
    pub fn validate(&self) -> Result<()> {
        let check = |name: &str, value: f32, allowed: bool, range: &str| match allowed && value.is_finite() {
            true => Ok(()),
            false => Err(Error::invalid_argument(format!("{name} must be {range}, not {value}"))),
        };
        let unit = 0.0..=1.0;
        check("temperature", self.temperature, self.temperature >= 0.0, "a number of at least 0")?;
        check("top_p", self.top_p, unit.contains(&self.top_p), "a number from 0 to 1")?;
        check("min_p", self.min_p, unit.contains(&self.min_p), "a number from 0 to 1")?;
        check("typical_p", self.typical_p, unit.contains(&self.typical_p), "a number from 0 to 1")?;
        check("repeat_penalty", self.repeat_penalty, self.repeat_penalty > 0.0, "a number above 0")?;
        check("presence_penalty", self.presence_penalty, true, "a finite number")?;
        check("frequency_penalty", self.frequency_penalty, true, "a finite number")?;
        for (id, &bias) in &self.logit_bias {
            check(&format!("logit_bias of token {id}"), bias, true, "a finite number")?;
        }
        if self.repeat_last_n < -1 {
            let message = format!(
                "repeat_last_n must be -1 (all), 0 (off) or a number of tokens, not {}",
                self.repeat_last_n
            );
            return Err(Error::invalid_argument(message));
        }
        Ok(())
    }

    /// Whether the most likely token is taken as the model has it, untouched by biases and penalties.
    pub fn is_plain_greedy(&self) -> bool {
        self.temperature == 0.0 && self.logit_bias.is_empty() && !self.penalizes()
    }

    /// Whether any penalty is on.
    pub(super) fn penalizes(&self) -> bool {
        self.repeat_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

fn top_k<'de, D: Deserializer<'de>>(value: D) -> Result<u32, D::Error> {
    match Whole::deserialize(value)?.0 {
        -1 => Ok(0),
        k @ 0.. => Ok(u32::try_from(k).unwrap_or(u32::MAX)),
        k => Err(D::Error::custom(format!("must be a number of tokens, or 0 or -1 for all, not {k}"))),
    }
}

fn seed<'de, D: Deserializer<'de>>(value: D) -> Result<Option<u64>, D::Error> {
    let Some(Whole(seed)) = Option::deserialize(value)? else { return Ok(None) };
    match (seed, u64::try_from(seed), i64::try_from(seed)) {
        (-1, ..) => Ok(None),
        (_, Ok(seed), _) => Ok(Some(seed)),
        (.., Ok(seed)) => Ok(Some(seed as u64)),
        _ => Err(D::Error::custom(format!(
            "must be a whole number from {} to {}, or -1 for a random one, not {seed}",
            i64::MIN,
            u64::MAX
        ))),
    }
}

fn biases<'de, D: Deserializer<'de>>(value: D) -> Result<BTreeMap<u32, f32>, D::Error> {
    struct Reads;

    impl<'de> Visitor<'de> for Reads {
        type Value = BTreeMap<u32, f32>;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object with a number for each token id")
        }

        /// Keys are strings in JSON and in JavaScript objects.
        fn visit_map<A: MapAccess<'de>>(self, mut biases: A) -> Result<Self::Value, A::Error> {
            let mut all = BTreeMap::new();
            while let Some(key) = biases.next_key::<String>()? {
                let id = key.trim().parse::<u32>();
                let id = id.map_err(|_| A::Error::custom(format!("{key:?} is not a token id")))?;
                all.insert(id, biases.next_value()?);
            }
            Ok(all)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut pairs: A) -> Result<Self::Value, A::Error> {
            let mut all = BTreeMap::new();
            while let Some(pair) = pairs.next_element::<Vec<f64>>()? {
                let [id, bias] = pair[..] else {
                    return Err(A::Error::custom("must have pairs of a token id and a number"));
                };
                let id = Some(id).filter(|id| id.fract() == 0.0 && (0.0..=u32::MAX.into()).contains(id));
                let id = id.ok_or_else(|| A::Error::custom(format!("{} is not a token id", pair[0])))?;
                all.insert(id as u32, bias as f32);
            }
            Ok(all)
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }
    }
    value.deserialize_any(Reads)
}
