//! Split models: `stem-00001-of-00003.gguf` and so on, as llama.cpp's `gguf-split` writes them.

use super::Source;
use crate::Result;
use futures_util::future::LocalBoxFuture;

/// The name of one part: `stem-00001-of-00003.gguf`.
#[derive(Debug, PartialEq, Eq)]
pub struct Split<'a> {
    stem: &'a str,
    /// From 1.
    pub index: u32,
    /// Of parts.
    pub count: u32,
}

impl<'a> Split<'a> {
    /// Reads a path; nothing where a file is whole.
    pub fn of(path: &'a str) -> Option<Split<'a>> {
        let (rest, count) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, index) = rest.rsplit_once('-')?;
        let number = |digits: &str| -> Option<u32> {
            (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
        };
        let (index, count) = (number(index)?, number(count)?);
        (1 <= index && index <= count).then_some(Split { stem, index, count })
    }

    /// The path of another part.
    pub fn path(&self, index: u32) -> String {
        format!("{}-{index:05}-of-{:05}.gguf", self.stem, self.count)
    }
}

/// The parts of a split model, in order, as one source.
pub struct Joined<S> {
    name: String,
    parts: Vec<S>,
}

impl<S: Source> Joined<S> {
    /// `parts` are all there are. The name is the first one's.
    pub fn new(parts: Vec<S>) -> Self {
        let name = parts.first().map(|part| part.name().to_owned()).unwrap_or_default();
        Joined { name, parts }
    }

    /// The parts themselves.
    pub fn sources(&self) -> &[S] {
        &self.parts
    }
}

impl<S: Source> Source for Joined<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> u64 {
        self.parts.iter().map(Source::len).sum()
    }

    fn parts(&self) -> Vec<u64> {
        let mut start = 0;
        let begin = |part: &S| {
            start += part.len();
            start - part.len()
        };
        self.parts.iter().map(begin).collect()
    }

    fn read(&self, offset: u64, len: usize) -> LocalBoxFuture<'_, Result<Vec<u8>>> {
        Box::pin(async move {
            let (mut start, end) = (0, offset + len as u64);
            let mut bytes = Vec::new();
            for part in &self.parts {
                let (from, to) = (offset.max(start), end.min(start + part.len()));
                if from < to {
                    let piece = part.read(from - start, (to - from) as usize).await?;
                    // Nearly always a read stays in one part.
                    if bytes.is_empty() { bytes = piece } else { bytes.extend(piece) }
                }
                start += part.len();
            }
            Ok(bytes)
        })
    }
}
