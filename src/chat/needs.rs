//! What a template wants messages to look like, found by rendering small conversations with it: templates
//! declare nothing, and differ in everything. llama.cpp finds it out the same way.

use super::messages;
use crate::{Code, Error, Result};
use serde_json::{Map, Value as Json, json};
use std::cell::RefCell;

/// Why a rendering failed.
#[derive(Debug)]
pub(super) struct RenderFailure {
    /// What the caller is told.
    pub error: Error,
    /// Whether only the clock stopped it: that says nothing about the template.
    pub late: bool,
}

/// The forms of content that a template shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Only strings; lists of parts are lost, refused or shown as Python shows lists.
    Text,
    /// Only lists of parts, over which the template walks.
    Parts,
    /// Either.
    Both,
}

/// What a call's arguments must be for the template to show them as JSON or in its own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arguments {
    /// An object.
    Object,
    /// The text of one.
    Text,
    /// The template shows neither.
    Unknown,
}

/// Which system messages a template shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Systems {
    /// The one that the conversation begins with.
    pub first: bool,
    /// One further down, where there is none at the beginning.
    pub late: bool,
    /// One further down, besides that at the beginning.
    pub second: bool,
}

/// What a template wants messages to look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    content: [Content; 4],
    /// Calls of tools.
    pub arguments: Arguments,
    /// Whether content may be null beside calls of tools. Some templates show the calls only then.
    pub null: bool,
    /// System messages.
    pub systems: Systems,
    /// Whether there is a role `developer`.
    pub developer: bool,
}

impl Needs {
    /// The forms of content in messages with this role. Tools' roles have many names.
    pub(super) fn content(&self, role: &str) -> Content {
        match role {
            "system" | "developer" => self.content[0],
            "user" => self.content[1],
            "assistant" => self.content[2],
            _ => self.content[3],
        }
    }

    /// Renders conversations with `render`, which takes the messages and whether there are tools.
    /// `source` is the template's. Fails once a rendering is late.
    pub(super) fn find(
        source: &str,
        render: impl Fn(Vec<Json>, bool) -> Result<String, RenderFailure>,
    ) -> Result<Needs> {
        let late = RefCell::new(None);
        let needs = Self::probe(source, |messages, tools| {
            if let Some(error) = &*late.borrow() {
                return Err(Error::clone(error));
            }
            render(messages, tools).map_err(|failure| {
                if failure.late {
                    late.replace(Some(failure.error.clone()));
                }
                failure.error
            })
        });
        late.into_inner().map_or(Ok(needs), Err)
    }

    fn probe(source: &str, render: impl Fn(Vec<Json>, bool) -> Result<String>) -> Needs {
        let mut needs = Needs {
            content: [Content::Text; 4],
            arguments: Arguments::Unknown,
            null: false,
            systems: Systems { first: true, late: true, second: true },
            developer: false,
        };
        // One that runs without end here does so on every conversation.
        let user = |content: Json| vec![said("user", content)];
        let first = render(user(Content::Text.hold(FIRST)), false);
        if first.as_ref().is_err_and(|error| error.code == Code::UnsupportedModel) {
            return needs;
        }
        // Some show nothing at all where there are no tools.
        let tools = first.is_err() && render(user(Content::Parts.hold(FIRST)), false).is_err();
        let shows = |messages: Vec<Json>, wanted: &[&str]| match render(messages, tools) {
            Ok(text) => wanted.iter().all(|wanted| text.contains(wanted)),
            Err(_) => false,
        };

        needs.content[1] = content(|content| render(user(content), tools));
        let form = needs.content[1];
        if !shows(user(form.hold(FIRST)), &[FIRST]) {
            return needs;
        }
        let user = || said("user", form.hold(ASKED));
        needs.content[0] = content(|content| render(vec![said("system", content), user()], tools));
        needs.content[2] = content(|content| render(vec![user(), said("assistant", content), user()], tools));
        (needs.arguments, needs.null) = calls(|call| render(vec![user(), call], true));
        let call = || {
            let arguments = match needs.arguments {
                Arguments::Text => Json::from("{}"),
                _ => json!({}),
            };
            calling(if needs.null { Json::Null } else { json!("") }, arguments)
        };
        needs.content[3] = content(|content| {
            let mut result = said("tool", content);
            result["name"] = json!(CALLED);
            result["tool_call_id"] = json!(CALL_ID);
            render(vec![user(), call(), result], true)
        });

        let system = |text: &str| said("system", needs.content[0].hold(text));
        let answer = || said("assistant", needs.content[2].hold("Yes."));
        needs.systems.first = shows(vec![system(FIRST), user()], &[FIRST]);
        needs.systems.late = shows(vec![user(), answer(), system(SECOND), user()], &[SECOND]);
        needs.systems.second =
            shows(vec![system(FIRST), user(), answer(), system(SECOND), user()], &[FIRST, SECOND]);
        // Many templates write any role's name; that does not make a model know it.
        needs.developer = messages::names_role(source, "developer")
            && shows(vec![said("developer", needs.content[0].hold(FIRST)), user()], &[FIRST]);
        needs
    }
}

impl Content {
    /// A text in this form.
    pub(super) fn hold(self, text: &str) -> Json {
        match self {
            Content::Parts => json!([{ "type": "text", "text": text }]),
            Content::Text | Content::Both => Json::from(text),
        }
    }
}

// Words that no template has, and that none changes.
const FIRST: &str = "qvaxel";
const SECOND: &str = "qvoxil";
const ASKED: &str = "qvuxol";
const CALLED: &str = "qvcaller";
const ARGUMENT: &str = "qvargument";
/// Mistral's are nine letters and digits long.
const CALL_ID: &str = "call12345";

fn said(role: &str, content: Json) -> Json {
    json!({ "role": role, "content": content })
}

fn calling(content: Json, arguments: Json) -> Json {
    let call =
        json!({ "id": CALL_ID, "type": "function", "function": { "name": CALLED, "arguments": arguments } });
    json!({ "role": "assistant", "content": content, "tool_calls": [call] })
}

/// A tool, for templates that show calls only where there are tools.
pub(super) fn tool() -> Json {
    let properties = json!({ "qvproperty": { "type": "string", "description": "Any." } });
    let parameters = json!({ "type": "object", "properties": properties, "required": ["qvproperty"] });
    json!({ "type": "function", "function": { "name": "qvtool", "description": "Any.", "parameters": parameters } })
}

fn content(render: impl Fn(Json) -> Result<String>) -> Content {
    let text = render(Json::from(FIRST)).is_ok_and(|text| text.contains(FIRST));
    let part = |text: &str| json!({ "type": "text", "text": text });
    let parts = render(json!([part(FIRST), part(SECOND)])).is_ok_and(|text| {
        let between = text.find(FIRST).zip(text.rfind(SECOND)).and_then(|(from, to)| text.get(from..to));
        // As Python or JSON shows a list, there is more between them than a template would put there.
        between.is_some_and(|between| !between.contains("type"))
    });
    match (text, parts) {
        (true, true) => Content::Both,
        (false, true) => Content::Parts,
        (_, false) => Content::Text,
    }
}

/// How arguments are wanted, and whether content may be null beside a call.
fn calls(render: impl Fn(Json) -> Result<String>) -> (Arguments, bool) {
    let object: Map<String, Json> = [(ARGUMENT.to_owned(), json!("x"))].into_iter().collect();
    let text = format!("{{\"{ARGUMENT}\": \"x\"}}");
    let shown = |content: Json, arguments: Json| {
        let text = render(calling(content, arguments)).ok()?;
        (text.contains(CALLED) && text.contains(ARGUMENT)).then_some(text)
    };
    // A dictionary as Python shows it is not what the model was trained on.
    let dumped = |text: &str| text.contains(&format!("'{ARGUMENT}'"));
    let escaped = |text: &str| text.contains(&format!("\\\"{ARGUMENT}"));
    for null in [true, false] {
        let content = || if null { Json::Null } else { json!("") };
        let as_object = shown(content(), Json::Object(object.clone()));
        let as_text = shown(content(), Json::from(text.as_str()));
        let (arguments, written) = match (as_object, as_text) {
            (Some(written), _) if !dumped(&written) => (Arguments::Object, written),
            (_, Some(written)) if !escaped(&written) => (Arguments::Text, written),
            (Some(written), _) => (Arguments::Object, written),
            _ => continue,
        };
        if null && written.contains("None") {
            let empty = shown(
                json!(""),
                if arguments == Arguments::Object { Json::Object(object.clone()) } else { json!(text) },
            );
            let count = |text: &str| text.matches("None").count();
            if empty.is_some_and(|empty| count(&empty) < count(&written)) {
                continue;
            }
        }
        return (arguments, null);
    }
    (Arguments::Unknown, false)
}

#[cfg(test)]
mod tests {
    use super::{Content, Needs, RenderFailure};
    use crate::Error;
    use std::cell::Cell;

    #[test]
    fn what_is_found_too_late_is_not_found() {
        for late_at in 0..4 {
            let renderings = Cell::new(0);
            let found = Needs::find("", |messages, _| {
                let late = renderings.replace(renderings.get() + 1) == late_at;
                let parts = messages[0]["content"][0]["text"].as_str();
                match parts.filter(|_| !late) {
                    Some(text) => Ok(text.to_owned()),
                    None if late => Err(RenderFailure { error: Error::unsupported_model("late"), late }),
                    None => Err(RenderFailure { error: Error::invalid_argument("no parts"), late }),
                }
            });
            assert_eq!(found, Err(Error::unsupported_model("late")), "{late_at}");
            assert_eq!(renderings.get(), late_at + 1);
        }
        // As slow as it may be, but not late: so it is on every conversation.
        let never = Needs::find("", |_, _| {
            Err(RenderFailure { error: Error::unsupported_model("too much"), late: false })
        });
        assert_eq!(never.unwrap().content("user"), Content::Text);
    }
}
