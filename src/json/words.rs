//! What serde says of types, in words for people who have never seen Rust.

use serde::de::{Error, Expected, Unexpected};
use std::fmt;

/// Where something is wrong, and what.
#[derive(Debug)]
pub(super) struct Fault {
    /// As in `messages[3].role`; empty at the top.
    place: String,
    said: Said,
}

#[derive(Debug)]
enum Said {
    /// What goes on after the place: `must be …`.
    Of(String),
    /// A sentence of its own.
    Alone(String),
}

impl Fault {
    pub(super) fn in_field(mut self, name: &str) -> Fault {
        let dot = if self.place.is_empty() || self.place.starts_with('[') { "" } else { "." };
        self.place = format!("{}{dot}{}", shortened(name), self.place);
        self
    }

    pub(super) fn in_item(mut self, index: usize) -> Fault {
        let dot = if self.place.is_empty() || self.place.starts_with('[') { "" } else { "." };
        self.place = format!("[{index}]{dot}{}", self.place);
        self
    }

    /// The message, where all of it is called `what`.
    pub(super) fn below(self, what: &str) -> String {
        let Fault { place, said } = match what {
            "" => self,
            what => self.in_field(what),
        };
        match said {
            Said::Of(said) if place.is_empty() => format!("the request {said}"),
            Said::Of(said) => format!("{place} {said}"),
            Said::Alone(said) if place.is_empty() => said,
            Said::Alone(said) => format!("{place}: {said}"),
        }
    }

    fn of(said: String) -> Fault {
        Fault { place: String::new(), said: Said::Of(said) }
    }

    fn alone(said: String) -> Fault {
        Fault { place: String::new(), said: Said::Alone(said) }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.said {
            Said::Of(said) | Said::Alone(said) => f.write_str(said),
        }
    }
}

impl std::error::Error for Fault {}

impl Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Fault {
        let message = message.to_string();
        match message.starts_with("must ") {
            true => Fault::of(message),
            false => Fault::alone(message),
        }
    }

    fn invalid_type(found: Unexpected, expected: &dyn Expected) -> Fault {
        Fault::of(format!("must be {}, not {}", wanted(expected), described(found)))
    }

    fn invalid_value(found: Unexpected, expected: &dyn Expected) -> Fault {
        Fault::invalid_type(found, expected)
    }

    fn invalid_length(len: usize, expected: &dyn Expected) -> Fault {
        Fault::of(format!("must be {}, not {len} of them", wanted(expected)))
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Fault {
        Fault::of(format!("must be {}, not {}", one_of(known), quoted(found)))
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Fault {
        Fault::alone(format!("there is no {} here{}", quoted(found), meant(found, known)))
    }

    fn missing_field(name: &'static str) -> Fault {
        Fault::of("is missing".to_owned()).in_field(name)
    }

    fn duplicate_field(name: &'static str) -> Fault {
        Fault::of("is given twice, under two of its names".to_owned()).in_field(name)
    }
}

/// What serde expected.
fn wanted(expected: &dyn Expected) -> String {
    let name = expected.to_string();
    let whole = |low: &str, high: u64| format!("a whole number from {low} to {high}");
    match name.as_str() {
        "u8" => whole("0", u8::MAX.into()),
        "u16" => whole("0", u16::MAX.into()),
        "u32" => whole("0", u32::MAX.into()),
        "u64" => whole("0", u64::MAX),
        "usize" => whole("0", usize::MAX as u64),
        "i32" => whole(&i32::MIN.to_string(), i32::MAX as u64),
        "i64" | "isize" => whole(&i64::MIN.to_string(), i64::MAX as u64),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "string" | "str" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        name if name.starts_with("a nonzero") => "a whole number of at least 1".to_owned(),
        "a map" => "an object".to_owned(),
        name if ["struct ", "enum ", "variant", "tagged", "tuple", "map"]
            .iter()
            .any(|word| name.contains(word)) =>
        {
            "an object".to_owned()
        }
        name => name.to_owned(),
    }
}

fn described(found: Unexpected) -> String {
    match found {
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(value) if value.abs() >= 1e16 => format!("{value:e}"),
        Unexpected::Float(value) => value.to_string(),
        Unexpected::Char(value) => quoted(&value.to_string()),
        Unexpected::Str(value) => format!("the text {}", quoted(value)),
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        _ => "something else".to_owned(),
    }
}

/// `"auto", "gpu" or "cpu"`.
pub(super) fn one_of(known: &[&str]) -> String {
    match known {
        [] => "nothing".to_owned(),
        [one] => quoted(one),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(|name| quoted(name)).collect();
            format!("{} or {}", first.join(", "), quoted(last))
        }
    }
}

/// The name that was probably meant, or where there are few all that there are.
pub(super) fn meant(found: &str, known: &[&str]) -> String {
    const FEW: usize = 12;
    let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '-'], "");
    let distance = |name: &&str| strsim::damerau_levenshtein(&plain(found), &plain(name));
    let longest = 1.max(found.len() / 4);
    let nearest = match found.len() <= 64 {
        true => known.iter().copied().filter(|name| distance(name) <= longest).min_by_key(distance),
        false => None,
    };
    match nearest {
        Some(name) => format!(". Did you mean {}?", quoted(name)),
        None if known.is_empty() || known.len() > FEW => String::new(),
        None => format!(". There is {}", one_of(known).replace(" or ", " and ")),
    }
}

/// In quotation marks, and not longer than a person reads.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 40;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
