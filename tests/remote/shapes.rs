//! Answers as hosts really write them: what does not matter may be missing or odd, and what is there is kept, whether it
//! comes in parts or in one piece.

use super::{World, ask, collect, whole};
use candlewick::{Code, Error};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What a host sends, and what its answer is once it is put together.
fn answer(name: &str, media_type: Option<&str>, body: &str, stream: bool) -> Result<Value, Error> {
    let headers = media_type.map_or(json!({}), |media_type| json!({ "Content-Type": media_type }));
    let answer = json!({ "status": 200, "headers": headers, "body": body });
    // What fails is tried again, and fails each time.
    let times = if body.len() < 1 << 20 { 5 } else { 1 };
    let world = World::new(name, json!({ "script": vec![answer; times] }));
    whole(world.client().chat("m", ask(stream))).map(|answer| serde_json::to_value(answer).unwrap())
}

fn events(events: &[Value]) -> String {
    let events = events.iter().map(|event| format!("data: {event}\n\n"));
    events.chain(["data: [DONE]\n\n".to_owned()]).collect()
}

fn streamed(name: &str, body: &str) -> Value {
    answer(name, Some("text/event-stream"), body, true).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The answer whose first choice has these pieces.
fn pieces(name: &str, pieces: &[Value]) -> Value {
    let chunk = |piece: &Value| json!({ "choices": [{ "index": 0, "delta": piece, "finish_reason": null }] });
    let end = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    streamed(name, &events(&pieces.iter().map(chunk).chain([end]).collect::<Vec<_>>()))
}

fn message(name: &str, message: &Value) -> Value {
    let body = json!({ "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }] });
    answer(name, Some("application/json"), &body.to_string(), false).unwrap()
}

/// Each of `expected` is in `found`, all the way down.
fn holds(found: &Value, expected: &Value) -> bool {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            expected.iter().all(|(name, value)| holds(found.get(name).unwrap_or(&Value::Null), value))
        }
        (Value::Array(found), Value::Array(expected)) => {
            found.len() == expected.len()
                && found.iter().zip(expected).all(|(found, expected)| holds(found, expected))
        }
        _ => found == expected,
    }
}

#[track_caller]
fn assert_holds(found: &Value, expected: &Value, what: &str) {
    assert!(holds(found, expected), "{what}: {expected} is not in {found}");
}

#[test]
fn what_does_not_matter() {
    for (number, (field, values)) in [
        (
            "created",
            vec![
                json!(1700000000.25),
                json!("1700000000"),
                json!("2024-01-01T00:00:00Z"),
                json!(-5),
                json!(1.7e9),
                json!(1e300),
                json!(null),
                json!([]),
            ],
        ),
        ("id", vec![json!(7), json!(null), json!({}), json!(1.5)]),
        ("object", vec![json!(0), json!(null)]),
        ("model", vec![json!(null), json!(3)]),
    ]
    .into_iter()
    .enumerate()
    {
        for (at, value) in values.into_iter().enumerate() {
            let mut first = json!({ "id": "c", "choices": [{ "index": 0, "delta": { "content": "Hello" }, "finish_reason": null }] });
            first[field] = value.clone();
            let end = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
            let found = streamed(&format!("odd-{number}-{at}"), &events(&[first, end]));
            assert_holds(
                &found,
                &json!({ "choices": [{ "message": { "content": "Hello" }, "finish_reason": "stop" }] }),
                &format!("{field} {value}"),
            );
        }
    }
    for (number, (index, finish, expected)) in [
        (json!("0"), json!("stop"), "stop"),
        (json!(0.0), json!(1), "stop"),
        (json!(null), json!("STOP"), "stop"),
        (json!({}), json!("MAX_TOKENS"), "length"),
        (json!(-1), json!({ "type": "length" }), "length"),
        (json!(0), json!("eos_token"), "stop"),
        (json!(0), json!("SAFETY"), "content_filter"),
        (json!(0), json!(true), "stop"),
    ]
    .into_iter()
    .enumerate()
    {
        let first =
            json!({ "choices": [{ "index": index, "delta": { "content": "Hello" }, "finish_reason": "" }] });
        let end = json!({ "choices": [{ "index": index, "delta": {}, "finish_reason": finish }] });
        let found = streamed(&format!("finish-{number}"), &events(&[first, end]));
        assert_holds(
            &found,
            &json!({ "choices": [{ "index": 0, "message": { "content": "Hello" }, "finish_reason": expected }] }),
            &finish.to_string(),
        );
    }
}

#[test]
fn forms_and_types() {
    let hello = events(&[
        json!({ "choices": [{ "index": 0, "delta": { "content": "Hello" }, "finish_reason": null }] }),
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }),
    ]);
    let json = json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": "Hello" }, "finish_reason": "stop" }] }).to_string();
    let bom = |text: &str| format!("\u{feff}{text}");
    let unfinished = hello.trim_end().strip_suffix("\n\ndata: [DONE]").unwrap();
    let once =
        json!({ "choices": [{ "index": 0, "delta": { "content": "Hello" }, "finish_reason": "stop" }] });
    let counted = json!({ "choices": [{ "index": 0, "delta": { "content": "" }, "finish_reason": null }], "usage": { "prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2 } });
    for (number, body) in [
        hello.clone(),
        bom(&hello),
        format!("\n\n{hello}"),
        format!(": hello\n\n{hello}"),
        format!("event: completion\n{hello}"),
        format!("id: 1\nretry: 100\n{hello}"),
        hello.replace('\n', "\r\n"),
        hello.replace("data: ", "data:"),
        unfinished.to_owned(),
        format!("{unfinished}\n"),
        hello.trim_end().to_owned(),
        json.clone(),
        bom(&json),
        format!("[{json}]"),
        format!("data: {json}\n\n"),
        format!("data: {json}"),
        hello.replace("[DONE]", "\"[DONE]\""),
        format!("{}data: {counted}\n\n", events(std::slice::from_ref(&once)).replace("data: [DONE]\n\n", "")),
    ]
    .iter()
    .enumerate()
    {
        for (at, media_type) in [
            Some("text/event-stream; charset=utf-8"),
            Some("text/plain"),
            Some("application/octet-stream"),
            Some("application/json"),
            None,
        ]
        .into_iter()
        .enumerate()
        {
            for stream in [true, false] {
                let found = answer(&format!("form-{number}-{at}-{stream}"), media_type, body, stream);
                let found = found.unwrap_or_else(|error| panic!("{media_type:?} {body:?}: {error}"));
                let expected =
                    json!({ "choices": [{ "message": { "content": "Hello" }, "finish_reason": "stop" }] });
                assert_holds(&found, &expected, body);
            }
        }
    }
    // What was cut in the middle is not whole.
    for (number, cut) in [5, 40, 80].into_iter().enumerate() {
        let body = &hello[..hello.find("Hello").unwrap() + cut];
        let error = answer(&format!("cut-short-{number}"), None, body, true).unwrap_err();
        assert!(matches!(error.code, Code::Network | Code::ProviderError), "{body}: {error}");
    }
}

#[test]
fn signs_of_life() {
    let first = json!({ "choices": [{ "index": 0, "delta": { "content": "Hel" } }] });
    let last = json!({ "choices": [{ "index": 0, "delta": { "content": "lo" }, "finish_reason": "stop" }] });
    for (number, sign) in [
        "event: ping\ndata: {\"type\": \"ping\"}",
        "data: {\"type\": \"ping\"}",
        "data: {}",
        "data: ",
        "data",
        "data: null",
        "data: ping",
        "event: keep-alive\ndata: still here",
        ": OPENROUTER PROCESSING",
        "event: ping",
        "data: {\"type\":\"heartbeat\",\"id\":\"7\"}",
        "event: metrics\ndata: {\"queue\": 3}",
        "data: {\"choices\":[]}",
        "data: {\"choices\":null,\"error\":null,\"id\":\"x\"}",
        "data: {\"error\":{},\"choices\":[]}",
    ]
    .iter()
    .enumerate()
    {
        let body = format!("{sign}\n\ndata: {first}\n\n{sign}\n\ndata: {last}\n\n{sign}\n\ndata: [DONE]\n\n");
        let found = streamed(&format!("ping-{number}"), &body);
        assert_holds(
            &found,
            &json!({ "choices": [{ "message": { "content": "Hello" }, "finish_reason": "stop" }] }),
            sign,
        );
    }
}

#[test]
fn what_is_there_is_kept() {
    let picture = json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64,AA==" } });
    let text = |text: &str| json!({ "type": "text", "text": text });
    for (number, (stream, expected)) in [
        (vec![json!({ "role": "assistant", "content": "", "refusal": null }), json!({ "refusal": "I can" }), json!({ "refusal": "not." })], json!({ "refusal": "I cannot." })),
        (vec![json!({ "refusal": "No." })], json!({ "refusal": "No." })),
        (vec![json!({ "content": "Well, " }), json!({ "refusal": "no." })], json!({ "content": "Well, ", "refusal": "no." })),
        (vec![json!({ "content": "" }), json!({ "content": "", "images": [picture] }), json!({ "images": [picture] })], json!({ "images": [picture, picture] })),
        (vec![json!({ "role": "assistant", "audio": { "id": "a1" } }), json!({ "audio": { "id": "a1", "transcript": "Hi", "data": "AA" } }), json!({ "audio": { "transcript": " you", "data": "BB" } }), json!({ "audio": { "expires_at": 1 } })], json!({ "audio": { "id": "a1", "transcript": "Hi you", "data": "AABB", "expires_at": 1 } })),
        (vec![json!({ "function_call": { "name": "f", "arguments": "" } }), json!({ "function_call": { "arguments": "{\"x\"" } }), json!({ "function_call": { "arguments": ":1}" } })], json!({ "function_call": { "name": "f", "arguments": "{\"x\":1}" } })),
        (vec![json!({ "function_call": { "name": "f", "arguments": { "x": 1 } } })], json!({ "function_call": { "name": "f", "arguments": "{\"x\":1}" } })),
        // Thoughts, by all their names.
        (vec![json!({ "reasoning_content": "Thi" }), json!({ "reasoning_content": "nk" }), json!({ "content": "Hello" })], json!({ "reasoning_content": "Think", "content": "Hello" })),
        (vec![json!({ "reasoning": "Think", "reasoning_content": "", "content": "" }), json!({ "content": "Hello" })], json!({ "reasoning_content": "Think", "content": "Hello" })),
        (vec![json!({ "reasoning": "", "reasoning_content": "Think" }), json!({ "content": "Hello" })], json!({ "reasoning_content": "Think", "content": "Hello" })),
        (vec![json!({ "reasoning": "Think", "reasoning_content": "Think" })], json!({ "reasoning_content": "Think", "reasoning": null })),
        (vec![json!({ "reasoning_text": "Think" })], json!({ "reasoning_content": "Think" })),
        (vec![json!({ "reasoning": { "content": "Think" } })], json!({ "reasoning_content": "Think" })),
        (vec![json!({ "content": "", "reasoning_details": [{ "type": "reasoning.encrypted", "data": "abc" }] }), json!({ "content": "Hello" })], json!({ "reasoning_details": [{ "data": "abc" }], "content": "Hello" })),
        (vec![json!({ "reasoning_details": [{ "type": "reasoning.text", "text": "Thi", "index": 0 }] }), json!({ "reasoning_details": [{ "type": "reasoning.text", "text": "nk", "index": 0 }] }), json!({ "reasoning_details": [{ "type": "reasoning.encrypted", "data": "x", "index": 1 }] })], json!({ "reasoning_content": "Think", "reasoning_details": [{ "text": "Think", "index": 0 }, { "data": "x" }] })),
        (vec![json!({ "content": [{ "type": "thinking", "thinking": [text("Think")] }] }), json!({ "content": [text("Hello")] }), json!({ "content": " you" })], json!({ "reasoning_content": "Think", "content": "Hello you" })),
        // Content as parts.
        (vec![json!({ "content": [text("Hel"), text("lo")] })], json!({ "content": "Hello" })),
        (vec![json!({ "content": ["Hel", { "type": "output_text", "text": "lo" }] })], json!({ "content": "Hello" })),
        (vec![json!({ "content": text("Hello") })], json!({ "content": "Hello" })),
        (vec![json!({ "content": [{ "type": "thinking", "thinking": "Think" }, { "type": "reference", "reference_ids": [1] }, text("Hello"), picture] })], json!({ "reasoning_content": "Think", "content": "Hello", "images": [picture], "content_parts": [{ "reference_ids": [1] }] })),
        (vec![json!({ "content": [{ "type": "refusal", "refusal": "No." }] })], json!({ "refusal": "No." })),
        (vec![json!({ "annotations": [{ "type": "url_citation" }] }), json!({ "content": "Hello" })], json!({ "annotations": [{ "type": "url_citation" }], "content": "Hello" })),
        // Fields without a name here, before the first text and after.
        (vec![json!({ "mood": "good" }), json!({ "content": "Hello" }), json!({ "weather": 3 })], json!({ "mood": "good", "weather": 3, "content": "Hello" })),
        (vec![json!("Hello")], json!({ "content": "Hello" })),
    ]
    .into_iter()
    .enumerate()
    {
        let found = pieces(&format!("kept-{number}"), &stream);
        let choice = json!({ "choices": [{ "message": expected, "finish_reason": "stop" }] });
        assert_holds(&found, &choice, &format!("{stream:?}"));
        if let [one] = &stream[..] {
            let found = message(&format!("kept-whole-{number}"), one);
            assert_holds(&found, &choice, &format!("{one} in one piece"));
        }
    }
}

#[test]
fn what_is_beside_the_message_is_kept() {
    let hello = json!({ "choices": [{ "index": 0, "delta": { "content": "Hello" } }] });
    let end = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop", "native_finish_reason": "eos" }] });
    let usage = json!({ "prompt_tokens": 1, "completion_tokens": 2.0, "total_tokens": "3", "cost": 0.01, "completion_tokens_details": { "reasoning_tokens": 1 }, "prompt_tokens_details": { "cached_tokens": 1, "audio_tokens": 0 } });
    let found = streamed(
        "beside",
        &events(&[
            json!({ "choices": [], "prompt_filter_results": [1], "system_fingerprint": "fp" }),
            json!({ "choices": [{ "index": 0, "delta": { "role": "assistant" }, "logprobs": { "content": [{ "token": "a" }] } }] }),
            hello.clone(),
            json!({ "choices": [{ "index": 0, "delta": { "content": "!" }, "logprobs": { "content": [{ "token": "b" }] } }], "citations": ["https://a.b"] }),
            end.clone(),
            json!({ "choices": [], "usage": usage, "x_groq": { "id": "r" } }),
        ]),
    );
    let expected = json!({
        "prompt_filter_results": [1],
        "system_fingerprint": "fp",
        "citations": ["https://a.b"],
        "x_groq": { "id": "r" },
        "choices": [{ "message": { "role": "assistant", "content": "Hello!" }, "logprobs": { "content": [{ "token": "a" }, { "token": "b" }] }, "native_finish_reason": "eos" }],
        "usage": { "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 0.01, "completion_tokens_details": { "reasoning_tokens": 1 }, "prompt_tokens_details": { "cached_tokens": 1, "audio_tokens": 0 } },
    });
    assert_holds(&found, &expected, "streamed");
    let body = json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": "Hello!" }, "logprobs": { "content": [{ "token": "a" }, { "token": "b" }] }, "finish_reason": "stop", "native_finish_reason": "eos" }], "prompt_filter_results": [1], "system_fingerprint": "fp", "citations": ["https://a.b"], "x_groq": { "id": "r" }, "usage": usage });
    let found = answer("beside-whole", Some("application/json"), &body.to_string(), false).unwrap();
    assert_holds(&found, &expected, "whole");
}

#[test]
fn tool_calls_of_every_shape() {
    let f = json!({ "name": "f", "arguments": "{\"x\":1}" });
    let (fg, fgx) = (
        json!([{ "function": f }, { "function": { "name": "g" } }]),
        json!({ "google": { "thought_signature": "s" } }),
    );
    for (number, (stream, expected)) in [
        (vec![json!({ "tool_calls": [{ "index": 0, "id": 0, "type": "function", "function": { "name": "f", "arguments": "{\"x\":1}" } }] })], json!([{ "id": "0", "function": f }])),
        (vec![json!({ "tool_calls": [{ "index": 0, "id": "a", "function": { "name": "f", "arguments": { "x": 1 } } }] })], json!([{ "id": "a", "function": f }])),
        (vec![json!({ "tool_calls": { "index": 0, "id": "", "function": { "name": "f", "arguments": "{\"x\"" } } }), json!({ "tool_calls": { "index": 0, "function": { "name": null, "arguments": ":1}" } } })], json!([{ "function": f }])),
        (vec![json!({ "tool_calls": [{ "index": 0, "id": "a", "function": { "name": "f", "arguments": "{\"x\":1}" } }, { "index": 0, "id": "b", "function": { "name": "g", "arguments": "{}" } }] })], fg.clone()),
        (vec![json!({ "tool_calls": [{ "function": { "name": "f", "arguments": "{\"x\":1}" } }] }), json!({ "tool_calls": [{ "function": { "name": "g", "arguments": null } }] })], fg.clone()),
        (vec![json!({ "tool_calls": [{ "id": "a", "function": { "name": "f", "arguments": "" }, "extra_content": fgx }] }), json!({ "tool_calls": [{ "id": "", "function": { "arguments": "{\"x\":1}" } }] })], json!([{ "id": "a", "function": f, "extra_content": fgx }])),
        (vec![json!({ "tool_calls": null, "content": "" }), json!({ "tool_calls": [{ "index": "0", "id": "a", "function": f }] })], json!([{ "id": "a", "function": f }])),
    ]
    .into_iter()
    .enumerate()
    {
        let found = pieces(&format!("calls-{number}"), &stream);
        let expected = json!({ "choices": [{ "message": { "tool_calls": expected } }] });
        assert_holds(&found, &expected, &format!("{stream:?}"));
        if let [one] = &stream[..] {
            assert_holds(&message(&format!("calls-whole-{number}"), one), &expected, &format!("{one} in one piece"));
        }
    }
    let description = json!({ "tool_calls": [{ "id": "0", "type": "function", "function": { "description": null, "name": "f", "arguments": { "x": 1 } } }], "content": null });
    assert_holds(
        &message("calls-tgi", &description),
        &json!({ "choices": [{ "message": { "tool_calls": [{ "function": f }] } }] }),
        "TGI",
    );
}

#[test]
fn many_of_everything_take_no_time() {
    const MANY: usize = 200_000;
    let began = Instant::now();
    let mut body = String::with_capacity(MANY * 120);
    for number in 0..MANY {
        body += &format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"tool_calls\":[{{\"index\":{number},\"id\":\"c{number}\",\"function\":{{\"name\":\"f\",\"arguments\":\"{{}}\"}}}}]}}}}]}}\n\n"
        );
    }
    body += "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n";
    let found = streamed("many-calls", &body);
    assert_eq!(found["choices"][0]["message"]["tool_calls"].as_array().unwrap().len(), MANY);
    // Quadratic they took a minute.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let body: String = (0..MANY)
        .map(|number| {
            format!("data: {{\"choices\":[{{\"index\":{number},\"delta\":{{\"content\":\"\"}}}}]}}\n\n")
        })
        .collect();
    let error = answer("many-choices", None, &body, true).unwrap_err();
    assert!(error.message.contains("more answers than anybody asks for"), "{error}");
    let body = format!(r#"{{"choices":[{}{{}}]}}"#, "{},".repeat(300_000));
    for stream in [true, false] {
        let body = if stream { format!("data: {body}\n\n") } else { body.clone() };
        let error = answer(&format!("many-at-once-{stream}"), None, &body, stream).unwrap_err();
        assert!(error.message.contains("more answers than anybody asks for"), "{error}");
    }
}

#[test]
fn who_answers_is_not_who_failed() {
    let busy = json!({ "status": 429, "headers": {}, "body": "" });
    let body = json!({ "id": "chatcmpl-7", "created": 7, "model": "org/large:quick", "choices": [{ "index": 0, "message": { "content": "Hi" }, "finish_reason": "stop" }] });
    let answer =
        json!({ "status": 200, "headers": { "Content-Type": "application/json" }, "body": body.to_string() });
    let world = World::new("identity", json!({ "script": [busy, answer] }));
    let found = serde_json::to_value(whole(world.client().chat("org/large", ask(false))).unwrap()).unwrap();
    assert_holds(
        &found,
        &json!({ "id": "chatcmpl-7", "created": 7, "model": "org/large:quick" }),
        "after a retry",
    );
}

#[test]
fn errors_keep_their_words() {
    let ok = json!({ "choices": [{ "index": 0, "delta": { "content": "Hel" } }] });
    for (number, (event, words)) in [
        (json!({ "choices": [{ "index": 0, "error": { "message": "Provider disconnected", "code": 502 }, "finish_reason": "error" }] }), "Provider disconnected"),
        (json!({ "choices": [{ "index": 0, "delta": { "error": "it broke" } }] }), "it broke"),
        (json!({ "type": "error", "message": "it broke" }), "it broke"),
        (json!({ "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" } }), "Overloaded"),
        (json!({ "choices": null, "error_type": "BadRequestError", "error_message": "no such thing" }), "no such thing"),
        (json!({ "object": "error", "message": "it broke", "code": 500 }), "it broke"),
        (json!({ "detail": [{ "loc": ["body"], "msg": "field required" }] }), "field required"),
        (json!({ "detail": [{ "loc": ["body", "a"], "msg": "one" }, { "loc": ["body", "b"], "msg": "two" }] }), "body.a: one; body.b: two"),
        (json!({ "error": ["one", "two"] }), "one; two"),
        (json!({ "error": "it broke" }), "it broke"),
        (json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "abort" }] }), "abort"),
        (json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "insufficient_system_resource" }] }), "insufficient_system_resource"),
    ]
    .into_iter()
    .enumerate()
    {
        for (place, before) in [("first", vec![]), ("middle", vec![ok.clone()])] {
            let body = events(&before.iter().cloned().chain([event.clone()]).collect::<Vec<_>>());
            let error = answer(&format!("words-{number}-{place}"), Some("text/event-stream"), &body, true).unwrap_err();
            assert!(error.message.contains(words), "{event} {place}: {error}");
        }
        let whole = json!({ "choices": [{ "index": 0, "message": event["choices"][0]["delta"], "finish_reason": event["choices"][0]["finish_reason"], "error": event["choices"][0]["error"] }] });
        let body = if event["choices"].is_array() { whole } else { event.clone() };
        let error = answer(&format!("words-whole-{number}"), Some("application/json"), &body.to_string(), false).unwrap_err();
        assert!(error.message.contains(words), "{body}: {error}");
    }
    let named = "event: error\ndata: the queue is full\n\n";
    let error = answer("words-named", Some("text/event-stream"), named, true).unwrap_err();
    assert!(error.message.contains("the queue is full"), "{error}");
    let long =
        json!({ "choices": null, "error_type": "BadRequestError", "error_message": "context too long" });
    let error = answer("words-long", Some("text/event-stream"), &events(&[long]), true).unwrap_err();
    assert_eq!(error.code, Code::ContextLengthExceeded, "{error}");
}

#[test]
fn json_as_others_write_it() {
    for (number, (body, expected)) in [
        ("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\\ud83d\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\ude00b\"},\"finish_reason\":\"stop\"}]}\n\n", "a😀b"),
        ("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\\ud83d\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n", "a\u{fffd}"),
        ("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\\ude00b\"},\"finish_reason\":\"stop\"}]}\n\n", "a\u{fffd}b"),
        ("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello\"},\"logprobs\":{\"content\":[{\"logprob\":-Infinity,\"x\":NaN}]},\"finish_reason\":\"stop\"}]}\n\n", "Hello"),
        ("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"two\tparts\"},\"finish_reason\":\"stop\"}],\"usage\":{\"cost\":1e999}}\n\n", "two\tparts"),
    ]
    .into_iter()
    .enumerate()
    {
        let found = streamed(&format!("json-{number}"), body);
        assert_holds(&found, &json!({ "choices": [{ "message": { "content": expected }, "finish_reason": "stop" }] }), body);
    }
}

#[test]
fn texts_and_chats_in_each_others_shape() {
    let found = streamed(
        "chat-as-text",
        &events(&[json!({ "choices": [{ "index": 0, "text": "Hello", "finish_reason": "stop" }] })]),
    );
    assert_holds(&found, &json!({ "choices": [{ "message": { "content": "Hello" } }] }), "a chat");
    // Both, and in the place of each other: nothing is lost, and no text is longer than before.
    let mixed = [
        json!({ "choices": [{ "index": 0, "delta": { "content": "Hello" }, "text": "Hello" }] }),
        json!({ "choices": [{ "index": 0, "text": "", "delta": { "content": "!" } }] }),
        json!({ "choices": [{ "index": 0, "delta": {}, "text": " Hi", "finish_reason": "stop" }] }),
    ];
    assert_holds(
        &streamed("chat-as-both", &events(&mixed)),
        &json!({ "choices": [{ "message": { "content": "Hello! Hi" }, "text": null }] }),
        "both",
    );
    let body = events(&[
        json!({ "choices": [{ "index": 0, "delta": { "content": "Hello" }, "finish_reason": "stop" }] }),
    ]);
    let world =
        World::new("text-as-chat", json!({ "script": [{ "status": 200, "headers": {}, "body": body }] }));
    assert_eq!(
        whole(world.client().complete("m", json!({ "prompt": "x", "stream": true }))).unwrap().text(),
        "Hello"
    );
    let message = json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": "Hello" }, "finish_reason": "stop" }] });
    assert_holds(
        &streamed("message-streamed", &events(&[message])),
        &json!({ "choices": [{ "message": { "content": "Hello" } }] }),
        "a message",
    );
}

#[test]
fn pieces_can_be_appended_by_others_too() {
    let first =
        json!({ "index": 0, "id": "a", "type": "function", "function": { "name": "f", "arguments": "{" } });
    let second =
        json!({ "index": 0, "id": "a", "type": "function", "function": { "name": "f", "arguments": "}" } });
    let chunk = |call: &Value| json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [call] } }] });
    let end = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "tool_calls" }] });
    let body = events(&[chunk(&first), chunk(&second), end]);
    let world = World::new("appended", json!({ "script": [{ "status": 200, "headers": {}, "body": body }] }));
    let (chunks, error) = collect(world.client().chat("m", ask(true)).unwrap());
    assert_eq!(error, None);
    let second = &chunks[1].choices[0].delta.as_ref().unwrap().tool_calls[0];
    assert_eq!((second.index, &second.id, &second.function.name), (Some(0), &None, &None));
}
