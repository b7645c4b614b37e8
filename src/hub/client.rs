//! The Hub's interface: what a repository holds, and at which commit.
//! <https://huggingface.co/docs/hub/api>

use super::choose::RemoteFile;
use super::patience::{FIRST_ANSWER, Patience, backoff};
use super::spec::Spec;
use crate::http::{self, Backoff, Failure, OnRetry, Request, Response, Timeouts, Token, may_retry};
#[cfg(not(target_arch = "wasm32"))]
use crate::store::FolderStore;
use crate::store::names::{is_file, is_hash};
use crate::{Code, Error, Result};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

/// What an address does not have as it is; slashes part folders.
const IN_PATH: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

const HUB: &str = "https://huggingface.co";
/// A page of the tree call has at most 1,000 files, which take some 300 bytes each.
const MAX_ANSWER: usize = 16 << 20;
/// Repositories of models have some dozens of files.
const MAX_PAGES: usize = 100;
const MAX_FILES: usize = 100_000;

/// How to reach the Hub.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: String,
    token: Option<Token>,
    offline: bool,
    pub(super) backoff: Backoff,
    pub(super) timeouts: Timeouts,
    pub(super) on_retry: OnRetry,
    /// Some server has answered something.
    reached: Rc<Cell<bool>>,
}

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// `owner/repo`.
    pub repo: String,
    /// 40 hex digits; what it names never changes.
    pub commit: String,
    /// All files, folders included.
    pub files: Vec<RemoteFile>,
}

/// What is asked for, in messages.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// `owner/repo`, or the name of a file that is on no Hub.
    whose: String,
    /// In the repository.
    file: Option<String>,
}

impl Asked {
    pub(super) fn of(whose: &str, file: Option<&str>) -> Asked {
        Asked { whose: whose.to_owned(), file: file.map(str::to_owned) }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.whose)?;
        self.file.as_ref().map_or(Ok(()), |file| write!(f, "/{file}"))
    }
}

impl Client {
    /// A Hub at `endpoint`, by default <https://huggingface.co>.
    pub fn new(endpoint: Option<&str>, token: Option<Token>) -> Result<Client> {
        let endpoint = endpoint.unwrap_or(HUB).trim_end_matches('/');
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::invalid_argument(
                "the Hub's address (HF_ENDPOINT) begins with https:// or http://",
            ));
        }
        Ok(Client {
            endpoint: endpoint.to_owned(),
            token,
            offline: false,
            backoff: backoff(),
            timeouts: Timeouts::default(),
            on_retry: OnRetry::default(),
            reached: Rc::default(),
        })
    }

    /// The Hub as the user's other tools see it: where `HF_ENDPOINT` says, with the token of `HF_TOKEN` or of Hugging
    /// Face's folder, and offline where `HF_HUB_OFFLINE` says so.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn from_environment() -> Result<Client> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        // What huggingface_hub takes for true.
        let yes = |value: String| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        let token = Token::from_environment(&FolderStore::home());
        let client = Client::new(variable("HF_ENDPOINT").as_deref(), token)?;
        Ok(client.offline(variable("HF_HUB_OFFLINE").is_some_and(yes)))
    }

    /// With another token, where there is one.
    pub fn with_token(self, token: Option<Token>) -> Client {
        Client { token: token.or(self.token), ..self }
    }

    /// Tells `on_retry` of each attempt that failed and is made again.
    pub fn hearing(mut self, on_retry: OnRetry) -> Client {
        self.on_retry = on_retry;
        self
    }

    /// Whether a server has answered anything.
    pub(super) fn is_reached(&self) -> bool {
        self.reached.get()
    }

    /// The same, which asks no more than `attempts` times.
    pub(super) fn hasty(&self, attempts: u32) -> Client {
        let mut client = self.clone();
        client.backoff.attempts = client.backoff.attempts.min(attempts);
        client
    }

    /// What a text names: see [`Spec`].
    pub fn name(&self, text: &str) -> Result<Spec> {
        Spec::at(text, self.mirror())
    }

    /// What several texts name that are one model: see [`Spec::of_files`].
    pub fn files(&self, texts: &[String]) -> Result<Spec> {
        Spec::of_files(texts, self.mirror())
    }

    /// Whether to ask nobody.
    pub fn offline(mut self, offline: bool) -> Client {
        self.offline = offline;
        self
    }

    /// How patient to be.
    pub fn patience(mut self, backoff: Backoff, timeouts: Timeouts) -> Client {
        self.backoff = backoff;
        self.timeouts = timeouts;
        self
    }

    /// The address, where it is not the usual one.
    pub(super) fn mirror(&self) -> Option<&str> {
        Some(self.endpoint.as_str()).filter(|&endpoint| endpoint != HUB)
    }

    /// Whether nobody may be asked.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The commit that `revision` names now, and the files there.
    pub async fn repository(&self, repo: &str, revision: &str) -> Result<Repository> {
        #[derive(Deserialize)]
        struct Revision {
            sha: String,
        }
        #[derive(Deserialize)]
        struct Entry {
            r#type: String,
            path: String,
            size: u64,
            oid: String,
            lfs: Option<Large>,
        }
        #[derive(Deserialize)]
        struct Large {
            oid: String,
            size: u64,
        }

        let asked = &Asked::of(repo, None);
        let of_repo = format!("{}/api/models/{repo}", self.endpoint);
        let revision = revision.replace('/', "%2F");
        let (Revision { sha: commit }, _) =
            self.json(asked, &format!("{of_repo}/revision/{revision}")).await?;
        if !is_hash(&commit) {
            return Err(unexpected(repo, "a commit that is none"));
        }
        let mut files = Vec::new();
        let mut next = Some(format!("{of_repo}/tree/{commit}?recursive=true"));
        let mut pages = Vec::new();
        while let Some(url) = next {
            if pages.contains(&url) || pages.len() >= MAX_PAGES {
                return Err(unexpected(repo, "pages of files that do not end"));
            }
            let (entries, link) = self.json::<Vec<Entry>>(asked, &url).await?;
            pages.push(url);
            if files.len() + entries.len() > MAX_FILES {
                return Err(unexpected(repo, "more files than a repository has"));
            }
            for entry in entries {
                let (etag, size) = match entry.lfs {
                    Some(large) => (large.oid, large.size),
                    None => (entry.oid, entry.size),
                };
                // Names of files on this machine are made of both.
                if entry.r#type == "file" && is_file(&entry.path) && is_hash(&etag) {
                    files.push(RemoteFile { path: entry.path, size, etag });
                }
            }
            next = link;
        }
        Ok(Repository { repo: repo.to_owned(), commit, files })
    }

    /// Where the Hub has the bytes of a file.
    pub(super) fn file_url(&self, repo: &str, commit: &str, path: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{}", self.endpoint, utf8_percent_encode(path, &IN_PATH))
    }

    /// A request with the token, where it goes to the Hub.
    pub(super) fn request(&self, url: &str) -> Request {
        let mut timeouts = self.timeouts;
        if !self.reached.get() {
            // Perhaps nobody is there.
            timeouts.head = timeouts.head.min(FIRST_ANSWER);
        }
        let request = Request::get(url).timeouts(timeouts);
        let at_home = url.strip_prefix(&self.endpoint).is_some_and(|rest| rest.starts_with('/'));
        match &self.token {
            Some(token) if at_home => request.bearer(token.secret()),
            _ => request,
        }
    }

    /// Sends a request once; any status is an answer.
    pub(super) async fn ask(&self, asked: &Asked, request: Request) -> Result<Response, Failure> {
        if self.offline {
            let message = format!("{asked} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it");
            return Err(Failure::never(Error::network(message)));
        }
        let response = http::send(request).await.map_err(|error| match error.code {
            Code::Network => Failure::unreachable(error.context(asked)),
            _ => Failure::never(error.context(asked)),
        })?;
        self.reached.set(true);
        Ok(response)
    }

    /// The same, where only success is an answer.
    pub(super) async fn send(&self, asked: &Asked, request: Request) -> Result<Response, Failure> {
        let response = self.ask(asked, request).await?;
        if response.is_success() { Ok(response) } else { Err(self.refusal(asked, &response)) }
    }

    pub(super) fn refusal(&self, asked: &Asked, response: &Response) -> Failure {
        let (status, host, whose) = (response.status(), response.host(), &asked.whose);
        let reason = response.header("X-Error-Code").unwrap_or_default();
        let advice = match self.token {
            Some(_) => "Has the token (HF_TOKEN) access to it?",
            None => "If it is private or gated, give a token that has access (HF_TOKEN)",
        };
        match (status, reason) {
            (_, "RepoNotFound") | (404, "") => {
                let message = format!("{whose}: {host} knows no such model. Check the name. {advice}");
                Failure::never(Error::model_not_found(message))
            }
            (_, "RevisionNotFound" | "EntryNotFound") | (404 | 410, _) => Failure::never(
                Error::model_not_found(format!("{asked}: {host} has no such file or revision")),
            ),
            (_, "GatedRepo") => Failure::never(Error::unauthorized(format!(
                "{whose}: access is restricted. Accept its terms on its page on {host}. {advice}"
            ))),
            (401 | 403, _) => {
                Failure::never(Error::unauthorized(format!("{whose}: {host} answered {status}. {advice}")))
            }
            (429, _) => {
                let message =
                    format!("{whose}: {host} answers too many requests (429). Try later, or with a token");
                Failure::later(Error { code: Code::RateLimited, message }, response.wait())
            }
            _ if may_retry(status) => {
                Failure::later(Error::network(format!("{asked}: {host} answered {status}")), response.wait())
            }
            _ => Failure::never(Error::network(format!("{asked}: {host} answered {status}"))),
        }
    }

    /// An answer in JSON, and the address of the next page.
    async fn json<T: DeserializeOwned>(&self, asked: &Asked, url: &str) -> Result<(T, Option<String>)> {
        self.again(async || {
            let response = self.send(asked, self.request(url)).await?;
            let next = response.header("Link").and_then(next_page);
            let host = response.host().to_owned();
            let lost = |error: Error| Failure::later(error.context(asked), None);
            let body = response.bytes(MAX_ANSWER).await.map_err(lost)?;
            // A proxy's page, or an answer that was cut off.
            let parsed = serde_json::from_slice(&body).map_err(|_| {
                lost(Error::network(format!("{host} answered something else than the Hub does")))
            })?;
            Ok((parsed, next))
        })
        .await
    }

    /// Tries until it succeeds, or there is no point in it.
    pub(super) async fn again<T>(&self, mut attempt: impl AsyncFnMut() -> Result<T, Failure>) -> Result<T> {
        let mut patience = Patience::new(self);
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(failure) => patience.after(failure, self.reached.get()).await?,
            }
        }
    }
}

fn unexpected(repo: &str, what: &str) -> Error {
    Error::network(format!("{repo}: the Hub answered with {what}"))
}

/// `<address>; rel="next"` of RFC 8288.
fn next_page(header: &str) -> Option<String> {
    header.split(',').find_map(|link| {
        let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        parameters.replace(' ', "").contains("rel=\"next\"").then(|| url.to_owned())
    })
}
