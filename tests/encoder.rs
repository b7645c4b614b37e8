//! Vectors against transformers' BertModel, whole texts through the engine, and the shapes of `/v1/embeddings`.

use crate::edit::Edit;
use crate::fixtures::{json, path};
use candlewick::backend::Backend;
use candlewick::backend::cpu::Cpu;
use candlewick::chat::Conversation;
use candlewick::engine::{Device, Document, EmbeddingSettings, Engine, Options, Prompt, Settings};
use candlewick::format::gguf::Header;
use candlewick::http::OnRetry;
use candlewick::model::{Config, Encoder};
use candlewick::openai::{EmbeddingRequest, Encoded};
use candlewick::router::{Local, Policy, Provider, Route, Router};
use candlewick::store::{FileSource, MemorySource, Source};
use candlewick::{Code, Error};
use pollster::block_on;
use serde_json::{Value, json};
use std::rc::Rc;

/// The largest difference from transformers' float32 forward; the numbers of a vector are about 0.1.
const F32_TOLERANCE: f32 = 2e-6;

fn engine_of(source: impl Source + 'static, options: Options) -> Result<Engine, Error> {
    block_on(Engine::load(Rc::new(source), &options, &mut |_| Ok(())))
}

fn bytes(model: &str) -> Vec<u8> {
    std::fs::read(path("models").join(model)).unwrap()
}

fn engine(model: &str) -> Engine {
    let options = Options { device: Device::Cpu, ..Options::default() };
    engine_of(MemorySource::new(model, bytes(model)), options).unwrap()
}

fn text(text: &str) -> Document {
    Document::Text(text.to_owned())
}

const CUT: EmbeddingSettings = EmbeddingSettings { truncate: true, dimensions: None };

fn embed(engine: &Engine, document: &Document, settings: EmbeddingSettings) -> Result<Vec<f32>, Error> {
    block_on(engine.embed(document, settings)).map(|embedding| embedding.vector)
}

fn vector(value: &Value) -> Vec<f32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The F32 model with a number of its metadata changed.
fn with_metadata(key: &str, value: u32) -> Vec<u8> {
    let mut bytes = bytes("bert-f32.gguf");
    let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len();
    // The type of the value, then the value.
    assert_eq!(bytes[at..at + 4], 4u32.to_le_bytes(), "{key} is no u32");
    bytes[at + 4..at + 8].copy_from_slice(&value.to_le_bytes());
    bytes
}

#[test]
fn agrees_with_transformers() {
    let golden = json("goldens/bert.json");
    // llama.cpp's numbers for the pooling types.
    for (pooling, kind) in [("mean", 1), ("first", 2), ("last", 3), ("mean", 0)] {
        let bytes = with_metadata("bert.pooling_type", kind);
        let engine = engine_of(MemorySource::new("bert", bytes), Options::default()).unwrap();
        for case in golden["cases"].as_array().unwrap() {
            let found = embed(&engine, &text(case["text"].as_str().unwrap()), CUT).unwrap();
            let expected = vector(&case[pooling]);
            let (furthest, cosine) = (furthest(&found, &expected), cosine(&found, &expected));
            println!("{pooling} of {}: {furthest:.1e}, {cosine}", case["text"]);
            assert!(furthest <= F32_TOLERANCE && cosine > 0.999_999, "{}: {furthest:.2e}", case["text"]);
        }
    }
}

#[test]
fn tokens_are_llama_cpps() {
    let (engine, golden) = (engine("bert-f32.gguf"), json("goldens/bert.json"));
    for case in golden["cases"].as_array().unwrap() {
        let ids = engine.language().tokenizer.encode_with_special(case["text"].as_str().unwrap(), false);
        assert_eq!(json!(ids.unwrap()), case["ids"], "{}", case["text"]);
    }
}

fn encoder(model: &str, backend: impl Backend + 'static) -> Encoder {
    let source = FileSource::open(&path("models").join(model)).unwrap();
    block_on(async {
        let header = Header::read(&source).await.unwrap();
        let config = Config::from_header(&header).unwrap();
        let backend = Box::new(backend);
        Encoder::load(&source, &header, config, backend, 64, &mut |_| Ok(())).await.unwrap()
    })
}

#[test]
fn quantized_weights() {
    let golden = json("goldens/bert.json");
    let cases = golden["cases"].as_array().unwrap();
    for (model, expected) in golden["quantized"].as_object().unwrap() {
        let [mut dequantized, mut quantized] =
            [Cpu::reference(), Cpu::new()].map(|backend| encoder(model, backend));
        let mut distance = 0.0;
        for (case, expected) in cases.iter().zip(expected["mean"].as_array().unwrap()) {
            let mut ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            let last = *ids.last().unwrap();
            ids.truncate(64);
            *ids.last_mut().unwrap() = last;
            let expected = vector(expected);
            let furthest = furthest(&block_on(dequantized.embed(&ids)).unwrap(), &expected);
            assert!(furthest <= F32_TOLERANCE, "{model}, dequantized: {furthest:.2e}");
            distance += 1.0 - cosine(&block_on(quantized.embed(&ids)).unwrap(), &expected);
        }
        let distance = distance / cases.len() as f64;
        let theirs = expected["llama_cpp_distance"].as_f64().unwrap();
        println!("{model}: mean distance {distance:.2e}, llama.cpp's {theirs:.2e}");
        assert!(distance <= 1.5 * theirs, "{model}: {distance:.2e}, llama.cpp's {theirs:.2e}");
    }
}

#[test]
fn a_text_that_is_too_long() {
    let (engine, golden) = (engine("bert-f32.gguf"), json("goldens/bert.json"));
    let case = golden["cases"].as_array().unwrap().last().unwrap();
    let long = text(case["text"].as_str().unwrap());
    let error = embed(&engine, &long, EmbeddingSettings::default()).unwrap_err();
    assert_eq!(error.code, Code::ContextLengthExceeded);
    assert!(error.message.contains("100 tokens") && error.message.contains("truncate"), "{error}");
    let embedding = block_on(engine.embed(&long, CUT)).unwrap();
    assert_eq!(embedding.tokens, 64);
    // Loaded with less context, it reads less.
    let options = Options { context: Some(32.into()), ..Options::default() };
    let engine = engine_of(MemorySource::new("bert", bytes("bert-f32.gguf")), options).unwrap();
    assert_eq!(block_on(engine.embed(&long, CUT)).unwrap().tokens, 32);
}

#[test]
fn fewer_dimensions() {
    let engine = engine("bert-f32.gguf");
    let whole = embed(&engine, &text("war"), CUT).unwrap();
    let cut = EmbeddingSettings { dimensions: Some(16), ..CUT };
    let part = embed(&engine, &text("war"), cut).unwrap();
    assert_eq!(part.len(), 16);
    assert!(cosine(&part, &whole[..16]) > 0.999_999);
    assert!((part.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6);
    for wrong in [0, 65] {
        let settings = EmbeddingSettings { dimensions: Some(wrong), ..CUT };
        assert_eq!(embed(&engine, &text("war"), settings).unwrap_err().code, Code::InvalidArgument);
    }
}

#[test]
fn each_has_its_own_work() {
    let encoder = engine("bert-f32.gguf");
    let chat = Prompt::Chat(Conversation {
        messages: vec![json!({"role": "user", "content": "hi"})],
        ..Conversation::default()
    });
    for prompt in [chat, Prompt::Text("Once".into())] {
        let error = block_on(encoder.generate(prompt, Settings::default())).err().unwrap();
        assert_eq!(error.code, Code::UnsupportedModel);
        assert!(error.message.contains("embeddings"), "{error}");
    }
    assert_eq!(block_on(encoder.logits(&[1], &mut |_, _| {})).unwrap_err().code, Code::UnsupportedModel);
    let error = embed(&engine("llama.gguf"), &text("hi"), CUT).unwrap_err();
    assert_eq!(error.code, Code::UnsupportedModel);
    assert!(error.message.contains("encoder"), "{error}");
    let gpu = Options { device: Device::Gpu, ..Options::default() };
    let error = engine_of(MemorySource::new("bert", bytes("bert-f32.gguf")), gpu).err().unwrap();
    assert_eq!(error.code, Code::UnsupportedModel);
}

#[test]
fn files_that_cannot_run() {
    let load = |bytes| engine_of(MemorySource::new("bert", bytes), Options::default()).err().unwrap();
    assert_eq!(load(with_metadata("bert.pooling_type", 4)).code, Code::UnsupportedModel);
    for (key, value) in [
        ("bert.pooling_type", 9),
        ("bert.context_length", 63),
        ("bert.context_length", u32::MAX),
        ("bert.feed_forward_length", 64),
        ("bert.attention.head_count", 5),
        ("bert.block_count", 3),
    ] {
        assert_eq!(load(with_metadata(key, value)).code, Code::CorruptModel, "{key} = {value}");
    }
}

fn request(body: Value) -> Result<EmbeddingRequest, Error> {
    EmbeddingRequest::try_from(body)
}

#[test]
fn one_that_fails_does_not_fail_the_rest() {
    let local = Local(engine("bert-f32.gguf"));
    let asked = request(json!({ "input": ["war", "war and peace ".repeat(14), "peace"] })).unwrap();
    let embeddings = block_on(local.embed(&asked, OnRetry::default())).unwrap();
    assert!(embeddings.vectors[0].is_ok() && embeddings.vectors[2].is_ok());
    assert_eq!(embeddings.vectors[1].as_ref().unwrap_err().code, Code::ContextLengthExceeded);
    // OpenAI's shape has no place for it.
    let error = embeddings.list(asked.encoding).unwrap_err();
    assert!(error.code == Code::ContextLengthExceeded && error.message.starts_with("input[1]: "), "{error}");
}

#[test]
fn openai_shapes() {
    let local = Local(engine("bert-f32.gguf"));
    let ids = local.0.language().tokenizer.encode_with_special("war", false).unwrap();
    let answer = |body: Value| {
        let asked = request(body).unwrap();
        block_on(local.embed(&asked, OnRetry::default())).unwrap().list(asked.encoding).unwrap()
    };
    let float = answer(json!({ "input": "war", "model": "any", "user": null }));
    let shape = serde_json::to_value(&float).unwrap();
    assert_eq!(shape["object"], "list");
    assert_eq!(shape["data"][0]["object"], "embedding");
    assert_eq!(shape["usage"], json!({ "prompt_tokens": 3, "total_tokens": 3 }));
    assert_eq!(shape["candlewick"]["ran"], "local");
    let Encoded::Float(numbers) = &float.data[0].embedding else { panic!("not numbers") };
    for input in [json!(["war"]), json!(ids), json!([ids])] {
        let again = serde_json::to_value(answer(json!({ "input": input }))).unwrap();
        assert_eq!(again["data"], shape["data"]);
    }
    let base64 = answer(json!({ "input": ["a", "war"], "encoding_format": "base64" }));
    let Encoded::Base64(text) = &base64.data[1].embedding else { panic!("not base64") };
    let decoded = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, text).unwrap();
    let decoded: Vec<f32> = decoded.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    assert_eq!(&decoded, numbers);
    for wrong in [
        json!({}),
        json!({ "input": [] }),
        json!({ "input": 5 }),
        json!({ "input": [1, "two"] }),
        json!({ "input": "a", "encoding_format": "hex" }),
        json!([]),
    ] {
        assert_eq!(request(wrong.clone()).unwrap_err().code, Code::InvalidArgument, "{wrong}");
    }
}

#[test]
fn the_router_asks_who_can() {
    let local = |model: &'static str| {
        let open =
            move || -> futures_util::future::LocalBoxFuture<'static, Result<Rc<dyn Provider>, Error>> {
                Box::pin(async move { Ok(Rc::new(Local(engine(model))) as Rc<dyn Provider>) })
            };
        Route::local(model, Box::new(open))
    };
    let router =
        Router::new(vec![local("llama.gguf"), local("bert-f32.gguf")], Policy::default(), None).unwrap();
    block_on(router.open()).unwrap();
    let asked = request(json!({ "input": "war" })).unwrap();
    // The second model is not loaded for it.
    let error = block_on(router.embed(&asked, OnRetry::default())).unwrap_err();
    assert_eq!(error.code, Code::UnsupportedModel);
    assert!(error.message.contains("llama.gguf"), "{error}");

    let router = Router::new(vec![local("bert-f32.gguf")], Policy::default(), None).unwrap();
    let (provider, _) = block_on(router.open()).unwrap();
    assert_eq!(block_on(provider.capabilities()).unwrap().embeddings, Some(true));
    let embeddings = block_on(router.embed(&asked, OnRetry::default())).unwrap();
    assert!(embeddings.vectors[0].is_ok());
    assert_eq!(embeddings.origin.reason, "it runs on this device");
}

/// And the next text finds the engine as it was.
#[test]
fn damaged_weights() {
    for pooling in [1, 2, 3] {
        let sound = engine_of(
            MemorySource::new("sound", with_metadata("bert.pooling_type", pooling)),
            Options { device: Device::Cpu, ..Options::default() },
        )
        .unwrap();
        let peace = embed(&sound, &text("peace"), CUT).unwrap();
        let war = sound.language().tokenizer.encode("war", false).unwrap()[0] as usize;
        for number in [f32::NAN, f32::INFINITY] {
            let edit = Edit::new(&with_metadata("bert.pooling_type", pooling));
            let damaged = edit.tensor("token_embd.weight", |tensor| {
                let width = tensor.dimensions[0] as usize;
                tensor.data.as_chunks_mut().0[war * width..][..width].fill(number.to_le_bytes());
            });
            let options = Options { device: Device::Cpu, ..Options::default() };
            let engine = engine_of(MemorySource::new("damaged", damaged.bytes()), options).unwrap();
            let error = embed(&engine, &text("war"), CUT).unwrap_err();
            assert_eq!(error.code, Code::CorruptModel, "{number}: {error}");
            assert!(error.message.contains("damaged"), "{error}");
            assert_eq!(embed(&engine, &text("peace"), CUT).unwrap(), peace);
        }
    }
}
