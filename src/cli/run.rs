//! `candlewick run`: one prompt, one answer.

use super::arguments::{Common, RunArguments};
use super::output::{LoadBar, say, stdout};
use super::{Outcome, hosted, load, read_stdin, read_text};
use crate::Error;
use crate::chat::{self, Conversation};
use crate::engine::{Event, Generation, Prompt};
use std::io::Write;

pub async fn run(arguments: &RunArguments, common: &Common) -> Outcome {
    let text = match (&arguments.prompt, &arguments.file) {
        (Some(prompt), _) => prompt.clone(),
        (None, Some(file)) => read_text(file)?,
        (None, None) => read_stdin()?,
    };
    if let Some(router) = hosted::router(&arguments.model, &arguments.fallbacks, common)? {
        return hosted::run(&router, text, arguments, common).await;
    }
    let engine = load(&arguments.model, common).await?;
    if arguments.system.is_some() && engine.language().template.is_none() {
        let message = "--system needs a model with a chat template; this one continues text";
        return Err(Error::invalid_argument(message).into());
    }
    let prompt = if arguments.raw || engine.language().template.is_none() {
        Prompt::Text(text)
    } else {
        let system = arguments.system.iter().map(|system| chat::message("system", system));
        Prompt::Chat(Conversation::new(system.chain([chat::message("user", &text)]).collect()))
    };
    let mut generation = engine.generate(prompt, arguments.answer.settings()).await?;

    let mut stdout = stdout();
    let (mut whole, mut tokens, mut finish_reason) = (String::new(), Vec::new(), None);
    let mut recovery = None;
    while let Some(event) = generation.next().await? {
        let piece = match event {
            Event::Recovery(progress) => {
                recovery.get_or_insert_with(|| LoadBar::new(common.quiet)).show(&progress)?;
                continue;
            }
            Event::Prompt { .. } => {
                recovery = None;
                continue;
            }
            Event::Token { token, text, .. } => {
                tokens.push(token);
                text
            }
            Event::Finish { text, token, reason, .. } => {
                tokens.extend(token);
                finish_reason = Some(reason);
                text
            }
        };
        if arguments.json {
            whole += &piece;
        } else {
            stdout.write_all(piece.as_bytes())?;
            stdout.flush()?;
        }
    }
    if arguments.json {
        let timings = generation.timings();
        let answer = serde_json::json!({
            "text": whole,
            "tokens": tokens,
            "finish_reason": finish_reason,
            "usage": generation.usage(),
            "timings": timings,
            "seed": generation.seed(),
            "device": engine.info().device,
        });
        writeln!(stdout, "{answer}")?;
    } else if stdout.is_terminal() {
        writeln!(stdout)?;
    }
    if common.verbose {
        report(&generation);
    }
    Ok(())
}

/// Speeds, on stderr.
pub fn report(generation: &Generation) {
    let timings = generation.timings();
    say!(
        "prompt: {} tokens at {:.1} tokens/s; answer: {} tokens at {:.1} tokens/s; first token after {:.0} ms; seed {}",
        timings.prompt_n,
        timings.prompt_per_second,
        timings.predicted_n,
        timings.predicted_per_second,
        timings.time_to_first_token_ms,
        generation.seed(),
    );
}
