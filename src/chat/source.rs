//! A template's source, changed where minijinja reads it otherwise than jinja2.
//!
//! - Ends of lines all become `\n`.
//! - `{% generation %}`, a tag of transformers' own, marks what the assistant has said. For rendering
//!   it only opens a scope, as `{% with %}` does.
//! - `x[a:b:c]` becomes `x.__slice__(a, b, c)`: minijinja's slices differ in corner cases, and it
//!   panics on some.
//! - Strings are written without the escapes that minijinja reads otherwise, or not at all.
//! - `a * b` and `a % b` become `(a)|__times__(b)` and `(a)|__modulo__(b)`: Python's also take strings
//!   and lists, nothing times a string is empty, and remainders have the sign of the divisor.
//! - `{{ a, b }}` becomes `{{ (a, b) }}`, and `+a` becomes `a`.
//! - A macro's defaults may name its other arguments, and macros may take any number of arguments.
//! - `{% for x in y %}` becomes `{% for x in (y)|__iterable__ %}`: minijinja takes None for an empty list.
//! - What is stored, passed on or compared, and may have grown, goes through `__bounded__`: the
//!   machine counts instructions, but nothing in it counts memory. For the same reason tags with
//!   very many operators are refused, on which the parser would exhaust its stack.
//! - Conditions and long texts go through filters that look at the clock and count.
//! - `loop.cycle(a, b)` becomes `loop.__cycle__(a, b)`: minijinja panics where there are no arguments.
//! - `x.items` without a call becomes `x.__attribute__("items")`: on a dictionary that is the method in
//!   Python, even if there is such a key.

use super::macros;
use super::tag::Tag;

/// The name of the method that slices.
pub(super) const SLICE: &str = "__slice__";
/// The name of the method that looks up an attribute that dictionaries have as a method.
pub(super) const ATTRIBUTE: &str = "__attribute__";
/// The name of the method that stands for `cycle`.
pub(super) const CYCLE: &str = "__cycle__";
/// The name of the filter that refuses what Python cannot iterate over.
pub(super) const ITERABLE: &str = "__iterable__";
/// The name of the filter that refuses values beyond all bounds.
pub(super) const BOUNDED: &str = "__bounded__";
/// The name of the one for what namespaces hold.
pub(super) const HELD: &str = "__held__";
/// The name of the filter that lets conditions pass while there is time.
pub(super) const CONDITION: &str = "__condition__";
/// The name of the filter that counts text outside of tags.
pub(super) const WRITTEN: &str = "__written__";
/// The names of the filters that multiply, and that divide or format.
pub(super) const TIMES: &str = "__times__";
/// See [`TIMES`].
pub(super) const MODULO: &str = "__modulo__";
/// The name of the function that calls macros with any number of arguments.
pub(super) const VARIADIC: &str = "__variadic__";
/// The most `elif`s; each is parsed within the one before. Published templates have at most a dozen.
const MAX_BRANCHES: usize = 500;
/// The longest line. minijinja counts columns in 16 bits, and may panic beyond them.
const MAX_LINE: usize = u16::MAX as usize - 1;
/// Text outside of tags from which on it counts.
const LONG_TEXT: usize = 512;

/// The source for minijinja, or what is wrong with it.
pub(super) fn prepare(source: &str) -> Result<String, &'static str> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let variadic = macros::variadic(&source);
    let mut out = String::with_capacity(source.len() + source.len() / 4);
    let mut rest = source.as_str();
    let mut branches = 0;
    while let Some(brace) = rest.find('{') {
        let (text, tag) = rest.split_at(brace);
        push_text(&mut out, text);
        rest = tag;
        let close = match tag.as_bytes().get(1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            Some(b'#') => {
                let (comment, tail) = rest.split_at(rest.find("#}").map_or(rest.len(), |end| end + 2));
                out.push_str(comment);
                rest = tail;
                continue;
            }
            _ => {
                out.push('{');
                rest = &rest[1..];
                continue;
            }
        };
        // There is nothing to load; and minijinja panics on `{% import x as y|z %}`.
        if matches!(first_word(rest), Some((_, "import" | "from" | "include" | "extends"))) {
            return Err("it asks for other templates, and there are none");
        }
        // jinja2 would escape what is printed there, and transformers' templates never do.
        if matches!(first_word(rest), Some((at, "autoescape")) if !rest[at + 10..].trim_start().starts_with("false"))
        {
            return Err("it asks for HTML's escapes, which are not supported");
        }
        branches += usize::from(matches!(first_word(rest), Some((_, "elif"))));
        if branches > MAX_BRANCHES {
            return Err("it has too many branches");
        }
        // An unclosed tag is for the parser to complain about.
        let Some((tag, length)) = Tag::new(rest, &variadic).rewrite(close)? else { break };
        if matches!(first_word(rest), Some((_, "raw"))) {
            // Nothing in there is a tag. One without an end is for the parser as well.
            let Some(end) = raw_end(rest, length) else { break };
            out.push_str(&rest[..length]);
            // jinja2 keeps the line end that it drops after other tags.
            if !rest[..length].ends_with("-%}") && rest[length..].starts_with('\n') {
                out.push('\n');
            }
            out.push_str(&rest[length..end]);
            rest = &rest[end..];
            continue;
        }
        match macros::defaults(&rest[..length], &variadic) {
            Some(tags) => {
                for tag in tags {
                    let Some((tag, _)) = Tag::new(&tag, &variadic).rewrite(close)? else { break };
                    out.push_str(&tag);
                }
            }
            None => out.push_str(&generation(&tag).unwrap_or(tag)),
        }
        rest = &rest[length..];
    }
    push_text(&mut out, rest);
    match out.lines().any(|line| line.len() > MAX_LINE) {
        true => Err("a line is too long"),
        false => Ok(out),
    }
}

/// Text outside of tags. Long ones are counted when they are written: a loop may write them often.
fn push_text(out: &mut String, text: &str) {
    // Where no tag next to it could take white space away.
    let middle = (text.len() >= LONG_TEXT).then(|| text.char_indices().zip(text.chars().skip(1))).and_then(
        |mut pairs| pairs.find(|((_, a), b)| !a.is_whitespace() && !b.is_whitespace() && *a != '{'),
    );
    match middle {
        Some(((at, c), _)) => {
            let (before, after) = text.split_at(at + c.len_utf8());
            out.push_str(&format!("{before}{{{{ {}|{WRITTEN} }}}}{after}", text.len()));
        }
        None => out.push_str(text),
    }
}

/// The word that a `{% … %}` tag begins with, and where it lies.
pub(super) fn first_word(tag: &str) -> Option<(usize, &str)> {
    let body = tag.strip_prefix("{%")?.trim_start_matches(['-', '+']).trim_start();
    Some((tag.len() - body.len(), word(body)))
}

/// The letters, digits and underscores that `text` begins with.
pub(super) fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// Where the block ends that `text` begins with, which is `{% raw %}`.
fn raw_end(text: &str, tag_length: usize) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::prepare;

    #[test]
    fn rewrites_only_what_differs() {
        let cases = [
            ("a\r\nb\rc [1:2] }} %}", "a\nb\nc [1:2] }} %}"),
            ("{{ m[1:] }}", "{{ m.__slice__(1, none) }}"),
            ("{%- set x = m[::-1][0] -%}", "{%- set x = (m.__slice__(none, none, -1)[0])|__bounded__ -%}"),
            ("{{ m[a[1:]|length:n[-1]] }}", "{{ m.__slice__(a.__slice__(1, none)|length, n[-1]) }}"),
            ("{{ {'a': [1, 2], \"b:]\": x[0]} }}", "{{ {'a': [1, 2], \"b:]\": x[0]} }}"),
            ("{{ '}}' + 'it\\'s[1:]' }}", "{{ '}}' + 'it\\'s[1:]' }}"),
            ("{% if p.items is defined %}", "{% if (p.__attribute__(\"items\") is defined)|__condition__ %}"),
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
            ("{% if x in y %}{% for", "{% if (x in y)|__condition__ %}{% for"),
            ("{# {{ m[1:] }} #}{{x}}", "{# {{ m[1:] }} #}{{x}}"),
            (
                "{%- raw %}{{ m[1:] }}{%endraw -%}{{ m[:1] }}",
                "{%- raw %}{{ m[1:] }}{%endraw -%}{{ m.__slice__(none, 1) }}",
            ),
            ("{% set ns.items = ns.items %}", "{% set ns.items = (ns.__attribute__(\"items\"))|__held__ %}"),
            (r"{{ '\U0001F642 \\U0001F642' }}", r"{{ '🙂 \\U0001F642' }}"),
            ("{%- generation -%}x{%endgeneration%}", "{%-  with  -%}x{% endwith %}"),
            (
                "{{ f(a + b, *c, d=e ~ '+') }}",
                "{{ f( (a + b)|__bounded__ , *c, d= (e ~ '+')|__bounded__ ) }}",
            ),
            (
                "{%macro f(a, b, c=[1], d=2)%}{% call(v, w) m((a, b), c) %}",
                "{%macro f(a, b, c= ([1])|__bounded__ , d=2)%}{% call(v, w) m( ((a, b))|__bounded__ , c) %}",
            ),
            (
                "{% for ((a, b), c) in x %}{% with (a, (b, c)) = x %}{% set ((a, b), c) = x %}",
                "{% for ((a, b), c) in ( x )|__iterable__ %}{% with (a, (b, c)) = (x)|__bounded__ %}{% set ((a, b), c) = (x)|__bounded__ %}",
            ),
            (
                "{{ x * 1e-3 % 2.5E+4 - 0x1f-1_0 * y.0.items }}",
                "{{ ((x)|__times__( 1e-3))|__modulo__( 2.5E+4) - 0x1f-(1_0)|__times__( y.0.__attribute__(\"items\")) }}",
            ),
            ("{{ loop . cycle (1, 2) }}{{ x.cycle }}", "{{ loop .__cycle__ (1, 2) }}{{ x.cycle }}"),
            ("{{ a ~ a in b ~ b }}", "{{ (a ~ a)|__bounded__ in (b ~ b)|__bounded__ }}"),
            ("{{ a + b[i + 1:j + 1] }}", "{{ a + b.__slice__((i + 1)|__bounded__, j + 1) }}"),
            (
                "{% with a=b~b, c=d %}{% if a == b ~ b %}",
                "{% with a= (b~b)|__bounded__ , c= (d)|__bounded__ %}{% if (a == b ~ b)|__condition__ %}",
            ),
            // Broken ones go to the parser as they are.
            ("{{ 'a", "{{ 'a"),
            ("{% x[1:", "{% x[1:"),
            ("{{ x)] }} {", "{{ x)] }} {"),
            ("{% raw %} {{ x[1:] }}", "{% raw %} {{ x[1:] }}"),
            ("{#", "{#"),
        ];
        let differs = |(source, expected): &(&str, &str)| prepare(source).as_deref() != Ok(*expected);
        let wrong: Vec<_> = cases.into_iter().filter(differs).map(|(source, _)| prepare(source)).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(prepare(r"{{ '\U000000' }}").is_err());
    }
}
