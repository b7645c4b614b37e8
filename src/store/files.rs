//! Local files.

use super::{Joined, Source, Split};
use crate::{Error, Result};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

/// A file on disk, read by range.
pub struct FileSource {
    name: String,
    len: u64,
    file: RefCell<File>,
}

/// The model at `path`, with all its parts where it is split.
pub fn open_file(path: &Path) -> Result<Box<dyn Source>> {
    let Some(split) = path.to_str().and_then(Split::of) else { return Ok(Box::new(FileSource::open(path)?)) };
    let parts = split.paths().map(|path| FileSource::open(path.as_ref()));
    Ok(Box::new(Joined::new(parts.collect::<Result<_>>()?)))
}

/// What something is that is no file with an end.
pub(crate) fn no_file(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("a pipe, not a file");
        } else if kind.is_socket() {
            return Some("a socket, not a file");
        } else if kind.is_char_device() || kind.is_block_device() {
            return Some("a device, not a file");
        }
    }
    match (kind.is_dir(), kind.is_file()) {
        (true, _) => Some("a folder, not a file"),
        (_, false) => Some("not a regular file"),
        _ => None,
    }
}

impl FileSource {
    /// Fails with `model_not_found` where there is no such file.
    pub fn open(path: &Path) -> Result<Self> {
        let describe = |error: io::Error| match error.kind() {
            ErrorKind::NotFound => Error::model_not_found(format!(
                "{}: no such file. Give the path of a .gguf file",
                path.display()
            )),
            _ => Error::model_not_found(format!("{}: {error}", path.display())),
        };
        // Before it is opened, which would wait for whoever writes into a pipe.
        let metadata = path.metadata().map_err(describe)?;
        if let Some(kind) = no_file(&metadata) {
            return Err(Error::model_not_found(format!(
                "{} is {kind}. Give the path of a .gguf file",
                path.display()
            )));
        }
        let file = File::open(path).map_err(describe)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok(FileSource { name, len: metadata.len(), file: RefCell::new(file) })
    }
}

impl Source for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        let mut file = self.file.borrow_mut();
        let mut bytes = vec![0; len];
        let result = file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut bytes))
            .map(|()| bytes)
            .map_err(|error| {
                Error::corrupt_model(format!("{}: reading {len} bytes at {offset}: {error}", self.name))
            });
        Box::pin(std::future::ready(result))
    }
}
