//! JSON that people and their programs write: read with errors in plain words, which name the field, what it must
//! be and what it is.
//!
//! Numbers that are whole may be written as such or not (JavaScript has `1.0` for 1), null stands for a field that
//! is not there, and fields that nobody knows are refused with the name that was probably meant.

mod read;
mod words;

use crate::{Error, Result};
use read::Reader;
use serde::de::{DeserializeOwned, Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::fmt;

/// How many objects and lists may lie in each other: whoever walks through deeper ones may run out of stack.
pub(crate) const DEEPEST: usize = 64;

/// Fails with `invalid_argument` where `value` is nested too deep. `what` is what to call it.
pub(crate) fn check_depth<'a>(what: &str, values: impl IntoIterator<Item = &'a Value>) -> Result<()> {
    let mut open: Vec<(&Value, usize)> = values.into_iter().map(|value| (value, 1)).collect();
    while let Some((value, depth)) = open.pop() {
        let nests = matches!(value, Value::Array(_) | Value::Object(_));
        if nests && depth > DEEPEST {
            return Err(too_deep(what));
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => open.extend(fields.values().map(|field| (field, depth + 1))),
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn too_deep(what: &str) -> Error {
    Error::invalid_argument(format!(
        "{what}: its objects and lists lie more than {DEEPEST} deep in each other"
    ))
}

/// Reads all of `value`, which messages call `what`. For the command line and JavaScript.
#[cfg_attr(not(feature = "cli"), allow(dead_code, reason = "for the command line alone"))]
pub(crate) fn read<T: DeserializeOwned>(what: &str, value: &Value) -> Result<T> {
    T::deserialize(Reader::new(value)).map_err(|fault| Error::invalid_argument(fault.below(what)))
}

/// An object whose fields several types share.
pub(crate) struct Fields<'a> {
    what: &'static str,
    fields: &'a Map<String, Value>,
    object: &'a Value,
    /// Names that some type knows.
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// Fails where `value` is no object or too deep. `what` is what to call it, as in `the request`.
    pub(crate) fn new(what: &'static str, value: &'a Value) -> Result<Self> {
        let fields =
            value.as_object().ok_or_else(|| Error::invalid_argument(format!("{what} must be an object")))?;
        check_depth(what, [value])?;
        Ok(Fields { what, fields, object: value, known: RefCell::default() })
    }

    /// The fields that `T` has.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let reader = Reader::noting(self.object, &self.known);
        T::deserialize(reader).map_err(|fault| Error::invalid_argument(fault.below("")))
    }

    /// Refuses what no type has read and `others` does not name, unless it is null.
    pub(crate) fn end(self, others: &[&'static str]) -> Result<()> {
        let mut known = self.known.into_inner();
        known.extend(others);
        let unknown =
            self.fields.iter().find(|(name, value)| !value.is_null() && !known.contains(&name.as_str()));
        match unknown {
            None => Ok(()),
            Some((name, _)) => Err(Error::invalid_argument(format!(
                "{} has a field {}, which nothing here knows{}",
                self.what,
                words::quoted(name),
                words::meant(name, &known)
            ))),
        }
    }
}

/// A whole number of whatever size, written as such or not.
pub(crate) struct Whole(pub i128);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        struct Reads;
        impl Visitor<'_> for Reads {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a whole number")
            }

            fn visit_u64<E>(self, number: u64) -> Result<Whole, E> {
                Ok(Whole(number.into()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Whole, E> {
                Ok(Whole(number.into()))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Whole, E> {
                whole(number).map(Whole).ok_or_else(|| E::invalid_type(Unexpected::Float(number), &self))
            }
        }
        value.deserialize_any(Reads)
    }
}

/// The number, where it is whole.
fn whole(number: f64) -> Option<i128> {
    // Further out every number is whole, and none is in the range of anything.
    (number.fract() == 0.0 && number.abs() < 1e30).then_some(number as i128)
}

/// A number of tokens at most; -1 is no limit.
pub(crate) fn limit<'de, D: Deserializer<'de>>(value: D) -> Result<Option<usize>, D::Error> {
    let Some(Whole(number)) = Option::deserialize(value)? else { return Ok(None) };
    match number {
        -1 => Ok(Some(usize::MAX)),
        0.. => Ok(Some(usize::try_from(number).unwrap_or(usize::MAX))),
        _ => Err(D::Error::custom(format!("must be a number of tokens, or -1 for no limit, not {number}"))),
    }
}

#[cfg(test)]
mod tests;
