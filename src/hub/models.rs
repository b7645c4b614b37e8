//! What the faces call: open, pull, list, remove, verify.

use super::choose::{RemoteFile, choose};
use super::client::{Client, Repository, is_hash};
use super::download::{Download, Report, Sizes, Tally};
use super::remote::Remote;
use super::spec::{HubSpec, Spec};
use crate::engine::{Engine, Inspection, Options, inspect};
use crate::store::{Joined, Key, Record, Source, Split, Store};
use crate::{Code, Error, Result};
use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Names, the Hub, and a store.
pub struct Models {
    client: Rc<Client>,
    store: Rc<dyn Store>,
    sizes: Sizes,
}

/// A model in the store, whole or on its way there; all parts of one that is split.
pub struct Model(Joined<Download>);

/// A model that the store has, or has begun to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cached {
    /// As one types it: `owner/repo/file.gguf`.
    pub model: String,
    /// The commit's 40 hex digits.
    pub commit: String,
    /// Bytes of all parts.
    pub size: u64,
    /// Bytes that are there.
    pub stored: u64,
    /// All of it is there, and verified.
    pub complete: bool,
    /// Seconds since 1970.
    pub last_used: u64,
    /// Its files.
    #[serde(skip)]
    pub keys: Vec<Key>,
}

impl Cached {
    /// The model that a file belongs to, without any files yet.
    fn named(key: &Key) -> Cached {
        let first = Split::of(&key.path).map_or_else(|| key.path.clone(), |split| split.path(1));
        let model = if key.repo.starts_with(URL_OWNER) { first } else { format!("{}/{first}", key.repo) };
        let commit = key.commit.clone();
        Cached { model, commit, size: 0, stored: 0, complete: true, last_used: 0, keys: Vec::new() }
    }

    fn add(&mut self, record: &Record) {
        self.size += record.len;
        self.stored += record.written.total();
        self.last_used = self.last_used.max(record.last_used);
        self.complete &= record.whole;
        self.keys.push(record.key.clone());
    }
}

/// What a model is and needs, and what of it is in the store.
#[derive(Debug, Clone, Serialize)]
pub struct Inspected {
    #[serde(flatten)]
    #[allow(missing_docs)]
    pub inspection: Inspection,
    /// Under its full name, at the commit that was looked at.
    pub cached: Cached,
}

/// A file that a name means.
struct Found {
    key: Key,
    len: u64,
    url: String,
}

impl Models {
    /// Models that `client` finds and `store` keeps.
    pub fn new(client: Client, store: Rc<dyn Store>) -> Models {
        Models { client: Rc::new(client), store, sizes: Sizes::default() }
    }

    /// Cuts files up differently.
    pub fn with_sizes(self, sizes: Sizes) -> Models {
        Models { sizes, ..self }
    }

    /// The model called `spec`: from the store where it is there, else it is fetched while it is read.
    /// With `force` it is fetched anew, whatever is there.
    pub async fn open(&self, spec: &Spec, force: bool, report: Report) -> Result<Model> {
        let found = self.find(spec, force).await?;
        self.begin(found, force, report).await
    }

    /// Fetches what `spec` names now, also where an older commit is there.
    pub async fn pull(&self, spec: &Spec, force: bool, report: Report) -> Result<Model> {
        let found = self.find(spec, true).await?;
        let model = self.begin(found, force, report).await?;
        model.complete().await?;
        Ok(model)
    }

    /// A look at the file: what the store has of it, and the rest on the server, of which nothing is kept.
    pub async fn peek(&self, spec: &Spec) -> Result<Joined<Peek>> {
        let mut parts = Vec::new();
        for Found { key, len, url } in self.find(spec, false).await? {
            let record = self.store.get(&key).await?.filter(|record| record.len == len);
            let remote = Remote::new(self.client.clone(), key.name(), url, len);
            let record = record.unwrap_or_else(|| Record::none(key, len));
            parts.push(Peek { store: self.store.clone(), record, remote });
        }
        Ok(Joined::new(parts))
    }

    /// What the model called `spec` is and needs, before it is fetched.
    pub async fn inspect(&self, spec: &Spec, options: &Options) -> Result<Inspected> {
        let model = self.peek(spec).await?;
        let inspection = inspect(&model, options).await?;
        Ok(Inspected { inspection, cached: model.cached() })
    }

    /// What the store has, by name.
    pub async fn list(&self) -> Result<Vec<Cached>> {
        let mut models: BTreeMap<(String, String), Cached> = BTreeMap::new();
        for record in self.store.list().await? {
            if record.key.path.to_ascii_lowercase().ends_with(".gguf") {
                // All parts of a split model are one.
                let cached = Cached::named(&record.key);
                let id = (cached.model.clone(), cached.commit.clone());
                models.entry(id).or_insert(cached).add(&record);
            }
        }
        let mut models: Vec<Cached> = models.into_values().collect();
        for model in &mut models {
            let parts = Split::of(&model.keys[0].path).map_or(1, |split| split.count as usize);
            model.complete &= model.keys.len() == parts;
        }
        Ok(models)
    }

    /// What of it the store has under a name: every revision, and every file where only the repository is named.
    pub async fn cached(&self, spec: &Spec) -> Result<Vec<Cached>> {
        let mut models = self.list().await?;
        match spec {
            Spec::Hub(hub) => {
                let commit = match &hub.revision {
                    Some(revision) => self.known_commit(hub).await?.or_else(|| Some(revision.clone())),
                    None => None,
                };
                models.retain(|model| {
                    let Key { repo, commit: of, path, .. } = &model.keys[0];
                    *repo == hub.repo
                        && commit.as_ref().is_none_or(|commit| commit == of)
                        && hub.file.means(path)
                });
            }
            Spec::Url(url) => models.retain(|model| model.keys[0].repo == url_repo(url)),
            Spec::Path(_) => models.clear(),
        }
        match models.is_empty() {
            true => Err(Error::model_not_found(format!(
                "{spec} is not in the cache. `candlewick list` shows what is"
            ))),
            false => Ok(models),
        }
    }

    /// Removes what [`Models::cached`] finds. Says how many bytes that freed.
    pub async fn remove(&self, spec: &Spec) -> Result<u64> {
        let mut freed = 0;
        for key in self.cached(spec).await?.iter().flat_map(|model| &model.keys) {
            freed += self.store.delete(key).await?;
        }
        Ok(freed)
    }

    /// Reads a whole file again and compares its hash: true where it is right, nothing where no hash is known.
    pub async fn verify(
        &self,
        key: &Key,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Option<bool>> {
        const PIECE: u64 = 4 << 20;
        let (Some(expected), Some(record)) = (key.sha256(), self.store.get(key).await?) else {
            return Ok(None);
        };
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < record.len {
            let len = PIECE.min(record.len - at);
            hash.update(self.store.read(key, at, len as usize).await?);
            at += len;
            progress(len)?;
        }
        Ok(Some(hex(&hash.finalize()) == expected))
    }

    /// The files that `spec` means, with the store's idea of it first unless it is to be `fresh`.
    async fn find(&self, spec: &Spec, fresh: bool) -> Result<Vec<Found>> {
        match spec {
            Spec::Hub(hub) => {
                let repository = self.repository(hub, fresh).await?;
                let files = choose(&repository.files, &hub.file, &hub.repo)?;
                let found = files.into_iter().map(|file| {
                    let (repo, commit, path) =
                        (hub.repo.clone(), repository.commit.clone(), file.path.clone());
                    let url = self.client.file_url(&repo, &commit, &path);
                    Found { key: Key { repo, commit, path, etag: file.etag.clone() }, len: file.size, url }
                });
                Ok(found.collect())
            }
            Spec::Url(url) => Ok(vec![self.find_url(url, fresh).await?]),
            Spec::Path(path) => Err(Error::model_not_found(format!(
                "{path}: no such file, and no name of a model on the Hub. Give owner/repo, an address or a path"
            ))),
        }
    }

    async fn repository(&self, hub: &HubSpec, fresh: bool) -> Result<Repository> {
        let revision = hub.revision();
        let note = note_name(&hub.repo, revision);
        let known = match self.store.note(&note).await? {
            Some(text) => serde_json::from_str::<Repository>(&text).ok(),
            None => None,
        };
        let known = known.filter(|known| known.repo == hub.repo && is_hash(&known.commit));
        if let (Some(known), false) = (&known, fresh) {
            return Ok(known.clone());
        }
        match self.client.repository(&hub.repo, revision).await {
            Ok(repository) => {
                let text = serde_json::to_string(&repository).map_err(Error::internal)?;
                self.store.set_note(&note, &text).await?;
                self.store.set_revision(&hub.repo, revision, &repository.commit).await?;
                Ok(repository)
            }
            // Without the Hub there is what is there.
            Err(error) if error.code == Code::Network && (self.client.is_offline() || !fresh) => {
                match known {
                    Some(known) => Ok(known),
                    None => self.stored_repository(hub).await?.ok_or(error),
                }
            }
            Err(error) => Err(error),
        }
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

    async fn known_commit(&self, hub: &HubSpec) -> Result<Option<String>> {
        let commit = self.store.revision(&hub.repo, hub.revision()).await?;
        let note = self.store.note(&note_name(&hub.repo, hub.revision())).await?;
        let noted =
            note.and_then(|text| serde_json::from_str::<Repository>(&text).ok()).map(|known| known.commit);
        Ok(commit.or(noted).or_else(|| hub.revision.clone().filter(|revision| is_hash(revision))))
    }

    /// A file that is on no Hub: its version is what its server says, or its size.
    async fn find_url(&self, url: &str, fresh: bool) -> Result<Found> {
        let shown = url.split(['?', '#']).next().unwrap_or(url);
        let path = file_name(shown);
        let repo = url_repo(url);
        if !fresh || self.client.is_offline() {
            let known =
                self.store.list().await?.into_iter().find(|record| record.key.repo == repo && record.whole);
            if let Some(Record { key, len, .. }) = known {
                return Ok(Found { key, len, url: url.to_owned() });
            }
        }
        let (remote, version) = Remote::find(self.client.clone(), &path, url).await?;
        let version = sha256(&format!("{} {}", version.unwrap_or_default(), remote.len()))[..40].to_owned();
        let key = Key { repo, commit: version.clone(), path, etag: version };
        Ok(Found { key, len: remote.len(), url: url.to_owned() })
    }

    async fn begin(&self, found: Vec<Found>, force: bool, report: Report) -> Result<Model> {
        let mut begun = Vec::new();
        for Found { key, len, url } in found {
            key.check()?;
            let whole = match self.store.get(&key).await? {
                Some(record) if record.whole && record.len == len && !force => Some(record),
                _ => None,
            };
            let (record, turn) = match whole {
                Some(record) => (record, None),
                None => {
                    let turn = self.store.lock(&key).await?;
                    if force {
                        self.store.delete(&key).await?;
                    }
                    // Perhaps the one before us has fetched it.
                    (self.store.begin(&key, len).await?, Some(turn))
                }
            };
            begun.push((Remote::new(self.client.clone(), key.name(), url, len), record, turn));
        }
        let name = begun.first().map(|(_, record, _)| record.key.name().to_owned()).unwrap_or_default();
        let total = begun.iter().map(|(_, record, _)| record.len).sum();
        let loaded = begun.iter().map(|(_, record, _)| record.written.total()).sum();
        let tally = Rc::new(Tally::new(&name, loaded, total, report));
        let part = |(remote, record, turn)| {
            Download::new(remote, self.store.clone(), record, turn, self.sizes, tally.clone())
        };
        Ok(Model(Joined::new(begun.into_iter().map(part).collect())))
    }
}

/// Loads an engine while the model comes, and makes sure of the model. Where bytes were wrong on their way, it is
/// loaded again with the right ones.
pub async fn load(
    model: Rc<Model>,
    options: &Options,
    progress: &mut dyn FnMut(crate::engine::Progress) -> Result<()>,
) -> Result<Engine> {
    let engine = Engine::load(model.clone(), options, progress).await;
    if engine.as_ref().is_err_and(|error| error.code != Code::CorruptModel) {
        return engine;
    }
    match model.complete().await? {
        true => Engine::load(model, options, progress).await,
        false => engine,
    }
}

impl Model {
    /// Fetches and verifies all that is missing. Says whether something was replaced that may have been read before.
    pub async fn complete(&self) -> Result<bool> {
        let mut replaced = false;
        for part in self.0.sources() {
            replaced |= part.complete().await?;
        }
        Ok(replaced)
    }

    /// Its files.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.sources().iter().map(Download::key)
    }
}

impl Source for Model {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn len(&self) -> u64 {
        self.0.len()
    }

    fn parts(&self) -> Vec<u64> {
        self.0.parts()
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        self.0.read(offset, len)
    }
}

/// A file of which nothing more is fetched than what is read.
pub struct Peek {
    store: Rc<dyn Store>,
    record: Record,
    remote: Remote,
}

impl Joined<Peek> {
    /// What the store has of it.
    pub fn cached(&self) -> Cached {
        let mut cached = Cached::named(&self.sources()[0].record.key);
        self.sources().iter().for_each(|file| cached.add(&file.record));
        cached
    }
}

impl Source for Peek {
    fn name(&self) -> &str {
        self.record.key.name()
    }

    fn len(&self) -> u64 {
        self.record.len
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        match self.record.written.contains(&(offset..offset + len as u64)) {
            true => self.store.read(&self.record.key, offset, len),
            false => self.remote.read(offset, len),
        }
    }
}

/// No owner on the Hub is called so.
const URL_OWNER: &str = "_url/";

/// Files from elsewhere are kept by their address, of which only a hash without the query is stored.
fn url_repo(url: &str) -> String {
    let shown = url.split(['?', '#']).next().unwrap_or(url);
    format!("{URL_OWNER}{}", &sha256(shown)[..40])
}

fn file_name(url: &str) -> String {
    let name = url.rsplit('/').next().unwrap_or(url);
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().filter(|&c| safe(c)).collect();
    if super::is_file(&name) { name } else { "model.gguf".to_owned() }
}

fn note_name(repo: &str, revision: &str) -> String {
    format!("{}@{}", repo.replace('/', "--"), revision.replace('/', "--"))
}

fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
