//! The one seam to the network: every request of the crate goes through [`send`].
//!
//! Natively it is reqwest on a runtime of its own, so that any executor may poll the futures here; in
//! browsers it is `fetch`. Dropping a future or a [`Response`] ends the transfer. Nothing is tried
//! again here: [`Backoff`], [`Failure`] and [`Response::wait`] are for those who do.
//!
//! `Authorization` is not sent on when a redirect leaves the origin: reqwest and the fetch standard
//! both see to that. What is posted stays with the host that it was meant for: its redirects are followed within the
//! origin, where the platform can tell, and are answers themselves elsewhere. Bodies come decompressed. Errors name the
//! host, never the address, whose query may hold a signature.

mod attempt;
#[cfg(not(target_arch = "wasm32"))]
mod native;
mod retry;
mod token;
#[cfg(target_arch = "wasm32")]
mod web;

#[cfg(not(target_arch = "wasm32"))]
use native as platform;
#[cfg(target_arch = "wasm32")]
use web as platform;

pub(crate) use attempt::given_up;
pub use attempt::{Again, Failure, OnRetry, Retrying};
pub use platform::sleep;
pub use retry::{Backoff, may_retry};
pub use token::Token;

use crate::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// What a request asks the server to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Give something.
    Get,
    /// Take the body.
    Post,
}

/// How long the server may be silent.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// From the request to the status line, redirects and connecting included. A connection that is not
    /// made within 15 seconds fails before that.
    pub head: Duration,
    /// From one piece of the body to the next.
    pub stall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts { head: Duration::from_secs(60), stall: Duration::from_secs(30) }
    }
}

/// A request. Its `Debug` shows neither headers nor query: they may hold secrets.
#[derive(Clone)]
pub struct Request {
    method: Method,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeouts: Timeouts,
    /// Redirects are followed within the origin only.
    stays: bool,
}

impl Request {
    /// Asks for what is at `url`, which is absolute.
    pub fn get(url: impl Into<String>) -> Self {
        Request {
            method: Method::Get,
            url: url.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeouts: Timeouts::default(),
            stays: false,
        }
    }

    /// Sends `body` as JSON.
    pub fn post_json(url: impl Into<String>, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(Error::internal)?;
        let request = Request { method: Method::Post, body, stays: true, ..Request::get(url) };
        Ok(request.header("Content-Type", "application/json"))
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Adds `Authorization: Bearer …`.
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }

    /// Asks for `len` bytes from `offset` only; `len` is at least 1. The server may ignore it.
    pub fn range(self, offset: u64, len: u64) -> Self {
        self.header("Range", format!("bytes={offset}-{}", offset + len - 1))
    }

    /// Keeps it from other hosts, as what is posted always is.
    pub fn staying(mut self) -> Self {
        self.stays = true;
        self
    }

    /// Instead of the default ones.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:?} {}", self.method, host(&self.url))
    }
}

/// Sends a request and waits for the answer's head. Redirects are followed; those of [`Method::Post`] and of requests that
/// are [`Request::staying`] to another origin, or with a status that would make them a GET, are not. Any status is an answer; browsers give 0 for a redirect that was
/// not followed. `network` is for connections that fail and servers that fall silent.
pub async fn send(request: Request) -> Result<Response> {
    platform::send(request).await
}

/// The head of an answer, and its body as it comes.
pub struct Response {
    status: u16,
    url: String,
    headers: Vec<(String, String)>,
    host: String,
    body: platform::Body,
}

impl Response {
    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the status is one of success.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The address after redirects. It may hold a signature: never show or store it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The host that answered, for messages.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A header. Browsers show those of other origins only as far as the server lets them.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The next bytes of the body, however many came; nothing at its end.
    pub async fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        self.body.chunk().await.map_err(|error| error.context(&self.host))
    }

    /// The whole body, of at most `limit` bytes.
    pub async fn bytes(mut self, limit: usize) -> Result<Vec<u8>> {
        let expected = self.header("Content-Length").and_then(|len| len.parse().ok()).unwrap_or(0);
        let mut bytes = Vec::with_capacity(limit.min(expected));
        while let Some(chunk) = self.chunk().await? {
            if chunk.len() > limit - bytes.len() {
                return Err(Error::network(format!("{}: an answer of more than {limit} bytes", self.host)));
            }
            bytes.extend(chunk);
        }
        Ok(bytes)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} from {}", self.status, self.host)
    }
}

/// Host and port of an address.
pub fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}
