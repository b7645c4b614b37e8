//! Every model's logits to the last bit, as they were on 2026-11-30, before steps of several sequences.
//!
//! What is exact here is ours: orders of sums. candle's own products of floats go by the processor, so that the recorded
//! numbers count where these give what they gave there.

use crate::fixtures::{all_logits, decoder, path};
use candlewick::backend::cpu::Cpu;
use candlewick::format::gguf::Header;
use candlewick::model::{Config, Encoder};
use candlewick::store::FileSource;
use pollster::block_on;
use std::collections::BTreeMap;

/// A model of floats alone, by which a processor is known.
const PROBE: &str = "llama";
const RECORD: &str = "goldens/bits.json";

/// FNV-1a, 64 bits.
fn hash(rows: &[Vec<f32>]) -> String {
    let bytes = rows.iter().flatten().flat_map(|number| number.to_bits().to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn rows(model: &str, config: &Config, tokens: &[u32]) -> Vec<Vec<f32>> {
    let file = format!("{model}.gguf");
    if !config.family.encoder {
        return all_logits(&mut decoder(&file, Cpu::new(), tokens.len()), tokens, 64);
    }
    let source = FileSource::open(&path("models").join(file)).unwrap();
    block_on(async {
        let header = Header::read(&source).await.unwrap();
        let (cpu, len) = (Box::new(Cpu::new()), config.trained_context.min(tokens.len()));
        let progress = &mut |_| Ok(());
        let encoder = Encoder::load(&source, &header, config.clone(), cpu, len, progress).await;
        vec![encoder.unwrap().embed(&tokens[..len]).await.unwrap()]
    })
}

fn found() -> BTreeMap<String, String> {
    let tokens: Vec<u32> = (0..100).map(|index| index * 7 % 200).collect();
    let files = std::fs::read_dir(path("models")).unwrap().map(|file| file.unwrap().path());
    let models = files.filter(|file| file.extension().is_some_and(|end| end == "gguf"));
    let mut found = BTreeMap::new();
    for file in models {
        let model = file.file_stem().unwrap().to_string_lossy().into_owned();
        let header = block_on(Header::read(&FileSource::open(&file).unwrap())).unwrap();
        // Parts of a split model, and families that are not run yet.
        let Ok(config) = Config::from_header(&header) else { continue };
        if header.metadata.contains("split.count") {
            continue;
        }
        found.insert(model.clone(), hash(&rows(&model, &config, &tokens)));
    }
    found
}

#[test]
fn logits_are_what_they_were_to_the_bit() {
    let found = found();
    if std::env::var_os("CANDLEWICK_RECORD_BITS").is_some() {
        let text = serde_json::to_string_pretty(&found).unwrap();
        std::fs::write(path(RECORD), text + "\n").unwrap();
        return;
    }
    let recorded: BTreeMap<String, String> =
        serde_json::from_str(&std::fs::read_to_string(path(RECORD)).unwrap()).unwrap();
    let comparable = recorded[PROBE] == found[PROBE];
    if !comparable {
        println!("not compared: {PROBE} gives other bits here, as with another processor");
    }
    for (model, hash) in recorded {
        assert!(!comparable || found[&model] == hash, "{model}");
    }
}
