//! Threads that work on one thing at a time: a region of small pieces.
//!
//! A token is more than a hundred regions of a few microseconds. So helpers spin for a while before they sleep, opening
//! a region is one store, and the caller works too. Each thread goes through a share of its own, from its first piece to
//! its last: weights are read as fast as memory gives them only in long runs, which threads that take turns do not have
//! (two of them were slower than one). Who has nothing left takes half of what another has. So a helper that is
//! not there in time is not waited for: the caller only waits for pieces that somebody has begun. Which thread does a
//! piece changes nothing about its result.

#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(test)]
mod tests;
mod tune;
#[cfg(target_arch = "wasm32")]
pub(crate) mod web;

#[cfg(not(target_arch = "wasm32"))]
use native as platform;
#[cfg(target_arch = "wasm32")]
use web as platform;

use crate::{Error, Result};
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// Most threads of a pool, the caller included.
pub const MOST_THREADS: usize = 64;

/// Multiplications that are worth a piece: a few microseconds, several times what handing it out takes.
const PIECE: usize = 1 << 15;

/// Rounds before a helper, or a caller that waits for one, sleeps: some fifty microseconds.
const SPINS: u32 = if cfg!(target_arch = "wasm32") { 50_000 } else { 2_000 };

/// How often a sleeping caller looks whether a helper has crashed. It is woken when the helper is done.
const LOOK: Duration = Duration::from_millis(20);

/// In [`Shared::state`]: one for each helper at work.
const HELPERS: u32 = 0xff;
/// Set while helpers may join. Above it, regions are counted.
const OPEN: u32 = 0x100;

/// Threads that are worth trying where nobody says how many: the machine's, up to where memory is the limit.
pub fn most_threads() -> usize {
    platform::cores().clamp(1, 16)
}

/// Some threads, one of which is the caller's. Dropping it stops the others.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<platform::Helper>,
    /// One region at a time: a pool belongs to one thread, and work cannot reach it.
    _one_caller: PhantomData<Cell<()>>,
}

/// On a cache line of its own.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    /// See [`HELPERS`] and [`OPEN`].
    state: Line<AtomicU32>,
    /// The pieces of each thread that nobody has begun.
    shares: Box<[Line<AtomicU64>]>,
    /// Written while the region is closed and nobody is in it.
    region: UnsafeCell<Region>,
    /// A piece has panicked.
    panicked: AtomicBool,
    /// Helpers that a trap has ended. Only in WebAssembly, where JavaScript counts them.
    crashed: AtomicU32,
    /// Threads that may join, the caller included.
    limit: AtomicUsize,
    /// Threads that may live on, the caller included.
    kept: AtomicUsize,
    sleepers: Box<[Line<Sleeper>]>,
    caller_sleeps: AtomicBool,
    caller: Mutex<Option<Thread>>,
}

/// What there is to do.
struct Region {
    work: *const (dyn Fn(usize) + Sync),
    /// Threads that have a share of it.
    threads: usize,
}

/// Pieces from the first number to before the second, as one word that is exchanged at once.
type Share = u64;

const fn share(first: usize, end: usize) -> Share {
    (first as u64) << 32 | end as u64
}

const fn bounds(share: Share) -> (usize, usize) {
    ((share >> 32) as usize, share as u32 as usize)
}

#[derive(Default)]
struct Sleeper {
    sleeps: AtomicBool,
    thread: OnceLock<Thread>,
}

// SAFETY: `region` is written by the one caller, before it opens the region with a release and after all helpers have
// left the one before; they read it after they have joined with an acquire.
unsafe impl Sync for Shared {}
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads (at least 1, at most [`MOST_THREADS`]), or of as many as can be started.
    pub fn new(threads: usize) -> Pool {
        let threads = threads.clamp(1, MOST_THREADS);
        let shared = Arc::new(Shared {
            state: Line(AtomicU32::new(0)),
            shares: (0..threads).map(|_| Line(AtomicU64::new(0))).collect(),
            region: UnsafeCell::new(Region { work: &|_| (), threads: 1 }),
            panicked: AtomicBool::new(false),
            crashed: AtomicU32::new(0),
            limit: AtomicUsize::new(threads),
            kept: AtomicUsize::new(threads),
            sleepers: (1..threads).map(|_| Line(Sleeper::default())).collect(),
            caller_sleeps: AtomicBool::new(false),
            caller: Mutex::new(None),
        });
        let start = |index| {
            let helper = shared.clone();
            platform::start(index, &shared.crashed, move || helper.help(index))
        };
        // A machine that refuses one thread refuses the next ones too.
        let helpers: Vec<_> = (1..threads).map_while(start).collect();
        shared.limit.store(helpers.len() + 1, Relaxed);
        Pool { shared, helpers, _one_caller: PhantomData }
    }

    /// Threads that work, the caller's included.
    pub fn threads(&self) -> usize {
        self.shared.limit.load(Relaxed)
    }

    /// Ends when every helper has started or failed to.
    pub async fn started(&mut self) {
        for helper in &mut self.helpers {
            helper.started().await;
        }
        // Threads have numbers, and those that work have the lowest.
        self.keep(1 + self.helpers.iter().take_while(|helper| helper.runs()).count());
    }

    /// Ends the threads beyond the first `threads`.
    fn keep(&self, threads: usize) {
        self.shared.limit.store(threads, SeqCst);
        self.shared.kept.store(threads, SeqCst);
        self.shared.wake_all();
    }

    /// Calls `work` with every number below `pieces`, each once, on whatever thread is free. All are done when this
    /// returns. If one panics, the others may be left undone.
    pub fn run(&self, pieces: usize, work: impl Fn(usize) + Sync) -> Result<()> {
        let shared = &*self.shared;
        // The caller's own calls write to the stack right below: on a line that helpers read they would slow them down.
        let work = Line(work);
        let work: &(dyn Fn(usize) + Sync) = &work.0;
        let threads = if pieces <= 1 { 1 } else { self.threads() };
        // SAFETY: nobody is in a region. The work lives until `finish` has seen the last helper leave.
        unsafe {
            let work = std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work);
            *shared.region.get() = Region { work, threads };
        }
        for (index, Line(target)) in shared.shares[..threads].iter().enumerate() {
            target.store(share(index * pieces / threads, (index + 1) * pieces / threads), Relaxed);
        }
        if threads > 1 {
            shared.state.0.fetch_add(OPEN, SeqCst);
            shared.wake(threads);
        }
        shared.work(0);
        if threads > 1 {
            shared.finish();
        }
        if shared.panicked.swap(false, Relaxed) {
            return Err(Error::internal("the engine's work has panicked (its message is on stderr)"));
        }
        Ok(())
    }

    /// The same, where each number costs so many multiplications, or what takes as long: as many as are worth it
    /// go together.
    pub fn each(&self, len: usize, cost: usize, work: impl Fn(usize) + Sync) -> Result<()> {
        let step = PIECE.div_ceil(cost.max(1));
        self.run(len.div_ceil(step), |piece| (piece * step..len.min((piece + 1) * step)).for_each(&work))
    }

    /// The same for each `width` numbers of `out`.
    pub fn rows(
        &self,
        out: &mut [f32],
        width: usize,
        cost: usize,
        work: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<()> {
        let rows = out.len() / width;
        let out = Parts::new(out);
        // SAFETY: rows do not overlap, and each comes once.
        self.each(rows, cost, |row| work(row, unsafe { out.part(row * width, width) }))
    }
}

impl Default for Pool {
    /// The caller's thread alone.
    fn default() -> Self {
        Pool::new(1)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.keep(1);
        self.helpers.drain(..).for_each(platform::Helper::join);
    }
}

impl Shared {
    /// What a helper does all its life.
    fn help(&self, index: usize) {
        let sleeper = &self.sleepers[index - 1].0;
        _ = sleeper.thread.set(thread::current());
        let mut last_region = 0;
        let mut spins = 0;
        while index < self.kept.load(Acquire) {
            let state = self.state.0.load(Acquire);
            let region = state & !HELPERS;
            if state & OPEN != 0 && region != last_region && index < self.limit.load(Relaxed) {
                if self.state.0.compare_exchange_weak(state, state + 1, Acquire, Relaxed).is_ok() {
                    self.work(index);
                    self.leave();
                    (last_region, spins) = (region, 0);
                }
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                sleeper.sleeps.store(true, SeqCst);
                // Whoever changes one of these afterwards sees that we sleep.
                if self.state.0.load(SeqCst) == state && index < self.kept.load(SeqCst) {
                    thread::park();
                    spins = 0;
                }
                sleeper.sleeps.store(false, Relaxed);
            }
        }
    }

    /// Does pieces, as thread `index`, until nobody has any left.
    fn work(&self, index: usize) {
        // SAFETY: the region stays as it is while somebody is in it.
        let (work, threads) = unsafe {
            let region = &*self.region.get();
            (&*region.work, region.threads)
        };
        let shares = &self.shares[..threads];
        let all = catch_unwind(AssertUnwindSafe(|| {
            while let Some(piece) = next(shares, index) {
                work(piece);
            }
        }));
        if all.is_err() {
            self.panicked.store(true, Relaxed);
            shares.iter().for_each(|Line(share)| share.store(0, Relaxed));
        }
    }

    /// A helper's work in this region is done.
    fn leave(&self) {
        let last = self.state.0.fetch_sub(1, SeqCst) & (OPEN | HELPERS) == 1;
        if last && self.caller_sleeps.load(SeqCst) {
            let caller = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
            caller.iter().for_each(Thread::unpark);
        }
    }

    /// Lets nobody join any more, and waits for those who have.
    fn finish(&self) {
        self.state.0.fetch_add(OPEN, AcqRel);
        for _ in 0..SPINS {
            if self.state.0.load(Acquire) & HELPERS == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.caller_sleeps.store(true, SeqCst);
        while self.state.0.load(SeqCst) & HELPERS != 0 {
            thread::park_timeout(LOOK);
            // It will never leave, and others may still be in the work: there is no way back from here.
            assert!(self.crashed.load(Relaxed) == 0, "a helper of the engine has crashed");
        }
        self.caller_sleeps.store(false, Relaxed);
    }

    /// Wakes those that sleep of the first `threads` threads.
    fn wake(&self, threads: usize) {
        for Line(sleeper) in &self.sleepers[..threads - 1] {
            if sleeper.sleeps.load(SeqCst) && sleeper.sleeps.swap(false, SeqCst) {
                sleeper.thread.get().into_iter().for_each(Thread::unpark);
            }
        }
    }

    fn wake_all(&self) {
        self.wake(self.sleepers.len() + 1);
    }
}

/// The next piece of thread `index`: the first of its share, or of half of another's.
fn next(shares: &[Line<AtomicU64>], index: usize) -> Option<usize> {
    let own = &shares[index].0;
    let take = |first: usize, end: usize| (share(first + 1, end), first);
    let stolen =
        |first: usize, end: usize| (share(first, first + (end - first) / 2), first + (end - first) / 2);
    if let Some((piece, _)) = exchange(own, take) {
        return Some(piece);
    }
    let others = (1..shares.len()).map(|step| &shares[(index + step) % shares.len()].0);
    let (first, end) = others.into_iter().find_map(|other| exchange(other, stolen))?;
    // Nobody exchanges a share that is empty.
    own.store(share(first + 1, end), Relaxed);
    Some(first)
}

/// Replaces a share, unless it is empty, by what `split` leaves of it. Gives where the rest begins, and its end.
fn exchange(target: &AtomicU64, split: impl Fn(usize, usize) -> (Share, usize)) -> Option<(usize, usize)> {
    let mut now = target.load(Relaxed);
    loop {
        let (first, end) = bounds(now);
        if first >= end {
            return None;
        }
        let (left, rest) = split(first, end);
        match target.compare_exchange_weak(now, left, Relaxed, Relaxed) {
            Ok(_) => return Some((rest, end)),
            Err(other) => now = other,
        }
    }
}

/// A slice that pieces of work write parts of.
pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    _slice: PhantomData<&'a mut [T]>,
}

// SAFETY: threads get parts that are apart, as `part` demands.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Of a whole slice.
    pub fn new(slice: &'a mut [T]) -> Self {
        Parts { start: slice.as_mut_ptr(), len: slice.len(), _slice: PhantomData }
    }

    /// `len` of them from `first` on.
    ///
    /// # Safety
    /// Parts that are in use at a time must not overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, first: usize, len: usize) -> &mut [T] {
        assert!(first <= self.len && len <= self.len - first);
        // SAFETY: within the slice; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}
