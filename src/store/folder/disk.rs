//! Files of a folder in which anything may lie: pipes, folders in the place of files, links to elsewhere or nowhere.
//! Nothing is opened before it is known to be a file, and nothing is written through a link.

use crate::store::names::is_hash;
use crate::{Error, Result};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The file at a path or behind its link.
pub(super) fn file(path: &Path) -> Option<Metadata> {
    fs::metadata(path).ok().filter(Metadata::is_file)
}

/// The file at a path itself.
pub(super) fn own_file(path: &Path) -> Option<Metadata> {
    fs::symlink_metadata(path).ok().filter(Metadata::is_file)
}

/// Opens a file for reading. Opening a pipe would wait for whoever writes into it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    match fs::metadata(path)?.is_file() {
        true => File::open(path),
        false => Err(ErrorKind::NotFound.into()),
    }
}

/// A small text.
pub(super) fn text(path: &Path) -> Option<String> {
    io::read_to_string(open(path).ok()?).ok()
}

/// Removes what is at a path, whatever it is but a folder with something in it. Says how many bytes that freed.
pub(super) fn clear(path: &Path) -> io::Result<u64> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        there => there?,
    };
    match there.is_dir() {
        true => fs::remove_dir(path).map(|()| 0),
        false => fs::remove_file(path).map(|()| if there.is_file() { there.len() } else { 0 }),
    }
}

/// A new file, in the place of what is there.
pub(super) fn create(path: &Path) -> io::Result<File> {
    clear(path)?;
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Lets one file, or link, take the place of another at once, or of whatever is there.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if fs::symlink_metadata(to).is_ok_and(|there| there.is_dir()) {
        fs::remove_dir(to)?;
    }
    fs::rename(from, to)
}

/// Written beside it first: nobody sees half a file.
pub(super) fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = create(&beside).and_then(|mut file| file.write_all(text.as_bytes()));
    written.and_then(|()| rename(&beside, path)).inspect_err(|_| {
        let _ = clear(&beside);
    })
}

/// Lets a snapshot have the contents of `blob`. `base` has both.
pub(super) fn link(base: &Path, snapshot: &Path, blob: &Path) -> io::Result<()> {
    let folder = snapshot.parent().unwrap_or(base);
    fs::create_dir_all(folder)?;
    #[cfg(unix)]
    {
        let depth = folder.strip_prefix(base).map_or(0, |path| path.components().count());
        let target = Path::new(&"../".repeat(depth)).join("blobs").join(blob.file_name().unwrap_or_default());
        if fs::read_link(snapshot).is_ok_and(|there| there == target) {
            return Ok(());
        }
        let beside = snapshot.with_extension(format!("{}.tmp", std::process::id()));
        clear(&beside)?;
        std::os::unix::fs::symlink(target, &beside)?;
        rename(&beside, snapshot)
    }
    // Where links need rights that users lack, Hugging Face's tools keep the file itself in the snapshot.
    #[cfg(not(unix))]
    match own_file(blob) {
        Some(_) => rename(blob, snapshot),
        None => Ok(()),
    }
}

/// The name of the contents that a snapshot's link leads to.
pub(super) fn etag_of(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let of_cache = target.parent().is_some_and(|folder| folder.ends_with("blobs"));
    Some(target.file_name()?.to_string_lossy().into_owned()).filter(|etag| of_cache && is_hash(etag))
}

pub(super) fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut folders: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Whatever is no folder, at any depth; links to folders are not followed. An empty folder that is called as models are
/// is in the place of one.
pub(super) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => {
                let inside = files_below(&path);
                if inside.is_empty() && path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf")) {
                    files.push(path);
                }
                files.extend(inside);
            }
            Ok(_) => files.push(path),
            Err(_) => {}
        }
    }
    files
}

/// Whether a file system answers so because it knows no locks: ENOSYS, EOPNOTSUPP, ENOLCK.
pub(super) fn has_no_locks(error: &io::Error) -> bool {
    const ENOLCK: i32 = if cfg!(target_os = "linux") { 37 } else { 77 };
    error.kind() == ErrorKind::Unsupported || cfg!(unix) && error.raw_os_error() == Some(ENOLCK)
}

/// Links that lead to themselves.
fn is_loop(error: &io::Error) -> bool {
    const ELOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };
    cfg!(unix) && error.raw_os_error() == Some(ELOOP)
}

/// What to say where the file system refuses something at `path`.
pub(super) fn failure(path: &Path, error: io::Error) -> Error {
    let what = format!("the model cache at {}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => Error::quota_exceeded(
            format!("{what}. Make room (candlewick rm), or set HF_HOME to a folder on another disk"),
        ),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            Error::invalid_argument(format!("{what}. Set HF_HOME to a folder that you may write to"))
        }
        ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::DirectoryNotEmpty
        | ErrorKind::AlreadyExists => Error::invalid_argument(format!(
            "{what}. Something else is in the place of a file or folder. Remove it, or set HF_HOME to another folder"
        )),
        ErrorKind::NotFound => Error::model_not_found(format!(
            "{what}. Somebody has removed a file meanwhile. Fetch the model again"
        )),
        ErrorKind::UnexpectedEof => {
            Error::corrupt_model(format!("{what}. A file has become shorter. Fetch the model again"))
        }
        _ if is_loop(&error) => Error::invalid_argument(format!("{what}. A link leads to itself. Remove it")),
        _ => Error::internal(what),
    }
}

/// The same in a result.
pub(super) fn at<T>(path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|error| failure(path, error))
}
