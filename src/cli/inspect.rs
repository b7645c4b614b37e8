//! Commands that show what is in a model: `logits`, `tokenize`, `render`, `info`.

use super::arguments::{Common, InfoArguments, LogitsArguments, RenderArguments, TokenizeArguments};
use super::{Outcome, load, read_header, read_stdin, read_text};
use crate::chat::Conversation;
use crate::engine::{Device, Estimate, Language, Verdict, estimate, model_name, parameters, quantization};
use crate::model::Config;
use crate::model::gguf::Header;
use crate::store::Source;
use crate::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::Path;

#[derive(Debug, Serialize)]
struct Row {
    top: Vec<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<Vec<f32>>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Entry {
    id: u32,
    logit: f32,
}

impl Row {
    fn new(logits: &[f32], top: usize) -> Row {
        if top == 0 {
            return Row { top: Vec::new(), logits: Some(logits.to_vec()) };
        }
        let mut entries: Vec<Entry> = (0..).zip(logits).map(|(id, &logit)| Entry { id, logit }).collect();
        entries.sort_by(|a, b| b.logit.total_cmp(&a.logit));
        entries.truncate(top);
        Row { top: entries, logits: None }
    }
}

pub async fn logits(arguments: &LogitsArguments, common: &Common) -> Outcome {
    let engine = load(&arguments.model, common).await?;
    let mut rows = Vec::new();
    engine.logits(&arguments.tokens, &mut |_, logits| rows.push(Row::new(logits, arguments.top))).await?;
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut stdout, &serde_json::json!({ "rows": rows }))
            .map_err(std::io::Error::from)?;
        writeln!(stdout)?;
        return Ok(());
    }
    let tokenizer = &engine.language().tokenizer;
    for (position, row) in rows.iter().enumerate() {
        write!(stdout, "{position}:")?;
        for entry in &row.top {
            write!(stdout, "  {} {:?} {:.4}", entry.id, tokenizer.decode(&[entry.id]), entry.logit)?;
        }
        for logit in row.logits.iter().flatten() {
            write!(stdout, " {logit}")?;
        }
        writeln!(stdout)?;
    }
    Ok(())
}

pub async fn tokenize(arguments: &TokenizeArguments, common: &Common) -> Outcome {
    let (source, header) = read_header(&arguments.model, common).await?;
    let tokenizer = crate::text::Tokenizer::from_metadata(&header.metadata)
        .map_err(|error| error.context(source.name()))?;
    let text = match (&arguments.text, &arguments.file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => read_stdin()?,
    };
    let ids = if arguments.special {
        tokenizer.encode_with_special(&text, true)?
    } else {
        tokenizer.encode(&text, false)?
    };
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        writeln!(stdout, "{}", serde_json::json!({ "ids": ids }))?;
    } else {
        for id in ids {
            writeln!(stdout, "{id}\t{:?}", tokenizer.decode(&[id]))?;
        }
    }
    Ok(())
}

pub async fn render(arguments: &RenderArguments, common: &Common) -> Outcome {
    let (source, header) = read_header(&arguments.model, common).await?;
    let language = Language::from_header(&header).map_err(|error| error.context(source.name()))?;
    let messages: serde_json::Value = read_json(&arguments.messages)?;
    let mut conversation = match messages {
        serde_json::Value::Array(messages) => Conversation::new(messages),
        request => from_json(&arguments.messages, request)?,
    };
    if let Some(tools) = &arguments.tools {
        conversation.tools = Some(read_json(tools)?);
    }
    conversation.continue_final_message |= arguments.continue_final_message;
    if arguments.no_generation_prompt {
        conversation.add_generation_prompt = Some(false);
    }
    let text = language.render(&conversation)?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let value = serde_json::from_str(&read_text(path)?).map_err(|error| not_json(path, error))?;
    from_json(path, value)
}

fn from_json<T: DeserializeOwned>(path: &Path, value: serde_json::Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| not_json(path, error))
}

fn not_json(path: &Path, error: serde_json::Error) -> Error {
    Error::invalid_argument(format!("{}: {error}", path.display()))
}

/// What the header alone tells.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    name: String,
    architecture: Option<String>,
    parameters: u64,
    quantization: &'static str,
    file_size: u64,
    tensors: usize,
    trained_context_length: Option<u32>,
    embedding_length: Option<u32>,
    layers: Option<u32>,
    vocabulary_size: usize,
    chat_template: Option<String>,
    /// Why the file cannot run here, where it cannot.
    unsupported: Option<String>,
    /// What it needs, on each device that is here.
    devices: Vec<Estimate>,
}

pub async fn info(arguments: &InfoArguments, common: &Common) -> Outcome {
    let (source, header) = read_header(&arguments.model, common).await?;
    let metadata = &header.metadata;
    let architecture = metadata.str("general.architecture")?;
    let number = |key: &str| metadata.u32(&format!("{}.{key}", architecture.unwrap_or_default()));
    let runs = match header.tensors.is_empty() {
        true => Err(Error::unsupported_model("it holds a vocabulary without a model")),
        false => Config::from_header(&header),
    };
    let language = Language::from_header(&header);
    let devices = match (&runs, &language) {
        (Ok(config), Ok(_)) => estimates(source.as_ref(), &header, config, common).await?,
        _ => Vec::new(),
    };
    let summary = Summary {
        name: model_name(&header)?.unwrap_or_else(|| source.name().to_owned()),
        architecture: architecture.map(str::to_owned),
        parameters: parameters(&header),
        quantization: quantization(&header),
        file_size: source.len(),
        tensors: header.tensors.len(),
        trained_context_length: number("context_length")?,
        embedding_length: number("embedding_length")?,
        layers: number("block_count")?,
        vocabulary_size: metadata.array_len("tokenizer.ggml.tokens").unwrap_or(0),
        chat_template: language
            .as_ref()
            .ok()
            .and_then(|language| language.template.as_ref().map(|template| template.name().to_owned())),
        unsupported: runs.err().or(language.err()).map(|error| error.message),
        devices,
    };
    let mut stdout = std::io::stdout().lock();
    let value = serde_json::to_value(&summary).map_err(Error::internal)?;
    if arguments.json {
        writeln!(stdout, "{value}")?;
        return Ok(());
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Null | serde_json::Value::Array(_) => {}
            serde_json::Value::String(text) => writeln!(stdout, "{key:<22} {text}")?,
            value => writeln!(stdout, "{key:<22} {value}")?,
        }
    }
    for estimate in &summary.devices {
        writeln!(stdout, "{:<22} {}", estimate.device, verdict(estimate))?;
    }
    Ok(())
}

/// On the devices that were asked for, as far as they are here.
async fn estimates(
    source: &dyn Source,
    header: &Header,
    config: &Config,
    common: &Common,
) -> Result<Vec<Estimate>> {
    let asked: Device = common.device.parse()?;
    let mut estimates = Vec::new();
    if asked != Device::Gpu {
        estimates.push(estimate(source, header, config, common.ctx, Device::Cpu).await?);
    }
    if asked != Device::Cpu {
        match estimate(source, header, config, common.ctx, Device::Gpu).await {
            Ok(estimate) => estimates.push(estimate),
            // That there is no GPU is an answer too, unless it was asked for.
            Err(error) if asked == Device::Gpu => return Err(error),
            Err(_) => {}
        }
    }
    Ok(estimates)
}

/// `fits: needs 1.2 of 8.0 GB (weights 1.0, context of 4096 tokens 0.1), about 30 tokens/s`
fn verdict(estimate: &Estimate) -> String {
    let gigabytes = |bytes: u64| format!("{:.2}", bytes as f64 / 1e9);
    let verdict = match estimate.verdict {
        Verdict::Fits => "fits: ",
        Verdict::Tight => "tight: ",
        Verdict::DoesNotFit => "does not fit: ",
        Verdict::Unknown => "",
    };
    let available = estimate.available.map_or_else(String::new, |free| format!("of {} ", gigabytes(free)));
    let mut text = format!(
        "{verdict}needs {} {available}GB (weights {}, context of {} tokens {})",
        gigabytes(estimate.total),
        gigabytes(estimate.weights),
        estimate.context,
        gigabytes(estimate.kv_cache),
    );
    if let Some(speed) = estimate.predicted_per_second {
        text += &format!(", at most about {speed:.0} tokens/s");
    }
    if let Some(reason) = &estimate.reason {
        text += &format!("; {reason}");
    }
    text
}
