//! Files that mean harm: whatever is in one, the end is a model that runs or an error with its code.

use crate::allocator;
use crate::edit::{ARRAY, Edit, F32, STRING, array, numbers, string};
use crate::fixtures::{contents, files, path, stories};
use candlewick::chat::{Conversation, message};
use candlewick::engine::{Engine, Language, Options, Prompt, Settings};
use candlewick::format::gguf::Header;
use candlewick::model::Config;
use candlewick::sampling::Sampling;
use candlewick::store::MemorySource;
use candlewick::{Code, Result};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Numbers that break arithmetic.
const EXTREMES: [u64; 10] =
    [0, 1, 7, 1 << 20, (1 << 31) - 1, 1 << 31, u32::MAX as u64, i64::MAX as u64, 1 << 63, u64::MAX];

/// Everything that can be done with a file; whether it answered. Models that `answered` knows are
/// loaded, but not run again: their vocabulary may differ, and nothing else.
async fn use_file(bytes: Vec<u8>, answered: &mut BTreeSet<String>) -> Result<bool> {
    let source = Rc::new(MemorySource::new("hostile.gguf", bytes));
    let header = Header::read(source.as_ref()).await?;
    let config = Config::from_header(&header);
    let language = Language::from_header(&header)?;
    let ids = language.tokenizer.encode_with_special("Once upon <|im_start|> ät 世 12", true)?;
    language.tokenizer.decode(&ids);
    let _ = language.render(&Conversation::new(vec![message("system", "S"), message("user", "Hi")]));

    let engine = Engine::load(source, &Options::default(), &mut |_| Ok(())).await?;
    let start = header.tensors[0].offset;
    let places = header.tensors.iter().map(|tensor| (tensor.offset.wrapping_sub(start), &tensor.name));
    if !answered.insert(format!("{config:?} {:?}", places.collect::<Vec<_>>())) {
        return Ok(false);
    }
    let sampling = Sampling { seed: Some(1), ..Sampling::default() };
    let settings = Settings { sampling, max_tokens: 2, ..Settings::default() };
    let mut generation = engine.generate(Prompt::Text("Once".to_owned()), settings).await?;
    while generation.next().await?.is_some() {}
    Ok(true)
}

/// What came of many files.
#[derive(Default)]
struct Tally {
    answered: BTreeSet<String>,
    outcomes: BTreeMap<String, usize>,
    failures: Vec<String>,
    slowest: Option<(Duration, String)>,
}

impl Tally {
    /// Tries a file whose weights are damaged too.
    fn try_weights(&mut self, what: impl Fn() -> String, bytes: Vec<u8>) {
        self.answered.clear();
        self.try_file(what, bytes);
    }

    fn try_file(&mut self, what: impl Fn() -> String, bytes: Vec<u8>) {
        let start = Instant::now();
        let answered = AssertUnwindSafe(&mut self.answered);
        let outcome = match catch_unwind(|| pollster::block_on(use_file(bytes, { answered }.0))) {
            Ok(Ok(true)) => "answered".to_owned(),
            Ok(Ok(false)) => "loaded".to_owned(),
            Ok(Err(error)) => {
                assert!(!error.message.is_empty(), "{}", what());
                error.code.as_str().to_owned()
            }
            Err(_) => {
                self.failures.push(what());
                "panicked".to_owned()
            }
        };
        *self.outcomes.entry(outcome).or_default() += 1;
        let time = start.elapsed();
        if self.slowest.as_ref().is_none_or(|(slowest, _)| time > *slowest) {
            self.slowest = Some((time, what()));
        }
    }

    /// At least `least` files were tried, and nothing bad came of any.
    fn check(self, least: usize) {
        let (time, what) = self.slowest.unwrap();
        println!("{:?}; slowest: {time:?}, {what}", self.outcomes);
        assert!(self.failures.is_empty(), "{} panicked:\n{}", self.failures.len(), self.failures.join("\n"));
        assert!(self.outcomes.values().sum::<usize>() >= least);
    }
}

/// Small files of every kind: two tokenizers, several layouts, a template.
fn samples() -> [(&'static str, Vec<u8>); 9] {
    [
        ("stories260K", contents(&stories())),
        ("gemma3", contents(&path("models/gemma3.gguf"))),
        ("qwen2", contents(&path("models/qwen2.gguf"))),
        ("phi3-longrope", contents(&path("models/phi3-longrope.gguf"))),
        ("qwen35moe", contents(&path("models/qwen35moe.gguf"))),
        ("granitehybrid", contents(&path("models/granitehybrid.gguf"))),
        ("quant-iq4_xs", contents(&path("models/quant-iq4_xs.gguf"))),
        ("bpe", contents(&path("tokenizers/bpe.gguf"))),
        ("spm", contents(&path("tokenizers/spm.gguf"))),
    ]
}

#[test]
fn sound_files() {
    let outcome = |bytes| pollster::block_on(use_file(bytes, &mut BTreeSet::new()));
    for (name, bytes) in samples() {
        // Taking a file apart and putting it together changes nothing that matters.
        let edited = Edit::new(&bytes).bytes();
        for bytes in [bytes, edited] {
            match outcome(bytes) {
                Ok(answered) => assert!(answered, "{name}"),
                Err(error) => {
                    assert!(name == "bpe" || name == "spm", "{name}: {error}");
                    assert_eq!(error.code, Code::UnsupportedModel, "{name}: {error}");
                }
            }
        }
    }
}

#[test]
fn every_number_of_a_header() {
    let mut tally = Tally::default();
    for (name, bytes) in samples() {
        for place in numbers(&bytes) {
            let mut little_endian = [0; 8];
            little_endian[..place.len()].copy_from_slice(&bytes[place.clone()]);
            let number = u64::from_le_bytes(little_endian);
            let mut before = number;
            for value in EXTREMES.into_iter().chain([number.wrapping_add(1), number.wrapping_sub(1)]) {
                let mut changed = bytes.clone();
                changed[place.clone()].copy_from_slice(&value.to_le_bytes()[..place.len()]);
                let now = value & (u64::MAX >> (64 - 8 * place.len()));
                if now != number && now != before {
                    tally.try_file(|| format!("{name}: {number} at {place:?} is {value}"), changed);
                }
                before = now;
            }
        }
    }
    tally.check(5000);
}

#[test]
fn cut_anywhere() {
    let mut tally = Tally::default();
    for (name, bytes) in files() {
        let places = numbers(&bytes);
        let header = places.last().unwrap().end;
        let ends = places.iter().flat_map(|place| [place.start, place.start + 1, place.end]);
        let in_data = [header, header + 1, (header + bytes.len()) / 2, bytes.len() - 1];
        for end in ends.step_by(1 + places.len() / 20).chain(in_data).filter(|&end| end < bytes.len()) {
            tally.try_file(|| format!("{name} cut at {end}"), bytes[..end].to_vec());
        }
    }
    tally.check(1000);
}

#[test]
fn random_damage() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut tally = Tally::default();
    for (name, bytes) in files() {
        let header = numbers(&bytes).last().unwrap().end;
        // The large vocabularies take a tenth of a second each.
        let rounds = if header > 200_000 { 4 } else { 24 };
        for round in 0..rounds {
            let mut below = |n: usize| random.next_u64() as usize % n.max(1);
            let mut changed = bytes.clone();
            // Mostly the header's first part, where the keys are.
            let region = [512.min(header), 2048.min(header), header, bytes.len()][round % 4];
            for _ in 0..=below(4) {
                let at = below(region);
                match below(4) {
                    0 => changed[at] ^= 1 << below(8),
                    1 => {
                        let end = (at + 1 + below(16)).min(region);
                        let byte = [0, 0xFF, below(256) as u8][below(3)];
                        changed[at..end].fill(byte);
                    }
                    2 => {
                        let (from, len) = (below(region), below(32));
                        let (from, len) = (from.min(region - len.min(region)), len.min(region - at));
                        changed.copy_within(from..(from + len).min(region), at);
                    }
                    _ => drop(changed.drain(at..(at + 1 + below(8)).min(region))),
                }
                if changed.len() < region {
                    changed.resize(bytes.len(), 0);
                }
            }
            tally.try_weights(|| format!("{name}, round {round}"), changed);
        }
    }
    tally.check(900);
}

/// Tokens and merges of any bytes and lengths.
#[test]
fn strings_of_any_bytes() {
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let mut tally = Tally::default();
    for (name, bytes) in samples() {
        let edit = Edit::new(&bytes);
        let lists = ["tokenizer.ggml.tokens", "tokenizer.ggml.merges"];
        for round in 0..12 {
            let mut below = |n: usize| random.next_u64() as usize % n;
            let mut changed = edit.clone();
            for key in lists.into_iter().filter(|key| edit.entries.iter().any(|(known, _)| known == key)) {
                let mut strings = edit.strings(key);
                for _ in 0..=below(strings.len()) {
                    let at = below(strings.len());
                    let letters = [&b"\xC3\xE2\x96\x81\xFF ab"[..], b"\0 a", b"<>|x\xA9"][below(3)];
                    strings[at] = (0..below(6)).map(|_| letters[below(letters.len())]).collect();
                }
                changed = changed.byte_strings(key, &strings);
            }
            for id in ["bos", "eos", "unknown", "padding", "eot"] {
                if below(3) == 0 {
                    changed = changed.u32(&format!("tokenizer.ggml.{id}_token_id"), below(600) as u32);
                }
            }
            if below(2) == 0 {
                // So that no two are the same.
                let mut tokens = changed.strings(lists[0]);
                tokens.iter_mut().enumerate().for_each(|(id, token)| token.extend(id.to_string().bytes()));
                changed = changed.byte_strings(lists[0], &tokens);
            }
            tally.answered.clear();
            tally.try_file(|| format!("{name}, round {round}"), changed.bytes());
        }
    }
    tally.check(70);
}

/// Values of every type, sound in themselves.
fn values() -> Vec<(&'static str, u32, Vec<u8>)> {
    let nested = [array(ARRAY, 1), array(ARRAY, 1), array(STRING, 1), string("x")].concat();
    let many = [array(0, 70_000), vec![1; 70_000]].concat();
    vec![
        ("an empty string", STRING, string("")),
        ("a string", STRING, string("llama")),
        ("a string that is no text", STRING, [&2u64.to_le_bytes()[..], &[0xFF, 0xC0]].concat()),
        ("true", 7, vec![1]),
        ("NaN", 6, f32::NAN.to_le_bytes().to_vec()),
        ("infinity", 12, f64::INFINITY.to_le_bytes().to_vec()),
        ("more than F32 holds", 12, f64::MAX.to_le_bytes().to_vec()),
        ("almost nothing", 6, f32::MIN_POSITIVE.to_le_bytes().to_vec()),
        ("a large number", 6, f32::MAX.to_le_bytes().to_vec()),
        ("0", 4, vec![0; 4]),
        ("3", 0, vec![3]),
        ("-1", 5, vec![0xFF; 4]),
        ("65535", 2, vec![0xFF; 2]),
        ("2^20", 4, (1u32 << 20).to_le_bytes().to_vec()),
        ("2^31", 10, (1u64 << 31).to_le_bytes().to_vec()),
        ("2^32-1", 4, vec![0xFF; 4]),
        ("2^64-1", 10, vec![0xFF; 8]),
        ("-2^63", 11, i64::MIN.to_le_bytes().to_vec()),
        ("an empty array", ARRAY, array(STRING, 0)),
        ("an array of strings", ARRAY, [array(STRING, 2), string(""), string("a b")].concat()),
        ("an array of NaN", ARRAY, [array(6, 1), f32::NAN.to_le_bytes().to_vec()].concat()),
        ("an array of negative numbers", ARRAY, [array(11, 1), vec![0xFF; 8]].concat()),
        ("an array of truths", ARRAY, [array(7, 2), vec![0, 1]].concat()),
        ("seven truths", ARRAY, [array(7, 7), vec![0, 1, 1, 0, 1, 0, 0]].concat()),
        ("two numbers that differ", ARRAY, [array(4, 2), vec![4, 0, 0, 0, 2, 0, 0, 0]].concat()),
        ("two that are the same", ARRAY, [array(0, 2), vec![4, 4]].concat()),
        ("a whole number as F64", 12, 64f64.to_le_bytes().to_vec()),
        ("half of one", 6, 0.5f32.to_le_bytes().to_vec()),
        ("a long array", ARRAY, many),
        ("arrays in arrays", ARRAY, nested),
        ("arrays too deep", ARRAY, [array(ARRAY, 1).repeat(6), array(0, 0)].concat()),
        ("an array longer than the file", ARRAY, array(0, u64::MAX)),
        ("an array of endless strings", ARRAY, [array(STRING, 1 << 60), string("")].concat()),
    ]
}

#[test]
fn every_key_with_every_type() {
    // Read where they are there; no fixture has them all.
    let more = [
        "{}.attention.key_length",
        "{}.attention.value_length",
        "{}.attention.scale",
        "{}.attention.sliding_window",
        "{}.attention.sliding_window_pattern",
        "{}.attn_logit_softcapping",
        "{}.final_logit_softcapping",
        "{}.expert_count",
        "{}.rope.dimension_count",
        "{}.rope.freq_base_swa",
        "{}.rope.scale_linear",
        "{}.rope.scaling.type",
        "{}.rope.scaling.factor",
        "{}.rope.scaling.attn_factor",
        "{}.rope.scaling.original_context_length",
        "general.alignment",
        "general.basename",
        "general.finetune",
        "tokenizer.chat_template",
        "tokenizer.chat_template.tool_use",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.scores",
        "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.add_eos_token",
        "tokenizer.ggml.add_space_prefix",
        "tokenizer.ggml.remove_extra_whitespaces",
        "tokenizer.ggml.precompiled_charsmap",
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
        "tokenizer.ggml.unknown_token_id",
        "tokenizer.ggml.seperator_token_id",
        "tokenizer.ggml.padding_token_id",
        "tokenizer.ggml.cls_token_id",
        "tokenizer.ggml.mask_token_id",
        "tokenizer.ggml.fim_pre_token_id",
        "tokenizer.ggml.fim_pad_token_id",
    ];
    let mut tally = Tally::default();
    for (name, bytes) in samples().into_iter().filter(|(name, _)| *name != "phi3-longrope") {
        let edit = Edit::new(&bytes);
        let (_, architecture) = edit.entries.iter().find(|(key, _)| key == "general.architecture").unwrap();
        let architecture = String::from_utf8(architecture[12..].to_vec()).unwrap();
        let more = more.map(|key| key.replace("{}", &architecture));
        let mut keys: Vec<String> = edit.entries.iter().map(|(key, _)| key.clone()).chain(more).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            tally.try_file(|| format!("{name} without {key}"), edit.clone().remove(&key).bytes());
            for (value, kind, bytes) in values() {
                let edit = edit.clone().set(&key, kind, &bytes);
                tally.try_file(|| format!("{name}: {key} is {value}"), edit.bytes());
            }
        }
    }
    tally.check(5000);
}

#[test]
fn every_tensor() {
    let mut tally = Tally::default();
    for (name, bytes) in &samples()[..4] {
        let edit = Edit::new(bytes);
        for index in 0..edit.tensors.len() {
            let tensor = edit.tensors[index].name.clone();
            // One layer stands for all.
            if tensor.starts_with("blk.") && !tensor.starts_with("blk.0.") {
                continue;
            }
            let mut changed = |what: &str, change: &dyn Fn(&mut Edit)| {
                let mut edit = edit.clone();
                change(&mut edit);
                tally.try_weights(|| format!("{name}: {tensor} {what}"), edit.bytes());
            };
            changed("is missing", &|edit| drop(edit.tensors.remove(index)));
            changed("appears twice", &|edit| edit.tensors.push(edit.tensors[index].clone()));
            changed("overlaps", &|edit| edit.tensors[index].offset = Some(32));
            changed("is not aligned", &|edit| edit.tensors[index].offset = Some(1));
            changed("is transposed", &|edit| edit.tensors[index].dimensions.reverse());
            changed("has no dimensions", &|edit| edit.tensors[index].dimensions.clear());
            changed("has one dimension", &|edit| {
                edit.tensors[index].dimensions = vec![edit.tensors[index].dimensions.iter().product()]
            });
            changed("has one dimension more", &|edit| edit.tensors[index].dimensions.push(1));
            changed("has four dimensions", &|edit| edit.tensors[index].dimensions.resize(4, 1));
            changed("has five dimensions", &|edit| edit.tensors[index].dimensions.resize(5, 1));
            changed("has no numbers", &|edit| edit.tensors[index].dimensions.push(0));
            changed("is flat", &|edit| edit.tensors[index].dimensions.insert(0, 1));
            changed("overflows", &|edit| edit.tensors[index].dimensions = vec![1 << 32, 1 << 32]);
            for kind in [1, 2, 8, 14, 20, 30, 200] {
                changed(&format!("is of type {kind}"), &|edit| edit.tensors[index].kind = kind);
            }
            for number in [f32::NAN, f32::INFINITY, f32::MAX, 0.0] {
                changed(&format!("is full of {number}"), &|edit| {
                    assert_eq!(edit.tensors[index].kind, F32);
                    edit.tensors[index].data.as_chunks_mut().0.fill(number.to_le_bytes());
                });
            }
        }
    }
    tally.check(800);
}

/// The most bytes that reading the header of a file had allocated.
fn header_memory(bytes: Vec<u8>) -> (Result<Header>, usize) {
    let source = MemorySource::new("test.gguf", bytes);
    allocator::peak(|| pollster::block_on(Header::read(&source)))
}

#[test]
fn reading_a_header_takes_no_more_than_the_header() {
    for (name, bytes) in files() {
        let header = numbers(&bytes).last().unwrap().end;
        // It is read in pieces of 1 MiB, 2 MiB and so on: at the end there are the last one and all
        // before it, and at most the same again while they are put together.
        let read = header.max(1 << 20).next_power_of_two();
        let (result, peak) = header_memory(bytes);
        let entries = result.unwrap().tensors.len() + 100;
        assert!(peak <= 2 * read + 400 * entries, "{name}: {peak} bytes for {header}");
    }
}

/// What a header claims costs nothing until the file bears it out.
#[test]
fn claims_take_no_memory() {
    let start = |tensors: u64, entries: u64| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
    };
    let key = |kind: u32| [string("key"), kind.to_le_bytes().to_vec()].concat();
    let huge = [u64::MAX, u64::MAX / 8, 1 << 60, 1 << 40, 1 << 31, u32::MAX as u64, 65_536];
    let mut claims = Vec::new();
    for n in huge {
        claims.push(start(n, 0));
        claims.push(start(0, n));
        claims.push([start(0, 1), n.to_le_bytes().to_vec()].concat());
        claims.push([start(0, 1), key(STRING), n.to_le_bytes().to_vec()].concat());
        for element in [0, 6, STRING, ARRAY, 12] {
            claims.push([start(0, 1), key(ARRAY), array(element, n)].concat());
            claims.push([start(0, 1), key(ARRAY), array(ARRAY, 1), array(element, n)].concat());
        }
        let tensor = [string("t"), 1u32.to_le_bytes().to_vec(), n.to_le_bytes().to_vec(), vec![0; 12]];
        claims.push([start(1, 0), tensor.concat()].concat());
    }
    for mut claim in claims {
        // With something behind it, so that the first check does not see the end.
        for behind in [0, 100, 100_000] {
            claim.resize(claim.len() + behind, 0);
            let (len, what) = (claim.len(), format!("{:?}", &claim[..claim.len().min(64)]));
            let (result, peak) = header_memory(claim.clone());
            // A tensor without name and dimensions has 24 bytes in the file, and a record of 128 in a list that doubles.
            assert!(peak < 12 * len + 10_000, "{peak} bytes for {len}: {what}");
            assert!(result.is_err() || behind > 0, "{what}");
        }
    }
}
