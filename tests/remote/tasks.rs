//! Tasks of Hugging Face's own inference servers, and embeddings.

use super::{World, block_on};
use candlewick::Code;
use candlewick::remote::tasks::{Parameters, Picture};
use candlewick::remote::{Client, Config};
use serde_json::json;

fn client(world: &World) -> Client {
    Client::new(Config { hf_inference: true, ..world.config() }).unwrap()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

#[test]
fn texts_in_texts_out() {
    let world = World::with("tasks", &["loading", "500"]);
    let client = client(&world);
    let mut parameters = Parameters::new();
    parameters.insert("max_new_tokens".into(), 5.into());
    let text = block_on(client.generate_text("org/text", "Once", &parameters)).unwrap();
    assert_eq!((text.value.as_str(), text.attempts), ("Once and so on", 3));
    let none = Parameters::new();
    assert_eq!(block_on(client.summarize("org/summary", "Long text", &none)).unwrap().value, "Long ");
    assert_eq!(block_on(client.translate("org/translate", "hi", &none)).unwrap().value, "HI");
    let labels = block_on(client.classify("org/sentiment", "I like it", &none)).unwrap().value;
    assert_eq!((labels[0].label.as_str(), labels[0].score, labels.len()), ("POSITIVE", 0.9, 2));
    let log = world.log();
    assert_eq!(log[2]["path"], "hf-inference/models/org/text");
    assert_eq!(log[2]["body"], json!({ "inputs": "Once", "parameters": { "max_new_tokens": 5 } }));
    assert_eq!(log[3]["body"], json!({ "inputs": "Long text" }));

    // An answer to another question.
    let error = block_on(client.summarize("org/translate", "hi", &none)).unwrap_err();
    assert_eq!(error.code, Code::ProviderError);
    for model in ["", "../../secret", "a b", "a/b?x", "a/./b"] {
        let error = block_on(client.summarize(model, "hi", &none)).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{model:?}");
    }
    // Other providers have no such tasks.
    let error = block_on(world.client().summarize("org/summary", "hi", &none)).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
}

#[test]
fn embeddings_have_a_status_each() {
    let world = World::new("embeddings", json!({ "bad": "BAD" }));
    let client = client(&world);
    let all = block_on(client.embed("org/mini", &texts(&["one", "two", "three"]))).unwrap();
    assert_eq!((all.value.each.len(), all.attempts, world.log().len()), (3, 1, 1));
    let alone = block_on(client.embed("org/mini", &texts(&["two"]))).unwrap();
    assert_eq!(alone.value.each, all.value.each[1..2]);

    let some = block_on(client.embed("org/mini", &texts(&["one", "BAD", "three"]))).unwrap().value.each;
    assert_eq!((&some[0], &some[2]), (&all.value.each[0], &all.value.each[2]));
    // "an input is too long", says the host.
    assert_eq!(some[1].as_ref().unwrap_err().code, Code::ContextLengthExceeded);
    let alone = block_on(client.embed("org/mini", &texts(&["BAD"]))).unwrap_err();
    assert_eq!(alone.code, Code::ContextLengthExceeded);
    assert!(block_on(client.embed("org/mini", &[])).unwrap().value.each.is_empty());

    // OpenAI's interface, whose vectors come in any order.
    let others = block_on(world.client().embed("org/mini", &texts(&["one", "two", "three"]))).unwrap();
    assert_eq!(others.value.each, all.value.each);
    // Only that one counts tokens.
    assert_eq!((all.value.tokens, others.value.tokens), (None, Some(3)));
    // A vector a token becomes their mean.
    let world = World::new("embeddings-tokens", json!({ "embeddings": "tokens" }));
    let means = block_on(self::client(&world).embed("org/mini", &texts(&["ab", "cd"]))).unwrap().value.each;
    assert!(means.iter().all(|vector| vector.as_ref().unwrap().len() == 4));
}

#[test]
fn pictures() {
    for image in ["bytes", "base64", "url"] {
        let world = World::new(&format!("pictures-{image}"), json!({ "image": image }));
        let picture = Picture {
            width: Some(512),
            aspect_ratio: Some("16:9".into()),
            seed: Some(3),
            ..Picture::default()
        };
        let drawn = block_on(client(&world).picture("org/image", "a candle", &picture)).unwrap().value;
        assert_eq!(drawn.media_type, "image/png", "{image}");
        assert!(drawn.data_url().starts_with("data:image/png;base64,iVBOR"));
        let parameters = &world.log()[0]["body"]["parameters"];
        assert_eq!(*parameters, json!({ "width": 512, "height": 288, "seed": 3 }));
    }
    let world = World::with("pictures-none", &["nonsense", "nonsense", "nonsense", "nonsense", "nonsense"]);
    let client = client(&world);
    let error = block_on(client.picture("org/image", "a candle", &Picture::default())).unwrap_err();
    assert_eq!(error.code, Code::ProviderError);
    for aspect_ratio in ["wide", "0:1", "1:100", "-1:1"] {
        let picture = Picture { aspect_ratio: Some(aspect_ratio.into()), ..Picture::default() };
        let error = block_on(client.picture("org/image", "a candle", &picture)).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{aspect_ratio}");
    }
}
