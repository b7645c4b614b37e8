//! What people type to name a model.

use super::address;
use crate::store::Split;
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

/// Names a model. Parse one from text, and `Display` writes it back.
///
/// `owner/repo`, `owner/repo:QUANT`, `owner/repo/file.gguf`, each with `@revision` (a branch, tag or commit);
/// an alias; the address of any of these on the Hub, as it is in a browser's address bar, with or without its beginning;
/// the address of a file elsewhere; anything else is a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// A local file.
    Path(String),
    /// A file on any server; where its name says that it is a part of a model, all of that.
    Url(String),
    /// Several files on any servers, which are one model, in any order.
    Files(Vec<String>),
    /// A file of a repository on the Hub.
    Hub(HubSpec),
}

/// A file of a repository on the Hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSpec {
    /// `owner/repo`.
    pub repo: String,
    /// Which of its files.
    pub file: FileChoice,
    /// A branch, tag or commit; without one, `main`.
    pub revision: Option<String>,
}

/// Which file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileChoice {
    /// The one that suits most people.
    Any,
    /// The one of this quantization, as in `Q4_K_M`.
    Quantization(String),
    /// This one.
    File(String),
    /// The one in this folder that suits most people.
    Folder(String),
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
        Spec::at(text, None)
    }
}

impl Spec {
    /// What `text` names where the Hub is reached at the address `mirror`: names of that are the Hub's, too.
    pub fn at(text: &str, mirror: Option<&str>) -> Result<Spec> {
        // What comes along with a copied text.
        let text = text
            .trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{200B}'..='\u{200D}' | '\u{FEFF}'));
        if text.is_empty() {
            return Err(Error::invalid_argument("no model is named. Give owner/repo, an address or a path"));
        }
        if let Some((_, model)) = ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(text)) {
            return model.parse();
        }
        if let Some(rest) = address::on_hub(text, mirror) {
            return address::read(rest).map(Spec::Hub);
        }
        if text.contains("://") {
            return match address::is_http(text) {
                true => Ok(Spec::Url(text.to_owned())),
                false => Err(Error::invalid_argument("a model's address begins with https:// or http://")),
            };
        }
        Ok(address::name(text).map_or_else(|| Spec::Path(text.to_owned()), Spec::Hub))
    }
}

impl Spec {
    /// What several texts name that are one model, each of them a file, in any order.
    pub fn of_files(texts: &[String], mirror: Option<&str>) -> Result<Spec> {
        if let [text] = texts {
            return Spec::at(text, mirror);
        }
        let (mut urls, mut files) = (Vec::new(), Vec::new());
        for text in texts {
            match Spec::at(text, mirror)? {
                Spec::Url(url) => urls.push(url),
                Spec::Hub(HubSpec { repo, file: FileChoice::File(path), revision }) => {
                    files.push((repo, revision, path));
                }
                _ => {}
            }
        }
        if !urls.is_empty() && urls.len() == texts.len() {
            return Ok(Spec::Files(urls));
        }
        let paths: Vec<&str> = files.iter().map(|(_, _, path)| path.as_str()).collect();
        let apart = files.windows(2).any(|pair| (&pair[0].0, &pair[0].1) != (&pair[1].0, &pair[1].1));
        match Split::order(&paths)?.filter(|_| files.len() == texts.len() && !apart) {
            Some(order) => {
                let (repo, revision, path) = files.swap_remove(order[0]);
                Ok(Spec::Hub(HubSpec { repo, file: FileChoice::File(path), revision }))
            }
            None => Err(Error::invalid_argument(
                "a list is one model in several files: give the addresses of its parts, all of one repository on the \
                 Hub or all elsewhere",
            )),
        }
    }
}

pub(super) fn is_gguf(name: &str) -> bool {
    name.len() > 5 && name.to_ascii_lowercase().ends_with(".gguf")
}

/// An address without what may hold a signature.
pub(super) fn shown(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Spec::Path(path) => f.write_str(path),
            Spec::Url(url) => f.write_str(shown(url)),
            Spec::Files(urls) => {
                let first = urls.first().map_or("", |url| shown(url));
                write!(f, "{first} and the other {} of its model", urls.len().saturating_sub(1))
            }
            Spec::Hub(hub) => hub.fmt(f),
        }
    }
}

impl fmt::Display for HubSpec {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.repo)?;
        match &self.file {
            FileChoice::Any => {}
            FileChoice::Quantization(quantization) => write!(f, ":{quantization}")?,
            FileChoice::File(file) => write!(f, "/{file}")?,
            FileChoice::Folder(folder) => {
                return write!(f, "/tree/{}/{folder}", self.revision().replace('/', "%2F"));
            }
        }
        match &self.revision {
            Some(revision) => write!(f, "@{revision}"),
            None => Ok(()),
        }
    }
}
