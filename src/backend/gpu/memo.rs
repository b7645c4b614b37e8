//! Short texts kept from one run to the next: results of self-tests. Where they cannot be kept, nothing breaks.

#[cfg(target_arch = "wasm32")]
pub(super) use super::web::{get_text as get, host, put_text as put};
#[cfg(not(target_arch = "wasm32"))]
pub(super) use files::{get, host, put};

/// A file each, in the user's cache folder or the one given.
#[cfg(not(target_arch = "wasm32"))]
mod files {
    use std::hash::{DefaultHasher, Hash, Hasher};
    use std::path::PathBuf;

    fn path(folder: Option<&str>, key: &str) -> Option<PathBuf> {
        let folder = match folder {
            Some(folder) => PathBuf::from(folder),
            None => user_cache()?.join("candlewick").join("gpu"),
        };
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        Some(folder.join(format!("{:016x}.txt", hasher.finish())))
    }

    fn user_cache() -> Option<PathBuf> {
        let from = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        if cfg!(windows) {
            return from("LOCALAPPDATA");
        }
        let home = || from("HOME");
        match cfg!(target_vendor = "apple") {
            true => home().map(|home| home.join("Library/Caches")),
            false => from("XDG_CACHE_HOME").or_else(|| home().map(|home| home.join(".cache"))),
        }
    }

    pub(crate) async fn get(folder: Option<&str>, key: &str) -> Option<String> {
        let text = std::fs::read_to_string(path(folder, key)?).ok()?;
        let (kept_key, text) = text.split_once('\n')?;
        // Two keys may have one hash.
        (kept_key == key).then(|| text.to_owned())
    }

    pub(crate) async fn put(folder: Option<&str>, key: &str, text: &str) {
        let Some(path) = path(folder, key) else { return };
        // Moved into place, so that no reader sees half of it.
        let part = path.with_extension(format!("{}.part", std::process::id()));
        let write = || {
            std::fs::create_dir_all(path.parent()?).ok()?;
            std::fs::write(&part, format!("{key}\n{text}")).ok()?;
            std::fs::rename(&part, &path).ok()
        };
        if write().is_none() {
            _ = std::fs::remove_file(&part);
        }
    }

    /// What else drivers depend on.
    pub(crate) fn host() -> String {
        String::new()
    }
}
