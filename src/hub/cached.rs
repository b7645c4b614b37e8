//! What the store has: by name, verified, removed.

use super::find::Addresses;
use super::models::{Models, beside, is_beside};
use super::spec::{FileChoice, HubSpec, Spec};
use crate::hash::hex;
use crate::progress::{Meter, Progress, Stage};
use crate::store::{Key, Record, Split};
use crate::{Error, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;

/// A model that the store has, or has begun to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "CachedModel"))]
pub struct Cached {
    /// As one types it: `owner/repo/file.gguf`; of files at plain addresses the last part, which other addresses may have too.
    pub model: String,
    /// The commit's 40 hex digits; of a file at a plain address those of this version there, and of no other.
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
    #[cfg_attr(test, ts(skip))]
    pub keys: Vec<Key>,
}

/// What [`Models::verify`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "ModelVerdict"))]
pub enum Verification {
    /// It is what its SHA-256 says.
    Right,
    /// It is not.
    Wrong,
    /// Parts of it are missing.
    Incomplete,
    /// Nobody knows the SHA-256 of one of its files.
    Unknown,
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Verification::Right => "right",
            Verification::Wrong => "wrong",
            Verification::Incomplete => "incomplete",
            Verification::Unknown => "unknown",
        })
    }
}

impl Cached {
    /// The model that a file belongs to, without any files yet.
    pub(super) fn named(key: &Key) -> Cached {
        let first = Split::of(&key.path).map_or_else(|| key.path.clone(), |split| split.path(1));
        let model = if key.is_of_url() { first } else { format!("{}/{first}", key.repo) };
        let commit = key.commit.clone();
        Cached { model, commit, size: 0, stored: 0, complete: true, last_used: 0, keys: Vec::new() }
    }

    pub(super) fn add(&mut self, record: &Record) {
        self.size += record.len;
        self.stored += record.written.total();
        self.last_used = self.last_used.max(record.last_used);
        self.complete &= record.whole;
        self.keys.push(record.key.clone());
    }
}

impl Models {
    /// What the store has, by name.
    pub async fn list(&self) -> Result<Vec<Cached>> {
        let mut models: BTreeMap<[String; 3], Cached> = BTreeMap::new();
        for record in self.store.list().await? {
            if record.key.path.to_ascii_lowercase().ends_with(".gguf") && !is_beside(&record.key) {
                // All parts of a split model are one.
                let cached = Cached::named(&record.key);
                let id = [cached.model.clone(), cached.commit.clone(), record.key.repo.clone()];
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

    /// What of it the store has under a name: every revision, and every file where only the repository is named. A file
    /// at a plain address is found by that, and by its name in the list, `file.gguf` or `file.gguf@version`.
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
            Spec::Url(url) => {
                let repo = Addresses::of(url)?.repo();
                models.retain(|model| model.keys[0].repo == repo);
            }
            Spec::Files(urls) => {
                let repo = Addresses::listed(urls)?.repo();
                models.retain(|model| model.keys[0].repo == repo);
            }
            // As they are listed: without their server.
            Spec::Path(name) => {
                let (name, version) = name.split_once('@').unwrap_or((name, ""));
                models.retain(|model| {
                    model.keys[0].is_of_url() && model.model == name && model.commit.starts_with(version)
                });
            }
        }
        match models.is_empty() {
            true => Err(Error::model_not_found(format!(
                "{spec} is not in the cache. `candlewick list` shows what is"
            ))),
            false => Ok(models),
        }
    }

    /// Removes what [`Models::cached`] finds. Says how many bytes that freed. Fails with `invalid_argument` where that are
    /// files at several addresses, which have nothing in common but the last part.
    pub async fn remove(&self, spec: &Spec) -> Result<u64> {
        let models = self.cached(spec).await?;
        let apart = models.windows(2).any(|pair| pair[0].keys[0].repo != pair[1].keys[0].repo);
        if apart && matches!(spec, Spec::Path(_)) {
            let names = models.iter().map(|model| format!("{}@{}", model.model, &model.commit[..12]));
            return Err(Error::invalid_argument(format!(
                "{spec} may be any of {}. Give one of these, or the address",
                names.collect::<Vec<_>>().join(", ")
            )));
        }
        let mut freed = 0;
        for key in models.iter().flat_map(|model| &model.keys) {
            freed += self.store.delete(key).await? + self.store.delete(&beside(key)).await?;
        }
        Ok(freed)
    }

    /// Reads a model again, all its files, and compares their hashes.
    pub async fn verify(
        &self,
        model: &Cached,
        progress: &mut dyn FnMut(Progress) -> Result<()>,
    ) -> Result<Verification> {
        if !model.complete {
            return Ok(Verification::Incomplete);
        }
        let meter = Meter::new(&model.model, model.size);
        let mut read = 0;
        let mut tell = |bytes| {
            read += bytes;
            progress(meter.at(Stage::Load, read))
        };
        let mut verdict = Verification::Right;
        for key in &model.keys {
            match self.is_right(key, &mut tell).await? {
                Some(true) => {}
                Some(false) => verdict = Verification::Wrong,
                None if verdict == Verification::Right => verdict = Verification::Unknown,
                None => {}
            }
        }
        Ok(verdict)
    }

    /// Whether a file's hash is what it should be; nothing where no hash is known.
    async fn is_right(&self, key: &Key, read: &mut dyn FnMut(u64) -> Result<()>) -> Result<Option<bool>> {
        const PIECE: u64 = 4 << 20;
        let (Some(expected), Some(record)) = (self.sha256_of(key).await?, self.store.get(key).await?) else {
            return Ok(None);
        };
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < record.len {
            let len = PIECE.min(record.len - at);
            hash.update(self.store.read(key, at, len as usize).await?);
            at += len;
            read(len)?;
        }
        Ok(Some(hex(&hash.finalize()) == expected))
    }

    /// What a file's hash should be: its name in the store says so, else what the Hub said of its repository.
    async fn sha256_of(&self, key: &Key) -> Result<Option<String>> {
        if key.sha256().is_some() || key.is_of_url() {
            return Ok(key.sha256().map(str::to_owned));
        }
        let hub = HubSpec { repo: key.repo.clone(), file: FileChoice::Any, revision: None };
        let known = self.noted(&hub).await?.filter(|known| known.commit == key.commit);
        let file = known.and_then(|known| known.files.into_iter().find(|file| file.path == key.path));
        Ok(file.map(|file| file.etag).filter(|etag| etag.len() == 64))
    }
}
