//! Servers that are out of reach, or silent.

use super::World;
use super::download::{COMMIT, client, digest, folder_store, pull, quiet};
use crate::cli::candlewick;
use candlewick::http::OnRetry;
use candlewick::hub::{Client, Models};
use candlewick::store::MemoryStore;
use candlewick::{Code, Error};
use pollster::block_on;
use serde_json::json;
use std::cell::RefCell;
use std::net::TcpListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What comes of a pull with the usual patience, how long that took, and what was told meanwhile.
fn unreached(url: &str, name: &str) -> (Error, Duration, Vec<(u32, String)>) {
    let told = Rc::new(RefCell::new(Vec::new()));
    let heard = told.clone();
    let on_retry = OnRetry::new(move |retry| heard.borrow_mut().push((retry.attempt, retry.message.clone())));
    let client = Client::new(Some(url), None).unwrap().hearing(on_retry);
    let start = Instant::now();
    let error = pull(&Models::new(client, Rc::new(MemoryStore::default())), name).unwrap_err();
    (error, start.elapsed(), told.take())
}

#[test]
fn nobody_is_there() {
    let (error, took, told) = unreached("http://127.0.0.1:1", "a/b");
    assert!(error.code == Code::Network && error.message.starts_with("a/b: "), "{error}");
    assert!(took < Duration::from_secs(8), "{took:?}");
    let attempts: Vec<u32> = told.iter().map(|(attempt, _)| *attempt).collect();
    assert_eq!(attempts, [1, 2], "{told:?}");
    assert!(told.iter().all(|(_, message)| message.starts_with("a/b: ")), "{told:?}");
    // Some networks take their time to say that there is no such name.
    let (error, took, told) = unreached("http://no-such-host.invalid", "a/b");
    assert_eq!(error.code, Code::Network, "{error}");
    assert!(took < Duration::from_secs(20) && !told.is_empty(), "{took:?} {told:?}");
}

#[test]
fn somebody_is_there_and_says_nothing() {
    // Connections wait for somebody to take them.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (error, took, told) = unreached(&format!("http://{}", silent.local_addr().unwrap()), "a/b");
    assert_eq!(error.code, Code::Network, "{error}");
    assert!(took < Duration::from_secs(16) && told.len() == 1, "{took:?} {told:?}");
}

#[test]
fn the_hub_is_there_and_its_files_are_not() {
    let files = json!({ "m.gguf": { "size": 100_000, "seed": 1 } });
    let script = json!([{ "match": "/resolve/", "times": 1000, "fault": "cut" }]);
    let repos = json!({ "a/b": { "commit": COMMIT, "files": files } });
    let world = World::new("reach-files", json!({ "repos": repos, "script": script }));
    let (error, took, told) = unreached(&world.url, "a/b");
    assert!(error.code == Code::Network && error.message.contains("a/b/m.gguf"), "{error}");
    assert!(took < Duration::from_secs(20) && (3..=4).contains(&told.len()), "{took:?} {told:?}");
}

#[test]
fn what_is_there_starts_at_once() {
    let files = json!({ "m-Q4_K_M.gguf": { "size": 100_000, "seed": 1 } });
    let world =
        World::new("reach-there", json!({ "repos": { "a/b": { "commit": COMMIT, "files": files } } }));
    let sha256 = world.sha256("a/b/m-Q4_K_M.gguf");
    let folder = tempfile::tempdir().unwrap();
    pull(&Models::new(client(&world, None), folder_store(folder.path())), "a/b").unwrap();
    let nobody = || Client::new(Some("http://127.0.0.1:1"), None).unwrap();
    // Also where another tool has fetched it, of which there is no note.
    for notes in [true, false] {
        if !notes {
            std::fs::remove_dir_all(folder.path().join("own")).unwrap();
        }
        for name in ["a/b", "a/b:Q4_K_M", "a/b/m-Q4_K_M.gguf", "hf.co/a/b/tree/main"] {
            let models = Models::new(nobody(), folder_store(folder.path()));
            let start = Instant::now();
            let model = block_on(models.open(&name.parse().unwrap(), false, quiet())).unwrap();
            assert_eq!(digest(&model).unwrap(), sha256, "{name}");
            assert!(start.elapsed() < Duration::from_secs(1), "{name}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn the_program_tells_of_each_attempt() {
    let home = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let mut command = candlewick(["pull", "a/b"]);
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH", "HF_TOKEN"] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", "http://127.0.0.1:1").env("HF_HOME", home.path()).env("NO_PROXY", "*");
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && start.elapsed() < Duration::from_secs(8), "{stderr}");
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines.len() == 3 && lines[0].contains("attempt 2") && lines[1].contains("attempt 3"), "{stderr}");
    assert!(lines[2].contains("a/b: ") && lines[2].contains("[network]"), "{stderr}");
}
