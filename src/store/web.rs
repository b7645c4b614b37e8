//! Files of the browser: what the user picked, answers that are read to their end, and bytes in JavaScript's memory.

use super::Source;
use crate::http::Response;
use crate::{Error, Result};
use futures_util::future::LocalBoxFuture;
use js_sys::Uint8Array;
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::JsFuture;
use web_sys::Blob;

/// A `Blob` or `File`, read by range.
pub struct BlobSource {
    name: String,
    blob: Blob,
}

impl BlobSource {
    /// `name` is for messages only.
    pub fn new(name: impl Into<String>, blob: Blob) -> Self {
        BlobSource { name: name.into(), blob }
    }
}

impl Source for BlobSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.blob.size() as u64
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            let unreadable = |error: JsValue| {
                Error::model_not_found(format!(
                    "{}: reading {len} bytes at {offset} failed ({}). Has the file changed or gone?",
                    self.name,
                    describe(&error)
                ))
            };
            let slice = self
                .blob
                .slice_with_f64_and_f64(offset as f64, (offset + len as u64) as f64)
                .map_err(unreadable)?;
            let buffer = JsFuture::from(slice.array_buffer()).await.map_err(unreadable)?;
            let bytes = Uint8Array::new(&buffer).to_vec();
            if bytes.len() != len {
                let got = bytes.len();
                let message = format!("{}: asked for {len} bytes at {offset}, got {got}", self.name);
                return Err(Error::corrupt_model(message));
            }
            Ok(bytes)
        })
    }
}

/// Bytes in JavaScript's memory.
pub struct BytesSource {
    name: String,
    bytes: Uint8Array,
}

impl BytesSource {
    /// `name` is for messages only.
    pub fn new(name: impl Into<String>, bytes: Uint8Array) -> Self {
        BytesSource { name: name.into(), bytes }
    }
}

impl Source for BytesSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.bytes.length().into()
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        let wanted = u32::try_from(offset).ok().zip(u32::try_from(offset + len as u64).ok());
        let bytes = wanted.map(|(start, end)| self.bytes.subarray(start, end).to_vec());
        let bytes = bytes.filter(|bytes| bytes.len() == len);
        let missing = || Error::corrupt_model(format!("{}: no {len} bytes at {offset}", self.name));
        Box::pin(std::future::ready(bytes.ok_or_else(missing)))
    }
}

/// Hears the bytes that have come, and the total where it is known; gives an error to stop.
pub(super) type Collected<'a> = dyn FnMut(u64, Option<u64>) -> Result<()> + 'a;

/// Reads an answer to its end, into a `Blob`, outside of wasm memory. Fails with `network` where it breaks off.
pub async fn collect(mut response: Response, name: &str, progress: &mut Collected<'_>) -> Result<BlobSource> {
    let total = response.header("content-length").and_then(|total| total.parse().ok());
    let parts = js_sys::Array::new();
    let mut loaded = 0;
    while let Some(chunk) = response.chunk().await? {
        loaded += chunk.len() as u64;
        parts.push(&Uint8Array::from(chunk.as_slice()));
        progress(loaded, total)?;
    }
    let blob = Blob::new_with_u8_array_sequence(&parts)
        .map_err(|error| Error::resource_exhausted(format!("{name}: {}", describe(&error))))?;
    Ok(BlobSource::new(name, blob))
}

/// The last part of an address's path. Its query may hold a signature and is never shown.
pub(crate) fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("model").to_owned()
}

fn describe(error: &JsValue) -> String {
    js_sys::Error::from(error.clone()).message().into()
}
