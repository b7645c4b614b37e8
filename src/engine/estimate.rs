//! What a model would need and how fast it would be, known before its weights are.

use super::{Options, context, info};
use crate::backend::{Backend, MOST_SCORED, Room, room, seconds_a_token};
use crate::format::gguf::Header;
use crate::model::{Config, Decoder, Encoder};
use crate::store::Source;
use crate::{Error, Result};
use serde::Serialize;

/// Of the free memory, what can be had without others having to give way.
pub(super) const COMFORTABLE: f64 = 0.8;
/// Tokens that a device works on at once, at most.
pub(super) const MOST_ROWS: usize = 512;

/// Whether a model can run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub enum Verdict {
    /// With room to spare.
    #[serde(rename = "fits")]
    Fits,
    /// Nothing else may want much.
    #[serde(rename = "tight")]
    Tight,
    /// No.
    #[serde(rename = "does not fit")]
    DoesNotFit,
    /// The device does not say what it has.
    #[serde(rename = "unknown")]
    Unknown,
}

/// Of one device.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "DeviceEstimate", optional_fields))]
pub struct Estimate {
    /// `cpu` or `gpu`.
    #[cfg_attr(test, ts(type = "\"cpu\" | \"gpu\""))]
    pub device: &'static str,
    /// Tokens of context that the numbers are for.
    pub context_length: usize,
    /// Bytes of all tensors, as the device has them.
    pub weights: u64,
    /// Bytes of keys and values.
    pub kv_cache: u64,
    /// Bytes of everything else, about: activations, logits, pieces of the file while it loads.
    pub working: u64,
    /// Bytes, together.
    pub total: u64,
    /// Bytes that a model can have, where the system or the browser says so. In a page a guess: three quarters of
    /// `navigator.deviceMemory`, less on phones, and on the CPU at most the 4 GiB of WebAssembly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available: Option<u64>,
    /// Fits, tight, or not.
    pub verdict: Verdict,
    /// Why not, where it is not for memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Tokens a second of an answer, at most: every token reads all weights, at the speed measured with matrices of
    /// the model's main type. Attention over a long context comes on top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_per_second: Option<f64>,
}

/// What the model in `source` would be on a device that holds nothing yet.
pub(super) async fn estimate(
    source: &dyn Source,
    header: &Header,
    config: &Config,
    context: usize,
    mut backend: Box<dyn Backend>,
) -> Result<Estimate> {
    let info::Memory { weights, kv_cache } =
        info::Memory::of(header, config, context, Some(backend.as_ref()));
    let (program, rows) = match config.family.encoder {
        true => (Encoder::program(source, header, config, context).await?, context),
        false => (Decoder::program(source, header, config, context, 1).await?, backend.prefill_rows()),
    };
    let working = working(config, rows);
    let total = weights.saturating_add(kv_cache).saturating_add(working);
    let refused = backend.expect(&program).await.err();
    let room = room(backend.gpu().is_some());
    let verdict = match refused {
        Some(_) => Verdict::DoesNotFit,
        None => verdict(total, room),
    };
    let predicted_per_second = match verdict {
        Verdict::DoesNotFit => None,
        _ => {
            backend.loaded().await?;
            Some(1.0 / seconds_a_token(backend.as_mut(), &program).await?.max(1e-9))
        }
    };
    Ok(Estimate {
        device: backend.device(),
        context_length: context,
        weights,
        kv_cache,
        working,
        total,
        available: room.map(|room| room.bytes),
        verdict,
        reason: refused.map(|error| error.message),
        predicted_per_second,
    })
}

/// Bytes of activations, logits and pieces of the file, about, with so many tokens at once.
pub(super) fn working(config: &Config, rows: usize) -> u64 {
    // Those on the device, and a row that is read.
    let logits = (MOST_SCORED as u64 + 1).saturating_mul(config.vocabulary as u64);
    let numbers = (rows as u64 * 10).saturating_mul(config.embedding as u64).saturating_add(logits);
    numbers.saturating_mul(size_of::<f32>() as u64).saturating_add(32 << 20)
}

fn verdict(total: u64, room: Option<Room>) -> Verdict {
    match room {
        None => Verdict::Unknown,
        Some(Room { bytes, .. }) if total as f64 <= bytes as f64 * COMFORTABLE => Verdict::Fits,
        Some(Room { at_least: true, .. }) => Verdict::Unknown,
        Some(Room { bytes, .. }) if total <= bytes => Verdict::Tight,
        Some(_) => Verdict::DoesNotFit,
    }
}

/// Refuses a model whose weights and KV cache take more bytes than the options allow, as in its file. Reads its header only.
pub async fn fits(source: &dyn Source, options: &Options) -> Result<()> {
    let Some(limit) = options.max_memory else { return Ok(()) };
    let header = Header::read(source).await?;
    let config = Config::read(source, &header)?;
    let context = context::limited(options, &header, &config, context::wanted(options, &config)?);
    let info::Memory { weights, kv_cache } = info::Memory::of(&header, &config, context, None);
    let needed = weights.saturating_add(kv_cache);
    if needed > limit {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        return Err(Error::resource_exhausted(format!(
            "{} needs {:.1} MB, and there may be {:.1} MB for it",
            source.name(),
            megabytes(needed),
            megabytes(limit)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let judge = |total, bytes, at_least| verdict(total, Some(Room { bytes, at_least }));
        assert_eq!(judge(80, 100, false), Verdict::Fits);
        assert_eq!(judge(81, 100, false), Verdict::Tight);
        assert_eq!(judge(101, 100, false), Verdict::DoesNotFit);
        assert_eq!((judge(80, 100, true), judge(81, 100, true)), (Verdict::Fits, Verdict::Unknown));
        assert_eq!(verdict(1, None), Verdict::Unknown);
    }
}
