//! Keys and values, decoded when asked for.

use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    pub(super) fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// Bytes that a value takes in the file; for strings and arrays, the least.
    pub(super) fn min_size(self) -> u64 {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::U64 | ValueType::I64 | ValueType::F64 | ValueType::String => 8,
            ValueType::Array => 12,
        }
    }
}

/// Where a value lies in the header's bytes.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) kind: ValueType,
    /// The elements' type; `kind` itself for a scalar.
    pub(super) element: ValueType,
    /// 1 for a scalar.
    pub(super) count: usize,
    pub(super) bytes: Range<usize>,
}

/// By key, which need not be UTF-8.
pub(super) type Entries = BTreeMap<Vec<u8>, Entry>;

/// The metadata of a file: the header's bytes with an index over them. Values are decoded when asked for.
#[derive(Debug, Clone)]
pub struct Metadata {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Entries,
}

impl Metadata {
    fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.get(key.as_bytes())
    }

    /// Whether the file has `key`.
    pub fn contains(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// A string. What is not UTF-8 in it shows as U+FFFD: names that people gave are in any encoding.
    pub fn text(&self, key: &str) -> Result<Option<Cow<'_, str>>> {
        Ok(self.string(key)?.map(String::from_utf8_lossy))
    }

    /// A string that has to be UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        let invalid = |_| Error::corrupt_model(format!("metadata {key} is not valid UTF-8"));
        self.string(key)?.map(|bytes| std::str::from_utf8(bytes).map_err(invalid)).transpose()
    }

    fn string(&self, key: &str) -> Result<Option<&[u8]>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        match entry.kind {
            ValueType::String => Ok(Some(c_string(&self.bytes[entry.bytes.clone()][8..]))),
            _ => Err(wrong_type(key, entry, "a string")),
        }
    }

    /// A whole number of any type, from 0 to 2³²−1.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        let out_of_range = || Error::corrupt_model(format!("metadata {key}: the number is out of range"));
        self.integer(key)?.map(|value| u32::try_from(value).map_err(|_| out_of_range())).transpose()
    }

    /// A whole number of any type, and however large.
    pub fn integer(&self, key: &str) -> Result<Option<i128>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        let bytes = &self.bytes[entry.bytes.clone()];
        let value = integer(entry.kind, bytes).or_else(|| whole(float(entry.kind, bytes)?));
        value.map(Some).ok_or_else(|| wrong_type(key, entry, "a whole number"))
    }

    /// A finite number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        let bytes = &self.bytes[entry.bytes.clone()];
        let value = number(entry.kind, bytes).ok_or_else(|| wrong_type(key, entry, "a number"))?;
        if !value.is_finite() {
            return Err(Error::corrupt_model(format!("metadata {key}: {value} is not a finite number")));
        }
        Ok(Some(value))
    }

    /// A truth value; of numbers, all but 0 are true.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        let bytes = &self.bytes[entry.bytes.clone()];
        match (entry.kind, integer(entry.kind, bytes)) {
            (ValueType::Bool, _) => Ok(Some(bytes[0] != 0)),
            (_, Some(number)) => Ok(Some(number != 0)),
            _ => Err(wrong_type(key, entry, "true or false")),
        }
    }

    /// An array's length.
    pub fn array_len(&self, key: &str) -> Option<usize> {
        self.entry(key).filter(|entry| entry.kind == ValueType::Array).map(|entry| entry.count)
    }

    /// An array of strings, which need not be UTF-8.
    pub fn strings(&self, key: &str) -> Result<Option<Strings<'_>>> {
        let array = self.array(key, "an array of strings", |element| element == ValueType::String)?;
        Ok(array.map(|(entry, rest)| Strings { rest, left: entry.count }))
    }

    /// An array of numbers.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let is_number = |element| number(element, &[0; 8]).is_some();
        let Some((entry, bytes)) = self.array(key, "an array of numbers", is_number)? else {
            return Ok(None);
        };
        let numbers = bytes.chunks_exact(entry.element.min_size() as usize);
        Ok(Some(numbers.map(|bytes| number(entry.element, bytes).unwrap_or_default()).collect()))
    }

    /// An array of whole numbers or truth values, of any width.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let is_integer = |e| integer(e, &[0; 8]).is_some() || e == ValueType::Bool;
        let Some((entry, bytes)) = self.array(key, "an array of whole numbers", is_integer)? else {
            return Ok(None);
        };
        let kind = if entry.element == ValueType::Bool { ValueType::U8 } else { entry.element };
        let width = kind.min_size() as usize;
        // Only U64 above 2⁶³−1 gives numbers that i64 cannot hold; no key has such.
        Ok(Some(
            bytes
                .chunks_exact(width)
                .map(|b| integer(kind, b).and_then(|v| i64::try_from(v).ok()).unwrap_or(i64::MAX))
                .collect(),
        ))
    }

    fn array(
        &self,
        key: &str,
        wanted: &str,
        accepts: impl Fn(ValueType) -> bool,
    ) -> Result<Option<(&Entry, &[u8])>> {
        let Some(entry) = self.entry(key) else { return Ok(None) };
        if entry.kind != ValueType::Array || !accepts(entry.element) {
            return Err(wrong_type(key, entry, wanted));
        }
        Ok(Some((entry, &self.bytes[entry.bytes.clone()][12..])))
    }
}

fn wrong_type(key: &str, entry: &Entry, wanted: &str) -> Error {
    Error::corrupt_model(format!("metadata {key} is {:?} of {:?}, not {wanted}", entry.kind, entry.element))
}

/// The strings of an array, one after the other.
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        // Checked while the header was parsed: every length lies within the bytes.
        let (length, rest) = self.rest.split_at(8);
        let (string, rest) = rest.split_at(u64::from_le_bytes(fixed(length)) as usize);
        self.rest = rest;
        Some(c_string(string))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Strings<'_> {}

/// As far as llama.cpp reads a string: to the first byte of 0.
fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// The first `N` bytes; callers have checked that there are as many.
pub(super) fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

pub(super) fn integer(kind: ValueType, bytes: &[u8]) -> Option<i128> {
    Some(match kind {
        ValueType::U8 => bytes[0].into(),
        ValueType::I8 => (bytes[0] as i8).into(),
        ValueType::U16 => u16::from_le_bytes(fixed(bytes)).into(),
        ValueType::I16 => i16::from_le_bytes(fixed(bytes)).into(),
        ValueType::U32 => u32::from_le_bytes(fixed(bytes)).into(),
        ValueType::I32 => i32::from_le_bytes(fixed(bytes)).into(),
        ValueType::U64 => u64::from_le_bytes(fixed(bytes)).into(),
        ValueType::I64 => i64::from_le_bytes(fixed(bytes)).into(),
        ValueType::F32 | ValueType::F64 | ValueType::Bool | ValueType::String | ValueType::Array => {
            return None;
        }
    })
}

fn float(kind: ValueType, bytes: &[u8]) -> Option<f64> {
    match kind {
        ValueType::F32 => Some(f32::from_le_bytes(fixed(bytes)).into()),
        ValueType::F64 => Some(f64::from_le_bytes(fixed(bytes))),
        _ => None,
    }
}

/// A number of any type.
fn number(kind: ValueType, bytes: &[u8]) -> Option<f32> {
    float(kind, bytes).map(|value| value as f32).or_else(|| integer(kind, bytes).map(|value| value as f32))
}

/// A float that is a whole number.
fn whole(value: f64) -> Option<i128> {
    (value.fract() == 0.0 && value.abs() < 1e18).then_some(value as i128)
}
