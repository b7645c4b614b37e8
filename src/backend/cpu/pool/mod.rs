//! Threads that work on one thing at a time: a region of small pieces.
//!
//! A token is more than a hundred regions of a few microseconds. So helpers spin for a while before they sleep, and the
//! caller works too. Each thread goes through a share of its own, from its first piece to its last: weights are read as
//! fast as memory gives them only in long runs, which threads that take turns do not have (two of them were slower than
//! one). Who has nothing left takes half of what another has. So a helper that is not there in time is not waited for:
//! the caller only waits for pieces that somebody has taken. Which thread does a piece changes nothing about its result.
//!
//! What takes time is to exchange a word that others may change, too: it waits for all that was read before, and what
//! comes next waits for it. So a thread takes half of its share at once, then half of the rest, …. And cache lines that
//! go from core to core take up to a quarter of a microsecond: all that a helper must know of a region is on one, its
//! [`Seat`].

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
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// Most threads of a pool, the caller included.
pub const MOST_THREADS: usize = 64;

/// Multiplications that are worth beginning at once: a microsecond, several times what it takes to begin.
const PIECE: usize = 1 << 15;

/// Rounds before a helper, or a caller that waits for one, sleeps: some fifty microseconds.
const SPINS: u32 = if cfg!(target_arch = "wasm32") { 50_000 } else { 2_000 };

/// How often a sleeping caller looks whether a helper has crashed. It is woken when the helper is done.
const LOOK: Duration = Duration::from_millis(20);

/// Most pieces that a [`Share`] can count.
const MOST_PIECES: usize = u16::MAX as usize;

/// Threads that are worth trying where nobody says how many: the machine's, up to where memory is the limit.
pub(crate) fn most_threads() -> usize {
    platform::cores().clamp(1, 16)
}

/// Some threads, one of which is the caller's. Dropping it stops the others.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<platform::Helper>,
    /// The last region's number. One at a time: a pool belongs to one thread, and work cannot reach it.
    region: Cell<u32>,
}

/// On a cache line of its own.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    /// Of each thread, the caller's first.
    seats: Box<[Line<Seat>]>,
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

/// What a thread has of a region.
struct Seat {
    /// Written before the share, and read by who has pieces: until they are done, the region does not end.
    work: UnsafeCell<*const Work<'static>>,
    /// Fewest pieces that are worth taking.
    grain: AtomicUsize,
    /// Its pieces that nobody has taken. A new region's is what a helper waits for.
    share: AtomicU64,
    /// The region, and how many pieces of it the thread has done, its own or another's.
    done: AtomicU64,
}

/// Does some pieces.
type Work<'a> = dyn Fn(Range<usize>) + Sync + 'a;

/// A region's number, and of its pieces those from the first number to before the second: one word that is exchanged
/// at once.
#[derive(Clone, Copy)]
struct Share {
    region: u32,
    first: usize,
    end: usize,
}

impl Share {
    const fn word(self) -> u64 {
        (self.region as u64) << 32 | (self.first as u64) << 16 | self.end as u64
    }

    const fn new(word: u64) -> Self {
        Share { region: (word >> 32) as u32, first: (word >> 16) as u16 as usize, end: word as u16 as usize }
    }

    /// What is left when a thread has taken half, or what is worth it.
    fn rest(self, grain: usize) -> Self {
        let half = (self.end - self.first).div_ceil(2);
        Share { first: self.end.min(self.first + half.max(grain)), ..self }
    }
}

#[derive(Default)]
struct Sleeper {
    sleeps: AtomicBool,
    thread: OnceLock<Thread>,
}

// SAFETY: a seat's `work` is written by the one caller when all pieces of the region before are done, and released with
// its share; a thread that has taken pieces reads it, after it has acquired that share.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` threads (at grain 1, at most [`MOST_THREADS`]), or of as many as can be started.
    pub(crate) fn new(threads: usize) -> Pool {
        let threads = threads.clamp(1, MOST_THREADS);
        let shared = Arc::new(Shared {
            seats: (0..threads).map(|_| Line(Seat::new())).collect(),
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
        Pool { shared, helpers, region: Cell::new(0) }
    }

    /// Threads that work, the caller's included.
    pub(crate) fn threads(&self) -> usize {
        self.shared.limit.load(Relaxed)
    }

    /// Ends when every helper has started or failed to.
    pub(crate) async fn started(&mut self) {
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
        fence(SeqCst);
        self.shared.wake(self.shared.seats.len());
    }

    /// Calls `work` with every number below `len`, each once, on whatever thread is free. All are done when this returns.
    /// If one panics, others may be left undone. `cost`: of each, in multiplications or what takes as long. What is not
    /// worth sharing is not.
    pub(crate) fn each(&self, len: usize, cost: usize, work: impl Fn(usize) + Sync) -> Result<()> {
        let unit = len.div_ceil(MOST_PIECES).max(1);
        let grain = PIECE.div_ceil(cost.saturating_mul(unit).max(1));
        self.run(len.div_ceil(unit), grain, |pieces| {
            (pieces.start * unit..len.min(pieces.end * unit)).for_each(&work);
        })
    }

    /// Has every piece done once. `grain`: fewest that are worth taking.
    fn run(&self, pieces: usize, grain: usize, work: impl Fn(Range<usize>) + Sync) -> Result<()> {
        let shared = &*self.shared;
        let threads = self.threads().min(pieces.div_ceil(grain));
        if threads <= 1 {
            shared.caught(|| work(0..pieces));
        } else {
            // The caller's own calls write to the stack right below: on a line that helpers read they would slow them down.
            let work = Line(work);
            let work: &Work = &work.0;
            let region = self.region.get().wrapping_add(1);
            self.region.set(region);
            if region == 0 {
                // After four billion regions numbers come again.
                shared.seats.iter().for_each(|Line(seat)| seat.done.store(0, Relaxed));
            }
            let share = |index: usize| Share {
                region,
                first: index * pieces / threads,
                end: (index + 1) * pieces / threads,
            };
            // The caller's first pieces are in hand: an exchange would wait until all that was stored has arrived.
            let rest = share(0).rest(grain);
            // SAFETY: the last region has ended, and this returns when all pieces are done.
            unsafe {
                let work = std::mem::transmute::<&Work, &'static Work<'static>>(work);
                for (index, Line(seat)) in shared.seats[..threads].iter().enumerate().rev() {
                    seat.open(work, grain, if index == 0 { rest } else { share(index) });
                }
            }
            shared.wake(threads);
            let done = shared.work(0, region, Some(0..rest.first));
            shared.finish(threads, region, pieces - done);
        }
        // Read first: to write it each time would take its line from the helpers.
        if shared.panicked.load(Relaxed) {
            shared.panicked.store(false, Relaxed);
            return Err(Error::internal("the engine's work has panicked (its message is on stderr)"));
        }
        Ok(())
    }

    /// The same for each `width` numbers of `out`.
    pub(crate) fn rows(
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
        let seat = &self.seats[index].0;
        let (mut last, mut spins) = (0, 0);
        while index < self.kept.load(Acquire) {
            let region = Share::new(seat.share.load(Acquire)).region;
            if region != last {
                let pieces = seat.take(region).or_else(|| self.steal(index, region));
                self.work(index, region, pieces);
                self.leave();
                (last, spins) = (region, 0);
            } else if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            } else {
                sleeper.sleeps.store(true, SeqCst);
                // Whoever ends threads afterwards sees that we sleep. A region may be missed, and does without us.
                if Share::new(seat.share.load(SeqCst)).region == last && index < self.kept.load(SeqCst) {
                    thread::park();
                    spins = 0;
                }
                sleeper.sleeps.store(false, Relaxed);
            }
        }
    }

    /// Does these pieces of a region as thread `index`, and then others until nobody has any left. Gives how many.
    fn work(&self, index: usize, region: u32, mut pieces: Option<Range<usize>>) -> usize {
        let seat = &self.seats[index].0;
        let mut done = 0;
        while let Some(taken) = pieces {
            done += taken.len();
            // SAFETY: pieces of this region are not done.
            let work = unsafe { &**seat.work.get() };
            if !self.caught(|| work(taken)) {
                // What nobody has taken need not be done.
                done += self.seats.iter().map(|Line(seat)| seat.clear(region)).sum::<usize>();
            }
            pieces = seat.take(region).or_else(|| {
                seat.done.store(u64::from(region) << 32 | done as u64, Release);
                self.steal(index, region)
            });
        }
        done
    }

    /// Whether `work` did not panic.
    fn caught(&self, work: impl FnOnce()) -> bool {
        let fine = catch_unwind(AssertUnwindSafe(work)).is_ok();
        if !fine {
            self.panicked.store(true, Relaxed);
        }
        fine
    }

    /// Makes half of another thread's share that of thread `index`, which is empty, and begins with it.
    fn steal(&self, index: usize, region: u32) -> Option<Range<usize>> {
        let half = |Share { region, first, end }| Share { region, first, end: first + (end - first) / 2 };
        let others = (1..self.seats.len()).map(|step| &self.seats[(index + step) % self.seats.len()].0);
        let (before, left) = others.into_iter().find_map(|other| other.exchange(region, half))?;
        let seat = &self.seats[index].0;
        let rest = Share { first: left.end, ..before }.rest(seat.grain.load(Relaxed));
        // Nobody exchanges a share that is empty.
        seat.share.store(rest.word(), Relaxed);
        Some(left.end..rest.first)
    }

    /// A helper has done what it could in a region.
    fn leave(&self) {
        // Either it sees that the caller sleeps, or the caller sees before that what it has done.
        fence(SeqCst);
        if self.caller_sleeps.load(Relaxed) {
            let caller = self.caller.lock().unwrap_or_else(PoisonError::into_inner);
            caller.iter().for_each(Thread::unpark);
        }
    }

    /// Waits until the helpers among the first `threads` threads have done so many pieces.
    fn finish(&self, threads: usize, region: u32, pieces: usize) {
        let helpers = &self.seats[1..threads];
        let finished = || helpers.iter().map(|Line(seat)| seat.done_in(region)).sum::<usize>() == pieces;
        for _ in 0..SPINS {
            if finished() {
                return;
            }
            std::hint::spin_loop();
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
        self.caller_sleeps.store(true, SeqCst);
        fence(SeqCst);
        while !finished() {
            thread::park_timeout(LOOK);
            // It will never be done, and others may still be in the work: there is no way back from here.
            assert!(self.crashed.load(Relaxed) == 0, "a helper of the engine has crashed");
        }
        self.caller_sleeps.store(false, Relaxed);
    }

    /// Wakes those that sleep of the first `threads` threads. One that is about to sleep may be missed.
    fn wake(&self, threads: usize) {
        for Line(sleeper) in &self.sleepers[..threads - 1] {
            if sleeper.sleeps.load(Relaxed) && sleeper.sleeps.swap(false, SeqCst) {
                sleeper.thread.get().into_iter().for_each(Thread::unpark);
            }
        }
    }
}

impl Seat {
    fn new() -> Self {
        Seat {
            work: UnsafeCell::new(&|_| ()),
            grain: AtomicUsize::new(1),
            share: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    /// Hands out a region.
    ///
    /// # Safety
    /// All pieces of the one before are done, and the work lives on until those of this one are.
    unsafe fn open(&self, work: *const Work<'static>, grain: usize, share: Share) {
        // SAFETY: nobody reads it who has no pieces.
        unsafe { *self.work.get() = work };
        self.grain.store(grain, Relaxed);
        self.share.store(share.word(), Release);
    }

    /// Pieces done in a region.
    fn done_in(&self, region: u32) -> usize {
        let done = self.done.load(Acquire);
        if (done >> 32) as u32 == region { done as u32 as usize } else { 0 }
    }

    /// Replaces what is left of a region's share, unless that is empty. Gives the share before and after.
    fn exchange(&self, region: u32, with: impl Fn(Share) -> Share) -> Option<(Share, Share)> {
        let mut word = self.share.load(Relaxed);
        loop {
            let before = Share::new(word);
            if before.region != region || before.first >= before.end {
                return None;
            }
            let after = with(before);
            match self.share.compare_exchange_weak(word, after.word(), Relaxed, Relaxed) {
                Ok(_) => return Some((before, after)),
                Err(other) => word = other,
            }
        }
    }

    /// Some of what is left of the share.
    fn take(&self, region: u32) -> Option<Range<usize>> {
        let grain = self.grain.load(Relaxed);
        let (before, left) = self.exchange(region, |share| share.rest(grain))?;
        Some(before.first..left.first)
    }

    /// Takes all that is left of a region. Gives how many pieces.
    fn clear(&self, region: u32) -> usize {
        let cleared = self.exchange(region, |share| Share { first: share.end, ..share });
        cleared.map_or(0, |(before, _)| before.end - before.first)
    }
}

/// A slice that pieces of work write parts of.
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    _slice: PhantomData<&'a mut [T]>,
}

// SAFETY: threads get parts that are apart, as `part` demands.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Of a whole slice.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Parts { start: slice.as_mut_ptr(), len: slice.len(), _slice: PhantomData }
    }

    /// `len` of them from `first` on.
    ///
    /// # Safety
    /// Parts that are in use at a time must not overlap.
    #[allow(clippy::mut_from_ref, reason = "the caller keeps parts apart")]
    pub(crate) unsafe fn part(&self, first: usize, len: usize) -> &mut [T] {
        assert!(first <= self.len && len <= self.len - first);
        // SAFETY: within the slice; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}
