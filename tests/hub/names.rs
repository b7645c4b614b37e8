//! Repositories: access, revisions, parts, other tools' files, no network.

use super::World;
use super::download::{COMMIT, SIZES, client, digest, folder_store, pull, quiet};
use crate::edit::Edit;
use crate::fixtures::{path, stories};
use candlewick::engine::{Device, Options};
use candlewick::format::gguf::Header;
use candlewick::hub::{self, Models, Spec, Verification};
use candlewick::load::{inspect, load_model};
use candlewick::store::{Key, MemoryStore, Source, Store};
use candlewick::{Code, Error};
use pollster::block_on;
use serde_json::{Value, json};
use std::path::Path;
use std::rc::Rc;

const TOKEN: &str = "hf_averysecrettoken";

fn in_memory(world: &World, token: Option<&str>) -> Models {
    Models::new(client(world, token), Rc::new(MemoryStore::default()))
}

fn fails(models: &Models, name: &str, code: Code, part: &str) {
    let error = pull(models, name).unwrap_err();
    assert!(error.code == code && error.message.contains(part), "{name}: {error}");
    assert!(!error.message.contains(TOKEN));
}

#[test]
fn private_and_gated() {
    let files = json!({ "m.gguf": { "size": 100_000, "seed": 1 } });
    let private = json!({ "commit": COMMIT, "token": TOKEN, "files": files });
    let gated = json!({ "commit": COMMIT, "token": TOKEN, "gated": true, "files": files });
    let world = World::new("private", json!({ "repos": { "a/private": private, "a/gated": gated } }));
    let anonymous = in_memory(&world, None);
    fails(&anonymous, "a/private", Code::ModelNotFound, "HF_TOKEN");
    fails(&anonymous, "a/gated", Code::Unauthorized, "a/gated: access is restricted");
    fails(&anonymous, "a/gated/m.gguf", Code::Unauthorized, "a/gated: access is restricted");
    fails(&in_memory(&world, Some("hf_wrong")), "a/gated", Code::Unauthorized, "HF_TOKEN");
    fails(&anonymous, "a/nothing", Code::ModelNotFound, "a/nothing");

    let folder = tempfile::tempdir().unwrap();
    let models = Models::new(client(&world, Some(TOKEN)), folder_store(folder.path()));
    for name in ["a/private", "a/gated"] {
        assert_eq!(pull(&models, name).unwrap(), world.sha256(&format!("{name}/m.gguf")));
    }
    fails(&models, "a/private:Q2_K", Code::ModelNotFound, "m.gguf");
    fails(&models, "a/private/other.gguf", Code::ModelNotFound, "other.gguf");
    fails(&models, "a/private@nowhere", Code::ModelNotFound, "a/private");
    // The token is in headers to the Hub and nowhere else: no address, no other server, no file.
    let log = world.log();
    assert!(log.iter().any(|entry| entry["authorization"] == format!("Bearer {TOKEN}")));
    for entry in log {
        assert!(entry["at"] == "hub" || entry["authorization"].is_null(), "{entry}");
        assert!(!entry["line"].to_string().contains(TOKEN) && !entry["query"].to_string().contains(TOKEN));
    }
    let mut searched = 0;
    search(folder.path(), &mut |name, bytes| {
        searched += 1;
        let holds = |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(
            !name.contains(TOKEN) && !holds(TOKEN) && !holds("Signature") && !holds("127.0.0.1"),
            "{name}"
        );
    });
    assert!(searched > 6, "{searched}");
    assert!(!format!("{:?}", client(&world, Some(TOKEN))).contains(TOKEN));
}

#[test]
fn names_as_a_browser_has_them() {
    let files = json!({
        "m-Q4_K_M.gguf": { "size": 1_000, "seed": 1 },
        "sub/Größe @ 100%.gguf": { "size": 2_000, "seed": 2 },
    });
    let repo = json!({ "commit": COMMIT, "revisions": { "refs/pr/1": COMMIT }, "files": files });
    let world = World::new("browser", json!({ "repos": { "a/b": repo } }));
    let models = in_memory(&world, None);
    let usual = world.sha256("a/b/m-Q4_K_M.gguf");
    let other = world.sha256("a/b/sub/Größe @ 100%.gguf");
    let host = world.url.strip_prefix("http://").unwrap();
    let cases = [
        (" huggingface.co/a/b/ ".to_owned(), &usual),
        ("HF.co/a/b:Q4_K_M".to_owned(), &usual),
        ("https://huggingface.co/a/b/tree/main?library=x#y".to_owned(), &usual),
        (format!("{}/a/b", world.url), &usual),
        (format!("{host}/a/b/tree/refs%2fpr%2F1/"), &usual),
        (format!("{}/a/b/blob/main/m-Q4_K_M.gguf", world.url), &usual),
        (format!("https://huggingface.co/a/b/tree/{COMMIT}"), &usual),
        ("a/b/sub/Größe @ 100%.gguf".to_owned(), &other),
        ("https://huggingface.co/a/b/tree/main/sub".to_owned(), &other),
        (format!("{host}/a/b/resolve/main/sub/Gr%C3%B6%C3%9Fe%20@%20100%25.gguf?download=true"), &other),
        (format!("{host}/a/b/raw/refs%2Fpr%2F1/sub%2fGr%C3%B6%C3%9Fe%20%40%20100%25.gguf"), &other),
    ];
    for (text, expected) in cases {
        let spec = models.name(&text).unwrap();
        let model =
            block_on(models.pull(&spec, false, quiet())).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(digest(&model).unwrap(), *expected, "{text}");
        assert!(!block_on(models.cached(&spec)).unwrap().is_empty(), "{text}");
    }
}

#[test]
fn adapters_are_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = folder.path().join("adapter.gguf");
    let edit = Edit::new(&std::fs::read(stories()).unwrap()).str("general.type", "adapter");
    std::fs::write(&adapter, edit.bytes()).unwrap();
    let files = json!({
        "lora-adapter-Q8_0.gguf": { "size": 1_000, "seed": 1 },
        "m-LoRA-merged-F32.gguf": { "file": stories() },
        "other-F16.gguf": { "file": adapter },
    });
    let repo = json!({ "commit": COMMIT, "files": files });
    let world = World::new("adapters", json!({ "repos": { "a/b": repo } }));
    let models = in_memory(&world, None);
    fails(&models, "a/b/lora-adapter-Q8_0.gguf", Code::UnsupportedModel, "is an adapter, not a model");
    fails(&models, "a/b:Q8_0", Code::UnsupportedModel, "is an adapter, not a model");
    // A model that one was merged into is one.
    let merged = "a/b/m-LoRA-merged-F32.gguf";
    assert_eq!(pull(&models, merged).unwrap(), world.sha256(merged));
    // A name tells nothing here, the file does.
    let error = block_on(inspect(&models, &"a/b".parse().unwrap(), &Options::default())).unwrap_err();
    assert!(error.code == Code::UnsupportedModel && error.message.contains("is an adapter, not a model"));
}

#[test]
fn messages_name_the_repository() {
    let files = json!({ "m.gguf": { "size": 1_000, "seed": 1 } });
    let repo = json!({ "commit": COMMIT, "files": files });
    let none = json!({ "commit": COMMIT, "files": { "README.md": { "size": 10, "seed": 1 } } });
    let foreign = json!({ "commit": COMMIT, "files": { "m-IQ4_KS.gguf": { "size": 10, "seed": 1 } } });
    let repos = json!({ "a/b": repo, "a/none": none, "a/foreign": foreign });
    for (fault, place) in [("429", "api/"), ("429", "/resolve/"), ("503", "api/"), ("429", "cdn/")] {
        let script = json!([{ "match": place, "times": 1000, "fault": fault }]);
        let world = World::new("messages", json!({ "repos": repos, "script": script }));
        let code = if fault == "429" { Code::RateLimited } else { Code::Network };
        fails(&in_memory(&world, None), "a/b", code, "a/b");
    }
    let world = World::new("messages", json!({ "repos": repos }));
    let models = in_memory(&world, None);
    fails(&models, "a/none", Code::ModelNotFound, "a/none has no .gguf file");
    fails(&models, "a/foreign", Code::UnsupportedModel, "a/foreign has no file of a type");
    fails(&models, "a/foreign", Code::UnsupportedModel, "m-IQ4_KS.gguf");
}

#[test]
fn lists_of_files_that_lie() {
    let files = json!({ "m.gguf": { "size": 1_000, "seed": 1, "listed": 1_u64 << 60 } });
    let parts = json!({ "m-00001-of-99999.gguf": { "size": 1_000, "seed": 1 } });
    let honest = json!({ "m.gguf": { "size": 1_000, "seed": 1 } });
    let repos = json!({
        "a/large": { "commit": COMMIT, "files": files },
        "a/parts": { "commit": COMMIT, "files": parts },
        "a/again": { "commit": COMMIT, "files": honest, "endless": "again" },
        "a/on": { "commit": COMMIT, "files": honest, "endless": "on" },
    });
    let world = World::new("lists", json!({ "repos": repos }));
    let models = in_memory(&world, None);
    fails(&models, "a/large", Code::CorruptModel, "a/large");
    fails(&models, "a/parts", Code::ModelNotFound, "a/parts: m-00002-of-99999.gguf is missing");
    let before = world.log().len();
    fails(&models, "a/again", Code::Network, "a/again");
    assert!(world.log().len() - before <= 4);
    fails(&models, "a/on", Code::Network, "a/on");
}

/// The Hub sends on whoever asks for a repository by its old name.
#[test]
fn a_renamed_repository_is_found_with_the_token() {
    let file = json!({ "size": 100_000, "seed": 1 });
    let private = json!({ "commit": COMMIT, "token": TOKEN, "files": { "m.gguf": file } });
    let renamed = json!({ "a/old": "a/new" });
    let world = World::new("renamed", json!({ "repos": { "a/new": private }, "renamed": renamed }));
    fails(&in_memory(&world, None), "a/old", Code::ModelNotFound, "HF_TOKEN");
    let models = in_memory(&world, Some(TOKEN));
    assert_eq!(pull(&models, "a/old").unwrap(), world.sha256("a/new/m.gguf"));
    let log = world.log();
    let sent = |at: &str, path: &str| -> Vec<bool> {
        let those = log.iter().filter(|entry| entry["at"] == at && entry["line"].to_string().contains(path));
        those.map(|entry| entry["authorization"] == format!("Bearer {TOKEN}")).collect()
    };
    assert!(sent("hub", "a/new/resolve/").contains(&true));
    let at_cdn = sent("cdn", "m.gguf");
    assert!(!at_cdn.is_empty() && !at_cdn.contains(&true), "{at_cdn:?}");
}

fn search(folder: &Path, seen: &mut dyn FnMut(&str, &[u8])) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => search(&path, seen),
            false => seen(&path.to_string_lossy(), &std::fs::read(&path).unwrap_or_default()),
        }
    }
}

#[test]
fn commits_are_kept_until_asked() {
    let described = |commit: &str, seed: u32| {
        let files =
            json!({ "m.gguf": { "size": 70_000, "seed": seed }, "same.gguf": { "size": 60_000, "seed": 0 } });
        json!({ "repos": { "a/b": { "commit": commit, "files": files } } })
    };
    let world_at = |commit: &str, seed: u32| World::new("commits", described(commit, seed));
    let folder = tempfile::tempdir().unwrap();
    let store = folder_store(folder.path());
    let old = world_at(COMMIT, 1);
    let open = |world: &World, name: &str| {
        let models = Models::new(client(world, None), store.clone());
        let model = block_on(models.open(&name.parse().unwrap(), false, quiet()))?;
        block_on(model.complete())?;
        digest(&model)
    };
    let first = open(&old, "a/b/m.gguf").unwrap();
    open(&old, "a/b/same.gguf").unwrap();
    let newer = "f".repeat(40);
    // A look at the newer one, or a download that comes to nothing, changes nothing.
    let mut wrong = described(&newer, 2);
    wrong["script"] = json!([{ "match": "cdn/", "times": 1000, "fault": "flip" }]);
    let wrong = World::new("commits", wrong);
    let elsewhere = Models::new(client(&wrong, None), folder_store(folder.path()));
    block_on(elsewhere.peek(&"a/b/m.gguf".parse().unwrap())).unwrap();
    assert_eq!(pull(&elsewhere, "a/b/m.gguf").unwrap_err().code, Code::CorruptModel);
    let offline = Models::new(client(&wrong, None).offline(true), folder_store(folder.path()));
    let model = block_on(offline.open(&"a/b/m.gguf".parse().unwrap(), false, quiet())).unwrap();
    assert_eq!(digest(&model).unwrap(), first);
    let revision = std::fs::read_to_string(folder.path().join("hub/models--a--b/refs/main")).unwrap();
    assert_eq!(revision, COMMIT);
    drop((wrong, old));
    let new = world_at(&newer, 2);
    assert_eq!(open(&new, "a/b/m.gguf").unwrap(), first);
    let models = Models::new(client(&new, None), store.clone());
    let second = pull(&models, "a/b/m.gguf").unwrap();
    assert_eq!(second, new.sha256("a/b/m.gguf"));
    assert_ne!(second, first);
    assert_eq!(open(&new, "a/b/m.gguf").unwrap(), second);
    // The same content is not fetched again.
    let asked = |world: &World| world.log().iter().filter(|entry| entry["at"] == "cdn").count();
    let before = asked(&new);
    assert_eq!(pull(&models, "a/b/same.gguf").unwrap(), new.sha256("a/b/same.gguf"));
    assert_eq!(asked(&new), before);
    let listed = block_on(models.list()).unwrap();
    assert_eq!((listed.len(), listed.iter().all(|model| model.complete)), (4, true));
    // What one revision loses another may still have.
    let freed = |name: &str| block_on(models.remove(&name.parse::<Spec>().unwrap()));
    assert_eq!(freed(&format!("a/b/same.gguf@{COMMIT}")).unwrap(), 0);
    assert_eq!(freed("a/b/same.gguf").unwrap(), 60_000);
    assert_eq!(freed("a/b").unwrap(), 140_000);
    assert_eq!(freed("a/b").unwrap_err().code, Code::ModelNotFound);
    assert!(!folder.path().join("hub/models--a--b").exists());
}

#[test]
fn a_folder_that_was_hurt() {
    let world = World::new(
        "hurt",
        json!({ "repos": { "a/b": { "commit": COMMIT, "files": { "m.gguf": { "size": 500_000, "seed": 1 } } } } }),
    );
    let expected = world.sha256("a/b/m.gguf");
    let folder = tempfile::tempdir().unwrap();
    let models = || Models::new(client(&world, None), folder_store(folder.path()));
    // The power went while a line was written: the next ones do not go on with it.
    let (repo, path) = ("a/b".to_owned(), "m.gguf".to_owned());
    let key = Key { repo, commit: COMMIT.to_owned(), path, etag: expected.clone() };
    let files = [(key.clone(), 500_000)];
    let stored = || {
        let store = folder_store(folder.path());
        let written = block_on(store.begin(&files)).unwrap()[0].written.total();
        (store, written)
    };
    let (store, _) = stored();
    block_on(store.put(&key, 0, &[0; 1000])).unwrap();
    let journal = folder.path().join(format!("hub/models--a--b/blobs/{expected}.candlewick.journal"));
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, text + "4096").unwrap();
    let (store, written) = stored();
    assert_eq!(written, 1000);
    block_on(store.put(&key, 2000, &[0; 1000])).unwrap();
    assert_eq!(stored().1, 2000);
    block_on(store.delete(&key)).unwrap();
    assert_eq!(pull(&models(), "a/b").unwrap(), expected);
    // The link was copied as a file, and not to its end.
    let snapshot = folder.path().join(format!("hub/models--a--b/snapshots/{COMMIT}/m.gguf"));
    std::fs::remove_file(&snapshot).unwrap();
    std::fs::write(&snapshot, vec![0; 1000]).unwrap();
    assert_eq!(pull(&models(), "a/b").unwrap(), expected);
}

#[test]
fn the_same_file_twice_is_no_model_in_parts() {
    let part = |index: u32| format!("m-{index:05}-of-00002.gguf");
    let file = json!({ "size": 100_000, "seed": 1 });
    let files = json!({ part(1): file, part(2): file });
    let world = World::new("twice", json!({ "repos": { "a/b": { "commit": COMMIT, "files": files } } }));
    fails(&in_memory(&world, None), "a/b", Code::CorruptModel, "the same file");
}

#[test]
fn many_pages_and_odd_paths() {
    let mut files: serde_json::Map<String, Value> =
        (0..25).map(|index| (format!("x{index}.bin"), json!({ "size": 1, "seed": 0 }))).collect();
    files.insert("sub folder/ünï Q4_K_M.gguf".into(), json!({ "size": 5_000, "seed": 1 }));
    files.insert("../../../etc/passwd.gguf".into(), json!({ "size": 5, "seed": 1 }));
    let repo = json!({ "commit": COMMIT, "pageSize": 10, "files": files });
    let world = World::new("pages", json!({ "repos": { "a/b": repo } }));
    let models = in_memory(&world, None);
    let name = "a/b/sub folder/ünï Q4_K_M.gguf";
    assert_eq!(pull(&models, name).unwrap(), world.sha256(name));
    fails(&models, "a/b:etc", Code::ModelNotFound, "sub folder");
}

#[test]
fn parts_are_one_model() {
    let name = |index: u32| format!("llama-split-{index:05}-of-00002.gguf");
    let file = |index: u32| json!({ "file": path("models").join(name(index)) });
    let files = json!({ name(1): file(1), name(2): file(2) });
    let world = World::new("split", json!({ "repos": { "a/b": { "commit": COMMIT, "files": files } } }));
    let models = in_memory(&world, None);
    let options = Options { device: Device::Cpu, ..Options::default() };
    let peeked = block_on(models.peek(&"a/b".parse().unwrap())).unwrap();
    let header = block_on(Header::read(&peeked)).unwrap();
    let model = Rc::new(block_on(models.open(&"a/b".parse().unwrap(), false, quiet())).unwrap());
    let engine = block_on(load_model(model.clone(), &options, &mut |_| Ok(()))).unwrap();
    assert_eq!(engine.info().parameters, header.tensors.iter().map(|tensor| tensor.elements()).sum::<u64>());
    let listed = block_on(models.list()).unwrap();
    assert_eq!((listed.len(), listed[0].keys.len(), listed[0].complete), (1, 2, true));
    assert_eq!(listed[0].model, format!("a/b/{}", name(1)));
    // And from a folder, by the name of any part.
    let local = candlewick::store::open_file(&path("models").join(name(2))).unwrap();
    assert_eq!(local.len(), model.len());
    assert_eq!(block_on(Header::read(local.as_ref())).unwrap().tensors.len(), header.tensors.len());
    assert_eq!(block_on(models.remove(&"a/b".parse().unwrap())).unwrap(), model.len());
}

/// A model is right in the end even if it was read while it was wrong.
#[test]
fn an_engine_gets_the_right_bytes() {
    let file = json!({ "file": crate::fixtures::stories() });
    let mut world = json!({ "repos": { "a/b": { "commit": COMMIT, "files": { "m.gguf": file } } } });
    let answer = |world: &World| -> Result<Vec<f32>, Error> {
        let models = in_memory(world, None);
        block_on(async {
            let model = Rc::new(models.open(&"a/b".parse().unwrap(), false, quiet()).await?);
            let options = Options { device: Device::Cpu, ..Options::default() };
            let engine = load_model(model, &options, &mut |_| Ok(())).await?;
            let mut row = Vec::new();
            engine.logits(&[1], &mut |_, logits| row = logits.to_vec()).await?;
            Ok(row)
        })
    };
    let right = answer(&World::new("engine", world.clone())).unwrap();
    for seed in 0..8 {
        world["seed"] = json!(seed);
        world["script"] = json!([{ "match": "cdn/", "times": 1, "fault": "flip" }]);
        assert_eq!(answer(&World::new("engine", world.clone())).unwrap(), right, "{seed}");
    }
}

#[test]
fn what_other_tools_left() {
    let world = World::new(
        "python",
        json!({ "repos": { "a/b": { "commit": COMMIT, "files": { "m.gguf": { "size": 300_000, "seed": 1 } } } } }),
    );
    let sha256 = world.sha256("a/b/m.gguf");
    let whole = tempfile::tempdir().unwrap();
    pull(&Models::new(client(&world, None), folder_store(whole.path())), "a/b").unwrap();
    let bytes = std::fs::read(whole.path().join(format!("hub/models--a--b/blobs/{sha256}"))).unwrap();

    // What Python has begun is taken over: only the rest is asked for.
    let folder = tempfile::tempdir().unwrap();
    let blobs = folder.path().join("hub/models--a--b/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(format!("{sha256}.incomplete")), &bytes[..200_000]).unwrap();
    let before = world.log().len();
    pull(&Models::new(client(&world, None), folder_store(folder.path())), "a/b").unwrap();
    let log = world.log();
    let ranges: Vec<_> =
        log[before..].iter().filter(|entry| entry["at"] == "cdn").map(|entry| &entry["line"]).collect();
    assert_eq!(ranges, [&json!("GET cdn/m.gguf bytes=200000-299999")]);

    // What it has finished is used as it is, with and without the Hub.
    let folder = tempfile::tempdir().unwrap();
    let repo = folder.path().join("hub/models--a--b");
    let snapshot = repo.join("snapshots").join(COMMIT);
    for folder in [&snapshot, &repo.join("blobs"), &repo.join("refs")] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(repo.join("refs/main"), COMMIT).unwrap();
    std::fs::write(repo.join("blobs").join(&sha256), &bytes).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(format!("../../blobs/{sha256}"), snapshot.join("m.gguf")).unwrap();
    #[cfg(not(unix))] // As Python's tools do where they may make no links.
    std::fs::copy(repo.join("blobs").join(&sha256), snapshot.join("m.gguf")).unwrap();
    let offline = Models::new(client(&world, None).offline(true), folder_store(folder.path()));
    let open = |name: &str| block_on(offline.open(&name.parse().unwrap(), false, quiet()));
    let before = world.log().len();
    for name in ["a/b", "a/b/m.gguf", &format!("a/b@{COMMIT}")] {
        assert_eq!(digest(&open(name).unwrap()).unwrap(), sha256, "{name}");
    }
    assert_eq!(open("a/c").err().unwrap().code, Code::Network);
    assert!(open("a/c").err().unwrap().message.contains("HF_HUB_OFFLINE"));
    assert_eq!(world.log().len(), before);
    let listed = block_on(offline.list()).unwrap();
    assert_eq!((listed[0].model.as_str(), listed[0].complete), ("a/b/m.gguf", true));
    assert_eq!(block_on(offline.verify(&listed[0], &mut |_| Ok(()))).unwrap(), Verification::Right);
    std::fs::write(repo.join("blobs").join(&sha256), vec![0; 300_000]).unwrap();
    assert_eq!(block_on(offline.verify(&listed[0], &mut |_| Ok(()))).unwrap(), Verification::Wrong);
    // Fetched anew on request.
    let online = Models::new(client(&world, None), folder_store(folder.path()));
    block_on(online.pull(&"a/b".parse().unwrap(), true, quiet())).unwrap();
    assert_eq!(block_on(online.verify(&listed[0], &mut |_| Ok(()))).unwrap(), Verification::Right);
}

#[test]
fn files_from_any_server() {
    let file = json!({ "size": 200_000, "seed": 9 });
    let world =
        World::new("any", json!({ "repos": { "a/b": { "commit": COMMIT, "files": { "m.gguf": file } } } }));
    let folder = tempfile::tempdir().unwrap();
    let models = Models::new(client(&world, Some(TOKEN)), folder_store(folder.path()));
    let url = format!("{}/a/b/resolve/main/m.gguf?key=private", world.url.replace("127.0.0.1", "localhost"));
    assert_eq!(pull(&models, &url).unwrap(), world.sha256("a/b/m.gguf"));
    // The token is the Hub's, not this server's.
    assert!(world.log().iter().all(|entry| entry["authorization"].is_null()));
    // Its version is asked for, and no more.
    let before = world.log().len();
    let model = block_on(models.open(&url.parse().unwrap(), false, quiet())).unwrap();
    assert_eq!(digest(&model).unwrap(), world.sha256("a/b/m.gguf"));
    assert!(world.log()[before..].iter().all(|entry| entry["line"].as_str().unwrap().ends_with("bytes=0-0")));
    // What follows the `?` may be a signature, which changes; where nobody can be asked, what is there counts.
    let url = url.replace("private", "another");
    let offline = Models::new(client(&world, None).offline(true), folder_store(folder.path()));
    let model = block_on(offline.open(&url.parse().unwrap(), false, quiet())).unwrap();
    assert_eq!(digest(&model).unwrap(), world.sha256("a/b/m.gguf"));
    let other = format!("{url}&id=7").parse().unwrap();
    assert_eq!(block_on(offline.open(&other, false, quiet())).err().unwrap().code, Code::Network);
    assert_eq!(block_on(models.list()).unwrap()[0].model, "m.gguf");
    // Another version takes its place.
    drop(world);
    let file = json!({ "size": 200_000, "seed": 10 });
    let world =
        World::new("any", json!({ "repos": { "a/b": { "commit": COMMIT, "files": { "m.gguf": file } } } }));
    let model = block_on(models.open(&url.parse().unwrap(), false, quiet())).unwrap();
    block_on(model.complete()).unwrap();
    assert_eq!(digest(&model).unwrap(), world.sha256("a/b/m.gguf"));
    assert_eq!(block_on(models.list()).unwrap().len(), 1);
    assert_eq!(block_on(models.remove(&url.parse().unwrap())).unwrap(), 200_000);
}

#[test]
fn force_keeps_what_is_there_until_it_has_more() {
    let repo = json!({ "commit": COMMIT, "files": { "m.gguf": { "size": 500_000, "seed": 3 } } });
    let flipped =
        json!({ "repos": { "a/b": repo }, "script": [{ "match": "cdn/", "times": 1000, "fault": "flip" }] });
    let folder = tempfile::tempdir().unwrap();
    for store in [folder_store(folder.path()), Rc::new(MemoryStore::default())] {
        let calm = World::new("force", json!({ "repos": { "a/b": repo } }));
        let spec = "a/b".parse().unwrap();
        let models = Models::new(client(&calm, None), store.clone()).with_sizes(SIZES);
        let offline = Models::new(client(&calm, None).offline(true), store.clone());
        let expected = pull(&models, "a/b").unwrap();
        let has = |count: usize| {
            let listed = block_on(models.list()).unwrap();
            assert!(listed.len() == 1 && listed[0].complete && listed[0].stored == 500_000, "{listed:?}");
            assert_eq!(block_on(store.list()).unwrap().len(), count);
            assert_eq!(digest(&block_on(offline.open(&spec, false, quiet())).unwrap()).unwrap(), expected);
        };
        // What comes is wrong.
        let wrong = World::new("force", flipped.clone());
        let error = block_on(models.pull(&spec, true, quiet())).err().unwrap();
        assert_eq!(error.code, Code::CorruptModel, "{error}");
        has(1);
        // It does not come whole.
        drop((wrong, calm));
        let calm = World::new("force", json!({ "repos": { "a/b": repo } }));
        let model = block_on(models.open(&spec, true, quiet())).unwrap();
        block_on(model.read(200_000, 1)).unwrap();
        drop(model);
        has(2);
        // It goes on where it was.
        let there: u64 = block_on(store.list()).unwrap().iter().map(|record| record.written.total()).sum();
        let before = asked(&calm);
        block_on(models.pull(&spec, true, quiet())).unwrap();
        assert_eq!(asked(&calm) - before, 1_000_000 - there);
        has(1);
        assert_eq!(block_on(models.remove(&spec)).unwrap(), 500_000);
        assert_eq!(block_on(store.list()).unwrap(), []);
    }
}

/// Bytes that were asked of the CDN.
fn asked(world: &World) -> u64 {
    let of = |entry: &Value| -> Option<u64> {
        let (_, range) = entry["line"].as_str()?.split_once("bytes=")?;
        let (first, last) = range.split_once('-')?;
        Some(last.parse::<u64>().ok()? + 1 - first.parse::<u64>().ok()?)
    };
    world.log().iter().filter(|entry| entry["at"] == "cdn").filter_map(of).sum()
}

#[test]
fn a_model_under_way_is_shared() {
    let file = json!({ "size": 500_000, "seed": 3 });
    let world =
        World::new("twice", json!({ "repos": { "a/b": { "commit": COMMIT, "files": { "m.gguf": file } } } }));
    let models = in_memory(&world, None).with_sizes(SIZES);
    let spec = "a/b".parse().unwrap();
    let first = block_on(models.open(&spec, false, quiet())).unwrap();
    block_on(first.read(100_000, 1)).unwrap();
    let heard = Rc::new(std::cell::Cell::new(0));
    let last = heard.clone();
    let report: hub::Report = Rc::new(move |progress| {
        last.set(progress.loaded);
        Ok(())
    });
    let second = block_on(models.open(&spec, false, report)).unwrap();
    block_on(second.complete()).unwrap();
    assert_eq!((heard.get(), asked(&world)), (500_000, 500_000));
    assert!(!block_on(first.complete()).unwrap());
    assert_eq!(digest(&first).unwrap(), world.sha256("a/b/m.gguf"));
}

#[test]
fn mirrors_may_differ() {
    let at = |name: &str, seed: u32| {
        let files = json!({ "m.gguf": { "size": 50_000, "seed": seed } });
        let commit = COMMIT.replace('0', &seed.to_string());
        World::new(name, json!({ "repos": { "a/b": { "commit": commit, "files": files } } }))
    };
    let worlds = [at("mirror-1", 1), at("mirror-2", 2)];
    let store: Rc<dyn Store> = Rc::new(MemoryStore::default());
    for world in worlds.iter().chain(&worlds) {
        let models = Models::new(client(world, None), store.clone());
        let model = block_on(models.open(&"a/b".parse().unwrap(), false, quiet())).unwrap();
        assert_eq!(digest(&model).unwrap(), world.sha256("a/b/m.gguf"));
    }
}

#[test]
fn progress_and_giving_up() {
    let file = json!({ "size": 2_000_000, "seed": 9 });
    let world = World::new(
        "progress",
        json!({ "repos": { "a/b": { "commit": COMMIT, "files": { "m.gguf": file } } } }),
    );
    let models = in_memory(&world, None);
    let reports = Rc::new(std::cell::RefCell::new(Vec::new()));
    let heard = reports.clone();
    let report: hub::Report = Rc::new(move |progress| {
        heard.borrow_mut().push((progress.loaded, progress.total));
        Ok(())
    });
    block_on(models.pull(&"a/b".parse().unwrap(), false, report)).unwrap();
    let reports = reports.borrow();
    assert!(reports.is_sorted() && reports.iter().all(|(_, total)| *total == 2_000_000));
    assert_eq!(reports.last(), Some(&(2_000_000, 2_000_000)));

    let models = in_memory(&world, None);
    let report: hub::Report = Rc::new(|_| Err(Error::aborted("enough")));
    let error = block_on(models.pull(&"a/b".parse().unwrap(), false, report)).err().unwrap();
    assert_eq!(error, Error::aborted("enough"));
    assert_eq!(pull(&models, "a/b").unwrap(), world.sha256("a/b/m.gguf"));
}
