//! What wgpu does not say about a browser's device, and what it does not do there.

use super::shader::Described;
use js_sys::{Array, Function, Object, Promise, Reflect};
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

fn get(object: &JsValue, name: &str) -> Option<JsValue> {
    Reflect::get(object, &name.into()).ok().filter(|value| !value.is_undefined() && !value.is_null())
}

/// Whether shaders may use subgroups. wgpu cannot ask for them on the web (gfx-rs/wgpu#10146); the
/// package's Worker adds them to every request for a device (`pkg/src/webgpu.ts`).
pub(super) fn has_subgroups(device: &wgpu::Device) -> bool {
    device.as_webgpu().is_some_and(|device| device.features().has("subgroups"))
}

/// Vendor and architecture: browsers keep the description to themselves.
pub(super) fn adapter_name(device: &wgpu::Device) -> String {
    let Some(info) = device.as_webgpu().and_then(|device| get(device.as_ref(), "adapterInfo")) else {
        return String::new();
    };
    let words =
        ["vendor", "architecture", "device"].map(|name| get(&info, name).and_then(|word| word.as_string()));
    let words: Vec<String> = words.into_iter().flatten().filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

/// Calls `object.name(...arguments)` and waits where that is a promise.
async fn call(object: &JsValue, name: &str, arguments: &[JsValue]) -> Result<JsValue, JsValue> {
    let result = call_now(object, name, arguments)?;
    match result.dyn_into::<Promise>() {
        Ok(promise) => JsFuture::from(promise).await,
        Err(value) => Ok(value),
    }
}

fn call_now(object: &JsValue, name: &str, arguments: &[JsValue]) -> Result<JsValue, JsValue> {
    let function: Function = Reflect::get(object, &name.into())?.dyn_into()?;
    function.apply(object, &arguments.iter().collect::<Array>())
}

/// A browser's version stands for that of its WebGPU.
pub(super) fn host() -> String {
    get_global("navigator")
        .and_then(|navigator| get(&navigator, "userAgent"))
        .and_then(|agent| agent.as_string())
        .unwrap_or_default()
}

fn get_global(name: &str) -> Option<JsValue> {
    get(&js_sys::global(), name)
}

/// The Cache in which texts are kept as answers to requests that nobody makes.
async fn cache(name: Option<&str>) -> Result<JsValue, JsValue> {
    let caches = get_global("caches").ok_or(JsValue::NULL)?;
    call(&caches, "open", &[name.unwrap_or("candlewick-gpu").into()]).await
}

/// The address of a key: an absolute one, because relative ones fail in Workers from a `blob:` address.
fn address(key: &str) -> JsValue {
    format!("https://candlewick.invalid/gpu/{}", js_sys::encode_uri_component(key)).into()
}

pub(super) async fn get_text(store: Option<&str>, key: &str) -> Option<String> {
    let found = call(&cache(store).await.ok()?, "match", &[address(key)]).await.ok()?;
    call(&found, "text", &[]).await.ok()?.as_string()
}

pub(super) async fn put_text(store: Option<&str>, key: &str, text: &str) {
    let put = async {
        let response: Function = get_global("Response").ok_or(JsValue::NULL)?.dyn_into()?;
        let response = Reflect::construct(&response, &Array::of1(&text.into()))?;
        call(&cache(store).await?, "put", &[address(key), response]).await
    };
    // What cannot be kept is found out again.
    _ = put.await;
}

/// Pipelines under way in the browser, compiled beside each other. wgpu knows only the other way, in which the
/// browser compiles one after the other when they are first used; but it then finds what is here already.
pub(super) struct Compilation {
    device: JsValue,
    layouts: std::collections::HashMap<Vec<bool>, JsValue>,
}

impl Compilation {
    pub(super) fn new(device: &wgpu::Device) -> Option<Self> {
        let device: JsValue = AsRef::<JsValue>::as_ref(device.as_webgpu()?).clone();
        Some(Compilation { device, layouts: Default::default() })
    }

    /// Begins with a pipeline. What comes is for [`compiled`]; nobody has to wait for it.
    pub(super) fn begin(&mut self, described: &Described) -> Result<Promise, JsValue> {
        let layout = match self.layouts.get(&described.writable) {
            Some(layout) => layout.clone(),
            None => {
                let layout = self.layout(&described.writable)?;
                self.layouts.insert(described.writable.clone(), layout.clone());
                layout
            }
        };
        // What is wrong with a module comes back with its pipeline too.
        call_now(&self.device, "pushErrorScope", &["validation".into()])?;
        let code = object(&[("code", described.source.as_str().into())]);
        let module = call_now(&self.device, "createShaderModule", &[code])?;
        let compute = object(&[("module", module), ("entryPoint", described.kernel.name.into())]);
        let descriptor = object(&[("layout", layout), ("compute", compute)]);
        let pipeline = call_now(&self.device, "createComputePipelineAsync", &[descriptor])?;
        let scope = call_now(&self.device, "popErrorScope", &[])?;
        // A promise that nobody waits for must not be rejected.
        Ok(Promise::all_settled(&Array::of2(&pipeline, &scope)))
    }

    fn layout(&self, writable: &[bool]) -> Result<JsValue, JsValue> {
        const COMPUTE: u32 = 4;
        let entry = |binding: usize, buffer: JsValue| {
            object(&[
                ("binding", (binding as u32).into()),
                ("visibility", COMPUTE.into()),
                ("buffer", buffer),
            ])
        };
        let uniform = object(&[("type", "uniform".into()), ("hasDynamicOffset", true.into())]);
        let entries = Array::of1(&entry(0, uniform));
        for (index, &writable) in writable.iter().enumerate() {
            let kind = if writable { "storage" } else { "read-only-storage" };
            entries.push(&entry(index + 1, object(&[("type", kind.into())])));
        }
        let group =
            call_now(&self.device, "createBindGroupLayout", &[object(&[("entries", entries.into())])])?;
        let groups = object(&[("bindGroupLayouts", Array::of1(&group).into())]);
        call_now(&self.device, "createPipelineLayout", &[groups])
    }
}

/// The pipeline that was begun with, or why there is none.
pub(super) async fn compiled(begun: Promise) -> Result<JsValue, JsValue> {
    let settled = JsFuture::from(begun).await?.dyn_into::<Array>()?.get(0);
    match get(&settled, "value") {
        Some(pipeline) => Ok(pipeline),
        None => Err(get(&settled, "reason").unwrap_or(JsValue::UNDEFINED)),
    }
}

fn object(fields: &[(&str, JsValue)]) -> JsValue {
    let object = Object::new();
    for (name, value) in fields {
        // Setting a property of a fresh object cannot fail.
        _ = Reflect::set(&object, &(*name).into(), value);
    }
    object.into()
}

/// An error's own words.
pub(super) fn message(error: &JsValue) -> String {
    get(error, "message").and_then(|message| message.as_string()).unwrap_or_else(|| format!("{error:?}"))
}
