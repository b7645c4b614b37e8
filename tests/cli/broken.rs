//! Files and arguments that cannot work: each fails with its code, and says what is wrong.

use super::*;
use crate::edit::Tensor;

fn story() -> Edit {
    Edit::new(&contents(&stories()))
}

/// `run` on a file with these bytes.
#[track_caller]
fn model_fails(bytes: impl AsRef<[u8]>, code: &str, parts: &[&str]) {
    let folder = Folder::new();
    let model = folder.write("broken.gguf", bytes);
    fails(&["run", &model, "--raw", "-p", "Once", "-n", "2"], code, &[parts, &["broken.gguf"]].concat());
}

#[test]
fn no_model() {
    fails(&["run", "/nowhere/model.gguf", "-p", "x"], "model_not_found", &["/nowhere/model.gguf"]);
    fails(&["info", "/nowhere/model.gguf"], "model_not_found", &["no such file"]);
    fails(&["run", &fixture("models"), "-p", "x"], "model_not_found", &["folder"]);
}

/// Nothing waits for whoever might write there.
#[cfg(unix)]
#[test]
fn what_is_no_file() {
    let folder = Folder::new();
    let (pipe, socket) = (folder.0.path().join("pipe.gguf"), folder.0.path().join("socket.gguf"));
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = folder.0.path().join("link.gguf");
    std::os::unix::fs::symlink(&pipe, &link).unwrap();
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let chat = fixture("models/qwen2.gguf");
    let encoder = fixture("models/bert-q8_0.gguf");
    for (path, what) in [
        (text(&pipe), "a pipe"),
        (text(&link), "a pipe"),
        (text(&socket), "a socket"),
        ("/dev/zero".to_owned(), "a device"),
        ("/dev/null".to_owned(), "a device"),
        (text(folder.0.path()), "a folder"),
    ] {
        let no_model = |arguments: &[&str]| fails(arguments, "model_not_found", &[&path, what]);
        no_model(&["run", &path, "--raw", "-p", "x"]);
        no_model(&["embed", &path, "x"]);
        no_model(&["info", &path]);
        no_model(&["tokenize", &path, "x"]);
        let no_text = |arguments: &[&str]| fails(arguments, "invalid_argument", &[&path, what]);
        no_text(&["run", &chat, "-f", &path]);
        no_text(&["tokenize", &chat, "-f", &path]);
        no_text(&["embed", &encoder, "-f", &path]);
        no_text(&["render", &chat, "--messages", &path]);
    }
    // What the shell opens is there to be read.
    let script = "\"$0\" tokenize \"$1\" --json -f <(printf Hi)";
    let shell = Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_candlewick"), &chat]).output();
    let shell = shell.unwrap();
    assert_eq!(String::from_utf8(shell.stdout).unwrap(), "{\"ids\":[72,105]}\n");
}

#[test]
fn a_text_without_end() {
    let endless = "head -c 70000000 /dev/zero | \"$0\" tokenize \"$1\"";
    let chat = fixture("models/qwen2.gguf");
    let shell = Command::new("bash").args(["-c", endless, env!("CARGO_BIN_EXE_candlewick"), &chat]).output();
    let message = String::from_utf8(shell.unwrap().stderr).unwrap();
    assert!(message.contains("64 MB") && message.contains("[invalid_argument]"), "{message}");
}

#[test]
fn warnings_of_a_file() {
    let folder = Folder::new();
    let key = "tokenizer.ggml.eos_token_id";
    let model = folder.write("odd.gguf", story().u32(key, 9999).bytes());
    let said = |arguments: &[&str]| {
        let output = candlewick(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let run = ["run", &model, "--raw", "-p", "Once", "-n", "2"];
    for arguments in [&run[..], &["tokenize", &model, "Once"]] {
        let [_, stderr] = said(arguments);
        assert!(stderr.starts_with("warning: ") && stderr.contains(key), "{stderr}");
        assert_eq!(said(&[arguments, &["--quiet"]].concat())[1], "");
    }
    let [info, _] = said(&["info", &model]);
    assert!(info.lines().any(|line| line.starts_with("warning ") && line.contains(key)), "{info}");
    let info = object(&["info", &model, "--json"]);
    assert!(info["warnings"][0].as_str().unwrap().contains("9999"));
}

#[test]
fn no_gguf() {
    model_fails("", "corrupt_model", &["empty"]);
    model_fails("<!DOCTYPE html><html>Log in</html>", "corrupt_model", &["HTML"]);
    model_fails("  <html><body>404</body></html>", "corrupt_model", &["HTML"]);
    model_fails("version https://git-lfs.github.com/spec/v1\n", "corrupt_model", &["git lfs pull"]);
    model_fails("PK\x03\x04", "corrupt_model", &["not a GGUF file"]);
    model_fails("GG", "corrupt_model", &["ends within its header"]);
    model_fails("GGUF\x01\0\0\0", "unsupported_model", &["version 1"]);
    model_fails("GGUF\0\0\0\x03", "unsupported_model", &["big-endian"]);
}

#[test]
fn cut_off() {
    let bytes = contents(&stories());
    model_fails(&bytes[..1000], "corrupt_model", &["does not fit the file"]);
    model_fails(&bytes[..500_000], "corrupt_model", &["cut off", "500000"]);
    model_fails(&bytes[..bytes.len() - 1], "corrupt_model", &["cut off"]);
}

#[test]
fn what_candlewick_does_not_run() {
    model_fails(
        story().str("general.architecture", "mamba").bytes(),
        "unsupported_model",
        &["mamba", "llama"],
    );
    let query = "blk.0.attn_q.weight";
    let of_type = |kind: u32| story().tensor(query, |tensor: &mut Tensor| tensor.kind = kind).bytes();
    model_fails(of_type(26), "unsupported_model", &["I32", query, "Q8_0"]);
    model_fails(of_type(200), "unsupported_model", &["200", query]);
    let vocabulary = fixture("tokenizers/spm.gguf");
    fails(&["run", &vocabulary, "-p", "x"], "unsupported_model", &["without a model", "spm.gguf"]);
    fails(
        &["run", &stories_path(), "--raw", "-p", "x", "--device", "gpu"],
        "resource_exhausted",
        &["none of them"],
    );
}

#[test]
fn tensors_that_do_not_fit() {
    let down = "blk.3.ffn_down.weight";
    model_fails(story().without_tensor(down).bytes(), "corrupt_model", &[down, "missing"]);
    let transposed = story().tensor(down, |tensor| tensor.dimensions.reverse());
    model_fails(transposed.bytes(), "corrupt_model", &[down, "[64, 172]", "[172, 64]"]);
    let without = story().remove("llama.embedding_length").bytes();
    model_fails(without, "corrupt_model", &["llama.embedding_length"]);
}

#[test]
fn weights_that_are_no_numbers() {
    let damaged = story().tensor("output_norm.weight", |tensor| tensor.data.fill(0xFF));
    let folder = Folder::new();
    let model = folder.write("nan.gguf", damaged.bytes());
    let message = failure(&["run", &model, "--raw", "-p", "Once"], 1);
    assert!(message.contains("not a finite number"), "{message}");
}

#[test]
fn settings_out_of_range() {
    let fails = |setting: &[&str], parts: &[&str]| {
        let story = stories_path();
        let arguments = [&["run", &story, "--raw", "-p", "Once"], setting].concat();
        fails(&arguments, "invalid_argument", parts);
    };
    fails(&["--ctx", "0"], &["context", "0", "512"]);
    fails(&["--ctx", "513"], &["513", "512"]);
    fails(&["--ctx", "18446744073709551615"], &["512"]);
    fails(&["--temp", "-1"], &["temperature", "-1"]);
    fails(&["--temp", "NaN"], &["temperature"]);
    fails(&["--top-p", "2"], &["top_p", "2"]);
    fails(&["--min-p", "-0.5"], &["min_p"]);
    fails(&["--typical-p", "inf"], &["typical_p"]);
    fails(&["--repeat-penalty", "0"], &["repeat_penalty"]);
    fails(&["--repeat-last-n", "-2"], &["repeat_last_n"]);
    fails(&["-n", "0"], &["max_tokens"]);
}

#[test]
fn prompts_too_long() {
    let long = "Once upon a time, there was a little girl. ".repeat(10);
    let ids = object(&["tokenize", &stories_path(), &long, "--special", "--json"]);
    let count = ids["ids"].as_array().unwrap().len();
    let arguments = ["run", &stories_path(), "--raw", "-p", &long, "--ctx", "64", "-n", "8", "--temp", "0"];
    fails(&arguments, "context_length_exceeded", &[&count.to_string(), "64"]);
    let cut = object(&[&arguments[..], &["--truncate", "--json"]].concat());
    assert_eq!(cut["usage"]["prompt_tokens"], 64 - 8);
    assert_eq!(cut["usage"]["completion_tokens"], 8);

    let tokens = vec!["1"; 65].join(",");
    let logits = ["logits", &stories_path(), "--tokens", &tokens, "--ctx", "64"];
    fails(&logits, "context_length_exceeded", &["65", "64"]);
}

#[test]
fn inputs_that_cannot_be_used() {
    let story = stories_path();
    fails(&["logits", &story, "--tokens", "1,512"], "invalid_argument", &["512", "vocabulary"]);
    fails(&["logits", &story, "--tokens", "4294967295"], "invalid_argument", &["4294967295"]);

    let folder = Folder::new();
    let latin1 = folder.write("latin1.txt", b"caf\xE9");
    fails(&["run", &story, "--raw", "-f", &latin1], "invalid_argument", &["latin1.txt", "UTF-8"]);
    fails(&["tokenize", &story, "-f", &latin1], "invalid_argument", &["latin1.txt", "UTF-8"]);
    fails(&["run", &story, "-f", "/nowhere.txt"], "invalid_argument", &["/nowhere.txt"]);
    let piped = with_input(candlewick(["run", &story, "-"]), b"caf\xE9");
    assert_eq!(piped.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&piped.stderr).contains("[invalid_argument]"));

    let chat = fixture("models/qwen2.gguf");
    let render = |json: &str, parts: &[&str]| {
        let messages = folder.write("messages.json", json);
        fails(&["render", &chat, "--messages", &messages], "invalid_argument", parts);
    };
    render("[{\"role\": ", &["messages.json", "line 1"]);
    render("\"Hello\"", &["messages.json"]);
    render("[\"Hello\"]", &["messages[0] is not an object"]);
    render(&"[".repeat(100_000), &["messages.json"]);
    let messages = folder.write("messages.json", r#"[{"role": "user", "content": "Hi"}]"#);
    let tools = folder.write("tools.json", "{}");
    let with_tools = ["render", &chat, "--messages", &messages, "--tools", &tools];
    fails(&with_tools, "invalid_argument", &["tools.json"]);
    fails(&["render", &story, "--messages", &messages], "invalid_argument", &["no chat template"]);
    fails(&["chat", &story], "invalid_argument", &["no chat template"]);
}
