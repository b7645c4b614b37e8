//! What a model would need and how fast it would be, known before its weights are.

use super::device::{self, Device};
use super::{context_size, info};
use crate::Result;
use crate::backend::{Backend, Linear, Norm};
use crate::model::gguf::{Header, TensorType};
use crate::model::{Config, Decoder};
use serde::Serialize;
use web_time::{Duration, Instant};

/// Edge of the square matrices of the probe; a multiple of every block's length.
const PROBE_EDGE: usize = 2048;
/// Weights of the probe, in bytes: more than caches hold.
const PROBE_SIZE: u64 = 64 << 20;
/// How long the probe measures.
const PROBE_TIME: Duration = Duration::from_millis(200);
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

/// What the model in `header` would be on `device`. An error says why the device cannot be used at all.
pub async fn estimate(
    header: &Header,
    config: &Config,
    context: Option<usize>,
    device: Device,
) -> Result<Estimate> {
    let context = context_size(context, config.trained_context)?;
    let info::Memory { weights, kv_cache } = info::Memory::of(header, config, context);
    let mut backend = device::open(device).await?.backend;
    let numbers = backend.prefill_rows() as u64 * 10 * config.embedding as u64 + 2 * config.vocabulary as u64;
    let working = numbers * size_of::<f32>() as u64 + (32 << 20);
    let total = weights.saturating_add(kv_cache).saturating_add(working);
    let available = if backend.gpu().is_some() { None } else { available_memory() };
    let refused = backend.expect(&Decoder::needs(header, config, context)).await.err();
    let verdict = match available {
        _ if refused.is_some() => Verdict::DoesNotFit,
        None => Verdict::Unknown,
        Some(free) if total as f64 <= free as f64 * COMFORTABLE => Verdict::Fits,
        Some(free) if total <= free => Verdict::Tight,
        Some(_) => Verdict::DoesNotFit,
    };
    let predicted_per_second = match verdict {
        Verdict::DoesNotFit => None,
        _ => Some(bytes_per_second(backend.as_mut(), header).await? / read_a_token(header).max(1) as f64),
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

/// Of the weights, what a token needs: all but a table of embeddings that is not the output as well.
fn read_a_token(header: &Header) -> u64 {
    let untied = header.tensor("output.weight").is_some();
    let read = header.tensors.iter().filter(|tensor| !(untied && tensor.name == "token_embd.weight"));
    read.map(|tensor| tensor.size).sum()
}

/// Multiplies matrices with a vector, as decoding does, for a moment.
async fn bytes_per_second(backend: &mut dyn Backend, header: &Header) -> Result<f64> {
    let kind = info::main_type(header).unwrap_or(TensorType::F32);
    let (block_len, block_size) = kind.block();
    let row = PROBE_EDGE as u64 / block_len * block_size;
    let size = row * PROBE_EDGE as u64;
    let zeros = vec![0; size as usize];
    let norm = Norm::rms(backend.vector(&[1.0; PROBE_EDGE])?, 1e-5);
    let (x, out) = (backend.buffer(1, PROBE_EDGE)?, backend.buffer(1, PROBE_EDGE)?);
    let mut matrices = Vec::new();
    for _ in 0..PROBE_SIZE.div_ceil(size) {
        let weight = backend.matrix(PROBE_EDGE, PROBE_EDGE, kind)?;
        backend.write_rows(weight, 0, &zeros)?;
        matrices.push(Linear { weight, bias: None });
    }
    let mut fastest = f64::INFINITY;
    let start = Instant::now();
    // The first round warms up; the fastest one is the least disturbed.
    for round in 0.. {
        let begin = Instant::now();
        for &linear in &matrices {
            backend.project(1, x, &norm, &[(linear, out)])?;
        }
        backend.wait().await?;
        if round > 0 {
            fastest = fastest.min(begin.elapsed().as_secs_f64());
        }
        if round > 1 && start.elapsed() > PROBE_TIME {
            break;
        }
    }
    Ok((size * matrices.len() as u64) as f64 / fastest.max(1e-9))
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
