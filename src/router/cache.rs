//! Answers given before, and answers under way: the same request is not answered twice.

use super::shelf::Shelf;
use crate::openai::{Chunk, Chunks, Endpoint};
use crate::store::Store;
use crate::{Error, Result};
use async_lock::Mutex;
use futures_util::stream::{StreamExt, try_unfold};
use serde::Deserialize;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use std::time::Duration;
use web_time::Instant;

/// What is kept, and how long. In JSON, times are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheOptions {
    /// How long an answer is good for.
    #[serde(rename = "ttlMs", deserialize_with = "crate::remote::milliseconds")]
    pub ttl: Duration,
    /// Of all answers together; the one not asked for the longest goes first. 0 keeps none.
    pub max_bytes: usize,
    /// Answers drawn at random too, without a seed.
    pub random: bool,
    /// In a store too, for the next run. Each answer may take a 64th part of the bytes there.
    pub persist: bool,
}

impl Default for CacheOptions {
    fn default() -> Self {
        CacheOptions { ttl: Duration::from_secs(3600), max_bytes: 16 << 20, random: false, persist: false }
    }
}

/// Answers by their requests. Only whole answers are kept, never failures.
pub struct Cache {
    options: CacheOptions,
    shelf: Option<Shelf>,
    kept: RefCell<Kept>,
    under_way: RefCell<HashMap<String, Weak<Shared>>>,
}

#[derive(Default)]
struct Kept {
    answers: HashMap<String, KeptAnswer>,
    bytes: usize,
    /// Counts uses.
    clock: u64,
}

struct KeptAnswer {
    chunks: Rc<[Chunk]>,
    bytes: usize,
    since: Instant,
    used: u64,
}

/// An answer that several may read, each from its beginning. Whoever is ahead moves it on, so that it
/// does not matter who leaves.
struct Shared {
    key: String,
    state: Mutex<State>,
}

struct State {
    source: Chunks,
    chunks: Vec<Chunk>,
    ended: Option<Result<()>>,
}

impl Cache {
    /// An empty one.
    pub fn new(options: CacheOptions) -> Rc<Cache> {
        Cache::with(options, None)
    }

    /// One with what `store` has from earlier runs, which gets what is answered from now on.
    pub fn stored(options: CacheOptions, store: Rc<dyn Store>) -> Rc<Cache> {
        Cache::with(options, Some(Shelf::new(store, options)))
    }

    fn with(options: CacheOptions, shelf: Option<Shelf>) -> Rc<Cache> {
        Rc::new(Cache { options, shelf, kept: RefCell::default(), under_way: RefCell::default() })
    }

    /// What the answer to a request is known by; nothing where the next answer may be another.
    pub fn key(&self, identity: &str, endpoint: Endpoint, body: &Value) -> Option<String> {
        // -1 is a random one.
        let fixed = body.get("seed").is_some_and(|seed| !seed.is_null() && seed.as_f64() != Some(-1.0))
            || body.get("temperature").and_then(Value::as_f64) == Some(0.0);
        if self.options.max_bytes == 0 || !(fixed || self.options.random) {
            return None;
        }
        // In the order of their names. Streams and whole answers are the same answers.
        let fields: BTreeMap<_, _> = body
            .as_object()?
            .iter()
            .filter(|(name, value)| {
                !value.is_null() && !matches!(name.as_str(), "stream" | "stream_options" | "user")
            })
            .collect();
        Some(format!("{identity}\n{}\n{}", endpoint.path(), serde_json::to_string(&fields).ok()?))
    }

    /// The answer kept under `key`, or the one under way.
    pub fn find(self: &Rc<Self>, key: &str) -> Option<Chunks> {
        if let Some(chunks) = self.kept.borrow_mut().find(key, self.options.ttl) {
            return Some(replay(chunks));
        }
        let shared = self.under_way.borrow().get(key)?.upgrade()?;
        Some(self.clone().read(shared))
    }

    /// The answer that the store has under `key`; the one under way, if it has none.
    pub async fn recall(self: &Rc<Self>, key: &str) -> Option<Chunks> {
        match self.shelf.as_ref()?.find(key).await {
            Some(chunks) => Some(replay(chunks.into())),
            None => self.find(key), // Another request may have begun meanwhile.
        }
    }

    /// Reads `source` for the first time, and lets others read along.
    pub fn share(self: &Rc<Self>, key: String, source: Chunks) -> Chunks {
        let state = Mutex::new(State { source, chunks: Vec::new(), ended: None });
        let shared = Rc::new(Shared { key: key.clone(), state });
        let mut under_way = self.under_way.borrow_mut();
        under_way.retain(|_, shared| shared.strong_count() > 0);
        under_way.insert(key, Rc::downgrade(&shared));
        self.clone().read(shared)
    }

    fn read(self: Rc<Self>, shared: Rc<Shared>) -> Chunks {
        let step = async |(cache, shared, at): (Rc<Cache>, Rc<Shared>, usize)| {
            let chunk = cache.step(&shared, at).await?;
            Ok(chunk.map(|chunk| (chunk, (cache, shared, at + 1))))
        };
        try_unfold((self, shared, 0), step).boxed_local()
    }

    async fn step(&self, shared: &Shared, at: usize) -> Result<Option<Chunk>> {
        let mut state = shared.state.lock().await;
        if let Some(chunk) = state.chunks.get(at) {
            return Ok(Some(chunk.clone()));
        }
        if let Some(ended) = &state.ended {
            return ended.clone().map(|()| None);
        }
        let next = state.source.next().await;
        let result = match next {
            Some(Ok(chunk)) => {
                state.chunks.push(chunk.clone());
                return Ok(Some(chunk));
            }
            Some(Err(error)) => Err(error),
            None => Ok(()),
        };
        state.ended = Some(result.clone());
        self.under_way.borrow_mut().remove(&shared.key);
        if result.is_ok() {
            self.kept.borrow_mut().keep(&shared.key, said(&state.chunks), self.options.max_bytes);
            if let Some(shelf) = &self.shelf {
                shelf.keep(&shared.key, said(&state.chunks)).await;
            }
        }
        result.map(|()| None)
    }

    /// Forgets all answers in memory.
    pub fn clear(&self) {
        *self.kept.borrow_mut() = Kept::default();
    }

    /// Answers in memory, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        let kept = self.kept.borrow();
        (kept.answers.len(), kept.bytes)
    }
}

impl Kept {
    fn find(&mut self, key: &str, ttl: Duration) -> Option<Rc<[Chunk]>> {
        let answer = self.answers.get_mut(key)?;
        if answer.since.elapsed() >= ttl {
            self.remove(key);
            return None;
        }
        self.clock += 1;
        answer.used = self.clock;
        Some(answer.chunks.clone())
    }

    fn keep<'a>(&mut self, key: &str, chunks: impl Iterator<Item = &'a Chunk>, limit: usize) {
        let chunks: Rc<[Chunk]> = chunks.cloned().collect();
        let size =
            |chunk: &Chunk| size_of::<Chunk>() + serde_json::to_string(chunk).map_or(0, |text| text.len());
        let bytes = key.len() + chunks.iter().map(size).sum::<usize>();
        self.remove(key);
        if bytes > limit {
            return;
        }
        while self.bytes + bytes > limit {
            let oldest =
                self.answers.iter().min_by_key(|(_, answer)| answer.used).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { break };
            self.remove(&oldest);
        }
        self.clock += 1;
        self.bytes += bytes;
        self.answers
            .insert(key.to_owned(), KeptAnswer { chunks, bytes, since: Instant::now(), used: self.clock });
    }

    fn remove(&mut self, key: &str) {
        if let Some(answer) = self.answers.remove(key) {
            self.bytes -= answer.bytes;
        }
    }
}

/// An answer without how it came about.
fn said(chunks: &[Chunk]) -> impl Iterator<Item = &Chunk> {
    chunks
        .iter()
        .filter(|chunk| chunk.retry.is_none() && chunk.prompt_progress.is_none() && chunk.recovery.is_none())
}

/// An answer once more: nobody was asked, nothing was paid.
fn replay(chunks: Rc<[Chunk]>) -> Chunks {
    let step = async |(chunks, at): (Rc<[Chunk]>, usize)| {
        let Some(mut chunk) = chunks.get(at).cloned() else { return Ok::<_, Error>(None) };
        if let Some(origin) = &mut chunk.candlewick {
            (origin.cached, origin.attempts, origin.waited_ms, origin.cost) = (true, 0, 0, None);
        }
        Ok(Some((chunk, (chunks, at + 1))))
    };
    try_unfold((chunks, 0), step).boxed_local()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream::iter;
    use serde_json::json;
    use std::cell::Cell;

    fn chunk(text: &str) -> Chunk {
        Chunk { id: text.to_owned(), ..Chunk::default() }
    }

    fn texts(chunks: Chunks) -> String {
        pollster::block_on(chunks.map(|chunk| chunk.unwrap().id).collect::<Vec<_>>()).concat()
    }

    /// A source that counts how much of it was read.
    fn source(reads: &Rc<Cell<usize>>) -> Chunks {
        let reads = reads.clone();
        iter(["a", "b", "c"])
            .map(move |text| {
                reads.set(reads.get() + 1);
                Ok(chunk(text))
            })
            .boxed_local()
    }

    #[test]
    fn only_what_would_come_again() {
        let cache = Cache::new(CacheOptions::default());
        let key = |body| cache.key("model", Endpoint::Chat, &body);
        assert_eq!(key(json!({ "messages": [] })), None);
        assert_eq!(key(json!({ "temperature": 0.5 })), None);
        assert_eq!(key(json!({ "seed": null })), None);
        let one = key(json!({ "temperature": 0, "messages": [1], "stream": true })).unwrap();
        assert_eq!(key(json!({ "messages": [1], "temperature": 0.0, "stop": null })).map(|_| ()), Some(()));
        assert_eq!(key(json!({ "messages": [1], "temperature": 0 })).unwrap(), one);
        assert_ne!(key(json!({ "messages": [2], "temperature": 0 })).unwrap(), one);
        assert_ne!(
            cache.key("other", Endpoint::Chat, &json!({ "messages": [1], "temperature": 0 })).unwrap(),
            one
        );
        let random = Cache::new(CacheOptions { random: true, ..CacheOptions::default() });
        assert!(random.key("model", Endpoint::Chat, &json!({})).is_some());
    }

    #[test]
    fn one_answer_for_all() {
        let (cache, reads) = (Cache::new(CacheOptions::default()), Rc::default());
        assert!(cache.find("key").is_none());
        let mut first = cache.share("key".into(), source(&reads));
        pollster::block_on(first.next()).unwrap().unwrap();
        let second = cache.find("key").unwrap();
        let third = cache.find("key").unwrap();
        // Whoever began may leave.
        drop(first);
        assert_eq!(texts(second), "abc");
        assert_eq!(texts(third), "abc");
        assert_eq!(texts(cache.find("key").unwrap()), "abc");
        assert_eq!(reads.get(), 3);
        cache.clear();
        assert!(cache.find("key").is_none());
    }

    #[test]
    fn what_everybody_left_is_not_kept() {
        let (cache, reads) = (Cache::new(CacheOptions::default()), Rc::default());
        let mut one = cache.share("key".into(), source(&reads));
        pollster::block_on(one.next()).unwrap().unwrap();
        drop(one);
        assert!(cache.find("key").is_none());
        let failing = iter([Ok(chunk("a")), Err(Error::network("gone"))]).boxed_local();
        let failed = cache.share("key".into(), failing);
        let other = cache.find("key").unwrap();
        for chunks in [failed, other] {
            let last = pollster::block_on(chunks.collect::<Vec<_>>()).pop().unwrap();
            assert_eq!(last.unwrap_err().code, crate::Code::Network);
        }
        assert!(cache.find("key").is_none());
    }

    #[test]
    fn another_run() {
        let store: Rc<dyn Store> = Rc::new(crate::store::MemoryStore::default());
        let options = CacheOptions::default();
        let recall = |options| pollster::block_on(Cache::stored(options, store.clone()).recall("key"));
        assert!(recall(options).is_none());
        let reads = Rc::default();
        assert_eq!(texts(Cache::stored(options, store.clone()).share("key".into(), source(&reads))), "abc");
        assert_eq!(texts(recall(options).unwrap()), "abc");
        assert_eq!(reads.get(), 3);
        assert!(recall(CacheOptions { ttl: Duration::ZERO, ..options }).is_none());
        // What has the same place takes it, and what another one wrote there is no answer.
        for note in ["{", r#"{"key":"other","since":0,"chunks":[]}"#] {
            for place in 0..64 {
                pollster::block_on(store.set_note(&format!("answer-{place}"), note)).unwrap();
            }
            assert!(recall(options).is_none());
        }
        let small = CacheOptions { max_bytes: 64 * 50, ..options };
        assert_eq!(texts(Cache::stored(small, store.clone()).share("key".into(), source(&reads))), "abc");
        assert!(recall(options).is_none(), "too long for its place");
    }

    #[test]
    fn limits() {
        let reads = Rc::default();
        let options =
            CacheOptions { max_bytes: 2 * (3 * size_of::<Chunk>() + 600), ..CacheOptions::default() };
        let cache = Cache::new(options);
        for key in ["one", "two", "three"] {
            texts(cache.share(key.into(), source(&reads)));
            // The first is asked for again and again.
            assert!(cache.find("one").is_some(), "{key}");
        }
        assert!(cache.find("two").is_none() && cache.find("three").is_some());
        assert!(cache.size().1 <= options.max_bytes);
        let old = Cache::new(CacheOptions { ttl: Duration::ZERO, ..options });
        texts(old.share("key".into(), source(&reads)));
        assert!(old.find("key").is_none() && old.size() == (0, 0));
    }
}
