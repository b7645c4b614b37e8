//! `candlewick chat`: a conversation in the terminal.

use super::answer::{Candidates, WithoutTemplate, answer};
use super::arguments::{ChatArguments, Common};
use super::output::{print_error, say};
use super::session::SessionFile;
use super::{Failure, Outcome};
use crate::openai::{Endpoint, Ran};
use crate::router::Provider;
use crate::{Error, Result, chat};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::Value;
use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const HELP: &str = "\
Type a message and press Enter. A line that ends with \\ goes on in the next one.
/clear   begin a new conversation
/retry   answer the last message again
/exit    leave (as Ctrl-D does)
Ctrl-C stops an answer.";

pub(super) async fn chat(arguments: &ChatArguments, common: &Common) -> Outcome {
    let body = arguments.answer.body()?;
    let Candidates { router, here, .. } =
        Candidates::new(&arguments.model, &arguments.fallbacks, common, WithoutTemplate::Refuses)?;
    let (first, reason) = router.open().await?;
    let session = SessionFile::open(arguments.session.as_deref(), &here, common).await?;
    if !router.prefers_active() {
        say!("{} answers, because of {reason}", first.model());
    }
    // The editor sets a handler too: ours must come after.
    let mut editor = DefaultEditor::new().map_err(terminal_failed)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stop_on_signal = stop.clone();
    ctrlc::set_handler(move || stop_on_signal.store(true, Ordering::Relaxed))
        .map_err(|error| Error::internal(format!("cannot handle Ctrl-C: {error}")))?;
    if !common.quiet {
        say!("{}. /help says what you can do.", described(first.as_ref()));
    }

    let opening: Vec<Value> = arguments.system.iter().map(|system| chat::message("system", system)).collect();
    let mut messages = session.messages.clone().unwrap_or_else(|| opening.clone());
    while let Some(line) = read_message(&mut editor)? {
        let before = messages.clone();
        match line.trim() {
            "" => continue,
            "/help" => {
                say!("{HELP}");
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
                    say!("There is nothing to answer yet.");
                    continue;
                }
            }
            command if command.starts_with('/') && !command.contains(' ') => {
                say!("There is no {command}.\n{HELP}");
                continue;
            }
            text => messages.push(chat::message("user", text)),
        }
        stop.store(false, Ordering::Relaxed);
        let mut request = body.clone();
        request.insert("messages".into(), messages.clone().into());
        match answer(&router, Endpoint::Chat, request, true, common, Some(&*stop)).await {
            Ok(answer) => {
                writeln!(std::io::stdout())?;
                messages.push(chat::message("assistant", answer.text()));
            }
            Err(Failure::Error(error)) => {
                // The conversation stays as it was, so that another try is possible.
                print_error(&error);
                messages = before;
            }
            Err(no_output) => return Err(no_output),
        }
    }
    session.save(messages).await?;
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
            Err(ReadlineError::Interrupted) => say!("Ctrl-D or /exit leaves."),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                print_error(&Error::invalid_argument("that line is not valid UTF-8 text, and was left out"));
                message.clear();
            }
            Err(error) => return Err(terminal_failed(error)),
        }
    }
}

/// Who will answer, if nothing happens.
fn described(model: &dyn Provider) -> String {
    match model.ran() {
        Ran::Local => format!("{} on the {}", model.model(), model.provider()),
        Ran::Remote => format!("{}, hosted by {}", model.model(), model.provider()),
    }
}

fn terminal_failed(error: ReadlineError) -> Error {
    Error::internal(format!("the terminal failed: {error}"))
}
