//! A file that is on its way: from a server into the store, and to whoever reads it meanwhile.
//!
//! A few ranges come at once. Each is committed block by block, so that whatever ends the transfer costs a block
//! of each. The hash follows the blocks in the file's order; where there is a part from before, that is read
//! again: a disk that lost something in a crash is noticed.

use super::client::Failure;
use super::remote::{Answer, Remote};
use crate::engine::{Meter, Progress, Stage};
use crate::store::{Key, Record, Source, Store, Written};
use crate::{Error, Result, http};
use async_lock::Mutex;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use sha2::{Digest, Sha256};
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
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
    /// Ranges at once.
    pub parallel: usize,
    /// Blocks that stay in memory after they were committed, for those who read next.
    pub recent: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes { range: 32 << 20, block: 4 << 20, parallel: 4, recent: 8 }
    }
}

/// Hears of progress; gives an error to stop.
pub type Report = Rc<dyn Fn(Progress) -> Result<()>>;

/// Counts for all parts of a model.
pub(super) struct Tally {
    meter: Meter,
    loaded: Cell<u64>,
    told: Cell<Option<Instant>>,
    report: Report,
}

impl Tally {
    /// `loaded` of `total` bytes were there before.
    pub fn new(name: &str, loaded: u64, total: u64, report: Report) -> Tally {
        let meter = Meter::new(name, total).resumed(loaded);
        Tally { meter, loaded: Cell::new(loaded), told: Cell::new(None), report }
    }

    fn tell(&self) -> Result<()> {
        (self.report)(self.meter.at(Stage::Download, self.loaded.get()))
    }

    /// The same, unless that was a moment ago.
    fn tell_sometimes(&self) -> Result<()> {
        if self.told.get().is_some_and(|told| told.elapsed() < BETWEEN_REPORTS) {
            return Ok(());
        }
        self.told.set(Some(Instant::now()));
        self.tell()
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
    sizes: Sizes,
    tally: Rc<Tally>,
    /// What the store has.
    written: RefCell<Written>,
    recent: RefCell<VecDeque<(u64, Rc<Vec<u8>>)>>,
    /// Counts what happens, for those who wait for something.
    events: Cell<u64>,
    /// The server ignores ranges: one transfer, from the start.
    sequential: Cell<bool>,
    /// Bytes are compared with what the store has.
    repairing: Cell<bool>,
    /// Blocks that were different.
    replaced: Cell<u64>,
    /// Verified.
    whole: Cell<bool>,
}

struct State {
    transfers: FuturesUnordered<LocalBoxFuture<'static, (Range<u64>, Result<()>)>>,
    /// What the transfers bring.
    claimed: Vec<Range<u64>>,
    hash: Sha256,
    hashed: u64,
    /// Nobody else fetches this content.
    turn: Option<Box<dyn Any>>,
}

impl Download {
    /// Takes the file up where it was left. `turn` is the store's lock on it.
    pub(super) fn new(
        remote: Remote,
        store: Rc<dyn Store>,
        record: Record,
        turn: Option<Box<dyn Any>>,
        sizes: Sizes,
        tally: Rc<Tally>,
    ) -> Download {
        let whole = record.whole;
        let job = Job {
            remote,
            store,
            key: record.key,
            sizes,
            tally,
            written: RefCell::new(record.written),
            recent: RefCell::default(),
            events: Cell::new(0),
            sequential: Cell::new(false),
            repairing: Cell::new(false),
            replaced: Cell::new(0),
            whole: Cell::new(whole),
        };
        let state = State {
            transfers: FuturesUnordered::new(),
            claimed: Vec::new(),
            hash: Sha256::new(),
            hashed: 0,
            turn: turn.filter(|_| !whole),
        };
        Download { job: Rc::new(job), state: Mutex::new(state) }
    }

    /// Which file.
    pub fn key(&self) -> &Key {
        &self.job.key
    }

    /// Fetches what is missing, and checks it. Says whether something was replaced that may have been read before.
    /// A file that is not what it should be is not kept, and gives `corrupt_model`.
    pub async fn complete(&self) -> Result<bool> {
        if self.job.whole.get() {
            return Ok(false);
        }
        let mut state = self.state.lock().await;
        let len = self.len();
        self.advance(&mut state, 0..len).await?;
        if !self.is_right(&mut state).await? {
            self.repair(&mut state).await?;
        }
        self.job.store.finish(self.key()).await?;
        self.job.whole.set(true);
        self.job.recent.take();
        state.turn = None;
        self.job.tally.tell()?;
        Ok(self.job.replaced.get() > 0)
    }

    /// Something is wrong somewhere: fetches everything once more, and replaces what differs.
    async fn repair(&self, state: &mut State) -> Result<()> {
        let (job, len) = (&self.job, self.len());
        job.repairing.set(true);
        let had = job.written.take();
        job.recent.take();
        job.tally.loaded.set(job.tally.loaded.get().saturating_sub(had.total()));
        (state.hash, state.hashed) = (Sha256::new(), 0);
        self.advance(state, 0..len).await?;
        job.repairing.set(false);
        if job.replaced.get() > 0 && self.is_right(state).await? {
            return Ok(());
        }
        job.store.delete(self.key()).await?;
        Err(Error::corrupt_model(format!(
            "{}: what the server has is not what its SHA-256 says; nothing of it is kept. Try again later or take another file",
            self.key().name()
        )))
    }

    async fn is_right(&self, state: &mut State) -> Result<bool> {
        self.hash_on(state).await?;
        let digest = std::mem::take(&mut state.hash).finalize();
        state.hashed = 0;
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(self.key().sha256().is_none_or(|expected| expected == hex))
    }

    /// Works until the store has `wanted`.
    async fn advance(&self, state: &mut State, wanted: Range<u64>) -> Result<()> {
        let job = &self.job;
        loop {
            job.tally.tell_sometimes()?;
            self.hash_on(state).await?;
            if job.written.borrow().contains(&wanted) {
                return Ok(());
            }
            self.start_transfers(state);
            let before = job.events.get();
            let ended = poll_fn(|context| match state.transfers.poll_next_unpin(context) {
                Poll::Ready(ended) => Poll::Ready(ended),
                Poll::Pending if job.events.get() != before => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
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
        let parallel = if job.sequential.get() { 1 } else { job.sizes.parallel };
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

    /// Hashes what follows without a gap.
    async fn hash_on(&self, state: &mut State) -> Result<()> {
        let job = &self.job;
        if job.key.sha256().is_none() || job.repairing.get() && job.written.borrow().total() < self.len() {
            return Ok(());
        }
        loop {
            let gap =
                job.written.borrow().missing(state.hashed, self.len(), 1).map_or(self.len(), |gap| gap.start);
            let len = (gap - state.hashed).min(job.sizes.block);
            if len == 0 {
                return Ok(());
            }
            state.hash.update(job.read(state.hashed, len as usize).await?);
            state.hashed += len;
        }
    }
}

impl Job {
    /// Brings a range, whatever happens on the way.
    async fn transfer(&self, range: Range<u64>) -> Result<()> {
        let mut backoff = self.remote.client.backoff.clone();
        let mut at = range.start;
        loop {
            let before = at;
            match self.attempt(&mut at, range.end).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error, asked)) => {
                    if at > before {
                        backoff.reset();
                    }
                    match backoff.next(asked) {
                        Some(wait) => http::sleep(wait).await,
                        None => return Err(error),
                    }
                }
            }
        }
    }

    /// One request. `at` moves to the end of what was committed.
    async fn attempt(&self, at: &mut u64, mut end: u64) -> Result<(), Failure> {
        let Answer { mut response, from_start } = self.remote.open(&(*at..end)).await?;
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
                let take = chunk.len().min((line - *at) as usize - block.len());
                let (head, tail) = chunk.split_at(take);
                block.extend_from_slice(head);
                self.count(head.len() as u64);
                chunk = tail;
                if *at + block.len() as u64 == line {
                    self.commit(at, std::mem::take(&mut block)).await.map_err(Failure::Final)?;
                }
            }
        };
        // What came before a connection broke off is good.
        if !block.is_empty() {
            self.commit(at, block).await.map_err(Failure::Final)?;
        }
        result.map_err(|error| Failure::Again(error.context(self.key.name()), None))
    }

    fn count(&self, bytes: u64) {
        self.tally.loaded.update(|loaded| loaded + bytes);
        self.events.update(|events| events + 1);
    }

    async fn commit(&self, at: &mut u64, block: Vec<u8>) -> Result<()> {
        let range = *at..*at + block.len() as u64;
        if self.written.borrow().contains(&range) {
            // Where a server ignores ranges, one transfer passes through what others have brought.
            self.tally.loaded.update(|loaded| loaded - (range.end - range.start));
            *at = range.end;
            return Ok(());
        }
        let differs = !self.repairing.get() || self.store.read(&self.key, *at, block.len()).await? != block;
        if differs {
            self.store.put(&self.key, *at, &block).await?;
        }
        if differs && self.repairing.get() {
            self.replaced.update(|replaced| replaced + 1);
        }
        *at = range.end;
        let mut recent = self.recent.borrow_mut();
        recent.push_back((range.start, Rc::new(block)));
        while recent.len() > self.sizes.recent {
            recent.pop_front();
        }
        self.written.borrow_mut().add(range);
        self.events.update(|events| events + 1);
        Ok(())
    }

    /// Bytes that are there: from memory, else from the store.
    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        match self.recall(offset, len) {
            Some(bytes) => Ok(bytes),
            None => self.store.read(&self.key, offset, len).await,
        }
    }

    fn recall(&self, mut offset: u64, len: usize) -> Option<Vec<u8>> {
        let recent = self.recent.borrow();
        let holds =
            |at: u64| recent.iter().find(|(start, block)| *start <= at && at - start < block.len() as u64);
        // Before anything is copied.
        holds(offset)?;
        holds(offset + (len as u64).checked_sub(1)?)?;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let (start, block) = holds(offset)?;
            let rest = &block[(offset - start) as usize..];
            let take = rest.len().min(len - bytes.len());
            bytes.extend_from_slice(&rest[..take]);
            offset += take as u64;
        }
        Some(bytes)
    }
}

/// Reading waits for what is read, and fetches meanwhile.
impl Source for Download {
    fn name(&self) -> &str {
        self.job.key.name()
    }

    fn len(&self) -> u64 {
        self.job.remote.len()
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            if !self.job.whole.get() {
                let mut state = self.state.lock().await;
                self.advance(&mut state, offset..offset + len as u64).await?;
            }
            self.job.read(offset, len).await
        })
    }
}
