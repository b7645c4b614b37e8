//! Room for new files: within the budget, and within what the browser allows.

use super::{Database, lock_name};
use crate::store::origin::{self, Estimate};
use crate::store::{Key, Record};
use crate::{Error, Result};
use std::collections::HashMap;

impl Database {
    /// Before anything is fetched: whether the rest fits, into the budget and into what the browser allows.
    pub(super) async fn make_room(&self, wanted: &[Record]) -> Result<()> {
        let missing = wanted.iter().map(Record::missing).sum();
        let Some(first) = wanted.iter().find(|record| record.missing() > 0) else { return Ok(()) };
        if let Some(budget) = self.budget {
            let content = |record: &Record| (record.key.repo.clone(), record.key.etag.clone());
            let mut others = self.records().await?;
            let mut stored: HashMap<_, u64> = HashMap::new();
            for record in &others {
                stored.insert(content(record), record.written.total());
            }
            let mut used: u64 = stored.values().sum();
            others.retain(|record| wanted.iter().all(|wanted| content(record) != content(wanted)));
            others.sort_by_key(|record| record.last_used);
            for record in &others {
                if used + missing <= budget {
                    break;
                }
                // What another tab is fetching stays.
                if let Some(_turn) = origin::try_lock(&lock_name(&record.key)).await {
                    used -= self.delete(&record.key).await?.min(used);
                }
            }
            if used + missing > budget {
                return Err(self.no_room(
                    &first.key,
                    missing,
                    budget - used.min(budget),
                    "its budget for models",
                ));
            }
        }
        match origin::estimate().await {
            Some(Estimate { quota, usage }) if quota.saturating_sub(usage) < missing => {
                Err(self.no_room(&first.key, missing, quota.saturating_sub(usage), "the browser"))
            }
            _ => Ok(()),
        }
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
