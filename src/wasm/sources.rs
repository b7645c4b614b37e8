//! What JavaScript gives as a model: the name of one, an address, a `File` or `Blob`, or bytes; or a list of these, which
//! are one model in several files.

use super::models::{self, HubOptions};
use super::to_js;
use crate::engine::{self, Options};
use crate::format::gguf;
use crate::hub::Spec;
use crate::progress::Progress;
use crate::store::{self, BlobSource, BytesSource, Source};
use crate::{Error, Result};
use js_sys::{Array, Uint8Array};
use wasm_bindgen::prelude::*;
use web_sys::{Blob, File};

/// What to call a source in reasons.
pub(super) fn name(source: &JsValue) -> String {
    let first = files(source).get(0);
    match (first.as_string(), first.dyn_ref::<File>()) {
        (Some(url), _) => store::file_name(&url),
        (None, Some(file)) => file.name(),
        (None, None) => "the model".to_owned(),
    }
}

/// Loads it.
pub(super) async fn load(
    source: JsValue,
    hub: HubOptions,
    options: &Options,
    progress: impl Fn(Progress) -> Result<()> + 'static,
) -> Result<engine::Engine> {
    if let Some(spec) = spec(&source, &hub)? {
        return models::load(&spec, hub, options, progress).await;
    }
    let mut progress = models::steady(progress);
    let source = open(&source, &mut progress).await?;
    engine::fits(source.as_ref(), options).await?;
    engine::Engine::load(source.into(), options, &mut progress).await
}

/// Looks at it; no more of it than its header is read.
pub(super) async fn inspect(source: JsValue, hub: HubOptions, options: &Options) -> Result<JsValue> {
    match spec(&source, &hub)? {
        Some(spec) => to_js(&models::inspect(&spec, hub, options).await?),
        None => to_js(&engine::inspect(open(&source, &mut |_| Ok(())).await?.as_ref(), options).await?),
    }
}

/// The texts that a source consists of, where it is one or several of these and nothing else.
pub(super) fn texts(source: &JsValue) -> Option<Vec<String>> {
    files(source).iter().map(|file| file.as_string()).collect()
}

/// What it names, where it is a name or addresses.
fn spec(source: &JsValue, hub: &HubOptions) -> Result<Option<Spec>> {
    match texts(source) {
        Some(texts) => models::name(&texts, hub),
        None => Ok(None),
    }
}

fn files(source: &JsValue) -> Array {
    match source.dyn_ref::<Array>() {
        Some(files) => files.clone(),
        None => Array::of1(source),
    }
}

async fn open(source: &JsValue, progress: &mut dyn FnMut(Progress) -> Result<()>) -> Result<Box<dyn Source>> {
    let mut files = Vec::new();
    for file in self::files(source) {
        files.push(open_file(&file, progress).await?);
    }
    if files.is_empty() {
        return Err(Error::invalid_argument("an empty list is no model"));
    }
    Ok(Box::new(gguf::join(files).await?))
}

async fn open_file(
    file: &JsValue,
    progress: &mut dyn FnMut(Progress) -> Result<()>,
) -> Result<Box<dyn Source>> {
    if let Some(url) = file.as_string() {
        return models::open_url(&url, progress).await;
    }
    if let Some(file) = file.dyn_ref::<File>() {
        return Ok(Box::new(BlobSource::new(file.name(), Blob::from(file.clone()))));
    }
    if let Some(blob) = file.dyn_ref::<Blob>() {
        return Ok(Box::new(BlobSource::new("model", blob.clone())));
    }
    if let Some(bytes) = file.dyn_ref::<Uint8Array>() {
        return Ok(Box::new(BytesSource::new("model", bytes.clone())));
    }
    Err(Error::invalid_argument("a model is loaded from an address, a File, a Blob or bytes"))
}
