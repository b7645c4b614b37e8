//! Bytes that are in memory already, of a program that has the engine as a library, or of a test.

use super::Source;
use crate::{Error, Result};
use futures_util::future::LocalBoxFuture;

/// A model in memory.
pub struct MemorySource {
    name: String,
    bytes: Vec<u8>,
}

impl MemorySource {
    /// `name` is for messages only.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        MemorySource { name: name.into(), bytes }
    }
}

impl Source for MemorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|start| self.bytes.get(start..start.checked_add(len)?))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| Error::corrupt_model(format!("{}: no {len} bytes at {offset}", self.name)));
        Box::pin(std::future::ready(bytes))
    }
}
