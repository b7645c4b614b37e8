//! `run` and `chat` answer in one way, whoever answers: the same flags, the same shape, and hosts are told what was
//! typed and nothing else.

use super::hosted::{TEXT, User};
use super::*;
use crate::remote::World;

const KEYS: [&str; 7] = ["text", "tokens", "finish_reason", "usage", "timings", "seed", "device"];

#[test]
fn values_that_mean_none() {
    let story = stories_path();
    let run = |more: &[&str]| {
        let arguments = ["run", &story, "--raw", "-p", "Once", "--temp", "0", "--json"];
        object(&[&arguments[..], more].concat())
    };
    let plain = run(&["-n", "8"]);
    for same in
        [&["--top-k", "-1"][..], &["--seed", "-1"], &["--seed", "-7"], &["--seed", "18446744073709551615"]]
    {
        assert_eq!(run(&[&["-n", "8"], same].concat())["text"], plain["text"], "{same:?}");
    }
    let whole = run(&["-n", "-1"]);
    assert!(whole["finish_reason"] == "stop" || whole["usage"]["total_tokens"] == 512, "{whole}");
    assert!(whole["text"].as_str().unwrap().starts_with(plain["text"].as_str().unwrap()));
    assert_eq!(run(&["-n", "18446744073709551615"])["text"], whole["text"]);
    assert_eq!(run(&["-n", "8", "--seed", "-7"])["seed"], -7);

    let fails = |more: &[&str], parts: &[&str]| {
        fails(&[&["run", &story, "--raw", "-p", "x"], more].concat(), "invalid_argument", parts);
    };
    fails(&["-n", "-2"], &["max_tokens", "-2"]);
    fails(&["--top-k", "-2"], &["top_k", "-2"]);
    for (flag, name) in [
        ("--temp", "temperature"),
        ("--top-p", "top_p"),
        ("--min-p", "min_p"),
        ("--typical-p", "typical_p"),
        ("--repeat-penalty", "repeat_penalty"),
        ("--presence-penalty", "presence_penalty"),
        ("--frequency-penalty", "frequency_penalty"),
    ] {
        for number in ["NaN", "inf", "-inf"] {
            fails(&[&format!("{flag}={number}")], &[name, number]);
        }
    }
    // Before a model is even looked for, and where only a host would hear them.
    super::fails(&["run", "/nowhere.gguf", "-p", "x", "--temp", "nan"], "invalid_argument", &["temperature"]);
    for usage in
        [&["-n", "many"][..], &["--seed", "1.5"], &["--seed", "99999999999999999999"], &["--field", "x"]]
    {
        failure(&[&["run", &story, "-p", "x"], usage].concat(), 2);
    }
}

#[test]
fn flags_mean_the_same_with_a_fallback() {
    let user = User::new();
    let world = World::new("cli-one-way", json!({}));
    user.says(&["provider", "add", "double", "--url", &world.url, "--model", "org/large"]);
    let (story, chat) = (stories_path(), fixture("models/qwen2.gguf"));
    // A model that only continues texts, and one that talks.
    for model in [&story, &chat] {
        for flags in [
            &["--temp", "0"][..],
            &["--temp", "0", "--repeat-penalty", "1.4", "--repeat-last-n", "2"],
            &["--temp", "0", "--repeat-penalty", "1.4", "--repeat-last-n", "0"],
            &[
                "--seed",
                "7",
                "--temp",
                "1.3",
                "--top-k",
                "9",
                "--top-p",
                "0.9",
                "--min-p",
                "0.01",
                "--typical-p",
                "0.9",
            ],
            &["--seed", "7", "--presence-penalty", "0.5", "--frequency-penalty", "-0.5"],
            &["--temp", "0", "--stop", "e", "--raw"],
            &["--temp", "0", "--ctx", "64", "--truncate"],
        ] {
            let run = |more: &[&str]| {
                let arguments =
                    [&["run", model, "-p", "Once upon a time there", "-n", "12", "--json"], flags, more]
                        .concat();
                serde_json::from_str::<Value>(&user.says(&arguments)).unwrap()
            };
            let (alone, with) = (run(&[]), run(&["--fallback", "double"]));
            assert_eq!(keys(&alone), KEYS);
            assert_eq!(keys(&with), [&KEYS[..], &["candlewick"]].concat());
            for field in ["text", "tokens", "finish_reason", "device"] {
                assert_eq!(alone[field], with[field], "{model} {flags:?} {field}");
            }
            assert!(with["timings"]["predicted_n"].as_u64() > Some(0), "{with}");
            assert_eq!(with["candlewick"]["ran"], "local");
        }
    }
    let told = ["run", &story, "-p", "x", "--system", "Be brief.", "--fallback", "double"];
    assert!(user.fails(&told, "invalid_argument").contains("--system needs a model with a chat template"));
    let long = "Once upon a time. ".repeat(200);
    let message = user.fails(&["run", &story, "-p", &long], "context_length_exceeded");
    assert!(message.contains("--ctx") && message.contains("--truncate"), "{message}");
    assert_eq!(world.log().len(), 0);

    // Who cannot talk is not talked with; the next one is.
    let chat = with_input(user.command(&["chat", &story, "--fallback", "double"]), b"Hello\n");
    assert_eq!(String::from_utf8(chat.stdout).unwrap(), format!("{TEXT}\n"));
    // A hosted answer has the same shape, with nothing where nothing is known.
    let hosted: Value = serde_json::from_str(&user.says(&["run", "double", "-p", "Hi", "--json"])).unwrap();
    assert_eq!(keys(&hosted), [&KEYS[..], &["candlewick"]].concat());
    assert_eq!((&hosted["text"], &hosted["device"]), (&json!(TEXT), &json!("remote")));
    assert_eq!(
        (&hosted["tokens"], &hosted["timings"], &hosted["seed"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
}

#[test]
fn hosts_are_told_what_was_typed() {
    let user = User::new();
    let world = World::new("cli-told", json!({}));
    user.says(&["provider", "add", "double", "--url", &world.url, "--model", "org/large"]);
    let mut bodies = 0;
    let mut told = |more: &[&str]| {
        user.says(&[&["run", "double", "-p", "Hi"], more].concat());
        let mut body = world.log()[bodies]["body"].as_object().unwrap().clone();
        bodies += 1;
        for known in ["model", "messages", "stream", "stream_options"] {
            body.remove(known);
        }
        Value::Object(body)
    };
    assert_eq!(told(&[]), json!({}));
    assert_eq!(told(&["-n", "9", "--temp", "0.7"]), json!({ "max_tokens": 9, "temperature": 0.7 }));
    // Also what is the default on this device.
    let defaults = ["--temp", "0.7", "--top-p", "1", "--top-k", "0"];
    assert_eq!(told(&defaults), json!({ "temperature": 0.7, "top_p": 1, "top_k": 0 }));
    assert_eq!(told(&["--seed", "-1"]), json!({}));
    let fields = [
        "--field",
        "reasoning_effort=low",
        "--field",
        "max_completion_tokens=50",
        "--field",
        "x={\"a\": [1]}",
    ];
    assert_eq!(
        told(&fields),
        json!({ "reasoning_effort": "low", "max_completion_tokens": 50, "x": { "a": [1] } })
    );
    let chat =
        with_input(user.command(&["chat", "double", "--quiet", "--field", "verbosity=low"]), b"Hello\n");
    assert_eq!(chat.status.code(), Some(0));
    let body = world.log()[bodies]["body"].clone();
    assert_eq!(
        (&body["verbosity"], body.get("max_tokens"), body.get("temperature")),
        (&json!("low"), None, None)
    );
    // On this device a name that means nothing is refused.
    let story = stories_path();
    fails(
        &["run", &story, "-p", "x", "--field", "max_token=3"],
        "invalid_argument",
        &["max_token", "max_tokens"],
    );
    let run = ["run", &story, "--raw", "-p", "x", "--field", "max_completion_tokens=3", "--json"];
    assert_eq!(object(&run)["usage"]["completion_tokens"], 3);
}

#[cfg(target_os = "linux")]
#[test]
fn paths_that_are_not_text() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let model = folder.0.path().join(OsStr::from_bytes(b"m\xff.gguf"));
    std::fs::copy(stories(), &model).unwrap();
    let model = model.as_os_str();
    let [run, raw, prompt, n] = ["run", "--raw", "-pOnce", "-n2"].map(OsStr::new);
    assert!(!text(candlewick([run, model, raw, prompt, n]).output().unwrap()).is_empty());
    for (command, more) in [
        ("info", &[][..]),
        ("tokenize", &["x"]),
        ("logits", &["--tokens", "1"]),
        ("bench", &["-p", "2", "-n", "1", "-r", "1"]),
    ] {
        let arguments =
            [&[OsStr::new(command), model][..], &more.iter().map(OsStr::new).collect::<Vec<_>>()].concat();
        assert!(!text(candlewick(arguments).output().unwrap()).is_empty(), "{command}");
    }
    // As the one to fall back on, and where there is none.
    let gone = ["run", "/gone.gguf", "--fallback"].map(OsStr::new);
    let output = candlewick([&gone[..], &[model, raw, prompt, n]].concat()).output().unwrap();
    assert!(output.status.success() && !output.stdout.is_empty());
    let nowhere = OsStr::from_bytes(b"/nowhere/m\xff.gguf");
    fails(&[run, nowhere, raw, prompt], "model_not_found", &["no such file"]);
    let file = folder.0.path().join(OsStr::from_bytes(b"p\xff.txt"));
    std::fs::write(&file, "Once").unwrap();
    assert!(
        !text(candlewick([run, model, raw, n, OsStr::new("-f"), file.as_os_str()]).output().unwrap())
            .is_empty()
    );
}
