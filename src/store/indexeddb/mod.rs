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

mod connection;
mod files;
mod pieces;
mod room;

use super::at_once::at_once;
use super::cache::{Key, Record, Store, Written};
use super::origin;
use crate::{Code, Error, Result};
use async_lock::Mutex;
use connection::{Connection, FILES, NAME, NOTES, PIECES, committed, done, failure};
use files::{File, all_files, file_id};
use futures_util::future::LocalBoxFuture;
use js_sys::{Array, Promise, Uint8Array};
use pieces::{Piece, bytes_of, piece_id, slice, written};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{Blob, IdbObjectStore, IdbTransaction, IdbTransactionMode};
use web_time::{SystemTime, UNIX_EPOCH};

/// The database of this origin. Other tabs and Workers have it open as well.
pub struct IndexedDbStore(Rc<Database>);

struct Database {
    connection: Mutex<Option<Connection>>,
    /// Bytes of all pieces, at most.
    budget: Option<u64>,
    /// It takes no Blobs, as in WebKit's private windows: pieces are buffers, which Chromium reads and writes slower.
    buffers: Cell<bool>,
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
        let pieces = pieces::all(&transaction, key).await?;
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
        let pieces = pieces::all(&transaction, key).await?;
        let file = File { key: key.clone(), len, whole, last_used: now() };
        file.write(&files)?;
        committed(&transaction).await?;
        Ok(file.record(written(&pieces)))
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
        for old in pieces::within(&transaction, key, &new).await? {
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
        for Piece { id, range } in pieces::within(&transaction, key, &wanted).await? {
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
        let written = written(&pieces::all(&transaction, key).await?);
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
            freed = written(&pieces::all(&transaction, key).await?).total();
            let store = transaction.object_store(PIECES).map_err(failure)?;
            let pieces = pieces::all_ids(key).map_err(failure)?;
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

fn lock_name(key: &Key) -> String {
    format!("{NAME} {} {}", key.repo, key.etag)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn gone(key: &Key) -> Error {
    Error::internal(format!("{} was removed from the browser's storage meanwhile. Load it again", key.name()))
}
