//! Where fetched files stay.

use super::names::{is_file, is_hash, is_repo};
use crate::{Error, Result};
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::future::ready;
use std::ops::Range;

/// Names a file for good: what is behind it never changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// `owner/repo` on the Hub; `_url/` and a hash for files from elsewhere (owners have no `_`).
    pub repo: String,
    /// The commit's 40 hex digits.
    pub commit: String,
    /// In the repository, with `/`.
    pub path: String,
    /// The content's name: its SHA-256 in hex, or something of 40 digits where nobody knows that.
    pub etag: String,
}

impl Key {
    /// The content's hash, where it is known.
    pub fn sha256(&self) -> Option<&str> {
        (self.etag.len() == 64).then_some(self.etag.as_str())
    }

    /// Fails with `invalid_argument` where a part could mean something to a file system or a database that names
    /// do not: servers have a say in them.
    pub fn check(&self) -> Result<()> {
        match is_repo(&self.repo) && is_hash(&self.commit) && is_hash(&self.etag) && is_file(&self.path) {
            true => Ok(()),
            false => Err(Error::invalid_argument(format!("{} cannot be kept under its name", self.path))),
        }
    }

    /// Whether it is on no Hub.
    pub fn is_of_url(&self) -> bool {
        self.repo.starts_with("_url/")
    }

    /// The last part of the path, for people.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// What a store knows of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Which.
    pub key: Key,
    /// Bytes of the whole file.
    pub len: u64,
    /// What of it is there, in order.
    pub written: Written,
    /// All of it is there, and its hash was right.
    pub whole: bool,
    /// Seconds since 1970; 0 where nobody knows.
    pub last_used: u64,
}

impl Record {
    /// Bytes that are not there.
    pub fn missing(&self) -> u64 {
        self.len - self.written.total().min(self.len)
    }

    /// Of a file of which nothing is there.
    pub fn none(key: Key, len: u64) -> Record {
        Record { key, len, written: Written::default(), whole: false, last_used: 0 }
    }
}

/// Ranges of bytes, sorted, that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Written(Vec<Range<u64>>);

impl Written {
    /// Everything up to `len`.
    pub fn all(len: u64) -> Written {
        let mut written = Written::default();
        written.add(0..len);
        written
    }

    /// Adds a range; parts of it may be there already.
    pub fn add(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.0.retain(|other| {
            let apart = other.end < range.start || range.end < other.start;
            if !apart {
                range = range.start.min(other.start)..range.end.max(other.end);
            }
            apart
        });
        let at = self.0.partition_point(|other| other.start < range.start);
        self.0.insert(at, range);
    }

    /// Whether all of `range` is there.
    pub fn contains(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.0.iter().any(|have| have.start <= range.start && range.end <= have.end)
    }

    /// Whether some of `range` is there.
    pub fn touches(&self, range: &Range<u64>) -> bool {
        self.0.iter().any(|have| have.start < range.end && range.start < have.end)
    }

    /// What is there, in order.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    /// Bytes.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// The first range below `len` that is missing from `from` on; at most `most` long.
    pub fn missing(&self, from: u64, len: u64, most: u64) -> Option<Range<u64>> {
        let mut start = from;
        for have in &self.0 {
            if have.start > start {
                break;
            }
            start = start.max(have.end);
        }
        let next = self.0.iter().map(|have| have.start).find(|&next| next > start).unwrap_or(len);
        (start < len).then(|| start..next.min(len).min(start.saturating_add(most)))
    }
}

/// Keeps files between runs, whole ones and parts of them. What [`Store::put`] has written survives a crash
/// right after it. Errors are `quota_exceeded` where there is no room, `model_not_found` where somebody has removed a file
/// meanwhile, and `invalid_argument` where something is in the way.
pub trait Store {
    /// Every file, with what is there of it.
    fn list(&self) -> LocalBoxFuture<'_, Result<Vec<Record>>>;

    /// What is there of one file.
    fn get<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<Option<Record>>>;

    /// Prepares for files that belong together, each with its bytes, and says what of them is there already: the whole,
    /// where another revision has the same content. They count as used now. Fails with `quota_exceeded` where what is
    /// missing of all of them would not fit.
    fn begin<'a>(&'a self, files: &'a [(Key, u64)]) -> LocalBoxFuture<'a, Result<Vec<Record>>>;

    /// Commits a piece of a file that was begun.
    fn put<'a>(&'a self, key: &'a Key, offset: u64, bytes: &'a [u8]) -> LocalBoxFuture<'a, Result<()>>;

    /// Exactly `len` bytes that are there.
    fn read<'a>(&'a self, key: &'a Key, offset: u64, len: usize) -> LocalBoxFuture<'a, Result<Vec<u8>>>;

    /// All pieces are there, and the hash is right.
    fn finish<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<()>>;

    /// Lets the file `new`, all of which is there and right, take the place of `old` at once. False where a store does
    /// not do that: there the pieces of `old` are written anew.
    fn replace<'a>(&'a self, _new: &'a Key, _old: &'a Key) -> LocalBoxFuture<'a, Result<bool>> {
        Box::pin(ready(Ok(false)))
    }

    /// Forgets a file or what is there of it, and says how many bytes that freed.
    fn delete<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<u64>>;

    /// Waits for one's turn with this content. Whoever holds the guard is the only one to fetch it: neither
    /// another tab nor another process does.
    fn lock<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<Box<dyn Any>>>;

    /// The small text kept as `name`, which consists of letters, digits and `-_.@`: what the Hub said of a
    /// repository. Losing one costs a request.
    fn note<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Result<Option<String>>>;

    /// The commit that other tools sharing this store found `revision` to be.
    fn revision<'a>(
        &'a self,
        _repo: &'a str,
        _revision: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<String>>> {
        Box::pin(ready(Ok(None)))
    }

    /// Tells other tools sharing this store what commit `revision` is.
    fn set_revision<'a>(
        &'a self,
        _repo: &'a str,
        _revision: &'a str,
        _commit: &'a str,
    ) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    /// Keeps a small text.
    fn set_note<'a>(&'a self, name: &'a str, text: &'a str) -> LocalBoxFuture<'a, Result<()>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let mut written = Written::default();
        assert_eq!(written.missing(0, 100, 30), Some(0..30));
        written.add(10..20);
        written.add(30..40);
        assert_eq!(written.missing(0, 100, 30), Some(0..10));
        assert_eq!(written.missing(10, 100, 30), Some(20..30));
        assert_eq!(written.missing(35, 100, 30), Some(40..70));
        written.add(20..30);
        assert_eq!(written.0, std::slice::from_ref(&(10..40)));
        assert!(written.contains(&(15..35)) && !written.contains(&(5..15)) && written.contains(&(7..7)));
        assert!(written.touches(&(5..15)) && written.touches(&(39..50)));
        assert!(!written.touches(&(5..10)) && !written.touches(&(40..50)));
        written.add(0..100);
        assert_eq!((written.total(), written.missing(0, 100, 30)), (100, None));
        assert_eq!(Written::all(0), Written::default());
    }
}
