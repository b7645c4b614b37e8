//! Seeded schedules of faults and kills: each ends in the exact bytes or an error of a known kind, and whatever
//! happened, the store is sound and a calm server makes it whole.

use super::World;
use super::download::{COMMIT, FILE, SIZES, client, digest, folder_store, quiet};
use candlewick::hub::{Models, Spec};
use candlewick::store::{Key, MemoryStore, Record, Source, Store};
use candlewick::{Code, Result};
use futures_util::future::LocalBoxFuture;
use pollster::block_on;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::json;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

const FAULTS: [&str; 15] = [
    "429", "500", "503", "cut", "stall", "expired", "ignored", "short", "long", "shifted", "empty",
    "resized", "retagged", "reset", "flip",
];

/// A store that counts what is written to it.
struct Counting {
    store: Rc<dyn Store>,
    written: Cell<u64>,
    /// Where pieces were written that were there already.
    twice: RefCell<Vec<u64>>,
}

impl Store for Counting {
    fn list(&self) -> LocalBoxFuture<'_, Result<Vec<Record>>> {
        self.store.list()
    }
    fn get<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<Option<Record>>> {
        self.store.get(key)
    }
    fn begin<'a>(&'a self, files: &'a [(Key, u64)]) -> LocalBoxFuture<'a, Result<Vec<Record>>> {
        self.store.begin(files)
    }
    fn put<'a>(&'a self, key: &'a Key, offset: u64, bytes: &'a [u8]) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let there = self.store.get(key).await?.unwrap().written;
            if there.missing(offset, FILE, u64::MAX).is_none_or(|gap| gap.start > offset) {
                self.twice.borrow_mut().push(offset);
            }
            self.written.update(|written| written + bytes.len() as u64);
            self.store.put(key, offset, bytes).await
        })
    }
    fn read<'a>(&'a self, key: &'a Key, offset: u64, len: usize) -> LocalBoxFuture<'a, Result<Vec<u8>>> {
        self.store.read(key, offset, len)
    }
    fn finish<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<()>> {
        self.store.finish(key)
    }
    fn replace<'a>(&'a self, new: &'a Key, old: &'a Key) -> LocalBoxFuture<'a, Result<bool>> {
        self.store.replace(new, old)
    }
    fn delete<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<u64>> {
        self.store.delete(key)
    }
    fn lock<'a>(&'a self, key: &'a Key) -> LocalBoxFuture<'a, Result<Box<dyn Any>>> {
        self.store.lock(key)
    }
    fn note<'a>(&'a self, name: &'a str) -> LocalBoxFuture<'a, Result<Option<String>>> {
        self.store.note(name)
    }
    fn set_note<'a>(&'a self, name: &'a str, text: &'a str) -> LocalBoxFuture<'a, Result<()>> {
        self.store.set_note(name, text)
    }
}

/// What a schedule came to, for the counts at the end.
#[derive(Default)]
struct Outcome {
    exact: usize,
    errors: usize,
    kills: usize,
    faults: usize,
}

fn run(seed: u64) -> Outcome {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut below = |limit: u32| random.next_u32() % limit;
    let rate = f64::from(5 + below(60)) / 100.0;
    let mut kinds: Vec<&str> =
        (0..1 + below(4)).map(|_| FAULTS[below(FAULTS.len() as u32) as usize]).collect();
    // Nothing would end in time where every second request hangs.
    let rate = if kinds.contains(&"stall") { rate.min(0.1) } else { rate };
    kinds.dedup();
    let mut kills = below(4) as usize;
    let spare = [u64::MAX, 2, 5][below(3) as usize];
    let mut world = json!({
        "repos": { "owner/repo": { "commit": COMMIT, "files": { "m.gguf": { "size": FILE, "seed": seed } } } },
        "seed": seed, "rate": rate, "kinds": kinds,
    });
    if spare < u64::MAX {
        world["signatures"] = json!(spare);
    }
    let name = format!("schedule-{seed}");
    let hub = World::new(&name, world.clone());
    let folder = tempfile::tempdir().unwrap();
    // Each process that is killed leaves its folder to the next; memory outlives none.
    let on_disk = below(2) == 0;
    let memory: Rc<dyn Store> = Rc::new(MemoryStore::default());
    let open_store = || if on_disk { folder_store(folder.path()) } else { memory.clone() };
    let spec: Spec = "owner/repo".parse().unwrap();
    let expected = hub.sha256("owner/repo/m.gguf");
    // Blocks that are wrong are written again. Where a server ignores ranges, one transfer catches up with the others.
    let again = kinds.contains(&"flip") || kinds.contains(&"ignored");

    let mut outcome = Outcome::default();
    let mut written = 0;
    let mut session = |hub: &World, until: Option<u64>| -> Result<bool> {
        let counting = Counting { store: open_store(), written: Cell::new(0), twice: RefCell::default() };
        let store = Rc::new(counting);
        let models = Models::new(client(hub, None), store.clone()).with_sizes(SIZES);
        let result = block_on(async {
            let model = models.open(&spec, false, quiet()).await?;
            if let Some(until) = until {
                // Read that far, then drop everything as it is.
                model.read(until, 1).await?;
                return Ok(false);
            }
            model.complete().await?;
            assert_eq!(digest(&model)?, expected, "seed {seed}");
            Ok(true)
        });
        written += store.written.get();
        assert!(again || store.twice.borrow().is_empty(), "seed {seed}: {:?}", store.twice);
        result
    };
    loop {
        let until = (kills > 0).then(|| u64::from(below(FILE as u32)));
        kills = kills.saturating_sub(1);
        match session(&hub, until) {
            Ok(true) => outcome.exact += 1,
            Ok(false) => {
                outcome.kills += 1;
                continue;
            }
            Err(error) => {
                let known = [Code::Network, Code::RateLimited, Code::CorruptModel];
                assert!(known.contains(&error.code), "seed {seed}: {error}");
                assert!(!error.message.contains("Signature"), "seed {seed}: {error}");
                outcome.errors += 1;
            }
        }
        break;
    }
    outcome.faults = hub.log().iter().filter(|entry| !entry["fault"].is_null()).count();
    for record in block_on(open_store().list()).unwrap() {
        assert!(record.written.total() <= record.len && record.len == FILE, "seed {seed}");
        assert_eq!(record.whole, outcome.exact == 1, "seed {seed}");
    }
    // The weather clears.
    drop(hub);
    world["rate"] = json!(0);
    let hub = World::new(&name, world);
    assert!(session(&hub, None).unwrap_or_else(|error| panic!("seed {seed}: {error}")));
    if !again {
        assert_eq!(written, FILE, "seed {seed}: nothing is written twice");
    }
    outcome
}

#[test]
fn two_hundred_schedules() {
    const THREADS: u64 = 8;
    let workers = (0..THREADS).map(|worker| {
        std::thread::spawn(move || (worker..240).step_by(THREADS as usize).map(run).collect::<Vec<_>>())
    });
    let workers: Vec<_> = workers.collect();
    let outcomes: Vec<Outcome> = workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect();
    let sum = |of: fn(&Outcome) -> usize| outcomes.iter().map(of).sum::<usize>();
    let (exact, errors) = (sum(|o| o.exact), sum(|o| o.errors));
    let (kills, faults) = (sum(|o| o.kills), sum(|o| o.faults));
    println!("{exact} exact, {errors} errors, {kills} kills, {faults} faults");
    assert_eq!(exact + errors, 240);
    // The schedules are neither too kind nor too cruel to say anything.
    assert!(exact > 120 && kills > 120 && faults > 1000, "{exact} {errors} {kills} {faults}");
}
