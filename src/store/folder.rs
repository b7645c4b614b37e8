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

use super::cache::{Key, Record, Store, Written};
use crate::hub::{is_hash, is_repo, is_revision};
use crate::{Code, Error, Result, http};
use fs4::{FileExt, TryLockError};
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::fs::{self, File, OpenOptions};
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

/// The first line of a journal. An offset and a length a line follow.
#[derive(Serialize, Deserialize)]
struct Begun {
    key: Key,
    len: u64,
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
        if let Ok(metadata) = fs::metadata(&places.snapshot)
            && metadata.is_file()
        {
            return Ok(Some(whole(key.clone(), &metadata)));
        }
        let record = read_journal(&places.journal, &places.partial);
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
        let failed = |error| failure(&places.base, error);
        match fs::metadata(&places.snapshot) {
            Ok(metadata) if metadata.is_file() && metadata.len() == len => {
                return Ok(whole(key.clone(), &metadata));
            }
            // Half a copy, or a link to half a blob: it would hide what comes.
            Ok(metadata) if metadata.is_file() => fs::remove_file(&places.snapshot).map_err(failed)?,
            _ => {}
        }
        match fs::metadata(&places.blob) {
            Ok(metadata) if metadata.len() == len => {
                link(&places).map_err(failed)?;
                return Ok(whole(key.clone(), &metadata));
            }
            // Somebody's disk was full, or a file was edited in place.
            Ok(_) => fs::remove_file(&places.blob).map_err(failed)?,
            Err(_) => {}
        }
        // Perhaps begun for another revision: the same content.
        match read_journal(&places.journal, &places.partial).filter(|record| record.len == len) {
            Some(record) => {
                mend_journal(&places.journal).map_err(failed)?;
                Ok(Record { key: key.clone(), ..record })
            }
            None => start(&places, key, len).map_err(failed),
        }
    }

    fn put(&self, key: &Key, offset: u64, bytes: &[u8]) -> Result<()> {
        let places = self.places(key)?;
        let write = || -> io::Result<()> {
            let mut file = match OpenOptions::new().write(true).open(&places.partial) {
                // A whole file, of which blocks are replaced.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let mut file = OpenOptions::new().write(true).open(&places.snapshot)?;
                    file.seek(SeekFrom::Start(offset))?;
                    return file.write_all(bytes);
                }
                opened => opened?,
            };
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)?;
            // Only now: what the journal says is there. One call, so that a line is whole or cut off.
            let line = format!("{offset} {}\n", bytes.len());
            OpenOptions::new().append(true).open(&places.journal)?.write_all(line.as_bytes())
        };
        write().map_err(|error| failure(&places.base, error))
    }

    fn read(&self, key: &Key, offset: u64, len: usize) -> Result<Vec<u8>> {
        let places = self.places(key)?;
        let read = |path: &Path| -> io::Result<Vec<u8>> {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(offset))?;
            let mut bytes = vec![0; len];
            file.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        read(&places.snapshot).or_else(|error| match error.kind() {
            ErrorKind::NotFound => read(&places.partial).map_err(|error| failure(&places.base, error)),
            _ => Err(failure(&places.base, error)),
        })
    }

    fn finish(&self, key: &Key) -> Result<()> {
        let places = self.places(key)?;
        let finish = || -> io::Result<()> {
            match File::open(&places.partial) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return File::open(&places.snapshot)?.sync_all();
                }
                opened => opened?.sync_all()?,
            }
            fs::rename(&places.partial, &places.blob)?;
            let _ = fs::remove_file(&places.journal);
            link(&places)
        };
        finish().map_err(|error| failure(&places.base, error))
    }

    fn delete(&self, key: &Key) -> Result<u64> {
        let places = self.places(key)?;
        let mut freed = 0;
        let mut remove = |path: &Path| {
            let len =
                fs::symlink_metadata(path).ok().filter(fs::Metadata::is_file).map_or(0, |file| file.len());
            match fs::remove_file(path) {
                Ok(()) => freed += len,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failure(path, error)),
            }
            Ok(())
        };
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
            let of_commit =
                |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.trim() == key.commit);
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
            for snapshot in folders_in(&base.join("snapshots")) {
                let commit = snapshot.file_name().unwrap_or_default().to_string_lossy().into_owned();
                for path in files_below(&snapshot) {
                    let Ok(metadata) = fs::metadata(&path) else { continue };
                    let Ok(relative) = path.strip_prefix(&snapshot) else { continue };
                    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
                    let etag = etag_of(&path).unwrap_or_else(|| "0".repeat(40));
                    let key = Key { repo: repo.clone(), commit: commit.clone(), path: parts.join("/"), etag };
                    if self.places(&key).is_ok() {
                        records.push(whole(key, &metadata));
                    }
                }
            }
            for journal in files_below(&base.join("blobs")) {
                let partial = journal.with_extension("incomplete");
                if journal.extension().is_some_and(|end| end == "journal") {
                    let record = read_journal(&journal, &partial);
                    records.extend(
                        record.filter(|record| record.key.repo == repo && self.places(&record.key).is_ok()),
                    );
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
            let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
            // Python's filelock takes the same kind of lock. It ends with its process.
            loop {
                match FileExt::try_lock(&file) {
                    Ok(()) => break,
                    Err(TryLockError::WouldBlock) => http::sleep(LOCK_POLL).await,
                    // Some network drives have no locks. Then it is the user who starts one at a time.
                    Err(TryLockError::Error(error)) if has_no_locks(&error) => break,
                    Err(TryLockError::Error(error)) => return Err(failed(error)),
                }
            }
            Ok(Box::new(file) as Box<dyn Any>)
        })
    }

    fn note<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Result<Option<String>>> {
        Box::pin(ready(Ok(fs::read_to_string(self.note_path(name)).ok())))
    }

    fn set_note<'a>(&'a self, name: &'a str, text: &'a str) -> LocalBoxFuture<'a, Result<()>> {
        let path = self.note_path(name);
        Box::pin(ready(write_whole(&path, text).map_err(|error| failure(&path, error))))
    }

    fn revision<'a>(
        &'a self,
        repo: &'a str,
        revision: &'a str,
    ) -> LocalBoxFuture<'a, Result<Option<String>>> {
        let commit = self.ref_path(repo, revision).and_then(|path| fs::read_to_string(path).ok());
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
            Some(path) => write_whole(&path, commit).map_err(|error| failure(&path, error)),
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

/// Makes an empty file of the right length, or takes over what Python has of it.
fn start(places: &Places, key: &Key, len: u64) -> io::Result<Record> {
    fs::create_dir_all(places.base.join("blobs"))?;
    let theirs = places.blob.with_file_name(format!("{}.incomplete", key.etag));
    let mut written = Written::default();
    let _ = fs::remove_file(&places.journal);
    match fs::metadata(&theirs) {
        Ok(metadata) if metadata.is_file() && metadata.len() <= len => {
            fs::rename(&theirs, &places.partial)?;
            written.add(0..metadata.len());
        }
        _ => {
            File::create(&places.partial)?;
        }
    }
    let mut journal =
        serde_json::to_string(&Begun { key: key.clone(), len }).map_err(io::Error::other)? + "\n";
    if written.total() > 0 {
        journal += &format!("0 {}\n", written.total());
    }
    write_whole(&places.journal, &journal)?;
    Ok(Record { key: key.clone(), len, written, whole: false, last_used: 0 })
}

/// What a journal says; nothing where it makes no sense.
fn read_journal(journal: &Path, partial: &Path) -> Option<Record> {
    let text = fs::read_to_string(journal).ok()?;
    let metadata = fs::metadata(partial).ok()?;
    let mut lines = text.split_inclusive('\n');
    let Begun { key, len } = serde_json::from_str(lines.next()?).ok()?;
    let mut written = Written::default();
    // The last line may have been cut off.
    for line in lines.filter_map(|line| line.strip_suffix('\n')) {
        let (offset, count) = line.split_once(' ')?;
        let (offset, count): (u64, u64) = (offset.parse().ok()?, count.parse().ok()?);
        let end = offset.checked_add(count).filter(|&end| end <= len && end <= metadata.len())?;
        written.add(offset..end);
    }
    let last_used = metadata.modified().ok()?.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    Some(Record { key, len, written, whole: false, last_used })
}

/// Takes a line away that was cut off: the next one would go on with it.
fn mend_journal(journal: &Path) -> io::Result<()> {
    let text = fs::read_to_string(journal)?;
    match text.rfind('\n') {
        Some(end) if end + 1 < text.len() => write_whole(journal, &text[..=end]),
        _ => Ok(()),
    }
}

/// Lets a snapshot have the contents.
fn link(places: &Places) -> io::Result<()> {
    let folder = places.snapshot.parent().unwrap_or(&places.base);
    fs::create_dir_all(folder)?;
    if places.snapshot.exists() {
        return Ok(());
    }
    // One that leads nowhere is in the way.
    let _ = fs::remove_file(&places.snapshot);
    #[cfg(unix)]
    {
        let depth = folder.strip_prefix(&places.base).map_or(0, |path| path.components().count());
        let target =
            Path::new(&"../".repeat(depth)).join("blobs").join(places.blob.file_name().unwrap_or_default());
        std::os::unix::fs::symlink(target, &places.snapshot)
    }
    // Where links need rights that users lack, Hugging Face's tools keep the file itself in the snapshot.
    #[cfg(not(unix))]
    fs::rename(&places.blob, &places.snapshot)
}

/// The name of what a snapshot's link leads to.
fn etag_of(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned()).filter(|etag| is_hash(etag))
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Files and links, at any depth; links to folders are not followed.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&entry.path())),
            Ok(_) => files.push(entry.path()),
            Err(_) => {}
        }
    }
    files
}

/// Written beside it first: nobody sees half a file.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}

/// Whether a file system answers so because it knows no locks: ENOSYS, EOPNOTSUPP, ENOLCK.
fn has_no_locks(error: &io::Error) -> bool {
    const ENOLCK: i32 = if cfg!(target_os = "linux") { 37 } else { 77 };
    error.kind() == ErrorKind::Unsupported || cfg!(unix) && error.raw_os_error() == Some(ENOLCK)
}

fn failure(path: &Path, error: io::Error) -> Error {
    let message = format!("the model cache at {}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error { code: Code::QuotaExceeded, message },
        _ => Error::internal(message),
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}
