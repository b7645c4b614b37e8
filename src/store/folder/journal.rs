//! What is there of a file that is on its way.

use super::disk::{self, write_whole};
use crate::store::{Key, Record, Written};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// The first line of a journal. An offset and a length a line follow.
#[derive(Serialize, Deserialize)]
struct Begun {
    key: Key,
    len: u64,
}

/// Makes an empty file of the right length, or takes `theirs` over, what Python has of it.
pub(super) fn start(
    partial: &Path,
    journal: &Path,
    theirs: &Path,
    key: &Key,
    len: u64,
) -> io::Result<Record> {
    fs::create_dir_all(partial.parent().unwrap_or(partial))?;
    let mut written = Written::default();
    disk::clear(journal)?;
    match disk::own_file(theirs) {
        Some(metadata) if metadata.len() <= len => {
            disk::rename(theirs, partial)?;
            written.add(0..metadata.len());
        }
        _ => {
            disk::create(partial)?;
        }
    }
    let mut text = serde_json::to_string(&Begun { key: key.clone(), len }).map_err(io::Error::other)? + "\n";
    if written.total() > 0 {
        text += &format!("0 {}\n", written.total());
    }
    write_whole(journal, &text)?;
    Ok(Record { key: key.clone(), len, written, whole: false, last_used: 0 })
}

/// What a journal says; nothing where it makes no sense.
pub(super) fn read(journal: &Path, partial: &Path) -> Option<Record> {
    disk::own_file(journal)?;
    let text = disk::text(journal)?;
    let metadata = disk::own_file(partial)?;
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
pub(super) fn mend(journal: &Path) -> io::Result<()> {
    let text = fs::read_to_string(journal)?;
    match text.rfind('\n') {
        Some(end) if end + 1 < text.len() => write_whole(journal, &text[..=end]),
        _ => Ok(()),
    }
}
