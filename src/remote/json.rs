//! JSON as hosts write it. Serializers of other languages let pass what RFC 8259 forbids and no answer depends on: a byte
//! order mark, `NaN` and infinities, numbers beyond all bounds, control characters in texts, and halves of surrogate
//! pairs, whose other half may come with the next piece of a stream.

use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;

/// Stands before a half: no text has it, because it is no character.
const MARK: char = '\u{10FFFE}';
/// Half `0xD800 + n` is the mark and this character `+ n`.
const HALVES: u32 = 0xE000;

/// Reads a text, strictly first: few need more. Halves of surrogate pairs are marked; [`Halves`] joins them.
pub(super) fn parse(text: &str) -> Result<Value, serde_json::Error> {
    let text = text.trim_start_matches('\u{FEFF}');
    serde_json::from_str(text).or_else(|error| match mended(text) {
        Cow::Borrowed(_) => Err(error),
        Cow::Owned(mended) => serde_json::from_str(&mended),
    })
}

/// The same text as RFC 8259 has it, as far as that is clear.
fn mended(text: &str) -> Cow<'_, str> {
    let mut mended = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut changed = false;
    while let Some(start) =
        rest.find(|c: char| c == '"' || c.is_ascii_alphanumeric() || matches!(c, '-' | '+'))
    {
        mended.push_str(&rest[..start]);
        rest = &rest[start..];
        let end = match rest.strip_prefix('"') {
            Some(_) => end_of_string(rest),
            None => rest
                .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.')))
                .unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(end);
        let right = if token.starts_with('"') { string(token) } else { Cow::Borrowed(word(token)) };
        changed |= right != token;
        mended.push_str(&right);
        rest = after;
    }
    if !changed {
        return text.into();
    }
    mended.push_str(rest);
    mended.into()
}

/// Behind the closing quotation mark.
fn end_of_string(text: &str) -> usize {
    let mut escaped = true; // The opening one.
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 1)
}

/// What is no number is nothing.
fn word(word: &str) -> &str {
    match word.parse::<f64>() {
        // Rust reads `nan`, `inf` and `infinity` too, in any case.
        Ok(number) if !number.is_finite() => "null",
        _ => word,
    }
}

/// A text with its quotation marks.
fn string(text: &str) -> Cow<'_, str> {
    let half = |text: &str| -> Option<u32> {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        let code = u32::from_str_radix(digits, 16).ok()?;
        (0xD800..0xE000).contains(&code).then_some(code)
    };
    let control = |c: char| c < ' ';
    if !text.contains("\\u") && !text.contains(control) {
        return text.into();
    }
    let mut right = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '\\' || control(c)) {
        right.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = match half(rest) {
            Some(first) => match half(&rest[6..]) {
                Some(second) if first < 0xDC00 && second >= 0xDC00 => {
                    right.push_str(&rest[..12]);
                    12
                }
                _ => {
                    right.push(MARK);
                    right.extend(char::from_u32(HALVES + first - 0xD800));
                    6
                }
            },
            None if rest.starts_with('\\') => {
                // With what is escaped: that may be a backslash too.
                let taken = 1 + rest.chars().nth(1).map_or(0, char::len_utf8);
                right.push_str(&rest[..taken]);
                taken
            }
            None => {
                right.push_str(&format!("\\u{:04x}", rest.as_bytes()[0]));
                1
            }
        };
        rest = &rest[taken..];
    }
    right.push_str(rest);
    right.into()
}

/// First halves whose second ones may come, by where they are in the answer.
#[derive(Debug)]
pub(super) struct Halves<K>(HashMap<K, u16>);

impl<K> Default for Halves<K> {
    fn default() -> Self {
        Halves(HashMap::new())
    }
}

impl<K: std::hash::Hash + Eq> Halves<K> {
    /// The text of the next piece at `place`, with all characters whole: a first half at its end is kept for the next one.
    pub(super) fn join(&mut self, place: K, text: &mut String) {
        if text.is_empty() {
            return;
        }
        let kept = self.0.remove(&place);
        if kept.is_none() && !text.contains(MARK) {
            return;
        }
        let mut halves = kept;
        let mut whole = String::with_capacity(text.len() + 4);
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let half = match character {
                MARK => characters.clone().next().and_then(|next| {
                    let half = u32::from(next).checked_sub(HALVES).filter(|half| *half < 0x800)?;
                    u16::try_from(0xD800 + half).ok()
                }),
                _ => None,
            };
            if half.is_some() {
                characters.next();
            }
            match (halves.take(), half) {
                (None, None) => whole.push(character),
                (None, Some(half)) if half < 0xDC00 => halves = Some(half),
                (None, Some(_)) => whole.push(char::REPLACEMENT_CHARACTER),
                (Some(first), Some(second)) => match char::decode_utf16([first, second]).next() {
                    Some(Ok(character)) => whole.push(character),
                    _ => {
                        whole.push(char::REPLACEMENT_CHARACTER);
                        match second < 0xDC00 {
                            true => halves = Some(second),
                            false => whole.push(char::REPLACEMENT_CHARACTER),
                        }
                    }
                },
                (Some(_), None) => {
                    whole.push(char::REPLACEMENT_CHARACTER);
                    whole.push(character);
                }
            }
        }
        if let Some(half) = halves {
            self.0.insert(place, half);
        }
        *text = whole;
    }

    /// What is to be said where no second half came.
    pub(super) fn rest(&mut self, place: &K) -> Option<char> {
        self.0.remove(place).map(|_| char::REPLACEMENT_CHARACTER)
    }
}

/// Writes all halves in `value` off.
pub(super) fn without_halves(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(MARK) => {
            let mut halves = Halves::default();
            halves.join((), text);
            text.extend(halves.rest(&()));
        }
        Value::Array(list) => list.iter_mut().for_each(without_halves),
        Value::Object(fields) => fields.values_mut().for_each(without_halves),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_write() {
        for (text, expected) in [
            ("\u{feff}{\"a\":1}", json!({ "a": 1 })),
            (
                r#"{"a":NaN,"b":[-Infinity,Infinity,1e999,-1e999,2.5e0]}"#,
                json!({ "a": null, "b": [null, null, null, null, 2.5] }),
            ),
            (
                r#"{"a":"NaN, \"Infinity\" and -Infinity","b":nan,"c":true,"d":null}"#,
                json!({ "a": "NaN, \"Infinity\" and -Infinity", "b": null, "c": true, "d": null }),
            ),
            ("{\"a\":\"two\nlines\tand\u{1}\"}", json!({ "a": "two\nlines\tand\u{1}" })),
            (r#"["\ud83d\ude00","\\ud83d",1]"#, json!(["😀", "\\ud83d", 1])),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "{",
            r#"{"a":"#,
            r#"{"a":NaN"#,
            "NaN,",
            r#"{"a":"\ud83d"#,
            r#"{"a":"\u"}"#,
            "{'a':1}",
            "\\",
            r#"""#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn halves_meet() {
        let read = |pieces: &[&str]| {
            let mut halves = Halves::default();
            let mut whole = String::new();
            for piece in pieces {
                let Value::String(mut text) = parse(&format!("\"{piece}\"")).unwrap() else { unreachable!() };
                halves.join(0, &mut text);
                whole += &text;
            }
            whole.extend(halves.rest(&0));
            whole
        };
        for (pieces, expected) in [
            (&[r"a\ud83d", r"\ude00b"][..], "a😀b"),
            (&[r"a\ud83d", "", r"\ude00b"], "a😀b"),
            (&[r"a\ud83db"], "a\u{fffd}b"),
            (&[r"a\ud83d"], "a\u{fffd}"),
            (&[r"\ude00b"], "\u{fffd}b"),
            (&[r"\ud83d\ud83d", r"\ude00\ude00"], "\u{fffd}😀\u{fffd}"),
            (&[r"\ud83d", "b"], "\u{fffd}b"),
            (&[r"\ud83d\ude00\ud83d", r"\ude00"], "😀😀"),
            (&["\u{10fffe}"], "\u{fffd}"),
        ] {
            let read = read(pieces);
            // A mark that a host wrote itself is no half, and no character either.
            assert_eq!(read.replace('\u{10fffe}', "\u{fffd}"), expected, "{pieces:?}");
        }
        let mut value = parse(r#"{"a":["\ud83dx"]}"#).unwrap();
        without_halves(&mut value);
        assert_eq!(value, json!({ "a": ["\u{fffd}x"] }));
    }
}
