//! Files in memory: where nothing else is there, and for tests.

use super::cache::{Key, Record, Store};
use crate::{Error, Result};
use async_lock::Mutex;
use futures_util::future::LocalBoxFuture;
use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

/// Forgets everything when it is dropped.
#[derive(Default)]
pub struct MemoryStore {
    files: RefCell<BTreeMap<Key, File>>,
    notes: RefCell<BTreeMap<String, String>>,
    turns: RefCell<BTreeMap<String, Arc<Mutex<()>>>>,
}

struct File {
    record: Record,
    bytes: Vec<u8>,
}

impl MemoryStore {
    fn begin(&self, key: &Key, len: u64) -> Result<Record> {
        let mut files = self.files.borrow_mut();
        if let Some(file) = files.get(key).filter(|file| file.record.len == len) {
            return Ok(file.record.clone());
        }
        let too_large = || Error::resource_exhausted(format!("{} needs {len} bytes of memory", key.name()));
        let size = usize::try_from(len).map_err(|_| too_large())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| too_large())?;
        bytes.resize(size, 0);
        let record = Record::none(key.clone(), len);
        files.insert(key.clone(), File { record: record.clone(), bytes });
        Ok(record)
    }

    fn with<T>(&self, key: &Key, work: impl FnOnce(&mut File) -> Option<T>) -> Result<T> {
        let mut files = self.files.borrow_mut();
        let done = files.get_mut(key).and_then(work);
        done.ok_or_else(|| Error::internal(format!("{} is not in memory as far as asked", key.name())))
    }
}

/// Where a piece lies in memory.
fn place(offset: u64, len: usize) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(offset).ok()?;
    Some(start..start.checked_add(len)?)
}

impl Store for MemoryStore {
    fn list(&self) -> LocalBoxFuture<'_, Result<Vec<Record>>> {
        let records = self.files.borrow().values().map(|file| file.record.clone()).collect();
        Box::pin(ready(Ok(records)))
    }

    fn get<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<Option<Record>>> {
        let record = self.files.borrow().get(key).map(|file| file.record.clone());
        Box::pin(ready(Ok(record)))
    }

    fn begin<'a>(&'a self, files: &'a [(Key, u64)]) -> LocalBoxFuture<'a, Result<Vec<Record>>> {
        Box::pin(ready(files.iter().map(|(key, len)| self.begin(key, *len)).collect()))
    }

    fn put<'a>(&'a self, key: &'a Key, offset: u64, bytes: &'a [u8]) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(ready(self.with(key, |file| {
            file.bytes.get_mut(place(offset, bytes.len())?)?.copy_from_slice(bytes);
            file.record.written.add(offset..offset + bytes.len() as u64);
            Some(())
        })))
    }

    fn read<'a>(&'a self, key: &'a Key, offset: u64, len: usize) -> LocalBoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(ready(self.with(key, |file| Some(file.bytes.get(place(offset, len)?)?.to_vec()))))
    }

    fn finish<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(ready(self.with(key, |file| {
            file.record.whole = true;
            Some(())
        })))
    }

    fn delete<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<u64>> {
        let file = self.files.borrow_mut().remove(key);
        Box::pin(ready(Ok(file.map_or(0, |file| file.bytes.len() as u64))))
    }

    fn lock<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<Box<dyn Any>>> {
        let turn = self.turns.borrow_mut().entry(key.etag.clone()).or_default().clone();
        Box::pin(async move { Ok(Box::new(turn.lock_arc().await) as Box<dyn Any>) })
    }

    fn note<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Result<Option<String>>> {
        Box::pin(ready(Ok(self.notes.borrow().get(name).cloned())))
    }

    fn set_note<'a>(&'a self, name: &'a str, text: &'a str) -> LocalBoxFuture<'a, Result<()>> {
        self.notes.borrow_mut().insert(name.to_owned(), text.to_owned());
        Box::pin(ready(Ok(())))
    }
}
