//! `candlewick chat`: a conversation in the terminal.

use super::arguments::{ChatArguments, Common};
use super::run::report;
use super::{Outcome, load};
use crate::chat::{self, Conversation};
use crate::engine::{Engine, Event, Prompt, Settings};
use crate::{Error, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::Value;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const HELP: &str = "\
Type a message and press Enter. A line that ends with \\ goes on in the next one.
/clear   begin a new conversation
/retry   answer the last message again
/exit    leave (as Ctrl-D does)
Ctrl-C stops an answer.";

pub async fn chat(arguments: &ChatArguments, common: &Common) -> Outcome {
    let engine = load(&arguments.model, common).await?;
    if engine.language().template.is_none() {
        return Err(Error::invalid_argument(
            "this model has no chat template: it continues text. Use `candlewick run MODEL -p TEXT`",
        )
        .into());
    }
    let settings = arguments.answer.settings();
    settings.sampling.validate()?;
    let stop = Arc::new(AtomicBool::new(false));
    let stop_on_signal = stop.clone();
    ctrlc::set_handler(move || stop_on_signal.store(true, Ordering::Relaxed))
        .map_err(|error| Error::internal(format!("cannot handle Ctrl-C: {error}")))?;
    let mut editor = DefaultEditor::new().map_err(terminal_failed)?;
    if !common.quiet {
        eprintln!("{} on the {}. /help says what you can do.", engine.info().name, engine.info().device);
    }

    let opening: Vec<Value> = arguments.system.iter().map(|system| chat::message("system", system)).collect();
    let mut messages = opening.clone();
    while let Some(line) = read_message(&mut editor)? {
        match line.trim() {
            "" => continue,
            "/help" => {
                eprintln!("{HELP}");
                continue;
            }
            "/exit" | "/quit" => break,
            "/clear" => {
                messages.clone_from(&opening);
                continue;
            }
            "/retry" => {
                messages.pop_if(|last| last["role"] == "assistant");
                if messages.len() == opening.len() {
                    eprintln!("There is nothing to answer yet.");
                    continue;
                }
            }
            command if command.starts_with('/') && !command.contains(' ') => {
                eprintln!("There is no {command}.\n{HELP}");
                continue;
            }
            text => messages.push(chat::message("user", text)),
        }
        stop.store(false, Ordering::Relaxed);
        match answer(&engine, &messages, settings.clone(), &stop, common.verbose).await {
            Ok(text) => messages.push(chat::message("assistant", &text)),
            Err(error) => {
                // The conversation stays as it was, so that another try is possible.
                super::print_error(&error);
                messages.pop();
            }
        }
    }
    Ok(())
}

/// One message; `None` at the end of the input.
fn read_message(editor: &mut DefaultEditor) -> Result<Option<String>> {
    let mut message = String::new();
    loop {
        match editor.readline(if message.is_empty() { "> " } else { "… " }) {
            Ok(line) => match line.strip_suffix('\\') {
                Some(line) => message = message + line + "\n",
                None => {
                    message += &line;
                    // A history that cannot be kept is no reason to stop.
                    let _ = editor.add_history_entry(&message);
                    return Ok(Some(message));
                }
            },
            // Ctrl-C throws away what was typed.
            Err(ReadlineError::Interrupted) if !message.is_empty() => message.clear(),
            Err(ReadlineError::Interrupted) => eprintln!("Ctrl-D or /exit leaves."),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(terminal_failed(error)),
        }
    }
}

/// Prints an answer as it comes; what there is of it when `stop` is set.
async fn answer(
    engine: &Engine,
    messages: &[Value],
    settings: Settings,
    stop: &AtomicBool,
    verbose: bool,
) -> Result<String> {
    let prompt = Prompt::Chat(Conversation::new(messages.to_vec()));
    let mut generation = engine.generate(prompt, settings).await?;
    let mut whole = String::new();
    while !stop.load(Ordering::Relaxed) {
        match generation.next().await? {
            None => break,
            Some(Event::Prompt { .. }) => {}
            Some(Event::Token { text, .. } | Event::Finish { text, .. }) => {
                print!("{text}");
                // A terminal that is gone ends the next read.
                let _ = std::io::stdout().flush();
                whole += &text;
            }
        }
    }
    println!();
    if verbose {
        report(&generation);
    }
    Ok(whole)
}

fn terminal_failed(error: ReadlineError) -> Error {
    Error::internal(format!("the terminal failed: {error}"))
}
