//! What wgpu does not say about a browser's device.

use js_sys::Reflect;
use wasm_bindgen::JsValue;

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
