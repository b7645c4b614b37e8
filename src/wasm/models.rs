//! Models by name: the Hub, and the browser's storage.

use super::sources;
use super::stop::Stopper;
use super::value::from_js;
use super::{hearer, to_js};
use crate::engine::{self, Options};
use crate::format::gguf;
use crate::http::{Backoff, OnRetry, Timeouts, Token};
use crate::hub::{self, Client, Found, Report, Sizes, Spec};
use crate::load;
use crate::progress::{Meter, Progress, Stage, Steady};
use crate::store::{self, BlobSource, IndexedDbStore, Joined, MemoryStore, Source, Store};
use crate::{Code, Error, Result};
use js_sys::Function;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;
use wasm_bindgen::prelude::*;

/// How to reach the Hub, and what to keep.
#[derive(Deserialize, Default, Clone)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HubOptions {
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
    pub(super) fn hearing(self, on_retry: Option<Function>) -> HubOptions {
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

/// What texts name on the Hub or other servers, several the files of one model; nothing where one is an address of the
/// page's own kinds (`blob:`, `data:`).
pub(super) fn name(texts: &[String], hub: &HubOptions) -> Result<Option<Spec>> {
    let mirror = hub.hub_url.as_deref();
    if texts.is_empty() || texts.iter().any(|text| is_of_page(text, mirror)) {
        return Ok(None);
    }
    match Spec::of_files(texts, mirror)? {
        Spec::Path(path) => Err(Error::invalid_argument(format!(
            "\"{path}\" is no name of a model. Give owner/repo, owner/repo:QUANT, owner/repo/file.gguf or the URL of a .gguf file"
        ))),
        spec => Ok(Some(spec)),
    }
}

fn is_of_page(text: &str, mirror: Option<&str>) -> bool {
    match Spec::at(text, mirror) {
        Ok(Spec::Path(path)) => path.starts_with("blob:") || path.starts_with("data:"),
        // `blob:https://…`, and what extensions have.
        Err(_) => text.split_once("://").is_some_and(|(scheme, _)| !is_the_hubs(scheme)),
        Ok(_) => false,
    }
}

fn is_the_hubs(scheme: &str) -> bool {
    ["https", "http", "hf"].iter().any(|known| scheme.trim().eq_ignore_ascii_case(known))
}

/// The model called `spec`: from the browser's storage where it is there, else from its server and into the storage.
/// Where nothing can be kept, the weights go from the network to the device, without a second copy in memory. When the
/// user clears the site's data meanwhile, it is fetched once more.
pub(super) async fn load(
    spec: &Spec,
    hub: HubOptions,
    options: &Options,
    progress: impl Fn(Progress) -> Result<()> + 'static,
) -> Result<engine::Engine> {
    let progress: Report = Rc::new(steady(progress));
    match load_once(spec, hub.clone(), options, progress.clone()).await {
        Err(error) if error.code == Code::Internal && cleared(hub.clone()).await => {
            load_once(spec, hub, options, progress).await
        }
        result => result,
    }
}

/// One account of everything that is done for a load, also where that is a download before it.
pub(super) fn steady(
    progress: impl Fn(Progress) -> Result<()> + 'static,
) -> impl Fn(Progress) -> Result<()> + 'static {
    let steady = Steady::default();
    move |report| progress(steady.follow(report))
}

/// Whether the storage has nothing of any model, of which a load that has begun leaves something.
async fn cleared(hub: HubOptions) -> bool {
    match hub.open().await {
        Ok((models, keeps)) => keeps && models.list().await.is_ok_and(|models| models.is_empty()),
        Err(_) => false,
    }
}

async fn load_once(
    spec: &Spec,
    hub: HubOptions,
    options: &Options,
    progress: Report,
) -> Result<engine::Engine> {
    let force = hub.force;
    let (models, keeps) = hub.open().await?;
    let mut listener = |report| progress(report);
    let found = models.find(spec, force).await?;
    let size = found.as_ref().map(Found::size);
    let Some(found) = found.filter(|found| keeps || found.in_ranges()) else {
        let source = collect(&models, &hub::Models::addresses(spec)?, size, &mut listener).await?;
        engine::fits(&source, options).await?;
        return engine::Engine::load(Rc::new(source), options, &mut listener).await;
    };
    let source = models.look(&found).await?;
    engine::fits(&source, options).await?;
    if !keeps {
        return engine::Engine::load(Rc::new(source), options, &mut listener).await;
    }
    let model = models.begin(found, force, progress.clone()).await?;
    load::load_model(Rc::new(model), options, &mut listener).await
}

/// What is behind an address of the page's own, `blob:` or `data:`.
pub(super) async fn open_url(
    url: &str,
    progress: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<Box<dyn Source>> {
    let models = hub::Models::new(Client::new(None, None)?, Rc::new(MemoryStore::default()));
    let found = models.find(&Spec::Url(url.to_owned()), true).await?;
    let size = found.as_ref().map(Found::size);
    Ok(match found.filter(Found::in_ranges) {
        Some(found) => Box::new(models.look(&found).await?),
        None => Box::new(collect(&models, &[url.to_owned()], size, progress).await?),
    })
}

/// The files of a model whose servers send no parts of them, or do not say how large they are; of those, one alone says
/// it when it comes.
async fn collect(
    models: &hub::Models,
    urls: &[String],
    size: Option<u64>,
    progress: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<Joined<BlobSource>> {
    let name = urls.first().map_or_else(String::new, |url| store::file_name(url));
    let (mut meter, mut files, mut before) = (None, Vec::new(), 0_u64);
    for url in urls {
        let mut downloaded = |loaded: u64, told: Option<u64>| {
            let told = told.filter(|_| urls.len() == 1);
            let meter = meter.get_or_insert_with(|| Meter::new(&name, size.or(told).unwrap_or(0)));
            progress(meter.at(Stage::Download, before + loaded))
        };
        let name = &store::file_name(url);
        let read = async |response| store::collect(response, name, &mut downloaded).await;
        let file = models.read_whole(name, url, read).await?;
        before += file.len();
        files.push(file);
    }
    gguf::join(files).await
}

/// What the model called `spec` is and needs. No more of it than its header is fetched, and nothing kept.
pub(super) async fn inspect(spec: &Spec, hub: HubOptions, options: &Options) -> Result<load::Inspected> {
    let (models, _) = hub.open().await?;
    load::inspect(&models, spec, options).await
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

    /// Fetches what a name or addresses mean now, and verifies it.
    pub async fn pull(
        &self,
        stopper: &Stopper,
        model: JsValue,
        on_progress: Function,
    ) -> Result<JsValue, JsValue> {
        if !self.keeps {
            return Err(Error::quota_exceeded("there is no storage here to keep a model in").into());
        }
        let spec = self.name(&model)?;
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
    pub async fn remove(&self, model: JsValue) -> Result<f64, JsValue> {
        Ok(self.models.remove(&self.name(&model)?).await? as f64)
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
        model: JsValue,
        on_progress: Function,
    ) -> Result<JsValue, JsValue> {
        #[derive(Serialize)]
        struct Checked {
            model: String,
            commit: String,
            verdict: hub::Verification,
        }
        let cached = match model.is_undefined() {
            true => self.models.list().await?,
            false => self.models.cached(&self.name(&model)?).await?,
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

impl Models {
    fn name(&self, model: &JsValue) -> Result<Spec> {
        let texts = sources::texts(model).ok_or_else(|| {
            Error::invalid_argument("what is kept has a name or an address: files and bytes have none")
        })?;
        self.models.files(&texts)
    }
}
