//! A model that is read while it comes, and a look at one of which nothing is kept.

use super::cached::Cached;
use super::download::Part;
use super::find::News;
use super::remote::Remote;
use crate::Result;
use crate::progress::{Progress, Steady};
use crate::store::{Joined, Key, Record, Source, Store};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::rc::Rc;

/// A model in the store, whole or on its way there; all parts of one that is split.
pub struct Model {
    pub(super) parts: Joined<Part>,
    /// What its name will mean when it is whole.
    pub(super) news: RefCell<Option<(Rc<dyn Store>, News)>>,
    /// What was reported of it so far.
    pub(super) steady: Rc<Steady>,
}

impl Model {
    /// Fetches and verifies all that is missing. Says whether something was replaced that may have been read before.
    pub async fn complete(&self) -> Result<bool> {
        let mut replaced = false;
        for part in self.parts.sources() {
            replaced |= part.complete().await?;
        }
        let news = self.news.take();
        if let Some((store, news)) = news {
            news.keep(&*store).await?;
        }
        Ok(replaced)
    }

    /// All of it is in the store, and verified.
    pub fn is_whole(&self) -> bool {
        self.parts.sources().iter().all(Part::is_whole)
    }

    /// Keeps nothing of it.
    pub async fn discard(&self) -> Result<()> {
        for part in self.parts.sources() {
            part.discard().await?;
        }
        Ok(())
    }

    /// A report of what is done with it, as part of one account from its beginning to its end.
    pub(crate) fn follow(&self, report: Progress) -> Progress {
        self.steady.follow(report)
    }

    /// Its files.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.parts.sources().iter().map(Part::key)
    }
}

impl Source for Model {
    fn name(&self) -> &str {
        self.parts.name()
    }

    fn len(&self) -> u64 {
        self.parts.len()
    }

    fn parts(&self) -> Vec<u64> {
        self.parts.parts()
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        self.parts.read(offset, len)
    }
}

/// A file of which nothing more is fetched than what is read.
pub struct Peek {
    pub(super) store: Rc<dyn Store>,
    pub(super) record: Record,
    pub(super) remote: Remote,
}

impl Joined<Peek> {
    /// What the store has of it.
    pub fn cached(&self) -> Cached {
        let mut cached = Cached::named(&self.sources()[0].record.key);
        self.sources().iter().for_each(|file| cached.add(&file.record));
        cached
    }
}

impl Source for Peek {
    fn name(&self) -> &str {
        self.record.key.name()
    }

    fn len(&self) -> u64 {
        self.record.len
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        match self.record.written.contains(&(offset..offset + len as u64)) {
            true => self.store.read(&self.record.key, offset, len),
            false => self.remote.read(offset, len),
        }
    }
}
