//! From a name to the bytes in the store.

use super::World;
use async_lock::Semaphore;
use candlewick::engine::Progress;
use candlewick::http::{Backoff, Timeouts, Token};
use candlewick::hub::{Client, Models, Report, Sizes, Spec};
use candlewick::store::{FolderStore, MemoryStore, Source, Store};
use candlewick::{Code, Error, Result};
use futures_util::future::{join, select};
use pollster::block_on;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

pub(super) const COMMIT: &str = "0123456789012345678901234567890123456789";
pub(super) const SIZES: Sizes = Sizes { range: 160 << 10, block: 32 << 10, parallel: 3 };
pub(super) const FILE: u64 = 1_000_003;

/// As patient as a test needs: what stalls does so for ever.
pub(super) fn client(world: &World, token: Option<&str>) -> Client {
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(4), 12);
    let timeouts = Timeouts { head: Duration::from_millis(400), stall: Duration::from_millis(400) };
    Client::new(Some(&world.url), token.and_then(|token| Token::new(token).ok()))
        .unwrap()
        .patience(backoff, timeouts)
}

fn models(world: &World, store: Rc<dyn Store>) -> Models {
    Models::new(client(world, None), store).with_sizes(SIZES)
}

pub(super) fn quiet() -> Report {
    Rc::new(|_: Progress| Ok(()))
}

fn repository(files: Value) -> Value {
    json!({ "repos": { "owner/repo": { "commit": COMMIT, "files": files } } })
}

pub(super) fn folder_store(folder: &Path) -> Rc<dyn Store> {
    Rc::new(FolderStore::new(folder.join("hub"), folder.join("own")))
}

/// Reads a whole source in pieces of an odd size and hashes it.
pub(super) fn digest(source: &dyn Source) -> Result<String> {
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < source.len() {
        let len = (source.len() - at).min(77_777);
        hash.update(block_on(source.read(at, len as usize))?);
        at += len;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(super) fn pull(models: &Models, name: &str) -> Result<String, Error> {
    block_on(models.pull(&name.parse::<Spec>().unwrap(), false, quiet())).and_then(|model| digest(&model))
}

#[test]
fn a_name_becomes_a_file() {
    let files =
        json!({ "m-Q8_0.gguf": { "size": 50, "seed": 1 }, "m-Q4_K_M.gguf": { "size": FILE, "seed": 2 } });
    let world = World::new("name", repository(files));
    let folder = tempfile::tempdir().unwrap();
    for store in [folder_store(folder.path()), Rc::new(MemoryStore::default())] {
        let models = models(&world, store.clone());
        // Read while it comes.
        let spec: Spec = "owner/repo".parse().unwrap();
        let model = block_on(models.open(&spec, false, quiet())).unwrap();
        assert_eq!(digest(&model).unwrap(), world.sha256("owner/repo/m-Q4_K_M.gguf"));
        assert!(!block_on(model.complete()).unwrap());
        assert_eq!(digest(&model).unwrap(), world.sha256("owner/repo/m-Q4_K_M.gguf"));
        let records = block_on(store.list()).unwrap();
        assert_eq!((records.len(), records[0].whole, records[0].len), (1, true, FILE));
        // Nobody is asked again.
        let asked = world.log().len();
        let again = block_on(models.open(&spec, false, quiet())).unwrap();
        assert_eq!(digest(&again).unwrap(), world.sha256("owner/repo/m-Q4_K_M.gguf"));
        assert_eq!(world.log().len(), asked);
        assert_eq!(pull(&models, "owner/repo:q8_0").unwrap(), world.sha256("owner/repo/m-Q8_0.gguf"));
    }
    // As Hugging Face's own tools lay it out.
    let repo = folder.path().join("hub/models--owner--repo");
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let link = repo.join("snapshots").join(COMMIT).join("m-Q4_K_M.gguf");
    let target = std::fs::read_link(link).unwrap();
    assert_eq!(target, Path::new("../../blobs").join(world.sha256("owner/repo/m-Q4_K_M.gguf")));
    assert_eq!(std::fs::read_dir(repo.join("blobs")).unwrap().count(), 2);
}

#[test]
fn every_fault_on_its_own() {
    let faults = [
        "429", "500", "503", "cut", "stall", "expired", "ignored", "flip", "short", "long", "shifted",
        "empty", "resized", "retagged", "reset", "nonsense",
    ];
    for fault in faults {
        let mut description = repository(json!({ "m.gguf": { "size": FILE, "seed": 3 } }));
        // Once on the way to the list of files, and thrice on the way to the file.
        description["script"] = json!([
            { "match": "api/", "times": if fault.parse::<u32>().is_ok() || fault == "nonsense" { 1 } else { 0 }, "fault": fault },
            { "match": "cdn/", "times": if fault == "nonsense" { 0 } else { 3 }, "fault": fault },
        ]);
        let world = World::new(&format!("fault-{fault}"), description);
        let store: Rc<dyn Store> = Rc::new(MemoryStore::default());
        let models = models(&world, store);
        let name = "owner/repo/m.gguf";
        assert_eq!(pull(&models, name).unwrap(), world.sha256(name), "{fault}");
    }
}

#[test]
fn a_file_that_is_not_what_it_should_be() {
    let mut description = repository(json!({ "m.gguf": { "size": FILE, "seed": 4 } }));
    description["script"] = json!([{ "match": "cdn/", "times": 1000, "fault": "flip" }]);
    let world = World::new("corrupt", description);
    let folder = tempfile::tempdir().unwrap();
    let store = folder_store(folder.path());
    let error = pull(&models(&world, store.clone()), "owner/repo").unwrap_err();
    assert_eq!(error.code, Code::CorruptModel, "{error}");
    assert_eq!(block_on(store.list()).unwrap(), []);
}

#[test]
fn who_waits_for_another_hears_how_far_that_is_and_takes_over() {
    let calm = repository(json!({ "m.gguf": { "size": FILE, "seed": 5 } }));
    let mut silent = calm.clone();
    silent["allowance"] = json!(400_000);
    let world = World::new("waiting", silent);
    let folder = tempfile::tempdir().unwrap();
    let spec: Spec = "owner/repo/m.gguf".parse().unwrap();
    let (begun, heard) = (Rc::new(Semaphore::new(0)), Rc::new(Semaphore::new(0)));

    let minute = Duration::from_secs(60);
    let patient = client(&world, None)
        .patience(Backoff::new(minute, minute, 2), Timeouts { head: minute, stall: minute });
    let first = Models::new(patient, folder_store(folder.path())).with_sizes(SIZES);
    let second = models(&world, folder_store(folder.path()));
    let has_begun = begun.clone();
    let first_report: Report = Rc::new(move |progress: Progress| {
        if progress.loaded >= 300_000 {
            has_begun.add_permits(1);
        }
        Ok(())
    });
    let world = Rc::new(world);
    let (has_heard, hub, told) = (heard.clone(), world.clone(), Cell::new(false));
    let second_report: Report = Rc::new(move |progress: Progress| {
        assert_eq!(progress.total, FILE);
        if progress.loaded >= 100_000 && !told.replace(true) {
            hub.control("PUT", &calm.to_string());
            has_heard.add_permits(1);
        }
        Ok(())
    });
    let model = block_on(async {
        let fetch = async {
            // It ends here, as a process would.
            select(pin!(first.pull(&spec, false, first_report)), pin!(heard.acquire())).await;
        };
        let wait = async {
            begun.acquire().await.forget();
            second.pull(&spec, false, second_report).await
        };
        join(fetch, wait).await.1.unwrap()
    });
    assert_eq!(digest(&model).unwrap(), world.sha256("owner/repo/m.gguf"));
}
