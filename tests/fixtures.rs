//! The files under `tests/fixtures`, which `make.py` there makes.

use candlewick::backend::Backend;
use candlewick::model::gguf::Header;
use candlewick::model::{Config, Decoder};
use candlewick::store::FileSource;
use std::path::PathBuf;

pub fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(relative)
}

pub fn json(relative: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(path(relative)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// `model` is a file name under `models`.
pub fn decoder(model: &str, backend: impl Backend + 'static, context: usize) -> Decoder {
    let source = FileSource::open(&path("models").join(model)).unwrap();
    pollster::block_on(async {
        let header = Header::read(&source).await.unwrap();
        let config = Config::from_header(&header).unwrap();
        Decoder::load(&source, &header, config, Box::new(backend), context, &mut |_| Ok(())).await.unwrap()
    })
}

/// The logits after each of `tokens`, which go in steps of `step` tokens.
pub fn all_logits(decoder: &mut Decoder, tokens: &[u32], step: usize) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    for (index, chunk) in tokens.chunks(step).enumerate() {
        decoder.forward(chunk, index * step).unwrap();
        for row in 0..chunk.len() {
            let mut logits = Vec::new();
            pollster::block_on(decoder.logits(row, &mut logits)).unwrap();
            rows.push(logits);
        }
    }
    rows
}
