//! Saved sessions among the files of a [`Store`], by name. Unlike models they cannot be fetched again, and so never make
//! room for others.

use super::cache::{Key, Record, Store};
use super::names::is_file;
use crate::hash::{hex, sha256};
use crate::{Error, Result};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// The owner of their keys: nobody on the Hub, where names do not begin so.
const OWNER: &str = "_session/";
const ENDING: &str = ".session";
/// Bytes that are written at once.
const PIECE: usize = 8 << 20;

/// A session in a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(test, derive(ts_rs::TS), ts(rename = "StoredSession"))]
pub struct StoredSession {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub last_used: u64,
}

impl Key {
    /// Whether it is a session's.
    pub fn is_of_session(&self) -> bool {
        self.repo.starts_with(OWNER)
    }
}

/// What identifies a session, whatever it holds.
fn repo(name: &str) -> Result<String> {
    if name.contains('/') || name.len() > 96 || !is_file(name) {
        return Err(Error::invalid_argument(
            "the name of a session has 1 to 96 characters, none of which is one of / \\ : * ? \" < > |",
        ));
    }
    Ok(format!("{OWNER}{}", &sha256(name)[..40]))
}

async fn named(store: &dyn Store, name: &str) -> Result<Vec<Record>> {
    let repo = repo(name)?;
    let records = store.list().await?;
    Ok(records.into_iter().filter(|record| record.key.repo == repo).collect())
}

/// Keeps `bytes` as the session `name`. What was there before stays until all of it is written. Fails with
/// `quota_exceeded` where there is no room.
pub async fn save_session(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<()> {
    let before = named(store, name).await?;
    let etag = hex(&Sha256::digest(bytes));
    let key = Key { repo: repo(name)?, commit: etag[..40].to_owned(), path: format!("{name}{ENDING}"), etag };
    if !before.iter().any(|record| record.key == key && record.whole) {
        store.begin(&[(key.clone(), bytes.len() as u64)]).await?;
        for (index, piece) in bytes.chunks(PIECE).enumerate() {
            store.put(&key, (index * PIECE) as u64, piece).await?;
        }
        store.finish(&key).await?;
    }
    for old in before.iter().filter(|record| record.key != key) {
        store.delete(&old.key).await?;
    }
    Ok(())
}

/// The session `name`, where there is one.
pub async fn read_session(store: &dyn Store, name: &str) -> Result<Option<Vec<u8>>> {
    let found = named(store, name).await?.into_iter().filter(|record| record.whole);
    // Where replacing one was interrupted, the newer one counts.
    let Some(record) = found.max_by_key(|record| record.last_used) else { return Ok(None) };
    let len = usize::try_from(record.len)
        .map_err(|_| Error::resource_exhausted(format!("the session {name} is too large for this device")))?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| {
        Error::resource_exhausted(format!("no memory for the {len} bytes of the session {name}"))
    })?;
    while bytes.len() < len {
        let piece = PIECE.min(len - bytes.len());
        bytes.extend(store.read(&record.key, bytes.len() as u64, piece).await?);
    }
    Ok(Some(bytes))
}

/// All sessions, by name.
pub async fn list_sessions(store: &dyn Store) -> Result<Vec<StoredSession>> {
    let records = store.list().await?;
    let mut sessions: Vec<StoredSession> = records
        .into_iter()
        .filter(|record| record.whole)
        .filter_map(|Record { key, len, last_used, .. }| {
            let name = key.path.strip_suffix(ENDING).filter(|_| key.is_of_session())?.to_owned();
            Some(StoredSession { name, size: len, last_used })
        })
        .collect();
    sessions.sort_by(|a, b| a.name.cmp(&b.name));
    sessions.dedup_by(|a, b| a.name == b.name);
    Ok(sessions)
}

/// Removes the session `name`, and says how many bytes that freed.
pub async fn remove_session(store: &dyn Store, name: &str) -> Result<u64> {
    let mut freed = 0;
    for record in named(store, name).await? {
        freed += store.delete(&record.key).await?;
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use pollster::block_on;

    #[test]
    fn by_name() {
        let store = MemoryStore::default();
        let large: Vec<u8> = (0..PIECE + 5).map(|index| index as u8).collect();
        block_on(async {
            save_session(&store, "Tuesday, 5 o'clock", b"one").await.unwrap();
            save_session(&store, "other", &large).await.unwrap();
            save_session(&store, "Tuesday, 5 o'clock", b"two").await.unwrap();
            save_session(&store, "Tuesday, 5 o'clock", b"two").await.unwrap();
            let read = async |name| read_session(&store, name).await.unwrap();
            assert_eq!(read("Tuesday, 5 o'clock").await.unwrap(), b"two");
            assert!(read("other").await.unwrap() == large);
            assert_eq!(read("none").await, None);
            let all = list_sessions(&store).await.unwrap();
            let names: Vec<(&str, u64)> = all.iter().map(|one| (one.name.as_str(), one.size)).collect();
            assert_eq!(names, [("Tuesday, 5 o'clock", 3), ("other", large.len() as u64)]);
            remove_session(&store, "other").await.unwrap();
            assert_eq!(list_sessions(&store).await.unwrap().len(), 1);
            for name in ["", "a/b", "..", "a\\b", "what?", &"x".repeat(97)] {
                assert!(save_session(&store, name, b"").await.is_err(), "{name:?}");
            }
        });
    }
}
