//! What OpenAI's interface and other servers' have that models on this device do not do.

use serde_json::Value;

/// Fields that change nothing in an answer, or nothing that anybody would notice.
const HARMLESS: [&str; 18] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
    "prediction",
    "verbosity",
    // llama.cpp's and vLLM's.
    "cache_prompt",
    "id_slot",
    "timings_per_token",
    "return_progress",
    "priority",
    "request_id",
    "skip_special_tokens",
    "include_stop_str_in_output",
];

/// What each of these asks for, where it asks for anything.
const REFUSED: [(&str, &str); 28] = [
    ("logprobs", "the probabilities of tokens"),
    ("top_logprobs", "the probabilities of tokens"),
    ("n_probs", "the probabilities of tokens"),
    ("prompt_logprobs", "the probabilities of tokens"),
    ("response_format", "an answer held to a format"),
    ("grammar", "an answer held to a grammar"),
    ("json_schema", "an answer held to a schema"),
    ("guided_json", "an answer held to a schema"),
    ("guided_regex", "an answer held to a pattern"),
    ("guided_choice", "an answer held to a choice"),
    ("guided_grammar", "an answer held to a grammar"),
    ("structured_outputs", "an answer held to a format"),
    ("tool_choice", "the call of a tool"),
    ("functions", "functions in their old form; give them as tools"),
    ("function_call", "the call of a function"),
    ("modalities", "other answers than text"),
    ("audio", "an answer that is spoken"),
    ("web_search_options", "a search of the web"),
    ("suffix", "a text before a given end"),
    ("best_of", "the best of several answers"),
    ("use_beam_search", "a beam search"),
    ("min_tokens", "a least number of tokens"),
    ("stop_token_ids", "ends of the answer by their token ids; give texts as stop"),
    ("chat_template", "another chat template than the model's own"),
    ("mirostat", "sampling by mirostat"),
    ("xtc_probability", "sampling by xtc"),
    ("dry_multiplier", "sampling by DRY"),
    ("dynatemp_range", "a temperature that moves"),
];

/// Names that may be in a request, although nothing here reads them.
pub(super) fn others() -> Vec<&'static str> {
    HARMLESS.into_iter().chain(REFUSED.map(|(name, _)| name)).collect()
}

/// What a request asks for and no model on this device can do, in words.
pub(crate) fn unsupported(body: &Value) -> Option<String> {
    let asks = |name: &str, value: &Value| match name {
        "tool_choice" | "function_call" => value != "none" && value != "auto",
        "response_format" => value["type"] != "text",
        "modalities" => value.as_array().is_none_or(|kinds| kinds.iter().any(|kind| kind != "text")),
        // The best of as many as are wanted is all of them.
        "best_of" => value.as_f64() != Some(body.get("n").and_then(Value::as_f64).unwrap_or(1.0)),
        _ => true,
    };
    let refused = REFUSED.iter().find(|(name, _)| {
        let value = body.get(name).unwrap_or(&Value::Null);
        says_something(value) && asks(name, value)
    });
    let (name, what) = refused?;
    Some(match *name {
        "response_format" => {
            "response_format: only {\"type\": \"text\"} is supported by models on this device".to_owned()
        }
        "tool_choice" => {
            "tool_choice: models on this device cannot be made to call a tool; \"auto\" and \"none\" are \
                          what they understand"
                .to_owned()
        }
        name => format!("{name}: models on this device do not support {what}"),
    })
}

/// Not null, false, 0, or empty.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}
