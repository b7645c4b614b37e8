//! What a model would need and how fast it would be, known before its weights are.

use super::device::{self, Device};
use super::{context_size, info};
use crate::Result;
use crate::backend::seconds_a_token;
use crate::model::gguf::Header;
use crate::model::{Config, Decoder};
use crate::store::Source;
use serde::Serialize;

/// Of the free memory, what can be had without others having to give way.
const COMFORTABLE: f64 = 0.8;

/// Whether a model can run here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// With room to spare.
    Fits,
    /// Nothing else may want much.
    Tight,
    /// No.
    DoesNotFit,
    /// The device does not say what it has.
    Unknown,
}

/// Of one device.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// `cpu` or `gpu`.
    pub device: &'static str,
    /// Tokens that the numbers are for.
    pub context: usize,
    /// Bytes of all tensors.
    pub weights: u64,
    /// Bytes of keys and values.
    pub kv_cache: u64,
    /// Bytes of everything else, about: activations, logits, pieces of the file while it loads.
    pub working: u64,
    /// Bytes, together.
    pub total: u64,
    /// Bytes that are free now, where the system says so.
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

/// What the model in `source` would be on `device`. An error says why the device cannot be used at all.
pub async fn estimate(
    source: &dyn Source,
    header: &Header,
    config: &Config,
    context: Option<usize>,
    device: Device,
) -> Result<Estimate> {
    let context = context_size(context, config.trained_context)?;
    let info::Memory { weights, kv_cache } = info::Memory::of(header, config, context);
    let mut backend = device::bare(device).await?;
    let needs = Decoder::needs(source, header, config, context).await?;
    let numbers = backend.prefill_rows() as u64 * 10 * config.embedding as u64 + 2 * config.vocabulary as u64;
    let working = numbers * size_of::<f32>() as u64 + (32 << 20);
    let total = weights.saturating_add(kv_cache).saturating_add(working);
    let available = if backend.gpu().is_some() { None } else { available_memory() };
    let refused = backend.expect(&needs).await.err();
    let verdict = match available {
        _ if refused.is_some() => Verdict::DoesNotFit,
        None => Verdict::Unknown,
        Some(free) if total as f64 <= free as f64 * COMFORTABLE => Verdict::Fits,
        Some(free) if total <= free => Verdict::Tight,
        Some(_) => Verdict::DoesNotFit,
    };
    let predicted_per_second = match verdict {
        Verdict::DoesNotFit => None,
        _ => {
            backend.loaded().await?;
            Some(1.0 / seconds_a_token(backend.as_mut(), &needs).await?.max(1e-9))
        }
    };
    let device = backend.device();
    let reason = refused.map(|error| error.message);
    Ok(Estimate {
        device,
        context,
        weights,
        kv_cache,
        working,
        total,
        available,
        verdict,
        reason,
        predicted_per_second,
    })
}

/// Bytes that programs can have without swapping.
#[cfg(target_os = "linux")]
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(not(target_os = "linux"))]
fn available_memory() -> Option<u64> {
    None
}
