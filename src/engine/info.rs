//! What was loaded, for people and for the faces.

use super::Language;
use super::context::Granted;
use crate::Result;
use crate::backend::op::Heads;
use crate::backend::{Backend, GpuInfo, Shape};
use crate::format::gguf::{Header, TensorInfo, TensorType};
use crate::model::Config;
use crate::store::Source;
use serde::Serialize;
use std::collections::BTreeMap;

/// A model and where it runs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "ModelInfo", optional_fields))]
pub struct Info {
    /// The model's own name, or the file's.
    pub name: String,
    /// As in the file: `llama`.
    pub architecture: String,
    /// Weights, in numbers.
    pub parameters: u64,
    /// The type that holds most of them: `Q4_K`.
    pub quantization: &'static str,
    /// Bytes.
    pub file_size: u64,
    /// Tokens that prompt and answer may take together.
    pub context_length: usize,
    /// Why these are fewer than the maximum that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_note: Option<String>,
    /// Tokens that the model was trained for.
    pub trained_context_length: usize,
    /// Width of the residual stream.
    pub embedding_length: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Tokens.
    pub vocabulary_size: usize,
    /// `model`, or `named:…`; absent for models that only continue text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// `cpu` or `gpu`.
    #[cfg_attr(test, ts(type = "\"cpu\" | \"gpu\""))]
    pub device: &'static str,
    /// Why that one.
    pub device_reason: String,
    /// Threads of the CPU, where that is the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The GPU, where that is the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuInfo>,
    /// How often the model came back after its GPU was lost.
    pub recoveries: usize,
    /// Bytes on the device.
    #[cfg_attr(test, ts(inline))]
    pub memory: Memory,
    /// What in the file is wrong, and was passed over.
    pub warnings: Vec<String>,
}

/// Bytes that a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Memory {
    /// All tensors, as the device has them.
    pub weights: u64,
    /// Keys and values for the whole context.
    pub kv_cache: u64,
}

/// Bytes for what recurrent layers remember of sequences.
pub(super) fn states(config: &Config) -> u64 {
    let numbers = config.state_width().saturating_mul(config.state_slots() as u64);
    numbers.saturating_mul(size_of::<f32>() as u64)
}

impl Memory {
    /// Without a device: as in the file, with a cache of f32.
    pub(super) fn of(
        header: &Header,
        config: &Config,
        context: usize,
        device: Option<&dyn Backend>,
    ) -> Memory {
        let size = |tensor: &TensorInfo| match (device, &tensor.dimensions[..]) {
            (Some(device), &[columns, ref rows @ ..]) if !rows.is_empty() => {
                let kind = tensor.kind;
                let rows = rows.iter().product::<u64>() as usize;
                device.matrix_size(&Shape { rows, columns: columns as usize, kind })
            }
            _ => tensor.size,
        };
        let number = device.map_or(size_of::<f32>() as u64, |device| device.kv_number_size());
        Memory {
            weights: header.tensors.iter().map(size).sum(),
            kv_cache: (config.kv_width().saturating_mul(context as u64).saturating_mul(number))
                .saturating_add(states(config)),
        }
    }
}

impl Info {
    pub(super) fn new(
        source: &dyn Source,
        header: &Header,
        config: &Config,
        language: &Language,
        Granted { tokens: context, note }: Granted,
        backend: &dyn Backend,
        device_reason: String,
    ) -> Result<Info> {
        let most = |number: fn(&Heads) -> usize| {
            config.layers.iter().map(|layer| number(&layer.heads)).max().unwrap_or(0)
        };
        Ok(Info {
            name: model_name(header)?.unwrap_or_else(|| source.name().to_owned()),
            architecture: config.family.name.to_owned(),
            parameters: parameters(header),
            quantization: quantization(header),
            file_size: source.len(),
            context_length: context,
            context_note: note,
            trained_context_length: config.trained_context,
            embedding_length: config.embedding,
            layers: config.layers.len(),
            heads: most(|heads| heads.query),
            kv_heads: most(|heads| heads.kv),
            vocabulary_size: config.vocabulary,
            chat_template: language.template.as_ref().map(|template| template.name().to_owned()),
            device: backend.device(),
            device_reason,
            threads: backend.threads(),
            gpu: backend.gpu(),
            recoveries: 0,
            memory: Memory::of(header, config, context, Some(backend)),
            warnings: language.tokenizer.warnings().to_vec(),
        })
    }

    /// The same model on the device to which it came back.
    pub(super) fn after_recovery(
        &self,
        backend: &dyn Backend,
        device_reason: String,
        memory: Memory,
    ) -> Info {
        Info {
            memory,
            device: backend.device(),
            device_reason,
            gpu: backend.gpu(),
            threads: backend.threads(),
            recoveries: self.recoveries + 1,
            ..self.clone()
        }
    }
}

/// `general.name`, where it says something.
pub(super) fn model_name(header: &Header) -> Result<Option<String>> {
    let name = header.metadata.text("general.name")?.map(|name| name.trim().to_owned());
    Ok(name.filter(|name| !name.is_empty()))
}

/// All the weights there are.
pub(super) fn parameters(header: &Header) -> u64 {
    header.tensors.iter().map(|tensor| tensor.elements()).sum()
}

/// The type that holds most of a model.
pub(super) fn quantization(header: &Header) -> &'static str {
    let mut elements: BTreeMap<TensorType, u64> = BTreeMap::new();
    for tensor in &header.tensors {
        *elements.entry(tensor.kind).or_default() += tensor.elements();
    }
    elements.into_iter().max_by_key(|(_, count)| *count).map_or("none", |(kind, _)| kind.name())
}
