//! What hosts refuse of a request that others want: then it is asked again without it, and so from then on.

use crate::{Code, Error};
use serde_json::{Map, Value};

/// What is done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Hosts with strict bodies do not know `stream_options`. Then nobody counts the tokens.
    NoStreamOptions,
    /// OpenAI's newer models want `max_completion_tokens` in the place of `max_tokens`.
    CompletionTokens,
    /// Older servers know `max_tokens` alone.
    MaxTokens,
}

/// How requests limit an answer.
pub(super) const TOKENS: [&str; 2] = ["max_tokens", "max_completion_tokens"];

impl Change {
    /// What the refusal of `body` asks for, if it is one of these.
    pub(super) fn for_refusal(error: &Error, body: &Map<String, Value>) -> Option<Change> {
        if error.code != Code::InvalidArgument {
            return None;
        }
        let said = error.message.to_ascii_lowercase();
        let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if body.contains_key("stream_options") && any(&["stream_options", "include_usage", "streamoptions"]) {
            return Some(Change::NoStreamOptions);
        }
        // Not where it is only too large.
        let unknown = any(&[
            "unsupported",
            "not supported",
            "not support",
            "unrecognized",
            "unknown",
            "unexpected",
            "extra input",
            "extra field",
            "not permitted",
            "not allowed",
            "deprecated",
            "instead",
        ]);
        let [old, new] = TOKENS.map(|name| body.contains_key(name));
        match (old, new) {
            (true, false) if unknown && any(&TOKENS) => Some(Change::CompletionTokens),
            (false, true) if unknown && any(&TOKENS[1..]) => Some(Change::MaxTokens),
            _ => None,
        }
    }

    /// Changes a request's body.
    pub(super) fn apply(self, body: &mut Map<String, Value>) {
        let [old, new] = TOKENS;
        let mut rename = |from: &str, to: &str| {
            if let Some(value) = body.shift_remove(from) {
                body.entry(to).or_insert(value);
            }
        };
        match self {
            Change::CompletionTokens => rename(old, new),
            Change::MaxTokens => rename(new, old),
            Change::NoStreamOptions => _ = body.shift_remove("stream_options"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals_are_understood() {
        let streamed = json!({ "max_tokens": 5, "stream_options": {} });
        let (old, new) = (json!({ "max_tokens": 5 }), json!({ "max_completion_tokens": 5 }));
        for (body, said, change) in [
            (
                &streamed,
                "HTTP 422: body.stream_options: Extra inputs are not permitted",
                Some(Change::NoStreamOptions),
            ),
            (
                &streamed,
                "HTTP 400: Unknown parameter: 'stream_options.include_usage'",
                Some(Change::NoStreamOptions),
            ),
            (&old, "HTTP 422: stream_options", None),
            (
                &old,
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                Some(Change::CompletionTokens),
            ),
            (&old, "max_tokens is too large: 5. This model supports at most 4 completion tokens", None),
            (&new, "unknown field `max_completion_tokens`", Some(Change::MaxTokens)),
            (&new, "Unsupported value: 'temperature' does not support 0.3", None),
        ] {
            let fields = body.as_object().unwrap();
            assert_eq!(Change::for_refusal(&Error::invalid_argument(said), fields), change, "{said}");
            assert_eq!(Change::for_refusal(&Error::provider_error(said), fields), None);
            let mut changed = fields.clone();
            let Some(change) = change else { continue };
            change.apply(&mut changed);
            assert_ne!(&changed, fields);
            assert_eq!(
                Change::for_refusal(&Error::invalid_argument(said), &changed)
                    .filter(|again| *again == change),
                None
            );
        }
        let mut fields = old.as_object().unwrap().clone();
        Change::CompletionTokens.apply(&mut fields);
        assert_eq!(Value::Object(fields), new);
    }
}
