//! The program, with names of models.

use super::World;
use super::download::COMMIT;
use crate::cli::candlewick;
use crate::fixtures::{path, stories};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

const TOKEN: &str = "hf_tokenfromtheenvironment";

struct User<'a> {
    world: &'a World,
    home: &'a Path,
}

impl User<'_> {
    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = candlewick(arguments);
        for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        command.env("HF_ENDPOINT", &self.world.url).env("HF_HOME", self.home).env("NO_PROXY", "*");
        command.env("HUGGINGFACE_API_KEY", TOKEN).env_remove("HF_TOKEN").output().unwrap()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    fn object(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.says(arguments)).unwrap()
    }

    fn fails(&self, arguments: &[&str], exit: i32, part: &str) {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {stderr}");
        assert!(stderr.contains(part) && !stderr.contains(TOKEN), "{arguments:?}: {stderr}");
    }
}

#[test]
fn from_the_hub_to_an_answer() {
    let files = json!({
        "stories-F32.gguf": { "file": stories() },
        "gemma-Q4_K_M.gguf": { "file": path("models/gemma3.gguf") },
    });
    let repo = json!({ "commit": COMMIT, "token": TOKEN, "files": files });
    let world = World::new("program", json!({ "repos": { "a/b": repo } }));
    let home = tempfile::tempdir().unwrap();
    let user = User { world: &world, home: home.path() };
    let run = ["run", "a/b:F32", "--raw", "--temp", "0", "-n", "5", "-p", "Once upon"];

    user.fails(&["run", "a/b:F32", "--raw", "-p", "x", "--offline"], 1, "HF_HUB_OFFLINE");
    user.fails(&["run", "a/nothing", "-p", "x"], 1, "[model_not_found]");
    user.fails(&["pull", "./somewhere.gguf"], 1, "[invalid_argument]");
    user.fails(&["rm", "a/b"], 1, "[model_not_found]");
    user.fails(&["run", "a/b", "-p", "x", "--token", ""], 2, "--help");
    user.fails(&["run", "a/b", "-p", "x", "--token", "hf_wrong"], 1, "[model_not_found]");
    assert_eq!(user.object(&["list", "--json"]), json!({ "models": [] }));

    // A look, of which nothing is kept.
    let info = user.object(&["info", "a/b:F32", "--json"]);
    assert_eq!((&info["name"], &info["devices"][0]["device"]), (&json!("stories260K"), &json!("cpu")));
    let cpu = &info["devices"][0];
    let sum: u64 = ["weights", "kvCache", "working"].iter().map(|key| cpu[key].as_u64().unwrap()).sum();
    assert_eq!(cpu["total"], sum);
    assert!(cpu["predictedPerSecond"].as_f64().unwrap() > 0.0);
    assert_eq!((&info["contextLength"], &info["verdict"]), (&json!(512), &json!("fits")));
    assert_eq!((&info["device"], &info["file"]), (&json!("cpu"), &json!("stories-F32.gguf")));
    assert_eq!(info["cached"]["model"], "a/b/stories-F32.gguf");
    assert_eq!((&info["cached"]["stored"], &info["cached"]["complete"]), (&json!(0), &json!(false)));
    let small = user.object(&["info", "a/b:F32", "--json", "--ctx", "100"]);
    let at = |info: &Value| info["devices"][0]["kvCache"].as_u64().unwrap();
    assert_eq!(at(&small) * 512, at(&info) * 100);
    assert!(user.says(&["info", "a/b:F32"]).contains("tokens/s"));
    let most = |context| user.object(&["info", "a/b:F32", "--json", "--ctx", context]);
    assert_eq!((&most("max")["contextLength"], &most("max")["contextNote"]), (&json!(512), &Value::Null));
    assert_eq!(most("max:100")["contextLength"], 100);
    assert!(most("max:1000")["contextNote"].as_str().unwrap().contains("512 tokens instead of 1000"));
    user.fails(&["info", "a/b:F32", "--ctx", "1000"], 1, "from 1 to the 512");
    user.fails(&["info", "a/b:F32", "--ctx", "most"], 2, "a number of tokens, max, or max:");
    assert_eq!(user.object(&["list", "--json"]), json!({ "models": [] }));

    // Fetched while it loads; then there without a network.
    let answer = user.says(&run);
    assert_eq!(
        answer,
        user.says(&[
            "run",
            &stories().to_string_lossy(),
            "--raw",
            "--temp",
            "0",
            "-n",
            "5",
            "-p",
            "Once upon"
        ])
    );
    let before = world.log().len();
    assert_eq!(user.says(&run), answer);
    assert_eq!(user.says(&[&run[..], &["--offline"]].concat()), answer);
    assert_eq!(user.object(&["info", "a/b:F32", "--json"])["cached"]["complete"], true);
    assert_eq!(world.log().len(), before);

    let name = format!("a/b/gemma-Q4_K_M.gguf@{COMMIT}");
    assert_eq!(user.says(&["pull", "a/b", "--quiet"]), format!("{name}\n"));
    let listed = user.object(&["list", "--json"]);
    let models: Vec<_> = listed["models"].as_array().unwrap().iter().map(|model| &model["model"]).collect();
    assert_eq!(models, ["a/b/gemma-Q4_K_M.gguf", "a/b/stories-F32.gguf"]);
    assert!(listed["models"].as_array().unwrap().iter().all(|model| model["complete"] == true));
    assert!(user.says(&["list"]).contains("a/b/stories-F32.gguf"));
    assert_eq!(user.says(&["verify"]).matches("right").count(), 2);

    let blob = home.path().join("hub/models--a--b/snapshots").join(COMMIT).join("stories-F32.gguf");
    let blob = std::fs::canonicalize(blob).unwrap();
    let mut bytes = std::fs::read(&blob).unwrap();
    bytes[500_000] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    user.fails(&["verify", "a/b:F32"], 1, "[corrupt_model]");
    user.says(&["pull", "a/b:F32", "--force"]);
    assert_eq!(user.says(&["verify", "a/b:F32"]).matches("right").count(), 1);
    assert_eq!(user.says(&run), answer);

    assert_eq!(user.says(&["rm", "a/b:F32"]), format!("a/b/stories-F32.gguf@{COMMIT}\n"));
    user.says(&["rm", "a/b"]);
    assert_eq!(user.object(&["list", "--json"]), json!({ "models": [] }));
}

#[test]
fn an_address_goes_by_its_name_in_the_list() {
    let files = json!({ "stories-F32.gguf": { "file": stories() } });
    let repos = json!({ "a/b": { "commit": COMMIT, "files": files } });
    let world = World::new("program-address", json!({ "repos": repos }));
    let home = tempfile::tempdir().unwrap();
    let user = User { world: &world, home: home.path() };
    // Another host than the Hub's.
    let hub = world.url.replace("127.0.0.1", "localhost");
    let url = format!("{hub}/a/b/resolve/main/stories-F32.gguf");

    let name = user.says(&["pull", &url, "--quiet"]);
    assert!(name.starts_with("stories-F32.gguf@"), "{name}");
    let listed = user.object(&["list", "--json"])["models"][0].clone();
    assert_eq!(
        name.trim_end(),
        format!("{}@{}", listed["model"].as_str().unwrap(), listed["commit"].as_str().unwrap())
    );
    for name in ["stories-F32.gguf", name.trim_end(), &url] {
        assert!(user.says(&["verify", name]).starts_with("unknown "), "{name}");
    }
    user.fails(&["verify", "stories-F32.gguf@0000"], 1, "[model_not_found]");
    user.fails(&["rm", "./stories-F32.gguf"], 1, "[model_not_found]");
    assert_eq!(user.says(&["rm", "stories-F32.gguf"]), name);
    assert_eq!(user.object(&["list", "--json"]), json!({ "models": [] }));
}

#[test]
fn two_programs_fetch_a_model_once() {
    let files = json!({ "m.gguf": { "size": 3_000_003, "seed": "twice" } });
    let world =
        World::new("program-twice", json!({ "repos": { "a/b": { "commit": COMMIT, "files": files } } }));
    let home = tempfile::tempdir().unwrap();
    let user = User { world: &world, home: home.path() };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| assert_eq!(user.says(&["pull", "a/b"]), format!("a/b/m.gguf@{COMMIT}\n")));
        }
    });
    assert_eq!(world.log().iter().filter(|entry| entry["at"] == "cdn").count(), 1);
}
