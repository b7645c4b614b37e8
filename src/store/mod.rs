//! Where the bytes of a model come from.

#[cfg(not(target_arch = "wasm32"))]
mod files;
mod memory;
mod read_ahead;
#[cfg(target_arch = "wasm32")]
mod web;

use crate::Result;
use futures_util::future::LocalBoxFuture;

#[cfg(not(target_arch = "wasm32"))]
pub use files::FileSource;
pub use memory::MemorySource;
pub use read_ahead::ReadAhead;
#[cfg(target_arch = "wasm32")]
pub(crate) use web::file_name;
#[cfg(target_arch = "wasm32")]
pub use web::{BlobSource, UrlSource, open_url};

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

    /// Exactly `len` bytes from `offset`. Callers stay within [`Source::len`]; a source that
    /// turns out to be shorter gives `corrupt_model`.
    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>>;
}
