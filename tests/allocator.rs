//! An allocator that counts, and refuses what no test needs: code that takes a hostile file's word
//! for a size fails on every machine, and not only where memory is short.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

const MOST_AT_ONCE: usize = 1 << 30;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes in use and the most there were, of what this thread has allocated and freed.
    static USED: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
    /// How often this thread has allocated.
    static TIMES: Cell<usize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // Fails while a thread ends; nobody measures then.
    let _ = USED.try_with(|used| {
        let (now, most) = used.get();
        used.set((now + change, most.max(now + change)));
    });
}

// SAFETY: hands everything to the system's allocator, or says that there is no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST_AT_ONCE {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        let _ = TIMES.try_with(|times| times.set(times.get() + 1));
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What `work` gives, and the most bytes that it had allocated on this thread at a time.
pub(crate) fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    USED.set((0, 0));
    let result = work();
    (result, USED.get().1 as usize)
}

/// What `work` gives, and how often it has allocated on this thread.
pub(crate) fn allocations<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = TIMES.get();
    let result = work();
    (result, TIMES.get() - before)
}
