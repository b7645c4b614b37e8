//! Which file of a repository a name means.

use super::spec::{FileChoice, is_gguf};
use crate::format::gguf::TensorType;
use crate::store::Split;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

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

/// More bytes than any file has: sums of them are still numbers.
pub(super) const MAX_SIZE: u64 = 1 << 44;

/// The files that `wanted` means, in order: one, or all parts of a split model.
pub(super) fn choose<'a>(
    files: &'a [RemoteFile],
    wanted: &FileChoice,
    repo: &str,
) -> Result<Vec<&'a RemoteFile>> {
    let parts = Parts(files.iter().map(|file| (file.path.as_str(), file)).collect());
    if let FileChoice::File(path) = wanted {
        let file = parts.0.get(path.as_str()).copied();
        let file = file.ok_or_else(|| missing(repo, &format!("no file {path}"), files))?;
        return parts.of(file, repo);
    }
    let inside = |path: &str| match wanted {
        FileChoice::Folder(folder) => path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')),
        _ => true,
    };
    let ggufs = || files.iter().filter(|file| is_gguf(&file.path) && inside(&file.path));
    let first = |file: &&RemoteFile| Split::of(&file.path).is_none_or(|split| split.index == 1);
    let mut models: Vec<(Role, &RemoteFile)> =
        ggufs().filter(first).filter_map(|file| Some((role(&file.path)?, file))).collect();
    // Shorter paths first: the plain variant before the special one, the top before folders.
    models.sort_by_key(|(role, file)| (*role, file.path.len(), file.path.as_str()));
    if let FileChoice::Quantization(name) = wanted {
        let file = models.iter().find(|(_, file)| has_quantization(&file.path, name));
        let (_, file) =
            file.ok_or_else(|| missing(repo, &format!("no file of the quantization {name}"), files))?;
        return parts.of(file, repo);
    }
    match models.first() {
        // What is beside a model counts only where there is no other.
        Some(&(best, _)) => models.retain(|(role, _)| *role == best),
        None if ggufs().next().is_some() => {
            return Err(unrunnable(repo, "only files that go with a model and are none", files));
        }
        None => {
            let place =
                if let FileChoice::Folder(folder) = wanted { format!(" in {folder}") } else { String::new() };
            return Err(missing(repo, &format!("no .gguf file{place}"), files));
        }
    }
    let readable: Vec<(Quantization, &RemoteFile)> =
        models.iter().map(|(_, file)| (quantization(&file.path), *file)).collect();
    let of = |name: &str| {
        let named = |(known, file): &&(Quantization, &RemoteFile)| {
            matches!(known, Quantization::Read(_)) && has_quantization(&file.path, name)
        };
        readable.iter().find(named)
    };
    let smallest = || {
        let enough = |(known, _): &&(Quantization, &RemoteFile)| matches!(known, Quantization::Read(Some(bits)) if *bits >= 4);
        readable.iter().filter(enough).min_by_key(|(_, file)| parts.size(file))
    };
    let any = || readable.iter().find(|(known, _)| !matches!(known, Quantization::Foreign));
    let file = of("Q4_K_M").or_else(|| of("Q8_0")).or_else(smallest).or_else(any);
    let (_, file) = file.ok_or_else(|| unrunnable(repo, "no file of a type that candlewick reads", files))?;
    parts.of(file, repo)
}

/// A repository's files by path.
struct Parts<'a>(HashMap<&'a str, &'a RemoteFile>);

impl<'a> Parts<'a> {
    /// All parts of the split model that `file` belongs to; else `file` alone.
    fn of(&self, file: &'a RemoteFile, repo: &str) -> Result<Vec<&'a RemoteFile>> {
        let parts = match Split::of(&file.path) {
            None => vec![file],
            Some(split) => {
                let part = |path: String| {
                    self.0.get(path.as_str()).copied().ok_or_else(|| {
                        Error::model_not_found(format!("{repo}: {path} is missing, a part of a split model"))
                    })
                };
                split.paths().map(part).collect::<Result<_>>()?
            }
        };
        match parts.iter().find(|part| part.size > MAX_SIZE) {
            Some(part) => Err(Error::corrupt_model(format!(
                "{repo}: {} has {} bytes, as it is listed: no file has so many",
                part.path, part.size
            ))),
            None => Ok(parts),
        }
    }

    /// Bytes of all of them.
    fn size(&self, file: &'a RemoteFile) -> u64 {
        self.of(file, "").map_or(u64::MAX, |parts| parts.iter().map(|part| part.size).sum())
    }
}

impl FileChoice {
    /// Whether a file in the cache is meant; of a split model, any part.
    pub(super) fn means(&self, path: &str) -> bool {
        let first = |path: &str| Split::of(path).map_or_else(|| path.to_owned(), |split| split.path(1));
        match self {
            FileChoice::Any => true,
            FileChoice::Quantization(name) => has_quantization(path, name),
            FileChoice::File(wanted) => first(wanted) == first(path),
            FileChoice::Folder(folder) => {
                path.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
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

/// What a file is to its repository. The first is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Model,
    /// By its name it drafts for another model, or changes one.
    Beside,
}

/// Parts of names of what is no model: projectors of pictures and sounds, vectors that steer.
const NO_MODELS: [&str; 6] = ["mmproj", "projector", "cvector", "controlvector", "vae", "vocoder"];
/// Parts of names of files without weights, unless there is a quantization in the name as well.
const NO_WEIGHTS: [&str; 3] = ["imatrix", "vocab", "tokenizer"];
/// Parts of names of what another model needs.
const DRAFTS: [&str; 7] = ["draft", "drafter", "mtp", "nextn", "eagle", "medusa", "vocab"];
/// Parts of names of adapters. Models that one was merged into may have them, too.
const ADAPTERS: [&str; 6] = ["lora", "loras", "qlora", "dora", "adapter", "adapters"];

/// What a file is by its path; nothing where it is no model.
fn role(path: &str) -> Option<Role> {
    let no_weights = has_word(path, &NO_WEIGHTS) && labels(file_name(path)).is_empty();
    if has_word(path, &NO_MODELS) || no_weights {
        return None;
    }
    Some(if has_word(path, &DRAFTS) || may_be_adapter(path) { Role::Beside } else { Role::Model })
}

/// Whether a file is an adapter by its name, which is not always so.
pub(super) fn may_be_adapter(path: &str) -> bool {
    has_word(path, &ADAPTERS)
}

/// Whether a path has one of these words, perhaps with a number after it: `lora2`.
fn has_word(path: &str, words: &[&str]) -> bool {
    let path = path.to_ascii_lowercase().replace("control-", "control").replace("control_", "control");
    let mut those = path.split(|c: char| !c.is_ascii_alphanumeric());
    those.any(|word| words.contains(&word.trim_end_matches(|c: char| c.is_ascii_digit())))
}

/// How a file's weights are stored, as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantization {
    /// As candlewick reads them, or not known; with the bits of most weights.
    Read(Option<u32>),
    /// In a type that it does not read.
    Foreign,
}

fn quantization(path: &str) -> Quantization {
    // Folders are named so as well, where files are not.
    let names = path.rsplit('/').map(labels).find(|labels| !labels.is_empty()).unwrap_or_default();
    match names.iter().all(|label| reads(label)) {
        true => Quantization::Read(names.last().and_then(|label| bits(label))),
        false => Quantization::Foreign,
    }
}

/// The words of a name that say how weights are stored, in upper case: `Q4_K_M`, `IQ3_XS`, `BF16`, `MXFP4_MOE`.
fn labels(name: &str) -> Vec<String> {
    let name = name.to_ascii_uppercase();
    let words = name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    // A word may have others before it, with the `_` that quantizations contain too.
    let label = |word: &str| {
        let tails = word.match_indices('_').map(|(at, _)| &word[at + 1..]);
        std::iter::once(word).chain(tails).find(|tail| is_label(tail)).map(str::to_owned)
    };
    words.filter_map(label).collect()
}

/// Letters, a number of bits, and what belongs to both.
fn is_label(word: &str) -> bool {
    let digits = word.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let (kind, rest) = word.split_at(word.len() - digits.len());
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let rest = &rest[number.len()..];
    match kind {
        // `Q4` alone says nothing of how.
        "Q" | "IQ" | "TQ" => number.len() == 1 && rest.len() > 1 && rest.starts_with('_'),
        "F" | "FP" | "BF" | "FLOAT" => {
            matches!(number.as_str(), "4" | "8" | "16" | "32") && (rest.is_empty() || rest.starts_with('_'))
        }
        "MXFP" | "NVFP" => !number.is_empty() && (rest.is_empty() || rest.starts_with('_')),
        "I" => number == "2" && rest.starts_with("_S"),
        "TL" => matches!(number.as_str(), "1" | "2") && rest.is_empty(),
        _ => false,
    }
}

/// What files call a type, or a mixture of types, that has another name.
const CALLED: [(&str, &str); 11] = [
    ("FP16", "F16"),
    ("FP32", "F32"),
    ("FLOAT16", "F16"),
    ("FLOAT32", "F32"),
    ("Q8_K_XL", "Q8_0"),
    ("IQ1_XS", "IQ1_S"),
    ("IQ2_M", "IQ2_S"),
    ("IQ3_XS", "IQ3_S"),
    ("IQ3_M", "IQ3_S"),
    ("IQ3_XL", "IQ3_S"),
    ("IQ4_XSS", "IQ4_XS"),
];

/// Whether candlewick reads a type: `Q4_K`, and mixtures such as `Q4_K_M`. What is added in digits is another layout,
/// as in `Q4_0_4_4`.
fn reads(label: &str) -> bool {
    let label = CALLED.iter().find(|(called, _)| *called == label).map_or(label, |(_, name)| *name);
    let layout = |word: &str| word.trim_start_matches('R').bytes().all(|b| b.is_ascii_digit());
    TensorType::ALL.iter().any(|kind| {
        let rest = label.strip_prefix(kind.name()).map(|rest| rest.strip_prefix('_').ok_or(rest));
        match rest {
            Some(Ok(rest)) => !rest.split('_').any(layout),
            Some(Err(rest)) => rest.is_empty(),
            None => false,
        }
    })
}

/// Bits of a weight: `Q4_K_M` 4, `IQ3_XS` 3, `BF16` 16.
fn bits(label: &str) -> Option<u32> {
    let digits = label.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    digits.split('_').next()?.parse().ok()
}

/// What a repository has that cannot be run.
fn unrunnable(repo: &str, what: &str, files: &[RemoteFile]) -> Error {
    let reads: Vec<&str> = TensorType::ALL.iter().map(|kind| kind.name()).collect();
    let Error { message, .. } = missing(repo, what, files);
    Error::unsupported_model(format!(
        "{message}. candlewick reads {}, and what is made of these",
        reads.join(", ")
    ))
}

fn missing(repo: &str, what: &str, files: &[RemoteFile]) -> Error {
    let mut names: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    names.retain(|name| is_gguf(name));
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

    fn chosen(names: &[&str], wanted: &FileChoice) -> Result<Vec<String>> {
        let files = files(names);
        Ok(choose(&files, wanted, "a/b")?.into_iter().map(|file| file.path.clone()).collect())
    }

    #[test]
    fn the_file_that_is_meant() {
        let all =
            ["m-F16.gguf", "m-IQ4_XS.gguf", "m-Q2_K.gguf", "m-Q4_K_S.gguf", "m-Q8_0.gguf", "m.Q4_K_M.gguf"];
        let any = |names: &[&str]| chosen(names, &FileChoice::Any).unwrap().join(" ");
        assert_eq!(any(&all), "m.Q4_K_M.gguf");
        assert_eq!(any(&all[..5]), "m-Q8_0.gguf");
        assert_eq!(any(&all[..4]), "m-Q4_K_S.gguf");
        assert_eq!(any(&all[..3]), "m-IQ4_XS.gguf");
        assert_eq!(any(&["m-Q2_K.gguf", "README.md", "mmproj-F16.gguf"]), "m-Q2_K.gguf");
        assert_eq!(any(&["model.gguf"]), "model.gguf");
        let quantization = |name: &str| chosen(&all, &FileChoice::Quantization(name.to_owned()));
        assert_eq!(quantization("f16").unwrap(), ["m-F16.gguf"]);
        assert_eq!(quantization("q4_k_s").unwrap(), ["m-Q4_K_S.gguf"]);
        assert!(quantization("Q4_K").unwrap_err().message.contains("m-Q4_K_S.gguf"));
        let file = |name: &str| chosen(&all, &FileChoice::File(name.to_owned()));
        assert_eq!(file("m-Q2_K.gguf").unwrap(), ["m-Q2_K.gguf"]);
        assert_eq!(file("nothing.gguf").unwrap_err().code, crate::Code::ModelNotFound);
        assert!(chosen(&["model.safetensors"], &FileChoice::Any).is_err());
    }

    #[test]
    fn parts_of_split_models() {
        let all = ["q/m-Q4_K_M-00002-of-00002.gguf", "q/m-Q4_K_M-00001-of-00002.gguf", "m-Q8_0.gguf"];
        let parts = ["q/m-Q4_K_M-00001-of-00002.gguf", "q/m-Q4_K_M-00002-of-00002.gguf"];
        assert_eq!(chosen(&all, &FileChoice::Any).unwrap(), parts);
        assert_eq!(chosen(&all, &FileChoice::File(all[0].to_owned())).unwrap(), parts);
        assert!(chosen(&all[1..], &FileChoice::Any).is_err());
        assert_eq!(Split::of("m-00003-of-00002.gguf"), None);
        assert_eq!(Split::of("m-1-of-2.gguf"), None);
    }

    #[test]
    fn the_usual_file_is_one_that_can_be_run() {
        // The first of each is the one. Sizes fall from the first on.
        let cases: &[&[&str]] = &[
            &["m-Q5_K_M.gguf", "m-IQ4_KS.gguf", "m-IQ4_KSS.gguf", "m-IQ5_KS.gguf", "m-Q4_0_4_4.gguf"],
            &[
                "m-Q6_K.gguf",
                "m-IQ4_KT.gguf",
                "m-Q8_KV.gguf",
                "m-IQ4_K.gguf",
                "m-Q4_0_R8.gguf",
                "m-Q8_K_R8.gguf",
            ],
            &["m.i1-Q4_K_M.gguf", "m.i1-IQ4_KS.gguf", "m.i1-Q6_K.gguf", "m.imatrix.gguf"],
            &["m-UD-Q4_K_XL.gguf", "m-UD-IQ4_KS.gguf", "m-IQ6_K.gguf"],
            &["m-Q4_K_M.gguf", "m-UD-Q4_K_XL.gguf", "m-UD-Q8_K_XL.gguf"],
            &["M-Q8_0.GGUF", "M-IQ4_KSS.GGUF"],
            &["model-q4_0.gguf", "model-q4_0_8_8.gguf", "model-iq4_kss.gguf"],
            &["ggml_model_f16.gguf", "ggml_model_iq4_ks.gguf", "ggml-model-i2_s.gguf"],
            &["m-fp16.gguf", "m-fp8.gguf", "m-fp4.gguf"],
            &["m-BF16.gguf", "m-IQ4_KS.gguf", "m-Q3_K_XL.gguf", "m-Q2_K_L.gguf"],
            &["m-Q3_K_M.gguf", "m-IQ3_KS.gguf", "m-IQ2_KL.gguf", "m-IQ1_KT.gguf"],
            &["m-Q4_K_S.gguf", "lora-adapter-Q8_0.gguf", "m-lora-Q4_K_M.gguf", "adapters/m-Q8_0.gguf"],
            &["m-Q6_K.gguf", "mmproj-Q8_0.gguf", "m-mmproj-Q4_K_M.gguf", "vision/projector-Q8_0.gguf"],
            &[
                "m-Q6_K.gguf",
                "m-draft-Q8_0.gguf",
                "mtp-m-Q4_K_M.gguf",
                "m-eagle3-Q8_0.gguf",
                "MTP/m-Q8_0.gguf",
            ],
            &["m-Q6_K.gguf", "ggml-vocab-m.gguf", "imatrix_unsloth.gguf", "control-vector-Q8_0.gguf"],
            &["m-imatrix-Q4_K_M.gguf", "m-Q6_K.gguf", "m-imatrix.gguf"],
            &["Flora-7B-Q8_0.gguf", "Flora-7B-IQ4_KS.gguf"],
            &["Alpaca-LoRA-7B-Q4_K_M.gguf", "Alpaca-LoRA-7B-IQ4_KS.gguf"],
            &["m-v3-draft-0.6B-Q4_0.gguf", "m-v3-draft-0.6B-IQ4_KS.gguf"],
            &["Q5_K_M/m.gguf", "IQ4_KS/m.gguf", "IQ6_K/m.gguf"],
            &["m-IQ4_NL.gguf", "m-IQ3_M.gguf", "m-TQ2_0.gguf", "m-Q2_K.gguf"],
            &["Qwen2.5-0.5B.gguf", "Qwen2.5-0.5B-IQ4_KS.gguf"],
        ];
        for names in cases {
            let orders = [names.to_vec(), names.iter().rev().copied().collect()];
            for order in orders {
                assert_eq!(chosen(&order, &FileChoice::Any).unwrap(), names[..1], "{order:?}");
            }
        }
        // Every type that is read is taken, whatever it is called.
        for kind in TensorType::ALL {
            for name in
                [format!("m-{}.gguf", kind.name()), format!("m.{}_M.gguf", kind.name().to_lowercase())]
            {
                assert_eq!(any_of(&[&name, "a-XYZ-IQ1_KT.gguf"]).unwrap(), [name]);
            }
        }
    }

    fn any_of(names: &[&str]) -> Result<Vec<String>> {
        chosen(names, &FileChoice::Any)
    }

    #[test]
    fn folders_of_quantizations() {
        let part = |folder: &str, index| format!("{folder}/m-{folder}-0000{index}-of-00002.gguf");
        let paths: Vec<String> = ["BF16", "IQ4_KS", "Q6_K", "UD-Q5_K_XL"]
            .iter()
            .flat_map(|folder| [part(folder, 2), part(folder, 1)])
            .collect();
        let all: Vec<&str> = paths.iter().map(String::as_str).collect();
        let both = |folder| [part(folder, 1), part(folder, 2)];
        assert_eq!(any_of(&all).unwrap(), both("UD-Q5_K_XL"));
        let folder = |name: &str| chosen(&all, &FileChoice::Folder(name.to_owned()));
        assert_eq!(folder("BF16").unwrap(), both("BF16"));
        assert_eq!(folder("IQ4_KS").unwrap_err().code, crate::Code::UnsupportedModel);
        assert_eq!(folder("Q6").unwrap_err().code, crate::Code::ModelNotFound);
        assert!(FileChoice::Folder("BF16".to_owned()).means(&part("BF16", 2)));
    }

    #[test]
    fn where_nothing_can_be_run() {
        let repos: [&[&str]; 3] =
            [&["m-IQ4_KS.gguf", "m-IQ6_K.gguf"], &["mmproj-F16.gguf"], &["m.imatrix.gguf", "README.md"]];
        for names in repos {
            let error = any_of(names).unwrap_err();
            assert_eq!(error.code, crate::Code::UnsupportedModel, "{error}");
            assert!(error.message.starts_with("a/b has ") && error.message.contains(names[0]), "{error}");
        }
    }

    #[test]
    fn listings_that_lie() {
        let mut files = files(&["m-00001-of-99999.gguf", "n-Q4_K_M.gguf"]);
        assert!(choose(&files[..1], &FileChoice::Any, "a/b").is_err());
        files[1].size = u64::MAX;
        assert_eq!(choose(&files, &FileChoice::Any, "a/b").unwrap_err().code, crate::Code::CorruptModel);
        // Every part there is, each as large as can be.
        let part = |index| RemoteFile {
            path: format!("m-{index:05}-of-99999.gguf"),
            size: MAX_SIZE,
            etag: String::new(),
        };
        let all: Vec<RemoteFile> = (1..=99_999).map(part).collect();
        let parts = choose(&all, &FileChoice::Any, "a/b").unwrap();
        assert_eq!(parts.iter().map(|part| part.size).sum::<u64>(), 99_999 * MAX_SIZE);
    }

    #[test]
    fn bits_by_name() {
        let cases = [
            ("a-7B-Q4_K_M.gguf", Some(4)),
            ("x.Q3_K_S.gguf", Some(3)),
            ("x-BF16.gguf", Some(16)),
            ("x-f32.gguf", Some(32)),
            ("x_f16.gguf", Some(16)),
            ("Qwen2.5-0.5B.gguf", None),
            ("m-q8.gguf", None),
        ];
        for (name, expected) in cases {
            assert_eq!(quantization(name), Quantization::Read(expected), "{name}");
        }
    }
}
