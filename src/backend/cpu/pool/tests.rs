use super::super::kernels::simd::{load, xor, zero};
use super::super::math::dot;
use super::{MOST_THREADS, PIECE, Parts, Pool, Shared};
use crate::Code;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, OnceLock};

/// Runs that count how often each piece is done.
fn check(pool: &Pool, pieces: usize) {
    let done: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
    pool.each(pieces, PIECE, |piece| {
        done[piece].fetch_add(1, Relaxed);
    })
    .unwrap();
    assert!(done.iter().all(|count| count.load(Relaxed) == 1), "{pieces} pieces, {} threads", pool.threads());
}

/// No thread gets past it before so many have come. Helpers that were about to sleep when the region was opened miss it,
/// which nothing but a test minds: they are woken.
#[derive(Default)]
struct Meeting(AtomicUsize);

impl Meeting {
    fn wait(&self, threads: usize, shared: &Shared) {
        self.0.fetch_add(1, SeqCst);
        while self.0.load(SeqCst) < threads {
            shared.wake(threads);
            std::thread::yield_now();
        }
    }
}

#[test]
fn every_piece_is_done_once() {
    for threads in [1, 2, 3, 8, MOST_THREADS] {
        let pool = Pool::new(threads);
        assert_eq!(pool.threads(), threads);
        for pieces in [0, 1, 2, 3, 7, 64, 1000] {
            (0..50).for_each(|_| check(&pool, pieces));
        }
        // As many as a share can count, and more.
        [65_535, 65_536, 70_001].into_iter().for_each(|pieces| check(&pool, pieces));
    }
}

/// A helper that does not come is not waited for.
#[test]
fn the_caller_does_all_where_nobody_helps() {
    let mut pool = Pool::new(2);
    pool.keep(1);
    pool.helpers.drain(..).for_each(super::platform::Helper::join);
    pool.shared.limit.store(2, SeqCst);
    (0..10).for_each(|_| check(&pool, 100));
}

#[test]
fn numbers_of_regions_begin_anew() {
    let pool = Pool::new(3);
    check(&pool, 100);
    pool.region.set(u32::MAX - 3);
    (0..10).for_each(|_| check(&pool, 100));
}

#[test]
fn many_regions_follow_each_other() {
    let pool = Pool::new(3);
    let mut sum = AtomicUsize::new(0);
    for _ in 0..100_000 {
        pool.each(4, PIECE, |piece| _ = sum.fetch_add(piece, Relaxed)).unwrap();
    }
    assert_eq!(*sum.get_mut(), 600_000);
}

#[test]
fn helpers_do_help() {
    let pool = Pool::new(3);
    let meeting = Meeting::default();
    pool.each(3, PIECE, |_| meeting.wait(3, &pool.shared)).unwrap();
}

/// A helper that has slept is woken for the next region.
#[test]
fn sleepers_wake() {
    let pool = Pool::new(2);
    let asleep = |pool: &Pool| pool.shared.sleepers[0].0.sleeps.load(SeqCst);
    for _ in 0..20 {
        while !asleep(&pool) {
            std::thread::yield_now();
        }
        // The region must have woken it, so nothing here does.
        let meeting = Meeting::default();
        pool.each(2, PIECE, |_| {
            meeting.0.fetch_add(1, SeqCst);
            while meeting.0.load(SeqCst) < 2 {
                std::thread::yield_now();
            }
        })
        .unwrap();
    }
}

/// A caller that is done long before its helper sleeps until that is done, too.
#[test]
fn the_caller_waits() {
    let pool = Pool::new(2);
    let (shared, caller) = (&pool.shared, std::thread::current().id());
    for _ in 0..20 {
        let (meeting, helped) = (Meeting::default(), AtomicUsize::new(0));
        pool.each(2, PIECE, |_| {
            meeting.wait(2, shared);
            if std::thread::current().id() != caller {
                while !shared.caller_sleeps.load(SeqCst) {
                    std::thread::yield_now();
                }
                helped.fetch_add(1, SeqCst);
            }
        })
        .unwrap();
        assert_eq!(helped.into_inner(), 1);
    }
}

#[test]
fn a_panic_ends_the_region_and_nothing_else() {
    let pool = Pool::new(3);
    let caller = std::thread::current().id();
    for round in 0..100 {
        let error = pool.each(100, PIECE, |piece| assert_ne!(piece, round, "on purpose")).unwrap_err();
        assert_eq!(error.code, Code::Internal);
        check(&pool, 100);
    }
    // In each of the threads, and at once.
    let meeting = Meeting::default();
    let error = pool.each(3, PIECE, |_| {
        meeting.wait(3, &pool.shared);
        panic!("on purpose, {}", std::thread::current().id() == caller);
    });
    assert_eq!(error.unwrap_err().code, Code::Internal);
    check(&pool, 100);
}

/// A helper that is gone for good would be waited for in vain.
#[test]
fn a_crash_is_noticed() {
    static BOTH: Meeting = Meeting(AtomicUsize::new(0));
    static MAY_LEAVE: AtomicBool = AtomicBool::new(false);
    static SHARED: OnceLock<Arc<Shared>> = OnceLock::new();
    let pool = Pool::new(2);
    pool.shared.crashed.store(1, SeqCst);
    assert!(SHARED.set(pool.shared.clone()).is_ok());
    // It captures nothing, for the helper is still in it when the caller has left.
    let work = |_: Range<usize>| {
        SHARED.get().into_iter().for_each(|shared| BOTH.wait(2, shared));
        let helps = std::thread::current().name().is_some_and(|name| name.starts_with("candlewick-"));
        while helps && !MAY_LEAVE.load(SeqCst) {
            std::thread::yield_now();
        }
    };
    let crash = catch_unwind(AssertUnwindSafe(|| pool.run(2, 1, work)));
    assert!(crash.unwrap_err().downcast::<&str>().unwrap().contains("crashed"));
    MAY_LEAVE.store(true, SeqCst);
}

#[test]
fn threads_end_with_the_pool() {
    for threads in [2, 5] {
        // Idle and spinning, idle and asleep.
        for run in [true, false] {
            let pool = Pool::new(threads);
            if run {
                check(&pool, 100);
            }
            let shared = Arc::downgrade(&pool.shared);
            drop(pool);
            assert!(shared.upgrade().is_none(), "a thread still holds the pool");
        }
    }
}

#[test]
fn threads_that_are_not_kept_end() {
    let mut pool = Pool::new(4);
    pool.keep(2);
    pool.helpers.drain(1..).for_each(super::platform::Helper::join);
    assert_eq!((pool.threads(), Arc::strong_count(&pool.shared)), (2, 2));
    check(&pool, 100);
    pollster::block_on(pool.started());
    pool.tune().unwrap();
    assert!((1..=2).contains(&pool.threads()));
    check(&pool, 100);
}

#[test]
fn cheap_work_is_bundled() {
    let pool = Pool::new(2);
    for (len, cost) in [(0, 1), (1, 0), (1000, 1), (1000, 1 << 10), (7, 1 << 20)] {
        let done: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
        pool.each(len, cost, |index| _ = done[index].fetch_add(1, Relaxed)).unwrap();
        assert!(done.iter().all(|count| count.load(Relaxed) == 1));
    }
}

/// Sums are the same to the bit, whoever makes them.
#[test]
fn rows_are_the_same_for_any_number_of_threads() {
    let numbers: Vec<f32> = (0..100_000).map(|index| (index as f32 * 0.37).sin()).collect();
    let sums = |threads| {
        let mut out = vec![0.0; 200];
        let sum = |row: usize, out: &mut [f32]| {
            let (first, second) = numbers[row * 1000..][..1000].split_at(500);
            (out[0], out[1]) = (dot(first, second), dot(first, first));
        };
        Pool::new(threads).rows(&mut out, 2, 1000, sum).unwrap();
        out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let alone = sums(1);
    assert!([2, 3, 16].iter().all(|&threads| sums(threads) == alone));
}

#[test]
#[should_panic(expected = "first <= self.len")]
fn parts_lie_within_the_slice() {
    let mut numbers = [0; 4];
    // SAFETY: it panics.
    unsafe { Parts::new(&mut numbers).part(5, 0) };
}

/// What regions cost beyond their work: `cargo test --profile fast --lib costs_of_regions -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn costs_of_regions() {
    const REGIONS: u32 = 20_000;
    // Each of half a microsecond or so.
    let piece = |_| (0..1000).for_each(|step| _ = std::hint::black_box(step));
    for pieces in [4, 12, 40] {
        for threads in [1, 2, 4] {
            let pool = Pool::new(threads);
            let mut nanoseconds: Vec<_> = (0..9)
                .map(|_| {
                    let start = web_time::Instant::now();
                    (0..REGIONS).for_each(|_| pool.each(pieces, PIECE, piece).unwrap());
                    start.elapsed().as_nanos() / u128::from(REGIONS)
                })
                .collect();
            nanoseconds.sort();
            println!("{pieces} pieces, {threads} threads: {} ns a region", nanoseconds[4]);
        }
    }
}

/// What memory gives, which bounds answers: `cargo test --profile fast --lib memory_of_threads -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn memory_of_threads() {
    const WORDS: usize = 1 << 24;
    const RUN: usize = 1 << 12;
    let words = vec![1u128; WORDS];
    let read = |run: usize| {
        let mut sums = [zero(); 8];
        for eight in words[run * RUN..][..RUN].as_chunks::<8>().0 {
            for (sum, word) in sums.iter_mut().zip(eight) {
                // SAFETY: the pointer is to 16 bytes.
                *sum = xor(*sum, unsafe { load(std::ptr::from_ref(word).cast()) });
            }
        }
        std::hint::black_box(sums);
    };
    for threads in [1, 2, 4] {
        let pool = Pool::new(threads);
        let mut seconds: Vec<_> = (0..9)
            .map(|_| {
                let start = web_time::Instant::now();
                pool.each(WORDS / RUN, 8 * RUN, read).unwrap();
                start.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        println!("{threads} threads: {:.1} GB/s", 16e-9 * WORDS as f64 / seconds[4]);
    }
}
