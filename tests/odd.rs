//! Files that are odd, and run all the same: what llama.cpp loads loads here, and gives its tokens. All numbers of tokens
//! below are llama.cpp's (build 10257) for the same files.

use crate::edit::{ARRAY, Edit, F32, Tensor, array};
use crate::fixtures::{contents, path};
use candlewick::engine::{Device, Engine, Options, Prompt, Settings, inspect};
use candlewick::format::gguf::Header;
use candlewick::model::Config;
use candlewick::sampling::Sampling;
use candlewick::store::MemorySource;
use candlewick::text::Tokenizer;
use candlewick::{Code, Result};
use std::rc::Rc;

const LLAMA: [u32; 6] = [177, 3, 211, 211, 66, 66];
const QWEN2: [u32; 6] = [127, 56, 174, 241, 241, 241];
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const PATTERN: &str = "gemma3.attention.sliding_window_pattern";
/// Value types of the format.
const U8: u32 = 0;
const U32: u32 = 4;
const U64: u32 = 10;
const I64: u32 = 11;
const F64: u32 = 12;

fn model(name: &str) -> Edit {
    Edit::new(&contents(&path(&format!("models/{name}.gguf"))))
}

fn llama() -> Edit {
    model("llama")
}

fn qwen2() -> Edit {
    model("qwen2")
}

fn gemma3() -> Edit {
    model("gemma3")
}

fn load(bytes: Vec<u8>) -> Result<Engine> {
    let options = Options { device: Device::Cpu, ..Options::default() };
    let source = Rc::new(MemorySource::new("odd.gguf", bytes));
    pollster::block_on(Engine::load(source, &options, &mut |_| Ok(())))
}

/// What the model writes after "Hello the world", and the warnings about its file.
fn answer(bytes: Vec<u8>) -> Result<(Vec<u32>, Vec<String>)> {
    let engine = load(bytes)?;
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let settings = Settings { sampling, max_tokens: 6, ignore_eos: true, ..Settings::default() };
    let mut tokens = Vec::new();
    pollster::block_on(async {
        let mut generation = engine.generate(Prompt::Text("Hello the world".into()), settings).await?;
        while let Some(event) = generation.next().await? {
            use candlewick::engine::Event;
            match event {
                Event::Token { token, .. } => tokens.push(token),
                Event::Finish { token, .. } => tokens.extend(token),
                _ => {}
            }
        }
        Ok((tokens, engine.info().warnings.clone()))
    })
}

/// With `change` made to a tensor's dimensions.
fn shaped(name: &str, dimensions: &[u64]) -> Edit {
    llama().tensor(name, |tensor| tensor.dimensions = dimensions.to_vec())
}

fn aligned(alignment: usize) -> Edit {
    let mut edit = llama().u32("general.alignment", alignment as u32);
    edit.alignment = alignment;
    edit
}

/// With `new` for the token of that id.
fn token(edit: Edit, id: usize, new: &[u8]) -> Edit {
    let mut tokens = edit.strings(TOKENS);
    tokens[id] = new.to_vec();
    edit.byte_strings(TOKENS, &tokens)
}

fn with_tensor(name: &str, dimensions: &[u64], bytes: usize) -> Edit {
    let mut edit = llama();
    let (name, dimensions) = (name.to_owned(), dimensions.to_vec());
    edit.tensors.push(Tensor { name, dimensions, kind: F32, offset: None, data: vec![0; bytes] });
    edit
}

/// The file with bytes that are not UTF-8 in the place of `marker`.
fn not_utf8(edit: &Edit, marker: &str) -> Vec<u8> {
    let mut bytes = edit.bytes();
    let at = bytes.windows(marker.len()).position(|window| window == marker.as_bytes()).unwrap();
    bytes[at..at + 2].copy_from_slice(b"\xE9\xFF");
    bytes
}

#[test]
fn what_llama_cpp_loads() {
    let layered = llama()
        .i32s("llama.attention.head_count", &[4, 4])
        .i32s("llama.attention.head_count_kv", &[2, 2])
        .i32s("llama.feed_forward_length", &[96, 96]);
    let merges = |odd: &[&[u8]]| {
        let mut merges: Vec<Vec<u8>> = odd.iter().map(|merge| merge.to_vec()).collect();
        merges.extend(qwen2().strings(MERGES));
        qwen2().byte_strings(MERGES, &merges).bytes()
    };
    let (mut version_2, mut reversed) = (llama(), llama());
    version_2.version = 2;
    reversed.tensors.reverse();
    let cases: Vec<(&str, Vec<u8>, [u32; 6])> = vec![
        ("as it is", llama().bytes(), LLAMA),
        ("a name in Latin-1", not_utf8(&llama().str("general.name", "café"), "café"), LLAMA),
        ("a name with a byte of 0", llama().str("general.name", "a\0b").bytes(), LLAMA),
        ("a key that is no text", not_utf8(&llama().u32("an.odd.key", 1), "an.odd"), LLAMA),
        ("a token that is no text", token(llama(), 285, b"\xFF\xFE").bytes(), LLAMA),
        ("a token of half a character", token(llama(), 285, b"\xE2\x96").bytes(), LLAMA),
        ("a token with a byte of 0", token(llama(), 285, b"ab\0cd").bytes(), LLAMA),
        ("tokens without text", token(token(llama(), 285, b""), 286, b"").bytes(), LLAMA),
        ("BPE, a token that is no text", token(qwen2(), 285, b"\xFF").bytes(), QWEN2),
        ("a merge that is no text", merges(&[b"\xFF\xFE h", b"a\xFF b"]), QWEN2),
        ("merges without a space", merges(&[b"nospace", b"x"]), QWEN2),
        ("empty merges", merges(&[b"", b" ", b" x", b"x "]), QWEN2),
        ("three dimensions", shaped("token_embd.weight", &[64, 288, 1]).bytes(), LLAMA),
        ("four dimensions", shaped("token_embd.weight", &[64, 288, 1, 1]).bytes(), LLAMA),
        ("a vector of four dimensions", shaped("output_norm.weight", &[64, 1, 1, 1]).bytes(), LLAMA),
        ("a layer's of four", shaped("blk.0.attn_q.weight", &[64, 64, 1, 1]).bytes(), LLAMA),
        ("one number a layer", layered.bytes(), LLAMA),
        ("an alignment of 64", aligned(64).bytes(), LLAMA),
        ("an alignment of 4096", aligned(4096).bytes(), LLAMA),
        ("version 2", version_2.bytes(), LLAMA),
        ("something behind the tensors", [llama().bytes(), vec![7; 777]].concat(), LLAMA),
        ("tensors in another order", reversed.bytes(), LLAMA),
        (
            "types of tokens as U32",
            {
                let (_, types) =
                    llama().entries.into_iter().find(|(key, _)| key.ends_with("token_type")).unwrap();
                let types = [&array(U32, 288), &types[16..]].concat();
                llama().set("tokenizer.ggml.token_type", ARRAY, &types).bytes()
            },
            LLAMA,
        ),
        ("whole numbers for scores", llama().i32s("tokenizer.ggml.scores", &[0; 288]).bytes(), LLAMA),
        ("a template of several", llama().strs("tokenizer.chat_template", &["a", "b"]).bytes(), LLAMA),
        (
            "a template that is no text",
            not_utf8(&llama().str("tokenizer.chat_template", "{{é}}"), "{{é"),
            LLAMA,
        ),
        ("every other layer slides", gemma3().u32(PATTERN, 2).bytes(), [280, 10, 10, 90, 63, 63]),
        (
            "the same as a list",
            gemma3().bools(PATTERN, &[1, 0, 1, 0, 1, 0, 1]).bytes(),
            [280, 10, 10, 90, 63, 63],
        ),
        (
            "as whole numbers",
            gemma3().i32s(PATTERN, &[1, 0, 1, 0, 1, 0, 1]).bytes(),
            [280, 10, 10, 90, 63, 63],
        ),
        ("every layer slides", gemma3().u32(PATTERN, 0).bytes(), [280, 10, 31, 31, 31, 31]),
        ("the same as a list of all", gemma3().bools(PATTERN, &[1; 7]).bytes(), [280, 10, 31, 31, 31, 31]),
        ("the last sees all", gemma3().u32(PATTERN, 7).bytes(), [132; 6]),
        ("the last as a list", gemma3().bools(PATTERN, &[1, 1, 1, 1, 1, 1, 0]).bytes(), [132; 6]),
        ("the usual one as a list", gemma3().bools(PATTERN, &[1, 1, 1, 1, 1, 0, 1]).bytes(), [202; 6]),
    ];
    for (what, bytes, expected) in cases {
        match answer(bytes) {
            Ok((tokens, warnings)) => assert_eq!((tokens, warnings), (expected.to_vec(), vec![]), "{what}"),
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

/// Beyond llama.cpp: what does not matter to the answer.
#[test]
fn what_else_loads() {
    let name = "n".repeat(63);
    let cases = [
        ("an alignment of 8", aligned(8)),
        ("an alignment as U64", llama().set("general.alignment", U64, &32u64.to_le_bytes())),
        ("sizes as U64", llama().set("llama.block_count", U64, &2u64.to_le_bytes())),
        ("sizes as I64", llama().set("llama.embedding_length", I64, &64i64.to_le_bytes())),
        ("sizes as F64", llama().set("llama.feed_forward_length", F64, &96f64.to_le_bytes())),
        (
            "a small number as F64",
            llama().set("llama.attention.layer_norm_rms_epsilon", F64, &1e-5f64.to_le_bytes()),
        ),
        ("a truth as U8", llama().set("tokenizer.ggml.add_bos_token", U8, &[1])),
        ("a truth as U32", llama().u32("tokenizer.ggml.add_bos_token", 1)),
        ("scores as F64", {
            let zeros = [array(F64, 288), vec![0; 288 * 8]].concat();
            llama().set("tokenizer.ggml.scores", ARRAY, &zeros)
        }),
        ("a tensor that nobody wants", with_tensor("unused.weight", &[4], 16)),
        ("one of the longest name", with_tensor(&name, &[4], 16)),
        ("one without numbers", with_tensor("empty.weight", &[0], 0)),
        ("one of a single number", with_tensor("scalar", &[], 4)),
        ("arrays of arrays", llama().set("an.array", ARRAY, &[array(ARRAY, 1), array(U32, 0)].concat())),
    ];
    for (what, edit) in cases {
        let (tokens, warnings) = answer(edit.bytes()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((&tokens[..], &warnings[..]), (&LLAMA[..], &[][..]), "{what}");
    }
    let (tokens, _) = answer(not_utf8(&with_tensor("an.odd.tensor", &[4], 16), "an.odd")).unwrap();
    assert_eq!(tokens, LLAMA);
}

#[test]
fn what_cannot_be_right() {
    let kv = "llama.attention.head_count_kv";
    let twice = |edit: Edit, key: &str| {
        let mut edit = edit.str(key, "x");
        edit.entries.push(edit.entries[edit.entries.len() - 1].clone());
        edit
    };
    let cases = [
        ("a key twice", twice(llama(), "an.odd.key"), Code::CorruptModel, "twice"),
        ("a name of 64 bytes", with_tensor(&"n".repeat(64), &[4], 16), Code::CorruptModel, "64 bytes"),
        ("a name of 1 MB", with_tensor(&"n".repeat(1 << 20), &[4], 16), Code::CorruptModel, "more than 63"),
        (
            "five dimensions",
            shaped("token_embd.weight", &[64, 288, 1, 1, 1]),
            Code::CorruptModel,
            "5 dimensions",
        ),
        ("a one in front", shaped("token_embd.weight", &[1, 64, 288]), Code::CorruptModel, "token"),
        ("another third", shaped("token_embd.weight", &[64, 144, 2]), Code::CorruptModel, "token"),
        ("an alignment of 33", llama().u32("general.alignment", 33), Code::CorruptModel, "alignment"),
        ("an alignment of 0", llama().u32("general.alignment", 0), Code::CorruptModel, "alignment"),
        ("layers that differ, and do not", llama().i32s(kv, &[2, 4]), Code::CorruptModel, "blk.1.attn_k"),
        (
            "widths that differ, and do not",
            llama().i32s("llama.feed_forward_length", &[96, 128]),
            Code::CorruptModel,
            "blk.1.ffn",
        ),
        (
            "heads that differ, and do not",
            llama().i32s("llama.attention.head_count", &[4, 2]),
            Code::CorruptModel,
            "blk.1.attn_q",
        ),
        ("too few values", llama().i32s(kv, &[2]), Code::CorruptModel, "1 values for 2 layers"),
        ("no values", llama().i32s(kv, &[]), Code::CorruptModel, "0 values for 2 layers"),
        ("a value of 0 for each", llama().i32s(kv, &[0, 0]), Code::CorruptModel, "is 0"),
        ("too short a pattern", gemma3().bools(PATTERN, &[1, 0, 1]), Code::CorruptModel, PATTERN),
        (
            "half a layer",
            llama().set("llama.block_count", F64, &1.5f64.to_le_bytes()),
            Code::CorruptModel,
            "block",
        ),
        ("a token twice", token(llama(), 285, b"the"), Code::CorruptModel, "same"),
    ];
    for (what, edit, code, part) in cases {
        let edit = if what == "a token twice" { token(edit, 286, b"the") } else { edit };
        match answer(edit.bytes()) {
            Ok(_) => panic!("{what}: loaded"),
            Err(error) => {
                assert_eq!(error.code, code, "{what}: {error}");
                assert!(error.message.contains(part), "{what}: {error}");
            }
        }
    }
}

#[test]
fn ids_of_special_tokens_that_are_none() {
    let names = "bos eos unknown seperator padding eot eom fim_pre fim_suf fim_mid fim_pad fim_rep fim_sep";
    for name in names.split(' ') {
        let key = format!("tokenizer.ggml.{name}_token_id");
        for given in [288, 9999, u32::MAX] {
            for (edit, expected) in [(llama(), LLAMA), (qwen2(), QWEN2)] {
                let (tokens, warnings) = answer(edit.u32(&key, given).bytes()).unwrap();
                assert_eq!(tokens, expected, "{key} is {given}");
                let [warning] = &warnings[..] else { panic!("{key}: {warnings:?}") };
                assert!(warning.contains(&key) && warning.contains(&given.to_string()), "{warning}");
            }
        }
    }
    let negative = llama().set("tokenizer.ggml.padding_token_id", 5, &(-1i32).to_le_bytes());
    assert_eq!(answer(negative.bytes()).unwrap().0, LLAMA);
    // Not added: as without any.
    let without =
        llama().u32("tokenizer.ggml.bos_token_id", 9999).bool("tokenizer.ggml.add_bos_token", false);
    assert_eq!(answer(without.bytes()).unwrap().0, [177, 35, 76, 275, 66, 211]);
    // llama.cpp's own takes its place where it is to be added.
    let added = qwen2().u32("tokenizer.ggml.bos_token_id", 9999).bool("tokenizer.ggml.add_bos_token", true);
    let engine = load(added.bytes()).unwrap();
    let ids = engine.language().tokenizer.encode_with_special("Hello the world", true).unwrap();
    assert_eq!(ids, [11, 72, 101, 108, 108, 111, 32, 261, 266, 111, 114, 108, 100]);

    let source = MemorySource::new("odd.gguf", llama().u32("tokenizer.ggml.eos_token_id", 9999).bytes());
    let inspection = pollster::block_on(inspect(&source, &Options::default())).unwrap();
    assert_eq!((inspection.unsupported, inspection.warnings.len()), (None, 1));
}

#[test]
fn yarn_without_its_original_length() {
    let yarn = llama().str("llama.rope.scaling.type", "yarn").set(
        "llama.rope.scaling.factor",
        6,
        &4f32.to_le_bytes(),
    );
    let config = |edit: &Edit| {
        let source = MemorySource::new("yarn.gguf", edit.bytes());
        pollster::block_on(async { Config::from_header(&Header::read(&source).await?) }).unwrap()
    };
    let key = "llama.rope.scaling.original_context_length";
    assert_eq!(config(&yarn), config(&yarn.clone().u32(key, 512)));
    assert_ne!(config(&yarn), config(&yarn.clone().u32(key, 128)));
    assert_eq!(answer(yarn.bytes()).unwrap().0, [177, 3, 211, 211, 211, 211]);
}

/// A token may be any bytes: they stand for themselves, going in and coming out.
#[test]
fn tokens_that_are_bytes() {
    let tokenizer = |edit: &Edit| {
        let source = MemorySource::new("bytes.gguf", edit.bytes());
        Tokenizer::from_metadata(&pollster::block_on(Header::read(&source)).unwrap().metadata).unwrap()
    };
    // The first byte of é has no other token.
    let spm = tokenizer(&token(token(llama(), 198, b"zz"), 270, b"\xC3"));
    let ids = spm.encode("éa", false).unwrap();
    assert_eq!((&ids[..], spm.decode(&ids).as_str()), (&[267, 270, 172, 100][..], "éa"));
    assert_eq!(spm.token_bytes(270), &b"\xC3"[..]);
    assert_eq!(spm.token_text(270).unwrap(), "\u{FFFD}");
    assert_eq!(spm.decode(&[270, 267]), "\u{FFFD} ");
    let bpe = tokenizer(&token(token(qwen2(), 195, b"zz"), 270, b"\xC3").byte_strings(MERGES, &[""]));
    let ids = bpe.encode("éa", false).unwrap();
    assert_eq!((&ids[..], bpe.decode(&ids).as_str()), (&[270, 169, 97][..], "éa"));
    // What is no text is in none, also where it is a special token.
    let types: Vec<i32> = (0..288).map(|id| if id == 285 { 4 } else { 1 }).collect();
    let special = token(qwen2(), 285, b"\xA9").i32s("tokenizer.ggml.token_type", &types);
    let special = tokenizer(&special);
    assert_eq!(special.decode(&special.encode("é", true).unwrap()), "é");
}
