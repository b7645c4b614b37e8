//! OpenAI's requests to a model on this device: what they may hold, what they get, and what they hear who err.

use crate::fixtures::{path, stories};
use candlewick::engine::{Device, Engine, Options};
use candlewick::openai::{
    ChatRequest, Completion, CompletionRequest, EmbeddingRequest, Endpoint, check_settings,
};
use candlewick::router::{Local, Provider};
use candlewick::store::FileSource;
use candlewick::{Code, Error, Result};
use futures_util::StreamExt;
use pollster::block_on;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::rc::Rc;

fn load(model: PathBuf) -> Local {
    let options = Options { device: Device::Cpu, ..Options::default() };
    let source = Rc::new(FileSource::open(&model).unwrap());
    Local(block_on(Engine::load(source, &options, &mut |_| Ok(()))).unwrap())
}

/// The chunks, and what they make.
fn ask(model: &Local, endpoint: Endpoint, body: Value) -> Result<(Vec<Value>, Value)> {
    block_on(async {
        let mut chunks = model.answer(endpoint, body).await?;
        let (mut all, mut whole) = (Vec::new(), Completion::default());
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk?;
            whole.add(&chunk);
            all.push(serde_json::to_value(&chunk).unwrap());
        }
        Ok((all, serde_json::to_value(&whole).unwrap()))
    })
}

fn complete(model: &Local, body: Value) -> Value {
    ask(model, Endpoint::Completions, body).unwrap().1
}

fn texts(answer: &Value) -> Vec<&str> {
    let choices = answer["choices"].as_array().unwrap();
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index, "{answer}");
    }
    choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect()
}

fn merged(mut body: Value, more: &Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn prompts_of_every_form() {
    let model = load(stories());
    let greedy = json!({ "temperature": 0, "max_tokens": 6 });
    let ask = |prompt: Value, more: Value| {
        complete(&model, merged(merged(json!({ "prompt": prompt }), &greedy), &more))
    };
    let plain = json!({});
    let tokens = |text: &str| model.0.language().tokenizer.encode_with_special(text, true).unwrap();
    let [one, two, three] = ["Once upon", "Lily", ""].map(|text| ask(json!(text), plain.clone()));
    let alone = [&one, &two, &three].map(|answer| texts(answer)[0]);

    assert_eq!(texts(&ask(json!(["Once upon"]), plain.clone())), &alone[..1]);
    assert_eq!(texts(&ask(json!(tokens("Once upon")), plain.clone())), &alone[..1]);
    assert_eq!(texts(&ask(json!([tokens("Lily")]), plain.clone())), &alone[1..2]);
    let floats: Vec<f64> = tokens("Lily").iter().map(|&id| id.into()).collect();
    assert_eq!(texts(&ask(json!(floats), plain.clone())), &alone[1..2]);
    for several in [
        json!(["Once upon", "Lily", ""]),
        json!([tokens("Once upon"), tokens("Lily"), tokens("")]),
        json!([tokens("Once upon"), tokens("Lily"), []]),
    ] {
        let answer = ask(several, plain.clone());
        assert_eq!(texts(&answer), alone);
        let sum = |field: &str| -> u64 {
            [&one, &two, &three].iter().map(|one| one["usage"][field].as_u64().unwrap()).sum()
        };
        for field in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(answer["usage"][field], sum(field), "{field}");
        }
        assert_eq!(answer["timings"]["predicted_n"], 18);
        assert!(answer["timings"]["predicted_per_second"].as_f64().unwrap() > 0.0, "{answer}");
    }
    // Each has `n` answers, in the order of the prompts.
    let answer = ask(json!(["Once upon", "Lily"]), json!({ "n": 2 }));
    assert_eq!(texts(&answer), [alone[0], alone[0], alone[1], alone[1]]);
    // The same seed for each.
    let random = json!({ "n": 2, "seed": 7, "temperature": 1.5 });
    let answer = ask(json!(["Lily", "Lily"]), random.clone());
    let drawn = texts(&answer);
    assert_eq!(drawn[..2], drawn[2..]);
    assert_eq!(drawn[..2], texts(&ask(json!("Lily"), random)));
    assert_eq!(answer["candlewick"]["seed"], 7);

    let echoed = ask(json!(["Once upon", "Lily"]), json!({ "echo": true }));
    assert_eq!(texts(&echoed), [format!("Once upon{}", alone[0]), format!("Lily{}", alone[1])]);
    // A prompt alone comes back.
    let nothing = ask(json!(["Once upon", "Lily"]), json!({ "echo": true, "max_tokens": 0 }));
    assert_eq!(texts(&nothing), ["Once upon", "Lily"]);
    assert_eq!(nothing["usage"]["completion_tokens"], 0);
    assert_eq!(nothing["usage"]["prompt_tokens"], tokens("Once upon").len() + tokens("Lily").len());
    assert_eq!(nothing["choices"][1]["finish_reason"], "length");
    let back = ask(json!(tokens("Lily")), json!({ "echo": true, "max_tokens": 0 }));
    assert!(texts(&back)[0].trim_start().ends_with("Lily"), "{back}");
}

#[test]
fn streams_of_several_prompts() {
    let model = load(stories());
    let body = json!({ "prompt": ["Once upon", "Lily"], "temperature": 0, "max_tokens": 4, "stream": true, "return_tokens": true });
    let (chunks, whole) = ask(&model, Endpoint::Completions, body).unwrap();
    let mut ends = Vec::new();
    let mut usages = 0;
    for chunk in &chunks {
        assert_eq!(chunk["id"], whole["id"]);
        usages += usize::from(chunk.get("usage").is_some());
        for choice in chunk["choices"].as_array().unwrap() {
            assert!(!ends.contains(&choice["index"]), "nothing after its end: {chunk}");
            if choice["finish_reason"] != Value::Null {
                ends.push(choice["index"].clone());
            }
        }
    }
    assert_eq!((ends, usages), (vec![json!(0), json!(1)], 1));
    assert_eq!(whole["choices"][1]["tokens"].as_array().unwrap().len(), 4);
    // All prompts are checked before anything comes.
    let long = "Once upon a time. ".repeat(500);
    let error = ask(&model, Endpoint::Completions, json!({ "prompt": ["Lily", long] })).unwrap_err();
    assert_eq!(error.code, Code::ContextLengthExceeded);
    assert!(error.message.starts_with("prompt[1]: "), "{error}");
    let error = ask(&model, Endpoint::Completions, json!({ "prompt": [[1], [512]] })).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument, "{error}");
}

#[test]
fn values_as_other_servers_take_them() {
    let model = load(stories());
    let body = json!({ "prompt": "Once upon", "temperature": 0, "max_tokens": 5 });
    let plain = complete(&model, body.clone());
    for same in [
        json!({ "top_k": -1 }),
        json!({ "top_k": 0.0, "seed": 3.0 }),
        json!({ "top_k": 5_000_000_000u64 }),
        json!({ "seed": -1 }),
        json!({ "seed": -12345 }),
        json!({ "seed": i64::MIN }),
        json!({ "seed": u64::MAX }),
        json!({ "seed": 9007199254740992.0 }),
        json!({ "seed": 1e19 }),
        json!({ "max_tokens": 5.0, "n": 1.0 }),
        json!({ "max_completion_tokens": 5 }),
        json!({ "max_tokens": null, "max_completion_tokens": 5 }),
        json!({ "max_tokens": null, "n_predict": 5 }),
        json!({ "logit_bias": {} }),
        json!({ "logit_bias": [] }),
        json!({ "logit_bias": null }),
        json!({ "logit_bias": { "7": 0, " 8 ": 0.0 } }),
        json!({ "logit_bias": [[7, 0]] }),
        json!({ "stop": [], "stream": null, "stream_options": null, "truncate": null, "ignore_eos": null }),
        json!({ "temperature": 0.0, "top_p": 1, "min_p": 0, "repeat_last_n": -1.0, "repeat_penalty": 1 }),
        json!({ "stream_options": { "include_usage": true, "include_obfuscation": false } }),
        json!({ "user": "me", "metadata": { "a": "b" }, "store": true, "service_tier": "auto", "model": "whatever" }),
        json!({ "logprobs": null, "suffix": "", "best_of": 1, "echo": null, "grammar": "", "mirostat": 0 }),
    ] {
        let answer = complete(&model, merged(body.clone(), &same));
        assert_eq!(texts(&answer), texts(&plain), "{same}");
    }
    // Without a limit the answer goes on to its end, or to the context's.
    for unlimited in [json!(-1), json!(u64::MAX), json!(1e12)] {
        let answer =
            complete(&model, merged(body.clone(), &json!({ "max_tokens": unlimited, "ignore_eos": true })));
        assert_eq!(answer["usage"]["total_tokens"], 512);
    }
    // -1 draws a seed; others are as they are.
    let random = merged(body.clone(), &json!({ "temperature": 2, "max_tokens": 30 }));
    let drawn = |seed: Value| complete(&model, merged(random.clone(), &json!({ "seed": seed })));
    assert_ne!(drawn(json!(-1))["choices"], drawn(json!(-1))["choices"]);
    assert_eq!(drawn(json!(-2))["choices"], drawn(json!(-2))["choices"]);
    assert_eq!(drawn(json!(-2))["choices"], drawn(json!(u64::MAX - 1))["choices"]);
    let large = drawn(json!(u64::MAX));
    assert_eq!(&large["choices"], &drawn(json!(u64::MAX))["choices"]);
}

#[test]
fn what_asks_for_too_much_at_once() {
    let model = load(stories());
    for (body, words) in [
        (json!({ "prompt": "a", "echo": true, "max_tokens": 1, "n": 4_000_000_000u64 }), "from 1 to 128"),
        (json!({ "prompt": vec!["a"; 3000], "max_tokens": 1 }), "3000 prompts"),
        (
            json!({ "prompt": vec!["a"; 2048], "logit_bias": (0..513).map(|id| (id.to_string(), json!(1))).collect::<serde_json::Map<_, _>>() }),
            "513 entries",
        ),
    ] {
        let error = ask(&model, Endpoint::Completions, body).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains(words), "{error}");
    }
}

/// What none of our messages may have in it.
const RUST: [&str; 26] = [
    "u8",
    "u16",
    "u32",
    "u64",
    "usize",
    "i32",
    "i64",
    "i128",
    "f32",
    "f64",
    "enum",
    "struct",
    "variant",
    "untagged",
    "sequence",
    " map",
    "integer",
    "floating point",
    "boolean",
    "serde",
    "Some(",
    "None",
    "expected",
    "invalid type",
    "OneOrMany",
    "--",
];

fn request(kind: &str, body: Value) -> Result<(), Error> {
    match kind {
        "chat" => ChatRequest::try_from(body).map(drop),
        "completion" => CompletionRequest::try_from(body).map(drop),
        _ => EmbeddingRequest::try_from(body).map(drop),
    }
}

/// Every field of every request, with every kind of value that may be wrong: none is taken for something else, and
/// the messages name the field in plain words.
#[test]
fn every_field_with_every_wrong_value() {
    let sampling = [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "typical_p",
        "repeat_penalty",
        "repetition_penalty",
        "repeat_last_n",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "seed",
        "max_tokens",
        "n_predict",
        "stop",
        "n",
        "truncate",
        "ignore_eos",
        "return_tokens",
        "stream",
        "stream_options",
        "model",
        "max_completion_tokens",
        "response_format",
        "logprobs",
    ];
    let chat = [
        "messages",
        "tools",
        "tool_choice",
        "add_generation_prompt",
        "continue_final_message",
        "chat_template_kwargs",
        "reasoning_effort",
    ];
    let messages = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
    let requests = [
        ("chat", messages, [&sampling[..], &chat].concat()),
        ("completion", json!({ "prompt": "Hi" }), [&sampling[..], &["prompt", "echo", "suffix"]].concat()),
        (
            "embedding",
            json!({ "input": "Hi" }),
            vec!["input", "model", "encoding_format", "dimensions", "truncate"],
        ),
    ];
    let wrong = [
        json!(true),
        json!(-7),
        json!(1.5),
        json!(-1e300),
        json!(1e300),
        json!("nonsense"),
        json!(""),
        json!([]),
        json!({}),
        json!([true]),
        json!([[-1]]),
        json!([1.5]),
        json!(["a", 1]),
        json!({ "a": "b" }),
        json!({ "include_usage": 3 }),
        json!(18446744073709551615u64),
        json!([[[]]]),
        json!([null]),
    ];
    let mut refused = 0;
    for (kind, body, fields) in requests {
        request(kind, body.clone()).unwrap();
        for field in fields {
            let mut last = String::new();
            for value in &wrong {
                let Err(error) = request(kind, merged(body.clone(), &json!({ field: value }))) else {
                    continue;
                };
                assert_eq!(error.code, Code::InvalidArgument, "{error}");
                let message = &error.message;
                for word in RUST {
                    assert!(!message.contains(word), "{kind} {field} {value}: {word:?} in {message:?}");
                }
                // Some have two names.
                let named = message.contains(field)
                    || (field == "repetition_penalty" && message.contains("repeat_penalty"));
                assert!(
                    named || (field.starts_with("n_") && message.contains("max_tokens")),
                    "{field} {value}: {message:?}"
                );
                last = message.clone();
                refused += 1;
            }
            assert!(!last.is_empty(), "{kind}: {field} takes everything");
            // null is what is not there, where anything may be left out.
            if !matches!(field, "messages" | "prompt" | "input") {
                request(kind, merged(body.clone(), &json!({ field: null }))).unwrap();
            }
        }
    }
    assert!(refused > 400, "{refused}");
}

#[test]
fn messages_in_plain_words() {
    for (kind, body, message) in [
        ("chat", json!([]), "the request must be an object"),
        ("chat", json!({}), "messages is missing"),
        ("chat", json!({ "messages": "Hi" }), "messages must be a list, not the text \"Hi\""),
        ("completion", json!({}), "prompt is missing"),
        (
            "completion",
            json!({ "prompt": 5 }),
            "prompt must be a text, a list of texts, a list of token ids or a list of",
        ),
        ("completion", json!({ "prompt": ["a", 5] }), "prompt must be a text, a list of texts"),
        ("completion", json!({ "prompt": [] }), "prompt must be a text, a list of texts"),
        (
            "completion",
            json!({ "prompt": [[1], [-5]] }),
            "prompt[1][0] must be a whole number from 0 to 4294967295, not -5",
        ),
        (
            "completion",
            json!({ "prompt": "x", "max_tokens": 5, "max_completion_tokens": 6 }),
            "max_tokens and max_completion_tokens mean the same",
        ),
        ("completion", json!({ "prompt": "x", "max_tokens": 0 }), "max_tokens is 0"),
        (
            "completion",
            json!({ "prompt": "x", "max_tokens": -2 }),
            "max_tokens must be a number of tokens, or -1 for no limit, not -2",
        ),
        (
            "completion",
            json!({ "prompt": "x", "temperature": "hot" }),
            "temperature must be a number, not the text \"hot\"",
        ),
        (
            "completion",
            json!({ "prompt": "x", "temperature": -1 }),
            "temperature must be a number of at least 0, not -1",
        ),
        ("completion", json!({ "prompt": "x", "stop": 5 }), "stop must be a text or a list of texts, not 5"),
        ("completion", json!({ "prompt": "x", "stop": ["a", 5] }), "stop[1] must be a text, not 5"),
        (
            "completion",
            json!({ "prompt": "x", "truncate": "start" }),
            "truncate must be \"error\", \"middle\" or \"oldest\", not \"start\"",
        ),
        (
            "completion",
            json!({ "prompt": "x", "logit_bias": { "x": 1 } }),
            "logit_bias: \"x\" is not a token id",
        ),
        ("completion", json!({ "prompt": "x", "seed": 1e25 }), "seed must be a whole number from"),
        (
            "completion",
            json!({ "prompt": "x", "max_token": 5 }),
            "the request has a field \"max_token\", which nothing here knows. Did you mean \"max_tokens\"?",
        ),
        (
            "completion",
            json!({ "prompt": "x", "maxTokens": 5 }),
            "the request has a field \"maxTokens\", which nothing here knows. Did you mean \"max_tokens\"?",
        ),
        (
            "completion",
            json!({ "prompt": "x", "tempurature": 0 }),
            "the request has a field \"tempurature\", which nothing here knows. Did you mean \"temperature\"?",
        ),
        ("completion", json!({ "prompt": "x", "messages": [] }), "the request has a field \"messages\""),
        (
            "embedding",
            json!({ "input": "x", "dimension": 5 }),
            "the request has a field \"dimension\", which nothing here knows. Did you mean \"dimensions\"?",
        ),
        (
            "embedding",
            json!({ "input": "x", "encoding_format": "hex" }),
            "encoding_format must be \"float\" or \"base64\", not \"hex\"",
        ),
        ("embedding", json!({ "input": [] }), "input must be a text"),
    ] {
        let error = request(kind, body.clone()).unwrap_err();
        assert!(error.message.starts_with(message), "{body}: {}", error.message);
    }
    // Of nothing known: then without a guess.
    let error = request("completion", json!({ "prompt": "x", "zzzzzzzz": 1 })).unwrap_err();
    assert!(!error.message.contains("Did you mean"), "{error}");
    check_settings(json!({ "temperature": 1.5, "anything": 1 }).as_object().unwrap()).unwrap();
    check_settings(json!({ "temperature": -1.5 }).as_object().unwrap()).unwrap_err();
}

#[test]
fn what_a_model_here_cannot_do_is_refused() {
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let tools = json!([{ "type": "function", "function": { "name": "weather" } }]);
    let body = json!({ "messages": messages, "tools": tools });
    for fine in [
        json!({}),
        json!({ "tool_choice": "auto" }),
        json!({ "tool_choice": "none" }),
        json!({ "tool_choice": null, "parallel_tool_calls": false }),
        json!({ "response_format": { "type": "text" }, "logprobs": false, "top_logprobs": null, "modalities": ["text"] }),
        json!({ "tools": [], "functions": [], "function_call": "none", "reasoning_effort": "low" }),
    ] {
        request("chat", merged(body.clone(), &fine)).unwrap();
    }
    for (field, value) in [
        ("tool_choice", json!("required")),
        ("tool_choice", json!({ "type": "function", "function": { "name": "weather" } })),
        ("response_format", json!({ "type": "json_object" })),
        ("logprobs", json!(true)),
        ("top_logprobs", json!(5)),
        ("functions", tools[0]["function"].clone()),
        ("modalities", json!(["text", "audio"])),
        ("chat_template", json!("{{ messages }}")),
        ("grammar", json!("root ::= \"x\"")),
        ("mirostat", json!(2)),
    ] {
        let error = request("chat", merged(body.clone(), &json!({ field: value }))).unwrap_err();
        assert!(error.message.starts_with(field) && error.code == Code::InvalidArgument, "{error}");
    }
    // "none": the model hears of no tools.
    let conversation = |more: Value| ChatRequest::try_from(merged(body.clone(), &more)).unwrap().conversation;
    assert!(
        conversation(json!({})).tools.is_some()
            && conversation(json!({ "tool_choice": "none" })).tools.is_none()
    );
    assert_eq!(conversation(json!({ "reasoning_effort": "low" })).variables["reasoning_effort"], "low");
    let local = block_on(load(path("models/qwen2.gguf")).capabilities()).unwrap();
    assert_eq!(local.tools, Some(false));
}

#[test]
fn requests_too_deep() {
    let model = load(path("models/qwen2.gguf"));
    let nested = (0..1000).fold(json!("x"), |inner, _| json!([inner]));
    let message = json!({ "role": "user", "content": "Hi", "extra": nested });
    for body in [
        json!({ "messages": [message] }),
        json!({ "messages": [], "tools": [nested] }),
        json!({ "messages": [], "chat_template_kwargs": { "x": nested } }),
        json!({ "messages": [], "metadata": nested }),
    ] {
        let error = ask(&model, Endpoint::Chat, body.clone()).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("64 deep"), "{error}");
    }
    let mut conversation = candlewick::chat::Conversation::new(vec![message]);
    let error = model.0.language().render(&conversation).unwrap_err();
    assert!(error.message.contains("64 deep"), "{error}");
    conversation.messages = vec![json!({ "role": "user", "content": "Hi" })];
    conversation.variables.insert("x".into(), nested);
    assert!(model.0.language().render(&conversation).unwrap_err().message.contains("64 deep"));
}
