//! JSON as Python's `json.dumps` writes it.

use super::python::{self, Arguments};
use super::{budget, lists};
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write;

struct Writer {
    out: String,
    ensure_ascii: bool,
    /// What a level is indented by; `None` puts all on one line.
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// transformers' `tojson` filter: `json.dumps(x, ensure_ascii=False, indent=None, separators=None,
/// sort_keys=False)`, with nothing escaped for HTML.
pub(super) fn tojson(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let arguments = arguments.into_values();
    let arguments = Arguments::new(&arguments)?;
    let indent = match arguments.get(1, "indent")? {
        None => None,
        Some(text) if text.as_str().is_some() => Some(python::str(&text)),
        // True and False are 1 and 0; less than 0 is 0.
        Some(width) => Some(" ".repeat(i64::try_from(width)?.clamp(0, 100) as usize)),
    };
    let (item_separator, key_separator) = match arguments.get(2, "separators")? {
        Some(pair) => (python::str(&pair.get_item_by_index(0)?), python::str(&pair.get_item_by_index(1)?)),
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let mut writer = Writer {
        out: String::new(),
        ensure_ascii: arguments.truth(0, "ensure_ascii")?,
        indent,
        item_separator,
        key_separator,
        sort_keys: arguments.truth(3, "sort_keys")?,
    };
    arguments.end(4)?;
    writer.value(value, 0)?;
    Ok(writer.out)
}

impl Writer {
    fn value(&mut self, value: &Value, level: usize) -> Result<(), Error> {
        if !budget::walk() {
            return Err(Error::new(ErrorKind::OutOfFuel, "a value grows beyond all bounds"));
        }
        budget::check_text(self.out.len())?;
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.out.push_str(&number(value)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default())?,
            ValueKind::Plain if python::is_float_object(value) => self.out.push_str(&value.to_string()),
            ValueKind::Seq | ValueKind::Iterable if !lists::is_generator(value) => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.list('[', ']', &items, level, |this, item, level| this.value(item, level))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.list('{', '}', &keys, level, |this, key, level| {
                    match key.kind() {
                        ValueKind::String => this.string(key.as_str().unwrap_or_default()),
                        ValueKind::None => this.string("null"),
                        ValueKind::Bool => this.string(if key.is_true() { "true" } else { "false" }),
                        ValueKind::Number => this.string(&number(key)),
                        kind => Err(not_serializable(kind)),
                    }?;
                    this.out.push_str(&this.key_separator);
                    this.value(&value.get_item(key)?, level)
                })?;
            }
            kind => return Err(not_serializable(kind)),
        }
        Ok(())
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        items: &[Value],
        level: usize,
        mut write: impl FnMut(&mut Self, &Value, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.out.push(open);
        for (n, item) in items.iter().enumerate() {
            if n > 0 {
                self.out.push_str(&self.item_separator);
            }
            self.line(level + 1);
            write(self, item, level + 1)?;
        }
        if !items.is_empty() {
            self.line(level);
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self, level: usize) {
        if let Some(indent) = &self.indent {
            self.out.push('\n');
            (0..level).for_each(|_| self.out.push_str(indent));
        }
    }

    fn string(&mut self, text: &str) -> Result<(), Error> {
        budget::check_text(self.out.len().saturating_add(text.len()))?;
        self.out.push('"');
        for c in text.chars() {
            let _ = match c {
                '"' => self.out.write_str("\\\""),
                '\\' => self.out.write_str("\\\\"),
                '\n' => self.out.write_str("\\n"),
                '\r' => self.out.write_str("\\r"),
                '\t' => self.out.write_str("\\t"),
                '\u{8}' => self.out.write_str("\\b"),
                '\u{c}' => self.out.write_str("\\f"),
                c if c < ' ' => write!(self.out, "\\u{:04x}", c as u32),
                c if self.ensure_ascii && c > '~' => {
                    c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(self.out, "\\u{unit:04x}"))
                }
                c => self.out.write_char(c),
            };
        }
        self.out.push('"');
        // Escapes may have made it longer.
        budget::check_text(self.out.len())
    }
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match python::repr(value).as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        finite => finite.to_owned(),
    }
}

fn not_serializable(kind: ValueKind) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("a value of type {kind} is not JSON serializable"))
}
