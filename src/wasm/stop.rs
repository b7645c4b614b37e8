//! How a page gives up what it waits for.

use crate::{Error, Result};
use futures_util::stream::{AbortHandle, AbortRegistration, Abortable};
use std::cell::Cell;
use wasm_bindgen::prelude::*;

/// Ends one call that is under way, and with it the call's transfers.
#[wasm_bindgen]
pub struct Stopper {
    handle: AbortHandle,
    registration: Cell<Option<AbortRegistration>>,
}

#[wasm_bindgen]
impl Stopper {
    /// For one call.
    #[wasm_bindgen(constructor)]
    #[allow(clippy::new_without_default, reason = "JavaScript has no Default")]
    pub fn new() -> Stopper {
        let (handle, registration) = AbortHandle::new_pair();
        Stopper { handle, registration: Cell::new(Some(registration)) }
    }

    /// The call that it was given to fails with `aborted`.
    pub fn stop(&self) {
        self.handle.abort();
    }
}

impl Stopper {
    /// `work`, which is dropped where it is when it is stopped.
    pub(super) async fn around<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let registration =
            self.registration.take().ok_or_else(|| Error::internal("a stopper is for one call"))?;
        let stopped = |_| Err(Error::aborted("The request was aborted."));
        Abortable::new(work, registration).await.unwrap_or_else(stopped)
    }
}
