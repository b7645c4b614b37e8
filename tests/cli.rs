//! The program as people run it: what comes out of it, and how it fails.

mod broken;
mod embed;
mod hosted;
mod one_way;
mod talk;

use crate::edit::Edit;
use crate::fixtures::{contents, json, path, stories};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

pub(crate) fn candlewick(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_candlewick"));
    // The GPU has tests of its own, and not every machine has one.
    command.env("CANDLEWICK_GPU_ADAPTER", "none of them");
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Tests run beside each other as it is; `--threads` has its own.
    command.env("RAYON_NUM_THREADS", "1");
    command
}

fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// What a command that goes well writes to stdout, where it says nothing else.
fn output(arguments: &[&str]) -> String {
    text(candlewick(arguments).output().unwrap())
}

fn text(output: Output) -> String {
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""));
    String::from_utf8(output.stdout).unwrap()
}

fn object(arguments: &[&str]) -> Value {
    let line = output(arguments);
    assert!(line.ends_with('\n') && line.lines().count() == 1, "{line:?}");
    serde_json::from_str(&line).unwrap()
}

/// What a command that fails says on stderr; nothing comes on stdout.
fn failure(arguments: &[impl AsRef<OsStr>], exit: i32) -> String {
    let output = candlewick(arguments).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit), "{stderr}");
    assert!(output.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&output.stdout));
    stderr
}

/// Fails with `code`, and says each of `parts`.
fn fails(arguments: &[impl AsRef<OsStr>], code: &str, parts: &[&str]) {
    let message = failure(arguments, 1);
    assert!(message.starts_with("error: ") && message.ends_with(&format!(" [{code}]\n")), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
}

fn stories_path() -> String {
    stories().to_string_lossy().into_owned()
}

fn fixture(relative: &str) -> String {
    path(relative).to_string_lossy().into_owned()
}

/// A folder of this test's own.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_string_lossy().into_owned()
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_published_story() {
    let story = std::fs::read_to_string(path("goldens/stories260K.greedy.txt")).unwrap();
    let arguments = ["run", &stories_path(), "--raw", "--temp", "0", "-n", "400"];
    let run = |input: &[&str]| output(&[&arguments[..], input].concat());
    assert_eq!(run(&["-p", ""]), story);
    assert_eq!(run(&["-p", "", "--threads", "2", "--device", "cpu"]), story);

    // A prompt from a file or from standard input is used as it is, its last line feed included.
    let prompt = &story[..story.find("Her mom").unwrap()];
    let folder = Folder::new();
    let file = folder.write("prompt.txt", prompt);
    let continued = run(&["-p", prompt]);
    assert!(!continued.is_empty());
    assert_eq!(run(&["-f", &file]), continued);
    let piped = with_input(candlewick([&arguments[..], &["-"]].concat()), prompt.as_bytes());
    assert_eq!(text(piped), continued);
    let with_line_feed = folder.write("line.txt", "Lily\n");
    assert_eq!(run(&["-f", &with_line_feed]), run(&["-p", "Lily\n"]));
    assert_ne!(run(&["-f", &with_line_feed]), run(&["-p", "Lily"]));
}

#[test]
fn run_as_json() {
    let answer = object(&["run", &stories_path(), "--raw", "--temp", "0", "-n", "400", "-p", "", "--json"]);
    let story = std::fs::read_to_string(path("goldens/stories260K.greedy.txt")).unwrap();
    let expected = ["text", "tokens", "finish_reason", "usage", "timings", "seed", "device"];
    assert_eq!(keys(&answer), expected);
    assert_eq!(answer["text"], story);
    assert_eq!(answer["tokens"], json("goldens/stories260K.golden.json")["greedy_ids"]);
    assert_eq!(answer["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens"], 1);
    assert_eq!(answer["usage"]["total_tokens"], 1 + answer["tokens"].as_array().unwrap().len());
    assert!(answer["timings"]["prompt_per_second"].as_f64().unwrap() > 0.0);
    assert!(answer["timings"]["predicted_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(answer["device"], "cpu");

    let short = object(&["run", &stories_path(), "--raw", "-n", "3", "-p", "Once", "--json"]);
    assert_eq!(short["finish_reason"], "length");
    assert_eq!(short["tokens"].as_array().unwrap().len(), 3);
}

#[test]
fn seeds_repeat_answers() {
    let run = |seed: &str| {
        output(&["run", &stories_path(), "--raw", "-p", "Once", "-n", "40", "--temp", "1.5", "--seed", seed])
    };
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));
    // The seed that was drawn is told, and repeats the answer.
    let drawn =
        object(&["run", &stories_path(), "--raw", "-p", "Once", "-n", "40", "--temp", "1.5", "--json"]);
    assert_eq!(run(&drawn["seed"].to_string()), drawn["text"].as_str().unwrap());
}

#[test]
fn stop_strings() {
    let run = |stop: &[&str]| {
        let arguments = ["run", &stories_path(), "--raw", "--temp", "0", "-p", ""];
        output(&[&arguments[..], stop].concat())
    };
    let story = run(&[]);
    assert_eq!(run(&["--stop", "little girl"]), story[..story.find("little girl").unwrap()]);
    assert_eq!(run(&["--stop", "nowhere", "--stop", "Lily"]), story[..story.find("Lily").unwrap()]);
}

#[test]
fn logits_agree() {
    let golden = json("goldens/stories260K.golden.json");
    let ids: Vec<u64> = serde_json::from_value(golden["greedy_ids"].clone()).unwrap();
    let tokens: Vec<String> = [1].iter().chain(&ids[..7]).map(u64::to_string).collect();
    let rows = object(&["logits", &stories_path(), "--tokens", &tokens.join(","), "--json"]);
    assert_eq!(keys(&rows), ["rows"]);
    let steps = golden["top5_logits_first_8_steps"].as_array().unwrap();
    assert_eq!(rows["rows"].as_array().unwrap().len(), steps.len());
    for (row, step) in rows["rows"].as_array().unwrap().iter().zip(steps) {
        assert_eq!(keys(row), ["top"]);
        for (entry, expected) in row["top"].as_array().unwrap().iter().zip(step.as_array().unwrap()) {
            assert_eq!(entry["id"], expected[0]);
            let difference = entry["logit"].as_f64().unwrap() - expected[1].as_f64().unwrap();
            assert!(difference.abs() < 1e-2, "{entry} {expected}");
        }
    }

    let golden = json("goldens/gemma3.json");
    let tokens: Vec<u64> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let tokens = tokens.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let rows =
        object(&["logits", &fixture("models/gemma3.gguf"), "--tokens", &tokens, "--top", "0", "--json"]);
    for (position, expected) in golden["logits"].as_object().unwrap() {
        let row = &rows["rows"][position.parse::<usize>().unwrap()];
        assert_eq!((keys(row), &row["top"]), (vec!["top", "logits"], &json!([])));
        let pairs = row["logits"].as_array().unwrap().iter().zip(expected.as_array().unwrap());
        for (logit, expected) in pairs {
            assert!((logit.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-2, "{position}");
        }
    }

    // For people: a line a position.
    assert_eq!(output(&["logits", &stories_path(), "--tokens", "1,403", "--top", "1"]).lines().count(), 2);
}

#[test]
fn tokenize() {
    let folder = Folder::new();
    let vocabulary = contents(&path("tokenizers/ggml-vocab-llama-bpe.gguf.gz"));
    let vocabulary = folder.write("vocabulary.gguf", vocabulary);
    let cases = json("goldens/tokenizers.json");
    let cases = cases["ggml-vocab-llama-bpe.gguf"].as_array().unwrap();
    let cases = cases.iter().filter(|case| case["special"] == false);
    for case in cases.step_by(9).take(8) {
        let file = folder.write("text.txt", case["text"].as_str().unwrap());
        let ids = object(&["tokenize", &vocabulary, "-f", &file, "--json"]);
        assert_eq!(ids, json!({ "ids": case["ids"] }), "{case}");
    }

    let story = ["tokenize", &stories_path(), "Once upon", "--json"];
    let plain = object(&story)["ids"].clone();
    let special = object(&[&story[..], &["--special"]].concat())["ids"].clone();
    let mut with_bos = vec![json!(1)];
    with_bos.extend(plain.as_array().unwrap().iter().cloned());
    assert_eq!(special, Value::Array(with_bos));
    let piped = with_input(candlewick(["tokenize", &stories_path(), "--json"]), b"Once upon");
    assert_eq!(serde_json::from_str::<Value>(&text(piped)).unwrap()["ids"], plain);
    // Special tokens are read only when asked for.
    let written = ["tokenize", &vocabulary, "<|eot_id|>", "--json"];
    assert!(object(&written)["ids"].as_array().unwrap().len() > 1);
    assert_eq!(object(&[&written[..], &["--special"]].concat())["ids"], json!([128_000, 128_009]));
    assert_eq!(
        output(&["tokenize", &stories_path(), "Once upon"]).lines().count(),
        plain.as_array().unwrap().len()
    );
}

#[test]
fn render() {
    let folder = Folder::new();
    let golden = json("goldens/templates.json");
    let name = "Qwen-Qwen2.5-7B-Instruct.jinja";
    let template = std::fs::read_to_string(path("templates").join(name)).unwrap();
    // A vocabulary without a model is enough.
    let vocabulary = Edit::new(&contents(&path("tokenizers/bpe.gguf")));
    let model = folder.write("model.gguf", vocabulary.str("tokenizer.chat_template", &template).bytes());
    let cases = golden["cases"].as_array().unwrap().iter();
    let cases = cases.filter(|case| case["template"] == name && case["add_generation_prompt"] == true);
    let with_tools = |case: &&Value| case.get("tools").is_some();
    let (tools, plain): (Vec<_>, Vec<_>) =
        cases.filter(|case| case.get("text").is_some()).partition(with_tools);
    for case in plain.iter().take(4).chain(tools.iter().take(4)) {
        let messages = folder.write("messages.json", case["messages"].to_string());
        let tools = folder.write("tools.json", case["tools"].to_string());
        let mut arguments = vec!["render", &model, "--messages", &messages];
        if with_tools(case) {
            arguments.extend(["--tools", &tools]);
        }
        assert_eq!(output(&arguments), case["text"].as_str().unwrap());
    }

    // A whole request, as /v1/chat/completions takes it.
    let case = tools[0];
    let request = json!({ "model": "x", "messages": case["messages"], "tools": case["tools"] });
    let request = folder.write("request.json", request.to_string());
    assert_eq!(output(&["render", &model, "--messages", &request]), case["text"].as_str().unwrap());
}

#[test]
fn info() {
    let info = object(&["info", &stories_path(), "--json"]);
    assert_eq!(info["name"], "stories260K");
    assert_eq!(info["architecture"], "llama");
    assert_eq!(info["parameters"], 260_032);
    assert_eq!(info["quantization"], "F32");
    assert_eq!(info["trainedContextLength"], 512);
    assert_eq!((&info["layers"], &info["vocabularySize"]), (&json!(5), &json!(512)));
    assert_eq!((&info["chatTemplate"], &info["unsupported"]), (&Value::Null, &Value::Null));

    let vocabulary = object(&["info", &fixture("tokenizers/spm.gguf"), "--json"]);
    assert_eq!(vocabulary["tensors"], 0);
    assert!(vocabulary["unsupported"].as_str().unwrap().contains("without a model"));
    assert!(output(&["info", &stories_path()]).contains("llama"));
}

#[test]
fn bench() {
    let result = object(&["bench", &stories_path(), "-p", "70", "-n", "4", "-r", "2", "--json"]);
    assert_eq!(keys(&result), ["device", "prompt_per_second", "predicted_per_second"]);
    for speed in ["prompt_per_second", "predicted_per_second"] {
        assert_eq!(keys(&result[speed]), ["median", "min", "max"]);
        let of = |key: &str| result[speed][key].as_f64().unwrap();
        assert!(0.0 < of("min") && of("min") <= of("median") && of("median") <= of("max"), "{result}");
    }
    assert!(output(&["bench", &stories_path(), "-p", "8", "-n", "2", "-r", "1"]).contains("tokens/s"));
    let profile = ["bench", &stories_path(), "--device", "cpu", "-p", "8", "-n", "3", "--profile"];
    assert!(output(&profile).contains("attend"));
    let result = object(&[&profile[..], &["--json"]].concat());
    for part in ["prompt", "answer"] {
        let costs = result[part].as_array().unwrap();
        let share: f64 = costs.iter().map(|cost| cost["share"].as_f64().unwrap()).sum();
        assert!(
            (share - 1.0).abs() < 1e-6 && costs.iter().all(|cost| cost["calls"].as_u64() > Some(0)),
            "{result}"
        );
    }
}

#[test]
fn verbose_goes_to_stderr() {
    let output =
        candlewick(["run", &stories_path(), "--raw", "--temp", "0", "-n", "4", "-p", "", "--verbose"])
            .output()
            .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("stories260K") && stderr.contains("tokens/s"), "{stderr}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), " Once upon a time");
}

/// As in `candlewick … | head -c 1`.
#[test]
fn nobody_reads_on() {
    let story = stories_path();
    let commands: [&[&str]; 6] = [
        &["run", &story, "--raw", "-p", "", "-n", "400", "--temp", "0"],
        &["run", &story, "--raw", "-p", "", "-n", "400", "--temp", "0", "--json"],
        &["bench", &story, "-p", "8", "-n", "2", "-r", "1"],
        &["logits", &story, "--tokens", "1,2,3", "--top", "0"],
        &["tokenize", &story, "Once upon a time"],
        &["info", &story],
    ];
    for arguments in commands {
        let mut child = candlewick(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{arguments:?}");
    }
    // Nor does anything break where errors go to nobody.
    let mut child = candlewick(["info", "/nowhere.gguf"]).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn usage() {
    let story = stories_path();
    let wrong: [&[&str]; 11] = [
        &[],
        &["nothing"],
        &["run"],
        &["run", &story],
        &["run", &story, "-p", "x", "-f", "y"],
        &["run", &story, "-p", "x", "--temp", "warm"],
        &["run", &story, "-p", "x", "--device", "abacus"],
        &["run", &story, "-p", "x", "--threads", "0"],
        &["logits", &story],
        &["logits", &story, "--tokens", "1,x"],
        &["bench", &story, "-p", "0"],
    ];
    for arguments in wrong {
        assert!(failure(arguments, 2).contains("--help"), "{arguments:?}");
    }
    for arguments in [["--help"], ["--version"]] {
        assert!(output(&arguments).contains("candlewick"));
    }
}
