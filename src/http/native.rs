//! reqwest, on a runtime of its own.

use super::{Method, Request, Response, Timeouts, host};
use crate::{Error, Result};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, HeaderMap, HeaderValue};
use reqwest::redirect::{Action, Attempt, Policy};
use std::sync::LazyLock;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

const CONNECT: Duration = Duration::from_secs(15);
/// Redirects that are followed.
const REDIRECTS: usize = 10;
/// Chunks that wait for their reader; then the connection waits too. reqwest's are of some 10 KB.
const BUFFERED: usize = 64;

struct Network {
    runtime: Runtime,
    client: reqwest::Client,
    /// For what stays with its host.
    staying: reqwest::Client,
}

/// Made at the first request: most runs of the program need no network.
static NETWORK: LazyLock<Result<Network>> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("candlewick-http")
        .enable_all()
        .build()
        .map_err(|error| Error::internal(format!("cannot start the network threads: {error}")))?;
    // One may be set already, by whoever uses this crate.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = |redirects| {
        // Nobody is asked to compress: models hardly shrink, and where a file has a size it should be that. Proxies may do
        // it all the same; reqwest undoes it.
        let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
        reqwest::Client::builder()
            .user_agent(concat!("candlewick/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .redirect(redirects)
            .build()
            .map_err(|error| Error::internal(format!("cannot make an HTTP client: {}", describe(error))))
    };
    let (client, staying) = (client(Policy::limited(REDIRECTS))?, client(Policy::custom(stay))?);
    Ok(Network { runtime, client, staying })
});

/// Follows redirects that send the same body to the same origin.
fn stay(attempt: Attempt) -> Action {
    let same = attempt.previous().last().is_some_and(|before| before.origin() == attempt.url().origin());
    match matches!(attempt.status().as_u16(), 307 | 308) && same && attempt.previous().len() <= REDIRECTS {
        true => attempt.follow(),
        false => attempt.stop(),
    }
}

fn network() -> Result<&'static Network> {
    NETWORK.as_ref().map_err(Clone::clone)
}

/// Waits.
pub async fn sleep(duration: Duration) {
    let Ok(network) = network() else { return };
    // Made inside: tokio's timers want to be on its threads.
    let mut timer = Task(network.runtime.spawn(async move { tokio::time::sleep(duration).await }));
    let _ = (&mut timer.0).await;
}

/// Ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type Head = (u16, String, Vec<(String, String)>);

pub(super) async fn send(request: Request) -> Result<Response> {
    let network = network()?;
    let host = host(&request.url).to_owned();
    let prepared = prepare(network, &request).map_err(|error| error.context(&host))?;
    let (head_sender, head) = oneshot::channel();
    let (sender, receiver) = mpsc::channel(BUFFERED);
    let transfer = transfer(prepared, request.timeouts, head_sender, sender);
    let task = Task(network.runtime.spawn(transfer));
    let (status, url, headers) = head
        .await
        .unwrap_or_else(|_| Err(Error::internal("the network task ended")))
        .map_err(|error| error.context(&host))?;
    let host = super::host(&url).to_owned();
    Ok(Response { status, url, headers, host, body: Body { chunks: receiver, _task: task } })
}

fn prepare(network: &Network, request: &Request) -> Result<reqwest::RequestBuilder> {
    let url = reqwest::Url::parse(&request.url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| Error::invalid_argument("not an http or https address"))?;
    let client = if request.stays { &network.staying } else { &network.client };
    let mut builder = match request.method {
        Method::Get => client.get(url),
        Method::Post => client.post(url).body(request.body.clone()),
    };
    for (name, value) in &request.headers {
        // Checked here, because reqwest's own error would only come with `send`.
        let value = HeaderValue::from_str(value).map_err(|_| {
            Error::invalid_argument(format!("the header {name} has characters that HTTP forbids"))
        })?;
        builder = builder.header(name, value);
    }
    Ok(builder)
}

async fn transfer(
    request: reqwest::RequestBuilder,
    timeouts: Timeouts,
    head: oneshot::Sender<Result<Head>>,
    chunks: mpsc::Sender<Result<Vec<u8>>>,
) {
    let mut response = match tokio::time::timeout(timeouts.head, request.send()).await {
        Ok(Ok(response)) => response,
        failed => {
            let message = match failed {
                Ok(Err(error)) => describe(error),
                _ => format!("no answer within {} s", timeouts.head.as_secs_f64()),
            };
            let _ = head.send(Err(Error::network(message)));
            return;
        }
    };
    // What reqwest has undone it does not mention any more.
    let encoding = response.headers().get(CONTENT_ENCODING).and_then(|encoding| encoding.to_str().ok());
    if let Some(encoding) = encoding.filter(|encoding| !matches!(encoding.trim(), "" | "identity")) {
        let message = format!("the answer is compressed with {encoding:?}, which is not known here");
        let _ = head.send(Err(Error::provider_error(message)));
        return;
    }
    let headers = response
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())))
        .collect();
    let url = response.url().as_str().to_owned();
    if head.send(Ok((response.status().as_u16(), url, headers))).is_err() {
        return;
    }
    loop {
        let chunk = match tokio::time::timeout(timeouts.stall, response.chunk()).await {
            Ok(Ok(Some(chunk))) => Ok(Vec::from(chunk)),
            Ok(Ok(None)) => return,
            Ok(Err(error)) => Err(Error::network(format!("the connection broke off ({})", describe(error)))),
            Err(_) => {
                let seconds = timeouts.stall.as_secs_f64();
                Err(Error::network(format!("the server sent nothing for {seconds} s")))
            }
        };
        let last = chunk.is_err();
        if chunks.send(chunk).await.is_err() || last {
            return;
        }
    }
}

pub(super) struct Body {
    chunks: mpsc::Receiver<Result<Vec<u8>>>,
    _task: Task,
}

impl Body {
    pub(super) async fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        self.chunks.recv().await.transpose()
    }
}

/// The error with its causes, without the address.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
