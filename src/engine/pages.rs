//! Which pages of the KV cache are free, and who uses the others.
//!
//! A page is *live* while a sequence that goes on uses it, and *kept* while only sequences do that wait to be used
//! again. Kept ones can be had at any time. What live sequences may still take is promised to them when they begin, so that
//! none of them ever waits for a page.

/// How many use a page.
#[derive(Debug, Clone, Copy, Default)]
struct Users {
    live: u32,
    kept: u32,
}

#[derive(Debug, Default)]
pub(super) struct Pages {
    users: Vec<Users>,
    free: Vec<u32>,
    live: usize,
    promised: usize,
}

impl Pages {
    pub(super) fn new(count: usize) -> Pages {
        let free = (0..count as u32).rev().collect();
        Pages { users: vec![Users::default(); count], free, live: 0, promised: 0 }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// How many more can become live or be promised, if all that is kept goes.
    pub(super) fn available(&self) -> usize {
        self.len() - self.live - self.promised
    }

    /// Whether more is promised than is free: something that is kept has to go.
    pub(super) fn lacks(&self) -> bool {
        self.promised > self.free.len()
    }

    pub(super) fn is_live(&self, page: u32) -> bool {
        self.users[page as usize].live > 0
    }

    /// Whether one sequence that is kept has it, and nobody else.
    pub(super) fn is_kept_once(&self, page: u32) -> bool {
        let Users { live, kept } = self.users[page as usize];
        (live, kept) == (0, 1)
    }

    pub(super) fn promise(&mut self, count: usize) {
        self.promised += count;
    }

    pub(super) fn take_back(&mut self, count: usize) {
        self.promised -= count;
    }

    /// A free page for a live sequence, out of what it was promised.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.users[page as usize].live = 1;
        self.live += 1;
        self.promised -= 1;
        Some(page)
    }

    /// Another live sequence uses the page.
    pub(super) fn share(&mut self, page: u32) {
        let users = &mut self.users[page as usize];
        users.live += 1;
        self.live += usize::from(users.live == 1);
    }

    /// A live sequence goes, and leaves the page to who keeps it.
    pub(super) fn keep(&mut self, page: u32) {
        self.users[page as usize].kept += 1;
        self.release(page);
    }

    /// A live sequence does not use it any more.
    pub(super) fn release(&mut self, page: u32) {
        let users = &mut self.users[page as usize];
        users.live -= 1;
        self.live -= usize::from(users.live == 0);
        self.free_if_unused(page);
    }

    /// What was kept goes.
    pub(super) fn forget(&mut self, page: u32) {
        self.users[page as usize].kept -= 1;
        self.free_if_unused(page);
    }

    fn free_if_unused(&mut self, page: u32) {
        let Users { live, kept } = self.users[page as usize];
        if live + kept == 0 {
            self.free.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_lost_or_given_twice() {
        let mut pages = Pages::new(4);
        pages.promise(3);
        assert_eq!((pages.available(), pages.lacks()), (1, false));
        let [a, b] = [pages.take().unwrap(), pages.take().unwrap()];
        assert_ne!(a, b);
        pages.share(a);
        pages.release(a);
        assert!(pages.is_live(a));
        pages.keep(a);
        pages.release(b);
        pages.take_back(1);
        assert!(!pages.is_live(a));
        assert_eq!(pages.available(), 4);
        // One of them is kept.
        pages.promise(4);
        assert!(pages.lacks());
        pages.forget(a);
        assert!(!pages.lacks());
        let mut taken: Vec<u32> = (0..4).map(|_| pages.take().unwrap()).collect();
        taken.sort_unstable();
        assert_eq!(taken, [0, 1, 2, 3]);
        assert_eq!((pages.take(), pages.available()), (None, 0));
    }
}
