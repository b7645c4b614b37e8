//! Fetched files in the browser: <https://www.w3.org/TR/IndexedDB/>
//!
//! ```text
//! files    [repo, commit, path]              key, len, whole, lastUsed
//! pieces   [repo, etag, start, end, "file"]  nothing: their bytes are in the content's file
//!          [repo, etag, start, end]          bytes, as a Blob
//! notes    name                              text
//! ```
//!
//! What is there of a file is what pieces there are: no second account of it can go wrong. Revisions of the same
//! content share them. Whoever deletes the database costs its users a download, nothing else.
//!
//! Bytes go to a file in the private file system, `candlewick/owner@repo@etag`, one a content, and are on the disk before
//! their piece is committed. Where that cannot be, they go into the database: where the browser has no such files, where
//! another tab has the file for itself, and where a piece takes the place of others, since files do not change at once.
//! A file that no record refers to is nobody's, and pieces whose file has gone or is too short are not there.

mod connection;
mod files;
mod pieces;
mod private_files;
mod room;

use super::at_once::at_once;
use super::cache::{Key, Record, Store, Written};
use super::origin::{self, Turn};
use crate::store::names::is_hash;
use crate::{Code, Error, Result};
use async_lock::Mutex;
use connection::{Connection, FILES, NAME, NOTES, PIECES, committed, done, failure};
use files::{File, all_files, file_id};
use futures_util::future::LocalBoxFuture;
use js_sys::{Array, Promise, Uint8Array};
use pieces::{Held, Piece, bytes_of, written};
use private_files::{PrivateFiles, Unwritten};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::{Rc, Weak};
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
    /// Where bytes are kept.
    files: Option<PrivateFiles>,
    /// What there is of contents that this store may be fetching, by their names. Nobody else does meanwhile.
    begun: RefCell<HashMap<String, Written>>,
    /// Whose turn it is, by contents. Writing that has begun keeps it, also when its download has been given up.
    turns: RefCell<HashMap<String, Weak<Turn>>>,
    /// What the last bytes were copied to on their way, for the next ones: browsers collect such copies late.
    spare: RefCell<Vec<Uint8Array>>,
}

impl IndexedDbStore {
    /// Fails where the browser has no storage for this page: in some private windows and sandboxed frames, or when it
    /// was switched off. With a `budget`, files that were not used for longest make room for new ones.
    pub async fn open(budget: Option<u64>) -> Result<IndexedDbStore> {
        let connection = Connection::open().await?;
        let store = IndexedDbStore(Rc::new(Database {
            connection: Mutex::new(Some(connection)),
            budget,
            buffers: Cell::default(),
            files: PrivateFiles::open(NAME).await,
            begun: RefCell::default(),
            turns: RefCell::default(),
            spare: RefCell::default(),
        }));
        store.run(|database| async move { database.sweep(None).await }).await?;
        Ok(store)
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
    /// In JavaScript's memory.
    fn copy(&self, bytes: &[u8]) -> Uint8Array {
        let spare = self.spare.borrow_mut().pop().filter(|spare| spare.length() as usize == bytes.len());
        let copy = spare.unwrap_or_else(|| Uint8Array::new_with_length(bytes.len() as u32));
        copy.copy_from(bytes);
        copy
    }

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
        let ids = transaction.object_store(PIECES).and_then(|store| store.get_all_keys());
        let mut contents: HashMap<String, Vec<Piece>> = HashMap::new();
        for id in Array::from(&done(ids).await.map_err(failure)?).iter() {
            let parts = Array::from(&id);
            if let (Some(repo), Some(etag), Some(piece)) =
                (parts.get(0).as_string(), parts.get(1).as_string(), Piece::of(id))
            {
                contents.entry(content_name(&repo, &etag)).or_default().push(piece);
            }
        }
        let mut there = HashMap::new();
        for (content, pieces) in contents {
            let (pieces, _) = self.parted(&content, pieces).await;
            there.insert(content, written(&pieces));
        }
        let record = |file: File| {
            let written = there.get(&content_of(&file.key)).cloned();
            file.record(written.unwrap_or_default())
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
        let (there, _) = self.parted(&content_of(key), pieces).await;
        Ok(Some(file.record(written(&there))))
    }

    /// A content's pieces whose bytes are there, and those that have lost them.
    async fn pieces(&self, key: &Key) -> Result<(Vec<Piece>, Vec<Piece>)> {
        let transaction = self.reading().await?;
        let pieces = pieces::all(&transaction, key).await?;
        Ok(self.parted(&content_of(key), pieces).await)
    }

    /// The same of pieces that were there a moment ago: the file had them before.
    async fn parted(&self, content: &str, pieces: Vec<Piece>) -> (Vec<Piece>, Vec<Piece>) {
        let len = match &self.files {
            Some(files) if pieces.iter().any(|piece| piece.in_file) => files.len(content).await,
            _ => 0,
        };
        pieces.into_iter().partition(|piece| !piece.in_file || piece.range.end <= len)
    }

    /// Removes the files that are nobody's, but none of a content that somebody may be fetching, unless that is `mine`.
    async fn sweep(&self, mine: Option<&str>) -> Result<()> {
        let Some(files) = &self.files else { return Ok(()) };
        // Where they cannot be listed there are none that could be removed.
        let mut names = files.names().await.unwrap_or_default();
        let kept = self.contents_kept().await?;
        names.retain(|name| is_content_name(name) && !kept.contains(name));
        for name in names {
            let turn = origin::try_lock(&lock_name(&name)).await;
            let free = turn.is_some() || mine == Some(name.as_str());
            if free && !self.contents_kept().await?.contains(&name) {
                files.remove(&name).await;
            }
        }
        Ok(())
    }

    /// The names of all contents of which there is a record.
    async fn contents_kept(&self) -> Result<HashSet<String>> {
        let files = all_files(&self.reading().await?).await?;
        Ok(files.iter().map(|file| content_of(&file.key)).collect())
    }

    async fn begin(&self, files: &[(Key, u64)]) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for (key, len) in files {
            records.push(self.begin_file(key, *len).await?);
        }
        if let Err(error) = self.make_room(&records).await {
            // Of what is refused nothing is listed.
            for record in records.iter().filter(|record| record.written.total() == 0) {
                self.delete(&record.key).await?;
            }
            return Err(error);
        }
        Ok(records)
    }

    async fn begin_file(&self, key: &Key, len: u64) -> Result<Record> {
        key.check()?;
        let (there, lost) = self.pieces(key).await?;
        let transaction = self.writing().await?;
        let files = transaction.object_store(FILES).map_err(failure)?;
        let mut same = all_files(&transaction).await?;
        same.retain(|file| content_of(&file.key) == content_of(key) && file.len == len && file.whole);
        let all = written(&there) == Written::all(len);
        let whole = all && !same.is_empty();
        if !all {
            // What will come has not been checked.
            for file in same {
                File { whole: false, ..file }.write(&files)?;
            }
        }
        // They would seem to be there again when the file has grown.
        let store = transaction.object_store(PIECES).map_err(failure)?;
        for piece in lost.iter().filter(|_| self.files.is_some()) {
            store.delete(&piece.id).map_err(failure)?;
        }
        let file = File { key: key.clone(), len, whole, last_used: now() };
        file.write(&files)?;
        committed(&transaction).await?;
        let content = content_of(key);
        if let Some(files) = &self.files {
            let in_file = there.iter().filter(|piece| piece.in_file);
            files.begin(&content, in_file.map(|piece| piece.range.end).max().unwrap_or(0));
        }
        let mut begun = self.begun.borrow_mut();
        let begun = begun.entry(content).or_default();
        there.iter().for_each(|piece| begun.add(piece.range.clone()));
        Ok(file.record(written(&there)))
    }

    async fn put(&self, key: &Key, offset: u64, bytes: &Uint8Array) -> Result<()> {
        let range = offset..offset + u64::from(bytes.length());
        let content = content_of(key);
        let in_file = self.write(key, &range, bytes).await?;
        let put = match in_file {
            true => self.put_piece(key, &range, Held::InFile).await?,
            false => self.put_here(key, &range, bytes).await?,
        };
        if !put {
            self.begun.borrow_mut().remove(&content);
            self.sweep(Some(&content)).await?;
            return Err(gone(key));
        }
        if let Some(begun) = self.begun.borrow_mut().get_mut(&content) {
            begun.add(range);
        }
        Ok(())
    }

    /// Writes what nobody has read yet into the content's file. False where it is to be kept here.
    async fn write(&self, key: &Key, range: &Range<u64>, bytes: &Uint8Array) -> Result<bool> {
        let Some(files) = &self.files else { return Ok(false) };
        let content = content_of(key);
        // A file does not change at once, and perhaps somebody reads what is there.
        if self.begun.borrow().get(&content).is_none_or(|there| there.touches(range)) {
            return Ok(false);
        }
        match files.write(&content, range.start, bytes).await {
            Ok(()) => Ok(true),
            Err(Unwritten::Elsewhere) => Ok(false),
            Err(Unwritten::Lost) => Err(gone(key)),
            Err(Unwritten::Full) => Err(full(key).await),
        }
    }

    /// Keeps a piece's bytes in the database.
    async fn put_here(&self, key: &Key, range: &Range<u64>, bytes: &Uint8Array) -> Result<bool> {
        if !self.buffers.get() {
            let blob = Blob::new_with_u8_array_sequence(&Array::of1(bytes)).map_err(failure)?;
            match self.put_piece(key, range, Held::Here(blob.into())).await {
                Err(error) if error.code != Code::QuotaExceeded => self.buffers.set(true),
                result => return result,
            }
        }
        self.put_piece(key, range, Held::Here(bytes.into())).await
    }

    /// False where somebody has removed the file: its pieces would be nobody's.
    async fn put_piece(&self, key: &Key, new: &Range<u64>, held: Held) -> Result<bool> {
        let transaction = self.writing().await?;
        let files = transaction.object_store(FILES).map_err(failure)?;
        if File::read(done(files.get(&file_id(key))).await.map_err(failure)?).is_none() {
            return Ok(false);
        }
        let store = transaction.object_store(PIECES).map_err(failure)?;
        // Pieces may be there from when they were cut up differently; what is outside of the new one stays.
        let mut around = Vec::new();
        for old in pieces::within(&transaction, key, new).await? {
            if old.range.start < new.start || new.end < old.range.end {
                let held = old.held(&store).await?;
                let rests = [old.range.start..new.start, new.end..old.range.end];
                for rest in rests.into_iter().filter(|rest| !rest.is_empty()) {
                    let place = rest.start - old.range.start..rest.end - old.range.start;
                    around.push((rest, held.part(place).map_err(failure)?));
                }
            }
            store.delete(&old.id).map_err(failure)?;
        }
        around.push((new.clone(), held));
        for (range, held) in around {
            if let Err(error) = held.put(&store, key, &range) {
                // Else it would delete what it should replace.
                let _ = transaction.abort();
                return Err(failure(error));
            }
        }
        match committed(&transaction).await {
            Err(error) if error.code == Code::QuotaExceeded => Err(full(key).await),
            result => result.map(|()| true),
        }
    }

    async fn read(&self, key: &Key, offset: u64, len: usize) -> Result<Vec<u8>> {
        let wanted = offset..offset + len as u64;
        let mut in_file = Written::default();
        let mut here = Vec::new();
        let transaction = self.reading().await?;
        let store = transaction.object_store(PIECES).map_err(failure)?;
        for piece in pieces::within(&transaction, key, &wanted).await? {
            let range = &piece.range;
            let part = range.start.max(wanted.start)..range.end.min(wanted.end);
            let place = part.start - range.start..part.end - range.start;
            match piece.held(&store).await?.part(place).map_err(failure)? {
                Held::InFile => in_file.add(part),
                Held::Here(value) => here.push((part, value)),
            }
        }
        // Blobs are read now, all at once: that would have ended the transaction.
        let here: Vec<_> = here.into_iter().map(|(part, value)| (part, bytes_of(value))).collect();
        let mut bytes = vec![0; len];
        let mut got = Written::default();
        let place = |part: &Range<u64>| (part.start - offset) as usize..(part.end - offset) as usize;
        if let Some(files) = &self.files {
            for part in in_file.ranges() {
                if files.read(&content_of(key), part.start, &mut bytes[place(part)]).await {
                    got.add(part.clone());
                }
            }
        }
        for (part, held) in here {
            let held = held.await.map_err(|_| gone(key))?;
            let place = place(&part);
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
        let (there, _) = self.pieces(key).await?;
        let transaction = self.writing().await?;
        let files = transaction.object_store(FILES).map_err(failure)?;
        let file = File::read(done(files.get(&file_id(key))).await.map_err(failure)?);
        match file {
            Some(file) if written(&there) == Written::all(file.len) => {
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
        let content = content_of(key);
        let shared = others.iter().any(|file| file.key != *key && content_of(&file.key) == content);
        let mut freed = 0;
        if !shared {
            freed = written(&pieces::all(&transaction, key).await?).total();
            let store = transaction.object_store(PIECES).map_err(failure)?;
            let pieces = pieces::all_ids(key).map_err(failure)?;
            store.delete(&pieces).map_err(failure)?;
        }
        files.delete(&file_id(key)).map_err(failure)?;
        committed(&transaction).await?;
        if !shared {
            self.begun.borrow_mut().remove(&content);
            self.sweep(Some(&content)).await?;
        }
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
        let (key, bytes) = (key.clone(), self.0.copy(bytes));
        let turn = self.0.turns.borrow().get(&content_of(&key)).and_then(Weak::upgrade);
        Box::pin(self.run(move |database| async move {
            let _turn = turn;
            let result = database.put(&key, offset, &bytes).await;
            database.spare.borrow_mut().push(bytes);
            result
        }))
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
        Box::pin(async {
            let content = content_of(key);
            let turn = Rc::new(origin::lock(&lock_name(&content)).await);
            let mut turns = self.0.turns.borrow_mut();
            turns.retain(|_, turn| turn.strong_count() > 0);
            turns.insert(content, Rc::downgrade(&turn));
            Ok(Box::new(turn) as Box<dyn Any>)
        })
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

/// A content's name, for its file and its lock: neither owners nor repositories have an `@`.
fn content_name(repo: &str, etag: &str) -> String {
    format!("{}@{etag}", repo.replace('/', "@"))
}

/// Others may keep files in that folder, too.
fn is_content_name(name: &str) -> bool {
    name.rsplit_once('@').is_some_and(|(repo, etag)| repo.contains('@') && is_hash(etag))
}

fn content_of(key: &Key) -> String {
    content_name(&key.repo, &key.etag)
}

fn lock_name(content: &str) -> String {
    format!("{NAME} {content}")
}

/// Chromium's estimates tell of more room than it gives.
async fn full(key: &Key) -> Error {
    let used = origin::estimate().await.map_or(0, |at| at.usage);
    Error::quota_exceeded(format!(
        "{} does not fit: the browser keeps no more than the {:.1} MB that this site has stored. Remove models, or load it with `cache: false`",
        key.name(),
        used as f64 / 1e6,
    ))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn gone(key: &Key) -> Error {
    Error::internal(format!("{} was removed from the browser's storage meanwhile. Load it again", key.name()))
}
