//! Tokenizers against llama.cpp's ids, and against files that mean harm.

use candlewick::model::gguf::{Header, Metadata};
use candlewick::store::MemorySource;
use candlewick::text::{Detokenizer, Tokenizer};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use serde_json::Value;
use std::io::Read;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture("goldens").join(name)).unwrap()).unwrap()
}

/// The bytes of a vocabulary, which may lie compressed.
fn vocabulary(name: &str) -> Vec<u8> {
    let path = fixture("tokenizers").join(name);
    if let Ok(bytes) = std::fs::read(&path) {
        return bytes;
    }
    let packed = path.with_added_extension("gz");
    let file = std::fs::File::open(&packed).unwrap_or_else(|e| panic!("{}: {e}", packed.display()));
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    bytes
}

fn metadata(bytes: Vec<u8>) -> Metadata {
    pollster::block_on(Header::read(&MemorySource::new("test.gguf", bytes))).unwrap().metadata
}

fn load(name: &str) -> Tokenizer {
    Tokenizer::from_metadata(&metadata(vocabulary(name))).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A file with other metadata: `edit` gets key, type and value as they stand in the file.
struct Edit {
    head: Vec<u8>,
    entries: Vec<(String, Vec<u8>)>,
}

impl Edit {
    fn new(bytes: &[u8]) -> Edit {
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        fn skip(bytes: &[u8], kind: u32, at: usize) -> usize {
            let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            match kind {
                0 | 1 | 7 => at + 1,
                2 | 3 => at + 2,
                4..=6 => at + 4,
                8 => at + 8 + u64_at(at),
                9 => {
                    let kind = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
                    (0..u64_at(at + 4)).fold(at + 12, |at, _| skip(bytes, kind, at))
                }
                _ => at + 8,
            }
        }
        let mut at = 24;
        let mut entries = Vec::new();
        for _ in 0..u64_at(16) {
            let key = String::from_utf8(bytes[at + 8..at + 8 + u64_at(at)].to_vec()).unwrap();
            let value = at + 8 + key.len();
            at = skip(bytes, u32_at(value), value + 4);
            entries.push((key, bytes[value..at].to_vec()));
        }
        Edit { head: bytes[..16].to_vec(), entries }
    }

    fn remove(mut self, key: &str) -> Edit {
        self.entries.retain(|(k, _)| k != key);
        self
    }

    fn set(self, key: &str, kind: u32, value: &[u8]) -> Edit {
        let mut edit = self.remove(key);
        edit.entries.push((key.to_owned(), [&kind.to_le_bytes(), value].concat()));
        edit
    }

    fn str(self, key: &str, value: &str) -> Edit {
        self.set(key, 8, &string(value))
    }

    fn u32(self, key: &str, value: u32) -> Edit {
        self.set(key, 4, &value.to_le_bytes())
    }

    fn bool(self, key: &str, value: bool) -> Edit {
        self.set(key, 7, &[value.into()])
    }

    fn strs(self, key: &str, values: &[&str]) -> Edit {
        let strings: Vec<u8> = values.iter().flat_map(|value| string(value)).collect();
        self.set(key, 9, &[&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &strings].concat())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.clone();
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            bytes.extend(string(key));
            bytes.extend(value);
        }
        bytes
    }

    fn load(&self) -> candlewick::Result<Tokenizer> {
        Tokenizer::from_metadata(&metadata(self.bytes()))
    }
}

fn string(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

const REAL: [&str; 6] = ["llama-spm", "phi-3", "llama-bpe", "qwen2", "gpt-2", "bert-bge"];

#[test]
fn llama_cpp_cases() {
    for name in REAL {
        let file = format!("ggml-vocab-{name}.gguf");
        let tokenizer = load(&file);
        let read =
            |end| std::fs::read_to_string(fixture("tokenizers").join(format!("{file}.{end}"))).unwrap();
        let (texts, lines) = (read("inp"), read("out"));
        assert_eq!(lines.lines().count(), 46, "{name}");
        for (text, line) in texts.split("\n__ggml_vocab_test__\n").zip(lines.lines()) {
            let wanted: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, false).unwrap(), wanted, "{name}: {text:?}");
        }
    }
}

#[test]
fn awkward_texts() {
    for (file, cases) in golden("tokenizers.json").as_object().unwrap() {
        let tokenizer = load(file);
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let special = case["special"].as_bool().unwrap();
            assert_eq!(
                tokenizer.encode(text, special).unwrap(),
                ids(&case["ids"]),
                "{file} {special}: {text:?}"
            );
        }
    }
}

#[test]
fn every_pre_tokenizer() {
    let golden = golden("pre-tokenizers.json");
    let texts: Vec<&str> = golden["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let bytes = vocabulary(golden["model"].as_str().unwrap());
    let mut failures = Vec::new();
    for (pre, rows) in golden["pre"].as_object().unwrap() {
        let rows = rows.as_str().map_or(rows, |twin| &golden["pre"][twin]).as_array().unwrap();
        let tokenizer = Edit::new(&bytes).str("tokenizer.ggml.pre", pre).load().unwrap();
        for (text, row) in texts.iter().zip(rows) {
            if tokenizer.encode(text, true).unwrap() != ids(row) {
                failures.push(format!("{pre}: {text:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn sentencepiece_flags() {
    let golden = golden("spm.json");
    let bytes = vocabulary(golden["model"].as_str().unwrap());
    for variant in golden["variants"].as_array().unwrap() {
        let mut edit = Edit::new(&bytes);
        for (flag, value) in variant["flags"].as_object().unwrap() {
            edit = edit.bool(&format!("tokenizer.ggml.{flag}"), value.as_bool().unwrap());
        }
        let tokenizer = edit.load().unwrap();
        for (i, text) in golden["texts"].as_array().unwrap().iter().enumerate() {
            let text = text.as_str().unwrap();
            for (name, special) in [("special", true), ("plain", false)] {
                let wanted = ids(&variant[name][i]);
                assert_eq!(tokenizer.encode(text, special).unwrap(), wanted, "{} {text:?}", variant["flags"]);
            }
        }
    }
}

fn run(tokenizer: &Tokenizer, mut detokenizer: Detokenizer, ids: &[u32]) -> String {
    let mut text: String = ids.iter().map(|&id| detokenizer.push(tokenizer, id)).collect();
    text += &detokenizer.finish();
    text
}

#[test]
fn detokenizing() {
    for (file, rows) in golden("detokenize.json").as_object().unwrap() {
        let tokenizer = load(file);
        for row in rows.as_array().unwrap() {
            let ids = ids(&row["ids"]);
            let text = |name: &str| {
                let hex = row.get(name).unwrap_or(&row["text"]).as_str().unwrap();
                let bytes =
                    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
                String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
            };
            let detokenizer = tokenizer.detokenizer(false);
            assert_eq!(run(&tokenizer, detokenizer.clone(), &ids), text("plain"), "{file} {ids:?}");
            assert_eq!(run(&tokenizer, detokenizer.show_special(), &ids), text("text"), "{file} {ids:?}");
        }
    }
}
