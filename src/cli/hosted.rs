//! `run` and `chat` with hosted models.

use super::arguments::{Common, RunArguments};
use super::output::say;
use super::providers::Hosted;
use super::{Failure, Outcome};
use crate::chat;
use crate::http;
use crate::openai::{Completion, Endpoint, Origin, Retrying};
use futures_util::future::{Either, select};
use futures_util::stream::StreamExt;
use serde_json::{Map, Value, json};
use std::io::{IsTerminal, Write};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often Ctrl-C is looked for while nothing comes.
const LOOK: Duration = Duration::from_millis(50);

/// One prompt, one answer.
pub async fn run(hosted: &Hosted, text: String, arguments: &RunArguments, common: &Common) -> Outcome {
    let mut body = arguments.answer.body();
    let endpoint = if arguments.raw {
        body.insert("prompt".into(), text.into());
        Endpoint::Completions
    } else {
        let system = arguments.system.iter().map(|system| chat::message("system", system));
        let messages = system.chain([chat::message("user", &text)]).collect::<Vec<_>>();
        body.insert("messages".into(), messages.into());
        Endpoint::Chat
    };
    let show = !arguments.json;
    let answer = answer(hosted, endpoint, body, show, common, &AtomicBool::new(false)).await?;
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        let answer = json!({
            "text": answer.text(),
            "finish_reason": answer.finish_reason(),
            "usage": answer.usage(),
            "candlewick": answer.origin(),
        });
        writeln!(stdout, "{answer}")?;
    } else if stdout.is_terminal() {
        writeln!(stdout)?;
    }
    Ok(())
}

/// Asks, and prints the answer as it comes where it is to be shown; what there is of it when `stop` is set.
pub async fn answer(
    hosted: &Hosted,
    endpoint: Endpoint,
    mut body: Map<String, Value>,
    show: bool,
    common: &Common,
    stop: &AtomicBool,
) -> Result<Completion, Failure> {
    body.insert("stream".into(), true.into());
    let mut chunks = hosted.client.answer(endpoint, &hosted.model, body.into())?;
    let mut whole = Completion::default();
    let mut stdout = std::io::stdout().lock();
    while !stop.load(Ordering::Relaxed) {
        let mut next = chunks.next();
        let chunk = loop {
            match select(next, pin!(http::sleep(LOOK))).await {
                Either::Left((chunk, _)) => break chunk,
                Either::Right(_) if stop.load(Ordering::Relaxed) => break None,
                Either::Right((_, waiting)) => next = waiting,
            }
        };
        let Some(chunk) = chunk else { break };
        let chunk = chunk?;
        if let Some(retry) = chunk.retry.as_ref().filter(|_| !common.quiet) {
            say_retry(retry);
        }
        let before = whole.text().len();
        whole.add(&chunk);
        if show {
            stdout.write_all(&whole.text().as_bytes()[before..])?;
            stdout.flush()?;
        }
    }
    if let Some(origin) = whole.origin().filter(|_| common.verbose) {
        say_origin(origin, &whole);
    }
    Ok(whole)
}

fn say_retry(retry: &Retrying) {
    let seconds = retry.wait_ms as f64 / 1000.0;
    say!("{}; attempt {} follows in {seconds:.1} s", retry.message, retry.attempt + 1);
}

fn say_origin(origin: &Origin, answer: &Completion) {
    let usage = answer.usage().map_or(String::new(), |usage| {
        format!("; prompt: {} tokens, answer: {} tokens", usage.prompt_tokens, usage.completion_tokens)
    });
    let cost = origin.cost.map_or(String::new(), |cost| format!("; ${cost:.6}"));
    say!("{} by {}, {} attempt(s){usage}{cost}", origin.model, origin.provider, origin.attempts);
}
