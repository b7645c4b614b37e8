//! String literals, read as Python reads them.

use std::fmt::Write;

/// The names of characters that `\N{…}` may give. All of Unicode's would weigh more than the rest.
const NAMES: [(&str, char); 24] = [
    ("BULLET", '•'),
    ("CHECK MARK", '✓'),
    ("COPYRIGHT SIGN", '©'),
    ("DEGREE SIGN", '°'),
    ("EM DASH", '—'),
    ("EN DASH", '–'),
    ("EURO SIGN", '€'),
    ("FULLWIDTH VERTICAL LINE", '｜'),
    ("GRINNING FACE", '😀'),
    ("HORIZONTAL ELLIPSIS", '…'),
    ("LEFT DOUBLE QUOTATION MARK", '“'),
    ("LEFT SINGLE QUOTATION MARK", '‘'),
    ("LINE FEED", '\n'),
    ("LOWER ONE EIGHTH BLOCK", '▁'),
    ("MIDDLE DOT", '·'),
    ("MULTIPLICATION SIGN", '×'),
    ("NO-BREAK SPACE", '\u{a0}'),
    ("RIGHT DOUBLE QUOTATION MARK", '”'),
    ("RIGHT SINGLE QUOTATION MARK", '’'),
    ("RIGHTWARDS ARROW", '→'),
    ("SNOWMAN", '☃'),
    ("SPACE", ' '),
    ("ZERO WIDTH JOINER", '\u{200d}'),
    ("ZERO WIDTH SPACE", '\u{200b}'),
];

/// The length of the string literal that `text` begins with.
pub(super) fn length(text: &str, quote: char) -> usize {
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

/// The length of the number that `text` begins with. The sign of an exponent is a part of it.
pub(super) fn number(text: &str) -> usize {
    let run = |text: &str, digit: fn(char) -> bool| {
        text.find(|c: char| !digit(c) && c != '_').unwrap_or(text.len())
    };
    let decimal = |text: &str| run(text, |c| c.is_ascii_digit());
    if ["0x", "0X", "0o", "0O", "0b", "0B"].iter().any(|prefix| text.starts_with(prefix)) {
        return 2 + run(&text[2..], |c| c.is_ascii_hexdigit());
    }
    let mut length = decimal(text);
    if let Some(fraction) = text[length..].strip_prefix('.')
        && fraction.starts_with(|c: char| c.is_ascii_digit())
    {
        length += 1 + decimal(fraction);
    }
    if let Some(power) = text[length..].strip_prefix(['e', 'E']) {
        let sign = usize::from(power.starts_with(['+', '-']));
        if power[sign..].starts_with(|c: char| c.is_ascii_digit()) {
            length += 1 + sign + decimal(&power[sign..]);
        }
    }
    length
}

/// A literal with its quotes, with only such escapes as every Jinja reads alike.
pub(super) fn plain(literal: &str) -> Result<String, &'static str> {
    let quote = &literal[..1];
    let Some(mut rest) = literal[1..].strip_suffix(quote).filter(|text| text.contains('\\')) else {
        return Ok(literal.to_owned());
    };
    let mut out = quote.to_owned();
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(code) = rest.chars().next() else { break };
        rest = &rest[code.len_utf8()..];
        let digits = |count: usize| {
            let digits = rest.get(..count).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            digits
                .and_then(|digits| u32::from_str_radix(digits, 16).ok())
                .ok_or("a string has a broken escape")
        };
        let c = match code {
            '\n' => continue,
            '\\' | '\'' | '"' => code,
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let tail = rest[..more].bytes();
                let value = tail.fold(code as u32 - '0' as u32, |value, b| value * 8 + u32::from(b - b'0'));
                rest = &rest[more..];
                char::from_u32(value).unwrap_or_default()
            }
            'x' | 'u' | 'U' => {
                let count = match code {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let mut value = digits(count)?;
                rest = &rest[count..];
                // Python keeps the halves of a pair apart, and then can write neither.
                if let Some(low) = rest.strip_prefix("\\u").and_then(|rest| rest.get(..4))
                    && (0xd800..0xdc00).contains(&value)
                    && let Ok(low @ 0xdc00..0xe000) = u32::from_str_radix(low, 16)
                {
                    value = 0x10000 + ((value - 0xd800) << 10) + (low - 0xdc00);
                    rest = &rest[6..];
                }
                char::from_u32(value).ok_or("a string has an escape that stands for no character")?
            }
            'N' => {
                let (name, tail) = rest
                    .strip_prefix('{')
                    .and_then(|rest| rest.split_once('}'))
                    .ok_or("a string has a broken escape")?;
                rest = tail;
                let known = NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                known.ok_or("a string names a character that is not known here: write it as \\uXXXX")?.1
            }
            // No escape in Python: the backslash stays.
            other => {
                out.push_str("\\\\");
                other
            }
        };
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            c if quote.starts_with(c) => {
                let _ = write!(out, "\\{c}");
            }
            c => out.push(c),
        }
    }
    out.push_str(rest);
    out.push_str(quote);
    Ok(out)
}
