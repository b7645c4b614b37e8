//! `fetch`.

use super::{Method, Request, Response, host};
use crate::{Error, Result};
use futures_util::future::{Either, select};
use js_sys::{ArrayBuffer, Function, Reflect, Uint8Array};
use std::pin::pin;
use std::time::Duration;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortController, ReadableStream, ReadableStreamByobReader, ReadableStreamDefaultReader,
    ReadableStreamGetReaderOptions, ReadableStreamReaderMode, RequestCache, RequestInit, RequestRedirect,
};

/// Bytes of a chunk at most, where they come into a buffer of ours.
const CHUNK: u32 = 256 << 10;

/// Waits. Browsers know no longer time than 24 days, and end such waits at once.
pub async fn sleep(duration: Duration) {
    gloo_timers::future::sleep(duration.min(Duration::from_millis(i32::MAX as u64))).await;
}

/// Ends the transfer with its owner.
struct Transfer(AbortController);

impl Drop for Transfer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) async fn send(request: Request) -> Result<Response> {
    let host = host(&request.url).to_owned();
    let controller =
        AbortController::new().map_err(|_| Error::internal("this browser has no AbortController"))?;
    let transfer = Transfer(controller);
    let timeouts = request.timeouts;
    let prepared = prepare(request, &transfer).map_err(|error| error.context(&host))?;
    let response = within(timeouts.head, prepared.send())
        .await
        .ok_or_else(|| Error::network(format!("{host}: no answer within {} s", timeouts.head.as_secs_f64())))?
        .map_err(|error| {
            Error::network(format!(
                "{host}: {}. Is the server reachable, and does it allow this page (CORS)?",
                described(&error)
            ))
        })?;
    // A response made by a service worker may have none.
    let url = Some(response.url()).filter(|url| !url.is_empty()).unwrap_or_default();
    Ok(Response {
        status: response.status(),
        headers: response.headers().entries().collect(),
        body: Body {
            reader: response.body().map(|body| Reader::new(&body)),
            stall: timeouts.stall,
            _transfer: transfer,
        },
        host: if url.is_empty() { host } else { super::host(&url).to_owned() },
        url,
    })
}

fn prepare(request: Request, transfer: &Transfer) -> Result<gloo_net::http::Request> {
    let options = RequestInit::new();
    // What is kept has a store of its own; in the browser's cache it would take its place twice.
    options.set_cache(RequestCache::NoStore);
    options.set_signal(Some(&transfer.0.signal()));
    if request.method == Method::Post {
        options.set_method("POST");
        options.set_body(&Uint8Array::from(request.body.as_slice()));
    }
    if request.stays {
        // Where it leads is hidden from us, and it must not lead away.
        options.set_redirect(RequestRedirect::Manual);
    }
    let unfit = |_| Error::invalid_argument("not an address or headers that fetch accepts");
    let headers = web_sys::Headers::new().map_err(unfit)?;
    for (name, value) in &request.headers {
        headers.set(name, value).map_err(unfit)?;
    }
    options.set_headers(&headers);
    // Not by gloo's builder, which puts a `&` to the end of every query.
    let request = web_sys::Request::new_with_str_and_init(&request.url, &options).map_err(unfit)?;
    Ok(request.into())
}

/// What takes the chunks out of a stream.
enum Reader {
    /// Into one buffer again and again. Else each chunk has its own, and browsers let hundreds of megabytes of these lie
    /// around before they collect them. Nothing while one is being filled.
    Filling(ReadableStreamByobReader, Option<ArrayBuffer>),
    /// For browsers and streams that cannot do that.
    Taking(ReadableStreamDefaultReader),
}

impl Reader {
    fn new(body: &ReadableStream) -> Reader {
        let options = ReadableStreamGetReaderOptions::new();
        options.set_mode(ReadableStreamReaderMode::Byob);
        // Throws where the stream is no stream of bytes, or the browser has none.
        match Reflect::get(body, &"getReader".into())
            .and_then(|get_reader| get_reader.unchecked_into::<Function>().call1(body, &options))
        {
            Ok(reader) => Reader::Filling(reader.unchecked_into(), None),
            Err(_) => Reader::Taking(body.get_reader().unchecked_into()),
        }
    }

    /// Nothing at the end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, JsValue> {
        let step = match self {
            Reader::Filling(reader, buffer) => {
                let buffer = buffer.take().unwrap_or_else(|| ArrayBuffer::new(CHUNK));
                reader.read_with_array_buffer_view(&Uint8Array::new(&buffer))
            }
            Reader::Taking(reader) => reader.read(),
        };
        let step = JsFuture::from(step).await?;
        let chunk: Option<Uint8Array> = Reflect::get(&step, &"value".into())?.dyn_into().ok();
        if let (Reader::Filling(_, buffer), Some(chunk)) = (self, &chunk) {
            *buffer = Some(chunk.buffer());
        }
        // At its end it is the buffer, or nothing.
        let done = Reflect::get(&step, &"done".into())?.is_truthy();
        Ok(chunk.filter(|_| !done).map(|chunk| chunk.to_vec()))
    }
}

pub(super) struct Body {
    reader: Option<Reader>,
    stall: Duration,
    _transfer: Transfer,
}

impl Body {
    pub(super) async fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(reader) = &mut self.reader else { return Ok(None) };
        let chunk = within(self.stall, reader.next()).await.ok_or_else(|| {
            Error::network(format!("the server sent nothing for {} s", self.stall.as_secs_f64()))
        })?;
        chunk.map_err(|_| Error::network("the connection broke off"))
    }
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    match select(pin!(future), pin!(sleep(limit))).await {
        Either::Left((output, _)) => Some(output),
        Either::Right(_) => None,
    }
}

/// The name of what went wrong. Browsers' own messages may hold the address.
fn described(error: &gloo_net::Error) -> String {
    match error {
        gloo_net::Error::JsError(error) => error.name.clone(),
        _ => "the request failed".to_owned(),
    }
}
