//! Hosted models on the command line: `provider`, and `run` and `chat` with them.

use super::*;
use crate::remote::World;
#[cfg(unix)]
use std::io::Read;

pub(super) const TEXT: &str = "Süße Grüße: 你好 🌍, it works.";
const TOKEN: &str = "hf_secretsecretsecret";

/// A user with a configuration of their own.
pub(super) struct User(Folder);

impl User {
    pub(super) fn new() -> User {
        User(Folder::new())
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = candlewick(arguments);
        let names = ["HF_TOKEN", "HUGGINGFACE_API_KEY", "HUGGINGFACE_API_TOKEN", "CANDLEWICK_BASE_URL"];
        names.iter().for_each(|name| _ = command.env_remove(name));
        command.env("HF_TOKEN_PATH", self.0.0.path().join("none")).env("CANDLEWICK_CONFIG", self.file());
        command
    }

    fn file(&self) -> PathBuf {
        self.0.0.path().join("new/providers.json")
    }

    pub(super) fn says(&self, arguments: &[&str]) -> String {
        text(self.command(arguments).output().unwrap())
    }

    pub(super) fn fails(&self, arguments: &[&str], code: &str) -> String {
        let output = self.command(arguments).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.ends_with(&format!("[{code}]\n")), "{stderr}");
        stderr
    }
}

#[test]
fn providers_come_and_go() {
    let user = User::new();
    let world = World::new("cli-providers", json!({ "token": TOKEN }));
    let add = ["provider", "add", "my-own", "--url", &world.url, "--model", "org/large", "--token-stdin"];
    text(with_input(user.command(&add), format!("{TOKEN}\n").as_bytes()));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(user.file()).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let list = user.says(&["provider", "list"]);
    assert!(list.contains("my-own") && list.contains("hf ") && !list.contains(TOKEN), "{list}");
    let list: Value = serde_json::from_str(&user.says(&["provider", "list", "--json"])).unwrap();
    let entry = list["providers"].as_array().unwrap().iter().find(|entry| entry["name"] == "my-own").unwrap();
    assert_eq!(
        (&entry["model"], &entry["ready"], &entry["default"]),
        (&json!("org/large"), &json!(true), &json!(false))
    );

    assert!(user.says(&["provider", "test", "my-own"]).contains("org/large answered"));
    assert!(user.says(&["provider", "models", "my-own"]).contains("in / out: 2 / 6"));
    user.fails(&["run", "remote", "-p", "Hi"], "invalid_argument");
    user.says(&["provider", "default", "my-own"]);
    assert_eq!(user.says(&["run", "remote", "-p", "Hi"]), TEXT);

    user.says(&["provider", "rm", "my-own"]);
    user.fails(&["provider", "rm", "my-own"], "invalid_argument");
    user.fails(&["run", "remote", "-p", "Hi"], "invalid_argument");
    for name in ["remote", "two words", "a/b", "x", ""] {
        user.fails(&["provider", "add", name, "--url", &world.url], "invalid_argument");
    }
    let with_secret = ["provider", "add", "odd", "--url", "https://me:secret@example.org/v1"];
    assert!(!user.fails(&with_secret, "invalid_argument").contains("secret"));
    user.fails(&["provider", "add", "odd"], "invalid_argument");
}

#[test]
fn run_asks_hosted_models() {
    let user = User::new();
    let world = World::new("cli-run", json!({ "token": TOKEN, "script": ["none", "503"] }));
    user.says(&["provider", "add", "double", "--url", &world.url, "--token-env", "DOUBLE_TOKEN"]);
    let run = |more: &[&str]| {
        let mut command = user.command(&[&["run", "double:org/large", "-p", "Hi"], more].concat());
        command.env("DOUBLE_TOKEN", TOKEN).output().unwrap()
    };
    assert_eq!(text(run(&[])), TEXT);
    // Attempts that fail are told to people.
    let output = run(&["--json", "--system", "Be brief.", "--temp", "0.3", "-n", "9", "--seed", "7"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("HTTP 503: overloaded; attempt 2 follows in"), "{stderr}");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&answer["text"], &answer["finish_reason"]), (&json!(TEXT), &json!("stop")));
    let origin = &answer["candlewick"];
    assert_eq!((&origin["ran"], &origin["attempts"]), (&json!("remote"), &json!(2)));
    let log = world.log();
    let body = &log[2]["body"];
    assert_eq!(body["messages"][0], json!({ "role": "system", "content": "Be brief." }));
    assert_eq!(
        (&body["temperature"], &body["max_tokens"], &body["seed"]),
        (&json!(0.3), &json!(9), &json!(7))
    );
    assert_eq!(body.get("top_k"), None);

    assert_eq!(text(run(&["--raw"])), TEXT);
    assert_eq!(world.log()[3]["path"], "v1/completions");
    let stderr = user.fails(&["run", "double:org/large", "-p", "Hi"], "unauthorized");
    assert!(!stderr.contains(TOKEN), "{stderr}");
    user.fails(&["run", "double", "-p", "Hi"], "invalid_argument");
    // The environment alone is enough.
    let mut command = user.command(&["run", "env:org/large", "-p", "Hi"]);
    command.env("CANDLEWICK_BASE_URL", &world.url).env("CANDLEWICK_API_KEY", TOKEN);
    assert_eq!(text(command.output().unwrap()), TEXT);
    // `hf:` too, once it points elsewhere.
    user.says(&["provider", "add", "hf", "--url", &world.url]);
    let mut command = user.command(&["run", "hf:org/large", "-p", "Hi"]);
    assert_eq!(text(command.env("HF_TOKEN", TOKEN).output().unwrap()), TEXT);
}

#[test]
fn fallbacks() {
    let user = User::new();
    let world = World::new("cli-fallbacks", json!({}));
    user.says(&["provider", "add", "double", "--url", &world.url, "--model", "org/large"]);
    let local = path("models/qwen2.gguf");
    let local = local.to_str().unwrap();
    let run = |arguments: &[&str]| {
        let prompt = ["--temp", "0", "-n", "4", "-p", "Hi"];
        user.command(&[&["run"], arguments, &prompt].concat()).output().unwrap()
    };
    // As long as the first one can, nobody else is asked.
    let answer: Value =
        serde_json::from_slice(&run(&[local, "--fallback", "double", "--json"]).stdout).unwrap();
    assert_eq!((&answer["candlewick"]["ran"], world.log().len()), (&json!("local"), 0));

    let output = run(&["gone.gguf", "--fallback", "double"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), TEXT);
    assert!(stderr.contains("org/large answered, because of gone.gguf: "), "{stderr}");
    assert!(stderr.contains("[model_not_found]"), "{stderr}");
    let quiet = run(&["gone.gguf", "--fallback", "also-gone.gguf", "--fallback", "double", "--quiet"]);
    assert_eq!(text(quiet), TEXT, "and nothing on stderr");
    // From a hosted one to a local one, and to none.
    let world = World::with("cli-fallbacks-down", &["401", "401"]);
    user.says(&["provider", "add", "down", "--url", &world.url, "--model", "org/large"]);
    let answer: Value =
        serde_json::from_slice(&run(&["down", "--fallback", local, "--json"]).stdout).unwrap();
    assert_eq!(answer["candlewick"]["ran"], "local");
    assert!(answer["candlewick"]["reason"].as_str().unwrap().contains("[unauthorized]"), "{answer}");
    let stderr = user.fails(&["run", "down", "--fallback", "gone.gguf", "-p", "Hi"], "model_not_found");
    assert!(stderr.contains("Before that: org/large of down"), "{stderr}");

    let command = user.command(&["chat", "gone.gguf", "--fallback", "double"]);
    let chat = with_input(command, b"Hello\nAgain\n");
    assert_eq!(String::from_utf8(chat.stdout).unwrap(), format!("{TEXT}\n{TEXT}\n"));
    let stderr = String::from_utf8(chat.stderr).unwrap();
    assert!(stderr.contains("org/large, hosted by double"), "{stderr}");
}

#[test]
fn chat_with_hosted_models() {
    let user = User::new();
    let world = World::new("cli-chat", json!({ "script": ["none", "401"] }));
    user.says(&["provider", "add", "double", "--url", &world.url, "--model", "org/large"]);
    let chat = with_input(user.command(&["chat", "double", "--quiet"]), b"Hello\nAgain\nMore\n");
    let stderr = String::from_utf8(chat.stderr).unwrap();
    assert!(stderr.contains("[unauthorized]"), "{stderr}");
    assert_eq!(String::from_utf8(chat.stdout).unwrap(), format!("{TEXT}\n{TEXT}\n"));
    let log = world.log();
    let roles = |index: usize| -> Vec<_> {
        log[index]["body"]["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["content"].as_str().unwrap())
            .collect()
    };
    // The message that failed is forgotten.
    assert_eq!(roles(2), ["Hello", TEXT, "More"]);
}

/// What a program writes to a terminal, if it is little.
#[cfg(unix)]
fn in_terminal(mut command: Command) -> String {
    let pty = nix::pty::openpty(None, None).unwrap();
    assert!(command.stdout(Stdio::from(pty.slave)).status().unwrap().success());
    let mut shown = [0; 4096];
    let len = std::fs::File::from(pty.master).read(&mut shown).unwrap();
    String::from_utf8(shown[..len].to_vec()).unwrap()
}

#[test]
#[cfg(unix)]
fn nothing_that_a_server_says_reaches_the_terminal_as_a_command() {
    let user = User::new();
    let evil = "\u{1b}]0;pwn\u{7}\u{1b}[2J\u{9b}31m\r";
    let refused =
        json!({ "status": 500, "headers": { "Content-Type": "text/plain" }, "body": format!("{evil}down") });
    let said = json!({ "choices": [{ "index": 0, "delta": { "content": format!("Hi{evil}\tthere\n") }, "finish_reason": "stop" }] });
    let answered = json!({ "events": [said.to_string()], "done": true });
    let listed = json!([{ "id": format!("org/{evil}") }]);
    let mut fatal = refused.clone();
    fatal["status"] = json!(400);
    let script = json!([refused, answered, answered, answered, fatal]);
    let world = World::new("cli-escapes", json!({ "script": script, "models": listed }));
    user.says(&["provider", "add", "evil", "--url", &world.url, "--model", "org/large"]);
    let output = user.command(&["run", "evil", "-p", "Hi"]).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(stdout, format!("Hi{evil}\tthere\n"), "programs and files get what the model said");
    let shown = in_terminal(user.command(&["run", "evil", "-p", "Hi", "--quiet"]));
    assert_eq!(
        shown, "Hi\\u001b]0;pwn\\u0007\\u001b[2J\\u009b31m\\u000d\tthere\r\n\r\n",
        "the terminal ends lines itself"
    );
    assert!(stderr.contains("pwn") && stderr.contains("attempt 2 follows"), "{stderr}");
    let json = user.says(&["run", "evil", "-p", "Hi", "--json"]);
    let answer: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(answer["text"], format!("Hi{evil}\tthere\n"), "JSON says it as it is");
    let failed = user.fails(&["run", "evil", "-p", "Hi"], "invalid_argument");
    let models = user.says(&["provider", "models", "evil"]);
    for text in [stderr, json, failed, models] {
        let control = |c: &char| c.is_control() && !matches!(c, '\n' | '\t');
        assert_eq!(text.chars().find(control), None, "{text:?}");
    }
}
