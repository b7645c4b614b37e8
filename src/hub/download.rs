//! A file that is on its way: from a server into the store, and to whoever reads it meanwhile.
//!
//! A few ranges come at once. Each is committed block by block, so that whatever ends the transfer costs a block
//! of each. The hash follows the blocks in the file's order; where there is a part from before, that is read
//! again: a disk that lost something in a crash is noticed.

use super::patience::Patience;
use super::remote::{Opened, Remote};
use crate::hash::hex;
use crate::http::Failure;
use crate::progress::{Meter, Progress, Stage};
use crate::store::{Key, Record, Source, Store, Written};
use crate::{Error, Result, http};
use async_lock::Mutex;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use sha2::{Digest, Sha256};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::ops::Range;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use web_time::Instant;

/// More often nobody can read.
const BETWEEN_REPORTS: Duration = Duration::from_millis(50);

/// How a file is cut up. Bytes.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// What one request asks for.
    pub range: u64,
    /// What is committed at a time; at most what a range loses when everything ends.
    pub block: u64,
    /// Ranges at once; a block of each is in memory.
    pub parallel: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { range: 32 << 20, block: 2 << 20, parallel: 4 }
    }
}

/// Hears of progress; gives an error to stop.
pub type Report = Rc<dyn Fn(Progress) -> Result<()>>;

/// Tells one of those who wait how far all parts of a model are.
pub(super) struct Tally {
    meter: Meter,
    parts: Vec<Rc<Download>>,
    told: Cell<Option<Instant>>,
    report: Report,
}

impl Tally {
    /// Of `parts`, which are `total` bytes together.
    pub(super) fn new(name: &str, total: u64, parts: Vec<Rc<Download>>, report: Report) -> Tally {
        let loaded = parts.iter().map(|part| part.job.loaded.get()).sum();
        Tally { meter: Meter::new(name, total).resumed(loaded), parts, told: Cell::new(None), report }
    }

    fn tell(&self) -> Result<()> {
        self.told.set(Some(Instant::now()));
        let loaded = self.parts.iter().map(|part| part.job.loaded.get()).sum();
        (self.report)(self.meter.at(Stage::Download, loaded))
    }

    /// The same, unless that was a moment ago; then, how long to wait.
    fn tell_sometimes(&self) -> Result<Option<Duration>> {
        let early = self.told.get().and_then(|told| BETWEEN_REPORTS.checked_sub(told.elapsed()));
        if early.is_none() {
            self.tell()?;
        }
        Ok(early)
    }
}

/// One part of a model, for one of those who opened it.
pub(super) struct Part {
    download: Rc<Download>,
    tally: Rc<Tally>,
}

impl Part {
    /// The parts that `tally` is about.
    pub(super) fn all(tally: Tally) -> Vec<Part> {
        let tally = Rc::new(tally);
        tally.parts.iter().map(|part| Part { download: part.clone(), tally: tally.clone() }).collect()
    }

    pub(super) fn key(&self) -> &Key {
        self.download.key()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.download.is_whole()
    }

    /// Deletes what the store has of it.
    pub(super) async fn discard(&self) -> Result<()> {
        let job = &self.download.job;
        job.store.delete(&job.place()).await.map(drop)
    }

    /// See [`Download::complete`].
    pub(super) async fn complete(&self) -> Result<bool> {
        self.download.complete(&self.tally).await
    }
}

/// A file in the store, whole or on its way there.
pub struct Download {
    job: Rc<Job>,
    state: Mutex<State>,
}

/// What the transfers share.
struct Job {
    remote: Remote,
    store: Rc<dyn Store>,
    key: Key,
    /// Where it is in the store: beside what it will replace, until it is whole.
    place: RefCell<Key>,
    sizes: Sizes,
    /// Bytes that have come, also those of blocks that are not whole yet.
    loaded: Cell<u64>,
    /// What the store has.
    written: RefCell<Written>,
    hash: RefCell<Hash>,
    /// Counts what happens, for those who wait for something.
    events: Cell<u64>,
    /// The server ignores ranges: one transfer, from the start.
    sequential: Cell<bool>,
    /// Some of it has come.
    came: Cell<bool>,
    /// Bytes are compared with what the store has.
    repairing: Cell<bool>,
    /// Blocks that were different.
    replaced: Cell<u64>,
    /// Verified.
    whole: Cell<bool>,
}

/// What has been hashed, from the file's start on.
#[derive(Default)]
struct Hash {
    digest: Sha256,
    len: u64,
}

impl Hash {
    fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.len += bytes.len() as u64;
    }
}

struct State {
    transfers: FuturesUnordered<LocalBoxFuture<'static, (Range<u64>, Result<()>)>>,
    /// What the transfers bring.
    claimed: Vec<Range<u64>>,
    /// Nobody else fetches this content.
    turn: Option<Box<dyn Any>>,
}

impl Download {
    /// Takes the file `key` up where it was left: at `record`, which is of that file or of what will replace it.
    /// `turn` is the store's lock on it.
    pub(super) fn new(
        remote: Remote,
        store: Rc<dyn Store>,
        key: Key,
        record: Record,
        turn: Option<Box<dyn Any>>,
        sizes: Sizes,
    ) -> Download {
        let whole = record.whole;
        let job = Job {
            remote,
            store,
            key,
            place: RefCell::new(record.key),
            sizes,
            loaded: Cell::new(record.written.total()),
            written: RefCell::new(record.written),
            hash: RefCell::default(),
            events: Cell::new(0),
            sequential: Cell::new(false),
            came: Cell::new(false),
            repairing: Cell::new(false),
            replaced: Cell::new(0),
            whole: Cell::new(whole),
        };
        let state =
            State { transfers: FuturesUnordered::new(), claimed: Vec::new(), turn: turn.filter(|_| !whole) };
        Download { job: Rc::new(job), state: Mutex::new(state) }
    }

    /// Which file.
    pub fn key(&self) -> &Key {
        &self.job.key
    }

    /// Fetches what is missing, and checks it. Says whether something was replaced that may have been read before.
    /// A file that is not what it should be is not kept, and gives `corrupt_model`.
    pub(super) async fn complete(&self, tally: &Tally) -> Result<bool> {
        let mut state = self.state.lock().await;
        if self.is_whole() {
            return Ok(false);
        }
        self.advance(&mut state, 0..self.len(), tally).await?;
        if !self.is_right().await? {
            self.repair(&mut state, tally).await?;
        }
        self.job.replace().await?;
        self.job.store.finish(self.key()).await?;
        self.job.forget_others().await?;
        self.job.whole.set(true);
        state.turn = None;
        tally.tell()?;
        Ok(self.job.replaced.get() > 0)
    }

    /// Bytes of the file.
    fn len(&self) -> u64 {
        self.job.remote.len()
    }

    /// All of it is in the store, and right.
    pub(super) fn is_whole(&self) -> bool {
        self.job.whole.get()
    }

    /// Something is wrong somewhere: fetches everything once more, and replaces what differs.
    async fn repair(&self, state: &mut State, tally: &Tally) -> Result<()> {
        let (job, len) = (&self.job, self.len());
        job.repairing.set(true);
        let had = job.written.take();
        job.loaded.set(job.loaded.get().saturating_sub(had.total()));
        job.hash.take();
        self.advance(state, 0..len, tally).await?;
        job.repairing.set(false);
        if job.replaced.get() > 0 && self.is_right().await? {
            return Ok(());
        }
        job.store.delete(&job.place()).await?;
        Err(Error::corrupt_model(format!(
            "{}: what the server has is not what its SHA-256 says; nothing it sent is kept. Try again later or take another file",
            self.key().name()
        )))
    }

    async fn is_right(&self) -> Result<bool> {
        self.job.hash_on().await?;
        let digest = self.job.hash.take().digest.finalize();
        Ok(self.key().sha256().is_none_or(|expected| expected == hex(&digest)))
    }

    /// Works until the store has `wanted`.
    async fn advance(&self, state: &mut State, wanted: Range<u64>, tally: &Tally) -> Result<()> {
        let job = &self.job;
        // Ends when it is time for a report that was held back.
        let mut timer = None;
        loop {
            match tally.tell_sometimes()? {
                Some(early) => timer = timer.or_else(|| Some(Box::pin(http::sleep(early)))),
                None => timer = None,
            }
            job.hash_on().await?;
            if job.written.borrow().contains(&wanted) {
                return Ok(());
            }
            self.start_transfers(state);
            let before = job.events.get();
            let ended = poll_fn(|context| match state.transfers.poll_next_unpin(context) {
                Poll::Ready(ended) => Poll::Ready(ended),
                Poll::Pending if job.events.get() != before => Poll::Ready(None),
                Poll::Pending => {
                    let fired = timer.as_mut().is_some_and(|sleep| sleep.as_mut().poll(context).is_ready());
                    if fired {
                        timer = None;
                        return Poll::Ready(None);
                    }
                    Poll::Pending
                }
            })
            .await;
            if let Some((range, result)) = ended {
                state.claimed.retain(|claimed| *claimed != range);
                if result.is_err() {
                    // The others end here too. What they brought is there.
                    state.transfers.clear();
                    state.claimed.clear();
                }
                result?;
            }
        }
    }

    fn start_transfers(&self, state: &mut State) {
        let job = &self.job;
        // Until the first of it comes one is enough: to learn where the bytes are, or that nobody has them.
        let alone = job.sequential.get() || !job.came.get();
        let parallel = if alone { 1 } else { job.sizes.parallel };
        while state.transfers.len() < parallel {
            let mut taken = job.written.borrow().clone();
            state.claimed.iter().for_each(|range| taken.add(range.clone()));
            let Some(range) = taken.missing(0, self.len(), job.sizes.range) else { return };
            state.claimed.push(range.clone());
            let job = job.clone();
            state.transfers.push(Box::pin(async move {
                let result = job.transfer(range.clone()).await;
                (range, result)
            }));
        }
    }
}

impl Job {
    /// Brings a range, whatever happens on the way.
    async fn transfer(&self, range: Range<u64>) -> Result<()> {
        let mut patience = Patience::new(&self.remote.client);
        let mut at = range.start;
        loop {
            let before = at;
            match self.attempt(&mut at, range.end).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    if at > before {
                        patience.reset();
                    }
                    patience.after(failure, self.came.get()).await?;
                }
            }
        }
    }

    /// One request. `at` moves to the end of what was committed.
    async fn attempt(&self, at: &mut u64, mut end: u64) -> Result<(), Failure> {
        let Opened { mut response, from_start } = self.remote.open(&(*at..end)).await?;
        let mut skip = 0;
        if from_start && (*at > 0 || end < self.remote.len()) {
            self.sequential.set(true);
            // The first of the transfers goes on, for all.
            let first = self.written.borrow().missing(0, self.remote.len(), 1);
            if first.is_some_and(|first| first.start != *at) {
                return Ok(());
            }
            (skip, end) = (*at, self.remote.len());
        }
        let mut block = Vec::new();
        let result = loop {
            if *at + block.len() as u64 == end {
                break Ok(());
            }
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break Err(Error::network("the answer ended early")),
                Err(error) => break Err(error),
            };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let mut chunk = &chunk[skipped as usize..];
            while !chunk.is_empty() && *at + (block.len() as u64) < end {
                // Blocks end where the file's grid of blocks has its lines, whatever was there before.
                let line = ((*at / self.sizes.block + 1) * self.sizes.block).min(end);
                let size = (line - *at) as usize;
                if block.is_empty() {
                    // Growing would leave holes in memory, which in wasm never shrinks.
                    block.reserve_exact(size);
                }
                let (head, tail) = chunk.split_at(chunk.len().min(size - block.len()));
                block.extend_from_slice(head);
                self.count(head.len() as u64);
                chunk = tail;
                if *at + block.len() as u64 == line {
                    self.commit(at, std::mem::take(&mut block)).await.map_err(Failure::never)?;
                }
            }
        };
        // What came before a connection broke off is good.
        if !block.is_empty() {
            self.commit(at, block).await.map_err(Failure::never)?;
        }
        result.map_err(|error| Failure::later(error.context(self.key.name()), None))
    }

    /// Hashes what follows without a gap.
    async fn hash_on(&self) -> Result<()> {
        let len = self.remote.len();
        if self.key.sha256().is_none() || self.repairing.get() && self.written.borrow().total() < len {
            return Ok(());
        }
        loop {
            let from = self.hash.borrow().len;
            let gap = self.written.borrow().missing(from, len, 1).map_or(len, |gap| gap.start);
            if gap == from {
                return Ok(());
            }
            let bytes = self.read(from, (gap - from).min(self.sizes.block) as usize).await?;
            self.hash.borrow_mut().update(&bytes);
        }
    }

    fn place(&self) -> Key {
        self.place.borrow().clone()
    }

    /// Lets what has come beside an old copy take its place, at once or block by block: each is one or the other, whatever
    /// ends this.
    async fn replace(&self) -> Result<()> {
        let place = self.place();
        if place == self.key {
            return Ok(());
        }
        let replaced = self.store.replace(&place, &self.key).await?;
        let mut at = if replaced { self.remote.len() } else { 0 };
        while at < self.remote.len() {
            let len = self.sizes.block.min(self.remote.len() - at) as usize;
            let block = self.store.read(&place, at, len).await?;
            if self.store.read(&self.key, at, len).await.ok().as_ref() != Some(&block) {
                self.store.put(&self.key, at, &block).await?;
            }
            at += len as u64;
        }
        self.place.replace(self.key.clone());
        self.store.delete(&place).await.map(drop)
    }

    /// Of a file that is on no Hub one version is kept; other parts of its model lie beside it.
    async fn forget_others(&self) -> Result<()> {
        if !self.key.is_of_url() {
            return Ok(());
        }
        for Record { key, .. } in self.store.list().await? {
            if key.repo == self.key.repo && key.path == self.key.path && key.commit != self.key.commit {
                self.store.delete(&key).await?;
            }
        }
        Ok(())
    }

    fn count(&self, bytes: u64) {
        self.came.set(true);
        self.loaded.update(|loaded| loaded + bytes);
        self.events.update(|events| events + 1);
    }

    async fn commit(&self, at: &mut u64, block: Vec<u8>) -> Result<()> {
        let range = *at..*at + block.len() as u64;
        if self.written.borrow().contains(&range) {
            // Where a server ignores ranges, one transfer passes through what others have brought.
            self.loaded.update(|loaded| loaded - (range.end - range.start));
            *at = range.end;
            return Ok(());
        }
        let place = self.place();
        let differs = !self.repairing.get() || self.store.read(&place, *at, block.len()).await? != block;
        if differs {
            self.store.put(&place, *at, &block).await?;
        }
        if differs && self.repairing.get() {
            self.replaced.update(|replaced| replaced + 1);
        }
        *at = range.end;
        let mut hash = self.hash.borrow_mut();
        if hash.len == range.start && !self.repairing.get() && self.key.sha256().is_some() {
            // Spares reading it again.
            hash.update(&block);
        }
        self.written.borrow_mut().add(range);
        self.events.update(|events| events + 1);
        Ok(())
    }

    /// Bytes that are there.
    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.store.read(&self.place(), offset, len).await
    }
}

/// Reading waits for what is read, and fetches meanwhile.
impl Source for Part {
    fn name(&self) -> &str {
        self.key().name()
    }

    fn len(&self) -> u64 {
        self.download.len()
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            let (job, wanted) = (&self.download.job, offset..offset + len as u64);
            if !job.written.borrow().contains(&wanted) || job.repairing.get() {
                let mut state = self.download.state.lock().await;
                self.download.advance(&mut state, wanted, &self.tally).await?;
            }
            job.read(offset, len).await
        })
    }
}
