//! Values as Python shows them.

use super::budget;
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, ValueIter, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Json;
use std::collections::HashSet;
use std::fmt::{self, Write};
use std::sync::Arc;

/// The value of a piece of JSON.
pub(super) fn from_json(json: Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (_, Some(integer)) => Value::from(integer),
            _ => from_float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text),
        Json::Array(items) => items.into_iter().map(from_json).collect(),
        Json::Object(items) => Value::from_pairs(items.into_iter().map(|(key, item)| (key, from_json(item)))),
    }
}

/// The value of a float.
pub(super) fn from_float(number: f64) -> Value {
    match float(number) {
        text if text.contains('e') => Value::from_object(Float(text)),
        _ => Value::from(number),
    }
}

/// A float that Python shows with an exponent. minijinja shows none, and what it joins with `~` cannot
/// be intercepted. Templates only ever print such numbers: the defaults and limits of tools.
#[derive(Debug)]
struct Float(String);

impl Object for Float {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Python's `range`.
#[derive(Debug)]
pub(super) struct Range {
    pub start: i64,
    pub stop: i64,
    pub step: i64,
    /// How many numbers there are.
    pub length: usize,
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = key.as_usize().filter(|index| *index < self.length)?;
        Some(Value::from(self.start + index as i64 * self.step))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.length)
    }
}

/// What a dictionary's `keys`, `values` and `items` give, by Python's name.
#[derive(Debug)]
pub(super) struct View(pub &'static str, pub Vec<Value>);

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.1.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.1.len())
    }
}

/// Whether `value` stands for a float with an exponent.
pub(super) fn is_float_object(value: &Value) -> bool {
    value.downcast_object_ref::<Float>().is_some()
}

/// The float that a number is.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    match value.downcast_object_ref::<Float>() {
        Some(Float(text)) => text.parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => f64::try_from(value.clone()).ok(),
    }
}

/// Python's `ascii`, of what `repr` gives.
pub(super) fn ascii(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let _ = match c as u32 {
            ..0x80 => out.write_char(c),
            code @ ..0x100 => write!(out, "\\x{code:02x}"),
            code @ ..0x10000 => write!(out, "\\u{code:04x}"),
            code => write!(out, "\\U{code:08x}"),
        };
    }
    out
}

/// A call's arguments, as Python binds them: by place, else by name.
pub(super) struct Arguments<'a> {
    positional: &'a [Value],
    named: Kwargs,
}

impl<'a> Arguments<'a> {
    /// Of what minijinja passes, where names come last.
    pub(super) fn new(args: &'a [Value]) -> Result<Self, Error> {
        let (positional, named): (&[Value], Kwargs) = from_args(args)?;
        Ok(Arguments { positional, named })
    }

    /// The argument at `index`, or called `name`. None counts as absent: it is the default of all
    /// parameters that are asked for here.
    pub(super) fn get(&self, index: usize, name: &str) -> Result<Option<Value>, Error> {
        let named: Option<Value> = self.named.get(name)?;
        Ok(self.positional.get(index).cloned().or(named).filter(|value| !value.is_none()))
    }

    /// Whether the argument is given and true.
    pub(super) fn truth(&self, index: usize, name: &str) -> Result<bool, Error> {
        Ok(self.get(index, name)?.is_some_and(|value| value.is_true()))
    }

    /// Refuses arguments that the callee does not know.
    pub(super) fn end(&self, most: usize) -> Result<(), Error> {
        match self.positional.len() > most {
            true => Err(Error::from(ErrorKind::TooManyArguments)),
            false => self.named.assert_all_used(),
        }
    }
}

/// `iter(value)`. minijinja takes None for an empty list.
pub(super) fn iterate(value: &Value) -> Result<ValueIter, Error> {
    match value.is_none() {
        true => Err(Error::new(ErrorKind::InvalidOperation, "None is not iterable")),
        false => value.try_iter(),
    }
}

/// `str(value)`.
pub(super) fn str(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => repr(value),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(&mut out, value);
    out
}

fn write_repr(out: &mut String, value: &Value) {
    // What is cut short here ends the rendering.
    if !budget::walk() || budget::check_text(out.len()).is_err() {
        return;
    }
    if let Some(range) = value.downcast_object_ref::<Range>() {
        let _ = match range.step {
            1 => write!(out, "range({}, {})", range.start, range.stop),
            step => write!(out, "range({}, {}, {step})", range.start, range.stop),
        };
        return;
    }
    if let Some(View(name, items)) = value.downcast_object_ref::<View>() {
        out.push_str(name);
        out.push('(');
        write_repr(out, &Value::from(items.clone()));
        out.push(')');
        return;
    }
    let is_namespace = super::filters::is_namespace(value);
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            if budget::check_text(out.len().saturating_add(text.len())).is_ok() {
                write_string(out, text);
                // Escapes may have made it longer; then this ends the rendering.
                let _ = budget::check_text(out.len());
            }
        }
        ValueKind::Number if !value.is_integer() => {
            out.push_str(&f64::try_from(value.clone()).map(float).unwrap_or_default())
        }
        ValueKind::Bytes => {
            out.push_str("b'");
            for &byte in value.as_bytes().unwrap_or_default() {
                let _ = match byte {
                    b'\n' => out.write_str("\\n"),
                    b'\r' => out.write_str("\\r"),
                    b'\t' => out.write_str("\\t"),
                    b'\\' | b'\'' => write!(out, "\\{}", byte as char),
                    b' '..=b'~' => out.write_char(byte as char),
                    byte => write!(out, "\\x{byte:02x}"),
                };
            }
            out.push('\'');
        }
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter().into_iter().flatten() {
                out.push_str(if count > 0 { ", " } else { "" });
                write_repr(out, &item);
                count += 1;
            }
            out.push_str(if tuple && count == 1 { "," } else { "" });
            out.push(if tuple { ')' } else { ']' });
        }
        ValueKind::Map => {
            out.push_str(if is_namespace { "<Namespace {" } else { "{" });
            for (n, key) in value.try_iter().into_iter().flatten().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                write_repr(out, &key);
                out.push_str(": ");
                write_repr(out, &value.get_item(&key).unwrap_or_default());
            }
            out.push_str(if is_namespace { "}>" } else { "}" });
        }
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

/// A float's shortest digits that read back the same, with an exponent below 1e-4 and from 1e16.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = number.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        // Rust writes 1e-7 and 1e16, Python 1e-07 and 1e+16.
        let text = format!("{number:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    // Debug adds ".0" to whole numbers but has exponents of its own; Display has none.
    let text = number.to_string();
    if text.contains('.') { text } else { text + ".0" }
}

fn write_string(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        let _ = match c {
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            '\\' => out.write_str("\\\\"),
            c if c == quote => write!(out, "\\{c}"),
            c if is_printable(c) => out.write_char(c),
            c if (c as u32) < 0x100 => write!(out, "\\x{:02x}", c as u32),
            c if (c as u32) < 0x10000 => write!(out, "\\u{:04x}", c as u32),
            c => write!(out, "\\U{:08x}", c as u32),
        };
    }
    out.push(quote);
}

/// Near enough to Python's `str.isprintable`: not control or format characters, separators other
/// than the space, or private use. Unassigned characters, which depend on the Unicode version, pass.
pub(super) fn is_printable(c: char) -> bool {
    !(c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(c, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}'))
}

/// `str.isspace` of one character: Unicode's white space and the four separators of ASCII.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.strip(characters)`, or of only one end.
pub(super) fn strip_of<'a>(
    text: &'a str,
    characters: Option<&str>,
    from_start: bool,
    from_end: bool,
) -> &'a str {
    // A set: both texts may be long.
    let set: Option<HashSet<char>> = characters.map(|characters| characters.chars().collect());
    let drop = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
    let text = if from_start { text.trim_start_matches(drop) } else { text };
    if from_end { text.trim_end_matches(drop) } else { text }
}

/// `int(text, base)`: a prefix may name the base, and underscores may part digits. `None` if it is no
/// integer, or larger than any that is kept here.
pub(super) fn parse_integer(text: &str, base: u32) -> Option<i128> {
    let text = strip(text);
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixes = match base {
        16 => ["0x", "0X"],
        8 => ["0o", "0O"],
        2 => ["0b", "0B"],
        _ => ["", ""],
    };
    let digits = match prefixes.iter().find_map(|prefix| digits.strip_prefix(prefix)) {
        Some(digits) if base != 10 => digits.strip_prefix('_').unwrap_or(digits),
        _ => digits,
    };
    let digits = without_underscores(digits).filter(|digits| !digits.starts_with(['+', '-']))?;
    match (2..=36).contains(&base) {
        true => i128::from_str_radix(&format!("{sign}{digits}"), base).ok(),
        false => None,
    }
}

/// `float(text)`.
pub(super) fn parse_float(text: &str) -> Option<f64> {
    without_underscores(strip(text))?.parse().ok()
}

/// A number without the underscores between its digits; `None` if there are others.
fn without_underscores(text: &str) -> Option<String> {
    let inside = |part: &str| !part.is_empty();
    let between_digits = text.split('_').all(inside)
        && text.split('_').skip(1).all(|part| part.starts_with(|c: char| c.is_alphanumeric()))
        && text.rsplit('_').skip(1).all(|part| part.ends_with(|c: char| c.is_alphanumeric()));
    between_digits.then(|| text.replace('_', ""))
}
