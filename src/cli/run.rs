//! `candlewick run`: one prompt, one answer.

use super::answer::{Candidates, WithoutTemplate, answer};
use super::arguments::{Common, RunArguments};
use super::output::stdout;
use super::session::SessionFile;
use super::{Outcome, read_stdin, read_text};
use crate::chat;
use crate::openai::{Endpoint, Ran};
use serde_json::Value;
use std::io::Write;

pub(super) async fn run(arguments: &RunArguments, common: &Common) -> Outcome {
    let mut body = arguments.answer.body()?;
    let text = match (&arguments.prompt, &arguments.file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => read_stdin()?,
    };
    let models = Candidates::new(&arguments.model, &arguments.fallbacks, common, WithoutTemplate::Continues)?;
    let session = match &arguments.session {
        Some(path) => {
            models.router.open().await?;
            SessionFile::open(Some(path), &models.here, common).await?
        }
        None => SessionFile::default(),
    };
    let mut messages = Vec::new();
    let endpoint = if arguments.raw {
        body.insert("prompt".into(), text.into());
        Endpoint::Completions
    } else {
        let system = arguments.system.iter().map(|system| chat::message("system", system));
        messages = session.messages.clone().unwrap_or_else(|| system.collect());
        messages.push(chat::message("user", &text));
        body.insert("messages".into(), messages.clone().into());
        Endpoint::Chat
    };
    let seed = body.get("seed").cloned();
    let answer = answer(&models.router, endpoint, body, !arguments.json, common, None).await?;
    messages.push(chat::message("assistant", answer.text()));
    session.save(messages).await?;
    let mut stdout = stdout();
    if arguments.json {
        let origin = answer.origin();
        let here = origin.filter(|origin| origin.ran == Ran::Local);
        let mut object = serde_json::json!({
            "text": answer.text(),
            "tokens": here.map(|_| answer.tokens()),
            "finish_reason": answer.finish_reason(),
            "usage": answer.usage(),
            "timings": answer.timings(),
            "seed": origin.and_then(|origin| origin.seed).map(Value::from).or(seed),
            "device": here.map_or("remote", |origin| origin.provider.as_str()),
        });
        if !models.alone {
            object["candlewick"] = serde_json::to_value(origin).map_err(crate::Error::internal)?;
        }
        writeln!(stdout, "{object}")?;
    } else if stdout.is_terminal() {
        writeln!(stdout)?;
    }
    Ok(())
}
