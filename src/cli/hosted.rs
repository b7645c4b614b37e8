//! `run` and `chat` with hosted models, alone or with others to fall back on.

use super::arguments::{Common, Fallbacks, RunArguments};
use super::output::{say, stdout};
use super::{Failure, Outcome, load, providers};
use crate::openai::{Completion, Endpoint, Origin, Retrying};
use crate::router::{Local, Policy, Provider, Route, Router};
use crate::{Result, chat, http};
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::StreamExt;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often Ctrl-C is looked for while nothing comes.
const LOOK: Duration = Duration::from_millis(50);

/// Who answers: `model`, and where it cannot the fallbacks, in their order. Nothing for a local model alone.
pub fn router(model: &str, fallbacks: &Fallbacks, common: &Common) -> Result<Option<Router>> {
    let names = std::iter::once(model).chain(fallbacks.models.iter().map(String::as_str));
    let named = |name| Ok((name, providers::hosted(name, common)?));
    let found = names.map(named).collect::<Result<Vec<_>>>()?;
    if let [(_, None)] = found.as_slice() {
        return Ok(None);
    }
    let route = |(name, hosted)| match hosted {
        Some(hosted) => Route::hosted(hosted),
        None => local(name, common),
    };
    Router::new(found.into_iter().map(route).collect(), Policy::default(), None).map(Some)
}

/// A local model, loaded when it is first asked.
fn local(name: &str, common: &Common) -> Route {
    let (model, common) = (name.to_owned(), common.clone());
    let open = move || -> LocalBoxFuture<'static, Result<Rc<dyn Provider>>> {
        let (model, common) = (model.clone(), common.clone());
        Box::pin(async move { Ok(Rc::new(Local(load(&model, &common).await?)) as Rc<dyn Provider>) })
    };
    Route::local(name, Box::new(open))
}

/// One prompt, one answer.
pub async fn run(router: &Router, text: String, arguments: &RunArguments, common: &Common) -> Outcome {
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
    let answer = answer(router, endpoint, body, show, common, &AtomicBool::new(false)).await?;
    let mut stdout = stdout();
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
    router: &Router,
    endpoint: Endpoint,
    mut body: Map<String, Value>,
    show: bool,
    common: &Common,
    stop: &AtomicBool,
) -> std::result::Result<Completion, Failure> {
    body.insert("stream".into(), true.into());
    let mut chunks = router.answer(endpoint, body.into())?;
    let mut whole = Completion::default();
    let mut stdout = stdout();
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
    if let Some(origin) = whole.origin() {
        if !router.prefers_active() && !common.quiet {
            say!("{} answered, because of {}", origin.model, origin.reason);
        }
        if common.verbose {
            say_origin(origin, &whole);
        }
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
