//! One file on a server, read by range.

use super::client::{Asked, Client};
use crate::http::{Failure, Response, host};
use crate::store::{Key, Source};
use crate::{Code, Error, Result};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

/// Requests to an address of which nothing is known yet.
const FIRST_ATTEMPTS: u32 = 3;

/// A file on a server.
pub struct Remote {
    pub(super) client: Rc<Client>,
    name: String,
    asked: Asked,
    url: String,
    len: u64,
    /// Where the Hub sent us, while that is valid: asking there spares the Hub a request for every range. It is
    /// signed, and kept nowhere else.
    signed: RefCell<Option<String>>,
}

/// What a server says of a file.
pub(super) struct LookedUp {
    /// Bytes, where it tells.
    pub len: Option<u64>,
    /// Its `ETag`, or the time of its last change.
    pub version: Option<String>,
    /// It sends parts of it.
    pub ranges: bool,
}

/// The answer to a request for a range.
pub(super) struct Opened {
    pub response: Response,
    /// The server ignores ranges: these are the file's bytes from its first on.
    pub from_start: bool,
}

impl Remote {
    pub(super) fn new(client: Rc<Client>, key: &Key, url: String, len: u64) -> Remote {
        let name = key.name().to_owned();
        let asked =
            if key.is_of_url() { Asked::of(&name, None) } else { Asked::of(&key.repo, Some(&key.path)) };
        Remote { client, name, asked, url, len, signed: RefCell::default() }
    }

    /// What its server says of the file behind `url`.
    pub(super) async fn look_up(client: &Client, name: &str, url: &str) -> Result<LookedUp> {
        let asked = &Asked::of(name, None);
        // The address may just be wrong.
        let hasty = client.hasty(FIRST_ATTEMPTS);
        hasty
            .again(async || {
                let response = hasty.ask(asked, hasty.request(url).range(0, 1)).await?;
                if !response.is_success() {
                    return Err(refusal(&hasty, asked, &response));
                }
                let version = response.header("ETag").or(response.header("Last-Modified")).map(str::to_owned);
                let ranges = response.status() == 206;
                let len = match content_range(&response) {
                    Some((_, len)) if ranges => Some(len),
                    // Browsers do not show that header of other origins, unlike the length of the whole.
                    _ if ranges => content_length(&hasty.send(asked, hasty.request(url)).await?),
                    _ => content_length(&response),
                };
                Ok(LookedUp { len, version, ranges })
            })
            .await
    }

    /// Has `collect` read the file behind `url` from its first byte to its last; again, where that breaks off.
    pub(super) async fn read_whole<T>(
        client: &Client,
        name: &str,
        url: &str,
        mut collect: impl AsyncFnMut(Response) -> Result<T>,
    ) -> Result<T> {
        let asked = &Asked::of(name, None);
        client
            .again(async || {
                let response = client.ask(asked, client.request(url)).await?;
                if !response.is_success() {
                    return Err(refusal(client, asked, &response));
                }
                collect(response).await.map_err(|error| match error.code {
                    Code::Network => Failure::later(error.context(name), None),
                    _ => Failure::never(error),
                })
            })
            .await
    }

    /// Asks once for the bytes of `range`.
    pub(super) async fn open(&self, range: &Range<u64>) -> Result<Opened, Failure> {
        let signed = self.signed.borrow().clone();
        let url = signed.as_deref().unwrap_or(&self.url);
        let request = self.client.request(url).range(range.start, range.end - range.start);
        let response = self.client.ask(&self.asked, request).await?;
        let elsewhere = signed.is_some() || response.host() != host(&self.url);
        match response.status() {
            200 | 206 => {}
            // A signature that is too old, not a user without rights: the Hub gives a new one.
            400..=404 | 410 if elsewhere => {
                self.signed.take();
                let message = format!("{}: {} answered {}", self.asked, response.host(), response.status());
                return Err(Failure::later(Error::network(message), None));
            }
            _ => return Err(self.client.refusal(&self.asked, &response)),
        }
        if elsewhere && signed.is_none() {
            self.signed.replace(Some(response.url().to_owned()));
        }
        self.check(range, &response)?;
        Ok(Opened { from_start: response.status() == 200, response })
    }

    /// Whether the head fits the request, as far as it can be seen: browsers show little of other origins.
    fn check(&self, range: &Range<u64>, response: &Response) -> Result<(), Failure> {
        let wrong = |what: String| {
            let message = format!("{}: {} sent {what}", self.asked, response.host());
            Err(Failure::later(Error::network(message), None))
        };
        let expected = if response.status() == 206 { range.end - range.start } else { self.len };
        if let Some(len) = content_length(response)
            && len != expected
        {
            return wrong(format!("{len} bytes instead of {expected}"));
        }
        if response.status() == 206
            && let Some((sent, len)) = content_range(response)
            && (sent != *range || len != self.len)
        {
            return wrong(format!("the bytes {sent:?} of {len} instead of {range:?} of {}", self.len));
        }
        Ok(())
    }

    async fn fetch(&self, range: Range<u64>) -> Result<Vec<u8>> {
        self.client
            .again(async || {
                let lost = |error: Error| Failure::later(error.context(&self.asked), None);
                let Opened { mut response, from_start } = self.open(&range).await?;
                let mut skip = if from_start { range.start } else { 0 };
                let len = (range.end - range.start) as usize;
                let mut bytes = Vec::with_capacity(len);
                while bytes.len() < len {
                    let Some(chunk) = response.chunk().await.map_err(lost)? else {
                        return Err(lost(Error::network("the answer ended early")));
                    };
                    let new = &chunk[skip.min(chunk.len() as u64) as usize..];
                    bytes.extend_from_slice(&new[..new.len().min(len - bytes.len())]);
                    skip = skip.saturating_sub(chunk.len() as u64);
                }
                Ok(bytes)
            })
            .await
    }
}

/// What a server that is no Hub means by a status.
fn refusal(client: &Client, name: &Asked, response: &Response) -> Failure {
    let (status, host) = (response.status(), response.host());
    match status {
        401 | 403 => Failure::never(Error::unauthorized(format!("{name}: {host} answered {status}"))),
        404 | 410 => Failure::never(Error::model_not_found(format!(
            "{name}: {host} answered {status}. Check the address"
        ))),
        // It has no first byte.
        416 => Failure::never(Error::corrupt_model(format!("{name}: the file is empty"))),
        _ => client.refusal(name, response),
    }
}

/// Bytes of the body, unless it is compressed on its way.
fn content_length(response: &Response) -> Option<u64> {
    response.header("Content-Length").filter(|_| response.header("Content-Encoding").is_none())?.parse().ok()
}

/// `bytes 0-99/1234`: the range, and the length of the whole.
fn content_range(response: &Response) -> Option<(Range<u64>, u64)> {
    let (range, len) = response.header("Content-Range")?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let end = last.parse::<u64>().ok()?.checked_add(1)?;
    Some((first.parse().ok()?..end, len.parse().ok()?))
}

/// For a look into a file that is not kept.
impl Source for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            if len == 0 { Ok(Vec::new()) } else { self.fetch(offset..offset + len as u64).await }
        })
    }
}
