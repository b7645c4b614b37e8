//! The files under `tests/fixtures`, which `make.py` there makes.

use candlewick::backend::{Backend, MOST_SCORED, Step};
use candlewick::format::gguf::Header;
use candlewick::model::{Config, Decoder};
use candlewick::store::FileSource;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(relative)
}

pub(crate) fn json(relative: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(path(relative)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The model of the published story, which the demo page has too.
pub(crate) fn stories() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("www/models/stories260K.gguf")
}

/// Every model and vocabulary: file names and contents.
pub(crate) fn files() -> Vec<(String, Vec<u8>)> {
    let folders = ["models", "tokenizers"].map(|folder| std::fs::read_dir(path(folder)).unwrap());
    let mut paths: Vec<PathBuf> = folders.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.push(stories());
    paths.sort();
    let models = paths.iter().filter(|path| path.to_string_lossy().contains(".gguf"));
    let models = models.filter(|path| !path.extension().is_some_and(|end| end == "inp" || end == "out"));
    models.map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), contents(path))).collect()
}

/// A file's bytes, unpacked where it lies compressed.
pub(crate) fn contents(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    if path.extension().is_none_or(|end| end != "gz") {
        return bytes;
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked).unwrap();
    unpacked
}

/// `model` is a file name under `models`.
pub(crate) fn decoder(model: &str, backend: impl Backend + 'static, context: usize) -> Decoder {
    let source = FileSource::open(&path("models").join(model)).unwrap();
    pollster::block_on(async {
        let header = Header::read(&source).await.unwrap();
        let config = Config::from_header(&header).unwrap();
        Decoder::load(&source, &header, config, Box::new(backend), context, &mut |_| Ok(())).await.unwrap()
    })
}

/// The logits after each of `tokens`, which go in steps of `step` tokens.
pub(crate) fn all_logits(decoder: &mut Decoder, tokens: &[u32], step: usize) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    // Recurrent layers must find each step as they left the one before.
    let [state, before] = [0, 1];
    let recurrent = decoder.state_slots() > 0;
    for (index, chunk) in tokens.chunks(step).enumerate() {
        if recurrent {
            decoder.copy_state(state, before).unwrap();
        }
        // As many rows are scored at once as can be; the step comes again for the others.
        for end in (MOST_SCORED..chunk.len()).step_by(MOST_SCORED).chain([chunk.len()]) {
            let scored = (end - 1) % MOST_SCORED + 1;
            if recurrent {
                decoder.copy_state(before, state).unwrap();
            }
            decoder.run(&Step::single(chunk[..end].iter().copied(), index * step, scored)).unwrap();
            for row in 0..scored {
                let mut logits = Vec::new();
                pollster::block_on(decoder.scores(row, &mut logits)).unwrap();
                rows.push(logits);
            }
        }
    }
    rows
}

/// The prompt of a golden.
pub(crate) fn tokens(golden: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(golden["tokens"].clone()).unwrap()
}

/// KL(reference ‖ row) in nats.
pub(crate) fn kl_divergence(reference: &[f32], row: &[f32]) -> f64 {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
        let sum: f64 = row.iter().map(|&x| (x as f64 - highest).exp()).sum();
        row.iter().map(|&x| x as f64 - highest - sum.ln()).collect()
    };
    let (p, q) = (log_softmax(reference), log_softmax(row));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}
