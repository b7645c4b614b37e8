//! Keys and values, decoded when asked for.

use crate::{Error, Result};
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

/// The metadata of a file: the header's bytes with an index over them. Values are decoded when asked for.
#[derive(Debug, Clone)]
pub struct Metadata {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: BTreeMap<String, Entry>,
}

impl Metadata {
    /// Every key, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether the file has `key`.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        if entry.kind != ValueType::String {
            return Err(wrong_type(key, entry, "a string"));
        }
        utf8(key, &self.bytes[entry.bytes.clone()][8..]).map(Some)
    }

    /// A whole number of any width, from 0 to 2³²−1.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match integer(entry.kind, &self.bytes[entry.bytes.clone()]).map(u32::try_from) {
            Some(Ok(value)) => Ok(Some(value)),
            Some(Err(_)) => Err(Error::corrupt_model(format!("metadata {key}: the number is out of range"))),
            None => Err(wrong_type(key, entry, "a whole number")),
        }
    }

    /// A finite number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        let bytes = &self.bytes[entry.bytes.clone()];
        let value = match entry.kind {
            ValueType::F32 => f32::from_le_bytes(fixed(bytes)),
            ValueType::F64 => f64::from_le_bytes(fixed(bytes)) as f32,
            kind => integer(kind, bytes).ok_or_else(|| wrong_type(key, entry, "a number"))? as f32,
        };
        if !value.is_finite() {
            return Err(Error::corrupt_model(format!("metadata {key}: {value} is not a finite number")));
        }
        Ok(Some(value))
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        match entry.kind {
            ValueType::Bool => Ok(Some(self.bytes[entry.bytes.start] != 0)),
            _ => Err(wrong_type(key, entry, "true or false")),
        }
    }

    /// An array's length.
    pub fn array_len(&self, key: &str) -> Option<usize> {
        self.entries.get(key).filter(|entry| entry.kind == ValueType::Array).map(|entry| entry.count)
    }

    /// An array of strings.
    pub fn strs(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some((entry, mut rest)) = self.array(key, "an array of strings", |e| e == ValueType::String)?
        else {
            return Ok(None);
        };
        // Checked while the header was parsed: every length lies within the bytes.
        let mut strings = Vec::with_capacity(entry.count);
        for _ in 0..entry.count {
            let (length, tail) = rest.split_at(8);
            let (string, tail) = tail.split_at(u64::from_le_bytes(fixed(length)) as usize);
            strings.push(utf8(key, string)?);
            rest = tail;
        }
        Ok(Some(strings))
    }

    /// An array of numbers.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some((_, bytes)) = self.array(key, "an array of F32", |e| e == ValueType::F32)? else {
            return Ok(None);
        };
        Ok(Some(bytes.chunks_exact(4).map(|b| f32::from_le_bytes(fixed(b))).collect()))
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
        let Some(entry) = self.entries.get(key) else { return Ok(None) };
        if entry.kind != ValueType::Array || !accepts(entry.element) {
            return Err(wrong_type(key, entry, wanted));
        }
        Ok(Some((entry, &self.bytes[entry.bytes.clone()][12..])))
    }
}

fn wrong_type(key: &str, entry: &Entry, wanted: &str) -> Error {
    Error::corrupt_model(format!("metadata {key} is {:?} of {:?}, not {wanted}", entry.kind, entry.element))
}

fn utf8<'a>(key: &str, bytes: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(bytes).map_err(|_| Error::corrupt_model(format!("metadata {key} is not valid UTF-8")))
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
