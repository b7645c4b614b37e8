//! Commands that show what is in a model: `logits`, `tokenize`, `render`, `info`.

use super::arguments::{Common, InfoArguments, LogitsArguments, RenderArguments, TokenizeArguments};
use super::output::stdout;
use super::{Outcome, load, models, options, read_header, read_stdin, read_text, warn};
use crate::chat::Conversation;
use crate::engine::{Estimate, Language, Verdict, inspect};
use crate::load::{Inspected, Named};
use crate::openai::ChatRequest;
use crate::store::open_file;
use crate::{Code, Error, Result};
use serde::Serialize;
use serde_json::Value;
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

pub(super) async fn logits(arguments: &LogitsArguments, common: &Common) -> Outcome {
    let engine = load(&arguments.model, common).await?;
    let mut rows = Vec::new();
    let result =
        engine.logits(&arguments.tokens, &mut |_, logits| rows.push(Row::new(logits, arguments.top))).await;
    result.map_err(|mut error| {
        if error.code == Code::ContextLengthExceeded {
            error.message += " (--ctx)";
        }
        error
    })?;
    let mut stdout = stdout();
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

pub(super) async fn tokenize(arguments: &TokenizeArguments, common: &Common) -> Outcome {
    let (source, header) = read_header(&arguments.model, common).await?;
    let tokenizer = crate::text::Tokenizer::from_metadata(&header.metadata)
        .map_err(|error| error.context(source.name()))?;
    warn(tokenizer.warnings(), common);
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
    let mut stdout = stdout();
    if arguments.json {
        writeln!(stdout, "{}", serde_json::json!({ "ids": ids }))?;
    } else {
        for id in ids {
            writeln!(stdout, "{id}\t{:?}", tokenizer.decode(&[id]))?;
        }
    }
    Ok(())
}

pub(super) async fn render(arguments: &RenderArguments, common: &Common) -> Outcome {
    let (source, header) = read_header(&arguments.model, common).await?;
    let language = Language::from_header(&header).map_err(|error| error.context(source.name()))?;
    let messages = read_json(&arguments.messages)?;
    let mut conversation = match messages {
        Value::Array(messages) => Conversation::new(messages),
        request => {
            let request = ChatRequest::try_from(request);
            request.map_err(|error| error.context(arguments.messages.display()))?.conversation
        }
    };
    if let Some(tools) = &arguments.tools {
        let Value::Array(list) = read_json(tools)? else {
            return Err(
                Error::invalid_argument(format!("{} must be a list of tools", tools.display())).into()
            );
        };
        conversation.tools = Some(list);
    }
    conversation.continue_final_message |= arguments.continue_final_message;
    if arguments.no_generation_prompt {
        conversation.add_generation_prompt = Some(false);
    }
    let text = language.render(&conversation)?;
    stdout().write_exact(&text)?;
    Ok(())
}

fn read_json(path: &Path) -> Result<Value> {
    serde_json::from_str(&read_text(path)?)
        .map_err(|error| Error::invalid_argument(format!("{} is not JSON: {error}", path.display())))
}

pub(super) async fn info(arguments: &InfoArguments, common: &Common) -> Outcome {
    let options = options(common)?;
    let (inspection, cached) = match Named::of(&arguments.model, || models::from_environment(common))? {
        Named::File(path) => (inspect(open_file(&path)?.as_ref(), &options).await?, None),
        Named::Elsewhere(spec, models) => {
            let Inspected { inspection, cached } = load::inspect(&models, &spec, &options).await?;
            (inspection, Some(cached))
        }
    };
    let mut value = serde_json::to_value(&inspection).map_err(Error::internal)?;
    let mut stdout = stdout();
    if arguments.json {
        if let Some(cached) = &cached {
            value["cached"] = serde_json::to_value(cached).map_err(Error::internal)?;
        }
        writeln!(stdout, "{value}")?;
        return Ok(());
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::Null | Value::Array(_) => {}
            // Each device says its own below.
            _ if matches!(key.as_str(), "verdict" | "device" | "predictedPerSecond") => {}
            Value::String(text) => writeln!(stdout, "{key:<22} {text}")?,
            value => writeln!(stdout, "{key:<22} {value}")?,
        }
    }
    if let Some(cached) = &cached {
        let state = match cached.stored {
            0 => "no".to_owned(),
            _ if cached.complete => "yes".to_owned(),
            stored => format!("{} % of it", stored * 100 / cached.size.max(1)),
        };
        writeln!(stdout, "{:<22} {state}", "cached")?;
    }
    for warning in &inspection.warnings {
        writeln!(stdout, "{:<22} {warning}", "warning")?;
    }
    for estimate in &inspection.devices {
        writeln!(stdout, "{:<22} {}", estimate.device, verdict(estimate))?;
    }
    Ok(())
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
        estimate.context_length,
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
