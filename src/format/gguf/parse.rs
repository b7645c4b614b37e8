//! The parser. All checks of counts, lengths and places are here.

use super::metadata::{Entries, Entry, ValueType, fixed, integer};
use super::tensor::{TensorInfo, TensorType, foreign_type_name};
use crate::{Error, Result};

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// The largest published models have some thousand tensors and a hundred keys.
const MAX_ENTRIES: u64 = 65_536;
/// ggml's GGML_MAX_DIMS.
const MAX_DIMENSIONS: u32 = 4;
/// ggml's GGML_MAX_NAME, less the byte that ends a name in memory.
const MAX_NAME: usize = 63;
/// Arrays of arrays are legal, but no known file has them.
const MAX_ARRAY_DEPTH: u32 = 4;

/// Why a header could not be parsed.
pub(super) enum Fault {
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
        let at = self.position;
        let name = self.string("a tensor's name")?;
        if name.len() > MAX_NAME {
            return bad(at, format_args!("a tensor's name has {} bytes, more than {MAX_NAME}", name.len()));
        }
        // Those that a model asks for are ASCII. Others are kept apart, and no more is asked of them.
        let name = std::str::from_utf8(name).map_or_else(|_| name.escape_ascii().to_string(), str::to_owned);
        let at = self.position;
        let rank = self.u32("a tensor's rank")?;
        if rank > MAX_DIMENSIONS {
            return bad(at, format_args!("tensor {name} has {rank} dimensions"));
        }
        let mut dimensions = Vec::with_capacity(rank as usize);
        for _ in 0..rank {
            dimensions.push(self.u64("a tensor's dimension")?);
        }
        // Those that are left out are 1; some converters write them.
        while dimensions.len() > 1 && dimensions.last() == Some(&1) {
            dimensions.pop();
        }
        if dimensions.is_empty() {
            dimensions.push(1);
        }
        let id = self.u32("a tensor's type")?;
        let offset = self.u64("a tensor's offset")?;
        let Some(kind) = TensorType::from_id(id) else {
            return match foreign_type_name(id) {
                Some(foreign) => Err(Fault::Bad(Error::unsupported_model(format!(
                    "tensor {name} is stored as {foreign}, which candlewick does not read. \
                     Choose a file whose weights are stored as Q4_K, Q8_0 or F16, as most are"
                )))),
                None => Err(Fault::Bad(Error::unsupported_model(format!(
                    "tensor {name} is stored in the unknown type {id}"
                )))),
            };
        };
        let (block_len, block_size) = kind.block();
        let elements = dimensions.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
        let size = match elements {
            Some(n) if dimensions[0] % block_len == 0 => (n / block_len).checked_mul(block_size),
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

pub(super) type Parsed = (usize, Entries, Vec<TensorInfo>);

/// Parses the header at the start of `bytes`, which are the first bytes of a file of `file_len`.
pub(super) fn parse(bytes: &[u8], file_len: u64) -> Result<Parsed, Fault> {
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

    let mut entries = Entries::new();
    for _ in 0..entry_count {
        let at = cursor.position;
        let key = cursor.string("a key")?.to_vec();
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

fn alignment(bytes: &[u8], entries: &Entries) -> Result<u64, Fault> {
    let Some(entry) = entries.get(&b"general.alignment"[..]) else { return Ok(DEFAULT_ALIGNMENT) };
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
    Ok(())
}
