//! `embed`.

use super::{candlewick, fails, failure, object, output, with_input};
use crate::edit::Edit;
use crate::fixtures::{contents, path};

fn model() -> String {
    path("models/bert-q8_0.gguf").to_str().unwrap().to_owned()
}

#[test]
fn lines_of_numbers() {
    let numbers = |line: &str| -> Vec<f32> { line.split(' ').map(|n| n.parse().unwrap()).collect() };
    let text = output(&["embed", &model(), "war", "peace", "--quiet"]);
    let vectors: Vec<_> = text.lines().map(numbers).collect();
    assert!(
        vectors.len() == 2 && vectors.iter().all(|vector| vector.len() == 64) && vectors[0] != vectors[1]
    );
    let read = with_input(candlewick(["embed", &model(), "--quiet"]), b"war\n\npeace\n");
    assert_eq!(String::from_utf8(read.stdout).unwrap(), text);
    let short = output(&["embed", &model(), "war", "--dimensions", "8", "--quiet"]);
    assert_eq!(numbers(short.trim()).len(), 8);
}

#[test]
fn one_that_fails() {
    let long = "war and peace ".repeat(14);
    let cut = object(&["embed", &model(), "war", &long, "--truncate", "--json", "--quiet"]);
    assert_eq!(cut["embeddings"][1]["tokens"], 64);
    let output =
        candlewick(["embed", &model(), "war", &long, "peace", "--json", "--quiet"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.starts_with("error: text 2: ") && stderr.ends_with("[context_length_exceeded]\n"),
        "{stderr}"
    );
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let embeddings = found["embeddings"].as_array().unwrap();
    assert_eq!(embeddings[1]["code"], "context_length_exceeded");
    assert!([0, 2].iter().all(|&at: &usize| embeddings[at]["embedding"].as_array().unwrap().len() == 64));
}

#[test]
fn damaged_weights() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in
        [("token_embd_norm.weight", f32::NAN), ("blk.0.layer_output_norm.bias", f32::INFINITY)]
    {
        let sound = Edit::new(&contents(&path("models/bert-f32.gguf")));
        let damaged = sound.tensor(name, |tensor| tensor.data.as_chunks_mut().0.fill(value.to_le_bytes()));
        let model = folder.path().join("damaged.gguf");
        std::fs::write(&model, damaged.bytes()).unwrap();
        for more in [&["war"][..], &["war", "peace"], &["war", "--json"], &["war", "--dimensions", "8"]] {
            let arguments = [&["embed", model.to_str().unwrap()], more].concat();
            fails(&arguments, "corrupt_model", &["not finite", "damaged"]);
        }
    }
}

#[test]
fn the_wrong_kind_of_model() {
    let chat = path("models/llama.gguf").to_str().unwrap().to_owned();
    fails(&["embed", &chat, "war", "--quiet"], "unsupported_model", &["encoder"]);
    fails(&["run", &model(), "-p", "war", "--quiet"], "unsupported_model", &["embeddings"]);
    let nothing = failure(&["embed", &model(), "--quiet"], 1);
    assert!(nothing.contains("no text"), "{nothing}");
}
