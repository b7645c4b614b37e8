//! Answers that outlive the program, as notes in a store. There is a fixed number of places, and who comes later takes
//! the place: that bounds their bytes without a list of them.

use super::CacheOptions;
use crate::openai::{Chunk, Origin};
use crate::store::Store;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::rc::Rc;
use web_time::{SystemTime, UNIX_EPOCH};

/// How many there are; each may take its part of the bytes.
const PLACES: u8 = 64;

pub(super) struct Shelf {
    store: Rc<dyn Store>,
    options: CacheOptions,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    key: String,
    /// Seconds since 1970.
    since: u64,
    /// The origin lies beside its chunk: what a server says of that is never believed.
    chunks: Vec<(Chunk, Option<Origin>)>,
}

impl Shelf {
    pub(super) fn new(store: Rc<dyn Store>, options: CacheOptions) -> Shelf {
        Shelf { store, options }
    }

    /// The answer under `key`, if it is there and not too old. A store that fails has none.
    pub(super) async fn find(&self, key: &str) -> Option<Vec<Chunk>> {
        let text = self.store.note(&place(key)).await.ok()??;
        let kept: Kept = serde_json::from_str(&text).ok()?;
        // A clock that was set back makes none younger.
        let age = now().checked_sub(kept.since)?;
        if kept.key != key || age >= self.options.ttl.as_secs() {
            return None;
        }
        let with_origin = |(chunk, candlewick)| Chunk { candlewick, ..chunk };
        Some(kept.chunks.into_iter().map(with_origin).collect())
    }

    /// Keeps an answer, if it is not too long.
    pub(super) async fn keep(&self, key: &str, chunks: impl Iterator<Item = &Chunk>) {
        // The speed was that of the device then.
        let bare = |chunk: &Chunk| Chunk { candlewick: None, timings: None, ..chunk.clone() };
        let chunks = chunks.map(|chunk| (bare(chunk), chunk.candlewick.clone())).collect();
        let kept = Kept { key: key.to_owned(), since: now(), chunks };
        let Ok(text) = serde_json::to_string(&kept) else { return };
        if text.len() <= self.options.max_bytes / usize::from(PLACES) {
            // Where it cannot be kept it is made again.
            let _ = self.store.set_note(&place(key), &text).await;
        }
    }
}

fn place(key: &str) -> String {
    format!("answer-{}", Sha256::digest(key)[0] % PLACES)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
