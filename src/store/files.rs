//! Local files.

use super::{Joined, Source, Split};
use crate::{Error, Result};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::fs::File;
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
    let parts = (1..=split.count).map(|index| FileSource::open(split.path(index).as_ref()));
    Ok(Box::new(Joined::new(parts.collect::<Result<_>>()?)))
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
        let file = File::open(path).map_err(describe)?;
        let metadata = file.metadata().map_err(describe)?;
        if metadata.is_dir() {
            return Err(Error::model_not_found(format!(
                "{} is a folder. Give the path of a .gguf file in it",
                path.display()
            )));
        }
        if !metadata.is_file() {
            return Err(Error::model_not_found(format!("{} is not a regular file", path.display())));
        }
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
