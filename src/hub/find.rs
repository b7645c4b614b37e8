//! From a name to the files it means.

use super::choose::{RemoteFile, choose};
use super::client::Repository;
use super::hash::{is_hash, sha256};
use super::models::Models;
use super::remote::Remote;
use super::spec::{HubSpec, Spec};
use crate::store::{Key, Record, Source};
use crate::{Code, Error, Result};

/// The files that a name means.
#[derive(Clone)]
pub struct Found(pub(super) Vec<FoundFile>);

#[derive(Clone)]
pub(super) struct FoundFile {
    pub key: Key,
    pub len: u64,
    pub url: String,
}

impl Models {
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

    pub(super) async fn find_sized(&self, spec: &Spec, fresh: bool) -> Result<Found> {
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

    pub(super) async fn known_commit(&self, hub: &HubSpec) -> Result<Option<String>> {
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
}

/// Files from elsewhere are kept by their address, of which only a hash without the query is stored.
pub(super) fn url_repo(url: &str) -> String {
    let shown = url.split(['?', '#']).next().unwrap_or(url);
    format!("_url/{}", &sha256(shown)[..40])
}

fn file_name(url: &str) -> String {
    let name = url.rsplit('/').next().unwrap_or(url);
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().filter(|&c| safe(c)).collect();
    if super::is_file(&name) { name } else { "model.gguf".to_owned() }
}
