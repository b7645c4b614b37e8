//! Answers, whole and in parts, and how they fail.

use super::{TEXT, TOKEN, World, ask, collect, whole};
use candlewick::engine::FinishReason;
use candlewick::openai::Ran;
use candlewick::remote::{Client, Config, Retry};
use candlewick::{Code, Error};
use futures_util::StreamExt;
use pollster::block_on;
use serde_json::{Value, json};
use std::time::Duration;

#[test]
fn streams() {
    for fault in ["none", "slow", "windows", "comments", "no-done", "whole"] {
        let world = World::with(&format!("streams-{fault}"), &[fault]);
        let (chunks, error) = collect(world.client().chat("org/large", ask(true)).unwrap());
        assert_eq!(error, None, "{fault}");
        let text: String = chunks
            .iter()
            .flat_map(|chunk| &chunk.choices)
            .filter_map(|choice| choice.delta.as_ref()?.content.clone())
            .collect();
        assert_eq!(text, TEXT, "{fault}");
        let (first, last) = (&chunks[0], chunks.last().unwrap());
        let origin = first.candlewick.as_ref().unwrap();
        assert_eq!((origin.ran, origin.attempts, origin.model.as_str()), (Ran::Remote, 1, "org/large"));
        assert_eq!(first.choices[0].delta.as_ref().unwrap().role.as_deref(), Some("assistant"));
        assert!(last.choices.is_empty() && last.candlewick.is_some());
        if fault != "no-done" {
            assert_eq!(last.usage.unwrap().completion_tokens, 7, "{fault}");
        }
        let ended = |chunk: &&candlewick::openai::Chunk| {
            chunk.choices.first().is_some_and(|choice| choice.finish_reason == Some(FinishReason::Stop))
        };
        assert_eq!(chunks.iter().filter(ended).count(), 1, "{fault}");
        let sent = &world.log()[0];
        assert_eq!(sent["authorization"], format!("Bearer {TOKEN}"));
        assert_eq!((&sent["body"]["model"], &sent["query"]), (&json!("org/large"), &json!("")));
    }
}

#[test]
fn whole_answers() {
    let world = World::with("whole", &[]);
    let client = world.client();
    let answer = whole(client.chat("org/large", ask(false))).unwrap();
    assert_eq!((answer.text(), answer.finish_reason()), (TEXT, Some(FinishReason::Stop)));
    // A stream put together is the same answer.
    let streamed = whole(client.chat("org/large", ask(true))).unwrap();
    let object = |answer| {
        let mut value = serde_json::to_value(answer).unwrap();
        // The header with the provider's name comes with streams only.
        value.as_object_mut().unwrap().remove("candlewick");
        value
    };
    assert_eq!(object(&answer), object(&streamed));
    assert_eq!(object(&answer)["object"], "chat.completion");
    assert_eq!(object(&answer)["system_fingerprint"], "fp");

    let text = whole(client.complete("org/large", json!({ "prompt": "Once", "stream": true }))).unwrap();
    assert_eq!(text.text(), TEXT);
    assert_eq!(serde_json::to_value(&text).unwrap()["object"], "text_completion");
}

#[test]
fn tool_calls() {
    let world = World::with("tools", &[]);
    let tools = json!([{ "type": "function", "function": { "name": "weather" } }]);
    for stream in [true, false] {
        let mut body = ask(stream);
        body["tools"] = tools.clone();
        let answer = serde_json::to_value(whole(world.client().chat("org/large", body)).unwrap()).unwrap();
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls");
        let call = &choice["message"]["tool_calls"][0];
        let expected = json!({ "name": "weather", "arguments": "{\"city\": \"Bern\"}" });
        assert_eq!((&call["id"], &call["function"]), (&json!("call_1"), &expected));
    }
}

#[test]
fn requests_carry_what_they_should() {
    let world = World::with("fields", &[]);
    let extra_body = json!({ "say": "extra", "temperature": 1.5 }).as_object().unwrap().clone();
    let config = Config { extra_body, bill_to: Some("org".into()), ..world.config() };
    let client = Client::new(config).unwrap();
    let mut body = ask(false);
    body["temperature"] = json!(0);
    body["seed"] = json!(7);
    body["top_k"] = json!(null);
    body["truncate"] = json!("middle");
    assert_eq!(whole(client.chat("org/large", body)).unwrap().text(), "extra");
    let sent = &world.log()[0];
    assert_eq!(sent["billTo"], "org");
    let expected = json!({
        "messages": ask(false)["messages"], "stream": false, "temperature": 0, "seed": 7,
        "model": "org/large", "say": "extra"
    });
    assert_eq!(sent["body"], expected);

    let mut body = ask(true);
    body["continue_final_message"] = json!(true);
    let message = client.chat("org/large", body.clone()).err().unwrap();
    assert_eq!(message.code, Code::InvalidArgument);
    body["messages"].as_array_mut().unwrap().push(json!({ "role": "assistant", "content": "It works" }));
    assert_eq!(whole(client.chat("org/large", body)).unwrap().text(), " and goes on.");

    for body in [json!(1), json!({}), json!({ "messages": [] }), json!({ "messages": "Hi" })] {
        assert_eq!(client.chat("org/large", body).err().unwrap().code, Code::InvalidArgument);
    }
    assert_eq!(client.complete("org/large", json!({})).err().unwrap().code, Code::InvalidArgument);
    assert_eq!(world.log().len(), 2, "bad requests are not sent");
}

#[test]
fn retries_are_seen() {
    let world = World::with("retries", &["429-after", "loading", "reset", "error-first"]);
    let (chunks, error) = collect(world.client().chat("org/large", ask(true)).unwrap());
    assert_eq!(error, None);
    let retries: Vec<_> = chunks.iter().map_while(|chunk| chunk.retry.as_ref()).collect();
    let seen: Vec<_> = retries.iter().map(|retry| (retry.attempt, retry.code)).collect();
    let expected = [(1, "rate_limited"), (2, "provider_error"), (3, "network"), (4, "provider_error")];
    assert_eq!(seen, expected);
    assert!(retries[1].message.contains("currently loading"), "{:?}", retries[1]);
    assert_eq!(chunks.last().unwrap().candlewick.as_ref().unwrap().attempts, 5);
    assert_eq!(world.log().len(), 5);
}

#[test]
fn servers_are_heard() {
    let world = World::with("patience", &["429-second"]);
    let (chunks, _) = collect(world.client().chat("org/large", ask(true)).unwrap());
    assert!(chunks[0].retry.as_ref().unwrap().wait_ms >= 1000);
    // Beyond the time limit there is no point in waiting.
    let world = World::with("impatience", &["429-long"]);
    let error = whole(world.client().chat("org/large", ask(true))).unwrap_err();
    assert_eq!((error.code, world.log().len()), (Code::RateLimited, 1));
    assert!(error.message.contains("come back tomorrow"), "{error}");
}

#[test]
fn time_ends() {
    let hang = json!({ "after": 3, "hang": true });
    let world = World::new("hangs", json!({ "script": [hang] }));
    let mut config = world.config();
    config.retry = Retry { timeout: Duration::from_millis(300), ..config.retry };
    let (chunks, error) = collect(Client::new(config).unwrap().chat("org/large", ask(true)).unwrap());
    assert!(!chunks.is_empty());
    assert_eq!(error.as_ref().map(|error| error.code), Some(Code::Network));
    assert_eq!(world.log().len(), 1);
}

#[test]
fn dropping_ends_the_transfer() {
    let world = World::new("dropped", json!({ "script": [{ "after": 3, "hang": true }] }));
    let mut chunks = world.client().chat("org/large", ask(true)).unwrap();
    assert!(block_on(chunks.next()).unwrap().is_ok());
    assert_eq!(world.log()[0]["gone"], false);
    drop(chunks);
    while world.log()[0]["gone"] == false {
        std::thread::yield_now();
    }
}

#[test]
fn tokens_stay_secret() {
    let world = World::new("secret", json!({ "token": "another" }));
    let client = world.client();
    let error = whole(client.chat("org/large", ask(true))).unwrap_err();
    assert_eq!(error.code, Code::Unauthorized);
    for text in [format!("{error:?}"), format!("{client:?}"), format!("{:?}", world.config())] {
        assert!(!text.contains(TOKEN), "{text}");
    }
    assert!(error.message.contains("Invalid credentials: Bearer …"), "{error}");
}

#[test]
fn nobody_there() {
    let config = Config { base_url: "http://127.0.0.1:1/v1".into(), ..World::with("nobody", &[]).config() };
    let config = Config { retry: Retry { attempts: 2, ..config.retry }, ..config };
    let error: Error = whole(Client::new(config).unwrap().chat("m", ask(true))).unwrap_err();
    assert_eq!(error.code, Code::Network);
    assert!(error.message.ends_with("(after 2 attempts)"), "{error}");
}

#[test]
fn models_are_listed_once() {
    let world = World::with("models", &["500"]);
    let client = world.client();
    let models = block_on(client.models()).unwrap();
    assert_eq!(models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["org/large", "org/small"]);
    let provider = &models[0].providers[0];
    let price = provider.price.unwrap();
    assert_eq!((provider.name.as_str(), provider.context_length), ("fast", Some(131_072)));
    assert_eq!((price.input, price.output, provider.tools, provider.live), (2.0, 6.0, Some(true), true));
    assert_eq!(block_on(client.model("org/small:cheap")).unwrap().id, "org/small");
    assert_eq!(block_on(client.clone().model("org/none")).unwrap_err().code, Code::ModelNotFound);
    assert_eq!(world.log().len(), 2, "one failed, one answered, the rest from memory");
    for (name, models) in [("models-none", json!("none")), ("models-odd", json!([1, { "id": 2 }, null]))] {
        let world = World::new(name, json!({ "models": models }));
        let models = block_on(world.client().models()).map(|models| models.len());
        assert!(models.is_err() || models == Ok(0), "{models:?}");
    }
    let _: Value = serde_json::to_value(&*models).unwrap();
}
