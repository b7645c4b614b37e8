//! Fits the messages of OpenAI's API to what a template wants.
//!
//! Templates are written for one form of each thing: content is a string or a list of parts, arguments
//! are objects or JSON texts, system messages come first or not at all. What is in another form would
//! be lost without a word, or break the template.

use super::needs::{Arguments, Content, Needs};
use super::{budget, json, python};
use crate::{Error, Result};
use minijinja::value::Rest;
use serde_json::{Map, Value as Json};

/// Roles that every template is given, whether it knows them or not.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];
/// The most of a value that messages of errors quote, in characters.
const QUOTED: usize = 40;

/// The messages as the template with this source wants them. `invalid_argument` says which message
/// is none that a text model can read.
pub(super) fn fit(messages: &[Json], needs: &Needs, source: &str) -> Result<Vec<Json>> {
    let mut fitted = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let at = format!("messages[{index}]");
        let Json::Object(message) = message else {
            return Err(Error::invalid_argument(format!("{at} is not an object with a role and a content")));
        };
        let mut message = message.clone();
        let role = role(&message, needs, source, &at)?;
        let calls = fit_calls(&mut message, needs, &at)?;
        let content = match message.get("content") {
            None | Some(Json::Null) if calls && needs.null => Json::Null,
            content => fit_content(content, needs.content(&role), &at)?,
        };
        message.insert("content".into(), content);
        message.insert("role".into(), Json::from(role));
        fitted.push(with_reasoning(message));
    }
    Ok(settle_systems(fitted, needs))
}

fn role(message: &Map<String, Json>, needs: &Needs, source: &str, at: &str) -> Result<String> {
    let role = match message.get("role") {
        Some(Json::String(role)) => role.as_str(),
        None | Some(Json::Null) => return Err(Error::invalid_argument(format!("{at} has no role"))),
        Some(_) => return Err(Error::invalid_argument(format!("{at}.role is not a string"))),
    };
    match role {
        "developer" if !needs.developer => Ok("system".to_owned()),
        role if role == "developer" || ROLES.contains(&role) || names_role(source, role) => {
            Ok(role.to_owned())
        }
        _ => Err(Error::invalid_argument(format!(
            "{at}.role is {}, which this model does not know: use system, user, assistant or tool",
            quoted(role)
        ))),
    }
}

/// Whether a template's source speaks of a role by this name: in a tag that speaks of roles, or in a
/// comparison.
pub(super) fn names_role(source: &str, role: &str) -> bool {
    ['\'', '"'].into_iter().any(|quote| {
        let literal = format!("{quote}{role}{quote}");
        // How far the source has been read, and whether the tag there has spoken of roles so far.
        let (mut read, mut in_tag, mut speaks) = (0, false, false);
        source.match_indices(&literal).any(|(at, _)| {
            let part = &source[read..at];
            read = at;
            match part.rfind("{%").max(part.rfind("{{")) {
                Some(start) => (in_tag, speaks) = (true, part[start..].contains("role")),
                None => speaks |= in_tag && part.contains("role"),
            }
            speaks || source[..at].trim_end().ends_with("==")
        })
    })
}

fn fit_content(content: Option<&Json>, form: Content, at: &str) -> Result<Json> {
    let texts = match content {
        None | Some(Json::Null) => return Ok(form.hold("")),
        Some(Json::String(text)) => return Ok(form.hold(text)),
        Some(Json::Array(parts)) => {
            let texts = parts.iter().enumerate().map(|(n, part)| text(part, &format!("{at}.content[{n}]")));
            texts.collect::<Result<Vec<_>>>()?
        }
        Some(_) => {
            let message = format!("{at}.content is neither a string nor a list of parts");
            return Err(Error::invalid_argument(message));
        }
    };
    Ok(match form {
        // As llama.cpp joins them.
        Content::Text => Json::from(texts.join("\n")),
        _ if texts.is_empty() => form.hold(""),
        Content::Parts | Content::Both => texts.into_iter().map(part).collect(),
    })
}

fn part(text: &str) -> Json {
    serde_json::json!({ "type": "text", "text": text })
}

/// The text of a part. `at` says where it is.
fn text<'a>(part: &'a Json, at: &str) -> Result<&'a str> {
    let invalid = |what: String| Err(Error::invalid_argument(format!("{at} {what}")));
    let Some(kind) = part.get("type").and_then(Json::as_str) else {
        return invalid(r#"is no part such as {"type": "text", "text": "…"}"#.to_owned());
    };
    let key = match kind {
        // The latter two as OpenAI's newer API calls them.
        "text" | "input_text" | "output_text" => "text",
        "refusal" => "refusal",
        _ => {
            return invalid(format!("has the type {}, and this model reads nothing but text", quoted(kind)));
        }
    };
    match part.get(key).and_then(Json::as_str) {
        Some(text) => Ok(text),
        None => invalid(format!("has no {key} that is a string")),
    }
}

/// Fits the calls of tools. Whether there are any.
fn fit_calls(message: &mut Map<String, Json>, needs: &Needs, at: &str) -> Result<bool> {
    let calls = match message.get_mut("tool_calls") {
        Some(Json::Array(calls)) if !calls.is_empty() => calls,
        // Many clients always send the key, and many templates ask only whether it is there.
        Some(Json::Null | Json::Array(_)) => {
            message.shift_remove("tool_calls");
            return Ok(false);
        }
        other => return Ok(other.is_some()),
    };
    for (n, call) in calls.iter_mut().enumerate() {
        let (call, at) = match call.get("function") {
            Some(Json::Object(_)) => (&mut call["function"], format!("{at}.tool_calls[{n}].function")),
            _ => (call, format!("{at}.tool_calls[{n}]")),
        };
        let Some(arguments) = call.get_mut("arguments") else { continue };
        match (needs.arguments, &*arguments) {
            (Arguments::Object, Json::String(text)) => {
                // Calls without parameters have empty ones on some servers.
                let text = if text.trim().is_empty() { "{}" } else { text };
                *arguments = serde_json::from_str(text).map_err(|error| {
                    Error::invalid_argument(format!("{at}.arguments is no JSON: {error}"))
                })?;
            }
            (Arguments::Text, Json::Object(_)) => {
                let value = python::from_json(arguments.clone());
                // Outside of a rendering: within bounds of its own, which depend on its size.
                budget::begin(&value);
                let text = json::tojson(&value, Rest(Vec::new()));
                budget::end();
                *arguments = Json::from(text.map_err(|_| {
                    Error::invalid_argument(format!("{at}.arguments cannot be written as JSON"))
                })?);
            }
            _ => {}
        }
    }
    Ok(true)
}

/// Lets templates find a message's reasoning under the standard name and gpt-oss's, as transformers does.
fn with_reasoning(message: Map<String, Json>) -> Json {
    let names = ["reasoning_content", "thinking", "reasoning"];
    let reasoning = names.iter().filter_map(|name| message.get(*name)).find(|value| !value.is_null());
    let Some(reasoning) = reasoning.cloned() else { return Json::Object(message) };
    let mut aliased = Map::new();
    aliased.insert("thinking".into(), reasoning.clone());
    aliased.extend(message);
    aliased.insert("reasoning_content".into(), reasoning);
    Json::Object(aliased)
}

/// Puts the texts of system messages that the template would refuse or lose into the next user's
/// message, as llama.cpp does.
fn settle_systems(messages: Vec<Json>, needs: &Needs) -> Vec<Json> {
    let is = |message: &Json, role: &str| message["role"] == role;
    let begins = messages.first().is_some_and(|message| is(message, "system"));
    let later = messages.iter().skip(1).any(|message| is(message, "system"));
    let keeps_first = needs.systems.first;
    let keeps_later = if begins { needs.systems.second } else { needs.systems.late };
    if (!begins || keeps_first) && (!later || keeps_later) {
        return messages;
    }
    let mut out: Vec<Json> = Vec::with_capacity(messages.len());
    let mut pending = Vec::new();
    for mut message in messages {
        if is(&message, "system") {
            // Several at the beginning become one.
            match out.as_mut_slice() {
                [] if keeps_first && pending.is_empty() => out.push(message),
                [first] if keeps_first && is(first, "system") && pending.is_empty() => {
                    append(&mut first["content"], &plain(&message["content"]));
                }
                _ => pending.push(plain(&message["content"])),
            }
            continue;
        }
        let texts = take_texts(&mut pending);
        if is(&message, "user") {
            prepend(&texts, &mut message["content"]);
        } else if !texts.is_empty() {
            place(&mut out, &texts, needs);
        }
        out.push(message);
    }
    let texts = take_texts(&mut pending);
    if !texts.is_empty() {
        place(&mut out, &texts, needs);
    }
    out
}

/// Says `text` as the user, where no message of the user's follows.
fn place(out: &mut Vec<Json>, text: &str, needs: &Needs) {
    match out.last_mut().filter(|last| last["role"] == "user") {
        Some(last) => append(&mut last["content"], text),
        None => {
            let mut message = super::message("user", "");
            message["content"] = needs.content("user").hold(text);
            out.push(message);
        }
    }
}

fn take_texts(pending: &mut Vec<String>) -> String {
    let texts = std::mem::take(pending);
    texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

/// The text of content that has been fitted.
fn plain(content: &Json) -> String {
    match content {
        Json::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        content => content.as_str().unwrap_or_default().to_owned(),
    }
}

fn prepend(text: &str, content: &mut Json) {
    let place = match content {
        Json::Array(parts) => parts.first_mut().map(|part| &mut part["text"]),
        content => Some(content),
    };
    join(text, place, true);
}

fn append(content: &mut Json, text: &str) {
    let place = match content {
        Json::Array(parts) => parts.last_mut().map(|part| &mut part["text"]),
        content => Some(content),
    };
    join(text, place, false);
}

/// Joins two texts by a line end, unless one of them is empty.
fn join(text: &str, place: Option<&mut Json>, before: bool) {
    let Some(place) = place else { return };
    let own = place.as_str().unwrap_or_default();
    *place = Json::from(match (text.is_empty() || own.is_empty(), before) {
        (true, _) => format!("{text}{own}"),
        (false, true) => format!("{text}\n{own}"),
        (false, false) => format!("{own}\n{text}"),
    });
}

/// A value of the caller's, short enough for a message.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTED).collect();
    format!("{short:?}")
}
