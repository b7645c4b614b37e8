//! Which file of a repository a name means.

use super::spec::Wanted;
use crate::store::Split;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A file on the Hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteFile {
    /// In its repository.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Its content's name: the SHA-256 in hex where the Hub keeps it as a large file, which it does with models.
    pub etag: String,
}

/// The files that `wanted` means, in order: one, or all parts of a split model.
pub fn choose<'a>(files: &'a [RemoteFile], wanted: &Wanted, repo: &str) -> Result<Vec<&'a RemoteFile>> {
    if let Wanted::File(path) = wanted {
        let file = files.iter().find(|file| file.path == *path);
        let file = file.ok_or_else(|| missing(repo, &format!("no file {path}"), files))?;
        return parts_of(files, file, repo);
    }
    // Projectors and draft heads go with a model, and are none.
    let beside = |name: &str| name.contains("mmproj") || name.contains("imatrix");
    let models = files.iter().filter(|file| {
        let name = file_name(&file.path).to_ascii_lowercase();
        name.ends_with(".gguf")
            && !beside(&name)
            && Split::of(&file.path).is_none_or(|split| split.index == 1)
    });
    let mut models: Vec<&RemoteFile> = models.collect();
    // Shorter paths first: the plain variant before the special one, the top before folders.
    models.sort_by_key(|file| (file.path.len(), file.path.as_str()));
    if models.is_empty() {
        return Err(missing(repo, "no .gguf file", files));
    }
    let of = |name: &str| models.iter().copied().find(|file| has_quantization(&file.path, name));
    let file = match wanted {
        Wanted::Quantization(name) => {
            of(name).ok_or_else(|| missing(repo, &format!("no file of the quantization {name}"), files))?
        }
        _ => {
            let enough = |file: &&&RemoteFile| bits(&file.path).is_some_and(|bits| bits >= 4);
            of("Q4_K_M")
                .or_else(|| of("Q8_0"))
                .or_else(|| models.iter().filter(enough).min_by_key(|file| whole_size(files, file)).copied())
                .unwrap_or(models[0])
        }
    };
    parts_of(files, file, repo)
}

/// All parts of the split model that `file` belongs to; else `file` alone.
fn parts_of<'a>(files: &'a [RemoteFile], file: &'a RemoteFile, repo: &str) -> Result<Vec<&'a RemoteFile>> {
    let Some(split) = Split::of(&file.path) else { return Ok(vec![file]) };
    let part = |index| {
        let path = split.path(index);
        let found = files.iter().find(|file| file.path == path);
        found.ok_or_else(|| {
            Error::model_not_found(format!("{repo}: {path} is missing, a part of a split model"))
        })
    };
    (1..=split.count).map(part).collect()
}

fn whole_size(files: &[RemoteFile], file: &RemoteFile) -> u64 {
    parts_of(files, file, "").map_or(u64::MAX, |parts| parts.iter().map(|file| file.size).sum())
}

impl Wanted {
    /// Whether a file in the cache is meant; of a split model, any part.
    pub(super) fn means(&self, path: &str) -> bool {
        let first = |path: &str| Split::of(path).map_or_else(|| path.to_owned(), |split| split.path(1));
        match self {
            Wanted::Any => true,
            Wanted::Quantization(name) => has_quantization(path, name),
            Wanted::File(wanted) => first(wanted) == first(path),
        }
    }
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Names separate words with `-`, `.` or `_`, the last of which quantizations contain too; folders may be named so as well.
fn has_quantization(path: &str, quantization: &str) -> bool {
    let (path, wanted) = (path.to_ascii_uppercase(), quantization.to_ascii_uppercase());
    path.match_indices(&wanted).any(|(at, _)| {
        let ends = |c: Option<char>| c.is_none_or(|c| matches!(c, '-' | '.' | '/'));
        let before = path[..at].chars().next_back();
        // `Q4_K` is not `Q4_K_M`, and `Q4_0` not `IQ4_0`.
        (ends(before) || before == Some('_')) && ends(path[at + wanted.len()..].chars().next())
    })
}

/// Bits of a weight, as the name says: `Q4_K_M` 4, `IQ3_XS` 3, `BF16` 16.
fn bits(path: &str) -> Option<u32> {
    let name = file_name(path).to_ascii_uppercase();
    name.split(['-', '.']).rev().find_map(|word| {
        let tails = word.match_indices('_').map(|(at, _)| &word[at + 1..]);
        std::iter::once(word).chain(tails).find_map(bits_of)
    })
}

/// The same of one word.
fn bits_of(word: &str) -> Option<u32> {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let number: String = digits.chars().take_while(char::is_ascii_digit).collect();
    match &word[..word.len() - digits.len()] {
        "Q" | "IQ" | "TQ" if digits.contains('_') => number.parse().ok(),
        "F" | "FP" | "BF" if number == "16" || number == "32" => number.parse().ok(),
        "MXFP" => number.parse().ok(),
        _ => None,
    }
}

fn missing(repo: &str, what: &str, files: &[RemoteFile]) -> Error {
    let mut names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    names.retain(|name| name.to_ascii_lowercase().ends_with(".gguf"));
    let known = match names.len() {
        0 => {
            "The model may exist as GGUF in another repository: look for the same name with -GGUF".to_owned()
        }
        count => {
            format!("It has {}{}", names[..count.min(12)].join(", "), if count > 12 { ", …" } else { "" })
        }
    };
    Error::model_not_found(format!("{repo} has {what}. {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<RemoteFile> {
        let file = |(index, name): (usize, &&str)| RemoteFile {
            path: name.to_string(),
            size: 1000 - index as u64,
            etag: String::new(),
        };
        names.iter().enumerate().map(file).collect()
    }

    fn chosen(names: &[&str], wanted: &Wanted) -> Result<Vec<String>> {
        let files = files(names);
        Ok(choose(&files, wanted, "a/b")?.into_iter().map(|file| file.path.clone()).collect())
    }

    #[test]
    fn the_file_that_is_meant() {
        let all =
            ["m-F16.gguf", "m-IQ4_XS.gguf", "m-Q2_K.gguf", "m-Q4_K_S.gguf", "m-Q8_0.gguf", "m.Q4_K_M.gguf"];
        let any = |names: &[&str]| chosen(names, &Wanted::Any).unwrap().join(" ");
        assert_eq!(any(&all), "m.Q4_K_M.gguf");
        assert_eq!(any(&all[..5]), "m-Q8_0.gguf");
        assert_eq!(any(&all[..4]), "m-Q4_K_S.gguf");
        assert_eq!(any(&all[..3]), "m-IQ4_XS.gguf");
        assert_eq!(any(&["m-Q2_K.gguf", "README.md", "mmproj-F16.gguf"]), "m-Q2_K.gguf");
        assert_eq!(any(&["model.gguf"]), "model.gguf");
        let quantization = |name: &str| chosen(&all, &Wanted::Quantization(name.to_owned()));
        assert_eq!(quantization("f16").unwrap(), ["m-F16.gguf"]);
        assert_eq!(quantization("q4_k_s").unwrap(), ["m-Q4_K_S.gguf"]);
        assert!(quantization("Q4_K").unwrap_err().message.contains("m-Q4_K_S.gguf"));
        let file = |name: &str| chosen(&all, &Wanted::File(name.to_owned()));
        assert_eq!(file("m-Q2_K.gguf").unwrap(), ["m-Q2_K.gguf"]);
        assert_eq!(file("nothing.gguf").unwrap_err().code, crate::Code::ModelNotFound);
        assert!(chosen(&["model.safetensors"], &Wanted::Any).is_err());
    }

    #[test]
    fn parts_of_split_models() {
        let all = ["q/m-Q4_K_M-00002-of-00002.gguf", "q/m-Q4_K_M-00001-of-00002.gguf", "m-Q8_0.gguf"];
        let parts = ["q/m-Q4_K_M-00001-of-00002.gguf", "q/m-Q4_K_M-00002-of-00002.gguf"];
        assert_eq!(chosen(&all, &Wanted::Any).unwrap(), parts);
        assert_eq!(chosen(&all, &Wanted::File(all[0].to_owned())).unwrap(), parts);
        assert!(chosen(&all[1..], &Wanted::Any).is_err());
        assert_eq!(Split::of("m-00003-of-00002.gguf"), None);
        assert_eq!(Split::of("m-1-of-2.gguf"), None);
    }

    #[test]
    fn bits_by_name() {
        let cases = [
            ("a-7B-Q4_K_M.gguf", 4),
            ("x.IQ3_XS.gguf", 3),
            ("x-BF16.gguf", 16),
            ("x-f32.gguf", 32),
            ("x_f16.gguf", 16),
        ];
        for (name, expected) in cases {
            assert_eq!(bits(name), Some(expected), "{name}");
        }
        assert_eq!(bits("Qwen2.5-0.5B.gguf"), None);
    }
}
