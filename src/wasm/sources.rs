//! What JavaScript gives as a model: the name of one, an address, a `File` or `Blob`, or bytes.

use super::models::{self, HubOptions};
use super::to_js;
use crate::engine::{self, Options, Progress};
use crate::store::{self, BlobSource, BytesSource, Source};
use crate::{Error, Result};
use js_sys::Uint8Array;
use wasm_bindgen::prelude::*;
use web_sys::{Blob, File};

/// What to call a source in reasons.
pub fn name(source: &JsValue) -> String {
    match (source.as_string(), source.dyn_ref::<File>()) {
        (Some(url), _) => store::file_name(&url),
        (None, Some(file)) => file.name(),
        (None, None) => "the model".to_owned(),
    }
}

/// Loads it.
pub async fn load(
    source: JsValue,
    hub: HubOptions,
    options: &Options,
    max_memory: Option<f64>,
    progress: impl Fn(Progress) -> Result<()> + 'static,
) -> Result<engine::Engine> {
    if let Some(text) = source.as_string()
        && let Some(spec) = models::name(&text, &hub).transpose()?
    {
        return models::load(&text, &spec, hub, options, max_memory, progress).await;
    }
    let mut progress = |report| progress(report);
    let source = open(source, &mut progress).await?;
    fits(source.as_ref(), options, max_memory).await?;
    engine::Engine::load(source.into(), options, &mut progress).await
}

/// Looks at it; no more of it than its header is read.
pub async fn inspect(source: JsValue, hub: HubOptions, options: &Options) -> Result<JsValue> {
    let named = source.as_string().and_then(|text| models::name(&text, &hub)).transpose()?;
    match named {
        Some(spec) => to_js(&models::inspect(&spec, hub, options).await?),
        None => to_js(&engine::inspect(open(source, &mut |_| Ok(())).await?.as_ref(), options).await?),
    }
}

async fn open(source: JsValue, progress: &mut dyn FnMut(Progress) -> Result<()>) -> Result<Box<dyn Source>> {
    if let Some(url) = source.as_string() {
        return models::open_url(&url, progress).await;
    }
    if let Some(file) = source.dyn_ref::<File>() {
        return Ok(Box::new(BlobSource::new(file.name(), Blob::from(file.clone()))));
    }
    if let Some(blob) = source.dyn_ref::<Blob>() {
        return Ok(Box::new(BlobSource::new("model", blob.clone())));
    }
    if let Some(bytes) = source.dyn_ref::<Uint8Array>() {
        return Ok(Box::new(BytesSource::new("model", bytes.clone())));
    }
    Err(Error::invalid_argument("a model is loaded from an address, a File, a Blob or bytes"))
}

/// Fails where it takes more bytes than `max_memory`.
pub async fn fits(source: &dyn Source, options: &Options, max_memory: Option<f64>) -> Result<()> {
    match max_memory {
        Some(limit) => engine::fits(source, options, limit as u64).await,
        None => Ok(()),
    }
}
