//! Files of the browser: what the user picked, and addresses.

use super::Source;
use crate::http::{self, Request, Response};
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
            exactly(Uint8Array::new(&buffer).to_vec(), len, &self.name, offset)
        })
    }
}

/// A file behind an address whose server answers range requests.
pub struct UrlSource {
    name: String,
    url: String,
    len: u64,
}

/// Hears the file's name, the bytes that have come, and the total where it is known; gives an error to stop.
pub type DownloadProgress<'a> = dyn FnMut(&str, u64, Option<u64>) -> Result<()> + 'a;

/// The file behind `url`. Where the server sends the whole file whatever is asked, it is kept in a
/// `Blob`, outside of wasm memory, and `progress` hears how far it is.
pub async fn open_url(url: &str, progress: &mut DownloadProgress<'_>) -> Result<Box<dyn Source>> {
    let name = file_name(url);
    // The first byte tells the size, and whether ranges work.
    let response = get(url, &name, 0, 1).await?;
    if response.status() == 200 {
        let blob = collect(response, &name, progress).await?;
        return Ok(Box::new(BlobSource::new(name, blob)));
    }
    Ok(Box::new(UrlSource::new(url, name, &response)?))
}

/// Reads an answer to its end.
async fn collect(mut response: Response, name: &str, progress: &mut DownloadProgress<'_>) -> Result<Blob> {
    let total = response.header("content-length").and_then(|total| total.parse().ok());
    let parts = js_sys::Array::new();
    let mut loaded = 0;
    while let Some(chunk) = response.chunk().await? {
        loaded += chunk.len() as u64;
        parts.push(&Uint8Array::from(chunk.as_slice()));
        progress(name, loaded, total)?;
    }
    Blob::new_with_u8_array_sequence(&parts)
        .map_err(|error| Error::resource_exhausted(format!("{name}: {}", describe(&error))))
}

impl UrlSource {
    fn new(url: &str, name: String, response: &Response) -> Result<UrlSource> {
        let len = response
            .header("content-range")
            .and_then(|range| range.rsplit_once('/')?.1.parse().ok())
            .ok_or_else(|| {
            Error::network(format!("{name}: the server answers ranges but does not say the file's size"))
        })?;
        Ok(UrlSource { name, url: url.to_owned(), len })
    }
}

impl Source for UrlSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            if len == 0 {
                return Ok(Vec::new());
            }
            let response = get(&self.url, &self.name, offset, len).await?;
            if response.status() != 206 {
                return Err(Error::network(format!("{}: the server stopped answering ranges", self.name)));
            }
            let bytes = response.bytes(len).await.map_err(|error| error.context(&self.name))?;
            exactly(bytes, len, &self.name, offset)
        })
    }
}

/// The last part of an address's path. Its query may hold a signature and is never shown.
pub(crate) fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("model").to_owned()
}

async fn get(url: &str, name: &str, offset: u64, len: usize) -> Result<Response> {
    let request = Request::get(url).range(offset, len as u64);
    let response = http::send(request).await.map_err(|error| error.context(name))?;
    match response.status() {
        200 | 206 => Ok(response),
        // An empty file has no first byte.
        416 => Err(Error::corrupt_model(format!("{name}: the file is empty or shorter than expected"))),
        401 | 403 => Err(Error::unauthorized(format!("{name}: the server answered {}", response.status()))),
        404 | 410 => Err(Error::model_not_found(format!(
            "{name}: the server answered {}. Check the address",
            response.status()
        ))),
        status => Err(Error::network(format!("{name}: the server answered {status}"))),
    }
}

fn exactly(bytes: Vec<u8>, len: usize, name: &str, offset: u64) -> Result<Vec<u8>> {
    if bytes.len() != len {
        return Err(Error::corrupt_model(format!(
            "{name}: asked for {len} bytes at {offset}, got {}",
            bytes.len()
        )));
    }
    Ok(bytes)
}

fn describe(error: &JsValue) -> String {
    js_sys::Error::from(error.clone()).message().into()
}
