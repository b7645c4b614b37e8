//! What people type to name a model.

use crate::{Error, Result};
use std::fmt;
use std::str::FromStr;

/// Short names for models that are small and good enough to begin with.
pub const ALIASES: &[(&str, &str)] = &[
    ("smollm2", "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF:Q8_0"),
    ("smollm2:1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF:Q4_K_M"),
    ("qwen2.5:0.5b", "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M"),
    ("qwen3:0.6b", "Qwen/Qwen3-0.6B-GGUF:Q8_0"),
    ("qwen3:1.7b", "Qwen/Qwen3-1.7B-GGUF:Q8_0"),
    ("llama3.2:1b", "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M"),
    ("gemma3:1b", "ggml-org/gemma-3-1b-it-GGUF:Q4_K_M"),
];

/// The Hub's own addresses, which people copy from their browser.
const HUB_HOSTS: [&str; 3] = ["https://huggingface.co/", "https://hf.co/", "hf.co/"];

/// Names a model. Parse one from text, and `Display` writes it back.
///
/// `owner/repo`, `owner/repo:QUANT`, `owner/repo/file.gguf`, each with `@revision` (a branch, tag or commit);
/// an alias; the address of a file on the Hub or elsewhere; anything else is a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// A local file.
    Path(String),
    /// A file on any server.
    Url(String),
    /// A file of a repository on the Hub.
    Hub(HubSpec),
}

/// A file of a repository on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSpec {
    /// `owner/repo`.
    pub repo: String,
    /// Which of its files.
    pub file: Wanted,
    /// A branch, tag or commit; without one, `main`.
    pub revision: Option<String>,
}

/// Which file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The one that suits most people.
    Any,
    /// The one of this quantization, as in `Q4_K_M`.
    Quantization(String),
    /// This one.
    File(String),
}

impl HubSpec {
    /// The revision, or the usual one.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl FromStr for Spec {
    type Err = Error;

    fn from_str(text: &str) -> Result<Spec> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::invalid_argument("no model is named. Give owner/repo, an address or a path"));
        }
        if let Some((_, model)) = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(text)) {
            return model.parse();
        }
        if let Some(rest) = HUB_HOSTS.iter().find_map(|host| text.strip_prefix(host)) {
            return hub_address(rest.trim_end_matches('/'));
        }
        if text.contains("://") {
            return match text.starts_with("http://") || text.starts_with("https://") {
                true => Ok(Spec::Url(text.to_owned())),
                false => Err(Error::invalid_argument("a model's address begins with https:// or http://")),
            };
        }
        Ok(hub_name(text).map_or_else(|| Spec::Path(text.to_owned()), Spec::Hub))
    }
}

/// `owner/repo…`, where it can be one.
fn hub_name(text: &str) -> Option<HubSpec> {
    let (name, revision) = match text.rsplit_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (text, None),
    };
    if !revision.is_none_or(is_revision) {
        return None;
    }
    let mut parts = name.splitn(3, '/');
    let (owner, repo, file) = (parts.next()?, parts.next()?, parts.next());
    let (repo, quantization) = match repo.split_once(':') {
        Some((repo, quantization)) if file.is_none() => (repo, Some(quantization)),
        _ => (repo, None),
    };
    let wanted = match (file, quantization) {
        (Some(file), _) if is_gguf(file) && is_file(file) => Wanted::File(file.to_owned()),
        (Some(_), _) => return None,
        (None, Some(quantization)) if is_name(quantization) => Wanted::Quantization(quantization.to_owned()),
        (None, Some(_)) => return None,
        // `models/story.gguf` is a path.
        (None, None) if is_gguf(repo) => return None,
        (None, None) => Wanted::Any,
    };
    let revision = revision.map(str::to_owned);
    (is_name(owner) && is_name(repo)).then(|| HubSpec {
        repo: format!("{owner}/{repo}"),
        file: wanted,
        revision,
    })
}

/// What follows the host: `owner/repo`, or `owner/repo/resolve/main/file.gguf` and `…/blob/…`.
fn hub_address(rest: &str) -> Result<Spec> {
    let rest = rest.split(['?', '#']).next().unwrap_or(rest);
    let parts: Vec<&str> = rest.splitn(5, '/').collect();
    let name = match parts[..] {
        [owner, repo, "resolve" | "blob", revision, file] => {
            format!("{owner}/{repo}/{file}@{}", revision.replace("%2F", "/"))
        }
        [owner, repo, "tree", revision] => format!("{owner}/{repo}@{revision}"),
        _ => rest.to_owned(),
    };
    hub_name(&name).map(Spec::Hub).ok_or_else(|| {
        Error::invalid_argument(format!(
            "\"{rest}\" names no model on the Hub. Give owner/repo or a .gguf file of it"
        ))
    })
}

fn is_gguf(name: &str) -> bool {
    name.len() > 5 && name.to_ascii_lowercase().ends_with(".gguf")
}

/// What the Hub allows in names of owners and repositories.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 96 && name.chars().all(plain) && !name.starts_with('.')
}

/// A relative path that stays below where it begins, on every system.
pub(crate) fn is_file(path: &str) -> bool {
    let safe = |c: char| !c.is_control() && !matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|');
    path.len() <= 512
        && path.split('/').all(|part| {
            !part.is_empty() && !part.trim_matches(['.', ' ']).is_empty() && part.chars().all(safe)
        })
}

/// A branch, tag or commit: `main`, `refs/pr/1`, `v1.0`.
pub(crate) fn is_revision(revision: &str) -> bool {
    revision.split('/').all(is_name)
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Spec::Path(path) => f.write_str(path),
            // A query may hold a signature.
            Spec::Url(url) => f.write_str(url.split(['?', '#']).next().unwrap_or(url)),
            Spec::Hub(hub) => hub.fmt(f),
        }
    }
}

impl fmt::Display for HubSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.repo)?;
        match &self.file {
            Wanted::Any => {}
            Wanted::Quantization(quantization) => write!(f, ":{quantization}")?,
            Wanted::File(file) => write!(f, "/{file}")?,
        }
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        let cases = [
            ("owner/repo", "owner/repo"),
            ("owner/repo:q4_k_m", "owner/repo:q4_k_m"),
            ("owner/repo:Q8_0@v1.0", "owner/repo:Q8_0@v1.0"),
            ("owner/repo/file.gguf", "owner/repo/file.gguf"),
            ("owner/repo/sub/file.gguf@refs/pr/3", "owner/repo/sub/file.gguf@refs/pr/3"),
            ("hf.co/owner/repo:Q8_0", "owner/repo:Q8_0"),
            ("https://huggingface.co/owner/repo/", "owner/repo"),
            ("https://huggingface.co/o/r/blob/main/a/b.gguf?download=true", "o/r/a/b.gguf@main"),
            ("https://hf.co/o/r/tree/main", "o/r@main"),
            ("smollm2", "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF:Q8_0"),
        ];
        for (text, name) in cases {
            match text.parse().unwrap() {
                Spec::Hub(spec) => assert_eq!(spec.to_string(), name, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        for (_, name) in ALIASES {
            assert!(matches!(name.parse(), Ok(Spec::Hub(_))), "{name}");
        }
        let paths = [
            "model.gguf",
            "./a/b",
            "/a/b",
            "../a/b/c.gguf",
            "models/story.gguf",
            "a/b/c.bin",
            "~/x",
            "a/b/../c.gguf",
        ];
        for path in paths {
            assert_eq!(path.parse(), Ok(Spec::Path(path.to_owned())));
        }
        let url = "https://example.org/model.gguf?key=secret";
        assert_eq!(url.parse::<Spec>().unwrap().to_string(), "https://example.org/model.gguf");
        for bad in ["", " ", "ftp://a/b", "https://huggingface.co/owner", "https://hf.co/a/b/c.bin"] {
            assert_eq!(bad.parse::<Spec>().unwrap_err().code, crate::Code::InvalidArgument, "{bad}");
        }
    }
}
