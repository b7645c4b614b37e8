//! Rewrites one tag of a template; see [`super::source`] for what changes.

use super::literal;
use super::macros::Variadic;
use super::source::{
    ATTRIBUTE, BOUNDED, CONDITION, CYCLE, HELD, ITERABLE, MODULO, SLICE, TIMES, VARIADIC, first_word, word,
};

/// The most operators, calls and indices in a tag. Published templates have at most some thirty.
const MAX_OPERATORS: usize = 256;
/// The most elements of lists and arguments of calls in a tag.
const MAX_COMMAS: usize = 2000;
/// The most brackets open at a time.
const MAX_DEPTH: usize = 100;
/// Methods of dictionaries.
const METHODS: [&str; 9] = ["clear", "copy", "get", "items", "keys", "pop", "setdefault", "update", "values"];

/// An open bracket, or the whole tag.
struct Bracket {
    kind: char,
    /// Whether its content is arguments of a call, or an index.
    follows: bool,
    start: usize,
    /// The colons directly in it.
    colons: Vec<usize>,
    /// Whether there are commas directly in it.
    commas: bool,
    /// Where the expression begins that is being read, and whether something may grow in it.
    expression: usize,
    grows: bool,
    /// The same for what a comparison, `and`, `or` or `if` has on one side.
    operand: usize,
    operand_grows: bool,
    /// Whether `in` searches that operand: unlike what comparisons go through, it has no bound in the other.
    searched: bool,
    /// Where the product begins that is being read, and its last factor.
    product: usize,
    factor: usize,
    /// Whether a filter's bracket is open that stands for an operator.
    open: bool,
}

/// Rewrites one tag.
pub(super) struct Tag<'a> {
    text: &'a str,
    at: usize,
    out: String,
    /// The first stands for the tag itself.
    brackets: Vec<Bracket>,
    part: Part,
    /// The tag's own word, and the one before.
    kind: &'a str,
    last_word: &'a str,
    /// Whether `set` sets an attribute.
    dotted: bool,
    operators: usize,
    commas: usize,
    variadic: &'a Variadic,
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
    pub(super) fn new(text: &'a str, variadic: &'a Variadic) -> Self {
        let kind = first_word(text).map_or("", |(_, word)| word);
        let part = match kind {
            "for" => Part::Targets,
            "set" | "with" => Part::Assigned,
            _ => Part::Other,
        };
        // The sign that takes white space away is no operator.
        let at = 2 + usize::from(text[2..].starts_with(['-', '+']));
        let mut tag = Tag {
            text,
            at,
            out: text[..at].to_owned(),
            brackets: Vec::new(),
            part,
            kind,
            last_word: "",
            dotted: false,
            operators: 0,
            commas: 0,
            variadic,
        };
        tag.open(' ', false);
        tag
    }

    fn open(&mut self, kind: char, follows: bool) {
        let start = self.out.len();
        let within = start + usize::from(kind != ' ');
        self.brackets.push(Bracket {
            kind,
            follows,
            start,
            colons: Vec::new(),
            commas: false,
            expression: within,
            grows: false,
            operand: within,
            operand_grows: false,
            searched: false,
            product: within,
            factor: within,
            open: false,
        });
    }

    fn copy(&mut self, length: usize) {
        self.out.push_str(&self.text[self.at..self.at + length]);
        self.at += length;
    }

    fn outermost(&self) -> bool {
        self.brackets.len() == 1
    }

    /// Whether an operand stands to the left.
    fn after_operand(&self) -> bool {
        self.brackets.last().is_some_and(|bracket| {
            let left = self.out.get(bracket.factor..).unwrap_or_default().trim();
            !left.trim_matches(['-', ' ']).is_empty()
        })
    }

    /// Something here may be larger than its parts.
    fn grow(&mut self) {
        if let Some(bracket) = self.brackets.last_mut() {
            (bracket.grows, bracket.operand_grows) = (true, true);
        }
    }

    /// What is passed on or compared, and the literal here is a part of, may be larger than its parts.
    fn grow_around(&mut self) {
        let is_literal = |bracket: &&mut Bracket| bracket.kind != ' ' && !bracket.follows;
        if let Some(around) = self.brackets.iter_mut().rev().find(|bracket| !is_literal(bracket)) {
            (around.grows, around.operand_grows) = (true, true);
        }
    }

    /// Closes the filter that stands for `*` or `%`.
    fn end_factor(&mut self) {
        if let Some(bracket) = self.brackets.last_mut()
            && std::mem::take(&mut bracket.open)
        {
            let end = self.out.trim_end().len();
            self.out.insert(end, ')');
        }
    }

    /// The next product begins at the end of the output, after what is yet to be copied.
    fn begin_product(&mut self, skip: usize) {
        let at = self.out.len() + skip;
        if let Some(bracket) = self.brackets.last_mut() {
            (bracket.product, bracket.factor) = (at, at);
        }
    }

    /// Writes `*` or `%` as a filter.
    fn multiply(&mut self, filter: &str) {
        self.end_factor();
        self.grow();
        let Some(bracket) = self.brackets.last_mut() else { return };
        let left = self.out.split_off(bracket.product);
        let space = &left[..left.len() - left.trim_start().len()];
        self.out.push_str(&format!("{space}({})|{filter}(", left.trim()));
        bracket.open = true;
        bracket.factor = self.out.len();
        self.at += 1;
    }

    /// Bounds what has grown on one side of a comparison or the like.
    fn end_operand(&mut self) {
        self.end_factor();
        let Some(bracket) = self.brackets.last_mut() else { return };
        if std::mem::take(&mut bracket.operand_grows) {
            let operand = self.out.split_off(bracket.operand);
            let (text, trimmed) = (operand.trim_start(), operand.trim());
            match trimmed.is_empty() {
                true => self.out.push_str(&operand),
                false => {
                    let space = &operand[..operand.len() - text.len()];
                    let end = &text[trimmed.len()..];
                    self.out.push_str(&format!("{space}({trimmed})|{BOUNDED}{end}"));
                }
            }
        }
    }

    fn begin_operand(&mut self, skip: usize) {
        let at = self.out.len() + skip;
        if let Some(bracket) = self.brackets.last_mut() {
            (bracket.operand, bracket.operand_grows, bracket.searched) = (at, false, false);
        }
        self.begin_product(skip);
    }

    /// Ends an expression: what has grown in it is to be bounded before it goes anywhere. The next
    /// begins at the end of the output, after what is yet to be copied.
    fn end_expression(&mut self, skip: usize) {
        self.end_factor();
        if self.brackets.last().is_some_and(|bracket| bracket.searched) {
            self.end_operand();
        }
        let stored = self.outermost() && self.part == Part::Value;
        let filter = if self.dotted { HELD } else { BOUNDED };
        if let Some(bracket) = self.brackets.last_mut() {
            let sliced = bracket.kind == '[' && !bracket.colons.is_empty();
            let kept = bracket.kind != ' ' || stored;
            if (bracket.grows || stored) && kept && !sliced {
                let expression = self.out.split_off(bracket.expression);
                // Unpacked arguments are none by themselves.
                if expression.trim().is_empty() || expression.trim().starts_with('*') {
                    self.out.push_str(&expression);
                } else {
                    self.out.push_str(&format!(" ({})|{filter} ", expression.trim()));
                }
            }
            bracket.expression = self.out.len() + skip;
            bracket.grows = false;
        }
        self.begin_operand(skip);
    }

    /// Closes what `for` iterates over.
    fn end_iterated(&mut self) {
        if self.part == Part::Iterated {
            self.end_factor();
            self.out.push_str(&format!(")|{ITERABLE} "));
            self.part = Part::Other;
            self.begin_operand(0);
        }
    }

    /// Reads up to and with `close`; gives the new tag, and the length of the original.
    pub(super) fn rewrite(mut self, close: &str) -> Result<Option<(String, usize)>, &'static str> {
        while let Some(c) = self.text[self.at..].chars().next() {
            let rest = &self.text[self.at..];
            let sign = usize::from(rest.starts_with(['-', '+']) && rest[1..].starts_with(close));
            // Closing braces of a dictionary come before those of the tag.
            if rest[sign..].starts_with(close) && self.outermost() {
                self.end();
                self.out.push_str(&rest[..sign + close.len()]);
                return Ok(Some((self.out, self.at + sign + close.len())));
            }
            self.operators += usize::from("|.~+-*/%([".contains(c));
            self.commas += usize::from(c == ',');
            if self.operators > MAX_OPERATORS || self.brackets.len() > MAX_DEPTH || self.commas > MAX_COMMAS {
                return Err("an expression is too complex");
            }
            match c {
                '"' | '\'' => {
                    let length = literal::length(rest, c);
                    self.out.push_str(&literal::plain(&rest[..length])?);
                    self.at += length;
                }
                '.' => self.attribute(rest),
                '(' | '[' | '{' => self.begin_bracket(c),
                ')' | ']' | '}' => self.close(c),
                '*' if rest.starts_with("**") => {
                    self.copy(2);
                    self.begin_factor();
                }
                '*' if self.after_operand() => self.multiply(TIMES),
                '%' if self.after_operand() => self.multiply(MODULO),
                '/' => {
                    self.end_factor();
                    self.copy(if rest.starts_with("//") { 2 } else { 1 });
                    self.begin_factor();
                }
                '+' if !self.after_operand() => self.at += 1,
                '~' | '+' | '-' if self.after_operand() => {
                    self.end_factor();
                    if c != '-' {
                        self.grow();
                    }
                    self.copy(1);
                    self.begin_product(0);
                }
                '=' | '!' | '<' | '>' if rest[1..].starts_with('=') => self.compare(2),
                '<' | '>' => self.compare(1),
                ',' => {
                    self.end_expression(1);
                    let mut tuple = false;
                    if let Some(bracket) = self.brackets.last_mut() {
                        bracket.commas = true;
                        // Not between arguments, nor between the parameters of a signature.
                        tuple = bracket.kind == '(' && !bracket.follows;
                    }
                    if tuple {
                        self.grow_around();
                    }
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
                '=' => {
                    if self.outermost() && self.part == Part::Assigned {
                        self.part = Part::Value;
                    }
                    let start = self.out.len() + 1;
                    if let Some(bracket) = self.brackets.last_mut() {
                        (bracket.expression, bracket.grows) = (start, false);
                    }
                    self.begin_operand(1);
                    self.copy(1);
                }
                '0'..='9' => self.copy(literal::number(rest)),
                c if c.is_alphabetic() || c == '_' => self.word(word(rest)),
                c => self.copy(c.len_utf8()),
            }
        }
        Ok(None)
    }

    /// Ends the tag, before its closing braces.
    fn end(&mut self) {
        self.end_iterated();
        self.end_expression(0);
        let whole = match (self.kind, self.brackets.first()) {
            ("if" | "elif", _) => Some(format!("|{CONDITION}")),
            ("set", Some(bracket)) if bracket.commas => None,
            (_, Some(bracket)) if bracket.commas && self.text.starts_with("{{") => Some(String::new()),
            _ => None,
        };
        let Some(filter) = whole else { return };
        let start = match first_word(&self.out) {
            Some((at, word)) => at + word.len(),
            None => 2 + usize::from(self.out[2..].starts_with(['-', '+'])),
        };
        let body = self.out.split_off(start);
        match body.trim().is_empty() {
            true => self.out.push_str(&body),
            false => self.out.push_str(&format!(" ({}){filter} ", body.trim())),
        }
    }

    fn begin_factor(&mut self) {
        let at = self.out.len();
        if let Some(bracket) = self.brackets.last_mut() {
            bracket.factor = at;
        }
    }

    fn compare(&mut self, length: usize) {
        self.end_operand();
        self.copy(length);
        self.begin_operand(0);
    }

    fn attribute(&mut self, rest: &'a str) {
        let space = rest[1..].len() - rest[1..].trim_start().len();
        let name = word(&rest[1 + space..]);
        let length = 1 + space + name.len();
        let called = rest[length..].trim_start().starts_with('(');
        // `set` may give a namespace any attribute.
        let assigned = self.outermost() && self.part == Part::Assigned;
        self.dotted |= assigned;
        let number = name.starts_with(|c: char| c.is_ascii_digit());
        if METHODS.contains(&name) && !called && !assigned {
            self.out.push_str(&format!(".{ATTRIBUTE}(\"{name}\")"));
            self.at += length;
        } else if name == "cycle" && called {
            self.out.push_str(&format!(".{CYCLE}"));
            self.at += length;
        } else {
            self.copy(if number { 1 } else { length });
        }
    }

    fn begin_bracket(&mut self, c: char) {
        let before = self.out.trim_end();
        let name = before.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let keyword = matches!(
            name,
            "in" | "and" | "or" | "not" | "if" | "else" | "is" | "elif" | "set" | "for" | "with"
        );
        let follows = c != '{'
            && !keyword
            && before
                .ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ')' | ']' | '}' | '"' | '\''));
        if !follows && c != '(' {
            self.grow_around();
        }
        self.open(c, follows);
        self.copy(1);
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

    fn word(&mut self, word: &'a str) {
        let rest = &self.text[self.at + word.len()..];
        let before = self.out.trim_end();
        let is_name = before.ends_with(['|', '.']) || matches!(self.last_word, "is");
        // A tag's own word is no operand.
        let own = self.outermost()
            && self.text.starts_with("{%")
            && before.trim_end_matches(['-', '+']).ends_with("{%");
        let last_word = self.last_word;
        if word != "not" || last_word != "is" {
            self.last_word = word;
        }
        match word {
            "in" if self.part == Part::Targets && self.outermost() => {
                self.out.push_str("in (");
                self.part = Part::Iterated;
                self.at += word.len();
                return self.begin_operand(0);
            }
            "if" | "recursive" if self.outermost() => self.end_iterated(),
            _ => {}
        }
        self.operators += usize::from(matches!(word, "not" | "is" | "in" | "and" | "or" | "if"));
        let splits = match word {
            "and" | "or" | "if" | "else" => !is_name,
            // Not the test of that name.
            "in" => !is_name && last_word != "is",
            "not" => !is_name && (!self.after_operand() || rest.trim_start().starts_with("in")),
            _ => false,
        };
        if splits || own {
            self.end_operand();
            self.copy(word.len());
            self.begin_operand(0);
            if let Some(bracket) = self.brackets.last_mut() {
                bracket.searched = word == "in";
            }
            return;
        }
        let called = rest.trim_start().starts_with('(');
        match self.variadic.get(word).filter(|_| called && !is_name && self.kind != "macro") {
            Some(names) => {
                let rest = rest.trim_start();
                self.out.push_str(VARIADIC);
                self.at = self.text.len() - rest.len();
                self.open('(', true);
                self.copy(1);
                self.out.push_str(&format!("{word}, \"{}\"", names.join(" ")));
                if !rest[1..].trim_start().starts_with(')') {
                    self.out.push_str(", ");
                }
                let at = self.out.len();
                if let Some(bracket) = self.brackets.last_mut() {
                    bracket.expression = at;
                }
                self.begin_operand(0);
            }
            None => self.copy(word.len()),
        }
    }
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
