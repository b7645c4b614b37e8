//! Models by name: the Hub, and the browser's storage.

use super::sources::fits;
use super::stop::Stopper;
use super::value::from_js;
use super::{hearer, to_js};
use crate::engine::{self, Meter, Options, Progress, Stage};
use crate::http::{Backoff, Timeouts, Token};
use crate::hub::{self, Client, Report, Sizes, Spec};
use crate::remote::OnRetry;
use crate::store::{self, BlobSource, IndexedDbStore, MemoryStore, Source, Store};
use crate::{Code, Error, Result};
use js_sys::Function;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;
use wasm_bindgen::prelude::*;

/// How to reach the Hub, and what to keep.
#[derive(Deserialize, Default, Clone)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct HubOptions {
    token: Option<Token>,
    #[serde(rename = "hubURL")]
    hub_url: Option<String>,
    cache: Option<bool>,
    cache_budget: Option<u64>,
    force: bool,
    transfer: Option<Transfer>,
    /// Hears of requests that are made again.
    #[serde(skip)]
    on_retry: OnRetry,
}

/// For tests: small pieces, little patience.
#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Transfer {
    range: u64,
    block: u64,
    parallel: usize,
    attempts: u32,
    longest_wait_ms: u64,
    silence_ms: u64,
}

impl HubOptions {
    /// `on_retry` hears that a server is asked again.
    pub fn hearing(self, on_retry: Option<Function>) -> HubOptions {
        HubOptions { on_retry: on_retry.map(hearer).unwrap_or_default(), ..self }
    }

    /// The models, and whether what is fetched of them can be kept.
    async fn open(self) -> Result<(hub::Models, bool)> {
        let mut client = Client::new(self.hub_url.as_deref(), self.token)?.hearing(self.on_retry);
        let mut sizes = Sizes::default();
        if let Some(transfer) = self.transfer {
            let longest = Duration::from_millis(transfer.longest_wait_ms);
            let silence = Duration::from_millis(transfer.silence_ms);
            client = client.patience(
                Backoff::new(longest / 4, longest, transfer.attempts),
                Timeouts { head: silence, stall: silence },
            );
            let (range, block) = (transfer.range.max(1), transfer.block.max(1));
            sizes = Sizes { range, block, parallel: transfer.parallel.max(1) };
        }
        let store = match self.cache {
            Some(false) => None,
            _ => IndexedDbStore::open(self.cache_budget).await.map_or_else(
                |error| {
                    let message = format!("candlewick keeps no models here: {}", error.message);
                    web_sys::console::warn_1(&message.into());
                    None
                },
                |store| Some(Rc::new(store) as Rc<dyn Store>),
            ),
        };
        let keeps = store.is_some();
        let store = store.unwrap_or_else(|| Rc::new(MemoryStore::default()));
        Ok((hub::Models::new(client, store).with_sizes(sizes), keeps))
    }
}

/// What a text names on the Hub or another server; nothing where it is an address of the page's own kinds (`blob:`, `data:`).
pub fn name(text: &str, hub: &HubOptions) -> Option<Result<Spec>> {
    match Spec::at(text, hub.hub_url.as_deref()) {
        Ok(spec @ (Spec::Hub(_) | Spec::Url(_))) => Some(Ok(spec)),
        Ok(Spec::Path(path)) if path.starts_with("blob:") || path.starts_with("data:") => None,
        Ok(Spec::Path(path)) => Some(Err(Error::invalid_argument(format!(
            "\"{path}\" is no name of a model. Give owner/repo, owner/repo:QUANT, owner/repo/file.gguf or the URL of a .gguf file"
        )))),
        // `blob:https://…`, and what extensions have.
        Err(_) if text.split_once("://").is_some_and(|(scheme, _)| !is_the_hubs(scheme)) => None,
        Err(error) => Some(Err(error)),
    }
}

fn is_the_hubs(scheme: &str) -> bool {
    ["https", "http", "hf"].iter().any(|known| scheme.trim().eq_ignore_ascii_case(known))
}

/// What `text` names as `spec`: from the browser's storage where it is there, else from its server and into the storage.
/// Where nothing can be kept, the weights go from the network to the device, without a second copy in memory. When the
/// user clears the site's data meanwhile, it is fetched once more.
pub async fn load(
    text: &str,
    spec: &Spec,
    hub: HubOptions,
    options: &Options,
    max_memory: Option<f64>,
    progress: impl Fn(Progress) -> Result<()> + 'static,
) -> Result<engine::Engine> {
    let progress: Report = Rc::new(progress);
    match load_once(text, spec, hub.clone(), options, max_memory, progress.clone()).await {
        Err(error) if error.code == Code::Internal && cleared(hub.clone()).await => {
            load_once(text, spec, hub, options, max_memory, progress).await
        }
        result => result,
    }
}

/// Whether the storage has nothing of any model, of which a load that has begun leaves something.
async fn cleared(hub: HubOptions) -> bool {
    match hub.open().await {
        Ok((models, keeps)) => keeps && models.list().await.is_ok_and(|models| models.is_empty()),
        Err(_) => false,
    }
}

async fn load_once(
    text: &str,
    spec: &Spec,
    hub: HubOptions,
    options: &Options,
    max_memory: Option<f64>,
    progress: Report,
) -> Result<engine::Engine> {
    let force = hub.force;
    let (models, keeps) = hub.open().await?;
    let mut listener = |report| progress(report);
    let found = models.find(spec, force).await?.filter(|found| keeps || found.in_ranges());
    let Some(found) = found else {
        let source = collect(&models, text, &mut listener).await?;
        fits(&source, options, max_memory).await?;
        return engine::Engine::load(Rc::new(source), options, &mut listener).await;
    };
    let source = models.look(&found).await?;
    fits(&source, options, max_memory).await?;
    if !keeps {
        return engine::Engine::load(Rc::new(source), options, &mut listener).await;
    }
    let model = models.begin(found, force, progress.clone()).await?;
    hub::load(Rc::new(model), options, &mut listener).await
}

/// What is behind an address of the page's own, `blob:` or `data:`.
pub async fn open_url(
    url: &str,
    progress: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<Box<dyn Source>> {
    let models = hub::Models::new(Client::new(None, None)?, Rc::new(MemoryStore::default()));
    let found = models.find(&Spec::Url(url.to_owned()), true).await?;
    Ok(match found.filter(hub::Found::in_ranges) {
        Some(found) => Box::new(models.look(&found).await?),
        None => Box::new(collect(&models, url, progress).await?),
    })
}

/// The file behind an address whose server sends no parts of it, or does not say how large it is.
async fn collect(
    models: &hub::Models,
    url: &str,
    progress: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<BlobSource> {
    let name = &store::file_name(url);
    let mut meter = None;
    let mut downloaded = |loaded, total: Option<u64>| {
        let meter = meter.get_or_insert_with(|| Meter::new(name, total.unwrap_or(0)));
        progress(meter.at(Stage::Download, loaded))
    };
    models.read_whole(name, url, async |response| store::collect(response, name, &mut downloaded).await).await
}

/// What the model called `spec` is and needs. No more of it than its header is fetched, and nothing kept.
pub async fn inspect(spec: &Spec, hub: HubOptions, options: &Options) -> Result<hub::Inspected> {
    let (models, _) = hub.open().await?;
    models.inspect(spec, options).await
}

/// What is in the browser's storage.
#[wasm_bindgen]
pub struct Models {
    models: hub::Models,
    keeps: bool,
    force: bool,
}

#[wasm_bindgen]
impl Models {
    /// Takes the options of a load. `on_retry` hears that a server is asked again.
    pub async fn open(options: JsValue, on_retry: Option<Function>) -> Result<Models, JsValue> {
        let options = from_js::<HubOptions>("options", &options)?.hearing(on_retry);
        let force = options.force;
        let (models, keeps) = options.open().await?;
        Ok(Models { models, keeps, force })
    }

    /// Fetches what the name means now, and verifies it.
    pub async fn pull(
        &self,
        stopper: &Stopper,
        model: String,
        on_progress: Function,
    ) -> Result<JsValue, JsValue> {
        if !self.keeps {
            return Err(Error::quota_exceeded("there is no storage here to keep a model in").into());
        }
        let spec = self.models.name(&model)?;
        let report = move |progress: Progress| {
            let _ = on_progress.call1(&JsValue::NULL, &to_js(&progress)?);
            Ok(())
        };
        stopper.around(self.models.pull(&spec, self.force, Rc::new(report))).await?;
        Ok(to_js(&self.models.peek(&spec).await?.cached())?)
    }

    /// Every model that is there, whole or in part.
    pub async fn list(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.models.list().await?)?)
    }

    /// Bytes that removing it freed.
    pub async fn remove(&self, model: String) -> Result<f64, JsValue> {
        Ok(self.models.remove(&self.models.name(&model)?).await? as f64)
    }

    /// Bytes: of models, of all that this origin keeps, and what it may keep.
    pub async fn usage(&self) -> Result<JsValue, JsValue> {
        #[derive(Serialize)]
        struct Usage {
            models: u64,
            used: Option<u64>,
            quota: Option<u64>,
        }
        let models = self.models.list().await?.iter().map(|model| model.stored).sum();
        let estimate = store::estimate().await;
        let (used, quota) =
            (estimate.map(|estimate| estimate.usage), estimate.map(|estimate| estimate.quota));
        Ok(to_js(&Usage { models, used, quota })?)
    }

    /// Reads models again, one or all, and compares their hashes.
    pub async fn verify(
        &self,
        stopper: &Stopper,
        model: Option<String>,
        on_progress: Function,
    ) -> Result<JsValue, JsValue> {
        #[derive(Serialize)]
        struct Checked {
            model: String,
            commit: String,
            verdict: hub::Verdict,
        }
        let cached = match model {
            Some(model) => self.models.cached(&self.models.name(&model)?).await?,
            None => self.models.list().await?,
        };
        let mut progress = |progress: Progress| {
            let _ = on_progress.call1(&JsValue::NULL, &to_js(&progress)?);
            Ok(())
        };
        let checking = async {
            let mut results = Vec::new();
            for cached in cached {
                let verdict = self.models.verify(&cached, &mut progress).await?;
                results.push(Checked { model: cached.model, commit: cached.commit, verdict });
            }
            Ok::<_, Error>(results)
        };
        let results = stopper.around(checking).await?;
        Ok(to_js(&results)?)
    }
}
