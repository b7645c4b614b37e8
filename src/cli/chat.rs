//! `candlewick chat`: a conversation in the terminal.

use super::arguments::{ChatArguments, Common};
use super::output::{LoadBar, print_error, say, stdout};
use super::run::report;
use super::{Failure, Outcome, hosted, load};
use crate::chat::{self, Conversation};
use crate::engine::{Engine, Event, Prompt, Settings};
use crate::openai::{Endpoint, Ran};
use crate::router::{Provider, Router};
use crate::{Error, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Map, Value};
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const HELP: &str = "\
Type a message and press Enter. A line that ends with \\ goes on in the next one.
/clear   begin a new conversation
/retry   answer the last message again
/exit    leave (as Ctrl-D does)
Ctrl-C stops an answer.";

pub async fn chat(arguments: &ChatArguments, common: &Common) -> Outcome {
    let settings = arguments.answer.settings();
    settings.sampling.validate()?;
    let partner = match hosted::router(&arguments.model, &arguments.fallbacks, common)? {
        Some(router) => Partner::routed(router, arguments.answer.body()).await?,
        None => Partner::Local(load(&arguments.model, common).await?, settings),
    };
    if let Partner::Local(engine, _) = &partner
        && engine.language().template.is_none()
    {
        return Err(Error::invalid_argument(
            "this model has no chat template: it continues text. Use `candlewick run MODEL -p TEXT`",
        )
        .into());
    }
    // The editor sets a handler too: ours must come after.
    let mut editor = DefaultEditor::new().map_err(terminal_failed)?;
    let stop = Arc::new(AtomicBool::new(false));
    let stop_on_signal = stop.clone();
    ctrlc::set_handler(move || stop_on_signal.store(true, Ordering::Relaxed))
        .map_err(|error| Error::internal(format!("cannot handle Ctrl-C: {error}")))?;
    if !common.quiet {
        say!("{}. /help says what you can do.", partner.describe());
    }

    let opening: Vec<Value> = arguments.system.iter().map(|system| chat::message("system", system)).collect();
    let mut messages = opening.clone();
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
        match partner.answer(&messages, &stop, common).await {
            Ok(text) => messages.push(chat::message("assistant", &text)),
            Err(Failure::Error(error)) => {
                // The conversation stays as it was, so that another try is possible.
                print_error(&error);
                messages = before;
            }
            Err(no_output) => return Err(no_output),
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
            Err(ReadlineError::Interrupted) => say!("Ctrl-D or /exit leaves."),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(terminal_failed(error)),
        }
    }
}

/// Who answers.
enum Partner {
    Local(Engine, Settings),
    /// And the model that answers if nothing happens.
    Routed(Router, Rc<dyn Provider>, Map<String, Value>),
}

impl Partner {
    async fn routed(router: Router, body: Map<String, Value>) -> Result<Partner> {
        let (first, reason) = router.open().await?;
        if !router.prefers_active() {
            say!("{} answers, because of {reason}", first.model());
        }
        Ok(Partner::Routed(router, first, body))
    }

    fn describe(&self) -> String {
        match self {
            Partner::Local(engine, _) => format!("{} on the {}", engine.info().name, engine.info().device),
            Partner::Routed(_, model, _) => match model.ran() {
                Ran::Local => format!("{} on the {}", model.model(), model.provider()),
                Ran::Remote => format!("{}, hosted by {}", model.model(), model.provider()),
            },
        }
    }

    /// Prints an answer as it comes; what there is of it when `stop` is set.
    async fn answer(
        &self,
        messages: &[Value],
        stop: &AtomicBool,
        common: &Common,
    ) -> std::result::Result<String, Failure> {
        match self {
            Partner::Local(engine, settings) => {
                answer(engine, messages, settings.clone(), stop, common).await
            }
            Partner::Routed(router, _, body) => {
                let mut body = body.clone();
                body.insert("messages".into(), messages.to_vec().into());
                let answer = hosted::answer(router, Endpoint::Chat, body, true, common, stop).await?;
                writeln!(stdout())?;
                Ok(answer.text().to_owned())
            }
        }
    }
}

/// A local model's answer.
async fn answer(
    engine: &Engine,
    messages: &[Value],
    settings: Settings,
    stop: &AtomicBool,
    common: &Common,
) -> std::result::Result<String, Failure> {
    let prompt = Prompt::Chat(Conversation::new(messages.to_vec()));
    let mut generation = engine.generate(prompt, settings).await?;
    let mut stdout = stdout();
    let (mut whole, mut recovery) = (String::new(), None);
    while !stop.load(Ordering::Relaxed) {
        match generation.next().await? {
            None => break,
            Some(Event::Recovery(progress)) => {
                recovery.get_or_insert_with(|| LoadBar::new(common.quiet)).show(&progress)?;
            }
            Some(Event::Prompt { .. }) => recovery = None,
            Some(Event::Token { text, .. } | Event::Finish { text, .. }) => {
                stdout.write_all(text.as_bytes())?;
                stdout.flush()?;
                whole += &text;
            }
        }
    }
    writeln!(stdout)?;
    if common.verbose {
        report(&generation);
    }
    Ok(whole)
}

fn terminal_failed(error: ReadlineError) -> Error {
    Error::internal(format!("the terminal failed: {error}"))
}
