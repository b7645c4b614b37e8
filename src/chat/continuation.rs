//! Leaving the last message open, as transformers' `continue_final_message` does: the message gets a
//! mark at its end, and what the template wrote from there on is cut off.

use crate::{Error, Result};
use serde_json::Value;

/// With a space at its end, which shows whether the template trims messages.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Puts the mark at the end of the last message's text; gives that text.
pub(super) fn mark(messages: &mut [Value]) -> Result<String> {
    let Some(last) = messages.last_mut() else {
        return Err(Error::invalid_argument("there is no message to continue"));
    };
    let text = match last.get_mut("content") {
        Some(Value::String(text)) => Some(text),
        // Of several parts, the last text.
        Some(Value::Array(parts)) => {
            parts.iter_mut().rev().filter_map(|part| part.get_mut("text")).find_map(|text| match text {
                Value::String(text) => Some(text),
                _ => None,
            })
        }
        _ => None,
    };
    let Some(text) = text else {
        return Err(Error::invalid_argument("the last message has no text to continue"));
    };
    let original = text.clone();
    text.push_str(MARK);
    Ok(original)
}

/// Cuts `rendered` off at the mark.
pub(super) fn cut(mut rendered: String, text: &str) -> Result<String> {
    let place = rendered.rfind(MARK.trim_end());
    let Some(place) = place.filter(|_| rendered.contains(super::python::strip(text))) else {
        return Err(Error::invalid_argument(
            "the last message cannot be continued: this model's chat template leaves it out or changes it",
        ));
    };
    let trimmed = !rendered[place..].starts_with(MARK);
    rendered.truncate(place);
    if trimmed {
        rendered.truncate(rendered.trim_end_matches(super::python::is_space).len());
    }
    Ok(rendered)
}
