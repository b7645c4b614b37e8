//! A look at a model before it is loaded, or fetched: its header, and a short measurement of the devices.

use super::context::{self, Granted};
use super::device::{self, Device};
use super::estimate::estimate;
use super::info::{model_name, parameters, quantization};
use super::{Estimate, Language, Options, Verdict, check_threads};
use crate::backend::cpu::Cpu;
use crate::format::gguf::Header;
use crate::model::Config;
use crate::store::Source;
use crate::{Error, Result};
use serde::Serialize;

/// What a model is, and what it needs and would be on this machine. No more of the file than its header is read.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "FileInspection"))]
pub struct Inspection {
    /// The model's own name, or the file's.
    pub name: String,
    /// As in the file: `llama`.
    pub architecture: Option<String>,
    /// Weights, in numbers.
    pub parameters: u64,
    /// The type that holds most of them: `Q4_K`.
    pub quantization: &'static str,
    /// The file's name; of a split model the first one's.
    pub file: String,
    /// Bytes of all its files.
    pub file_size: u64,
    /// How many there are.
    pub tensors: usize,
    /// Tokens of context that a load makes room for, on the device that has the verdict.
    pub context_length: Option<usize>,
    /// Why these are fewer than the maximum that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, ts(optional))]
    pub context_note: Option<String>,
    /// Tokens that the model was trained for.
    pub trained_context_length: Option<u32>,
    /// Width of the residual stream.
    pub embedding_length: Option<u32>,
    /// Decoder layers.
    pub layers: Option<u32>,
    /// Tokens.
    pub vocabulary_size: usize,
    /// `model`, or `named:…`; nothing for models that only continue text.
    pub chat_template: Option<String>,
    /// Why the file cannot be run at all, where it cannot; then the verdict is "does not fit".
    pub unsupported: Option<String>,
    /// What in the file is wrong, and is passed over.
    pub warnings: Vec<String>,
    /// The best of the devices' verdicts.
    pub verdict: Verdict,
    /// The device that has it, the fastest of those: `cpu` or `gpu`.
    #[cfg_attr(test, ts(type = "\"cpu\" | \"gpu\" | null"))]
    pub device: Option<&'static str>,
    /// Tokens a second of an answer there, at most.
    pub predicted_per_second: Option<f64>,
    /// What it needs, on each device that was asked for and is here.
    pub devices: Vec<Estimate>,
}

/// Looks at the model in `source`. What `options` say of device, context, threads and GPU counts as in a load.
pub async fn inspect(source: &dyn Source, options: &Options) -> Result<Inspection> {
    check_threads(options.threads)?;
    let header = Header::read(source).await?;
    let metadata = &header.metadata;
    let architecture = metadata.text("general.architecture")?;
    let number = |key: &str| metadata.u32(&format!("{}.{key}", architecture.as_deref().unwrap_or_default()));
    let config = match header.tensors.is_empty() {
        true => Err(Error::unsupported_model("it holds a vocabulary without a model")),
        false => Config::read(source, &header),
    };
    let language = Language::from_header(&header);
    let (mut devices, mut context) = (Vec::new(), None);
    if let (Ok(config), Ok(_)) = (&config, &language) {
        let wanted = context::wanted(options, config)?;
        devices = estimates(source, &header, config, wanted, options).await?;
        let tokens = best(&devices).map_or(wanted, |best| best.context_length);
        context = Some(Granted::new(options, config, tokens));
    }
    let best = best(&devices);
    Ok(Inspection {
        name: model_name(&header)?.unwrap_or_else(|| source.name().to_owned()),
        architecture: architecture.as_deref().map(str::to_owned),
        parameters: parameters(&header),
        quantization: quantization(&header),
        file: source.name().to_owned(),
        file_size: source.len(),
        tensors: header.tensors.len(),
        context_length: context.as_ref().map(|context| context.tokens),
        context_note: context.and_then(|context| context.note),
        trained_context_length: number("context_length")?,
        embedding_length: number("embedding_length")?,
        layers: number("block_count")?,
        vocabulary_size: metadata.array_len("tokenizer.ggml.tokens").unwrap_or(0),
        chat_template: language
            .as_ref()
            .ok()
            .and_then(|language| language.template.as_ref().map(|template| template.name().to_owned())),
        warnings: language.as_ref().map_or_else(|_| Vec::new(), |it| it.tokenizer.warnings().to_vec()),
        unsupported: config.err().or(language.err()).map(|error| error.message),
        verdict: best.map_or(Verdict::DoesNotFit, |best| best.verdict),
        device: best.map(|best| best.device),
        predicted_per_second: best.and_then(|best| best.predicted_per_second),
        devices,
    })
}

/// On the devices that were asked for, as far as they are here.
async fn estimates(
    source: &dyn Source,
    header: &Header,
    config: &Config,
    wanted: usize,
    options: &Options,
) -> Result<Vec<Estimate>> {
    let mut estimates = Vec::new();
    let is_encoder = config.family.encoder;
    if is_encoder {
        device::of_encoders(options.device)?;
    }
    if options.device != Device::Gpu {
        let cpu = Box::new(Cpu::with_threads(options.threads));
        let context = match is_encoder {
            true => wanted,
            false => context::fitting(options, header, config, wanted, false),
        };
        estimates.push(estimate(source, header, config, context, cpu).await?);
    }
    if options.device != Device::Cpu && !is_encoder {
        match of_gpu(source, header, config, wanted, options).await {
            Ok(estimate) => estimates.push(estimate),
            // That there is no GPU is an answer too, unless it was asked for.
            Err(error) if options.device == Device::Gpu => return Err(error),
            Err(_) => {}
        }
    }
    Ok(estimates)
}

/// With the context that a load would come to.
async fn of_gpu(
    source: &dyn Source,
    header: &Header,
    config: &Config,
    wanted: usize,
    options: &Options,
) -> Result<Estimate> {
    let mut context = context::fitting(options, header, config, wanted, true);
    loop {
        let estimate = estimate(source, header, config, context, device::bare_gpu(options).await?).await?;
        let refused = estimate.reason.as_ref().map(Error::resource_exhausted);
        let less = |error| context::smaller(options, header, config, context, &error);
        match refused.and_then(less) {
            Some(less) => context = less,
            None => return Ok(estimate),
        }
    }
}

/// The one with the best verdict; among equals the fastest.
fn best(devices: &[Estimate]) -> Option<&Estimate> {
    let rank = |estimate: &Estimate| match estimate.verdict {
        Verdict::Fits => 3,
        Verdict::Tight => 2,
        Verdict::Unknown => 1,
        Verdict::DoesNotFit => 0,
    };
    devices.iter().max_by(|a, b| {
        let speeds = [a, b].map(|estimate| estimate.predicted_per_second.unwrap_or(0.0));
        rank(a).cmp(&rank(b)).then(speeds[0].total_cmp(&speeds[1]))
    })
}
