//! GGUF files taken apart, to be put together again with something changed: this is how the broken
//! ones of the tests are made.

use std::ops::Range;

/// `ggml_type`s and value types of the format, by the names used here.
pub(crate) const F32: u32 = 0;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;

const ALIGNMENT: usize = 32;

/// A file in parts. What is not touched stays as it was.
#[derive(Debug, Clone)]
pub(crate) struct Edit {
    /// Keys, each with its value's type and bytes as they stand in the file.
    pub entries: Vec<(String, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
    /// Of the format.
    pub version: u32,
    /// Where the tensors begin: at multiples of it.
    pub alignment: usize,
    /// Places of the numbers that the format itself has: see [`numbers`].
    numbers: Vec<Range<usize>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub name: String,
    pub dimensions: Vec<u64>,
    pub kind: u32,
    /// Where it is not to lie behind the one before it.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

/// Where the numbers of a header lie: counts, lengths, types, shapes, offsets and metadata that are
/// numbers. Of arrays, only those of the first and the last element.
pub(crate) fn numbers(bytes: &[u8]) -> Vec<Range<usize>> {
    Edit::new(bytes).numbers
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    numbers: Vec<Range<usize>>,
}

impl Walk<'_> {
    fn number(&mut self, width: usize) -> u64 {
        let range = self.at..self.at + width;
        let mut little_endian = [0; 8];
        little_endian[..width].copy_from_slice(&self.bytes[range.clone()]);
        self.at = range.end;
        self.numbers.push(range);
        u64::from_le_bytes(little_endian)
    }

    fn u32(&mut self) -> u32 {
        self.number(4) as u32
    }

    fn string(&mut self) -> String {
        let len = self.number(8) as usize;
        let text = String::from_utf8(self.bytes[self.at..self.at + len].to_vec()).unwrap();
        self.at += len;
        text
    }

    fn value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => drop(self.number(1)),
            2 | 3 => drop(self.number(2)),
            4..=6 => drop(self.number(4)),
            STRING => drop(self.string()),
            ARRAY => {
                let (element, count) = (self.u32(), self.number(8));
                for index in 0..count {
                    let known = self.numbers.len();
                    self.value(element);
                    if index > 0 && index + 1 < count {
                        self.numbers.truncate(known);
                    }
                }
            }
            _ => drop(self.number(8)),
        }
    }
}

impl Edit {
    /// `bytes` is a sound file.
    pub(crate) fn new(bytes: &[u8]) -> Edit {
        let mut walk = Walk { bytes, at: 4, numbers: Vec::new() };
        walk.u32();
        let (tensors, entries) = (walk.number(8), walk.number(8));
        let entry = |walk: &mut Walk| {
            let key = walk.string();
            let start = walk.at;
            let kind = walk.u32();
            walk.value(kind);
            (key, bytes[start..walk.at].to_vec())
        };
        let entries = (0..entries).map(|_| entry(&mut walk)).collect();
        let tensor = |walk: &mut Walk| {
            let (name, rank) = (walk.string(), walk.u32());
            let dimensions = (0..rank).map(|_| walk.number(8)).collect();
            let (kind, offset) = (walk.u32(), walk.number(8));
            Tensor { name, dimensions, kind, offset: Some(offset), data: Vec::new() }
        };
        let mut tensors: Vec<Tensor> = (0..tensors).map(|_| tensor(&mut walk)).collect();
        // Fixtures have their tensors in the order of their offsets.
        let data = walk.at.next_multiple_of(ALIGNMENT);
        let mut end = bytes.len();
        for tensor in tensors.iter_mut().rev() {
            let start = data + tensor.offset.take().unwrap() as usize;
            tensor.data = bytes[start..end].to_vec();
            end = start;
        }
        Edit { entries, tensors, version: 3, alignment: ALIGNMENT, numbers: walk.numbers }
    }

    pub(crate) fn remove(mut self, key: &str) -> Edit {
        self.entries.retain(|(k, _)| k != key);
        self
    }

    /// `kind` is a value type of the format.
    pub(crate) fn set(self, key: &str, kind: u32, value: &[u8]) -> Edit {
        let mut edit = self.remove(key);
        edit.entries.push((key.to_owned(), [&kind.to_le_bytes(), value].concat()));
        edit
    }

    pub(crate) fn str(self, key: &str, value: &str) -> Edit {
        self.set(key, STRING, &string(value))
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Edit {
        self.set(key, 4, &value.to_le_bytes())
    }

    pub(crate) fn bool(self, key: &str, value: bool) -> Edit {
        self.set(key, 7, &[value.into()])
    }

    pub(crate) fn strs(self, key: &str, values: &[&str]) -> Edit {
        self.byte_strings(key, values)
    }

    /// Whole numbers of 32 bits.
    pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Edit {
        let numbers: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.set(key, ARRAY, &[array(5, values.len() as u64), numbers].concat())
    }

    pub(crate) fn bools(self, key: &str, values: &[u8]) -> Edit {
        self.set(key, ARRAY, &[&array(7, values.len() as u64), values].concat())
    }

    /// The same where they need not be UTF-8.
    pub(crate) fn byte_strings(self, key: &str, values: &[impl AsRef<[u8]>]) -> Edit {
        let string = |value: &[u8]| [&(value.len() as u64).to_le_bytes()[..], value].concat();
        let strings: Vec<u8> = values.iter().flat_map(|value| string(value.as_ref())).collect();
        self.set(key, ARRAY, &[array(STRING, values.len() as u64), strings].concat())
    }

    /// The strings of an array.
    pub(crate) fn strings(&self, key: &str) -> Vec<Vec<u8>> {
        let (_, value) = self.entries.iter().find(|(k, _)| k == key).unwrap();
        let mut rest = &value[16..];
        let mut strings = Vec::new();
        while let Some((len, after)) = rest.split_first_chunk() {
            let (string, after) = after.split_at(u64::from_le_bytes(*len) as usize);
            strings.push(string.to_vec());
            rest = after;
        }
        strings
    }

    pub(crate) fn f32s(self, key: &str, values: &[f32]) -> Edit {
        let numbers: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.set(key, ARRAY, &[array(6, values.len() as u64), numbers].concat())
    }

    /// Changes the tensor called `name`.
    pub(crate) fn tensor(mut self, name: &str, change: impl FnOnce(&mut Tensor)) -> Edit {
        change(self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap());
        self
    }

    pub(crate) fn without_tensor(mut self, name: &str) -> Edit {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [b"GGUF", &self.version.to_le_bytes()[..]].concat();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            bytes.extend(string(key));
            bytes.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            data.resize(data.len().next_multiple_of(self.alignment), 0);
            bytes.extend(string(&tensor.name));
            bytes.extend((tensor.dimensions.len() as u32).to_le_bytes());
            tensor.dimensions.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
            bytes.extend(tensor.kind.to_le_bytes());
            bytes.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.data);
        }
        if !data.is_empty() {
            bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
            bytes.extend(data);
        }
        bytes
    }
}

/// A string as the format has it.
pub(crate) fn string(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}

/// What stands before the elements of an array.
pub(crate) fn array(element: u32, count: u64) -> Vec<u8> {
    [&element.to_le_bytes()[..], &count.to_le_bytes()].concat()
}
