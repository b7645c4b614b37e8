//! Fetched files in the browser: <https://www.w3.org/TR/IndexedDB/>
//!
//! ```text
//! files    [repo, commit, path]        key, len, whole, lastUsed
//! pieces   [repo, etag, start, end]    bytes, as a Blob
//! notes    name                        text
//! ```
//!
//! What is there of a file is what pieces there are: no second account of it can go wrong. Revisions of the same
//! content share them. Whoever deletes the database costs its users a download, nothing else.

use super::at_once::at_once;
use super::cache::{Key, Record, Store, Written};
use super::origin::{self, Estimate};
use crate::{Code, Error, Result};
use async_lock::Mutex;
use futures_util::future::LocalBoxFuture;
use js_sys::{Array, Promise, Reflect, Uint8Array};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    Blob, DomException, IdbDatabase, IdbFactory, IdbKeyRange, IdbObjectStore, IdbOpenDbRequest, IdbRequest,
    IdbTransaction, IdbTransactionMode,
};
use web_time::{SystemTime, UNIX_EPOCH};

const NAME: &str = "candlewick";
/// Raise it when stores are added; one that changes its meaning gets another name.
const VERSION: u32 = 1;
const FILES: &str = "files";
const PIECES: &str = "pieces";
const NOTES: &str = "notes";

/// The database of this origin. Other tabs and Workers have it open as well.
pub struct IndexedDbStore(Rc<Database>);

struct Database {
    connection: Mutex<Option<Connection>>,
    /// Bytes of all pieces, at most.
    budget: Option<u64>,
    /// It takes no Blobs, as in WebKit's private windows: pieces are buffers, which Chromium reads and writes slower.
    buffers: Cell<bool>,
}

struct Connection {
    database: IdbDatabase,
    open: Rc<Cell<bool>>,
    _closing: Closure<dyn FnMut()>,
}

/// What is kept of a file beside its pieces.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    key: Key,
    len: u64,
    whole: bool,
    last_used: u64,
}

/// One of a content's pieces.
struct Piece {
    id: JsValue,
    range: Range<u64>,
}

impl IndexedDbStore {
    /// Fails where the browser has no storage for this page: in some private windows and sandboxed frames, or when it
    /// was switched off. With a `budget`, files that were not used for longest make room for new ones.
    pub async fn open(budget: Option<u64>) -> Result<IndexedDbStore> {
        let connection = Connection::open().await?;
        Ok(IndexedDbStore(Rc::new(Database {
            connection: Mutex::new(Some(connection)),
            budget,
            buffers: Cell::default(),
        })))
    }

    /// Runs `work` whether or not somebody polls for it: a transaction ends when nobody goes on with it at once, and
    /// whoever waits here may be waiting for something else just then, or be told later.
    async fn run<T: 'static, F: Future<Output = Result<T>> + 'static>(
        &self,
        work: impl FnOnce(Rc<Database>) -> F,
    ) -> Result<T> {
        let mut work = Some(work(self.0.clone()));
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        let ended = Promise::new(&mut |end, _| {
            let (work, slot) = (work.take(), slot.clone());
            at_once(async move {
                let Some(work) = work else { return };
                slot.replace(Some(work.await));
                let _ = end.call0(&JsValue::UNDEFINED);
            });
        });
        let _ = JsFuture::from(ended).await;
        result.take().unwrap_or_else(|| Err(failure(JsValue::UNDEFINED)))
    }
}

impl Database {
    /// Of all stores. The browser closes connections when the user clears data, another tab when it upgrades or
    /// deletes the database: then there is a new one.
    async fn transaction(&self, mode: IdbTransactionMode) -> Result<IdbTransaction> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = connection.as_ref().filter(|connection| connection.open.get())
            && let Ok(transaction) = connection.transaction(mode)
        {
            return Ok(transaction);
        }
        let opened = Connection::open().await?;
        let transaction = opened.transaction(mode).map_err(failure)?;
        *connection = Some(opened);
        Ok(transaction)
    }

    async fn reading(&self) -> Result<IdbTransaction> {
        self.transaction(IdbTransactionMode::Readonly).await
    }

    async fn writing(&self) -> Result<IdbTransaction> {
        self.transaction(IdbTransactionMode::Readwrite).await
    }

    async fn records(&self) -> Result<Vec<Record>> {
        let transaction = self.reading().await?;
        let files = all_files(&transaction).await?;
        let pieces = transaction.object_store(PIECES).and_then(|store| store.get_all_keys());
        let mut written: HashMap<(String, String), Written> = HashMap::new();
        for id in Array::from(&done(pieces).await.map_err(failure)?).iter() {
            let parts = Array::from(&id);
            if let (Some(repo), Some(etag), Some(piece)) =
                (parts.get(0).as_string(), parts.get(1).as_string(), Piece::of(id))
            {
                written.entry((repo, etag)).or_default().add(piece.range);
            }
        }
        let record = |file: File| {
            let content = (file.key.repo.clone(), file.key.etag.clone());
            file.record(written.get(&content).cloned().unwrap_or_default())
        };
        Ok(files.into_iter().map(record).collect())
    }

    async fn record(&self, key: &Key) -> Result<Option<Record>> {
        let transaction = self.reading().await?;
        let files = transaction.object_store(FILES).map_err(failure)?;
        let Some(file) = File::read(done(files.get(&file_id(key))).await.map_err(failure)?) else {
            return Ok(None);
        };
        let pieces = pieces(&transaction, key, None).await?;
        Ok(Some(file.record(written(&pieces))))
    }

    async fn begin(&self, files: &[(Key, u64)]) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for (key, len) in files {
            records.push(self.begin_file(key, *len).await?);
        }
        self.make_room(&records).await?;
        Ok(records)
    }

    async fn begin_file(&self, key: &Key, len: u64) -> Result<Record> {
        key.check()?;
        let transaction = self.writing().await?;
        let files = transaction.object_store(FILES).map_err(failure)?;
        let same = |file: &File| {
            file.key.repo == key.repo && file.key.etag == key.etag && file.len == len && file.whole
        };
        let whole = all_files(&transaction).await?.iter().any(same);
        let pieces = pieces(&transaction, key, None).await?;
        let file = File { key: key.clone(), len, whole, last_used: now() };
        file.write(&files)?;
        committed(&transaction).await?;
        Ok(file.record(written(&pieces)))
    }

    /// Before anything is fetched: whether the rest fits, into the budget and into what the browser allows.
    async fn make_room(&self, wanted: &[Record]) -> Result<()> {
        let missing = wanted.iter().map(Record::missing).sum();
        let Some(first) = wanted.iter().find(|record| record.missing() > 0) else { return Ok(()) };
        if let Some(budget) = self.budget {
            let content = |record: &Record| (record.key.repo.clone(), record.key.etag.clone());
            let mut others = self.records().await?;
            let mut stored: HashMap<_, u64> = HashMap::new();
            for record in &others {
                stored.insert(content(record), record.written.total());
            }
            let mut used: u64 = stored.values().sum();
            others.retain(|record| wanted.iter().all(|wanted| content(record) != content(wanted)));
            others.sort_by_key(|record| record.last_used);
            for record in &others {
                if used + missing <= budget {
                    break;
                }
                // What another tab is fetching stays.
                if let Some(_turn) = origin::try_lock(&lock_name(&record.key)).await {
                    used -= self.delete(&record.key).await?.min(used);
                }
            }
            if used + missing > budget {
                return Err(self.no_room(
                    &first.key,
                    missing,
                    budget - used.min(budget),
                    "its budget for models",
                ));
            }
        }
        match origin::estimate().await {
            Some(Estimate { quota, usage }) if quota.saturating_sub(usage) < missing => {
                Err(self.no_room(&first.key, missing, quota.saturating_sub(usage), "the browser"))
            }
            _ => Ok(()),
        }
    }

    fn no_room(&self, key: &Key, missing: u64, free: u64, whose: &str) -> Error {
        let message = format!(
            "{} needs {:.1} MB more, and {whose} has {:.1} MB left for this site. Remove models, or load it with `cache: false`",
            key.name(),
            missing as f64 / 1e6,
            free as f64 / 1e6,
        );
        Error::quota_exceeded(message)
    }

    async fn put(&self, key: &Key, offset: u64, bytes: Uint8Array) -> Result<()> {
        let range = offset..offset + u64::from(bytes.length());
        if !self.buffers.get() {
            let blob = Blob::new_with_u8_array_sequence(&Array::of1(&bytes)).map_err(failure)?;
            match self.put_value(key, range.clone(), blob.into()).await {
                Err(error) if error.code != Code::QuotaExceeded => self.buffers.set(true),
                result => return result,
            }
        }
        self.put_value(key, range, bytes.into()).await
    }

    async fn put_value(&self, key: &Key, new: Range<u64>, value: JsValue) -> Result<()> {
        let transaction = self.writing().await?;
        let store = transaction.object_store(PIECES).map_err(failure)?;
        // Pieces may be there from when they were cut up differently; what is outside of the new one stays.
        let mut around = Vec::new();
        for old in pieces(&transaction, key, Some(new.clone())).await? {
            if old.range.start < new.start || new.end < old.range.end {
                let held = done(store.get(&old.id)).await.map_err(failure)?;
                let rests = [old.range.start..new.start, new.end..old.range.end];
                for rest in rests.into_iter().filter(|rest| !rest.is_empty()) {
                    let place = rest.start - old.range.start..rest.end - old.range.start;
                    around.push((rest, slice(&held, place).map_err(failure)?));
                }
            }
            store.delete(&old.id).map_err(failure)?;
        }
        around.push((new, value));
        for (range, value) in around {
            if let Err(error) = store.put_with_key(&value, &piece_id(key, &range)) {
                // Else it would delete what it should replace.
                let _ = transaction.abort();
                return Err(failure(error));
            }
        }
        match committed(&transaction).await {
            Err(error) if error.code == Code::QuotaExceeded => {
                // Chromium's estimates tell of more room than it gives.
                let used = origin::estimate().await.map_or(0, |at| at.usage);
                let message = format!(
                    "{} does not fit: the browser keeps no more than the {:.1} MB that this site has stored. Remove models, or load it with `cache: false`",
                    key.name(),
                    used as f64 / 1e6,
                );
                Err(Error { code: Code::QuotaExceeded, message })
            }
            result => result,
        }
    }

    async fn read(&self, key: &Key, offset: u64, len: usize) -> Result<Vec<u8>> {
        let wanted = offset..offset + len as u64;
        let mut parts = Vec::new();
        let transaction = self.reading().await?;
        let store = transaction.object_store(PIECES).map_err(failure)?;
        for Piece { id, range } in pieces(&transaction, key, Some(wanted.clone())).await? {
            let held = done(store.get(&id)).await.map_err(failure)?;
            let part = range.start.max(wanted.start)..range.end.min(wanted.end);
            let place = part.start - range.start..part.end - range.start;
            parts.push((part, slice(&held, place).map_err(failure)?));
        }
        // Blobs are read now: that would have ended the transaction.
        let mut bytes = vec![0; len];
        let mut got = Written::default();
        for (part, held) in parts {
            let held = bytes_of(held).await.map_err(|_| gone(key))?;
            let place = (part.start - offset) as usize..(part.end - offset) as usize;
            if held.length() as usize == place.len() {
                held.copy_to(&mut bytes[place]);
                got.add(part);
            }
        }
        match got.contains(&wanted) {
            true => Ok(bytes),
            false => Err(gone(key)),
        }
    }

    async fn finish(&self, key: &Key) -> Result<()> {
        let transaction = self.writing().await?;
        let files = transaction.object_store(FILES).map_err(failure)?;
        let file = File::read(done(files.get(&file_id(key))).await.map_err(failure)?);
        let written = written(&pieces(&transaction, key, None).await?);
        match file {
            Some(file) if written == Written::all(file.len) => {
                File { whole: true, last_used: now(), ..file }.write(&files)?;
                committed(&transaction).await
            }
            _ => Err(gone(key)),
        }
    }

    async fn delete(&self, key: &Key) -> Result<u64> {
        let transaction = self.writing().await?;
        let files = transaction.object_store(FILES).map_err(failure)?;
        let others = all_files(&transaction).await?;
        let shares = |file: &File| file.key != *key && file.key.repo == key.repo && file.key.etag == key.etag;
        let mut freed = 0;
        if !others.iter().any(shares) {
            freed = written(&pieces(&transaction, key, None).await?).total();
            let store = transaction.object_store(PIECES).map_err(failure)?;
            let pieces = content_range(key, None).map_err(failure)?;
            store.delete(&pieces).map_err(failure)?;
        }
        files.delete(&file_id(key)).map_err(failure)?;
        committed(&transaction).await?;
        Ok(freed)
    }

    async fn note(&self, name: &str) -> Result<Option<String>> {
        let transaction = self.reading().await?;
        let request = transaction.object_store(NOTES).and_then(|store| store.get(&name.into()));
        Ok(done(request).await.map_err(failure)?.as_string())
    }

    async fn set_note(&self, name: &str, text: &str) -> Result<()> {
        let transaction = self.writing().await?;
        let put = |store: IdbObjectStore| store.put_with_key(&text.into(), &name.into());
        transaction.object_store(NOTES).and_then(put).map_err(failure)?;
        committed(&transaction).await
    }
}

impl Store for IndexedDbStore {
    fn list(&self) -> LocalBoxFuture<'_, Result<Vec<Record>>> {
        Box::pin(self.run(|database| async move { database.records().await }))
    }

    fn get<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<Option<Record>>> {
        let key = key.clone();
        Box::pin(self.run(|database| async move { database.record(&key).await }))
    }

    fn begin<'a>(&'a self, files: &'a [(Key, u64)]) -> LocalBoxFuture<'a, Result<Vec<Record>>> {
        let files = files.to_vec();
        Box::pin(self.run(move |database| async move { database.begin(&files).await }))
    }

    fn put<'a>(&'a self, key: &'a Key, offset: u64, bytes: &'a [u8]) -> LocalBoxFuture<'a, Result<()>> {
        let (key, bytes) = (key.clone(), Uint8Array::from(bytes));
        Box::pin(self.run(move |database| async move { database.put(&key, offset, bytes).await }))
    }

    fn read<'a>(&'a self, key: &'a Key, offset: u64, len: usize) -> LocalBoxFuture<'a, Result<Vec<u8>>> {
        let key = key.clone();
        Box::pin(self.run(move |database| async move { database.read(&key, offset, len).await }))
    }

    fn finish<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<()>> {
        let key = key.clone();
        Box::pin(self.run(|database| async move { database.finish(&key).await }))
    }

    fn delete<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<u64>> {
        let key = key.clone();
        Box::pin(self.run(|database| async move { database.delete(&key).await }))
    }

    fn lock<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<Box<dyn Any>>> {
        Box::pin(async { Ok(Box::new(origin::lock(&lock_name(key)).await) as Box<dyn Any>) })
    }

    fn note<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Result<Option<String>>> {
        let name = name.to_owned();
        Box::pin(self.run(|database| async move { database.note(&name).await }))
    }

    fn set_note<'a>(&'a self, name: &'a str, text: &'a str) -> LocalBoxFuture<'a, Result<()>> {
        let (name, text) = (name.to_owned(), text.to_owned());
        Box::pin(self.run(|database| async move { database.set_note(&name, &text).await }))
    }
}

impl Connection {
    async fn open() -> Result<Connection> {
        let factory = Reflect::get(&js_sys::global(), &"indexedDB".into()).unwrap_or_default();
        let factory: IdbFactory =
            factory.dyn_into().map_err(|_| Error::internal("this browser has no IndexedDB here"))?;
        let request = factory.open_with_u32(NAME, VERSION).map_err(failure)?;
        let upgrading = request.clone();
        let upgrade = Closure::once(move || {
            // An upgrade that fails makes the opening fail.
            let _ = upgrade(&upgrading);
        });
        request.set_onupgradeneeded(Some(upgrade.as_ref().unchecked_ref()));
        let settled = Promise::new(&mut |resolve, reject| {
            request.set_onsuccess(Some(&resolve));
            request.set_onerror(Some(&reject));
            // A tab with an older version that does not let go.
            request.set_onblocked(Some(&reject));
        });
        if JsFuture::from(settled).await.is_err() {
            return Err(match request.error() {
                Ok(Some(error)) => failure(error.into()),
                _ => Error::internal("another tab holds an older version of the model store. Close it"),
            });
        }
        let database: IdbDatabase = request.result().map_err(failure)?.unchecked_into();
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

    fn transaction(&self, mode: IdbTransactionMode) -> Result<IdbTransaction, JsValue> {
        self.database.transaction_with_str_sequence_and_mode(&array([FILES, PIECES, NOTES]), mode)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.database.set_onversionchange(None);
        self.database.set_onclose(None);
        self.database.close();
    }
}

fn upgrade(request: &IdbOpenDbRequest) -> Result<(), JsValue> {
    let database: IdbDatabase = request.result()?.unchecked_into();
    for name in [FILES, PIECES, NOTES] {
        if !database.object_store_names().contains(name) {
            database.create_object_store(name)?;
        }
    }
    Ok(())
}

impl File {
    /// Something else than one was not written by this version.
    fn read(value: JsValue) -> Option<File> {
        serde_wasm_bindgen::from_value(value).ok()
    }

    fn write(&self, files: &IdbObjectStore) -> Result<()> {
        let value = self.serialize(&serde_wasm_bindgen::Serializer::json_compatible());
        files.put_with_key(&value.map_err(Error::internal)?, &file_id(&self.key)).map_err(failure)?;
        Ok(())
    }

    fn record(self, written: Written) -> Record {
        let whole = self.whole && written == Written::all(self.len);
        Record { key: self.key, len: self.len, written, whole, last_used: self.last_used }
    }
}

impl Piece {
    fn of(id: JsValue) -> Option<Piece> {
        let parts = Array::from(&id);
        let number = |index| parts.get(index).as_f64().map(|number| number as u64);
        let range = number(2)?..number(3)?;
        Some(Piece { id, range })
    }
}

async fn all_files(transaction: &IdbTransaction) -> Result<Vec<File>> {
    let request = transaction.object_store(FILES).and_then(|store| store.get_all());
    let files = Array::from(&done(request).await.map_err(failure)?);
    Ok(files.iter().filter_map(File::read).collect())
}

/// A content's pieces in order; with a range, those that have a part in it.
async fn pieces(transaction: &IdbTransaction, key: &Key, within: Option<Range<u64>>) -> Result<Vec<Piece>> {
    let ids = content_range(key, within.as_ref().map(|range| range.end));
    let store = transaction.object_store(PIECES);
    let request = ids.and_then(|ids| store?.get_all_keys_with_key(&ids));
    let ids = Array::from(&done(request).await.map_err(failure)?);
    let pieces = ids.iter().filter_map(Piece::of);
    Ok(match within {
        Some(range) => {
            pieces.filter(|piece| piece.range.start < range.end && range.start < piece.range.end).collect()
        }
        None => pieces.collect(),
    })
}

/// A part of a piece's bytes.
fn slice(held: &JsValue, part: Range<u64>) -> Result<JsValue, JsValue> {
    Ok(match held.dyn_ref::<Blob>() {
        Some(blob) => blob.slice_with_f64_and_f64(part.start as f64, part.end as f64)?.into(),
        None => Uint8Array::new(held).slice(part.start as u32, part.end as u32).into(),
    })
}

/// The bytes themselves.
async fn bytes_of(held: JsValue) -> Result<Uint8Array, JsValue> {
    Ok(Uint8Array::new(&match held.dyn_ref::<Blob>() {
        Some(blob) => JsFuture::from(blob.array_buffer()).await?,
        None => held,
    }))
}

fn written(pieces: &[Piece]) -> Written {
    let mut written = Written::default();
    pieces.iter().for_each(|piece| written.add(piece.range.clone()));
    written
}

fn file_id(key: &Key) -> JsValue {
    array([key.repo.as_str(), &key.commit, &key.path]).into()
}

fn piece_id(key: &Key, range: &Range<u64>) -> JsValue {
    let id = array([key.repo.as_str(), &key.etag]);
    id.push(&(range.start as f64).into());
    id.push(&(range.end as f64).into());
    id.into()
}

/// The ids of a content's pieces, or of those that begin before `end`.
fn content_range(key: &Key, end: Option<u64>) -> Result<IdbKeyRange, JsValue> {
    let (first, last) = (array([key.repo.as_str(), &key.etag]), array([key.repo.as_str(), &key.etag]));
    match end {
        Some(end) => last.push(&(end as f64).into()),
        // Arrays come after all numbers.
        None => last.push(&Array::new()),
    };
    IdbKeyRange::bound(&first, &last)
}

fn array<const N: usize>(texts: [&str; N]) -> Array {
    let array = Array::new();
    for text in texts {
        array.push(&text.into());
    }
    array
}

fn lock_name(key: &Key) -> String {
    format!("{NAME} {} {}", key.repo, key.etag)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What a request comes to. Its transaction goes on as long as each request follows the last one's answer.
async fn done(request: Result<IdbRequest, JsValue>) -> Result<JsValue, JsValue> {
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
async fn committed(transaction: &IdbTransaction) -> Result<()> {
    let settled = Promise::new(&mut |resolve, reject| {
        transaction.set_oncomplete(Some(&resolve));
        transaction.set_onabort(Some(&reject));
    });
    match JsFuture::from(settled).await {
        Ok(_) => Ok(()),
        Err(_) => Err(failure(transaction.error().into())),
    }
}

fn gone(key: &Key) -> Error {
    Error::internal(format!("{} was removed from the browser's storage meanwhile. Load it again", key.name()))
}

fn failure(error: JsValue) -> Error {
    match error.dyn_ref::<DomException>() {
        Some(error) if error.name() == "QuotaExceededError" => Error {
            code: Code::QuotaExceeded,
            message: "the browser's storage for this site is full".to_owned(),
        },
        Some(error) => Error::internal(format!("the browser's storage failed: {}", error.name())),
        None => Error::internal("the browser's storage failed"),
    }
}
