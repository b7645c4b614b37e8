//! Hosts that compress, redirect, refuse parts of a request, go on for ever, or ask for patience.

use super::{TEXT, TOKEN, World, ask, collect, whole};
use candlewick::engine::FinishReason;
use candlewick::remote::{Client, Config};
use candlewick::{Code, Error};
use pollster::block_on;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn fails(world: &World, stream: bool) -> Error {
    whole(world.client().chat("org/large", ask(stream))).unwrap_err()
}

#[test]
fn compressed_answers() {
    for encoding in ["gzip", "deflate", "br"] {
        let world = World::new(
            &format!("encoding-{encoding}"),
            json!({ "encoding": encoding, "script": ["none", "none", "400"] }),
        );
        for stream in [true, false] {
            let answer = whole(world.client().chat("org/large", ask(stream)));
            assert_eq!(
                answer.unwrap_or_else(|error| panic!("{encoding}: {error}")).text(),
                TEXT,
                "{encoding}"
            );
        }
        let error = fails(&world, true);
        assert!(error.message.contains("temperature must be at most 2"), "{encoding}: {error}");
        assert_eq!(block_on(world.client().models()).unwrap().len(), 2, "{encoding}");
        assert_eq!(world.log()[0]["encodings"], "identity", "nobody is asked to compress");
    }
    let body = json!({ "status": 200, "headers": { "Content-Encoding": "zstd" }, "body": "x" });
    let error = fails(&World::new("encoding-unknown", json!({ "script": vec![body; 5] })), false);
    assert!(error.code == Code::ProviderError && error.message.contains("zstd"), "{error}");
    // Not what it says it is.
    let body = json!({ "status": 200, "headers": { "Content-Encoding": "gzip" }, "body": "plain" });
    assert_eq!(
        fails(&World::new("encoding-wrong", json!({ "script": vec![body; 5] })), false).code,
        Code::Network
    );
}

#[test]
fn bombs_are_bounded() {
    let began = Instant::now();
    for (encoding, body) in [("gzip", "json"), ("br", "json"), ("gzip", "events"), ("deflate", "error")] {
        let world = World::new(
            &format!("bomb-{encoding}-{body}"),
            json!({ "encoding": encoding, "script": [{ "bomb": body }, "400"] }),
        );
        let error = fails(&world, body == "events");
        // A failure's body is not needed.
        let code = if body == "error" { Code::InvalidArgument } else { Code::ProviderError };
        assert_eq!((error.code, world.log().len()), (code, 1), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn endless_answers_end() {
    let chunk = json!({ "choices": [{ "index": 0, "delta": { "content": "and on ".repeat(500) } }] });
    let world = World::new("endless", json!({ "script": [{ "after": 2, "endless": chunk }] }));
    let (chunks, error) = collect(world.client().chat("org/large", ask(true)).unwrap());
    let error = error.unwrap();
    assert!(error.message.contains("more than 64 MB"), "{error}");
    assert!(!chunks.is_empty() && error.code == Code::ProviderError);
    // Signs of life alone are an answer too.
    let world = World::new(
        "endless-pings",
        json!({ "script": [{ "after": 0, "endless": { "type": "x".repeat(20_000) } }] }),
    );
    let error = fails(&world, true);
    assert!(error.message.contains("more than 64 MB") && world.log().len() == 1, "{error}");
}

#[test]
fn limits_are_kept() {
    let chunk = json!({ "choices": [{ "index": 0, "delta": { "content": "and on " } }] });
    for field in ["max_tokens", "max_completion_tokens"] {
        let world =
            World::new(&format!("limit-{field}"), json!({ "script": [{ "after": 2, "endless": chunk }] }));
        let mut body = ask(true);
        body[field] = json!(20);
        let answer = whole(world.client().chat("org/large", body)).unwrap();
        assert_eq!(answer.finish_reason(), Some(FinishReason::Length));
        // Generous: nobody counts as the host does.
        assert!((20 * 7..20_000).contains(&answer.text().len()), "{}", answer.text().len());
        while world.log()[0]["gone"] == false {
            std::thread::yield_now();
        }
    }
    // Who keeps to it is not cut off.
    let world = World::with("limit-kept", &[]);
    let mut body = ask(true);
    body["max_tokens"] = json!(7);
    assert_eq!(whole(world.client().chat("org/large", body)).unwrap().text(), TEXT);
}

#[test]
fn what_is_posted_stays_with_its_host() {
    let other = World::with("redirect-target", &[]);
    let elsewhere = format!("{}/chat/completions", other.url.replace("127.0.0.1", "localhost"));
    for status in [301, 302, 303, 307, 308] {
        let redirect = json!({ "status": status, "headers": { "Location": elsewhere }, "body": "" });
        let world = World::new(&format!("redirect-{status}"), json!({ "script": [redirect] }));
        for stream in [true, false] {
            let error = fails(
                &World::new(&format!("redirect-{status}-{stream}"), json!({ "script": [redirect] })),
                stream,
            );
            assert_eq!(error.code, Code::ProviderError, "{status}: {error}");
            assert!(
                error.message.contains("localhost:") && error.message.contains(&status.to_string()),
                "{error}"
            );
            assert!(!error.message.contains("/chat/completions"), "an address may hold a secret: {error}");
        }
        // Embeddings and tasks too.
        let error = block_on(world.client().embed("m", &["secret".to_owned()])).unwrap_err();
        assert!(error.code == Code::ProviderError && world.log().len() == 1, "{error}");
    }
    assert!(other.log().is_empty(), "nothing got there");
    // Nor do keys in headers of one's own, which platforms send on.
    let redirect = json!({ "status": 302, "headers": { "Location": elsewhere }, "body": "" });
    let world = World::new("redirect-key", json!({ "script": [redirect] }));
    let config = Config { headers: [("api-key".to_owned(), "secret".to_owned())].into(), ..world.config() };
    assert!(block_on(Client::new(config).unwrap().models()).is_err());
    assert!(other.log().is_empty(), "nothing got there");
    // Not by way of a redirect at home either.
    let target = World::new(
        "redirect-twice",
        json!({ "script": [{ "status": 307, "headers": { "Location": elsewhere }, "body": "" }] }),
    );
    let home = json!({ "status": 308, "headers": { "Location": format!("{}/chat/completions", target.url) }, "body": "" });
    fails(&World::new("redirect-home", json!({ "script": [home] })), true);
    assert_eq!((target.log().len(), other.log().len()), (1, 0));
    // With a status that makes it a GET nothing is answered.
    let here =
        json!({ "status": 302, "headers": { "Location": format!("{}/models", target.url) }, "body": "" });
    assert_eq!(
        fails(&World::new("redirect-get", json!({ "script": [here] })), false).code,
        Code::ProviderError
    );
    assert_eq!(target.log().len(), 1);
    // At home the request goes on as it is.
    for status in [307, 308] {
        let home = json!({ "status": status, "headers": { "Location": format!("{}/chat/completions", target.url) }, "body": "" });
        let world = World::new(&format!("redirect-same-{status}"), json!({ "script": [home] }));
        assert_eq!(whole(world.client().chat("org/large", ask(true))).unwrap().text(), TEXT);
        let log = target.log();
        let last = log.last().unwrap();
        assert_eq!(
            (&last["body"]["model"], &last["authorization"]),
            (&json!("org/large"), &json!(format!("Bearer {TOKEN}")))
        );
    }
}

#[test]
fn hosts_refuse_parts_of_a_request() {
    let refuse = |status: u16, message: &str| json!({ "status": status, "headers": { "Content-Type": "application/json" }, "body": json!({ "error": { "message": message, "type": "invalid_request_error" } }).to_string() });
    let strict = json!({ "status": 422, "headers": {}, "body": json!({ "detail": [{ "loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted" }] }).to_string() });
    let newer = refuse(
        400,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    );
    let world = World::new("refuses", json!({ "script": [strict, newer] }));
    let client = world.client();
    let mut body = ask(true);
    body["max_tokens"] = json!(30);
    for attempts in [3, 1] {
        let answer = whole(client.chat("org/large", body.clone())).unwrap();
        assert_eq!((answer.text(), answer.origin().unwrap().attempts), (TEXT, attempts));
    }
    let log = world.log();
    let sent: Vec<_> = log
        .iter()
        .map(|entry| {
            [
                &entry["body"]["stream_options"],
                &entry["body"]["max_tokens"],
                &entry["body"]["max_completion_tokens"],
            ]
        })
        .collect();
    let (none, options, tokens) = (&Value::Null, &json!({ "include_usage": true }), &json!(30));
    assert_eq!(
        sent,
        [[options, tokens, none], [none, tokens, none], [none, none, tokens], [none, none, tokens]]
    );
    // What is refused for another reason is not asked for again, nor is anything for ever.
    let large = refuse(400, "max_tokens is too large: 30");
    let world = World::new("refuses-more", json!({ "script": [large] }));
    assert_eq!(
        whole(world.client().chat("org/large", body.clone())).unwrap_err().code,
        Code::InvalidArgument
    );
    let stubborn = refuse(400, "max_tokens and max_completion_tokens and stream_options are not supported");
    let world = World::new("refuses-all", json!({ "script": vec![stubborn; 9] }));
    assert_eq!(whole(world.client().chat("org/large", body)).unwrap_err().code, Code::InvalidArgument);
    assert!(world.log().len() <= 4);
}

#[test]
fn nothing_is_sent_that_nobody_asked_for() {
    let world = World::with("asked-for", &[]);
    let client = |extra: Value| {
        let extra_body = extra.as_object().unwrap().clone();
        Client::new(Config { extra_body, ..world.config() }).unwrap()
    };
    let with = |field: &str, value: Value| {
        let mut body = ask(true);
        body[field] = value;
        body
    };
    for (number, (extra, body, options)) in [
        (json!({}), ask(true), json!({ "include_usage": true })),
        (json!({}), ask(false), json!(null)),
        (json!({ "stream_options": null }), ask(true), json!(null)),
        (json!({ "stream_options": null }), ask(false), json!(null)),
        (json!({ "stream_options": { "x": 1 } }), ask(false), json!(null)),
        (json!({}), with("stream_options", json!(null)), json!(null)),
        (
            json!({}),
            with("stream_options", json!({ "include_usage": false })),
            json!({ "include_usage": false }),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        whole(client(extra).chat("org/large", body)).unwrap();
        let sent = &world.log()[number]["body"];
        assert_eq!(
            (&sent["stream_options"], sent.get("stream_options").is_some()),
            (&options, !options.is_null())
        );
    }
    // Null takes out what the request has, and adds nothing.
    whole(
        client(json!({ "temperature": null, "top_k": null }))
            .chat("org/large", with("temperature", json!(0.5))),
    )
    .unwrap();
    let log = world.log();
    let fields: Vec<_> =
        log.last().unwrap()["body"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["messages", "stream", "model", "stream_options"]);
    // No limit, as llama.cpp's server has it: hosts refuse the number.
    for field in ["max_tokens", "max_completion_tokens"] {
        whole(client(json!({})).chat("org/large", with(field, json!(-1)))).unwrap();
        assert_eq!(world.log().last().unwrap()["body"].get(field), None);
    }
}

#[test]
fn patience_is_as_long_as_it_is_asked_for() {
    let slow = |headers: Value| json!({ "status": 429, "headers": headers, "body": "slow down" });
    for (number, (headers, least, most)) in [
        (json!({ "retry-after-ms": "120" }), 120, 1000),
        (json!({ "retry-after-ms": "120.5", "Retry-After": "86400" }), 120, 1000),
        (json!({ "Retry-After": "0.15" }), 150, 1000),
        (json!({ "Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT" }), 0, 100),
        (json!({ "Retry-After": "-5" }), 0, 100),
        (json!({ "Retry-After": "soon" }), 0, 100),
    ]
    .into_iter()
    .enumerate()
    {
        let world = World::new(&format!("patient-{number}"), json!({ "script": [slow(headers.clone())] }));
        let (chunks, error) = collect(world.client().chat("org/large", ask(true)).unwrap());
        assert_eq!(error, None);
        let wait = chunks[0].retry.as_ref().unwrap().wait_ms;
        assert!((least..=most).contains(&wait), "{headers}: {wait} ms");
    }
    for (number, body) in [
        json!({ "error": { "message": "You exceeded your current quota, please check your plan.", "type": "insufficient_quota", "code": "insufficient_quota" } }),
        json!({ "error": { "message": "Rate limit exceeded: free-models-per-day" } }),
        json!({ "error": { "message": "Daily limit reached" } }),
    ]
    .into_iter()
    .enumerate()
    {
        let answer = json!({ "status": 429, "headers": { "Retry-After": "0" }, "body": body.to_string() });
        let world = World::new(&format!("exhausted-{number}"), json!({ "script": [answer] }));
        let error = fails(&world, true);
        assert!(matches!(error.code, Code::ResourceExhausted | Code::RateLimited), "{error}");
        assert_eq!(world.log().len(), 1, "{body}");
    }
    let told = |again: &str, status: u16| json!({ "status": status, "headers": { "x-should-retry": again }, "body": "x" });
    for (again, status, attempts) in [("false", 500, 1), ("true", 409, 2)] {
        let world = World::new(&format!("told-{again}"), json!({ "script": [told(again, status)] }));
        let _ = whole(world.client().chat("org/large", ask(true)));
        assert_eq!(world.log().len(), attempts, "{again}");
    }
}
