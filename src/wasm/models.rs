//! Models by name: the Hub, and the browser's storage.

use super::{from_js, to_js};
use crate::engine::{self, Meter, Options, Progress, Stage};
use crate::http::{Backoff, Timeouts};
use crate::hub::{self, Client, Report, Sizes, Spec, Token};
use crate::store::{self, IndexedDbStore, MemoryStore, Store};
use crate::{Error, Result};
use js_sys::Function;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;
use wasm_bindgen::prelude::*;

/// How to reach the Hub, and what to keep.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub struct HubOptions {
    token: Option<String>,
    #[serde(rename = "hubURL")]
    hub_url: Option<String>,
    cache: Option<bool>,
    cache_budget: Option<u64>,
    force: bool,
    transfer: Option<Transfer>,
}

/// For tests: small pieces, little patience.
#[derive(Deserialize)]
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
    /// The models, and whether what is fetched of them can be kept.
    async fn open(self) -> Result<(hub::Models, bool)> {
        let mut client = Client::new(self.hub_url.as_deref(), self.token.as_deref().and_then(Token::new))?;
        let mut sizes = Sizes::default();
        if let Some(transfer) = self.transfer {
            let longest = Duration::from_millis(transfer.longest_wait_ms);
            let silence = Duration::from_millis(transfer.silence_ms);
            client = client.patience(
                Backoff::new(longest / 4, longest, transfer.attempts),
                Timeouts { head: silence, stall: silence },
            );
            let (range, block) = (transfer.range.max(1), transfer.block.max(1));
            sizes = Sizes { range, block, parallel: transfer.parallel.max(1), ..sizes };
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

/// What a text names on the Hub; nothing where it is an address of something else. Addresses of the page's own kinds
/// (`blob:`, `data:`) are no names either.
pub fn name(text: &str) -> Option<Result<Spec>> {
    match text.parse() {
        Ok(Spec::Url(_)) => None,
        Ok(spec @ Spec::Hub(_)) => Some(Ok(spec)),
        _ if text.starts_with("blob:") || text.starts_with("data:") || text.contains("://") => None,
        _ => Some(Err(Error::invalid_argument(format!(
            "\"{text}\" is no name of a model. Give owner/repo, owner/repo:QUANT, owner/repo/file.gguf or the URL of a .gguf file"
        )))),
    }
}

/// From the browser's storage where it is there, else from the Hub and into the storage. Where nothing can be kept, the
/// weights go from the network to the device, without a second copy in memory.
pub async fn load(
    spec: &Spec,
    hub: HubOptions,
    options: &Options,
    progress: impl Fn(Progress) -> Result<()> + 'static,
) -> Result<engine::Engine> {
    let force = hub.force;
    let (models, keeps) = hub.open().await?;
    let progress: Report = Rc::new(progress);
    let mut listener = |report| progress(report);
    if !keeps {
        let source = models.peek(spec).await?;
        return engine::Engine::load(source.into(), options, &mut listener).await;
    }
    let model = models.open(spec, force, progress.clone()).await?;
    hub::load(Rc::new(model), options, &mut listener).await
}

/// What is in the browser's storage.
#[wasm_bindgen]
pub struct Models(hub::Models);

#[wasm_bindgen]
impl Models {
    /// Takes the options of a load.
    pub async fn open(options: JsValue) -> Result<Models, JsValue> {
        let (models, _) = from_js::<HubOptions>("options", options)?.open().await?;
        Ok(Models(models))
    }

    /// Every model that is there, whole or in part.
    pub async fn list(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.0.list().await?)?)
    }

    /// Bytes that removing it freed.
    pub async fn remove(&self, model: String) -> Result<f64, JsValue> {
        Ok(self.0.remove(&stored(&model)?).await? as f64)
    }

    /// Bytes: of models, of all that this origin keeps, and what it may keep.
    pub async fn usage(&self) -> Result<JsValue, JsValue> {
        #[derive(Serialize)]
        struct Usage {
            models: u64,
            used: Option<u64>,
            quota: Option<u64>,
        }
        let models = self.0.list().await?.iter().map(|model| model.stored).sum();
        let estimate = store::estimate().await;
        let (used, quota) =
            (estimate.map(|estimate| estimate.usage), estimate.map(|estimate| estimate.quota));
        Ok(to_js(&Usage { models, used, quota })?)
    }

    /// Reads models again, one or all, and compares their hashes.
    pub async fn verify(&self, model: Option<String>, on_progress: Function) -> Result<JsValue, JsValue> {
        #[derive(Serialize)]
        struct Checked {
            model: String,
            commit: String,
            verdict: &'static str,
        }
        let cached = match model {
            Some(model) => self.0.cached(&stored(&model)?).await?,
            None => self.0.list().await?,
        };
        let mut results = Vec::new();
        for hub::Cached { model, commit, size, complete, keys, .. } in cached {
            let meter = Meter::new(&model, size);
            let mut read = 0;
            let mut progress = |bytes| {
                read += bytes;
                let _ = on_progress.call1(&JsValue::NULL, &to_js(&meter.at(Stage::Load, read))?);
                Ok(())
            };
            let mut verdict = if complete { "right" } else { "incomplete" };
            for key in keys.iter().filter(|_| complete) {
                match self.0.verify(key, &mut progress).await? {
                    Some(true) => {}
                    Some(false) => verdict = "wrong",
                    None if verdict == "right" => verdict = "unknown",
                    None => {}
                }
            }
            results.push(Checked { model, commit, verdict });
        }
        Ok(to_js(&results)?)
    }
}

fn stored(model: &str) -> Result<Spec> {
    name(model).unwrap_or_else(|| model.parse())
}
