//! Python's two ways to format: `'%s' % x` and `'{}'.format(x)`.

use super::{budget, python};
use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Value};

/// The widest field, and the most digits.
const MAX_WIDTH: usize = 9999;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// How a field is written.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// Reads digits; none are 0.
fn number(rest: &mut &str) -> Result<usize, Error> {
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, tail) = rest.split_at(digits);
    *rest = tail;
    match number.is_empty() {
        true => Ok(0),
        false => number
            .parse()
            .ok()
            .filter(|number| *number <= MAX_WIDTH)
            .ok_or_else(|| Error::new(ErrorKind::OutOfFuel, "a width is beyond all bounds")),
    }
}

fn take(rest: &mut &str, wanted: impl Fn(char) -> bool) -> Option<char> {
    let c = rest.chars().next().filter(|c| wanted(*c))?;
    *rest = &rest[c.len_utf8()..];
    Some(c)
}

/// `format % arguments`.
pub(super) fn printf(format: &str, arguments: &Value) -> Result<Value, Error> {
    let tuple = arguments.is_tuple();
    let mut items = match tuple {
        true => arguments.try_iter()?.collect::<Vec<_>>(),
        false => vec![arguments.clone()],
    }
    .into_iter();
    let mapped = arguments.kind() == ValueKind::Map;
    let (mut out, mut rest) = (String::new(), format);
    while let Some((text, tail)) = rest.split_once('%') {
        out.push_str(text);
        rest = tail;
        let mut spec = Spec { align: Some('>'), ..Spec::default() };
        let key = match rest.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((key, tail)) => {
                rest = tail;
                Some(key)
            }
            None => None,
        };
        while let Some(flag) = take(&mut rest, |c| "#0- +".contains(c)) {
            match flag {
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                _ => spec.sign = spec.sign.or(Some(' ')),
            }
        }
        let mut next = || items.next().ok_or_else(|| invalid("not enough arguments for format string"));
        let star = |value: Value| i64::try_from(value).map_err(|_| invalid("* wants int"));
        if take(&mut rest, |c| c == '*').is_some() {
            let width = star(next()?)?;
            if width < 0 {
                spec.align = Some('<');
            }
            spec.width = width.unsigned_abs() as usize;
        } else {
            spec.width = number(&mut rest)?;
        }
        if take(&mut rest, |c| c == '.').is_some() {
            spec.precision = Some(match take(&mut rest, |c| c == '*') {
                Some(_) => star(next()?)?.max(0) as usize,
                None => number(&mut rest)?,
            });
        }
        if spec.width > MAX_WIDTH || spec.precision.is_some_and(|precision| precision > MAX_WIDTH) {
            return Err(Error::new(ErrorKind::OutOfFuel, "a width is beyond all bounds"));
        }
        take(&mut rest, |c| "hlL".contains(c));
        let kind = take(&mut rest, |_| true).ok_or_else(|| invalid("incomplete format"))?;
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match key {
            Some(key) if mapped => {
                let value = arguments.get_item(&Value::from(key))?;
                match value.is_undefined() {
                    true => return Err(invalid(format!("there is no key {key:?}"))),
                    false => value,
                }
            }
            Some(_) => return Err(invalid("format requires a mapping")),
            None => next()?,
        };
        let text = match kind {
            's' | 'r' | 'a' => {
                let text = if kind == 's' { python::str(&value) } else { python::repr(&value) };
                let text = if kind == 'a' { python::ascii(&text) } else { text };
                spec.zero = false;
                spec.pad(cut(text, spec.precision), false)
            }
            'c' => {
                let text = match value.as_str() {
                    Some(text) if text.chars().count() == 1 => text.to_owned(),
                    _ => {
                        let code = if is_number(&value) { u32::try_from(value).ok() } else { None };
                        let c = code.and_then(char::from_u32);
                        c.ok_or_else(|| invalid("%c requires int or char"))?.to_string()
                    }
                };
                spec.zero = false;
                spec.pad(text, false)
            }
            'd' | 'i' | 'u' => {
                if !is_number(&value) {
                    return Err(invalid(format!("%{kind} format: a real number is required")));
                }
                let integer = integer(&value).or_else(|| {
                    python::as_float(&value).filter(|x| x.is_finite()).map(|x| x.trunc() as i128)
                });
                let integer = integer.ok_or_else(|| invalid("cannot convert float to integer"))?;
                spec.kind = Some('d');
                spec.integer(integer)?
            }
            'o' | 'x' | 'X' => {
                let integer = integer(&value)
                    .ok_or_else(|| invalid(format!("%{kind} format: an integer is required")))?;
                spec.kind = Some(kind);
                spec.integer(integer)?
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let number = if is_number(&value) { python::as_float(&value) } else { None };
                spec.kind = Some(kind);
                spec.float(number.ok_or_else(|| invalid("must be real number"))?)
            }
            other => return Err(invalid(format!("unsupported format character {other:?}"))),
        };
        out.push_str(&text);
        budget::check_text(out.len())?;
    }
    out.push_str(rest);
    // Python lets dictionaries and lists go unused.
    let must = tuple || !matches!(arguments.kind(), ValueKind::Map | ValueKind::Seq);
    if must && items.next().is_some() {
        return Err(invalid("not all arguments converted during string formatting"));
    }
    budget::check_text(out.len())?;
    Ok(Value::from(out))
}

fn cut(text: String, precision: Option<usize>) -> String {
    match precision {
        Some(most) => text.chars().take(most).collect(),
        None => text,
    }
}

fn is_number(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Number | ValueKind::Bool) || python::is_float_object(value)
}

fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// `str.format`.
pub(super) fn format(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (positional, named): (&[Value], Kwargs) = from_args(args)?;
    let mut next = 0;
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = tail;
            continue;
        }
        if brace == "}" {
            return Err(invalid("Single '}' encountered in format string"));
        }
        // Fields within a field, as in `{:>{}}`, are rare.
        let (field, tail) =
            rest.split_once('}').ok_or_else(|| invalid("expected '}' before end of string"))?;
        if field.contains('{') {
            return Err(invalid("a format from the arguments, as in '{:>{}}', is not supported"));
        }
        rest = tail;
        let (field, spec) = field.split_once(':').unwrap_or((field, ""));
        let (field, conversion) = match field.split_once('!') {
            Some((field, conversion)) => (field, Some(conversion)),
            None => (field, None),
        };
        let name = field.split(['.', '[']).next().unwrap_or_default();
        let mut value = match name.parse::<usize>() {
            Ok(index) => positional.get(index).cloned(),
            Err(_) if name.is_empty() => {
                next += 1;
                positional.get(next - 1).cloned()
            }
            Err(_) => named.get::<Option<Value>>(name)?,
        }
        .ok_or_else(|| invalid(format!("there is no argument {name:?} for the format string")))?;
        let mut path = &field[name.len()..];
        while !path.is_empty() {
            let (item, tail) = match path.strip_prefix('[') {
                Some(index) => {
                    let (index, tail) =
                        index.split_once(']').ok_or_else(|| invalid("missing ']' in format string"))?;
                    let key = index.parse::<i64>().map_or_else(|_| Value::from(index), Value::from);
                    (value.get_item(&key)?, tail)
                }
                None => {
                    let path = path.trim_start_matches('.');
                    let end = path.find(['.', '[']).unwrap_or(path.len());
                    (value.get_attr(&path[..end])?, &path[end..])
                }
            };
            if item.is_undefined() {
                return Err(invalid(format!("{field:?} in a format string is undefined")));
            }
            (value, path) = (item, tail);
        }
        let value = match conversion {
            None => value,
            Some("s") => Value::from(python::str(&value)),
            Some("r") => Value::from(python::repr(&value)),
            Some("a") => Value::from(python::ascii(&python::repr(&value))),
            Some(other) => return Err(invalid(format!("Unknown conversion specifier {other}"))),
        };
        out.push_str(&formatted(&value, spec)?);
        budget::check_text(out.len())?;
    }
    out.push_str(rest);
    budget::check_text(out.len())?;
    Ok(Value::from(out))
}

/// `format(value, spec)`.
fn formatted(value: &Value, text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Ok(python::str(value));
    }
    let mut spec = Spec::default();
    let mut rest = text;
    let mut characters = text.chars();
    match (characters.next(), characters.next()) {
        (Some(fill), Some(align)) if "<>=^".contains(align) => {
            (spec.fill, spec.align) = (Some(fill), Some(align));
            rest = characters.as_str();
        }
        _ => spec.align = take(&mut rest, |c| "<>=^".contains(c)),
    }
    spec.sign = take(&mut rest, |c| "+- ".contains(c));
    spec.alternate = take(&mut rest, |c| c == '#').is_some();
    spec.zero = take(&mut rest, |c| c == '0').is_some();
    spec.width = number(&mut rest)?;
    spec.grouping = take(&mut rest, |c| ",_".contains(c));
    if take(&mut rest, |c| c == '.').is_some() {
        spec.precision = Some(number(&mut rest)?);
    }
    spec.kind = take(&mut rest, |_| true);
    if !rest.is_empty() {
        return Err(invalid(format!("Invalid format specifier {text:?}")));
    }
    let unknown = || invalid(format!("Unknown format code in {text:?} for a value of this type"));
    if let Some(string) = value.as_str() {
        return match spec.kind {
            None | Some('s') if spec.sign.is_none() && !spec.alternate && spec.grouping.is_none() => {
                spec.align = spec.align.or(Some('<'));
                if spec.zero {
                    spec.fill = spec.fill.or(Some('0'));
                    spec.zero = false;
                }
                Ok(spec.pad(cut(string.to_owned(), spec.precision), false))
            }
            _ => Err(unknown()),
        };
    }
    if !is_number(value) {
        return Err(unknown());
    }
    match (spec.kind, integer(value)) {
        (None | Some('d' | 'b' | 'o' | 'x' | 'X' | 'c'), Some(_)) if spec.precision.is_some() => {
            Err(unknown())
        }
        (Some('c'), Some(integer)) => {
            let c = u32::try_from(integer).ok().and_then(char::from_u32).ok_or_else(unknown)?;
            spec.align = spec.align.or(Some('<'));
            Ok(spec.pad(c.to_string(), false))
        }
        (None, Some(integer)) => {
            spec.kind = Some('d');
            spec.integer(integer)
        }
        (Some('d' | 'b' | 'o' | 'x' | 'X'), Some(integer)) => spec.integer(integer),
        (None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%'), _) => {
            Ok(spec.float(python::as_float(value).ok_or_else(unknown)?))
        }
        _ => Err(unknown()),
    }
}

impl Spec {
    fn integer(&self, number: i128) -> Result<String, Error> {
        let magnitude = number.unsigned_abs();
        let (prefix, digits) = match self.kind {
            Some('b') => ("0b", format!("{magnitude:b}")),
            Some('o') => ("0o", format!("{magnitude:o}")),
            Some('x') => ("0x", format!("{magnitude:x}")),
            Some('X') => ("0X", format!("{magnitude:X}")),
            _ => ("", magnitude.to_string()),
        };
        // `%.3d`
        let digits = format!("{digits:0>width$}", width = self.precision.unwrap_or(0));
        let prefix = if self.alternate { prefix } else { "" };
        Ok(self.signed(number < 0, prefix, &digits))
    }

    fn float(&self, number: f64) -> String {
        let magnitude = number.abs();
        let precision = self.precision.unwrap_or(6);
        let upper = self.kind.is_some_and(|kind| kind.is_ascii_uppercase());
        let text = match self.kind.map(|kind| kind.to_ascii_lowercase()) {
            _ if magnitude.is_nan() => "nan".to_owned(),
            _ if magnitude.is_infinite() => "inf".to_owned(),
            Some('f') => self.point(format!("{magnitude:.precision$}")),
            Some('%') => self.point(format!("{:.precision$}", magnitude * 100.0)),
            Some('e') => exponent(&format!("{magnitude:.precision$e}")),
            Some('g') => self.general(magnitude, precision.max(1), false),
            _ => match self.precision {
                None => python::float(magnitude),
                Some(precision) => self.general(magnitude, precision.max(1), true),
            },
        };
        let text = if upper { text.to_uppercase() } else { text };
        let text = if self.kind == Some('%') { text + "%" } else { text };
        self.signed(number.is_sign_negative() && !number.is_nan(), "", &text)
    }

    fn point(&self, text: String) -> String {
        if self.alternate && !text.contains('.') { text + "." } else { text }
    }

    /// `g`, and with `plain` what stands without a letter: there is always a digit behind the point.
    fn general(&self, magnitude: f64, precision: usize, plain: bool) -> String {
        let scientific = format!("{magnitude:.*e}", precision - 1);
        let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
        let limit = precision as i32 - i32::from(plain);
        let fixed = (-4..limit.max(if plain { 1 } else { 0 })).contains(&power);
        let text = match fixed {
            true => format!("{magnitude:.*}", (precision as i32 - 1 - power).max(0) as usize),
            false => exponent(&scientific),
        };
        if self.alternate {
            return text;
        }
        let (digits, power) =
            text.split_once('e').map_or((text.as_str(), None), |(digits, power)| (digits, Some(power)));
        let digits =
            if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits };
        match power {
            Some(power) => format!("{digits}e{power}"),
            None if plain && !digits.contains('.') => format!("{digits}.0"),
            None => digits.to_owned(),
        }
    }

    fn signed(&self, negative: bool, prefix: &str, digits: &str) -> String {
        let sign = match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        };
        let digits = match self.grouping {
            Some(separator) => {
                let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
                let size = if matches!(self.kind, Some('b' | 'o' | 'x' | 'X')) { 4 } else { 3 };
                let (whole, rest) = digits.split_at(end);
                let mut grouped = String::new();
                for (n, c) in whole.chars().enumerate() {
                    if n > 0 && (whole.len() - n) % size == 0 {
                        grouped.push(separator);
                    }
                    grouped.push(c);
                }
                grouped + rest
            }
            None => digits.to_owned(),
        };
        let zero = self.zero && self.align != Some('<') && self.fill.is_none();
        let inner = zero || self.align == Some('=');
        if inner {
            let length = sign.len() + prefix.len() + digits.chars().count();
            let fill = self.fill.unwrap_or(if zero { '0' } else { ' ' });
            let filling: String = std::iter::repeat_n(fill, self.width.saturating_sub(length)).collect();
            return format!("{sign}{prefix}{filling}{digits}");
        }
        self.pad(format!("{sign}{prefix}{digits}"), true)
    }

    fn pad(&self, text: String, number: bool) -> String {
        let missing = self.width.saturating_sub(text.chars().count());
        let fill = self.fill.unwrap_or(' ');
        let left = match self.align {
            Some('<') => 0,
            Some('^') => missing / 2,
            Some(_) => missing,
            None => {
                if number {
                    missing
                } else {
                    0
                }
            }
        };
        let fill = |count| std::iter::repeat_n(fill, count).collect::<String>();
        format!("{}{text}{}", fill(left), fill(missing - left))
    }
}

/// Rust writes 1e4, Python 1e+04.
fn exponent(text: &str) -> String {
    let (digits, power) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, power) = match power.strip_prefix('-') {
        Some(power) => ('-', power),
        None => ('+', power),
    };
    format!("{digits}e{sign}{power:0>2}")
}
