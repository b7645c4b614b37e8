//! Where the bytes of a model come from ([`Source`]), and where fetched ones stay ([`Store`]).

#[cfg(target_arch = "wasm32")]
mod at_once;
mod cache;
#[cfg(not(target_arch = "wasm32"))]
mod files;
#[cfg(not(target_arch = "wasm32"))]
mod folder;
#[cfg(target_arch = "wasm32")]
mod indexeddb;
mod joined;
mod memory;
mod memory_store;
pub(crate) mod names;
#[cfg(target_arch = "wasm32")]
mod origin;
mod sessions;
#[cfg(target_arch = "wasm32")]
mod web;

use crate::Result;
use futures_util::future::LocalBoxFuture;

pub use cache::{Key, Record, Store, Written};
#[cfg(all(not(target_arch = "wasm32"), feature = "cli"))]
pub(crate) use files::no_file;
#[cfg(not(target_arch = "wasm32"))]
pub use files::{FileSource, open_file};
#[cfg(not(target_arch = "wasm32"))]
pub use folder::FolderStore;
#[cfg(target_arch = "wasm32")]
pub use indexeddb::IndexedDbStore;
pub use joined::{Joined, Split};
pub(crate) use joined::{arranged, lacks_none};
pub use memory::MemorySource;
pub use memory_store::MemoryStore;
#[cfg(target_arch = "wasm32")]
pub use origin::{Estimate, estimate};
pub use sessions::{StoredSession, list_sessions, read_session, remove_session, save_session};
#[cfg(target_arch = "wasm32")]
pub(crate) use web::file_name;
#[cfg(target_arch = "wasm32")]
pub use web::{BlobSource, BytesSource, collect};

/// A file that can be read by range without holding it whole.
pub trait Source {
    /// For messages and progress: a file name, never a URL with a query.
    fn name(&self) -> &str;

    /// Size in bytes.
    fn len(&self) -> u64;

    /// Whether there is nothing to read.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the files begin that it consists of: one, but for split models.
    fn parts(&self) -> Vec<u64> {
        vec![0]
    }

    /// Exactly `len` bytes from `offset`. Callers stay within [`Source::len`]; a source that
    /// turns out to be shorter gives `corrupt_model`.
    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>>;
}

impl<S: Source + ?Sized> Source for Box<S> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn len(&self) -> u64 {
        (**self).len()
    }

    fn parts(&self) -> Vec<u64> {
        (**self).parts()
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        (**self).read(offset, len)
    }
}
