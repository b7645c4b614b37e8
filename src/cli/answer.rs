//! Who answers `run` and `chat`, and what of it is printed: one way for models on this device and hosted ones, alone or
//! with others to fall back on.

use super::arguments::Common;
use super::output::{LoadBar, say, stdout};
use super::settings::Fallbacks;
use super::{Failure, load, providers};
use crate::engine::Engine;
use crate::http::{OnRetry, Retrying};
use crate::openai::{Chunk, Ran};
use crate::openai::{Chunks, Completion, EmbeddingRequest, Embeddings, Endpoint, Origin};
use crate::router::{Capabilities, Local, Policy, Provider, Route, Router};
use crate::{Code, Error, Result, http};
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::StreamExt;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often Ctrl-C is looked for while nothing comes.
const LOOK: Duration = Duration::from_millis(50);

/// What a model on this device does with a message when its file has no chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WithoutTemplate {
    /// It continues it.
    Continues,
    /// It is not asked.
    Refuses,
}

/// Candidates that may answer.
pub(super) struct Candidates {
    pub router: Router,
    /// One on this device, and no other.
    pub alone: bool,
    /// The one on this device that was loaded last.
    pub here: Rc<RefCell<Option<Engine>>>,
}

impl Candidates {
    /// `model`, and where it cannot answer the fallbacks, in their order. Loads none of them yet.
    pub(super) fn new(
        model: &OsStr,
        fallbacks: &Fallbacks,
        common: &Common,
        untalkative: WithoutTemplate,
    ) -> Result<Candidates> {
        let names = std::iter::once(model).chain(fallbacks.models.iter().map(OsString::as_os_str));
        let hosted = |name: &OsStr| match name.to_str() {
            Some(name) => providers::hosted(name, common),
            // Nobody's name.
            None => Ok(None),
        };
        let found = names.map(|name| Ok((name, hosted(name)?))).collect::<Result<Vec<_>>>()?;
        let alone = matches!(found.as_slice(), [(_, None)]);
        let here = Rc::default();
        let route = |(name, hosted)| match hosted {
            Some(hosted) => Route::hosted(hosted),
            None => local(name, common, untalkative, alone, &here),
        };
        let router = Router::new(found.into_iter().map(route).collect(), Policy::default(), None)?;
        Ok(Candidates { router, alone, here })
    }
}

/// A model on this device, loaded when it is first asked.
fn local(
    name: &OsStr,
    common: &Common,
    untalkative: WithoutTemplate,
    alone: bool,
    loaded: &Rc<RefCell<Option<Engine>>>,
) -> Route {
    let (model, common, loaded) = (name.to_owned(), common.clone(), loaded.clone());
    let open = move || -> LocalBoxFuture<'static, Result<Rc<dyn Provider>>> {
        let (model, common, loaded) = (model.clone(), common.clone(), loaded.clone());
        Box::pin(async move {
            let engine = load(&model, &common).await?;
            loaded.replace(Some(engine.clone()));
            let here = Here(Local(engine));
            if untalkative == WithoutTemplate::Refuses && !here.talks() {
                let message =
                    "this model has no chat template: it continues text. Use `candlewick run MODEL -p TEXT`";
                return Err(match alone {
                    true => Error::invalid_argument(message),
                    // The next one may have one.
                    false => Error::unsupported_model(message),
                });
            }
            Ok(Rc::new(here) as Rc<dyn Provider>)
        })
    };
    Route::local(name.to_string_lossy(), Box::new(open))
}

/// A model on this device, as the command line asks it.
struct Here(Local);

impl Here {
    fn talks(&self) -> bool {
        self.0.0.language().template.is_some()
    }

    /// The request, for a model that only continues texts.
    fn continued(mut body: Map<String, Value>) -> Result<Map<String, Value>> {
        let messages = body.remove("messages");
        match messages.as_ref().and_then(Value::as_array).map(Vec::as_slice) {
            Some([message]) => {
                body.insert("prompt".into(), message["content"].clone());
                Ok(body)
            }
            _ => Err(Error::invalid_argument(
                "--system needs a model with a chat template; this one continues text",
            )),
        }
    }
}

impl Provider for Here {
    fn ran(&self) -> Ran {
        self.0.ran()
    }

    fn provider(&self) -> String {
        self.0.provider()
    }

    fn model(&self) -> String {
        self.0.model()
    }

    fn identity(&self) -> String {
        self.0.identity()
    }

    fn capabilities(&self) -> LocalBoxFuture<'_, Result<Capabilities>> {
        self.0.capabilities()
    }

    fn answer(&self, endpoint: Endpoint, body: Value) -> LocalBoxFuture<'_, Result<Chunks>> {
        Box::pin(async move {
            let Value::Object(mut body) = body else { return Err(Error::internal("no request")) };
            let mut endpoint = endpoint;
            if endpoint == Endpoint::Chat && !self.talks() {
                (endpoint, body) = (Endpoint::Completions, Here::continued(body)?);
            }
            body.insert("return_tokens".into(), true.into());
            let answer = self.0.answer(endpoint, body.into()).await;
            answer.map_err(|mut error| {
                if error.code == Code::ContextLengthExceeded {
                    error.message += " (--ctx, --truncate)";
                }
                error
            })
        })
    }

    fn embed<'a>(
        &'a self,
        request: &'a EmbeddingRequest,
        on_retry: OnRetry,
    ) -> LocalBoxFuture<'a, Result<Embeddings>> {
        self.0.embed(request, on_retry)
    }
}

/// Asks, and prints the answer as it comes where it is to be shown; what there is of it when `stop` is set.
pub(super) async fn answer(
    router: &Router,
    endpoint: Endpoint,
    mut body: Map<String, Value>,
    show: bool,
    common: &Common,
    stop: Option<&AtomicBool>,
) -> std::result::Result<Completion, Failure> {
    body.insert("stream".into(), true.into());
    let mut chunks = router.answer(endpoint, body.into())?;
    let mut whole = Completion::default();
    let mut recovery = None;
    let mut stdout = stdout();
    let mut shown = 0;
    while let Some(chunk) = next(&mut chunks, stop).await {
        let chunk = chunk?;
        if let Some(retry) = chunk.retry.as_ref().filter(|_| !common.quiet) {
            say_retry(retry);
        }
        match &chunk.recovery {
            Some(progress) => recovery.get_or_insert_with(|| LoadBar::new(common.quiet)).show(progress)?,
            None => recovery = None,
        }
        whole.add(&chunk);
        if show {
            // Whether a carriage return ends a line, which a terminal may have, what comes next says.
            let ready = whole.text().trim_end_matches('\r');
            stdout.write_exact(ready.get(shown..).unwrap_or_default())?;
            stdout.flush()?;
            shown = shown.max(ready.len());
        }
    }
    if show {
        stdout.write_exact(whole.text().get(shown..).unwrap_or_default())?;
    }
    if let Some(origin) = whole.origin() {
        if !router.prefers_active() && !common.quiet {
            say!("{} answered, because of {}", origin.model, origin.reason);
        }
        if common.verbose {
            report(origin, &whole);
        }
    }
    Ok(whole)
}

/// The next chunk; none at the end, or when `stop` is set.
async fn next(chunks: &mut Chunks, stop: Option<&AtomicBool>) -> Option<Result<Chunk>> {
    let Some(stop) = stop else { return chunks.next().await };
    let mut next = chunks.next();
    while !stop.load(Ordering::Relaxed) {
        match select(next, pin!(http::sleep(LOOK))).await {
            Either::Left((chunk, _)) => return chunk,
            Either::Right((_, waiting)) => next = waiting,
        }
    }
    None
}

fn say_retry(retry: &Retrying) {
    let seconds = retry.wait_ms as f64 / 1000.0;
    say!("{}; attempt {} follows in {seconds:.1} s", retry.message, retry.attempt + 1);
}

/// Where an answer comes from, and how fast it was or what it cost.
fn report(origin: &Origin, answer: &Completion) {
    if let Some(timings) = answer.timings() {
        let seed = origin.seed.map_or(String::new(), |seed| format!("; seed {seed}"));
        say!(
            "prompt: {} tokens at {:.1} tokens/s; answer: {} tokens at {:.1} tokens/s; first token after {:.0} ms{seed}",
            timings.prompt_n,
            timings.prompt_per_second,
            timings.predicted_n,
            timings.predicted_per_second,
            timings.time_to_first_token_ms,
        );
        return;
    }
    let usage = answer.usage().map_or(String::new(), |usage| {
        format!("; prompt: {} tokens, answer: {} tokens", usage.prompt_tokens, usage.completion_tokens)
    });
    let cost = origin.cost.map_or(String::new(), |cost| format!("; ${cost:.6}"));
    say!("{} by {}, {} attempt(s){usage}{cost}", origin.model, origin.provider, origin.attempts);
}
