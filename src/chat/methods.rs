//! The methods of Python's strings, lists and dictionaries that templates call.

use super::python::{self, Arguments};
use super::{budget, digits, filters, formatting, source};
use minijinja::value::{Kwargs, Object, ObjectRepr, Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;
use std::fmt;
use std::sync::Arc;

/// A Python tuple.
pub(super) fn tuple<const N: usize>(items: [Value; N]) -> Value {
    Value::from(Tuple::from(items))
}

/// Calls the method `name` of `value`: here what pycompat lacks or does in another way.
pub(super) fn call(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    match name {
        source::SLICE => return slice(value, args),
        source::CYCLE if args.is_empty() => {
            return Err(Error::new(ErrorKind::InvalidOperation, "no items for cycling given"));
        }
        source::CYCLE => return value.call_method(state, "cycle", args),
        source::ATTRIBUTE => {
            let (name,): (&str,) = from_args(args)?;
            return match value.kind() {
                ValueKind::Map if !filters::is_namespace(value) => {
                    Ok(Value::from_object(Method(name.to_owned())))
                }
                _ => value.get_attr(name),
            };
        }
        _ => {}
    }
    let known = match value.kind() {
        ValueKind::String => string(value.as_str().unwrap_or_default(), name, args)?,
        ValueKind::Map => mapping(value, name, args)?,
        ValueKind::Seq | ValueKind::Iterable => sequence(value, name, args)?,
        _ => None,
    };
    match known {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// A dictionary's method that a template names without calling it.
#[derive(Debug)]
struct Method(String);

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {} of dict object>", self.0)
    }
}

/// `value[start:stop:step]`.
fn slice(value: &Value, args: &[Value]) -> Result<Value, Error> {
    let (start, stop, step): (Option<i64>, Option<i64>, Option<i64>) = from_args(args)?;
    let pick = |length: usize| indices(length as i64, start, stop, step.unwrap_or(1));
    match value.kind() {
        _ if step == Some(0) => Err(Error::new(ErrorKind::InvalidOperation, "slice step cannot be zero")),
        ValueKind::String => {
            let characters: Vec<char> = value.as_str().unwrap_or_default().chars().collect();
            Ok(Value::from(pick(characters.len()).map(|index| characters[index]).collect::<String>()))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            let picked: Vec<Value> = pick(items.len()).map(|index| items[index].clone()).collect();
            Ok(if value.is_tuple() { Value::from(Tuple::from(picked)) } else { Value::from(picked) })
        }
        ValueKind::Undefined => Err(Error::from(ErrorKind::UndefinedError)),
        // jinja2 gives what it gives for any key that is not there.
        _ => Ok(Value::UNDEFINED),
    }
}

/// Python's `range(*slice(start, stop, step).indices(length))`; `step` is not 0.
fn indices(length: i64, start: Option<i64>, stop: Option<i64>, step: i64) -> impl Iterator<Item = usize> {
    let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let clamp =
        |index: i64| (if index < 0 { index.saturating_add(length) } else { index }).clamp(lowest, highest);
    let (first, end) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, stop) = (start.map_or(first, clamp), stop.map_or(end, clamp));
    let inside = move |&index: &i64| if step > 0 { index < stop } else { index > stop };
    std::iter::successors(Some(start), move |&index| index.checked_add(step))
        .take_while(inside)
        .map(|i| i as usize)
}

fn string(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let stripped = |from_start: bool, from_end: bool| -> Result<Value, Error> {
        let (characters,): (Option<&str>,) = from_args(args)?;
        Ok(Value::from(python::strip_of(text, characters, from_start, from_end)))
    };
    Ok(Some(match name {
        "strip" => stripped(true, true)?,
        "lstrip" => stripped(true, false)?,
        "rstrip" => stripped(false, true)?,
        "split" | "rsplit" => split(text, name == "rsplit", args)?,
        "splitlines" => {
            let arguments = Arguments::new(args)?;
            let keep = arguments.truth(0, "keepends")?;
            arguments.end(1)?;
            let line = |line| Value::from(if keep { line } else { without_end(line) });
            lines(text).into_iter().map(line).collect()
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swap = |c: char| match c.is_uppercase() {
                true => c.to_lowercase().collect::<String>(),
                false => c.to_uppercase().collect(),
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "casefold" => {
            let () = from_args(args)?;
            Value::from(text.to_lowercase())
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            match text.split_once(separator) {
                Some((head, tail)) => tuple([head, separator, tail].map(Value::from)),
                None => tuple([text, "", ""].map(Value::from)),
            }
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            match text.rsplit_once(separator) {
                Some((head, tail)) => tuple([head, separator, tail].map(Value::from)),
                None => tuple(["", "", text].map(Value::from)),
            }
        }
        "index" | "rindex" | "find" | "rfind" => {
            let found = find(text, name.starts_with('r'), args)?;
            if found < 0 && name.ends_with("index") {
                return Err(Error::new(ErrorKind::InvalidOperation, "substring not found"));
            }
            Value::from(found)
        }
        "startswith" | "endswith" if args.len() > 1 => {
            let (wanted, start, end): (Value, Option<i64>, Option<i64>) = from_args(args)?;
            let part: String = window(text, start, end).1;
            let mut wanted = match wanted.as_str() {
                Some(_) => vec![wanted].into_iter(),
                None => wanted.try_iter()?.collect::<Vec<_>>().into_iter(),
            };
            Value::from(wanted.any(|wanted| {
                let wanted = wanted.as_str().unwrap_or_default();
                if name == "startswith" { part.starts_with(wanted) } else { part.ends_with(wanted) }
            }))
        }
        "count" => {
            let (wanted,): (&str,) = from_args(args)?;
            Value::from(text.matches(wanted).count())
        }
        "replace" => replace(text, args)?,
        "isdecimal" | "isdigit" => {
            let () = from_args(args)?;
            let digit = if name == "isdigit" { digits::is_digit } else { digits::is_decimal };
            Value::from(!text.is_empty() && text.chars().all(digit))
        }
        "istitle" => {
            let () = from_args(args)?;
            Value::from(text.chars().any(char::is_alphabetic) && title(text) == text)
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            let mut out = String::new();
            for (n, value) in values.try_iter()?.enumerate() {
                let Some(value) = value.as_str() else {
                    let message = format!("join: item {n} is not a string but {}", value.kind());
                    return Err(Error::new(ErrorKind::InvalidOperation, message));
                };
                out.push_str(if n > 0 { text } else { "" });
                out.push_str(value);
                budget::check_text(out.len())?;
            }
            Value::from(out)
        }
        "format" => formatting::format(text, args)?,
        "format_map" => {
            let (mapping,): (&Value,) = from_args(args)?;
            let mut pairs = Vec::new();
            for key in mapping.try_iter()? {
                pairs.push((python::str(&key), mapping.get_item(&key)?));
            }
            formatting::format(text, &[pairs.into_iter().collect::<Kwargs>().into()])?
        }
        "encode" => {
            let arguments = Arguments::new(args)?;
            let encoding = arguments.get(0, "encoding")?.map_or_else(String::new, |name| python::str(&name));
            if !["", "utf-8", "utf8"].contains(&encoding.to_lowercase().as_str()) {
                return Err(Error::new(ErrorKind::InvalidOperation, "encode: only UTF-8 is supported"));
            }
            Value::from_bytes(text.as_bytes().to_vec())
        }
        "expandtabs" => {
            let arguments = Arguments::new(args)?;
            let size = arguments.get(0, "tabsize")?.map_or(Ok(8), i64::try_from)?;
            arguments.end(1)?;
            Value::from(expand_tabs(text, usize::try_from(size).unwrap_or(0))?)
        }
        "isidentifier" => {
            let () = from_args(args)?;
            let start = text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
            Value::from(start && text.chars().all(|c| c.is_alphanumeric() || c == '_'))
        }
        "isprintable" => {
            let () = from_args(args)?;
            Value::from(text.chars().all(python::is_printable))
        }
        "isnumeric" => {
            let () = from_args(args)?;
            Value::from(!text.is_empty() && text.chars().all(char::is_numeric))
        }
        "ljust" | "rjust" | "center" | "zfill" => pad(text, name, args)?,
        _ => return Ok(None),
    }))
}

/// Where a substring begins, in characters; −1 if nowhere.
fn find(text: &str, last: bool, args: &[Value]) -> Result<i64, Error> {
    let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let (before, part) = window(text, start, end);
    let at = if last { part.rfind(wanted) } else { part.find(wanted) };
    Ok(at.map_or(-1, |at| (before + part[..at].chars().count()) as i64))
}

/// `text[start:end]`, and the number of characters before it.
fn window(text: &str, start: Option<i64>, end: Option<i64>) -> (usize, String) {
    let length = text.chars().count() as i64;
    let clamp = |index: i64| (if index < 0 { index.saturating_add(length) } else { index }).clamp(0, length);
    let (start, end) = (clamp(start.unwrap_or(0)), clamp(end.unwrap_or(length)));
    let part = text.chars().skip(start as usize).take((end - start).max(0) as usize).collect();
    (start as usize, part)
}

/// `str.replace`, also as a filter.
pub(super) fn replace(text: &str, args: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::new(args)?;
    let part = |index, name| match arguments.get(index, name) {
        Ok(Some(part)) => Ok(python::str(&part)),
        Ok(None) => Err(Error::from(ErrorKind::MissingArgument)),
        Err(error) => Err(error),
    };
    let (old, new) = (part(0, "old")?, part(1, "new")?);
    let count = arguments.get(2, "count")?.map_or(Ok(-1), i64::try_from)?;
    arguments.end(3)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let finds = text.matches(&old).take(count).count();
    budget::check_text(text.len().saturating_add(finds.saturating_mul(new.len())))?;
    Ok(Value::from(text.replacen(&old, &new, count)))
}

fn split(text: &str, from_end: bool, args: &[Value]) -> Result<Value, Error> {
    let arguments = Arguments::new(args)?;
    let separator = arguments.get(0, "sep")?;
    let most = arguments.get(1, "maxsplit")?.map_or(Ok(-1), i64::try_from)?;
    arguments.end(2)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let pieces = most.saturating_add(1);
    let mut parts: Vec<&str> = match &separator {
        Some(separator) => {
            let separator = separator.as_str().filter(|text| !text.is_empty()).ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, "split needs a separator that is a string")
            })?;
            match from_end {
                true => text.rsplitn(pieces, separator).collect(),
                false => text.splitn(pieces, separator).collect(),
            }
        }
        None if from_end => split_spaces_from_end(text, most),
        None => split_spaces(text, most),
    };
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Splits at runs of white space. After the last split, the rest keeps the white space at its end.
fn split_spaces(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(python::is_space);
    while !rest.is_empty() {
        let border = if parts.len() < most { rest.find(python::is_space) } else { None };
        let (head, tail) = rest.split_at(border.unwrap_or(rest.len()));
        parts.push(head);
        rest = tail.trim_start_matches(python::is_space);
    }
    parts
}

/// The same from the end, the last part first.
fn split_spaces_from_end(text: &str, most: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(python::is_space);
    while !rest.is_empty() {
        let border = if parts.len() < most { rest.rfind(python::is_space) } else { None };
        let start = border.map_or(0, |at| at + rest[at..].chars().next().map_or(0, char::len_utf8));
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end_matches(python::is_space);
    }
    parts
}

/// What ends a line in Python.
const LINE_ENDS: [char; 10] =
    ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];

/// The lines with their ends.
pub(super) fn lines(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((at, end)) = rest.char_indices().find(|(_, c)| LINE_ENDS.contains(c)) {
        let length = if rest[at..].starts_with("\r\n") { 2 } else { end.len_utf8() };
        lines.push(&rest[..at + length]);
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// A line from [`lines`] without its end.
pub(super) fn without_end(line: &str) -> &str {
    line.strip_suffix("\r\n").or_else(|| line.strip_suffix(LINE_ENDS)).unwrap_or(line)
}

/// `str.title`: a capital after anything that is not a letter.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut in_word = false;
    for c in text.chars() {
        match in_word {
            false => out.extend(c.to_uppercase()),
            true => out.extend(c.to_lowercase()),
        }
        in_word = c.is_alphabetic();
    }
    out
}

/// `str.expandtabs`.
fn expand_tabs(text: &str, size: usize) -> Result<String, Error> {
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        match c {
            '\t' if size == 0 => {}
            '\t' => {
                let spaces = size - column % size;
                budget::check_text(out.len().saturating_add(spaces))?;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            c => {
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                out.push(c);
            }
        }
    }
    Ok(out)
}

fn pad(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill) = match name {
        "zfill" => (from_args::<(i64,)>(args)?.0, "0"),
        _ => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            (width, fill.unwrap_or(" "))
        }
    };
    if fill.chars().count() != 1 {
        let message = "the fill character must be exactly one character long";
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    budget::check_text(missing.saturating_mul(fill.len()).saturating_add(text.len()))?;
    let (sign, text) = match text.strip_prefix(['+', '-']) {
        Some(digits) if name == "zfill" => text.split_at(text.len() - digits.len()),
        _ => ("", text),
    };
    let left = match name {
        "ljust" => 0,
        // CPython's rounding: the extra space goes left if the width is odd.
        "center" => missing / 2 + (missing & width as usize & 1),
        _ => missing,
    };
    Ok(Value::from(format!("{sign}{}{text}{}", fill.repeat(left), fill.repeat(missing - left))))
}

fn mapping(value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(value.clone()))
        }
        "keys" | "values" | "items" => {
            let () = from_args(args)?;
            let mut items = Vec::new();
            for key in value.try_iter()? {
                items.push(match name {
                    "keys" => key,
                    "values" => value.get_item(&key)?,
                    _ => {
                        let item = value.get_item(&key)?;
                        tuple([key, item])
                    }
                });
            }
            let kind = match name {
                "keys" => "dict_keys",
                "values" => "dict_values",
                _ => "dict_items",
            };
            Ok(Some(Value::from_object(python::View(kind, items))))
        }
        "fromkeys" => {
            let (keys, item): (&Value, Option<Value>) = from_args(args)?;
            let item = item.unwrap_or(Value::from(()));
            let pairs = keys.try_iter()?.map(|key| (key, item.clone()));
            Ok(Some(Value::from_pairs(pairs)))
        }
        "pop" | "popitem" | "update" | "clear" | "setdefault" if value.get_attr(name)?.is_undefined() => {
            Err(immutable(name))
        }
        _ => Ok(None),
    }
}

fn sequence(value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(value.clone()))
        }
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            match value.try_iter()?.position(|item| item == *wanted) {
                Some(index) => Ok(Some(Value::from(index))),
                None => Err(Error::new(ErrorKind::InvalidOperation, "the value is not in the list")),
            }
        }
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse" => {
            Err(immutable(name))
        }
        _ => Ok(None),
    }
}

/// transformers' sandbox refuses these as well.
fn immutable(name: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("templates may not change values: {name} is not allowed"))
}
