//! A template's source, changed where minijinja reads it otherwise than jinja2.
//!
//! - Ends of lines all become `\n`.
//! - `{% generation %}`, a tag of transformers' own, marks what the assistant has said. For rendering
//!   it only opens a scope, as `{% with %}` does.
//! - `x[a:b:c]` becomes `x.__slice__(a, b, c)`: minijinja's slices differ in corner cases, and it
//!   panics on some.
//! - `\UXXXXXXXX` in strings becomes the character.
//! - `{% for x in y %}` becomes `{% for x in (y)|__iterable__ %}`: minijinja takes None for an empty list.
//! - What is stored or passed on, and may have grown by an operator, goes through `__bounded__`: the
//!   machine counts instructions, but nothing in it counts memory. For the same reason tags with
//!   very many operators are refused, on which the parser would exhaust its stack.
//! - `x.items` without a call becomes `x.__attribute__("items")`: on a dictionary that is the method in
//!   Python, even if there is such a key.

/// The name of the method that slices.
pub const SLICE: &str = "__slice__";
/// The name of the method that looks up an attribute that dictionaries have as a method.
pub const ATTRIBUTE: &str = "__attribute__";
/// The name of the filter that refuses what Python cannot iterate over.
pub const ITERABLE: &str = "__iterable__";
/// The name of the filter that refuses values beyond all bounds.
pub const BOUNDED: &str = "__bounded__";
/// The most operators, calls and indices in a tag. Published templates have at most some thirty.
const MAX_OPERATORS: usize = 256;
/// The most `elif`s; each is parsed within the one before. Published templates have at most a dozen.
const MAX_BRANCHES: usize = 500;
/// The longest line. minijinja counts columns in 16 bits, and may panic beyond them.
const MAX_LINE: usize = u16::MAX as usize - 1;
/// The most brackets open at a time.
const MAX_DEPTH: usize = 100;
/// Methods of dictionaries.
const METHODS: [&str; 9] = ["clear", "copy", "get", "items", "keys", "pop", "setdefault", "update", "values"];

/// The source for minijinja, or what is wrong with it.
pub fn prepare(source: &str) -> Result<String, &'static str> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len() + source.len() / 4);
    let mut rest = source.as_str();
    let mut branches = 0;
    while let Some(brace) = rest.find('{') {
        let (text, tag) = rest.split_at(brace);
        out.push_str(text);
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
        branches += usize::from(matches!(first_word(rest), Some((_, "elif"))));
        if branches > MAX_BRANCHES {
            return Err("it has too many branches");
        }
        // An unclosed tag is for the parser to complain about.
        let Some((tag, length)) = Tag::new(rest).rewrite(close)? else { break };
        if matches!(first_word(rest), Some((_, "raw"))) {
            // Nothing in there is a tag. One without an end is for the parser as well.
            let Some(end) = raw_end(rest, length) else { break };
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        } else {
            out.push_str(&generation(&tag).unwrap_or(tag));
            rest = &rest[length..];
        }
    }
    out.push_str(rest);
    match out.lines().any(|line| line.len() > MAX_LINE) {
        true => Err("a line is too long"),
        false => Ok(out),
    }
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

/// An open bracket, or the whole tag.
struct Bracket {
    kind: char,
    start: usize,
    /// The colons directly in it.
    colons: Vec<usize>,
    /// Where the expression begins that is being read, and whether something may grow in it.
    expression: usize,
    grows: bool,
}

/// Rewrites one tag.
struct Tag<'a> {
    text: &'a str,
    at: usize,
    out: String,
    /// The first stands for the tag itself.
    brackets: Vec<Bracket>,
    part: Part,
    operators: usize,
}

/// How far a tag has been read.
#[derive(PartialEq)]
enum Part {
    /// To before `in`, in a `for` tag.
    Targets,
    /// Into what is iterated over.
    Iterated,
    /// To before the equals sign, in `set` or `with`.
    Assigned,
    /// Behind it.
    Value,
    /// Past all that, or in another tag.
    Other,
}

impl<'a> Tag<'a> {
    fn new(text: &'a str) -> Self {
        let part = match first_word(text) {
            Some((_, "for")) => Part::Targets,
            Some((_, "set" | "with")) => Part::Assigned,
            _ => Part::Other,
        };
        let mut tag =
            Tag { text, at: 2, out: text[..2].to_owned(), brackets: Vec::new(), part, operators: 0 };
        tag.open(' ');
        tag
    }

    fn open(&mut self, kind: char) {
        let start = self.out.len();
        self.brackets.push(Bracket { kind, start, colons: Vec::new(), expression: start, grows: false });
    }

    fn copy(&mut self, length: usize) {
        self.out.push_str(&self.text[self.at..self.at + length]);
        self.at += length;
    }

    fn outermost(&self) -> bool {
        self.brackets.len() == 1
    }

    /// Ends an expression: what has grown in it is to be bounded before it goes anywhere. The next
    /// begins at the end of the output, after what is yet to be copied.
    fn end_expression(&mut self, skip: usize) {
        let stored = self.outermost() && self.part == Part::Value;
        if let Some(bracket) = self.brackets.last_mut() {
            let sliced = bracket.kind == '[' && !bracket.colons.is_empty();
            let kept = bracket.kind != ' ' || stored;
            if (bracket.grows || stored) && kept && !sliced {
                let sign =
                    self.out.len() - usize::from(bracket.kind == ' ' && self.out.ends_with(['-', '+']));
                let sign = self.out.split_off(sign.max(bracket.expression));
                let expression = self.out.split_off(bracket.expression);
                if expression.trim().is_empty() {
                    self.out.push_str(&expression);
                } else {
                    self.out.push_str(&format!(" ({})|{BOUNDED} ", expression.trim()));
                }
                self.out.push_str(&sign);
            }
            bracket.expression = self.out.len() + skip;
            bracket.grows = false;
        }
    }

    /// Closes what `for` iterates over.
    fn end_iterated(&mut self) {
        if self.part == Part::Iterated {
            let sign = self.out.len() - usize::from(self.out.ends_with(['-', '+']));
            self.out.insert_str(sign, &format!(")|{ITERABLE} "));
            self.part = Part::Other;
        }
    }

    /// Reads up to and with `close`; gives the new tag, and the length of the original.
    fn rewrite(mut self, close: &str) -> Result<Option<(String, usize)>, &'static str> {
        while let Some(c) = self.text[self.at..].chars().next() {
            let rest = &self.text[self.at..];
            // Closing braces of a dictionary come before those of the tag.
            if rest.starts_with(close) && self.outermost() {
                self.end_iterated();
                self.end_expression(0);
                self.out.push_str(close);
                return Ok(Some((self.out, self.at + close.len())));
            }
            self.operators += usize::from("|.~+-*/%([".contains(c));
            if self.operators > MAX_OPERATORS || self.brackets.len() > MAX_DEPTH {
                return Err("an expression is too complex");
            }
            match c {
                '"' | '\'' => {
                    let length = string_length(rest, c);
                    self.out.push_str(&wide_escapes(&rest[..length]));
                    self.at += length;
                }
                '.' => {
                    let name = word(&rest[1..]);
                    let called = rest[1 + name.len()..].trim_start().starts_with('(');
                    // `set` may give a namespace any attribute.
                    let assigned = self.outermost() && self.part == Part::Assigned;
                    if METHODS.contains(&name) && !called && !assigned {
                        self.out.push_str(&format!(".{ATTRIBUTE}(\"{name}\")"));
                        self.at += 1 + name.len();
                    } else {
                        self.copy(1);
                    }
                }
                '(' | '[' | '{' => {
                    self.open(c);
                    if let Some(bracket) = self.brackets.last_mut() {
                        bracket.expression += 1;
                    }
                    self.copy(1);
                }
                ')' | ']' | '}' => self.close(c),
                '~' | '+' | '*' => {
                    let length = self.out.len();
                    if let Some(bracket) = self.brackets.last_mut() {
                        // Not the star of `f(*arguments)`.
                        bracket.grows |= !self.out[bracket.expression.min(length)..].trim().is_empty();
                    }
                    self.copy(1);
                }
                ',' => {
                    self.end_expression(1);
                    self.copy(1);
                }
                ':' => {
                    self.end_expression(1);
                    let length = self.out.len();
                    if let Some(bracket) = self.brackets.last_mut() {
                        bracket.colons.push(length);
                    }
                    self.copy(1);
                }
                '=' if !rest[1..].starts_with('=') && !self.out.ends_with(['=', '!', '<', '>']) => {
                    if self.outermost() && self.part == Part::Assigned {
                        self.part = Part::Value;
                    }
                    let start = self.out.len() + 1;
                    if let Some(bracket) = self.brackets.last_mut() {
                        (bracket.expression, bracket.grows) = (start, false);
                    }
                    self.copy(1);
                }
                c if c.is_alphabetic() || c == '_' => self.word(word(rest)),
                c => self.copy(c.len_utf8()),
            }
        }
        Ok(None)
    }

    fn close(&mut self, c: char) {
        if self.outermost() {
            return self.copy(1);
        }
        self.end_expression(0);
        match self.brackets.pop() {
            Some(bracket) if bracket.kind == '[' && c == ']' && !bracket.colons.is_empty() => {
                let slice = slice(&self.out, &bracket);
                self.out.truncate(bracket.start);
                self.out.push_str(&slice);
                self.at += 1;
            }
            _ => self.copy(1),
        }
    }

    fn word(&mut self, word: &str) {
        match word {
            "in" if self.part == Part::Targets && self.outermost() => {
                self.out.push_str("in (");
                self.part = Part::Iterated;
                self.at += word.len();
                return;
            }
            "if" | "recursive" if self.outermost() => self.end_iterated(),
            _ => {}
        }
        self.operators += usize::from(matches!(word, "not" | "is" | "in" | "and" | "or" | "if"));
        self.copy(word.len());
    }
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
            ("{%- set x = m[::-1][0] -%}", "{%- set x = (m.__slice__(none, none, -1)[0])|__bounded__ -%}"),
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
            (
                "{% set ns.items = ns.items %}",
                "{% set ns.items = (ns.__attribute__(\"items\"))|__bounded__ %}",
            ),
            (r"{{ '\U0001F642 \\U0001F642 \U000000' }}", r"{{ '🙂 \\U0001F642 \U000000' }}"),
            ("{%- generation -%}x{%endgeneration%}", "{%-  with  -%}x{% endwith %}"),
            (
                "{{ f(a + b, *c, d=e ~ '+') }}",
                "{{ f( (a + b)|__bounded__ , *c, d= (e ~ '+')|__bounded__ ) }}",
            ),
            ("{{ a + b[i + 1:j + 1] }}", "{{ a + b.__slice__((i + 1)|__bounded__, j + 1) }}"),
            (
                "{% with a=b~b, c=d %}{% if a == b ~ b %}",
                "{% with a= (b~b)|__bounded__ , c= (d)|__bounded__ %}{% if a == b ~ b %}",
            ),
            // Broken ones go to the parser as they are.
            ("{{ 'a", "{{ 'a"),
            ("{% x[1:", "{% x[1:"),
            ("{{ x)] }} {", "{{ x)] }} {"),
            ("{% raw %} {{ x[1:] }}", "{% raw %} {{ x[1:] }}"),
            ("{#", "{#"),
        ];
        for (source, expected) in cases {
            assert_eq!(prepare(source).as_deref(), Ok(expected));
        }
    }
}
