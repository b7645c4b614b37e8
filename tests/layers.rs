//! Rooms of the crate import only from rooms earlier in this list, which docs/ARCHITECTURE.md has too.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The lowest first.
const FLOORS: [&str; 22] = [
    "error", "hash", "progress", "json", "http", "turns", "store", "format", "hub", "backend", "sampling",
    "text", "chat", "model", "engine", "load", "openai", "remote", "router", "cli", "wasm", "main",
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|kind| kind == "rs") => found.push(path),
            false => {}
        }
    }
}

/// The rooms that a text imports from, by `crate::room` and `crate::{room, …}`.
fn imports(text: &str) -> BTreeSet<String> {
    let word =
        |text: &str| text.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for after in text.split("crate::").skip(1) {
        match after.strip_prefix('{').and_then(|list| list.split_once('}')) {
            Some((list, _)) => found.extend(list.split(',').map(|name| word(name.trim()))),
            None => _ = found.insert(word(after)),
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

#[test]
fn imports_run_downward() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 100);
    let floor = |name: &str| FLOORS.iter().position(|known| *known == name);
    let mut upward = Vec::new();
    for path in files {
        let inside = path.strip_prefix(&src).unwrap();
        let room = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        // The root, and what only tests compile.
        if matches!(room, "lib" | "typescript") {
            continue;
        }
        let own = floor(room).unwrap_or_else(|| panic!("{room} has no floor: give it one here"));
        // Tests within the crate may use what is above them.
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        if path.ends_with("tests.rs") {
            continue;
        }
        for name in imports(text) {
            if floor(&name).is_some_and(|other| other > own) {
                upward.push(format!("{} imports {name}", inside.display()));
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}
