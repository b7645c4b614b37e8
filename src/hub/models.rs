//! What the faces call: open, pull, list, remove, verify.

use super::choose::{RemoteFile, choose};
use super::client::{Client, Repository, is_hash};
use super::download::{Download, Part, Report, Sizes, Tally};
use super::remote::Remote;
use super::spec::{HubSpec, Spec};
use crate::engine::{Engine, Inspection, Options, Progress, Stage, inspect};
use crate::store::{Joined, Key, Record, Source, Split, Store};
use crate::{Code, Error, Result};
use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::any::Any;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};

/// Names, the Hub, and a store.
pub struct Models {
    client: Rc<Client>,
    store: Rc<dyn Store>,
    sizes: Sizes,
    /// What is being fetched: whoever opens it as well takes part in it.
    under_way: RefCell<HashMap<Key, Weak<Download>>>,
}

/// A model in the store, whole or on its way there; all parts of one that is split.
pub struct Model(Joined<Part>);

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
        let model = if key.is_of_url() { first } else { format!("{}/{first}", key.repo) };
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

/// The files that a name means.
#[derive(Clone)]
pub struct Found(Vec<FoundFile>);

#[derive(Clone)]
struct FoundFile {
    key: Key,
    len: u64,
    url: String,
}

impl Models {
    /// Models that `client` finds and `store` keeps.
    pub fn new(client: Client, store: Rc<dyn Store>) -> Models {
        Models { client: Rc::new(client), store, sizes: Sizes::default(), under_way: RefCell::default() }
    }

    /// Cuts files up differently.
    pub fn with_sizes(self, sizes: Sizes) -> Models {
        Models { sizes, ..self }
    }

    /// The model called `spec`: from the store where it is there, else it is fetched while it is read.
    /// With `force` it is fetched anew, whatever is there; what is there stays until that is done.
    pub async fn open(&self, spec: &Spec, force: bool, report: Report) -> Result<Model> {
        let found = self.find_sized(spec, force).await?;
        self.begin(found, force, report).await
    }

    /// Fetches what `spec` names now, also where an older commit is there.
    pub async fn pull(&self, spec: &Spec, force: bool, report: Report) -> Result<Model> {
        let found = self.find_sized(spec, true).await?;
        let model = self.begin(found, force, report).await?;
        model.complete().await?;
        Ok(model)
    }

    /// A look at the model called `spec`.
    pub async fn peek(&self, spec: &Spec) -> Result<Joined<Peek>> {
        self.look(&self.find_sized(spec, false).await?).await
    }

    /// A look at files: what the store has of them, and the rest on their server, of which nothing is kept.
    pub async fn look(&self, Found(files): &Found) -> Result<Joined<Peek>> {
        let mut parts = Vec::new();
        for FoundFile { key, len, url } in files {
            let record = self.store.get(key).await?.filter(|record| record.len == *len);
            let remote = Remote::new(self.client.clone(), key.name(), url.clone(), *len);
            let record = record.unwrap_or_else(|| Record::none(key.clone(), *len));
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
            if record.key.path.to_ascii_lowercase().ends_with(".gguf") && record.key.commit != BESIDE {
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
            freed += self.store.delete(key).await? + self.store.delete(&beside(key)).await?;
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

    /// The files that `spec` means, with the store's idea of it first unless it is to be `fresh`. Nothing where a server
    /// does not say how large its file is: it can only be read to its end.
    pub async fn find(&self, spec: &Spec, fresh: bool) -> Result<Option<Found>> {
        match spec {
            Spec::Hub(hub) => {
                let repository = self.repository(hub, fresh).await?;
                let files = choose(&repository.files, &hub.file, &hub.repo)?;
                let found = files.into_iter().map(|file| {
                    let (repo, commit, path) =
                        (hub.repo.clone(), repository.commit.clone(), file.path.clone());
                    let url = self.client.file_url(&repo, &commit, &path);
                    FoundFile {
                        key: Key { repo, commit, path, etag: file.etag.clone() },
                        len: file.size,
                        url,
                    }
                });
                Ok(Some(Found(found.collect())))
            }
            Spec::Url(url) => Ok(self.find_url(url, fresh).await?.map(|file| Found(vec![file]))),
            Spec::Path(path) => Err(Error::model_not_found(format!(
                "{path}: no such file, and no name of a model on the Hub. Give owner/repo, an address or a path"
            ))),
        }
    }

    async fn find_sized(&self, spec: &Spec, fresh: bool) -> Result<Found> {
        self.find(spec, fresh).await?.ok_or_else(|| {
            Error::network(format!(
                "{spec}: the server does not say the file's size (Content-Length, Content-Range)"
            ))
        })
    }

    async fn repository(&self, hub: &HubSpec, fresh: bool) -> Result<Repository> {
        let revision = hub.revision();
        let note = self.note_name(hub);
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
        let note = self.store.note(&self.note_name(hub)).await?;
        let noted =
            note.and_then(|text| serde_json::from_str::<Repository>(&text).ok()).map(|known| known.commit);
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

    /// A file that is on no Hub. Its version is what its server says, else its address and size; the server is asked
    /// each time, and where it cannot be reached, what is there counts.
    async fn find_url(&self, url: &str, fresh: bool) -> Result<Option<FoundFile>> {
        let shown = url.split(['?', '#']).next().unwrap_or(url);
        let (repo, path) = (url_repo(url), file_name(shown));
        let known =
            self.store.list().await?.into_iter().find(|record| record.key.repo == repo && record.whole);
        let found = Remote::find(self.client.clone(), &path, url).await;
        let (remote, version) = match (found, known) {
            (Ok(Some(found)), _) => found,
            (Ok(None), _) => return Ok(None),
            (Err(error), Some(Record { key, len, .. }))
                if error.code == Code::Network && (!fresh || self.client.is_offline()) =>
            {
                return Ok(Some(FoundFile { key, len, url: url.to_owned() }));
            }
            (Err(error), _) => return Err(error),
        };
        // Where nobody tells versions apart, what follows the `?` may.
        let version = version.as_deref().unwrap_or(url);
        let version = sha256(&format!("{version} {}", remote.len()))[..40].to_owned();
        let key = Key { repo, commit: version.clone(), path, etag: version };
        Ok(Some(FoundFile { key, len: remote.len(), url: url.to_owned() }))
    }

    /// The files that were found, from the store or, while they are read, from their server.
    pub async fn begin(&self, Found(files): Found, force: bool, report: Report) -> Result<Model> {
        let mut places = Vec::new();
        let mut turns = Vec::new();
        for FoundFile { key, len, .. } in &files {
            key.check()?;
            let live = self.under_way.borrow().get(key).and_then(Weak::upgrade);
            let whole = self.store.get(key).await?.is_some_and(|record| record.whole && record.len == *len);
            let (place, turn) = if live.is_some() || whole && !force {
                (key.clone(), None)
            } else {
                let turn = self.store.lock(key).await?;
                if force { self.make_way(key, turn).await? } else { (key.clone(), Some(turn)) }
            };
            places.push((place, *len));
            turns.push((live, turn));
        }
        // Perhaps those before us have fetched them.
        let records = self.store.begin(&places).await?;
        let mut parts = Vec::new();
        for ((FoundFile { key, len, url }, record), (live, turn)) in files.into_iter().zip(records).zip(turns)
        {
            parts.push(live.unwrap_or_else(|| {
                let remote = Remote::new(self.client.clone(), key.name(), url, len);
                let (store, under_way) = (self.store.clone(), !record.whole);
                let download = Rc::new(Download::new(remote, store, key.clone(), record, turn, self.sizes));
                if under_way {
                    self.under_way.borrow_mut().insert(key, Rc::downgrade(&download));
                }
                download
            }));
        }
        self.under_way.borrow_mut().retain(|_, download| download.strong_count() > 0);
        let name = parts.first().map(|part| part.key().name().to_owned()).unwrap_or_default();
        let total = places.iter().map(|(_, len)| len).sum();
        Ok(Model(Joined::new(Part::all(Tally::new(&name, total, parts, report)))))
    }

    /// Where a file can be fetched anew: a whole copy stays until there is another, part of one does not.
    async fn make_way(&self, key: &Key, turn: Box<dyn Any>) -> Result<(Key, Option<Box<dyn Any>>)> {
        if self.store.get(key).await?.is_none_or(|record| !record.whole) {
            self.store.delete(key).await?;
            return Ok((key.clone(), Some(turn)));
        }
        let place = beside(key);
        let turns = (turn, self.store.lock(&place).await?);
        if key.sha256().is_none() {
            // Perhaps of another content: nobody could tell.
            self.store.delete(&place).await?;
        }
        Ok((place, Some(Box::new(turns))))
    }
}

/// Loads an engine while the model comes, and makes sure of the model. Where bytes were wrong on their way, it is
/// loaded again with the right ones.
pub async fn load(
    model: Rc<Model>,
    options: &Options,
    progress: &mut dyn FnMut(crate::engine::Progress) -> Result<()>,
) -> Result<Engine> {
    let mut ready = None;
    let mut shown = |report: Progress| match report.stage {
        // Until all is there, what comes over the network says how far it is.
        Stage::Load if !model.is_whole() => Ok(()),
        Stage::Ready if !model.is_whole() => {
            ready = Some(report);
            Ok(())
        }
        _ => progress(report),
    };
    let engine = Engine::load(model.clone(), options, &mut shown).await;
    match &engine {
        Err(error) if error.code != Code::CorruptModel => return engine,
        // There is no hash that could find what is wrong.
        Err(_) if model.keys().any(|key| key.sha256().is_none()) => {
            model.discard().await?;
            return engine;
        }
        _ => {}
    }
    if model.complete().await? {
        return Engine::load(model, options, progress).await;
    }
    ready.map_or(Ok(()), progress)?;
    engine
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

    /// All of it is in the store, and verified.
    pub fn is_whole(&self) -> bool {
        self.0.sources().iter().all(Part::is_whole)
    }

    /// Keeps nothing of it.
    async fn discard(&self) -> Result<()> {
        for part in self.0.sources() {
            part.discard().await?;
        }
        Ok(())
    }

    /// Its files.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.sources().iter().map(Part::key)
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

/// Files from elsewhere are kept by their address, of which only a hash without the query is stored.
fn url_repo(url: &str) -> String {
    let shown = url.split(['?', '#']).next().unwrap_or(url);
    format!("_url/{}", &sha256(shown)[..40])
}

fn file_name(url: &str) -> String {
    let name = url.rsplit('/').next().unwrap_or(url);
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().filter(|&c| safe(c)).collect();
    if super::is_file(&name) { name } else { "model.gguf".to_owned() }
}

/// The commit of what comes beside an old copy, which it will replace when it is whole.
const BESIDE: &str = "be51debe51debe51debe51debe51debe51debe51";

fn beside(key: &Key) -> Key {
    let etag = sha256(&key.etag)[..40].to_owned();
    Key { commit: BESIDE.to_owned(), etag, ..key.clone() }
}

fn sha256(text: &str) -> String {
    hex(&Sha256::digest(text))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
