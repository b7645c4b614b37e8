//! Chunks as hosts write them. What an answer says is read strictly enough to be right; what does not matter to it, such
//! as when it was `created`, may have any type or be missing. Fields that have no name here are kept as they are.

use super::chunk::{Chunk, ChunkChoice, Delta, FunctionCall, ToolCall};
use crate::engine::{FinishReason, PromptTokensDetails, Usage};
use serde_json::{Map, Value};

/// Names that hosts have for thoughts. The first that is not empty counts.
const REASONING: [&str; 4] = ["reasoning_content", "reasoning", "reasoning_text", "thinking"];
/// Lists of thoughts with what is needed to send them back; read where there are no others.
const REASONING_LISTS: [&str; 2] = ["reasoning_details", "thinking_blocks"];

/// A chunk, or why it is none.
pub(crate) fn chunk(body: Value) -> Result<Chunk, &'static str> {
    let Value::Object(mut fields) = body else { return Err("it is not an object") };
    let list = match fields.remove("choices") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list,
        Some(one @ Value::Object(_)) => vec![one],
        Some(_) => return Err("its `choices` are no list"),
    };
    let mut choices = Vec::with_capacity(list.len());
    for (place, entry) in list.into_iter().enumerate() {
        match entry {
            Value::Null => {}
            Value::Object(fields) => choices.push(choice(place, fields)),
            _ => return Err("one of its `choices` is not an object"),
        }
    }
    let (usage, usage_details) = usage(fields.remove("usage"));
    let mut text = |name: &str| fields.remove(name).and_then(some_text).unwrap_or_default();
    let (id, object, model) = (text("id"), text("object"), text("model"));
    let created = fields.remove("created").and_then(|created| whole_number(&created)).unwrap_or(0);
    // What candlewick alone says of an answer; a host that is candlewick too speaks of itself.
    for name in ["candlewick", "retry", "recovery", "prompt_progress"] {
        fields.remove(name);
    }
    Ok(Chunk { id, object, created, model, choices, usage, usage_details, other: fields, ..Chunk::default() })
}

fn choice(place: usize, mut fields: Map<String, Value>) -> ChunkChoice {
    let index = fields.remove("index").and_then(|index| whole_number(&index));
    let filled =
        |value: &Value| !value.is_null() && value.as_object().is_none_or(|fields| !fields.is_empty());
    let (piece, message) = (fields.remove("delta"), fields.remove("message"));
    // Some stream whole messages.
    let said = match piece {
        Some(piece) if filled(&piece) => Some(piece),
        piece => message.or(piece),
    };
    ChunkChoice {
        index: index.and_then(|index| usize::try_from(index).ok()).unwrap_or(place),
        delta: said.map(delta),
        text: fields.remove("text").filter(|text| !text.is_null()).map(|text| prose(&text)),
        tokens: Vec::new(),
        logprobs: fields.remove("logprobs").filter(|logprobs| !logprobs.is_null()),
        finish_reason: fields.remove("finish_reason").and_then(|reason| finish_reason(&reason)),
        other: fields,
    }
}

fn delta(message: Value) -> Delta {
    let mut fields = match message {
        Value::Object(fields) => fields,
        content => Map::from_iter([("content".to_owned(), content)]),
    };
    let role = fields.remove("role").and_then(some_text).filter(|role| !role.is_empty());
    let (content, thoughts) = match fields.remove("content") {
        None | Some(Value::Null) => (None, String::new()),
        Some(Value::Array(parts)) => content_parts(parts, &mut fields),
        Some(part @ Value::Object(_)) => content_parts(vec![part], &mut fields),
        Some(text) => (Some(prose(&text)), String::new()),
    };
    let tool_calls = fields.remove("tool_calls").map(tool_calls).unwrap_or_default();
    if let Some(Value::Object(call)) = fields.remove("function_call") {
        let FunctionCall { name, arguments, other } = function_call(call);
        let name = name.map(|name| ("name".to_owned(), name.into()));
        let call = name.into_iter().chain([("arguments".to_owned(), arguments.into())]).chain(other);
        fields.insert("function_call".into(), Value::Object(call.collect()));
    }
    let reasoning_content = reasoning(&mut fields, thoughts);
    Delta { role, content, reasoning_content, tool_calls, other: fields }
}

/// The texts of a list of parts, and the thoughts among them. What is neither goes to `fields`.
fn content_parts(parts: Vec<Value>, fields: &mut Map<String, Value>) -> (Option<String>, String) {
    let (mut content, mut thoughts) = (None::<String>, String::new());
    for part in parts {
        let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
        let has = |name: &str| part.get(name).is_some_and(|value| !value.is_null());
        let thinks = kind.contains("thinking") || kind.contains("reasoning") || has("thinking");
        match &part {
            Value::Null => {}
            Value::Object(_) if thinks && !prose(&part).is_empty() => thoughts += &prose(&part),
            Value::Object(_) if kind == "refusal" => {
                let said = part.get("refusal").map(prose).unwrap_or_default();
                match fields.get_mut("refusal") {
                    Some(Value::String(refusal)) => refusal.push_str(&said),
                    _ => _ = fields.insert("refusal".into(), said.into()),
                }
            }
            Value::Object(_) if has("text") && !thinks => {
                content.get_or_insert_default().push_str(&part.get("text").map(prose).unwrap_or_default());
            }
            Value::Object(_) => {
                let name = if has("image_url") { "images" } else { "content_parts" };
                match fields.get_mut(name) {
                    Some(Value::Array(list)) => list.push(part),
                    _ => _ = fields.insert(name.into(), vec![part].into()),
                }
            }
            text => content.get_or_insert_default().push_str(&prose(text)),
        }
    }
    (content, thoughts)
}

/// Takes the thoughts out of `fields`; what is said twice once.
fn reasoning(fields: &mut Map<String, Value>, thoughts: String) -> Option<String> {
    let mut found = None::<String>;
    for name in REASONING {
        let Some(value) = fields.remove(name) else { continue };
        let text = prose(&value);
        match &found {
            None if !text.is_empty() => found = Some(text),
            Some(known) if *known == text => {}
            _ if matches!(&value, Value::Null) || value == "" => {}
            _ => _ = fields.insert(name.to_owned(), value),
        }
    }
    match &mut found {
        Some(known) if *known != thoughts => known.push_str(&thoughts),
        None if !thoughts.is_empty() => found = Some(thoughts),
        _ => {}
    }
    found.or_else(|| {
        let lists = REASONING_LISTS.iter().filter_map(|name| fields.get(*name));
        lists.map(prose).find(|text| !text.is_empty())
    })
}

/// Calls in a list, alone, or by their index.
fn tool_calls(value: Value) -> Vec<ToolCall> {
    match value {
        Value::Array(list) => list.into_iter().filter_map(tool_call).collect(),
        Value::Object(fields)
            if fields.values().all(Value::is_object) && !fields.contains_key("function") =>
        {
            let by_index = fields.into_iter().filter_map(|(key, call)| {
                let call = tool_call(call)?;
                Some(ToolCall { index: call.index.or_else(|| key.parse().ok()), ..call })
            });
            by_index.collect()
        }
        one => tool_call(one).into_iter().collect(),
    }
}

fn tool_call(value: Value) -> Option<ToolCall> {
    let Value::Object(mut fields) = value else { return None };
    let index = fields.remove("index").and_then(|index| whole_number(&index));
    let function = match fields.remove("function") {
        Some(Value::Object(function)) => function_call(function),
        Some(Value::String(name)) => {
            let arguments = fields.remove("arguments");
            FunctionCall {
                arguments: arguments.map(as_json).unwrap_or_default(),
                name: Some(name),
                ..FunctionCall::default()
            }
        }
        // Some leave the object around it out.
        _ => {
            let (name, arguments) = (fields.remove("name"), fields.remove("arguments"));
            let fields = [("name", name), ("arguments", arguments)];
            function_call(
                fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect(),
            )
        }
    };
    let id = fields.remove("id").and_then(some_text).filter(|id| !id.is_empty());
    let kind = fields.remove("type").and_then(some_text).filter(|kind| !kind.is_empty());
    fields.retain(|_, value| !value.is_null());
    let index = index.and_then(|index| usize::try_from(index).ok());
    Some(ToolCall { index, id, kind, function, other: fields })
}

fn function_call(mut fields: Map<String, Value>) -> FunctionCall {
    let name = fields.remove("name").and_then(some_text).filter(|name| !name.is_empty());
    let arguments = fields.remove("arguments").map(as_json).unwrap_or_default();
    fields.retain(|_, value| !value.is_null());
    FunctionCall { name, arguments, other: fields }
}

/// Arguments are a text with JSON in it; some hosts give the JSON itself.
fn as_json(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        value => value.to_string(),
    }
}

/// The text of a text, of a part, or of a list of them.
fn prose(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(list) => list.iter().map(prose).collect(),
        Value::Object(fields) => {
            let names = ["text", "thinking", "reasoning", "summary", "content", "value"];
            names.iter().find_map(|name| fields.get(*name)).map(prose).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// A name, which some hosts write as a number.
fn some_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A whole number, however it is written.
fn whole_number(value: &Value) -> Option<u64> {
    let float = || value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    // The conversion keeps to the range, and so does this.
    value
        .as_u64()
        .or_else(|| float().filter(|number| (0.0..1.8e19).contains(number)).map(|number| number as u64))
}

/// Token counts as far as they are given, and what else there is.
fn usage(value: Option<Value>) -> (Option<Usage>, Map<String, Value>) {
    let Some(Value::Object(mut fields)) = value else { return (None, Map::new()) };
    let number = |value: &Value| whole_number(value).and_then(|count| usize::try_from(count).ok());
    let count = |names: &[&str]| names.iter().find_map(|name| number(fields.get(*name)?));
    let (prompt, completion) =
        (count(&["prompt_tokens", "input_tokens"]), count(&["completion_tokens", "output_tokens"]));
    let total = count(&["total_tokens"]);
    if prompt.or(completion).or(total).is_none() {
        return (None, fields);
    }
    for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        fields.remove(name);
    }
    let mut cached_tokens = 0;
    if let Some(Value::Object(mut details)) = fields.remove("prompt_tokens_details") {
        cached_tokens = details.remove("cached_tokens").as_ref().and_then(number).unwrap_or(0);
        if !details.is_empty() {
            fields.insert("prompt_tokens_details".into(), details.into());
        }
    }
    let (prompt_tokens, completion_tokens) = (prompt.unwrap_or(0), completion.unwrap_or(0));
    let counts = Usage {
        prompt_tokens,
        completion_tokens,
        total_tokens: total.unwrap_or(prompt_tokens.saturating_add(completion_tokens)),
        prompt_tokens_details: PromptTokensDetails { cached_tokens, dropped_messages: 0 },
    };
    (Some(counts), fields)
}

/// OpenAI's names, and those that hosts use instead; whatever they do not know ends an answer as usual.
fn finish_reason(value: &Value) -> Option<FinishReason> {
    let name = reason_name(value)?;
    Some(match name.as_str() {
        "length" | "max_tokens" | "model_length" | "max_new_tokens" | "max_output_tokens" => {
            FinishReason::Length
        }
        "tool_calls" | "tool_call" | "tool_use" | "function_call" => FinishReason::ToolCalls,
        "content_filter" | "safety" | "recitation" | "blocklist" | "prohibited_content" | "sensitive" => {
            FinishReason::ContentFilter
        }
        // `eos_token`, `stop_sequence`, `end_turn`…
        _ => FinishReason::Stop,
    })
}

/// The reason of an end that is none of the answer: the host or the model behind it gave up.
pub(crate) fn failure(value: &Value) -> Option<String> {
    let words = [
        "error",
        "abort",
        "cancel",
        "fail",
        "timeout",
        "timed_out",
        "interrupt",
        "insufficient",
        "malformed",
    ];
    reason_name(value).filter(|name| words.iter().any(|word| name.contains(word)))
}

/// In small letters; nothing while the answer goes on.
fn reason_name(value: &Value) -> Option<String> {
    let name = match value {
        Value::String(name) => name.trim().to_ascii_lowercase(),
        Value::Object(fields) => return fields.get("type").or(fields.get("reason")).and_then(reason_name),
        Value::Number(number) if number.as_f64() != Some(0.0) => "stop".to_owned(),
        Value::Bool(true) => "stop".to_owned(),
        _ => return None,
    };
    Some(name).filter(|name| !matches!(name.as_str(), "" | "null" | "none"))
}
