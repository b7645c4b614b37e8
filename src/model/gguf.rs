//! A reader of GGUF headers: metadata and the tensor directory, never the weights.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.
//!
//! Files are untrusted. Every count and length is checked against the size of the file before
//! anything is allocated for it, tensors may neither overlap nor leave the file, and what stays
//! in memory is the header's own bytes plus an index of at most 65,536 keys and 65,536 tensors.

use crate::store::Source;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// First read; it holds the whole header of small models. Doubled until the header fits.
const FIRST_READ: u64 = 1 << 20;
/// The largest vocabularies make headers of about 30 MB.
const MAX_HEADER: u64 = 256 << 20;
/// The largest published models have some thousand tensors and a hundred keys.
const MAX_ENTRIES: u64 = 65_536;
/// ggml's GGML_MAX_DIMS.
const MAX_DIMENSIONS: u32 = 4;
/// Arrays of arrays are legal, but no known file has them.
const MAX_ARRAY_DEPTH: u32 = 4;

/// The encoding of a tensor's elements that candlewick can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, non_camel_case_types)]
pub enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl TensorType {
    /// `id` is a `ggml_type`.
    fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => TensorType::F32,
            1 => TensorType::F16,
            2 => TensorType::Q4_0,
            3 => TensorType::Q4_1,
            6 => TensorType::Q5_0,
            7 => TensorType::Q5_1,
            8 => TensorType::Q8_0,
            10 => TensorType::Q2_K,
            11 => TensorType::Q3_K,
            12 => TensorType::Q4_K,
            13 => TensorType::Q5_K,
            14 => TensorType::Q6_K,
            30 => TensorType::BF16,
            _ => return None,
        })
    }

    /// Elements and bytes of one block.
    pub fn block(self) -> (u64, u64) {
        match self {
            TensorType::F32 => (1, 4),
            TensorType::F16 | TensorType::BF16 => (1, 2),
            TensorType::Q4_0 => (32, 18),
            TensorType::Q4_1 => (32, 20),
            TensorType::Q5_0 => (32, 22),
            TensorType::Q5_1 => (32, 24),
            TensorType::Q8_0 => (32, 34),
            TensorType::Q2_K => (256, 84),
            TensorType::Q3_K => (256, 110),
            TensorType::Q4_K => (256, 144),
            TensorType::Q5_K => (256, 176),
            TensorType::Q6_K => (256, 210),
        }
    }

    /// As users know it: `Q4_K`.
    pub fn name(self) -> &'static str {
        match self {
            TensorType::F32 => "F32",
            TensorType::F16 => "F16",
            TensorType::BF16 => "BF16",
            TensorType::Q4_0 => "Q4_0",
            TensorType::Q4_1 => "Q4_1",
            TensorType::Q5_0 => "Q5_0",
            TensorType::Q5_1 => "Q5_1",
            TensorType::Q8_0 => "Q8_0",
            TensorType::Q2_K => "Q2_K",
            TensorType::Q3_K => "Q3_K",
            TensorType::Q4_K => "Q4_K",
            TensorType::Q5_K => "Q5_K",
            TensorType::Q6_K => "Q6_K",
        }
    }
}

/// What a `ggml_type` that candlewick does not read is called, for messages.
fn foreign_type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}

/// An entry of the tensor directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// As in `blk.0.attn_q.weight`.
    pub name: String,
    /// Row length first, as the file has them: a matrix is `[columns, rows]`.
    pub dimensions: Vec<u64>,
    /// How the elements are stored.
    pub kind: TensorType,
    /// From the start of the file, in bytes.
    pub offset: u64,
    /// In bytes.
    pub size: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dimensions.iter().product()
    }
}

/// The type of a metadata value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueType {
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
    fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(id as usize).copied()
    }

    /// Bytes that a value takes in the file; for strings and arrays, the least.
    fn min_size(self) -> u64 {
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
struct Entry {
    kind: ValueType,
    /// The elements' type; `kind` itself for a scalar.
    element: ValueType,
    /// 1 for a scalar.
    count: usize,
    bytes: Range<usize>,
}

/// The metadata of a file: the header's bytes with an index over them. Values are decoded when asked for.
#[derive(Debug, Clone)]
pub struct Metadata {
    bytes: Vec<u8>,
    entries: BTreeMap<String, Entry>,
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
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

fn integer(kind: ValueType, bytes: &[u8]) -> Option<i128> {
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

/// A file's header: what the model is and where its tensors lie.
#[derive(Debug, Clone)]
pub struct Header {
    /// Keys and values.
    pub metadata: Metadata,
    /// Every tensor of the file, in file order.
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    /// Reads the header of `source`, and no more of it than that (rounded up to the next power of two).
    pub async fn read(source: &dyn Source) -> Result<Header> {
        let mut bytes = Vec::new();
        let mut window = FIRST_READ;
        loop {
            let end = window.min(source.len());
            let missing = end - bytes.len() as u64;
            bytes.extend(source.read(bytes.len() as u64, missing as usize).await?);
            match parse(&bytes, source.len()) {
                Ok((header_len, entries, tensors)) => {
                    bytes.truncate(header_len);
                    bytes.shrink_to_fit();
                    return Ok(Header { metadata: Metadata { bytes, entries }, tensors });
                }
                Err(Fault::Short { needed }) if needed <= MAX_HEADER => {
                    window = needed.next_power_of_two().max(2 * window);
                }
                Err(Fault::Short { .. }) => {
                    let message = format!("the header is larger than {MAX_HEADER} bytes");
                    return Err(Error::corrupt_model(message).context(source.name()));
                }
                Err(Fault::Bad(error)) => return Err(error.context(source.name())),
            }
        }
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

/// Why a header could not be parsed.
enum Fault {
    /// The bytes read so far end too early: the header has at least `needed`, which the file has too.
    Short {
        needed: u64,
    },
    Bad(Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Bad(error)
    }
}

fn bad<T>(position: usize, message: impl std::fmt::Display) -> Result<T, Fault> {
    Err(Fault::Bad(Error::corrupt_model(format!("byte {position}: {message}"))))
}

struct Cursor<'a> {
    /// The start of the file.
    bytes: &'a [u8],
    position: usize,
    /// Of the whole file.
    file_len: u64,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], Fault> {
        if len > self.file_len - self.position as u64 {
            return bad(self.position, format_args!("{what} of {len} bytes does not fit the file"));
        }
        let rest = &self.bytes[self.position..];
        let taken = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        self.position += taken.map_or(0, <[u8]>::len);
        taken.ok_or(Fault::Short { needed: self.position as u64 + len })
    }

    fn u32(&mut self, what: &str) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(fixed(self.take(4, what)?)))
    }

    fn u64(&mut self, what: &str) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(fixed(self.take(8, what)?)))
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8], Fault> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    fn name(&mut self, what: &str) -> Result<String, Fault> {
        let at = self.position;
        match std::str::from_utf8(self.string(what)?) {
            Ok(name) => Ok(name.to_owned()),
            Err(_) => bad(at, format_args!("{what} is not valid UTF-8")),
        }
    }

    fn value_type(&mut self) -> Result<ValueType, Fault> {
        let at = self.position;
        let id = self.u32("a value type")?;
        ValueType::from_id(id).map_or_else(|| bad(at, format_args!("{id} is not a value type")), Ok)
    }

    /// Moves past a value of type `kind`; for an array, gives its element type and length.
    fn skip_value(&mut self, kind: ValueType, depth: u32) -> Result<(ValueType, usize), Fault> {
        match kind {
            ValueType::String => {
                self.string("a string value")?;
            }
            ValueType::Array => {
                let at = self.position;
                if depth == MAX_ARRAY_DEPTH {
                    return bad(at, "arrays are nested too deeply");
                }
                let element = self.value_type()?;
                let count = self.u64("an array's length")?;
                let least = count.checked_mul(element.min_size());
                if least.is_none_or(|least| least > self.file_len - self.position as u64) {
                    return bad(at, format_args!("an array of {count} values does not fit the file"));
                }
                match element {
                    ValueType::String | ValueType::Array => {
                        for _ in 0..count {
                            self.skip_value(element, depth + 1)?;
                        }
                    }
                    _ => {
                        self.take(count * element.min_size(), "an array")?;
                    }
                }
                return Ok((element, count as usize));
            }
            _ => {
                self.take(kind.min_size(), "a value")?;
            }
        }
        Ok((kind, 1))
    }

    fn tensor(&mut self) -> Result<TensorInfo, Fault> {
        let name = self.name("a tensor's name")?;
        let at = self.position;
        let rank = self.u32("a tensor's rank")?;
        if rank == 0 || rank > MAX_DIMENSIONS {
            return bad(at, format_args!("tensor {name} has {rank} dimensions"));
        }
        let mut dimensions = Vec::with_capacity(rank as usize);
        for _ in 0..rank {
            dimensions.push(self.u64("a tensor's dimension")?);
        }
        let id = self.u32("a tensor's type")?;
        let offset = self.u64("a tensor's offset")?;
        let Some(kind) = TensorType::from_id(id) else {
            return match foreign_type_name(id) {
                Some(foreign) => Err(Fault::Bad(Error::unsupported_model(format!(
                    "tensor {name} is stored as {foreign}, which candlewick does not read. \
                     Choose a file in F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K to Q6_K"
                )))),
                None => Err(Fault::Bad(Error::unsupported_model(format!(
                    "tensor {name} is stored in the unknown type {id}"
                )))),
            };
        };
        let (block_len, block_size) = kind.block();
        let elements = dimensions.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
        let size = match elements {
            Some(n) if n > 0 && dimensions[0] % block_len == 0 => (n / block_len).checked_mul(block_size),
            _ => None,
        };
        let Some(size) = size.filter(|&size| size <= self.file_len) else {
            return bad(
                at,
                format_args!("tensor {name} cannot have the shape {dimensions:?} in {}", kind.name()),
            );
        };
        Ok(TensorInfo { name, dimensions, kind, offset, size })
    }
}

type Parsed = (usize, BTreeMap<String, Entry>, Vec<TensorInfo>);

/// Parses the header at the start of `bytes`, which are the first bytes of a file of `file_len`.
fn parse(bytes: &[u8], file_len: u64) -> Result<Parsed, Fault> {
    let mut cursor = Cursor { bytes, position: 0, file_len };
    check_magic(bytes, file_len)?;
    cursor.take(4, "the magic")?;
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => {}
        1 => {
            return Err(Fault::Bad(Error::unsupported_model(
                "GGUF version 1 is not supported. Convert the model again with a current llama.cpp",
            )));
        }
        _ if version.swap_bytes() <= 3 => {
            return Err(Fault::Bad(Error::unsupported_model("big-endian GGUF files are not supported")));
        }
        _ => return Err(Fault::Bad(Error::unsupported_model(format!("unknown GGUF version {version}")))),
    }
    let tensor_count = cursor.u64("the number of tensors")?;
    let entry_count = cursor.u64("the number of keys")?;
    if tensor_count > MAX_ENTRIES || entry_count > MAX_ENTRIES {
        return bad(8, format_args!("{tensor_count} tensors and {entry_count} keys cannot be right"));
    }

    let mut entries = BTreeMap::new();
    for _ in 0..entry_count {
        let at = cursor.position;
        let key = cursor.name("a key")?;
        let kind = cursor.value_type()?;
        let start = cursor.position;
        let (element, count) = cursor.skip_value(kind, 0)?;
        let entry = Entry { kind, element, count, bytes: start..cursor.position };
        if entries.insert(key, entry).is_some() {
            return bad(at, "a key appears twice");
        }
    }

    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(cursor.tensor()?);
    }
    let header_len = cursor.position;
    place(&mut tensors, header_len as u64, alignment(bytes, &entries)?, file_len)?;
    Ok((header_len, entries, tensors))
}

/// Tells people what they have when it is not a GGUF file.
fn check_magic(bytes: &[u8], file_len: u64) -> Result<(), Fault> {
    if bytes.starts_with(MAGIC) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(512)]).trim_start().to_lowercase();
    let message = if file_len == 0 {
        "the file is empty".to_owned()
    } else if text.starts_with("<!doctype") || text.starts_with("<html") {
        "this is an HTML page, not a GGUF file. Perhaps the address leads to a log-in or error page"
            .to_owned()
    } else if text.starts_with("version https://git-lfs") {
        "this is a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`".to_owned()
    } else if MAGIC.starts_with(bytes) {
        format!("the file ends within its header, at byte {file_len}")
    } else {
        "this is not a GGUF file: it does not begin with \"GGUF\"".to_owned()
    };
    Err(Fault::Bad(Error::corrupt_model(message)))
}

fn alignment(bytes: &[u8], entries: &BTreeMap<String, Entry>) -> Result<u64, Fault> {
    let Some(entry) = entries.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    match integer(entry.kind, &bytes[entry.bytes.clone()]).and_then(|n| u32::try_from(n).ok()) {
        Some(n) if n.is_power_of_two() => Ok(n.into()),
        _ => bad(entry.bytes.start, "general.alignment is not a power of two"),
    }
}

/// Makes the tensors' offsets absolute and checks that they lie apart, within the file.
fn place(tensors: &mut [TensorInfo], header_len: u64, alignment: u64, file_len: u64) -> Result<(), Fault> {
    let data_start = header_len.next_multiple_of(alignment);
    for tensor in tensors.iter_mut() {
        let start = tensor.offset.checked_add(data_start);
        let end = start.and_then(|start| start.checked_add(tensor.size));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(Fault::Bad(Error::corrupt_model(format!("tensor {} lies nowhere", tensor.name))));
        };
        if tensor.offset % alignment != 0 {
            return Err(Fault::Bad(Error::corrupt_model(format!("tensor {} is not aligned", tensor.name))));
        }
        if end > file_len {
            return Err(Fault::Bad(Error::corrupt_model(format!(
                "the file is cut off: tensor {} ends at byte {end}, the file at {file_len}. Fetch it again",
                tensor.name
            ))));
        }
        tensor.offset = start;
    }

    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    let overlap = by_offset.windows(2).find(|pair| pair[0].offset + pair[0].size > pair[1].offset);
    if let Some(pair) = overlap {
        return Err(Fault::Bad(Error::corrupt_model(format!(
            "tensors {} and {} overlap",
            pair[0].name, pair[1].name
        ))));
    }
    let mut by_name: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    by_name.sort_unstable();
    if let Some(pair) = by_name.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Fault::Bad(Error::corrupt_model(format!("tensor {} appears twice", pair[0]))));
    }
    Ok(())
}
