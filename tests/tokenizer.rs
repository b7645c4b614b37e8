//! Tokenizers against llama.cpp's own cases, and against files that mean harm.

use candlewick::model::gguf::{Header, Metadata};
use candlewick::store::MemorySource;
use candlewick::text::Tokenizer;
use std::io::Read;
use std::path::PathBuf;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers").join(name)
}

fn metadata(bytes: Vec<u8>) -> Metadata {
    let source = MemorySource::new("test.gguf", bytes);
    pollster::block_on(Header::read(&source)).unwrap().metadata
}

fn load(name: &str) -> Tokenizer {
    let path = fixture(&format!("ggml-vocab-{name}.gguf.gz"));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    Tokenizer::from_metadata(&metadata(bytes)).unwrap()
}

const VOCABULARIES: [&str; 6] = ["llama-spm", "phi-3", "llama-bpe", "qwen2", "gpt-2", "bert-bge"];

#[test]
fn agrees_with_llama_cpp() {
    for name in VOCABULARIES {
        let tokenizer = load(name);
        let read = |end: &str| std::fs::read_to_string(fixture(&format!("ggml-vocab-{name}.gguf.{end}"))).unwrap();
        let (texts, ids) = (read("inp"), read("out"));
        let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
        let mut count = 0;
        for (text, line) in texts.iter().zip(ids.lines()) {
            let wanted: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(text, false).unwrap(), wanted, "{name}: {text:?}");
            count += 1;
        }
        assert_eq!(count, 46, "{name}");
    }
}
