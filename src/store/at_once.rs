//! Work that goes on at once when what it waits for has happened.

use futures_util::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = queueMicrotask)]
    fn queue_microtask(work: &JsValue);
}

/// Runs `work` to its end, whether or not somebody polls for it. It goes on in the microtask after the callback that
/// woke it. Where wasm has threads, wasm-bindgen's own executor goes on later than that, and transactions of IndexedDB
/// have ended by then.
pub(super) fn at_once(work: impl Future<Output = ()> + 'static) {
    Arc::new(AtOnce { work: RefCell::new(Some(Box::pin(work))), woken: Cell::new(false) }).wake();
}

struct AtOnce {
    /// Nothing once it is done.
    work: RefCell<Option<LocalBoxFuture<'static, ()>>>,
    /// It will go on, so it need not be told again.
    woken: Cell<bool>,
}

// SAFETY: wakers want both, and none of these leaves its thread: they are given to callbacks of JavaScript's objects and
// to locks, and neither is shared with other threads.
unsafe impl Send for AtOnce {}
// SAFETY: as above.
unsafe impl Sync for AtOnce {}

impl Wake for AtOnce {
    fn wake(self: Arc<Self>) {
        if !self.woken.replace(true) {
            queue_microtask(&Closure::once_into_js(move || self.go_on()));
        }
    }
}

impl AtOnce {
    fn go_on(self: Arc<Self>) {
        self.woken.set(false);
        let waker = Waker::from(self.clone());
        let mut work = self.work.borrow_mut();
        if let Some(future) = work.as_mut()
            && future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            *work = None;
        }
    }
}
