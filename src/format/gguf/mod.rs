//! A reader of GGUF headers: metadata and the tensor directory, never the weights.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian.
//!
//! Files are untrusted. Every count and length is checked against the size of the file before
//! anything is allocated for it, tensors may neither overlap nor leave the file, and what stays
//! in memory is the header's own bytes plus an index of at most 65,536 keys and 65,536 tensors.

mod metadata;
mod parse;
mod tensor;

pub use metadata::{Metadata, Strings};
pub use tensor::{TensorInfo, TensorType};

use crate::store::{Joined, Source, Split, arranged, lacks_none};
use crate::{Error, Result};
use parse::{Fault, parse};
use std::collections::HashMap;

/// First read; it holds the whole header of small models. Doubled until the header fits.
const FIRST_READ: u64 = 1 << 20;
/// The largest vocabularies make headers of about 30 MB.
const MAX_HEADER: u64 = 128 << 20;

/// A file's header: what the model is and where its tensors lie.
#[derive(Debug, Clone)]
pub struct Header {
    /// Keys and values.
    pub metadata: Metadata,
    /// Every tensor of the file, in file order; of a split model, those of all its parts.
    pub tensors: Vec<TensorInfo>,
    /// Where each of them is in the list.
    places: HashMap<String, usize>,
}

/// The order of `files` that are one model, by their names or, where those do not tell, by their headers. Fails with
/// `model_not_found` where parts are missing, and `invalid_argument` where the files are not those of one model.
pub async fn order<S: Source>(files: &[S]) -> Result<Vec<usize>> {
    let names: Vec<&str> = files.iter().map(Source::name).collect();
    if let Some(order) = Split::order(&names)? {
        return Ok(order);
    }
    if files.len() == 1 {
        return Ok(vec![0]);
    }
    let mut parts = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let header = Header::read_part(file, 0, file.len()).await?;
        match (header.split("no")?, header.split("count")?) {
            (Some(part), Some(count)) if part < count => parts.push((part, count, index)),
            _ => {
                return Err(Error::invalid_argument(format!(
                    "{} is a whole model, not a part of one: a list in the list of sources is one model in several files",
                    file.name()
                )));
            }
        }
    }
    parts.sort_unstable();
    let count = parts.first().map_or(0, |&(_, count, _)| count);
    if parts.iter().any(|part| part.1 != count) || parts.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(Error::invalid_argument("these files are not the parts of one model, each of them once"));
    }
    let there = |part: &u32| parts.binary_search_by_key(part, |part| part.0).is_ok();
    lacks_none((0..count).filter(|part| !there(part)).map(|part| format!("the part {}", part + 1)), count)?;
    Ok(parts.into_iter().map(|(_, _, index)| index).collect())
}

/// Files that are one model, as one source: see [`order`].
pub async fn join<S: Source>(files: Vec<S>) -> Result<Joined<S>> {
    let order = order(&files).await?;
    Ok(Joined::new(arranged(files, &order)))
}

impl Header {
    /// Reads the header of `source`, and no more of it than that (rounded up to the next power of two). Where a
    /// model is split, every part has a header with its tensors, and the first has the metadata.
    pub async fn read(source: &dyn Source) -> Result<Header> {
        let starts = source.parts();
        let ends = starts.iter().skip(1).copied().chain([source.len()]);
        let mut parts = starts.iter().copied().zip(ends);
        let (start, end) = parts.next().unwrap_or((0, source.len()));
        let in_file = |error: Error| error.context(source.name());
        let mut whole = Header::read_part(source, start, end).await?;
        let count = whole.split("count")?.unwrap_or(1);
        if starts.len() > 1 && count as usize != starts.len() {
            let message = format!("a model split in {count}, of which there are {} parts", starts.len());
            return Err(in_file(Error::corrupt_model(message)));
        }
        for (index, (start, end)) in (1..).zip(parts) {
            let part = Header::read_part(source, start, end).await?;
            if part.split("no")? != Some(index) || part.split("count")? != Some(count) {
                let message = format!("the part {} of {count} belongs to another model or place", index + 1);
                return Err(in_file(Error::corrupt_model(message)));
            }
            whole.tensors.extend(part.tensors);
        }
        let count = whole.split("tensors.count")?;
        if starts.len() > 1 && count.is_some_and(|count| count as usize != whole.tensors.len()) {
            return Err(in_file(Error::corrupt_model("the parts of the model lack tensors")));
        }
        whole.find_places().and_then(|()| whole.refuse_adapter()).map_err(in_file)?;
        Ok(whole)
    }

    /// No two tensors may have the same name.
    fn find_places(&mut self) -> Result<()> {
        for (place, tensor) in self.tensors.iter().enumerate() {
            if self.places.insert(tensor.name.clone(), place).is_some() {
                return Err(Error::corrupt_model(format!("tensor {} appears twice", tensor.name)));
            }
        }
        Ok(())
    }

    /// Adapters are files of the same format with a model's architecture.
    fn refuse_adapter(&self) -> Result<()> {
        match self.metadata.str("general.type") {
            Ok(Some("adapter")) => Err(Error::unsupported_model(
                "it is an adapter, not a model. Give the model, or one that the adapter was merged into",
            )),
            _ => Ok(()),
        }
    }

    /// Whether it is of one of several files, and of no more than that.
    pub fn is_part(&self) -> Result<bool> {
        let tensors = self.split("tensors.count")?;
        let parts = self.split("count")?.unwrap_or(1);
        Ok(parts > 1 && tensors.is_none_or(|tensors| tensors as usize != self.tensors.len()))
    }

    fn split(&self, key: &str) -> Result<Option<u32>> {
        self.metadata.u32(&format!("split.{key}"))
    }

    async fn read_part(source: &dyn Source, start: u64, end: u64) -> Result<Header> {
        let len = end - start;
        let mut bytes = Vec::new();
        let mut window = FIRST_READ;
        loop {
            let missing = window.min(len) - bytes.len() as u64;
            bytes.extend(source.read(start + bytes.len() as u64, missing as usize).await?);
            match parse(&bytes, len) {
                Ok((header_len, entries, mut tensors)) => {
                    bytes.truncate(header_len);
                    bytes.shrink_to_fit();
                    tensors.iter_mut().for_each(|tensor| tensor.offset += start);
                    let metadata = Metadata { bytes, entries };
                    return Ok(Header { metadata, tensors, places: HashMap::new() });
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
        self.places.get(name).map(|&place| &self.tensors[place])
    }
}
