//! A reader of GGUF headers: metadata and the tensor directory, never the weights.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.
//!
//! Files are untrusted. Every count and length is checked against the size of the file before
//! anything is allocated for it, tensors may neither overlap nor leave the file, and what stays
//! in memory is the header's own bytes plus an index of at most 65,536 keys and 65,536 tensors.

mod metadata;
mod parse;
mod tensor;

pub use metadata::Metadata;
pub use tensor::{TensorInfo, TensorType};

use crate::store::Source;
use crate::{Error, Result};
use parse::{Fault, parse};

/// First read; it holds the whole header of small models. Doubled until the header fits.
const FIRST_READ: u64 = 1 << 20;
/// The largest vocabularies make headers of about 30 MB.
const MAX_HEADER: u64 = 256 << 20;

/// A file's header: what the model is and where its tensors lie.
#[derive(Debug, Clone)]
pub struct Header {
    /// Keys and values.
    pub metadata: Metadata,
    /// Every tensor of the file, in file order.
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    /// Reads the header of `source`, and no more of it than that (rounded up to the next power of two).
    pub async fn read(source: &dyn Source) -> Result<Header> {
        let mut bytes = Vec::new();
        let mut window = FIRST_READ;
        loop {
            let end = window.min(source.len());
            let missing = end - bytes.len() as u64;
            bytes.extend(source.read(bytes.len() as u64, missing as usize).await?);
            match parse(&bytes, source.len()) {
                Ok((header_len, entries, tensors)) => {
                    bytes.truncate(header_len);
                    bytes.shrink_to_fit();
                    return Ok(Header { metadata: Metadata { bytes, entries }, tensors });
                }
                Err(Fault::Short { needed }) if needed <= MAX_HEADER => {
                    window = needed.next_power_of_two().max(2 * window);
                }
                Err(Fault::Short { .. }) => {
                    let message = format!("the header is larger than {MAX_HEADER} bytes");
                    return Err(Error::corrupt_model(message).context(source.name()));
                }
                Err(Fault::Bad(error)) => return Err(error.context(source.name())),
            }
        }
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}
