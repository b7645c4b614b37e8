//! Helpers as Workers, which JavaScript starts. Without threads in this build, or in this page, it starts none.

use js_sys::{Function, Promise, Reflect};
use std::cell::RefCell;
use std::sync::atomic::AtomicU32;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

thread_local! {
    static STARTER: RefCell<Option<Function>> = const { RefCell::new(None) };
}

/// From now on helpers are started by `starter(help, crashed)`: it starts a Worker that calls [`help`] with its first
/// argument, adds one to the i32 at the address `crashed` if that traps, and gives a promise of whether the Worker runs.
pub(crate) fn set_starter(starter: Function) {
    STARTER.set(Some(starter));
}

/// What the browser says of the machine; one where it starts no helpers.
pub(crate) fn cores() -> usize {
    if STARTER.with_borrow(Option::is_none) {
        return 1;
    }
    let navigator = Reflect::get(&js_sys::global(), &"navigator".into());
    let cores = navigator.and_then(|navigator| Reflect::get(&navigator, &"hardwareConcurrency".into()));
    cores.ok().and_then(|cores| cores.as_f64()).map_or(1, |cores| cores as usize)
}

type Work = Box<dyn FnOnce() + Send>;

/// What a helper's Worker calls, once, with the number that the starter got.
///
/// # Safety
/// The number must be one of those, not used before.
pub(crate) unsafe fn help(pointer: usize) {
    // SAFETY: made by `start`, in memory that all Workers share.
    let work = unsafe { Box::from_raw(pointer as *mut Work) };
    work();
}

pub(crate) struct Helper {
    running: Option<Promise>,
    runs: bool,
}

pub(crate) fn start(
    _index: usize,
    crashed: &AtomicU32,
    help: impl FnOnce() + Send + 'static,
) -> Option<Helper> {
    let starter = STARTER.with_borrow(Option::clone)?;
    let pointer = Box::into_raw(Box::new(Box::new(help) as Work));
    let crashed = crashed.as_ptr() as usize;
    let started = starter.call2(
        &JsValue::NULL,
        &JsValue::from(pointer as usize as f64),
        &JsValue::from(crashed as f64),
    );
    match started.ok().and_then(|promise| promise.dyn_into::<Promise>().ok()) {
        Some(running) => Some(Helper { running: Some(running), runs: false }),
        None => {
            // SAFETY: nobody has been told of it.
            drop(unsafe { Box::from_raw(pointer) });
            None
        }
    }
}

impl Helper {
    pub(crate) async fn started(&mut self) {
        if let Some(running) = self.running.take() {
            self.runs = JsFuture::from(running).await.is_ok_and(|runs| runs.is_truthy());
        }
    }

    pub(crate) fn runs(&self) -> bool {
        self.runs
    }

    /// A Worker ends by itself; to wait for it here would keep it from ending.
    pub(crate) fn join(self) {}
}
