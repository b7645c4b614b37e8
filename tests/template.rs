//! Chat templates against what Hugging Face transformers renders.

use candlewick::Code;
use candlewick::chat::{ChatTemplate, LocalTime, Request, SpecialTokens, formats, message};
use serde_json::{Value, json};
use std::path::Path;

fn fixture(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn tokens(pairs: &[(&str, &Value)]) -> SpecialTokens {
    pairs
        .iter()
        .filter(|(_, text)| text.is_string())
        .map(|(name, text)| (name.to_string(), (*text).clone()))
        .collect()
}

fn template(source: &str) -> candlewick::Result<ChatTemplate> {
    let tokens = tokens(&[("bos_token", &json!("<s>")), ("eos_token", &json!("</s>"))]);
    ChatTemplate::new("test", source, None, tokens)
}

fn render(source: &str, variables: Value) -> candlewick::Result<String> {
    let Value::Object(variables) = variables else { panic!("not an object") };
    template(source)?.render(&Request { variables, ..Request::new(vec![message("user", "Hi")]) })
}

/// 2024-07-26T12:34:56, where the goldens were made.
const NOW: LocalTime = LocalTime { unix_seconds: 1_721_997_296, utc_offset: 0 };

#[test]
fn goldens_of_transformers() {
    let goldens: Value = serde_json::from_str(&fixture("goldens/templates.json")).unwrap();
    assert_eq!(goldens["now"], NOW.strftime("%Y-%m-%dT%H:%M:%S"));
    let mut wrong = Vec::new();
    let cases = goldens["cases"].as_array().unwrap();
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let tokens = tokens(&[("bos_token", &case["bos_token"]), ("eos_token", &case["eos_token"])]);
        let template =
            ChatTemplate::new("model", &fixture(&format!("templates/{name}")), None, tokens).unwrap();
        let mut request: Request = serde_json::from_value(case.clone()).unwrap();
        request.now = Some(NOW);
        request.variables = case["kwargs"].as_object().cloned().unwrap_or_default();
        let rendered = template.render(&request);
        let agrees = match case["text"].as_str() {
            Some(text) => rendered.as_deref() == Ok(text),
            // What the template says itself is passed on; other messages are Python's.
            None => rendered.as_ref().is_err_and(|error| {
                error.code == Code::InvalidArgument
                    && (case["raised"] == false || error.message.ends_with(case["error"].as_str().unwrap()))
            }),
        };
        if !agrees {
            wrong.push(format!("{name} {}\n{rendered:?}\nnot {}", case["messages"], case["text"]));
        }
    }
    assert!(cases.len() >= 100);
    assert!(wrong.is_empty(), "{} of {} differ, first: {}", wrong.len(), cases.len(), wrong[0]);
}
