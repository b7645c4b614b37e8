//! What the kernels know of candlewick's pool, with one thread.

use crate::Result;
use std::marker::PhantomData;

pub struct Pool;

impl Pool {
    pub fn each(&self, len: usize, _: usize, work: impl Fn(usize) + Sync) -> Result<()> {
        (0..len).for_each(work);
        Ok(())
    }
}

pub struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: there is one thread.
unsafe impl<T> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Parts { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// # Safety
    /// Parts that are in use at a time must not overlap.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, first: usize, len: usize) -> &mut [T] {
        assert!(first <= self.len && len <= self.len - first);
        // SAFETY: within the slice; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }
}
