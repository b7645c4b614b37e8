//! A template's source, changed where minijinja reads it otherwise than jinja2.
//!
//! - Ends of lines all become `\n`.
//! - `{% generation %}`, a tag of transformers' own, marks what the assistant has said. For rendering
//!   it only opens a scope, as `{% with %}` does.
//! - `x[a:b:c]` becomes `x.__slice__(a, b, c)`: minijinja's slices differ in corner cases, and it
//!   panics on some.
//! - `\UXXXXXXXX` in strings becomes the character.
//! - `{% for x in y %}` becomes `{% for x in (y)|__iterable__ %}`: minijinja takes None for an empty list.
//! - `x.items` without a call becomes `x.__attribute__("items")`: on a dictionary that is the method in
//!   Python, even if there is such a key.

/// The name of the method that slices.
pub const SLICE: &str = "__slice__";
/// The name of the method that looks up an attribute that dictionaries have as a method.
pub const ATTRIBUTE: &str = "__attribute__";
/// The name of the filter that refuses what Python cannot iterate over.
pub const ITERABLE: &str = "__iterable__";
/// Methods of dictionaries.
const METHODS: [&str; 9] = ["clear", "copy", "get", "items", "keys", "pop", "setdefault", "update", "values"];

/// The source for minijinja.
pub fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut rest = source.as_str();
    while let Some(start) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let length = match &rest[..2] {
            "{#" => rest.find("#}").map_or(rest.len(), |end| end + 2),
            open => {
                let (tag, length) = tag(rest, if open == "{{" { "}}" } else { "%}" });
                if let Some(end) = raw_end(rest, length) {
                    // Kept as it is: nothing in it is a tag.
                    out.push_str(&rest[..end]);
                    rest = &rest[end..];
                    continue;
                }
                out.push_str(&generation(&tag).unwrap_or(tag));
                rest = &rest[length..];
                continue;
            }
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out.push_str(rest);
    out
}

/// The word that a `{% … %}` tag begins with, and where it lies.
fn first_word(tag: &str) -> Option<(usize, &str)> {
    let body = tag.strip_prefix("{%")?.trim_start_matches(['-', '+']).trim_start();
    Some((tag.len() - body.len(), word(body)))
}

/// The letters, digits and underscores that `text` begins with.
fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// Where the block ends that `text` begins with, if that is `{% raw %}`.
fn raw_end(text: &str, tag_length: usize) -> Option<usize> {
    first_word(&text[..tag_length]).filter(|(_, word)| *word == "raw")?;
    let mut at = tag_length;
    while let Some(open) = text[at..].find("{%") {
        at += open;
        if matches!(first_word(&text[at..]), Some((_, "endraw"))) {
            return Some(at + text[at..].find("%}")? + 2);
        }
        at += 2;
    }
    None
}

/// The tag that stands in for one of transformers' generation tags.
fn generation(tag: &str) -> Option<String> {
    let (at, word) = first_word(tag)?;
    let stand_in = match word {
        "generation" => "with",
        "endgeneration" => "endwith",
        _ => return None,
    };
    Some(format!("{} {stand_in} {}", &tag[..at], &tag[at + word.len()..]))
}

/// An open bracket: where it is in the output, and the colons directly in it.
struct Bracket {
    kind: char,
    start: usize,
    colons: Vec<usize>,
}

/// How far a `for` tag has been read.
#[derive(PartialEq)]
enum Loop {
    /// To before `in`, in a `for` tag.
    Targets,
    /// Into what is iterated over.
    Iterated,
    /// Past that, or in another tag.
    Other,
}

/// Rewrites the tag that `text` begins with; gives it, and the length of the original.
fn tag(text: &str, close: &str) -> (String, usize) {
    let mut out = text[..2].to_owned();
    let mut brackets: Vec<Bracket> = Vec::new();
    let mut at = 2;
    let mut part = if matches!(first_word(text), Some((_, "for"))) { Loop::Targets } else { Loop::Other };
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        // Closing braces of a dictionary come before those of the tag.
        if rest.starts_with(close) && brackets.is_empty() {
            if part == Loop::Iterated {
                let sign = out.len() - usize::from(out.ends_with(['-', '+']));
                out.insert_str(sign, &format!(")|{ITERABLE} "));
            }
            out.push_str(close);
            return (out, at + close.len());
        }
        let length = match c {
            '"' | '\'' => {
                let length = string_length(rest, c);
                out.push_str(&wide_escapes(&rest[..length]));
                at += length;
                continue;
            }
            '.' => {
                let name = word(&rest[1..]);
                let called = rest[1 + name.len()..].trim_start().starts_with('(');
                // `set` may give a namespace any attribute.
                let assigned = brackets.is_empty() && assigns_to(&out);
                if METHODS.contains(&name) && !called && !assigned {
                    out.push_str(&format!(".{ATTRIBUTE}(\"{name}\")"));
                    at += 1 + name.len();
                    continue;
                }
                1
            }
            '(' | '[' | '{' => {
                brackets.push(Bracket { kind: c, start: out.len(), colons: Vec::new() });
                1
            }
            ':' => {
                if let Some(bracket) = brackets.last_mut() {
                    bracket.colons.push(out.len());
                }
                1
            }
            ')' | ']' | '}' => match brackets.pop() {
                Some(bracket) if bracket.kind == '[' && c == ']' && !bracket.colons.is_empty() => {
                    let slice = slice(&out, &bracket);
                    out.truncate(bracket.start);
                    out.push_str(&slice);
                    at += 1;
                    continue;
                }
                _ => 1,
            },
            c if c.is_alphabetic() || c == '_' => {
                let word = word(rest);
                match word {
                    "in" if part == Loop::Targets && brackets.is_empty() => {
                        out.push_str("in (");
                        part = Loop::Iterated;
                        at += word.len();
                        continue;
                    }
                    "if" | "recursive" if part == Loop::Iterated && brackets.is_empty() => {
                        out.push_str(&format!(")|{ITERABLE} "));
                        part = Loop::Other;
                    }
                    _ => {}
                }
                word.len()
            }
            c => c.len_utf8(),
        };
        out.push_str(&rest[..length]);
        at += length;
    }
    (out, at)
}

/// Whether the tag begun with `tag` is a `set` that has not come to its equals sign.
fn assigns_to(tag: &str) -> bool {
    matches!(first_word(tag), Some((_, "set"))) && !tag.contains('=')
}

/// A string literal with Python's `\UXXXXXXXX` resolved, which minijinja does not know.
fn wide_escapes(literal: &str) -> String {
    let mut out = String::with_capacity(literal.len());
    let mut rest = literal;
    while let Some(at) = rest.find('\\') {
        let (text, escape) = rest.split_at(at);
        out.push_str(text);
        let digits = escape.strip_prefix("\\U").and_then(|digits| digits.get(..8));
        let character =
            digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
        match character.filter(|c| !c.is_ascii()) {
            Some(character) => {
                out.push(character);
                rest = &escape[10..];
            }
            None => {
                let length = 1 + escape[1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&escape[..length]);
                rest = &escape[length..];
            }
        }
    }
    out + rest
}

/// The length of the string literal that `text` begins with.
fn string_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The method call for `[a:b:c]`, whose closing bracket is yet to come.
fn slice(out: &str, bracket: &Bracket) -> String {
    let mut parts = Vec::new();
    let mut start = bracket.start + 1;
    for &colon in &bracket.colons {
        parts.push(&out[start..colon]);
        start = colon + 1;
    }
    parts.push(&out[start..]);
    let parts: Vec<&str> =
        parts.into_iter().map(|part| if part.trim().is_empty() { "none" } else { part.trim() }).collect();
    format!(".{SLICE}({})", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::prepare;

    #[test]
    fn rewrites_only_what_differs() {
        let cases = [
            ("a\r\nb\rc [1:2] }} %}", "a\nb\nc [1:2] }} %}"),
            ("{{ m[1:] }}", "{{ m.__slice__(1, none) }}"),
            ("{%- set x = m[::-1][0] -%}", "{%- set x = m.__slice__(none, none, -1)[0] -%}"),
            ("{{ m[a[1:]|length:n[-1]] }}", "{{ m.__slice__(a.__slice__(1, none)|length, n[-1]) }}"),
            ("{{ {'a': [1, 2], \"b:]\": x[0]} }}", "{{ {'a': [1, 2], \"b:]\": x[0]} }}"),
            ("{{ '}}' + 'it\\'s[1:]' }}", "{{ '}}' + 'it\\'s[1:]' }}"),
            ("{% if p.items is defined %}", "{% if p.__attribute__(\"items\") is defined %}"),
            (
                "{{ p.items() }}{{ p.get ('x') }}{{ p|items }}",
                "{{ p.items() }}{{ p.get ('x') }}{{ p|items }}",
            ),
            ("{%- for k, v in p.items() -%}", "{%- for k, v in ( p.items() )|__iterable__ -%}"),
            (
                "{%for x in[a][1:] if x in b%}",
                "{%for x in ([a].__slice__(1, none) )|__iterable__ if x in b%}",
            ),
            ("{% for index in in_x recursive %}", "{% for index in ( in_x )|__iterable__ recursive %}"),
            ("{% if x in y %}{% for", "{% if x in y %}{% for"),
            ("{# {{ m[1:] }} #}{{x}}", "{# {{ m[1:] }} #}{{x}}"),
            (
                "{%- raw %}{{ m[1:] }}{%endraw -%}{{ m[:1] }}",
                "{%- raw %}{{ m[1:] }}{%endraw -%}{{ m.__slice__(none, 1) }}",
            ),
            ("{% set ns.items = ns.items %}", "{% set ns.items = ns.__attribute__(\"items\") %}"),
            (r"{{ '\U0001F642 \\U0001F642 \U000000' }}", r"{{ '🙂 \\U0001F642 \U000000' }}"),
            ("{%- generation -%}x{%endgeneration%}", "{%-  with  -%}x{% endwith %}"),
            // Broken ones go to the parser as they are.
            ("{{ 'a", "{{ 'a"),
            ("{% x[1:", "{% x[1:"),
            ("{{ x)] }} {", "{{ x)] }} {"),
            ("{% raw %} {{ x[1:] }}", "{% raw %} {{ x.__slice__(1, none) }}"),
            ("{#", "{#"),
        ];
        for (source, expected) in cases {
            assert_eq!(prepare(source), expected);
        }
    }
}
