//! Tokenizers against llama.cpp's ids, and against files that mean harm.

use crate::edit::{ARRAY, Edit, STRING, array};
use candlewick::Code;
use candlewick::format::gguf::{Header, Metadata};
use candlewick::store::MemorySource;
use candlewick::text::{Detokenizer, Kind, Tokenizer};
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
    let packed = fixture("tokenizers").join(format!("{name}.gz"));
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

impl Edit {
    /// Without BOS, EOS and unknown.
    fn remove_ids(self) -> Edit {
        ["bos", "eos", "unknown"]
            .iter()
            .fold(self, |edit, name| edit.remove(&format!("tokenizer.ggml.{name}_token_id")))
    }

    fn load(&self) -> candlewick::Result<Tokenizer> {
        Tokenizer::from_metadata(&metadata(self.bytes()))
    }
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

#[test]
fn wordpiece_as_transformers_has_it() {
    let golden = golden("wordpiece.json");
    let bytes = vocabulary(golden["model"].as_str().unwrap());
    for (index, kind) in golden["kinds"].as_array().unwrap().iter().enumerate() {
        let tokenizer = ["lowercase", "strip_accents"]
            .iter()
            .fold(Edit::new(&bytes), |edit, flag| {
                edit.bool(&format!("tokenizer.ggml.normalizer.{flag}"), kind[flag].as_bool().unwrap())
            })
            .load()
            .unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&case["ids"][index]), "{kind} {text:?}");
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

fn random_text(random: &mut ChaCha8Rng, len: usize) -> String {
    let mut text = String::new();
    for _ in 0..len {
        let width = [0x80, 0x80, 0x80, 0x800, 0x1_0000, 0x11_0000][random.next_u32() as usize % 6];
        text.extend(char::from_u32(random.next_u32() % width));
        text.push_str(["", "", "", " ", "  ", "\n", "'s", "123"][random.next_u32() as usize % 8]);
    }
    text
}

#[test]
fn decoding_undoes_encoding() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for file in REAL[..5].iter().map(|name| format!("ggml-vocab-{name}.gguf")) {
        let tokenizer = load(&file);
        for len in (0..200).chain([5000]) {
            let text = random_text(&mut random, len);
            let ids = tokenizer.encode(&text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids), text, "{file}");
        }
        assert_eq!(tokenizer.decode(&tokenizer.encode_with_special("  a", false).unwrap()), "  a", "{file}");
    }
}

#[test]
fn a_stream_is_the_whole_in_whole_characters() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    for name in REAL {
        let tokenizer = load(&format!("ggml-vocab-{name}.gguf"));
        // Low ids are bytes in most vocabularies; some are out of range.
        for range in [300, tokenizer.len() as u32 + 10] {
            for _ in 0..200 {
                let ids: Vec<u32> = (0..random.next_u32() % 50).map(|_| random.next_u32() % range).collect();
                let bytes: Vec<u8> =
                    ids.iter().flat_map(|&id| tokenizer.token_bytes(id).into_owned()).collect();
                let streamed = run(&tokenizer, tokenizer.detokenizer(false).show_special(), &ids);
                assert_eq!(streamed, String::from_utf8_lossy(&bytes), "{name} {ids:?}");
                assert_eq!(run(&tokenizer, tokenizer.detokenizer(true), &ids), tokenizer.decode(&ids));
            }
        }
    }
}

#[test]
fn a_text_begins_without_its_space() {
    let tokenizer = load("ggml-vocab-llama-spm.gguf");
    let ids = tokenizer.encode("Hello", false).unwrap();
    assert_eq!(run(&tokenizer, tokenizer.detokenizer(true), &ids), "Hello");
    assert_eq!(run(&tokenizer, tokenizer.detokenizer(false), &ids), " Hello");
}

#[test]
fn special_tokens() {
    let tokenizer = load("ggml-vocab-llama-bpe.gguf");
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(128_000), Some(128_001)));
    assert!(tokenizer.adds_bos() && !tokenizer.adds_eos());
    assert_eq!(tokenizer.encode_with_special("", false).unwrap(), [128_000]);
    assert!(tokenizer.is_end_of_generation(128_009) && !tokenizer.is_end_of_generation(128_000));
    assert_eq!(tokenizer.token_id("<|eot_id|>"), Some(128_009));
    assert_eq!(tokenizer.kind(128_009), Kind::Control);
    assert_eq!(tokenizer.kind(u32::MAX), Kind::Unused);
    assert_eq!(tokenizer.token_text(u32::MAX), None);
    let bert = load("ggml-vocab-bert-bge.gguf");
    assert_eq!(bert.encode_with_special("hello", false).unwrap(), [101, 7592, 102]);
}

#[test]
fn long_texts_without_a_pause() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let letters: String = (0..200_000).map(|_| (b'a' + (random.next_u32() % 26) as u8) as char).collect();
    for name in REAL {
        let tokenizer = load(&format!("ggml-vocab-{name}.gguf"));
        for unit in ["a", " ", "\n", "中", "<", "1", "\u{301}", "!\n", &letters] {
            // A quadratic step would take minutes.
            let text = unit.repeat(200_000 / unit.len());
            let ids = tokenizer.encode(&text, true).unwrap();
            if name != "bert-bge" && name != "phi-3" {
                assert_eq!(tokenizer.decode(&ids), text, "{name}: {:?}", &unit[..1]);
            }
        }
    }
}

/// A vocabulary of the given tokens alone; of a type each.
fn made_of(base: &str, tokens: &[String], kind: i32) -> Edit {
    let ggml = |name: &str| format!("tokenizer.ggml.{name}");
    let texts: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let scores: Vec<f32> = (0..tokens.len()).map(|at| at as f32).collect();
    Edit::new(&vocabulary(base))
        .strs(&ggml("tokens"), &texts)
        .i32s(&ggml("token_type"), &vec![kind; tokens.len()])
        .f32s(&ggml("scores"), &scores)
        .remove_ids()
        .bool(&ggml("add_bos_token"), false)
}

#[test]
fn hostile_vocabularies_take_no_longer() {
    const LEN: usize = 1 << 20;
    let chain = |n: usize| -> Vec<String> { (1..=n).map(|len| "a".repeat(len)).collect() };
    // Each takes hours with a step that is quadratic in the length of a text or of a token.
    let special = made_of("spm.gguf", &chain(4000), 4).load().unwrap();
    let text = "a".repeat(LEN);
    let ids = special.encode(&text, false).unwrap();
    assert_eq!(ids.len(), LEN.div_ceil(4000));
    assert!(ids[..ids.len() - 1].iter().all(|&id| id == 3999));

    // The last letters of each period belong to the longest token, whose beginning is a chain's.
    let mut tokens = chain(2000);
    tokens.push("a".repeat(2000) + "b");
    let special = made_of("spm.gguf", &tokens, 4).load().unwrap();
    let text = ("a".repeat(3999) + "b").repeat(LEN / 4000);
    assert_eq!(special.encode(&text, false).unwrap(), [1998, 2000].repeat(LEN / 4000));

    // Letters are joined one after another, each time to a longer token.
    let spm =
        made_of("spm.gguf", &chain(3000), 1).bool("tokenizer.ggml.add_space_prefix", false).load().unwrap();
    let ids = spm.encode(&"a".repeat(LEN), false).unwrap();
    assert_eq!(ids.iter().map(|id| id + 1).sum::<u32>(), LEN as u32);

    // Many tokens, all in the text.
    let many: Vec<String> = (0..60_000).map(|n| format!("<{n}>")).collect();
    let special = made_of("spm.gguf", &many, 3).load().unwrap();
    assert_eq!(special.encode(&many.concat(), true).unwrap(), Vec::from_iter(0..60_000));
    assert_eq!(special.decode(&[0]), "");

    // All of a word is read before it turns out that only a letter is a token.
    let mut tokens: Vec<String> = ["[UNK]", "▁", "▁a", "a"].map(str::to_owned).into();
    tokens.extend([format!("▁{}b", "a".repeat(20_000)), "a".repeat(20_000) + "b"]);
    let wordpiece = Edit::new(&vocabulary("ggml-vocab-bert-bge.gguf"))
        .strs("tokenizer.ggml.tokens", &tokens.iter().map(String::as_str).collect::<Vec<_>>())
        .remove("tokenizer.ggml.token_type")
        .u32("tokenizer.ggml.unknown_token_id", 0)
        .load()
        .unwrap();
    let words = ("a".repeat(100) + " ").repeat(LEN / 100);
    assert_eq!(wordpiece.encode(&words, false).unwrap().len(), 100 * (LEN / 100));
    assert_eq!(wordpiece.encode(&"a".repeat(LEN), false).unwrap(), [0]);
}

#[test]
fn gemma_4_begins_with_bos_whatever_its_file_says() {
    let bpe = Edit::new(&vocabulary("bpe.gguf")).str("tokenizer.ggml.model", "gemma4");
    for says in [true, false] {
        let tokenizer = bpe.clone().bool("tokenizer.ggml.add_bos_token", says).load().unwrap();
        assert_eq!(tokenizer.encode_with_special("a", false).unwrap()[0], tokenizer.bos().unwrap());
    }
}

#[test]
fn whitespace_cuts_words_of_plain_text() {
    let tokens: Vec<&str> = vec!["h", "e", "中", "he", "中文", "文", "<unk>"];
    let edit = Edit::new(&vocabulary("bpe.gguf"))
        .str("tokenizer.ggml.pre", "whitespace")
        .strs("tokenizer.ggml.tokens", &tokens)
        .strs("tokenizer.ggml.merges", &["h e", "中 文", "e 中"])
        .remove("tokenizer.ggml.token_type")
        .remove_ids();
    let tokenizer = edit.load().unwrap();
    assert_eq!(tokenizer.encode("he 中文", false).unwrap(), [3, 4]);
    assert!(tokenizer.encode("HE", false).unwrap().is_empty());
    let tokenizer = edit.bool("tokenizer.ggml.normalizer.lowercase", true).load().unwrap();
    assert_eq!(tokenizer.encode("HE", false).unwrap(), [3]);
}

#[test]
fn broken_vocabularies() {
    let spm = || Edit::new(&vocabulary("spm.gguf"));
    let bpe = || Edit::new(&vocabulary("bpe.gguf"));
    let ggml = |name: &str| format!("tokenizer.ggml.{name}");
    let cases = [
        ("no model", spm().remove(&ggml("model")), Code::CorruptModel),
        ("another model", spm().str(&ggml("model"), "t5"), Code::UnsupportedModel),
        ("model of another type", spm().u32(&ggml("model"), 1), Code::CorruptModel),
        ("unknown pre-tokenizer", bpe().str(&ggml("pre"), "klingon"), Code::UnsupportedModel),
        ("no tokens", bpe().remove(&ggml("tokens")), Code::CorruptModel),
        ("empty vocabulary", bpe().strs(&ggml("tokens"), &[]), Code::CorruptModel),
        ("fewer tokens than types", bpe().strs(&ggml("tokens"), &["a"]), Code::CorruptModel),
        (
            "a token twice",
            bpe().strs(&ggml("tokens"), &["a", "a"]).remove(&ggml("token_type")),
            Code::CorruptModel,
        ),
        (
            "a token of 64 KB and one byte",
            made_of("spm.gguf", &["a".repeat((1 << 16) + 1)], 1),
            Code::UnsupportedModel,
        ),
        (
            "special tokens without end",
            made_of(
                "spm.gguf",
                &(b'a'..=b'z')
                    .map(|c| char::from(c).to_string().repeat(1 << 16))
                    .chain((0..60).map(|n| format!("{n} ") + &"x".repeat(65_000)))
                    .collect::<Vec<_>>(),
                4,
            ),
            Code::UnsupportedModel,
        ),
        ("more scores than tokens", spm().f32s(&ggml("scores"), &[0.0; 5000]), Code::CorruptModel),
        ("fewer scores than tokens", spm().f32s(&ggml("scores"), &[0.0]), Code::CorruptModel),
        ("no merges", bpe().remove(&ggml("merges")), Code::CorruptModel),
        ("merges of another type", bpe().f32s(&ggml("merges"), &[0.0]), Code::CorruptModel),
        ("an id that is a text", spm().str(&ggml("eos_token_id"), "</s>"), Code::CorruptModel),
        ("a token of 64 kB", spm().strs(&ggml("tokens"), &[&"a".repeat(65_537)]), Code::UnsupportedModel),
        (
            "a list of empty tokens",
            spm().set(&ggml("tokens"), ARRAY, &[array(STRING, 1 << 22), vec![0; 8 << 22]].concat()),
            Code::UnsupportedModel,
        ),
        (
            "a list of empty merges",
            bpe().set(&ggml("merges"), ARRAY, &[array(STRING, 1 << 22), vec![0; 8 << 22]].concat()),
            Code::UnsupportedModel,
        ),
        (
            "no bos to add",
            bpe()
                .strs(&ggml("tokens"), &["a"])
                .remove(&ggml("token_type"))
                .remove(&ggml("bos_token_id"))
                .remove(&ggml("eos_token_id"))
                .bool(&ggml("add_bos_token"), true),
            Code::CorruptModel,
        ),
    ];
    for (what, edit, code) in cases {
        match edit.load() {
            Ok(_) => panic!("{what}: loaded"),
            Err(error) => assert_eq!(error.code, code, "{what}: {error}"),
        }
    }
}

#[test]
fn odd_vocabularies() {
    let ggml = |name: &str| format!("tokenizer.ggml.{name}");
    let texts = ["", " ", "Hello wörld <|end|> \0", "the\n\nthe"];
    let (spm, bpe) = (vocabulary("spm.gguf"), vocabulary("bpe.gguf"));
    let odd = [
        Edit::new(&bpe).strs(&ggml("merges"), &[]),
        Edit::new(&bpe).strs(&ggml("merges"), &["no such", "  b", "é ü", "t h", "t h", "th ", "Ġ Ġ"]),
        Edit::new(&bpe).u32(&ggml("padding_token_id"), u32::MAX).u32(&ggml("eot_token_id"), u32::MAX),
        Edit::new(&bpe).strs(&ggml("tokens"), &["", "▁", "<0xZZ>"]).remove(&ggml("token_type")).remove_ids(),
        Edit::new(&spm)
            .strs(&ggml("tokens"), &["x"])
            .remove(&ggml("token_type"))
            .remove(&ggml("scores"))
            .remove_ids()
            .bool(&ggml("add_bos_token"), false),
        Edit::new(&spm).f32s(&ggml("scores"), &[f32::NAN; 1507]),
    ];
    for edit in odd {
        let tokenizer = edit.load().unwrap();
        for text in texts {
            let ids = tokenizer.encode(text, true).unwrap();
            assert!(ids.iter().all(|&id| (id as usize) < tokenizer.len()));
            tokenizer.decode(&ids);
        }
        assert!((0..10).all(|id| tokenizer.decode(&[id]).len() < 100));
    }
}
