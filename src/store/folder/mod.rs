//! Fetched files in a folder, laid out as Hugging Face's own tools do, so that what one fetched all have:
//! <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>
//!
//! ```text
//! models--OWNER--REPO/blobs/SHA256                               the contents
//!                     blobs/SHA256.candlewick.incomplete         while it comes, with holes
//!                     blobs/SHA256.candlewick.journal            what of it is there
//!                     snapshots/COMMIT/model.gguf                a link to the contents
//!                     refs/main                                  the commit
//! .locks/models--OWNER--REPO/SHA256.lock
//! ```
//!
//! Python appends to `SHA256.incomplete`, whose length tells how far it is. Ours come in several ranges at once and
//! may have holes, so that they need another name. What Python has begun is taken over.

mod disk;
mod journal;

use super::cache::{Key, Record, Store, Written};
use crate::store::names::{is_hash, is_repo, is_revision};
use crate::{Error, Result, http};
use disk::{at, etag_of, failure, files_below, folders_in, write_whole};
use fs4::{FileExt, TryLockError};
use futures_util::future::LocalBoxFuture;
use std::any::Any;
use std::fs::{self, OpenOptions};
use std::future::ready;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// How often to look whether another process has finished.
const LOCK_POLL: Duration = Duration::from_millis(200);

/// A cache folder.
pub struct FolderStore {
    /// Shared with other tools.
    hub: PathBuf,
    /// For what they know nothing of.
    own: PathBuf,
}

/// The files of one content.
struct Places {
    base: PathBuf,
    blob: PathBuf,
    partial: PathBuf,
    journal: PathBuf,
    snapshot: PathBuf,
}

impl FolderStore {
    /// `hub` is the folder that Hugging Face's tools use, `own` one of candlewick's own.
    pub fn new(hub: impl Into<PathBuf>, own: impl Into<PathBuf>) -> FolderStore {
        FolderStore { hub: hub.into(), own: own.into() }
    }

    /// Where the user's tools keep theirs: `HF_HUB_CACHE`, else `hub` in [`FolderStore::home`].
    pub fn from_environment() -> FolderStore {
        let home = FolderStore::home();
        let hub = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].iter().find_map(|name| folder(name));
        FolderStore::new(hub.unwrap_or_else(|| home.join("hub")), home.join("candlewick"))
    }

    /// `HF_HOME`, else `huggingface` in `XDG_CACHE_HOME` or `~/.cache`.
    pub fn home() -> PathBuf {
        folder("HF_HOME").unwrap_or_else(|| {
            let cache = folder("XDG_CACHE_HOME")
                .unwrap_or_else(|| std::env::home_dir().unwrap_or_else(std::env::temp_dir).join(".cache"));
            cache.join("huggingface")
        })
    }

    fn base(&self, repo: &str) -> PathBuf {
        match repo.strip_prefix("_url/") {
            Some(hash) => self.own.join(format!("url--{hash}")),
            None => self.hub.join(format!("models--{}", repo.replace('/', "--"))),
        }
    }

    fn places(&self, key: &Key) -> Result<Places> {
        key.check()?;
        let base = self.base(&key.repo);
        let blobs = base.join("blobs");
        Ok(Places {
            blob: blobs.join(&key.etag),
            partial: blobs.join(format!("{}.candlewick.incomplete", key.etag)),
            journal: blobs.join(format!("{}.candlewick.journal", key.etag)),
            snapshot: base.join("snapshots").join(&key.commit).join(&key.path),
            base,
        })
    }

    fn find(&self, key: &Key) -> Result<Option<Record>> {
        let places = self.places(key)?;
        if let Some(metadata) = disk::file(&places.snapshot) {
            return Ok(Some(whole(key.clone(), &metadata)));
        }
        let record = journal::read(&places.journal, &places.partial);
        Ok(record.map(|record| Record { key: key.clone(), ..record }))
    }

    fn begin(&self, files: &[(Key, u64)]) -> Result<Vec<Record>> {
        let begun: Result<Vec<Record>> = files.iter().map(|(key, len)| self.begin_file(key, *len)).collect();
        let records = begun?;
        let missing = records.iter().map(Record::missing).sum();
        let Some(first) = records.iter().find(|record| record.missing() > 0) else { return Ok(records) };
        match fs4::available_space(self.base(&first.key.repo)) {
            Ok(free) if free < missing => Err(Error::quota_exceeded(format!(
                "{} needs {} more on the disk of {}, where {} are free. Make room (candlewick rm), or set HF_HOME to a folder on another disk",
                first.key.name(),
                megabytes(missing),
                self.hub.display(),
                megabytes(free),
            ))),
            _ => Ok(records),
        }
    }

    fn begin_file(&self, key: &Key, len: u64) -> Result<Record> {
        let places = self.places(key)?;
        let begin = || -> io::Result<Record> {
            for (place, is_blob) in [(&places.snapshot, false), (&places.blob, true)] {
                match disk::file(place) {
                    Some(metadata) if metadata.len() == len => {
                        if is_blob {
                            disk::link(&places.base, &places.snapshot, &places.blob)?;
                        }
                        return Ok(whole(key.clone(), &metadata));
                    }
                    // Half a copy, or a list that lies of the length: only what has come and was checked takes its place.
                    Some(_) if is_blob && disk::own_file(place).is_some() => {}
                    // A link to that or to nowhere, a file that was edited in place, no file at all.
                    _ => _ = disk::clear(place)?,
                }
            }
            // Perhaps begun for another revision: the same content.
            match journal::read(&places.journal, &places.partial).filter(|record| record.len == len) {
                Some(record) => {
                    journal::mend(&places.journal)?;
                    Ok(Record { key: key.clone(), ..record })
                }
                None => {
                    let theirs = places.blob.with_file_name(format!("{}.incomplete", key.etag));
                    journal::start(&places.partial, &places.journal, &theirs, key, len)
                }
            }
        };
        at(&places.base, begin())
    }

    fn put(&self, key: &Key, offset: u64, bytes: &[u8]) -> Result<()> {
        let places = self.places(key)?;
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).open(&places.partial)?;
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)?;
            // Only now: what the journal says is there. One call, so that a line is whole or cut off.
            let line = format!("{offset} {}\n", bytes.len());
            OpenOptions::new().append(true).open(&places.journal)?.write_all(line.as_bytes())
        };
        at(&places.base, write())
    }

    fn read(&self, key: &Key, offset: u64, len: usize) -> Result<Vec<u8>> {
        let places = self.places(key)?;
        let read = |path: &Path| -> io::Result<Vec<u8>> {
            let mut file = disk::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = vec![0; len];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        let read = read(&places.snapshot).or_else(|error| match error.kind() {
            ErrorKind::NotFound => read(&places.partial),
            _ => Err(error),
        });
        at(&places.snapshot, read)
    }

    fn finish(&self, key: &Key) -> Result<()> {
        let places = self.places(key)?;
        let finish = || -> io::Result<()> {
            match disk::own_file(&places.partial) {
                Some(_) => settle(&places, &places),
                // It is whole already.
                None => disk::open(&places.snapshot)?.sync_all(),
            }
        };
        at(&places.base, finish())
    }

    fn replace(&self, new: &Key, old: &Key) -> Result<bool> {
        let (new, old) = (self.places(new)?, self.places(old)?);
        at(&old.base, settle(&new, &old)).map(|()| true)
    }

    fn delete(&self, key: &Key) -> Result<u64> {
        let places = self.places(key)?;
        let mut freed = 0;
        let mut remove = |path: &Path| at(path, disk::clear(path)).map(|bytes| freed += bytes);
        // The journal last: without it nobody would find the rest again.
        remove(&places.snapshot)?;
        remove(&places.partial)?;
        remove(&places.journal)?;
        let snapshots = places.base.join("snapshots");
        let used =
            files_below(&snapshots).iter().any(|path| etag_of(path).is_some_and(|etag| etag == key.etag));
        if !used {
            remove(&places.blob)?;
        }
        // Folders are removed as far as they are empty.
        let mut folder = places.snapshot.parent();
        while let Some(empty) =
            folder.filter(|folder| folder.starts_with(&snapshots) && fs::remove_dir(folder).is_ok())
        {
            folder = empty.parent();
        }
        if !snapshots.join(&key.commit).exists() {
            let of_commit = |path: &PathBuf| disk::text(path).is_some_and(|text| text.trim() == key.commit);
            for path in files_below(&places.base.join("refs")).iter().filter(|path| of_commit(path)) {
                let _ = fs::remove_file(path);
            }
        }
        for folder in ["blobs", "refs", ""] {
            let _ = fs::remove_dir(places.base.join(folder));
        }
        Ok(freed)
    }

    fn list(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for base in folders_in(&self.hub).into_iter().chain(folders_in(&self.own)) {
            let name = base.file_name().unwrap_or_default().to_string_lossy();
            let repo = match (name.strip_prefix("models--"), name.strip_prefix("url--")) {
                // Owners have no `--` in their names.
                (Some(name), _) => name.replacen("--", "/", 1),
                (_, Some(hash)) => format!("_url/{hash}"),
                _ => continue,
            };
            let begun = records.len();
            for journal in files_below(&base.join("blobs")) {
                let partial = journal.with_extension("incomplete");
                if journal.extension().is_some_and(|end| end == "journal") {
                    let record = journal::read(&journal, &partial);
                    records.extend(
                        record.filter(|record| record.key.repo == repo && self.places(&record.key).is_ok()),
                    );
                }
            }
            for snapshot in folders_in(&base.join("snapshots")) {
                let commit = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
                for path in files_below(&snapshot) {
                    let Ok(relative) = path.strip_prefix(&snapshot) else { continue };
                    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
                    let etag = etag_of(&path).unwrap_or_else(|| "0".repeat(40));
                    let key = Key { repo: repo.clone(), commit: commit.clone(), path: parts.join("/"), etag };
                    if self.places(&key).is_err() {
                        continue;
                    }
                    match disk::file(&path) {
                        Some(metadata) => records.push(whole(key, &metadata)),
                        // In the place of a file there is something else. It is listed, so that it can be removed.
                        None => {
                            let same = |record: &Record| {
                                record.key.commit == key.commit && record.key.path == key.path
                            };
                            if !records[begun..].iter().any(same) {
                                records.push(Record::none(key, 0));
                            }
                        }
                    }
                }
            }
        }
        records
    }

    fn note_path(&self, name: &str) -> PathBuf {
        self.own.join("notes").join(format!("{name}.json"))
    }

    fn ref_path(&self, repo: &str, revision: &str) -> Option<PathBuf> {
        (is_repo(repo) && is_revision(revision)).then(|| self.base(repo).join("refs").join(revision))
    }
}

impl Store for FolderStore {
    fn list(&self) -> LocalBoxFuture<'_, Result<Vec<Record>>> {
        Box::pin(ready(Ok(self.list())))
    }

    fn get<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<Option<Record>>> {
        Box::pin(ready(self.find(key)))
    }

    fn begin<'a>(&'a self, files: &'a [(Key, u64)]) -> LocalBoxFuture<'a, Result<Vec<Record>>> {
        Box::pin(ready(self.begin(files)))
    }

    fn put<'a>(&'a self, key: &'a Key, offset: u64, bytes: &'a [u8]) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(ready(self.put(key, offset, bytes)))
    }

    fn read<'a>(&'a self, key: &'a Key, offset: u64, len: usize) -> LocalBoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(ready(self.read(key, offset, len)))
    }

    fn finish<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(ready(self.finish(key)))
    }

    fn replace<'a>(&'a self, new: &'a Key, old: &'a Key) -> LocalBoxFuture<'a, Result<bool>> {
        Box::pin(ready(self.replace(new, old)))
    }

    fn delete<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<u64>> {
        Box::pin(ready(self.delete(key)))
    }

    fn lock<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<Box<dyn Any>>> {
        Box::pin(async {
            let base = self.places(key)?.base;
            let name = base.file_name().unwrap_or_default().to_owned();
            let folder = base.parent().unwrap_or(&base).join(".locks").join(name);
            let path = folder.join(format!("{}.lock", key.etag));
            let failed = |error| failure(&path, error);
            fs::create_dir_all(&folder).map_err(failed)?;
            if disk::own_file(&path).is_none() {
                disk::clear(&path).map_err(failed)?;
            }
            let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
            // Python's filelock takes the same kind of lock. It ends with its process.
            loop {
                match FileExt::try_lock(&file) {
                    Ok(()) => break,
                    Err(TryLockError::WouldBlock) => http::sleep(LOCK_POLL).await,
                    // Some network drives have no locks. Then it is the user who starts one at a time.
                    Err(TryLockError::Error(error)) if disk::has_no_locks(&error) => break,
                    Err(TryLockError::Error(error)) => return Err(failed(error)),
                }
            }
            Ok(Box::new(file) as Box<dyn Any>)
        })
    }

    fn note<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Result<Option<String>>> {
        Box::pin(ready(Ok(disk::text(&self.note_path(name)))))
    }

    fn set_note<'a>(&'a self, name: &'a str, text: &'a str) -> LocalBoxFuture<'a, Result<()>> {
        let path = self.note_path(name);
        Box::pin(ready(at(&path, write_whole(&path, text))))
    }

    fn revision<'a>(
        &'a self,
        repo: &'a str,
        revision: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<String>>> {
        let commit = self.ref_path(repo, revision).and_then(|path| disk::text(&path));
        let commit = commit.map(|text| text.trim().to_owned()).filter(|commit| is_hash(commit));
        Box::pin(ready(Ok(commit)))
    }

    fn set_revision<'a>(
        &'a self,
        repo: &'a str,
        revision: &'a str,
        commit: &'a str,
    ) -> LocalBoxFuture<'a, Result<()>> {
        // A commit needs no name, and other tools give it none.
        let written = match self.ref_path(repo, revision).filter(|_| revision != commit) {
            Some(path) => at(&path, write_whole(&path, commit)),
            None => Ok(()),
        };
        Box::pin(ready(written))
    }
}

fn folder(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn whole(key: Key, metadata: &fs::Metadata) -> Record {
    let used = metadata.accessed().or_else(|_| metadata.modified()).ok();
    let last_used =
        used.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_secs());
    let len = metadata.len();
    Record { key, len, written: Written::all(len), whole: true, last_used }
}

/// The file that has come at `new` becomes the contents of `old`, in the place of what is there.
fn settle(new: &Places, old: &Places) -> io::Result<()> {
    disk::open(&new.partial)?.sync_all()?;
    disk::rename(&new.partial, &old.blob)?;
    let _ = disk::clear(&new.journal);
    disk::link(&old.base, &old.snapshot, &old.blob)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}
