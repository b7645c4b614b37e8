//! From a name to the files it means.

use super::choose::{MAX_SIZE, RemoteFile, choose, may_be_adapter};
use super::client::{Client, Repository};
use super::models::Models;
use super::remote::{LookedUp, Remote};
use super::spec::{FileChoice, HubSpec, Spec, shown};
use crate::format::gguf::{self, Header};
use crate::hash::sha256;
use crate::store::names::{is_file, is_hash};
use crate::store::{Key, Record, Split, Store, arranged};
use crate::{Code, Error, Result};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::HashMap;

/// The files that a name means.
#[derive(Clone)]
pub struct Found {
    pub(super) files: Vec<FoundFile>,
    /// What the Hub said anew, to be kept when the files are.
    pub(super) news: Option<News>,
}

impl Found {
    /// Whether their server sends parts of them, as the Hub does. Else whoever wants any of it reads it from its start.
    pub fn in_ranges(&self) -> bool {
        self.files.iter().all(|file| file.ranges)
    }

    /// Bytes of all of them.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.len).sum()
    }
}

/// What a name means from now on.
#[derive(Clone)]
pub(super) struct News {
    note: String,
    repository: Repository,
    revision: String,
    /// It takes the place of another commit, which stays until all of this one is there.
    pub replaces: bool,
}

impl News {
    pub(super) async fn keep(&self, store: &dyn Store) -> Result<()> {
        let News { note, repository, revision, .. } = self;
        store.set_note(note, &serde_json::to_string(repository).map_err(Error::internal)?).await?;
        store.set_revision(&repository.repo, revision, &repository.commit).await
    }
}

#[derive(Clone)]
pub(super) struct FoundFile {
    pub key: Key,
    pub len: u64,
    pub url: String,
    /// Its server sends parts of it.
    pub ranges: bool,
}

impl Models {
    /// The files that `spec` means, with the store's idea of it first unless it is to be `fresh`. Nothing where a server
    /// does not say how large its file is: it can only be read to its end.
    pub async fn find(&self, spec: &Spec, fresh: bool) -> Result<Option<Found>> {
        // Boxed, so that this future is compiled once instead of at each caller.
        let finding: LocalBoxFuture<'_, _> = Box::pin(self.find_inner(spec, fresh));
        finding.await
    }

    async fn find_inner(&self, spec: &Spec, fresh: bool) -> Result<Option<Found>> {
        match spec {
            Spec::Hub(hub) => {
                let (repository, news) = self.repository(hub, fresh).await?;
                let files = choose(&repository.files, &hub.file, &hub.repo)?;
                let found = files.into_iter().map(|file| {
                    let (repo, commit, path) =
                        (hub.repo.clone(), repository.commit.clone(), file.path.clone());
                    let url = self.client.file_url(&repo, &commit, &path);
                    FoundFile {
                        key: Key { repo, commit, path, etag: file.etag.clone() },
                        len: file.size,
                        url,
                        ranges: true,
                    }
                });
                let found = Found { files: found.collect(), news };
                self.refuse_adapter(&found).await?;
                Ok(Some(found))
            }
            Spec::Url(url) => self.find_addresses(Addresses::of(url)?, fresh).await,
            Spec::Files(urls) => self.find_addresses(Addresses::listed(urls)?, fresh).await,
            Spec::Path(path) => Err(Error::model_not_found(format!(
                "{path}: no such file, and no name of a model on the Hub. Give owner/repo, an address or a path"
            ))),
        }
    }

    /// Fails where files are no model but an adapter of one. A name alone says that of models too that one was merged
    /// into: these have a model's header.
    async fn refuse_adapter(&self, found: &Found) -> Result<()> {
        let Some(FoundFile { key, .. }) = found.files.first().filter(|file| may_be_adapter(&file.key.path))
        else {
            return Ok(());
        };
        match Header::read(&self.look(found).await?).await {
            Err(error) if error.code == Code::CorruptModel => Err(Error::unsupported_model(format!(
                "{}: {} is an adapter, not a model, as its name says",
                key.repo, key.path
            ))),
            result => result.map(drop).map_err(|error| error.context(&key.repo)),
        }
    }

    pub(super) async fn find_sized(&self, spec: &Spec, fresh: bool) -> Result<Found> {
        self.find(spec, fresh).await?.ok_or_else(|| {
            Error::network(format!(
                "{spec}: the server does not say the file's size (Content-Length, Content-Range)"
            ))
        })
    }

    async fn repository(&self, hub: &HubSpec, fresh: bool) -> Result<(Repository, Option<News>)> {
        let revision = hub.revision();
        let note = self.note_name(hub);
        let known = self.noted(hub).await?;
        if let (Some(known), false) = (&known, fresh) {
            return Ok((known.clone(), None));
        }
        let known = match known {
            None => self.stored_repository(hub).await?,
            known => known,
        };
        if let (Some(known), false) = (&known, fresh)
            && suffices(known, &hub.file)
        {
            return Ok((known.clone(), None));
        }
        // Where what is there would do, to ask once is enough.
        let instead =
            !fresh && known.as_ref().is_some_and(|known| choose(&known.files, &hub.file, &hub.repo).is_ok());
        let hasty = if instead { self.client.hasty(1) } else { (*self.client).clone() };
        match hasty.repository(&hub.repo, revision).await {
            Ok(repository) => {
                let replaces = known.is_some_and(|known| known.commit != repository.commit);
                let revision = revision.to_owned();
                Ok((repository.clone(), Some(News { note, repository, revision, replaces })))
            }
            // Without the Hub there is what is there.
            Err(error) if does_not_answer(&error) && (self.client.is_offline() || instead) => {
                known.map(|known| (known, None)).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// What the Hub said of a repository.
    pub(super) async fn noted(&self, hub: &HubSpec) -> Result<Option<Repository>> {
        let note = self.store.note(&self.note_name(hub)).await?;
        let known = note.and_then(|text| serde_json::from_str::<Repository>(&text).ok());
        Ok(known.filter(|known| known.repo == hub.repo && is_hash(&known.commit)))
    }

    /// What the store has of a repository, perhaps by other tools.
    async fn stored_repository(&self, hub: &HubSpec) -> Result<Option<Repository>> {
        let Some(commit) = self.known_commit(hub).await? else { return Ok(None) };
        let mut files = Vec::new();
        for Record { key, len, whole, .. } in self.store.list().await? {
            if key.repo == hub.repo && key.commit == commit && whole {
                files.push(RemoteFile { path: key.path, size: len, etag: key.etag });
            }
        }
        Ok((!files.is_empty()).then(|| Repository { repo: hub.repo.clone(), commit, files }))
    }

    pub(super) async fn known_commit(&self, hub: &HubSpec) -> Result<Option<String>> {
        let commit = self.store.revision(&hub.repo, hub.revision()).await?;
        let noted = self.noted(hub).await?.map(|known| known.commit);
        Ok(commit.or(noted).or_else(|| hub.revision.clone().filter(|revision| is_hash(revision))))
    }

    /// What the Hub said of a repository. Mirrors may differ.
    fn note_name(&self, hub: &HubSpec) -> String {
        let name = format!("{}@{}", hub.repo.replace('/', "--"), hub.revision().replace('/', "--"));
        match self.client.mirror() {
            Some(mirror) => format!("{name}@{}", &sha256(mirror)[..16]),
            None => name,
        }
    }

    /// Files that are on no Hub. Their version is what their servers say, else their address and size; the servers are
    /// asked each time, and where they cannot be reached, what is there counts.
    async fn find_addresses(&self, addresses: Addresses, fresh: bool) -> Result<Option<Found>> {
        let repo = addresses.repo();
        let Addresses { urls, ordered } = addresses;
        let known = self.known_files(&repo, &urls).await?;
        let hasty = if known.is_some() && !fresh { self.client.hasty(1) } else { (*self.client).clone() };
        let about = stream::iter(&urls).map(|url| look_up(&hasty, url, urls.len())).buffered(AT_ONCE);
        let about = about.try_collect::<Vec<_>>().await;
        let about = match (about, known) {
            (Ok(about), _) => about,
            (Err(error), Some(known)) if does_not_answer(&error) && (!fresh || self.client.is_offline()) => {
                return Ok(Some(known));
            }
            (Err(error), _) => return Err(error),
        };
        let mut files = Vec::new();
        for (url, LookedUp { len, version, ranges }) in urls.iter().zip(about) {
            let Some(len) = len else { return Ok(None) };
            let path = file_name(url);
            if len > MAX_SIZE {
                return Err(Error::network(format!(
                    "{path}: {len} bytes, as its server says: no file has so many"
                )));
            }
            // Where nobody tells versions apart, what follows the `?` may. Parts may be of the same size and time.
            let version = version.as_deref().unwrap_or(url);
            let part = if urls.len() > 1 { url_repo(url) } else { String::new() };
            let etag = sha256(&format!("{version} {len}{part}"))[..40].to_owned();
            let key = Key { repo: repo.clone(), commit: etag.clone(), path, etag };
            files.push(FoundFile { key, len, url: url.clone(), ranges });
        }
        if !ordered {
            let found = Found { files, news: None };
            let order = gguf::order(self.look(&found).await?.sources()).await?;
            files = arranged(found.files, &order);
        }
        // Files of the same name and version at other addresses are other models.
        let etags: String = files.iter().map(|file| file.key.etag.as_str()).collect();
        let commit = &sha256(&format!("{repo} {etags}"))[..40];
        let stem = files.first().map_or("", |file| file.key.path.trim_end_matches(".gguf")).to_owned();
        for (path, file) in Split::first(&stem, urls.len() as u32).paths().zip(&mut files) {
            file.key.commit = commit.to_owned();
            if urls.len() > 1 && Split::of(&file.key.path).is_none() {
                file.key.path = path;
            }
        }
        Ok(Some(Found { files, news: None }))
    }

    /// What the store has of all the files behind addresses: the version that was used last.
    async fn known_files(&self, repo: &str, urls: &[String]) -> Result<Option<Found>> {
        let mut versions: HashMap<String, Vec<Record>> = HashMap::new();
        for record in self.store.list().await? {
            if record.key.repo == repo && record.whole {
                versions.entry(record.key.commit.clone()).or_default().push(record);
            }
        }
        let whole = versions.into_values().filter(|records| records.len() == urls.len());
        let last = whole.max_by_key(|records| records.iter().map(|record| record.last_used).max());
        Ok(last.map(|mut records| {
            records.sort_by(|a, b| a.key.path.cmp(&b.key.path));
            let file = |(record, url): (Record, &String)| {
                let Record { key, len, .. } = record;
                FoundFile { key, len, url: url.clone(), ranges: true }
            };
            Found { files: records.into_iter().zip(urls).map(file).collect(), news: None }
        }))
    }

    /// The addresses of the files that `spec` means, where that are any on no Hub: to read each of them to its end.
    pub fn addresses(spec: &Spec) -> Result<Vec<String>> {
        match spec {
            Spec::Url(url) => Ok(Addresses::of(url)?.urls),
            Spec::Files(urls) => Ok(Addresses::listed(urls)?.urls),
            Spec::Hub(_) | Spec::Path(_) => Err(Error::internal(format!("{spec} is no address"))),
        }
    }
}

/// Requests at once about the parts of a model.
const AT_ONCE: usize = 4;

/// What its server says of one of `count` files.
async fn look_up(client: &Client, url: &str, count: usize) -> Result<LookedUp> {
    Remote::look_up(client, &file_name(url), url).await.map_err(|error| match error.code {
        Code::ModelNotFound if count > 1 => {
            let message = format!("{}. The model is in {count} files, and needs them all", error.message);
            Error::model_not_found(message)
        }
        _ => error,
    })
}

/// The files of a model in parts, at most: each costs a request. The largest models have some dozens.
const MOST_FILES: usize = 1000;

/// Where the files of one model are that are on no Hub.
pub(super) struct Addresses {
    urls: Vec<String>,
    /// They are in the model's order; else only their headers tell it.
    ordered: bool,
}

impl Addresses {
    /// Of the model that the file at `url` is, or is a part of.
    pub(super) fn of(url: &str) -> Result<Addresses> {
        let (shown, rest) = url.split_at(shown(url).len());
        let urls = match Split::of(shown) {
            Some(split) => {
                check_count(split.count as usize)?;
                split.paths().map(|path| path + rest).collect()
            }
            None => vec![url.to_owned()],
        };
        Ok(Addresses { urls, ordered: true })
    }

    /// Of the model that consists of these files, in whatever order.
    pub(super) fn listed(urls: &[String]) -> Result<Addresses> {
        check_count(urls.len())?;
        let names: Vec<String> = urls.iter().map(|url| file_name(url)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        Ok(match Split::order(&names)? {
            Some(order) => Addresses { urls: arranged(urls.to_vec(), &order), ordered: true },
            None => Addresses { urls: urls.to_vec(), ordered: false },
        })
    }

    /// What the store calls the place of these files.
    pub(super) fn repo(&self) -> String {
        match self.urls.as_slice() {
            [first, ..] if self.ordered => url_repo(first),
            urls => {
                let mut repos: Vec<String> = urls.iter().map(|url| url_repo(url)).collect();
                repos.sort_unstable();
                format!("_url/{}", &sha256(&repos.concat())[..40])
            }
        }
    }
}

fn check_count(count: usize) -> Result<()> {
    match count {
        0 => Err(Error::invalid_argument("an empty list is no model")),
        1..=MOST_FILES => Ok(()),
        _ => Err(Error::unsupported_model(format!("a model in {count} files; it may be {MOST_FILES}"))),
    }
}

/// Whether a server could not be asked, or would not answer now: what is kept may be used instead.
fn does_not_answer(error: &Error) -> bool {
    matches!(error.code, Code::Network | Code::RateLimited)
}

/// Whether what the store has of a repository is what the Hub would choose: then it need not be asked.
fn suffices(known: &Repository, wanted: &FileChoice) -> bool {
    let usual = FileChoice::Quantization("Q4_K_M".to_owned());
    let wanted = if *wanted == FileChoice::Any { &usual } else { wanted };
    !matches!(wanted, FileChoice::Folder(_)) && choose(&known.files, wanted, "").is_ok()
}

/// Parts of a query that say who may read a file and until when, not which file it is.
const PASSES: [&str; 18] = [
    "access_token",
    "auth",
    "awsaccesskeyid",
    "expires",
    "key",
    "key-pair-id",
    "policy",
    "se",
    "sig",
    "signature",
    "ske",
    "skoid",
    "sks",
    "skt",
    "sktid",
    "skv",
    "sp",
    "token",
];

/// Files from elsewhere are kept by their address, of which only a hash is stored, without what signs it.
fn url_repo(url: &str) -> String {
    let address = url.split('#').next().unwrap_or(url);
    let (shown, query) = address.split_once('?').unwrap_or((address, ""));
    let names_it = |part: &&str| {
        let name = part.split('=').next().unwrap_or(part).to_ascii_lowercase();
        !name.is_empty() && !PASSES.contains(&name.as_str()) && !name.starts_with("x-")
    };
    let named: Vec<&str> = query.split('&').filter(names_it).collect();
    match named.is_empty() {
        true => format!("_url/{}", &sha256(shown)[..40]),
        false => format!("_url/{}", &sha256(&format!("{shown}?{}", named.join("&")))[..40]),
    }
}

fn file_name(url: &str) -> String {
    let url = shown(url);
    let name = url.rsplit('/').next().unwrap_or(url);
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().filter(|&c| safe(c)).collect();
    if is_file(&name) { name } else { "model.gguf".to_owned() }
}
