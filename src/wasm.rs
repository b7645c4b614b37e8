//! What JavaScript sees. No logic: types are converted here, work is done elsewhere.

mod models;
mod sessions;
mod sources;
mod stop;
mod tasks;
mod value;

use crate::backend::cpu::pool::web as pool;
use crate::backend::gpu;
use crate::engine::{self, Context, Device, Options};
use crate::http::{OnRetry, Retrying};
use crate::openai::{ChatRequest, Chunks, Completion, EmbeddingRequest, Endpoint};
use crate::progress::Progress;
use crate::remote::{Client, Config};
use crate::router::{Cache, CacheOptions, Hosted, Local, Policy, Provider, Route, Router, compare};
use crate::store::IndexedDbStore;
use crate::turns::Turns;
use crate::{Error, Result};
use async_lock::Mutex;
use futures_util::future::{LocalBoxFuture, ready};
use futures_util::stream::{AbortHandle, Abortable, StreamExt, abortable};
use js_sys::{Array, Function, Reflect};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;
use stop::Stopper;
use value::{from_js, from_js_value};
use wasm_bindgen::prelude::*;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r#"
/** An error of the engine; `code` is one of candlewick's error codes. */
export interface EngineError extends Error { code: string }
"#;

impl From<Error> for JsValue {
    fn from(error: Error) -> JsValue {
        let thrown = js_sys::Error::new(&error.message);
        // Setting a property of a fresh object cannot fail.
        let _ = Reflect::set(&thrown, &"code".into(), &error.code.as_str().into());
        thrown.into()
    }
}

fn request<T: TryFrom<Value, Error = Error>>(value: &JsValue) -> Result<T> {
    body(value)?.try_into()
}

fn body(value: &JsValue) -> Result<Value> {
    from_js_value("", value)
}

fn to_js(value: &impl Serialize) -> Result<JsValue> {
    value.serialize(&serde_wasm_bindgen::Serializer::json_compatible()).map_err(Error::internal)
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct LoadOptions {
    device: Option<String>,
    context_length: Option<Context>,
    threads: Option<usize>,
    kv_cache: KvCache,
    fallback: Option<bool>,
    profile: bool,
    gpu: Option<GpuOptions>,
    remote: Option<RemoteOptions>,
    hub: models::HubOptions,
}

#[derive(Deserialize, Default, PartialEq)]
enum KvCache {
    #[default]
    #[serde(rename = "full")]
    Full,
    #[serde(rename = "8bit")]
    Eight,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct GpuOptions {
    disable: Option<Vec<String>>,
    software: Option<bool>,
    faster: Option<bool>,
    cache: Option<String>,
}

/// Hosted models, and when they are asked.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct RemoteOptions {
    policy: Policy,
    /// In the order of preference.
    hosted: Vec<HostedOptions>,
    cache: Option<CacheOptions>,
    /// Bytes that a local model may take, weights and KV cache.
    max_memory: Option<f64>,
    /// Tokens a second that the CPU must promise.
    min_tokens_per_second: Option<f64>,
    /// Why local models are not even tried: the last attempt ended the Worker.
    crashed: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HostedOptions {
    model: String,
    config: Config,
}

/// Messages name options as the page gave them, not where they are in between.
fn load_options(options: &JsValue) -> Result<LoadOptions> {
    from_js("options", options).map_err(|mut error: Error| {
        for (ours, theirs) in [("remote.hosted[0].config", "remote"), (".policy", ""), (".hub", "")] {
            error.message = error.message.replacen(ours, theirs, 1);
        }
        error
    })
}

impl LoadOptions {
    fn parse(&mut self) -> Result<Options> {
        let device = match &self.device {
            Some(name) => name.parse()?,
            None => Device::Auto,
        };
        let GpuOptions { disable, software, faster, cache } = self.gpu.take().unwrap_or_default();
        let gpu = gpu::Options {
            disable: disable.unwrap_or_default(),
            software: software.unwrap_or_default(),
            faster,
            cache,
            ..gpu::Options::default()
        };
        let positive = |count| {
            NonZeroUsize::new(count)
                .ok_or_else(|| Error::invalid_argument("options.threads is 0; it must be at least 1"))
        };
        let threads = self.threads.map(positive).transpose()?;
        let remote = self.remote.as_ref();
        let min_tokens_per_second = remote.and_then(|remote| remote.min_tokens_per_second);
        let max_memory = remote.and_then(|remote| remote.max_memory).map(|bytes| bytes as u64);
        let (context, fallback) = (self.context_length, self.fallback);
        let (profile, kv_8bit) = (self.profile, self.kv_cache == KvCache::Eight);
        Ok(Options {
            device,
            context,
            max_memory,
            threads,
            kv_8bit,
            fallback,
            profile,
            min_tokens_per_second,
            gpu,
        })
    }
}

/// From now on the CPU's helpers are Workers that `starter(help, crashed)` starts, with a promise of whether the Worker
/// runs. The Worker calls [`help`]; if that traps, it adds one to the i32 at address `crashed`.
#[wasm_bindgen(js_name = useHelpers)]
pub fn use_helpers(starter: Function) {
    pool::set_starter(starter);
}

/// What a helper's Worker does. Returns when the engine needs it no more.
///
/// # Safety
/// `work` is the first argument of a call of the starter, used once.
#[wasm_bindgen]
pub unsafe fn help(work: usize) {
    // SAFETY: the caller's promise.
    unsafe { pool::help(work) }
}

/// One or more models that answer requests; the first is loaded.
#[wasm_bindgen]
pub struct Engine {
    router: Router,
    /// The local model that was loaded last.
    local: Rc<RefCell<Option<engine::Engine>>>,
    hosted: Vec<Hosted>,
    reason: String,
}

#[wasm_bindgen]
impl Engine {
    /// Loads the first that can be loaded of `sources`, each a `Blob`, a `Uint8Array`, an absolute address, a name on
    /// the Hub, or a list of these which are the files of one model; where none can, hosted models answer as
    /// `options.remote` says. `on_retry` hears that a model's server is asked again.
    pub async fn load(
        stopper: &Stopper,
        sources: Array,
        options: JsValue,
        on_progress: Function,
        on_retry: Option<Function>,
    ) -> Result<Engine, JsValue> {
        let mut options: LoadOptions =
            if options.is_undefined() { LoadOptions::default() } else { load_options(&options)? };
        let (load, hub) = (options.parse()?, options.hub.hearing(on_retry));
        let local = Rc::new(RefCell::new(None));
        let RemoteOptions { policy, hosted, cache, crashed, .. } = options.remote.unwrap_or_default();
        let hosted: Vec<Hosted> = hosted
            .into_iter()
            .map(|HostedOptions { model, config }| Ok(Hosted { client: Client::new(config)?, model }))
            .collect::<Result<_>>()?;
        let mut routes = Vec::new();
        for source in sources {
            let name = sources::name(&source);
            if let Some(why) = &crashed {
                let error = Error::resource_exhausted(why);
                routes.push(Route::local(name, Box::new(move || Box::pin(ready(Err(error.clone()))))));
                continue;
            }
            let (load, hub, loaded, on_progress) =
                (load.clone(), hub.clone(), local.clone(), on_progress.clone());
            let open = move || -> LocalBoxFuture<'static, Result<Rc<dyn Provider>>> {
                let (source, load, hub, loaded) = (source.clone(), load.clone(), hub.clone(), loaded.clone());
                let on_progress = on_progress.clone();
                Box::pin(async move {
                    let progress = move |progress: Progress| {
                        // A listener that throws does not stop the loading.
                        let _ = on_progress.call1(&JsValue::NULL, &to_js(&progress)?);
                        Ok(())
                    };
                    let engine = sources::load(source, hub, &load, progress).await?;
                    *loaded.borrow_mut() = Some(engine.clone());
                    Ok(Rc::new(Local(engine)) as Rc<dyn Provider>)
                })
            };
            routes.push(Route::local(name, Box::new(open)));
        }
        routes.extend(hosted.iter().cloned().map(Route::hosted));
        let cache = match cache {
            Some(options) => Some(open_cache(options).await),
            None => None,
        };
        let router = Router::new(routes, policy, cache)?;
        let (_, reason) = stopper.around(router.open()).await?;
        Ok(Engine { router, local, hosted, reason })
    }

    /// What a model is and needs, and how fast it would be here. `source` is as in [`Engine::load`]; no more of it than
    /// its header is read.
    pub async fn inspect(
        stopper: &Stopper,
        source: JsValue,
        options: JsValue,
        on_retry: Option<Function>,
    ) -> Result<JsValue, JsValue> {
        let mut options: LoadOptions = load_options(&options)?;
        let (load, hub) = (options.parse()?, options.hub.hearing(on_retry));
        Ok(stopper.around(sources::inspect(source, hub, &load)).await?)
    }

    /// What was loaded, and where it runs now; or which hosted model answers, and why.
    pub fn info(&self) -> Result<JsValue, JsValue> {
        let active = self.active()?;
        if let (crate::openai::Ran::Local, Some(engine)) = (active.ran(), &*self.local.borrow()) {
            return Ok(to_js(engine.info().as_ref())?);
        }
        Ok(to_js(&serde_json::json!({
            "name": active.model(),
            "device": "remote",
            "provider": active.provider(),
            "deviceReason": self.reason,
        }))?)
    }

    /// What the GPU's kernels have cost since the last call.
    pub async fn profile(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.local()?.kernel_times().await?)?)
    }

    /// Token ids of a text. `special`: special tokens written in the text count as such, and those
    /// that the model wants around a text are added.
    pub async fn tokenize(
        &self,
        stopper: &Stopper,
        text: String,
        special: bool,
    ) -> Result<Vec<u32>, JsValue> {
        let engine = self.local()?;
        let tokenizer = &engine.language().tokenizer;
        let turns = &mut Turns::new();
        let ids = match special {
            true => stopper.around(tokenizer.encode_with_special_in_turns(&text, true, turns)).await?,
            false => stopper.around(tokenizer.encode_in_turns(&text, false, turns)).await?,
        };
        Ok(ids)
    }

    /// The text of token ids.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String, JsValue> {
        let engine = self.local()?;
        let tokenizer = &engine.language().tokenizer;
        tokenizer.check(ids)?;
        Ok(tokenizer.decode(ids))
    }

    /// The prompt text of a conversation.
    pub fn render(&self, body: JsValue) -> Result<String, JsValue> {
        Ok(self.local()?.language().render(&request::<ChatRequest>(&body)?.conversation)?)
    }

    /// The scores of what follows each of `tokens`: as many rows of as many numbers as the model has tokens.
    pub async fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, JsValue> {
        let mut rows = Vec::new();
        self.local()?.logits(tokens, &mut |_, row| rows.extend_from_slice(row)).await?;
        Ok(rows)
    }

    /// Answers a conversation.
    pub fn chat(&self, body: JsValue) -> Result<Answer, JsValue> {
        self.answer(Endpoint::Chat, body)
    }

    /// Continues a text.
    pub fn complete(&self, body: JsValue) -> Result<Answer, JsValue> {
        self.answer(Endpoint::Completions, body)
    }

    /// What the model that answers now can do.
    pub async fn capabilities(&self) -> Result<JsValue, JsValue> {
        let active = self.active()?;
        Ok(to_js(&active.capabilities().await?)?)
    }

    /// What was spent on hosted models: an object of totals a model.
    pub fn totals(&self) -> Result<JsValue, JsValue> {
        let totals = |hosted: &Hosted| {
            let totals = serde_json::to_value(hosted.client.totals()).unwrap_or_default();
            serde_json::json!({ "model": hosted.model, "provider": hosted.client.name(), "totals": totals })
        };
        Ok(to_js(&self.hosted.iter().map(totals).collect::<Vec<_>>())?)
    }

    /// One of Hugging Face's tasks, by the first hosted model or another of its provider.
    pub async fn task(
        &self,
        stopper: &Stopper,
        model: Option<String>,
        task: JsValue,
        on_retry: Function,
    ) -> Result<JsValue, JsValue> {
        let hosted = self.first_hosted()?;
        let model = model.as_deref().unwrap_or(&hosted.model);
        let task = from_js::<tasks::Task>("task", &task)?;
        let client = hosted.client.hearing(hearer(on_retry));
        Ok(stopper.around(task.run(&client, model)).await?)
    }

    /// The vectors of a request's texts, by the model that answers or `model` of the first hosted one's provider: each
    /// has a vector or an error.
    pub async fn embed(
        &self,
        stopper: &Stopper,
        model: Option<String>,
        body: JsValue,
        on_retry: Function,
    ) -> Result<JsValue, JsValue> {
        let request: EmbeddingRequest = request(&body)?;
        let embeddings = match model {
            Some(model) => {
                let hosted = Hosted { client: self.first_hosted()?.client.clone(), model };
                stopper.around(hosted.embed(&request, hearer(on_retry))).await?
            }
            None => stopper.around(self.router.embed(&request, hearer(on_retry))).await?,
        };
        let one = |vector: &Result<Vec<f32>>| match vector {
            Ok(vector) => serde_json::json!({ "embedding": vector }),
            Err(error) => serde_json::json!({ "code": error.code.as_str(), "message": error.message }),
        };
        Ok(to_js(&embeddings.vectors.iter().map(one).collect::<Vec<_>>())?)
    }

    /// The same in the shape of `/v1/embeddings`, which has no place for a text that failed.
    pub async fn embeddings(
        &self,
        stopper: &Stopper,
        body: JsValue,
        on_retry: Function,
    ) -> Result<JsValue, JsValue> {
        let request: EmbeddingRequest = request(&body)?;
        let embeddings = stopper.around(self.router.embed(&request, hearer(on_retry))).await?;
        Ok(to_js(&embeddings.list(request.encoding)?)?)
    }

    /// Runs one conversation over the loaded model and all hosted ones. `on_retry` hears that one will be asked again.
    pub async fn compare(
        &self,
        stopper: &Stopper,
        body: JsValue,
        on_retry: Function,
    ) -> Result<JsValue, JsValue> {
        let body = self::body(&body)?;
        let local = self.local.borrow().clone();
        let local = local.map(|engine| Rc::new(Local(engine)) as Rc<dyn Provider>);
        let hosted = self.hosted.iter().cloned().map(|hosted| Rc::new(hosted) as Rc<dyn Provider>);
        let models: Vec<_> = local.into_iter().chain(hosted).collect();
        let heard = |model: &dyn Provider, retry: &Retrying| {
            tell(&on_retry, &Retried { model: model.model(), provider: model.provider(), retry });
        };
        let compared = async { Ok(compare(&models, Endpoint::Chat, &body, &heard).await) };
        Ok(to_js(&stopper.around(compared).await?)?)
    }
}

/// A listener of the page for what is asked again.
fn hearer(on_retry: Function) -> OnRetry {
    OnRetry::new(move |retry| tell(&on_retry, retry))
}

/// One that throws ends nothing.
fn tell(listener: &Function, retry: &impl Serialize) {
    if let Ok(retry) = to_js(retry) {
        let _ = listener.call1(&JsValue::NULL, &retry);
    }
}

/// Which of several models will be asked again.
#[derive(Serialize)]
struct Retried<'a> {
    model: String,
    provider: String,
    #[serde(flatten)]
    retry: &'a Retrying,
}

impl Engine {
    fn answer(&self, endpoint: Endpoint, body: JsValue) -> Result<Answer, JsValue> {
        let chunks = self.router.answer(endpoint, self::body(&body)?)?;
        let (chunks, stop) = abortable(chunks);
        Ok(Answer { state: Mutex::new((chunks, Completion::default())), stop })
    }

    fn active(&self) -> Result<Rc<dyn Provider>> {
        self.router.active().ok_or_else(|| Error::internal("no model is open"))
    }

    fn first_hosted(&self) -> Result<&Hosted> {
        let missing = || Error::unsupported_model("this needs a hosted model: load with `remote`");
        self.hosted.first().ok_or_else(missing)
    }

    fn local(&self) -> Result<engine::Engine> {
        self.local.borrow().clone().ok_or_else(|| {
            Error::unsupported_model(
                "the model is hosted: there is no tokenizer and no chat template of it here",
            )
        })
    }
}

/// An answer in the making; freeing it ends the work.
#[wasm_bindgen]
pub struct Answer {
    state: Mutex<(Abortable<Chunks>, Completion)>,
    stop: AbortHandle,
}

#[wasm_bindgen]
impl Answer {
    /// One step: a chunk, or `undefined` at the end.
    pub async fn next(&self) -> Result<JsValue, JsValue> {
        let (chunks, whole) = &mut *self.state.lock().await;
        let Some(chunk) = chunks.next().await else { return Ok(JsValue::UNDEFINED) };
        let chunk = chunk?;
        whole.add(&chunk);
        Ok(to_js(&chunk)?)
    }

    /// Ends a step that is under way, as if the answer ended there. Then it can be freed.
    pub fn stop(&self) {
        self.stop.abort();
    }

    /// All that has come so far, as one answer.
    pub async fn result(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.state.lock().await.1)?)
    }
}

/// Answers in memory; with what the browser's storage has of them, where they shall stay and there is such.
async fn open_cache(options: CacheOptions) -> Rc<Cache> {
    if options.persist
        && let Ok(store) = IndexedDbStore::open(None).await
    {
        return Cache::stored(options, Rc::new(store));
    }
    Cache::new(options)
}
