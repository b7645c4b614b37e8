//! Room for new files: within the budget, and within what the browser allows.

use super::{Database, content_of, lock_name};
use crate::store::origin::{self, Estimate};
use crate::store::{Key, Record};
use crate::{Error, Result};
use std::collections::HashMap;

/// A content that could go: what its files are called, and how much room it takes.
#[derive(Default)]
struct Content {
    last_used: u64,
    stored: u64,
    keys: Vec<Key>,
}

impl Database {
    /// Before anything is fetched: whether the rest fits, into the budget and into what the browser allows. What was not
    /// used for longest makes room, but only where that is enough.
    pub(super) async fn make_room(&self, wanted: &[Record]) -> Result<()> {
        let missing = wanted.iter().map(Record::missing).sum();
        let Some(first) = wanted.iter().find(|record| record.missing() > 0) else { return Ok(()) };
        let mut freed = 0;
        let mut going = Vec::new();
        if let Some(budget) = self.budget {
            let mut contents = self.contents().await?;
            let used: u64 = contents.iter().map(|content| content.stored).sum();
            let of_wanted = |key: &Key| wanted.iter().any(|record| shares(&record.key, key));
            let stays = |key: &Key| of_wanted(key) || key.is_of_session();
            contents.retain(|content| !content.keys.iter().any(stays));
            contents.sort_by_key(|content| content.last_used);
            for content in contents {
                if used - freed + missing <= budget {
                    break;
                }
                // What another tab is fetching stays.
                if let Some(turn) = origin::try_lock(&lock_name(&content_of(&content.keys[0]))).await {
                    freed += content.stored;
                    going.push((content, turn));
                }
            }
            let left = budget.saturating_sub(used - freed);
            if left < missing {
                return Err(self.no_room(&first.key, missing, left, "its budget for models"));
            }
        }
        if let Some(Estimate { quota, usage }) = origin::estimate().await {
            let left = quota.saturating_sub(usage.saturating_sub(freed));
            if left < missing {
                return Err(self.no_room(&first.key, missing, left, "the browser"));
            }
        }
        for (content, _turn) in &going {
            for key in &content.keys {
                self.delete(key).await?;
            }
        }
        Ok(())
    }

    /// All that is stored; revisions of the same content are one.
    async fn contents(&self) -> Result<Vec<Content>> {
        let mut contents: HashMap<(String, String), Content> = HashMap::new();
        for record in self.records().await? {
            let content = contents.entry((record.key.repo.clone(), record.key.etag.clone())).or_default();
            content.last_used = content.last_used.max(record.last_used);
            content.stored = record.written.total();
            content.keys.push(record.key);
        }
        Ok(contents.into_values().collect())
    }

    fn no_room(&self, key: &Key, missing: u64, free: u64, whose: &str) -> Error {
        let message = format!(
            "{} needs {:.1} MB more, and {whose} has {:.1} MB left for this site. Remove models, or load it with `cache: false`",
            key.name(),
            missing as f64 / 1e6,
            free as f64 / 1e6,
        );
        Error::quota_exceeded(message)
    }
}

/// Whether two files have the same content.
fn shares(one: &Key, other: &Key) -> bool {
    one.repo == other.repo && one.etag == other.etag
}
