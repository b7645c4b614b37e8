//! jinja2's filters of texts that minijinja lacks, and its `cycler`.

use super::python::{self, Arguments};
use super::{budget, filters};
use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Registers everything.
pub(super) fn register(env: &mut Environment) {
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

/// The longest reference, with its ampersand and semicolon.
const LONGEST_REFERENCE: usize = 10;

/// The few references that markupsafe's `escape` writes, and numeric ones.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(LONGEST_REFERENCE).position(|byte| byte == b';');
        let reference = end.map(|end| &rest[1..end]);
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
        let mut out = String::new();
        for (n, item) in value.try_iter()?.enumerate() {
            let (key, item) = match is_map {
                true => {
                    let of_key = value.get_item(&item)?;
                    (item, of_key)
                }
                false => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
            };
            out.push_str(if n > 0 { "&" } else { "" });
            quote(&mut out, &python::str(&key), true)?;
            out.push('=');
            quote(&mut out, &python::str(&item), true)?;
        }
        return Ok(out);
    }
    let mut out = String::new();
    quote(&mut out, &python::str(value), false)?;
    Ok(out)
}

fn quote(out: &mut String, text: &str, in_query: bool) -> Result<(), Error> {
    budget::check_text(out.len().saturating_add(text.len()))?;
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
    budget::check_text(out.len())
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
    let mut out = String::new();
    for (n, line) in super::methods::lines(&text).into_iter().enumerate() {
        let line: Vec<char> = super::methods::without_end(line).chars().collect();
        let wrapped = wrap(&line, width, long, hyphens);
        for (m, part) in wrapped.into_iter().enumerate() {
            out.push_str(if n + m > 0 { &separator } else { "" });
            out.extend(&line[part]);
            budget::check_text(out.len())?;
        }
    }
    Ok(out)
}

/// Where the parts of a line begin and end, without expanding tabs or replacing white space. A line
/// that has nothing to show is one empty part.
fn wrap(line: &[char], width: usize, break_long_words: bool, hyphens: bool) -> Vec<Range<usize>> {
    let mut chunks = chunks(line, hyphens);
    chunks.reverse();
    // A chunk is of one kind.
    let blank = |chunk: &Range<usize>| line[chunk.clone()].first().is_none_or(|c| is_blank(*c));
    let mut parts: Vec<Range<usize>> = Vec::new();
    while let Some(next) = chunks.last() {
        if blank(next) && !parts.is_empty() {
            chunks.pop();
        }
        // Where the last chunk of this part begins, and where all of them do.
        let (mut last, mut part) = (0, None);
        let mut push = |chunk: Range<usize>| {
            last = chunk.start;
            part = Some(part.as_ref().map_or(chunk.start, |part: &Range<usize>| part.start)..chunk.end);
        };
        let mut length = 0;
        while let Some(chunk) = chunks.pop_if(|chunk| length + chunk.len() <= width) {
            length += chunk.len();
            push(chunk);
        }
        if let Some(chunk) = chunks.last_mut().filter(|chunk| chunk.len() > width) {
            if break_long_words {
                let mut end = chunk.start + width - length;
                let room = &line[chunk.start..end];
                if hyphens
                    && let Some(hyphen) = room.iter().rposition(|c| *c == '-')
                    && room[..hyphen].iter().any(|c| *c != '-')
                {
                    end = chunk.start + hyphen + 1;
                }
                push(chunk.start..end);
                chunk.start = end;
            } else if length == 0 {
                chunks.pop().into_iter().for_each(push);
            }
        }
        let Some(part) = part else { continue };
        let end = if blank(&(last..part.end)) { last } else { part.end };
        if end > part.start {
            parts.push(part.start..end);
        }
    }
    if parts.is_empty() {
        parts.push(0..0);
    }
    parts
}

fn is_blank(c: char) -> bool {
    c.is_ascii_whitespace() || c == '\u{b}'
}

/// Words and the white space between them; words with hyphens in parts.
fn chunks(line: &[char], hyphens: bool) -> Vec<Range<usize>> {
    let mut chunks = Vec::new();
    let mut before = 0;
    for run in line.chunk_by(|a, b| is_blank(*a) == is_blank(*b)) {
        let offset = before;
        before += run.len();
        if !hyphens || run.first().is_some_and(|c| is_blank(*c)) {
            chunks.push(offset..before);
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
                chunks.push(offset + start..offset + at);
                chunks.push(offset + at..offset + at + dashes);
                start = at + dashes;
            } else if dashes == 1
                && at >= start + 2
                && letter(run.get(at - 1))
                && letter(run.get(at - 2))
                && letter(run.get(at + 1))
                && (letter(run.get(at + 2)) || (run.get(at + 2) == Some(&'-') && letter(run.get(at + 3))))
            {
                chunks.push(offset + start..offset + at + 1);
                start = at + 1;
            }
            at += dashes.max(1);
        }
        if start < run.len() {
            chunks.push(offset + start..before);
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
    let mut out = String::new();
    for key in value.try_iter()? {
        let item = value.get_item(&key)?;
        if item.is_none() || item.is_undefined() {
            continue;
        }
        let name = python::str(&key);
        if name.chars().any(|c| c.is_ascii_whitespace() || "/>=".contains(c)) {
            return Err(invalid("xmlattr: an attribute's name has a character that none may have"));
        }
        out.push_str(if out.is_empty() && !autospace.unwrap_or(true) { "" } else { " " });
        out.push_str(&format!("{}=\"{}\"", filters::escape(&key)?, filters::escape(&item)?));
        budget::check_text(out.len())?;
    }
    Ok(out)
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
