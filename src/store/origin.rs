//! What the tabs of one origin share: room, and turns.

use futures_util::future::{Either, select};
use js_sys::{Function, Promise, Reflect};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(catch, js_namespace = ["navigator", "storage"], js_name = estimate)]
    fn storage_estimate() -> Result<Promise, JsValue>;

    /// The root of the origin's private file system.
    #[wasm_bindgen(catch, js_namespace = ["navigator", "storage"], js_name = getDirectory)]
    pub fn directory() -> Result<Promise, JsValue>;

    #[wasm_bindgen(catch, js_namespace = ["navigator", "locks"], js_name = request)]
    fn request_lock(name: &str, options: &JsValue, granted: &JsValue) -> Result<Promise, JsValue>;
}

/// Bytes, as the browser guesses: <https://storage.spec.whatwg.org/#usage-and-quota>
#[derive(Debug, Clone, Copy)]
pub struct Estimate {
    /// What this origin may use.
    pub quota: u64,
    /// What it uses.
    pub usage: u64,
}

/// Nothing where the browser does not say.
pub async fn estimate() -> Option<Estimate> {
    let estimate = JsFuture::from(storage_estimate().ok()?).await.ok()?;
    let number = |name: &str| Some(Reflect::get(&estimate, &name.into()).ok()?.as_f64()? as u64);
    Some(Estimate { quota: number("quota")?, usage: number("usage")? })
}

/// A turn, until it is dropped or its tab ends.
pub(super) struct Turn(Option<Function>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(release) = &self.0 {
            // Resolving a promise cannot fail.
            let _ = release.call0(&JsValue::NULL);
        }
    }
}

/// Waits for one's turn: <https://www.w3.org/TR/web-locks/>. Pages without a secure origin have no locks: there
/// everybody has a turn at once, and at worst fetches a piece that another tab has fetched as well.
pub(super) async fn lock(name: &str) -> Turn {
    let (turn, _) = request(name, false).await;
    turn
}

/// A turn, where nobody has it.
pub(super) async fn try_lock(name: &str) -> Option<Turn> {
    let (turn, granted) = request(name, true).await;
    granted.then_some(turn)
}

async fn request(name: &str, only_if_free: bool) -> (Turn, bool) {
    let mut release = None;
    let held = Promise::new(&mut |resolve, _| release = Some(resolve));
    let turn = Turn(release);
    let options = js_sys::Object::new();
    // Setting a property of a fresh object cannot fail.
    let _ = Reflect::set(&options, &"ifAvailable".into(), &only_if_free.into());
    let mut ended = None;
    let answered = Promise::new(&mut |answer, _| {
        let held = held.clone();
        let granted = Closure::once_into_js(move |lock: JsValue| {
            let _ = answer.call1(&JsValue::NULL, &JsValue::from(!lock.is_null()));
            JsValue::from(held)
        });
        ended = request_lock(name, &options, &granted).ok();
    });
    let Some(ended) = ended else { return (turn, true) };
    match select(JsFuture::from(answered), JsFuture::from(ended)).await {
        Either::Left((answer, _)) => (turn, answer.is_ok_and(|granted| granted.is_truthy())),
        // It ends before it was granted only where there are no locks, as in frames without an origin.
        Either::Right(_) => (turn, true),
    }
}
