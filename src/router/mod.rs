//! On this device or hosted: which model answers, and why.
//!
//! A [`Router`] has routes in the order of preference, mostly a local model and after it a hosted one.
//! A request goes to the first that the [`Policy`] allows; where that one fails before it has said
//! anything, the next one gets it. Every answer says where it was made and why
//! ([`Origin`](crate::openai::Origin)).

mod cache;
mod compare;
mod provider;
mod shelf;
mod table;

pub use cache::{Cache, CacheOptions};
pub use compare::{Comparison, OnRetryBy, compare};
pub use provider::{Capabilities, Hosted, Local, Provider};
pub use table::{Pick, Row, Table, Task};

use crate::http::{OnRetry, sleep};
use crate::json::check_depth;
use crate::openai::{Chunk, Chunks, EmbeddingRequest, Embeddings, Endpoint, Ran, unsupported};
use crate::{Code, Error, Result};
use async_lock::Mutex;
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::{StreamExt, try_unfold};
use serde::Deserialize;
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// When hosted models are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Never: nothing leaves the device.
    Never,
    /// Where no local model can answer.
    #[default]
    Needed,
    /// Always: no local model is even loaded.
    Always,
}

/// Which route a request takes. In JSON, times are in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// When hosted models are asked.
    pub when: When,
    /// How long to wait for the first token where there is another route.
    #[serde(rename = "firstTokenMs", deserialize_with = "crate::remote::some_milliseconds")]
    pub first_token: Option<Duration>,
}

/// Brings a model to where it can answer: loads it, or just knows its address.
pub type Open = Box<dyn Fn() -> LocalBoxFuture<'static, Result<Rc<dyn Provider>>>>;

/// A model that may answer.
pub struct Route {
    name: String,
    ran: Ran,
    /// Nothing once it is open or lost: what only this needs is let go.
    open: RefCell<Option<Open>>,
    provider: Mutex<Option<Rc<dyn Provider>>>,
    /// Why it will not answer any more.
    lost: RefCell<Option<Error>>,
}

impl Route {
    /// A model that `open` loads when it is first needed.
    pub fn local(name: impl Into<String>, open: Open) -> Route {
        Route::new(name.into(), Ran::Local, open)
    }

    /// A hosted model.
    pub fn hosted(hosted: Hosted) -> Route {
        let name = format!("{} of {}", hosted.model, hosted.client.name());
        let provider: Rc<dyn Provider> = Rc::new(hosted);
        Route::new(name, Ran::Remote, Box::new(move || Box::pin(std::future::ready(Ok(provider.clone())))))
    }

    fn new(name: String, ran: Ran, open: Open) -> Route {
        let open = RefCell::new(Some(open));
        Route { name, ran, open, provider: Mutex::new(None), lost: RefCell::default() }
    }

    /// The model, loaded if it is not yet. What could not be loaded once is not loaded again.
    async fn open(&self) -> Result<Rc<dyn Provider>> {
        let mut provider = self.provider.lock().await;
        if let Some(error) = &*self.lost.borrow() {
            return Err(error.clone());
        }
        if let Some(provider) = &*provider {
            return Ok(provider.clone());
        }
        let opening = self.open.borrow().as_ref().map(|open| open());
        let opening = opening.ok_or_else(|| Error::internal("a route was opened twice"))?;
        let opened = opening.await.inspect_err(|error| self.lose(error))?;
        *provider = Some(opened.clone());
        self.open.take();
        Ok(opened)
    }

    /// The model, if it is loaded.
    fn loaded(&self) -> Result<Rc<dyn Provider>> {
        let loaded = self.provider.try_lock().and_then(|provider| provider.clone());
        loaded.ok_or_else(|| Error::unsupported_model("it is not loaded"))
    }

    /// Keeps in mind that the route is closed for good.
    fn lose(&self, error: &Error) {
        // A fault of the network closes it too, or every request would wait for it again; only an abort does not.
        if error.code != Code::Aborted {
            *self.lost.borrow_mut() = Some(error.clone());
            self.open.take();
        }
    }
}

/// Sends requests to models. Clones share them.
#[derive(Clone)]
pub struct Router(Rc<Inner>);

struct Inner {
    routes: Vec<Route>,
    policy: Policy,
    cache: Option<Rc<Cache>>,
    /// The route that answered or was opened last.
    active: Cell<Option<usize>>,
}

impl Router {
    /// One for `routes`, the preferred ones first. Loads nothing.
    pub fn new(routes: Vec<Route>, policy: Policy, cache: Option<Rc<Cache>>) -> Result<Router> {
        let router = Router(Rc::new(Inner { routes, policy, cache, active: Cell::new(None) }));
        match router.next(0) {
            Some(_) => Ok(router),
            None if policy.when == When::Never => {
                Err(Error::invalid_argument("with when: \"never\" there must be a local model"))
            }
            None => Err(Error::invalid_argument("there is no model to ask")),
        }
    }

    /// Loads the first model that can be loaded; says which, and why not one before it.
    pub async fn open(&self) -> Result<(Rc<dyn Provider>, String)> {
        let mut way = Way::default();
        loop {
            let Some(at) = self.next(way.at) else { return Err(way.error()) };
            match self.0.routes[at].open().await {
                Ok(provider) => {
                    self.0.active.set(Some(at));
                    return Ok((provider, way.reason(self, at)));
                }
                Err(error) => way.failed(self, at, error)?,
            }
        }
    }

    /// The model that answered last, or was loaded.
    pub fn active(&self) -> Option<Rc<dyn Provider>> {
        self.0.routes[self.0.active.get()?].provider.try_lock()?.clone()
    }

    /// Whether the first of the routes that the policy allows is the one that answered or was opened last.
    pub fn prefers_active(&self) -> bool {
        self.0.active.get() == self.next(0)
    }

    /// Answers given before.
    pub fn cache(&self) -> Option<&Rc<Cache>> {
        self.0.cache.as_ref()
    }

    /// Answers a request of OpenAI's shape. Chunks without choices tell of what goes on before it begins.
    pub fn answer(&self, endpoint: Endpoint, body: Value) -> Result<Chunks> {
        if !body.is_object() {
            return Err(Error::invalid_argument("the request must be an object"));
        }
        check_depth("the request", [&body])?;
        let journey =
            Journey { router: self.clone(), endpoint, body, way: Way::default(), phase: Phase::Choose };
        let step = async |mut journey: Journey| Ok(journey.next().await?.map(|chunk| (chunk, journey)));
        Ok(try_unfold(journey, step).boxed_local())
    }

    /// The vectors of texts: of the first model that has them, among the local ones that are loaded and the hosted ones.
    /// One text that fails does not fail the rest.
    pub async fn embed(&self, request: &EmbeddingRequest, on_retry: OnRetry) -> Result<Embeddings> {
        let mut way = Way::default();
        loop {
            let Some(at) = self.next(way.at) else { return Err(way.error()) };
            let provider = match self.0.routes[at].ran {
                // Another one is not loaded for this: it would take the place of the one that chats.
                Ran::Local => self.0.routes[at].loaded(),
                Ran::Remote => self.0.routes[at].open().await,
            };
            let embedded = match provider {
                Ok(provider) => provider.embed(request, on_retry.clone()).await,
                Err(error) => Err(error),
            };
            match embedded {
                Ok(mut embeddings) => {
                    embeddings.origin.reason = way.reason(self, at);
                    return Ok(embeddings);
                }
                Err(error) => way.failed(self, at, error)?,
            }
        }
    }

    /// The first route from `at` that the policy allows.
    fn next(&self, at: usize) -> Option<usize> {
        let Inner { routes, policy, .. } = &*self.0;
        (at..routes.len()).find(|&at| match (policy.when, routes[at].ran) {
            (When::Never, ran) => ran == Ran::Local,
            (When::Always, ran) => ran == Ran::Remote,
            (When::Needed, _) => true,
        })
    }
}

/// The routes that a request has tried.
#[derive(Default)]
struct Way {
    at: usize,
    failed: Vec<(String, Error)>,
    /// Requests that were made on the way.
    attempts: u32,
}

impl Way {
    /// Goes on to the next route, if there is one and the failure is not the request's own fault.
    fn failed(&mut self, router: &Router, at: usize, error: Error) -> Result<()> {
        let own = matches!(error.code, Code::InvalidArgument | Code::Aborted);
        if own || router.next(at + 1).is_none() {
            self.failed.push((router.0.routes[at].name.clone(), error));
            return Err(self.error());
        }
        self.failed.push((router.0.routes[at].name.clone(), error));
        self.at = at + 1;
        Ok(())
    }

    /// The last failure, and in its message those before.
    fn error(&mut self) -> Error {
        let Some((_, mut error)) = self.failed.pop() else { return Error::internal("no route was tried") };
        if !self.failed.is_empty() {
            error.message += &format!(". Before that: {}", self.told());
        }
        error
    }

    fn told(&self) -> String {
        let told = self.failed.iter().map(|(name, error)| format!("{name}: {error}"));
        told.collect::<Vec<_>>().join("; ")
    }

    /// Why route `at` answers.
    fn reason(&self, router: &Router, at: usize) -> String {
        match (router.0.policy.when, router.0.routes[at].ran) {
            _ if !self.failed.is_empty() => self.told(),
            (When::Never, _) => "when is \"never\"".to_owned(),
            (When::Always, _) => "when is \"always\"".to_owned(),
            (When::Needed, Ran::Local) => "it runs on this device".to_owned(),
            (When::Needed, Ran::Remote) => "there is no local model before it".to_owned(),
        }
    }
}

/// One request on its way.
struct Journey {
    router: Router,
    endpoint: Endpoint,
    body: Value,
    way: Way,
    phase: Phase,
}

enum Phase {
    /// Take the next route.
    Choose,
    /// It was taken, and has said nothing yet.
    Wait(usize, Chunks, Option<LocalBoxFuture<'static, ()>>),
    /// It answers.
    Answer(usize, Chunks),
    Ended,
}

impl Journey {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            match std::mem::replace(&mut self.phase, Phase::Ended) {
                Phase::Ended => return Ok(None),
                Phase::Choose => {
                    let Some(at) = self.router.next(self.way.at) else { return Err(self.way.error()) };
                    match self.begin(at).await {
                        Ok(phase) => self.phase = phase,
                        Err(error) => self.failed(at, error)?,
                    }
                }
                Phase::Wait(at, mut chunks, mut timer) => {
                    let next = match &mut timer {
                        None => chunks.next().await,
                        Some(timer) => match select(pin!(chunks.next()), timer).await {
                            Either::Left((next, _)) => next,
                            Either::Right(_) => Some(Err(self.late())),
                        },
                    };
                    match next {
                        Some(Ok(chunk)) => {
                            self.phase = match chunk.says_something() {
                                true => Phase::Answer(at, chunks),
                                false => Phase::Wait(at, chunks, timer),
                            };
                            self.way.attempts += u32::from(chunk.retry.is_some());
                            return Ok(Some(self.signed(at, chunk)));
                        }
                        Some(Err(error)) => {
                            drop(chunks);
                            if self.router.0.routes[at].ran == Ran::Remote {
                                self.way.attempts += 1;
                            }
                            self.failed(at, error)?;
                        }
                        None => return Ok(None),
                    }
                }
                Phase::Answer(at, mut chunks) => {
                    let Some(chunk) = chunks.next().await else { return Ok(None) };
                    let chunk = chunk.inspect_err(|error| self.note(at, error))?;
                    self.phase = Phase::Answer(at, chunks);
                    return Ok(Some(self.signed(at, chunk)));
                }
            }
        }
    }

    /// Takes a route.
    async fn begin(&self, at: usize) -> Result<Phase> {
        let route = &self.router.0.routes[at];
        let provider = route.open().await?;
        self.router.0.active.set(Some(at));
        let alone = self.router.next(at + 1).is_none();
        // A model that runs here knows what it can do; to ask a host would take a request.
        if route.ran == Ran::Local && !alone {
            let missing = provider.capabilities().await?.missing(&self.body).map(str::to_owned);
            if let Some(missing) = missing.or_else(|| unsupported(&self.body)) {
                return Err(Error::unsupported_model(missing));
            }
        }
        let key = self.router.0.cache.as_ref().and_then(|cache| {
            let key = cache.key(&provider.identity(), self.endpoint, &self.body)?;
            Some((cache, key))
        });
        let timer = self.router.0.policy.first_token.filter(|_| !alone);
        let timer = timer.map(|limit| -> LocalBoxFuture<'static, ()> { Box::pin(sleep(limit)) });
        let chunks = match key {
            Some((cache, key)) => match cache.find(&key) {
                Some(chunks) => chunks,
                None => match cache.recall(&key).await {
                    Some(chunks) => chunks,
                    None => cache.share(key, self.ask(&provider).await?),
                },
            },
            None => self.ask(&provider).await?,
        };
        Ok(Phase::Wait(at, chunks, timer))
    }

    async fn ask(&self, provider: &Rc<dyn Provider>) -> Result<Chunks> {
        provider.answer(self.endpoint, self.body.clone()).await
    }

    fn failed(&mut self, at: usize, error: Error) -> Result<()> {
        self.note(at, &error);
        self.way.failed(&self.router, at, error)?;
        self.phase = Phase::Choose;
        Ok(())
    }

    /// A device that is gone stays away, unless there is nothing in its place: then it may have come back.
    fn note(&self, at: usize, error: &Error) {
        if error.code == Code::DeviceLost && self.router.next(at + 1).is_some() {
            self.router.0.routes[at].lose(error);
        }
    }

    fn late(&self) -> Error {
        let limit = self.router.0.policy.first_token.unwrap_or_default().as_millis();
        Error::resource_exhausted(format!("no token within {limit} ms"))
    }

    /// With the reason, which only the router knows.
    fn signed(&self, at: usize, mut chunk: Chunk) -> Chunk {
        if let Some(origin) = &mut chunk.candlewick {
            origin.reason = self.way.reason(&self.router, at);
            if !self.way.failed.is_empty() && !origin.cached {
                origin.attempts = origin.attempts.max(self.way.attempts + 1);
            }
        }
        chunk
    }
}
