//! What Jinja's macros can do and minijinja's cannot: defaults that name other arguments, and any
//! number of arguments.

use super::literal;
use super::source::{first_word, word};
use std::collections::{BTreeMap, HashSet};

/// The macros that use `varargs` or `kwargs`, with the names of their other parameters.
pub(super) type Variadic = BTreeMap<String, Vec<String>>;

/// A macro's name, and its parameters with their defaults.
struct Signature<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<&'a str>)>,
    /// Where the parameters end in the tag, before the bracket.
    end: usize,
}

impl<'a> Signature<'a> {
    /// Of a tag that begins a macro.
    fn read(tag: &'a str) -> Option<Self> {
        let (at, _) = first_word(tag).filter(|(_, word)| *word == "macro")?;
        let name = word(tag[at + 5..].trim_start());
        let open = at + tag[at..].find('(')?;
        let mut parameters = Vec::new();
        let mut push = |text: &'a str| {
            let (name, default) = match text.split_once('=') {
                Some((name, default)) => (name, Some(default.trim())),
                None => (text, None),
            };
            if !name.trim().is_empty() {
                parameters.push((name.trim(), default));
            }
        };
        let (mut start, mut at, mut depth) = (open + 1, open + 1, 0);
        while let Some(c) = tag[at..].chars().next() {
            match c {
                '"' | '\'' => {
                    at += literal::length(&tag[at..], c);
                    continue;
                }
                '(' | '[' | '{' => depth += 1,
                ')' if depth == 0 => {
                    push(&tag[start..at]);
                    return Some(Signature { name, parameters, end: at });
                }
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    push(&tag[start..at]);
                    start = at + 1;
                }
                _ => {}
            }
            at += c.len_utf8();
        }
        None
    }
}

/// The tags of a source with what follows each, roughly: what is in strings and comments may be among
/// them.
fn tags(source: &str) -> impl Iterator<Item = &str> {
    let mut starts = source.match_indices("{%").map(|(at, _)| at).peekable();
    std::iter::from_fn(move || {
        let start = starts.next()?;
        Some(&source[start..starts.peek().copied().unwrap_or(source.len())])
    })
}

/// Finds the macros of a source that take any number of arguments.
pub(super) fn variadic(source: &str) -> Variadic {
    let mut found = Variadic::new();
    // Those whose end is yet to come.
    let mut open = Vec::new();
    for tag in tags(source) {
        match first_word(tag) {
            Some((_, "macro")) => open.extend(Signature::read(tag)),
            Some((_, "endmacro")) => open.clear(),
            _ => {}
        }
        if tag.contains("varargs") || tag.contains("kwargs") {
            found.extend(open.drain(..).map(|signature| {
                let names = signature.parameters.iter().map(|(name, _)| name.to_string()).collect();
                (signature.name.to_owned(), names)
            }));
        }
    }
    found
}

/// The tags that stand in for one that begins a macro, where minijinja would read it otherwise.
pub(super) fn defaults(tag: &str, variadic: &Variadic) -> Option<Vec<String>> {
    let signature = Signature::read(tag)?;
    let is_variadic = variadic.contains_key(signature.name);
    let all: HashSet<&str> = signature.parameters.iter().map(|(name, _)| *name).collect();
    let names = |default: &str| mentions(default, &all);
    let late: Vec<_> = signature
        .parameters
        .iter()
        .filter_map(|(name, default)| {
            default.filter(|default| names(default)).map(|default| (*name, default))
        })
        .collect();
    if late.is_empty() && !is_variadic {
        return None;
    }
    let mut parameters: Vec<String> = Vec::new();
    for (name, default) in &signature.parameters {
        parameters.push(match default {
            Some(default) if names(default) => format!("{name}=__undefined__"),
            Some(default) => format!("{name}={default}"),
            None => name.to_string(),
        });
    }
    if is_variadic {
        parameters.extend(["varargs=()".to_owned(), "kwargs={}".to_owned()]);
    }
    let open = tag[..signature.end].find('(')?;
    let close = tag[signature.end..].trim_start_matches(')').trim();
    let mut tags = vec![format!("{}({})", &tag[..open], parameters.join(", "))];
    for (name, default) in late {
        tags.push(format!("{{% set {name} = ({default}) if {name} is undefined else {name}"));
    }
    let last = tags.len() - 1;
    for (n, tag) in tags.iter_mut().enumerate() {
        tag.push_str(if n == last { close } else { "%}" });
    }
    Some(tags)
}

/// Whether an expression mentions one of these variables.
fn mentions(expression: &str, names: &HashSet<&str>) -> bool {
    let (mut before, mut rest) = (' ', expression);
    while let Some(c) = rest.chars().next() {
        let name = word(rest);
        if before != '.' && names.contains(name) {
            return true;
        }
        before = c;
        rest = &rest[name.len().max(c.len_utf8())..];
    }
    false
}
