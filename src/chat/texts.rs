//! jinja2's filters of texts that minijinja lacks, and its `cycler`.

use super::python::{self, Arguments};
use super::{budget, filters};
use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Registers everything.
pub fn register(env: &mut Environment) {
    env.add_filter("center", center);
    env.add_filter("filesizeformat", file_size);
    env.add_filter("striptags", |value: &Value| strip_tags(&python::str(value)));
    env.add_filter("truncate", truncate);
    env.add_filter("urlencode", url_encode);
    env.add_filter("wordcount", |value: &Value| words(&python::str(value)));
    env.add_filter("wordwrap", word_wrap);
    env.add_filter("xmlattr", xml_attributes);
    env.add_filter("random", random);
    env.add_function("cycler", cycler);
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.to_owned())
}

fn center(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let arguments = arguments.into_values();
    let arguments = Arguments::new(&arguments)?;
    let width = arguments.get(0, "width")?.map_or(Ok(80), usize::try_from)?;
    arguments.end(1)?;
    budget::check_text(width)?;
    let text = python::str(value);
    let missing = width.saturating_sub(text.chars().count());
    // CPython's rounding: the extra space goes left if the width is odd.
    let left = missing / 2 + (missing & width & 1);
    Ok(format!("{}{text}{}", " ".repeat(left), " ".repeat(missing - left)))
}

fn file_size(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let arguments = arguments.into_values();
    let arguments = Arguments::new(&arguments)?;
    let binary = arguments.truth(0, "binary")?;
    arguments.end(1)?;
    let bytes = match value.as_str() {
        Some(text) => python::strip(text).parse().ok(),
        None => python::as_float(value),
    };
    let bytes = bytes.ok_or_else(|| invalid("filesizeformat needs a number"))?;
    let (base, prefixes) = match binary {
        true => (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"]),
        false => (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]),
    };
    if bytes == 1.0 {
        return Ok("1 Byte".to_owned());
    }
    if bytes < base {
        return Ok(format!("{} Bytes", bytes.trunc()));
    }
    let mut unit = base;
    for prefix in prefixes {
        unit *= base;
        if bytes < unit {
            return Ok(format!("{:.1} {prefix}", base * bytes / unit));
        }
    }
    Ok(format!("{:.1} {}", base * bytes / unit, prefixes[7]))
}

/// markupsafe's `striptags`: without comments and tags, and with runs of white space as one space.
fn strip_tags(text: &str) -> String {
    let mut plain = text.to_owned();
    for (open, close) in [("<!--", "-->"), ("<", ">")] {
        let mut out = String::with_capacity(plain.len());
        let mut rest = plain.as_str();
        while let Some(start) = rest.find(open) {
            let Some(end) = rest[start..].find(close) else { break };
            out.push_str(&rest[..start]);
            rest = &rest[start + end + close.len()..];
        }
        out.push_str(rest);
        plain = out;
    }
    let joined = plain.split(python::is_space).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    unescape(&joined)
}

/// The few references that markupsafe's `escape` writes, and numeric ones.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let reference = rest[1..].split_once(';').map(|(name, _)| name).filter(|name| name.len() <= 8);
        let c = reference.and_then(|name| match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            "nbsp" => Some('\u{a0}'),
            name => {
                let number = name.strip_prefix('#')?;
                match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok(),
                    None => number.parse().ok(),
                }
                .and_then(char::from_u32)
            }
        });
        match (c, reference) {
            (Some(c), Some(name)) => {
                out.push(c);
                rest = &rest[name.len() + 2..];
            }
            _ => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

fn truncate(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let arguments = arguments.into_values();
    let arguments = Arguments::new(&arguments)?;
    let length = arguments.get(0, "length")?.map_or(Ok(255), usize::try_from)?;
    let kill_words = arguments.truth(1, "killwords")?;
    let end = arguments.get(2, "end")?.map_or_else(|| "...".to_owned(), |end| python::str(&end));
    let leeway = arguments.get(3, "leeway")?.map_or(Ok(5), usize::try_from)?;
    arguments.end(4)?;
    let end_length = end.chars().count();
    if length < end_length {
        return Err(invalid("truncate: the length is less than that of the end"));
    }
    let text = python::str(value);
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let start: String = text.chars().take(length - end_length).collect();
    let start =
        if kill_words { &start } else { start.rsplit_once(' ').map_or(start.as_str(), |(start, _)| start) };
    Ok(format!("{start}{end}"))
}

/// Python's `quote` for texts, and its `urlencode` for mappings and pairs.
fn url_encode(value: &Value) -> Result<String, Error> {
    if matches!(value.kind(), ValueKind::Map) || (value.as_str().is_none() && value.kind() == ValueKind::Seq)
    {
        let is_map = value.kind() == ValueKind::Map;
        let mut pairs = Vec::new();
        for item in value.try_iter()? {
            let (key, item) = match is_map {
                true => {
                    let of_key = value.get_item(&item)?;
                    (item, of_key)
                }
                false => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
            };
            pairs.push(format!("{}={}", quote(&python::str(&key), true), quote(&python::str(&item), true)));
        }
        return Ok(pairs.join("&"));
    }
    let text = quote(&python::str(value), false);
    budget::check_text(text.len())?;
    Ok(text)
}

fn quote(text: &str, in_query: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' if in_query => out.push('+'),
            b'/' if in_query => out.push_str("%2F"),
            b'/' | b'_' | b'.' | b'-' | b'~' => out.push(byte as char),
            byte if byte.is_ascii_alphanumeric() => out.push(byte as char),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// Runs of letters, digits and underscores.
fn words(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
}

/// Python's `textwrap.wrap` of each line, as the filter calls it.
fn word_wrap(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let arguments = arguments.into_values();
    let (positional, named): (&[Value], minijinja::value::Kwargs) = from_args(&arguments)?;
    let given = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = named.get(name)?;
        Ok(positional.get(index).cloned().or(named))
    };
    let width = given(0, "width")?.map_or(Ok(79), usize::try_from)?;
    let long = given(1, "break_long_words")?.is_none_or(|value| value.is_true());
    let separator = given(2, "wrapstring")?.filter(|value| !value.is_none());
    let separator = separator.map_or_else(|| "\n".to_owned(), |separator| python::str(&separator));
    let hyphens = given(3, "break_on_hyphens")?.is_none_or(|value| value.is_true());
    named.assert_all_used()?;
    if width == 0 {
        return Err(invalid("wordwrap: the width must be more than 0"));
    }
    let text = python::str(value);
    let mut out = Vec::new();
    for line in super::methods::lines(&text) {
        let line = super::methods::without_end(line);
        let wrapped = wrap(line, width, long, hyphens);
        out.push(wrapped.join(&separator));
    }
    let out = out.join(&separator);
    budget::check_text(out.len())?;
    Ok(out)
}

/// Without expanding tabs or replacing white space.
fn wrap(line: &str, width: usize, break_long_words: bool, hyphens: bool) -> Vec<String> {
    let mut chunks: Vec<Vec<char>> = chunks(line, hyphens);
    chunks.reverse();
    let blank = |chunk: &[char]| chunk.iter().all(|c| c.is_ascii_whitespace() || *c == '\u{b}');
    let mut lines: Vec<String> = Vec::new();
    while let Some(next) = chunks.last() {
        if blank(next) && !lines.is_empty() {
            chunks.pop();
        }
        let mut current: Vec<Vec<char>> = Vec::new();
        let mut length = 0;
        while let Some(chunk) = chunks.pop_if(|chunk| length + chunk.len() <= width) {
            length += chunk.len();
            current.push(chunk);
        }
        if let Some(chunk) = chunks.last_mut().filter(|chunk| chunk.len() > width) {
            if break_long_words {
                let space = width - length;
                let mut end = space;
                if hyphens
                    && chunk.len() > space
                    && let Some(hyphen) = chunk[..space].iter().rposition(|c| *c == '-')
                    && hyphen > 0
                    && chunk[..hyphen].iter().any(|c| *c != '-')
                {
                    end = hyphen + 1;
                }
                let rest = chunk.split_off(end);
                current.push(std::mem::replace(chunk, rest));
            } else if current.is_empty() {
                current.extend(chunks.pop());
            }
        }
        if current.last().is_some_and(|chunk| blank(chunk)) {
            current.pop();
        }
        if !current.is_empty() {
            lines.push(current.concat().into_iter().collect());
        }
    }
    lines
}

/// Words and the white space between them; words with hyphens in parts.
fn chunks(line: &str, hyphens: bool) -> Vec<Vec<char>> {
    let space = |c: char| c.is_ascii_whitespace() || c == '\u{b}';
    let characters: Vec<char> = line.chars().collect();
    let mut chunks = Vec::new();
    for run in characters.chunk_by(|a, b| space(*a) == space(*b)) {
        if !hyphens || run.first().is_some_and(|c| space(*c)) {
            chunks.push(run.to_vec());
            continue;
        }
        let letter = |c: Option<&char>| c.is_some_and(|c| c.is_alphabetic() || *c == '_');
        let word = |c: Option<&char>| c.is_some_and(|c| c.is_alphanumeric() || "_!\"'&.,?".contains(*c));
        let mut start = 0;
        let mut at = 0;
        while at < run.len() {
            let dashes = run[at..].iter().take_while(|c| **c == '-').count();
            if dashes >= 2
                && at > 0
                && word(run.get(at - 1))
                && run.get(at + dashes).is_some_and(|c| c.is_alphanumeric() || *c == '_')
            {
                // A dash between words is a part of its own.
                chunks.push(run[start..at].to_vec());
                chunks.push(run[at..at + dashes].to_vec());
                start = at + dashes;
            } else if dashes == 1
                && at >= start + 2
                && letter(run.get(at - 1))
                && letter(run.get(at - 2))
                && letter(run.get(at + 1))
                && (letter(run.get(at + 2)) || (run.get(at + 2) == Some(&'-') && letter(run.get(at + 3))))
            {
                chunks.push(run[start..=at].to_vec());
                start = at + 1;
            }
            at += dashes.max(1);
        }
        if start < run.len() {
            chunks.push(run[start..].to_vec());
        }
    }
    chunks
}

/// Any of the items; nobody can rely on which.
fn random(value: &Value) -> Result<Value, Error> {
    let items: Vec<Value> = python::iterate(value)?.collect();
    let since = web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH).unwrap_or_default();
    Ok(items.get(since.subsec_micros() as usize % items.len().max(1)).cloned().unwrap_or_default())
}

fn xml_attributes(value: &Value, autospace: Option<bool>) -> Result<String, Error> {
    if value.kind() != ValueKind::Map {
        return Err(invalid("xmlattr needs a mapping"));
    }
    let mut out = Vec::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let name = python::str(&key);
        if name.chars().any(|c| c.is_ascii_whitespace() || "/>=".contains(c)) {
            return Err(invalid("xmlattr: an attribute's name has a character that none may have"));
        }
        out.push(format!("{}=\"{}\"", filters::escape(&key), filters::escape(&item)));
    }
    let out = out.join(" ");
    let spaced = autospace.unwrap_or(true) && !out.is_empty();
    Ok(if spaced { format!(" {out}") } else { out })
}

/// jinja2's `cycler`.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    match items.is_empty() {
        true => Err(invalid("cycler needs at least one item")),
        false => Ok(Value::from_object(Cycler { items: items.to_vec(), at: AtomicUsize::new(0) })),
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.items[self.at.load(Ordering::Relaxed)].clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn call_method(self: &Arc<Self>, _: &mut State, name: &str, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        let at = self.at.load(Ordering::Relaxed);
        match name {
            "next" => {
                self.at.store((at + 1) % self.items.len(), Ordering::Relaxed);
                Ok(self.items[at].clone())
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}
