//! What JavaScript sees. No logic: types are converted here, work is done elsewhere.

mod models;

use crate::backend::cpu::pool::web as pool;
use crate::backend::gpu;
use crate::engine::{self, Device, Meter, Options, Progress, Stage};
use crate::openai::{Answer as Inner, ChatRequest, CompletionRequest};
use crate::store::{BlobSource, MemorySource, Source, open_url};
use crate::{Error, Result};
use js_sys::{Function, Reflect, Uint8Array};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::num::NonZeroUsize;
use wasm_bindgen::prelude::*;
use web_sys::{Blob, File};

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

fn from_js<T: DeserializeOwned>(what: &str, value: JsValue) -> Result<T> {
    serde_wasm_bindgen::from_value(value).map_err(|error| Error::invalid_argument(format!("{what}: {error}")))
}

fn request<T: TryFrom<Value, Error = Error>>(value: JsValue) -> Result<T> {
    from_js::<Value>("request", value)?.try_into()
}

fn to_js(value: &impl Serialize) -> Result<JsValue> {
    value.serialize(&serde_wasm_bindgen::Serializer::json_compatible()).map_err(Error::internal)
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct LoadOptions {
    device: Option<String>,
    context_length: Option<usize>,
    threads: Option<usize>,
    fallback: Option<bool>,
    profile: bool,
    gpu: Option<GpuOptions>,
    hub: models::HubOptions,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct GpuOptions {
    disable: Option<Vec<String>>,
    software: Option<bool>,
    faster: Option<bool>,
    cache: Option<String>,
}

impl LoadOptions {
    fn parse(self) -> Result<Options> {
        let device = match self.device {
            Some(name) => name.parse()?,
            None => Device::Auto,
        };
        let GpuOptions { disable, software, faster, cache } = self.gpu.unwrap_or_default();
        let gpu = gpu::Options {
            disable: disable.unwrap_or_default(),
            software: software.unwrap_or_default(),
            faster,
            cache,
            profile: self.profile,
            ..gpu::Options::default()
        };
        let positive =
            |count| NonZeroUsize::new(count).ok_or_else(|| Error::invalid_argument("threads is 0"));
        let threads = self.threads.map(positive).transpose()?;
        Ok(Options { device, context: self.context_length, threads, fallback: self.fallback, gpu })
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

/// A loaded model.
#[wasm_bindgen]
pub struct Engine(engine::Engine);

#[wasm_bindgen]
impl Engine {
    /// Loads a model from a `Blob`, a `Uint8Array`, an absolute address or a name on the Hub. To stop it, end the
    /// Worker.
    pub async fn load(source: JsValue, options: JsValue, on_progress: Function) -> Result<Engine, JsValue> {
        let mut load: LoadOptions =
            if options.is_undefined() { LoadOptions::default() } else { from_js("options", options)? };
        let hub = std::mem::take(&mut load.hub);
        let options = load.parse()?;
        let progress = move |progress: Progress| {
            // A listener that throws does not stop the loading.
            let _ = on_progress.call1(&JsValue::NULL, &to_js(&progress)?);
            Ok(())
        };
        if let Some(spec) = source.as_string().and_then(|text| models::name(&text)) {
            return Ok(Engine(models::load(&spec?, hub, &options, progress).await?));
        }
        let mut progress = progress;
        let source = open(source, &mut progress).await?;
        Ok(Engine(engine::Engine::load(source.into(), &options, &mut progress).await?))
    }

    /// What was loaded, and where it runs now.
    pub fn info(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(self.0.info().as_ref())?)
    }

    /// What the GPU's kernels have cost since the last call.
    pub async fn profile(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.0.kernel_times().await?)?)
    }

    /// Token ids of a text. `special`: special tokens written in the text count as such, and those
    /// that the model wants around a text are added.
    pub fn tokenize(&self, text: &str, special: bool) -> Result<Vec<u32>, JsValue> {
        let tokenizer = &self.0.language().tokenizer;
        Ok(if special {
            tokenizer.encode_with_special(text, true)?
        } else {
            tokenizer.encode(text, false)?
        })
    }

    /// The text of token ids.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String, JsValue> {
        let tokenizer = &self.0.language().tokenizer;
        tokenizer.check(ids)?;
        Ok(tokenizer.decode(ids))
    }

    /// The prompt text of a conversation.
    pub fn render(&self, body: JsValue) -> Result<String, JsValue> {
        Ok(self.0.language().render(&request::<ChatRequest>(body)?.conversation)?)
    }

    /// The scores of what follows each of `tokens`: as many rows of as many numbers as the model has tokens.
    pub async fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, JsValue> {
        let mut rows = Vec::new();
        self.0.logits(tokens, &mut |_, row| rows.extend_from_slice(row)).await?;
        Ok(rows)
    }

    /// Begins to answer a conversation, once it is this request's turn.
    pub async fn chat(&self, body: JsValue) -> Result<Answer, JsValue> {
        Ok(Answer(Inner::chat(&self.0, request::<ChatRequest>(body)?).await?))
    }

    /// Begins to continue a text, once it is this request's turn.
    pub async fn complete(&self, body: JsValue) -> Result<Answer, JsValue> {
        Ok(Answer(Inner::complete(&self.0, request::<CompletionRequest>(body)?).await?))
    }
}

/// An answer in the making; freeing it ends the work.
#[wasm_bindgen]
pub struct Answer(Inner);

#[wasm_bindgen]
impl Answer {
    /// One step: a chunk, or `undefined` at the end.
    pub async fn next(&mut self) -> Result<JsValue, JsValue> {
        match self.0.next().await? {
            Some(chunk) => Ok(to_js(&chunk)?),
            None => Ok(JsValue::UNDEFINED),
        }
    }

    /// All that has come so far, as one answer.
    pub fn result(&self) -> Result<JsValue, JsValue> {
        Ok(to_js(&self.0.result())?)
    }
}

async fn open(source: JsValue, progress: &mut dyn FnMut(Progress) -> Result<()>) -> Result<Box<dyn Source>> {
    if let Some(url) = source.as_string() {
        let mut meter = None;
        let mut downloaded = |name: &str, loaded, total: Option<u64>| {
            let meter = meter.get_or_insert_with(|| Meter::new(name, total.unwrap_or(0)));
            progress(meter.at(Stage::Download, loaded))
        };
        return open_url(&url, &mut downloaded).await;
    }
    if let Some(file) = source.dyn_ref::<File>() {
        return Ok(Box::new(BlobSource::new(file.name(), Blob::from(file.clone()))));
    }
    if let Some(blob) = source.dyn_ref::<Blob>() {
        return Ok(Box::new(BlobSource::new("model", blob.clone())));
    }
    if let Some(bytes) = source.dyn_ref::<Uint8Array>() {
        return Ok(Box::new(MemorySource::new("model", bytes.to_vec())));
    }
    Err(Error::invalid_argument("a model is loaded from an address, a File, a Blob or bytes"))
}
