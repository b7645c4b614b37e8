//! `embed`: texts as vectors.

use super::arguments::{Common, EmbedArguments};
use super::output::stdout;
use super::{Outcome, load, read_stdin, read_text};
use crate::engine::{Document, EmbeddingSettings};
use crate::{Code, Error};
use serde_json::json;
use std::io::Write;

pub(super) async fn embed(arguments: &EmbedArguments, common: &Common) -> Outcome {
    let texts = match (&arguments.texts[..], &arguments.file) {
        ([], Some(file)) => lines(&read_text(file)?),
        ([], None) => lines(&read_stdin()?),
        (texts, _) => texts.to_vec(),
    };
    if texts.is_empty() {
        return Err(Error::invalid_argument("there is no text to embed").into());
    }
    let engine = load(&arguments.model, common).await?;
    engine.check_encoder()?;
    let settings = EmbeddingSettings { truncate: arguments.truncate, dimensions: arguments.dimensions };
    let mut stdout = stdout();
    let (mut entries, mut failures) = (Vec::new(), Vec::new());
    let documents: Vec<Document> = texts.into_iter().map(Document::Text).collect();
    for (index, embedded) in engine.embed_all(&documents, settings).await?.into_iter().enumerate() {
        // One that fails does not fail the rest.
        match embedded {
            Ok(embedding) if arguments.json => {
                entries.push(json!({ "embedding": embedding.vector, "tokens": embedding.tokens }));
            }
            Ok(embedding) => {
                let numbers: Vec<String> = embedding.vector.iter().map(f32::to_string).collect();
                writeln!(stdout, "{}", numbers.join(" "))?;
            }
            // It is the model that is wrong, and would be with each of them.
            Err(error) if !matches!(error.code, Code::InvalidArgument | Code::ContextLengthExceeded) => {
                return Err(error.context(&engine.info().name).into());
            }
            Err(error) => {
                entries.push(json!({ "code": error.code.as_str(), "message": error.message }));
                failures.push((index, error));
                if !arguments.json {
                    // Its line stays empty, so that the others keep their places.
                    writeln!(stdout)?;
                }
            }
        }
    }
    if arguments.json {
        writeln!(stdout, "{}", json!({ "model": engine.info().name, "embeddings": entries }))?;
    }
    stdout.flush()?;
    let count = failures.len();
    match failures.into_iter().next() {
        None => Ok(()),
        Some((index, error)) => {
            let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
            Err(error.context(format!("text {}{more}", index + 1)).into())
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}
