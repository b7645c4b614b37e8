//! An open database, and what its requests come to.

use crate::http::sleep;
use crate::{Code, Error, Result};
use futures_util::future::{Either, select};
use js_sys::{Array, Promise, Reflect};
use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    DomException, IdbDatabase, IdbFactory, IdbOpenDbRequest, IdbRequest, IdbTransaction, IdbTransactionMode,
};

pub(super) const NAME: &str = "candlewick";
/// A store that changes its meaning gets another name.
pub(super) const FILES: &str = "files";
pub(super) const PIECES: &str = "pieces";
pub(super) const NOTES: &str = "notes";
const STORES: [&str; 3] = [FILES, PIECES, NOTES];

pub(super) struct Connection {
    database: IdbDatabase,
    pub open: Rc<Cell<bool>>,
    _closing: Closure<dyn FnMut()>,
}

impl Connection {
    /// Whatever version there is, it has our stores then: somebody else may have made a database of this name.
    pub(super) async fn open() -> Result<Connection> {
        let factory = Reflect::get(&js_sys::global(), &"indexedDB".into()).unwrap_or_default();
        let factory: IdbFactory =
            factory.dyn_into().map_err(|_| Error::internal("this browser has no IndexedDB here"))?;
        let mut database = opened(factory.open(NAME)).await.map_err(unopened)?;
        if lacks_stores(&database) {
            let next = database.version() + 1.0;
            database.close();
            let upgraded = match opened(factory.open_with_f64(NAME, next)).await {
                // Another tab was faster.
                Err(Some(error)) if error.name() == "VersionError" => opened(factory.open(NAME)).await,
                upgraded => upgraded,
            };
            database = upgraded.map_err(unopened)?;
            if lacks_stores(&database) {
                database.close();
                return Err(Error::internal(format!("another database is in the way, whose name is {NAME}")));
            }
        }
        let open = Rc::new(Cell::new(true));
        let closing = {
            let (database, open) = (database.clone(), open.clone());
            Closure::new(move || {
                database.close();
                open.set(false);
            })
        };
        database.set_onversionchange(Some(closing.as_ref().unchecked_ref()));
        database.set_onclose(Some(closing.as_ref().unchecked_ref()));
        Ok(Connection { database, open, _closing: closing })
    }

    pub(super) fn transaction(&self, mode: IdbTransactionMode) -> Result<IdbTransaction, JsValue> {
        self.database.transaction_with_str_sequence_and_mode(&array(STORES), mode)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.database.set_onversionchange(None);
        self.database.set_onclose(None);
        self.database.close();
    }
}

/// How long others have to let go of an older version.
const PATIENCE: Duration = Duration::from_secs(2);

/// The database, with the stores that it lacked where this opening made a new version of it; or why there is none, which
/// is nothing where somebody holds an older version.
async fn opened(request: Result<IdbOpenDbRequest, JsValue>) -> Result<IdbDatabase, Option<DomException>> {
    let request = request.map_err(|error| error.dyn_into().ok())?;
    let upgrading = request.clone();
    // It may be called when nobody waits any more.
    let upgrade = Closure::once_into_js(move || {
        // An upgrade that fails makes the opening fail.
        let _ = upgrade(&upgrading);
    });
    request.set_onupgradeneeded(Some(upgrade.unchecked_ref()));
    let settled = Promise::new(&mut |resolve, reject| {
        request.set_onsuccess(Some(&resolve));
        request.set_onerror(Some(&reject));
    });
    let blocked = Promise::new(&mut |resolve, _| request.set_onblocked(Some(&resolve)));
    let blocked_for_long = async {
        let _ = JsFuture::from(blocked).await;
        sleep(PATIENCE).await;
    };
    match select(JsFuture::from(settled), pin!(blocked_for_long)).await {
        Either::Left((Ok(_), _)) => {}
        Either::Left(_) => return Err(request.error().unwrap_or(None)),
        Either::Right(_) => {
            // It is still under way, and would hold what comes of it.
            let late = request.clone();
            let close = Closure::once_into_js(move || {
                if let Ok(database) = late.result() {
                    database.unchecked_into::<IdbDatabase>().close();
                }
            });
            request.set_onsuccess(Some(close.unchecked_ref()));
            return Err(None);
        }
    }
    Ok(request.result().map_err(|error| error.dyn_into().ok())?.unchecked_into())
}

fn unopened(error: Option<DomException>) -> Error {
    match error {
        Some(error) => failure(error.into()),
        None => Error::internal(format!("a page of this site holds a database called {NAME}. Close it")),
    }
}

fn lacks_stores(database: &IdbDatabase) -> bool {
    STORES.iter().any(|name| !database.object_store_names().contains(name))
}

fn upgrade(request: &IdbOpenDbRequest) -> Result<(), JsValue> {
    let database: IdbDatabase = request.result()?.unchecked_into();
    for name in STORES {
        if !database.object_store_names().contains(name) {
            database.create_object_store(name)?;
        }
    }
    Ok(())
}

/// What a request comes to. Its transaction goes on as long as each request follows the last one's answer.
pub(super) async fn done(request: Result<IdbRequest, JsValue>) -> Result<JsValue, JsValue> {
    let request = request?;
    let settled = Promise::new(&mut |resolve, reject| {
        request.set_onsuccess(Some(&resolve));
        request.set_onerror(Some(&reject));
    });
    match JsFuture::from(settled).await {
        Ok(_) => request.result(),
        Err(_) => Err(request.error()?.into()),
    }
}

/// All that a transaction has written is there, or nothing of it.
pub(super) async fn committed(transaction: &IdbTransaction) -> Result<()> {
    let settled = Promise::new(&mut |resolve, reject| {
        transaction.set_oncomplete(Some(&resolve));
        transaction.set_onabort(Some(&reject));
    });
    match JsFuture::from(settled).await {
        Ok(_) => Ok(()),
        Err(_) => Err(failure(transaction.error().into())),
    }
}

pub(super) fn failure(error: JsValue) -> Error {
    match error.dyn_ref::<DomException>() {
        Some(error) if error.name() == "QuotaExceededError" => Error {
            code: Code::QuotaExceeded,
            message: "the browser's storage for this site is full".to_owned(),
        },
        Some(error) => Error::internal(match error.name().as_str() {
            // What browsers say when their user clears the site's data under our hands, or the disk fails.
            "UnknownError" | "InvalidStateError" | "AbortError" | "NotFoundError" | "NotReadableError"
            | "TransactionInactiveError" => {
                "the browser took its storage for this site away: the site's data was cleared, or the disk failed. Load it again".to_owned()
            }
            "SecurityError" | "NotAllowedError" => "the browser allows this page no storage".to_owned(),
            name => format!("the browser's storage failed ({name}: {})", error.message()),
        }),
        None => Error::internal("the browser's storage failed"),
    }
}

pub(super) fn array<const N: usize>(texts: [&str; N]) -> Array {
    let array = Array::new();
    for text in texts {
        array.push(&text.into());
    }
    array
}
