//! Split models: `stem-00001-of-00003.gguf` and so on, as llama.cpp's `gguf-split` writes them.

use super::Source;
use crate::{Error, Result};
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

    /// The first of `count` parts of a model.
    pub fn first(stem: &'a str, count: u32) -> Split<'a> {
        Split { stem, index: 1, count }
    }

    /// The path of another part.
    pub fn path(&self, index: u32) -> String {
        format!("{}-{index:05}-of-{:05}.gguf", self.stem, self.count)
    }

    /// The paths of all parts, in order.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        (1..=self.count).map(|index| self.path(index))
    }

    /// The order of files that are one model, as their names say it: which of them is the first part, and so on. Nothing
    /// where one of the names says nothing. Fails with `model_not_found` where parts are missing, and `invalid_argument`
    /// where there are two of one, or parts of several models.
    pub fn order(names: &[&str]) -> Result<Option<Vec<usize>>> {
        let splits: Vec<Split> = names.iter().filter_map(|name| Split::of(name)).collect();
        let Some(first) = splits.first().filter(|_| splits.len() == names.len()) else { return Ok(None) };
        let mut places = vec![None; first.count as usize];
        for (file, split) in splits.iter().enumerate() {
            if (split.stem, split.count) != (first.stem, first.count) {
                return Err(Error::invalid_argument(format!(
                    "{} and {} are parts of different models",
                    names[0], names[file]
                )));
            }
            if places[split.index as usize - 1].replace(file).is_some() {
                return Err(Error::invalid_argument(format!("the part {} is given twice", names[file])));
            }
        }
        let missing =
            (1..).zip(&places).filter(|(_, place)| place.is_none()).map(|(part, _)| first.path(part));
        lacks_none(missing, first.count)?;
        Ok(Some(places.into_iter().flatten().collect()))
    }
}

/// Fails with `model_not_found`, and names some of them, where parts of a model in `count` files are `missing`.
pub(crate) fn lacks_none(missing: impl Iterator<Item = String>, count: u32) -> Result<()> {
    const NAMED: usize = 4;
    let mut missing = missing.peekable();
    let mut named: Vec<String> = missing.by_ref().take(NAMED).collect();
    if missing.peek().is_some() {
        named.push("more".to_owned());
    }
    let listed = match named.as_slice() {
        [one] => format!("{one} is"),
        [first @ .., last] => format!("{} and {last} are", first.join(", ")),
        [] => return Ok(()),
    };
    Err(Error::model_not_found(format!(
        "{listed} missing: the model is in {count} files, and needs them all"
    )))
}

/// `items` in an order as [`Split::order`] gives it.
pub(crate) fn arranged<T>(items: Vec<T>, order: &[usize]) -> Vec<T> {
    let mut items: Vec<Option<T>> = items.into_iter().map(Some).collect();
    order.iter().filter_map(|&index| items.get_mut(index)?.take()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn the_order_of_parts() {
        let part = |stem: &str, index: u32, count: u32| format!("{stem}-{index:05}-of-{count:05}.gguf");
        let order = |names: &[String]| Split::order(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let three = [part("m", 3, 3), part("m", 1, 3), part("m", 2, 3)];
        assert_eq!(order(&three), Ok(Some(vec![1, 2, 0])));
        assert_eq!(arranged(vec!["c", "a", "b"], &[1, 2, 0]), ["a", "b", "c"]);
        assert_eq!(order(&[part("m", 1, 1)]), Ok(Some(vec![0])));
        assert_eq!(order(&["m.gguf".to_owned()]), Ok(None));
        assert_eq!(order(&[part("m", 1, 2), "other.gguf".to_owned()]), Ok(None));
        assert_eq!(order(&[]), Ok(None));
        for (names, code, message) in [
            (
                vec![part("m", 2, 3)],
                Code::ModelNotFound,
                "m-00001-of-00003.gguf and m-00003-of-00003.gguf are missing",
            ),
            (vec![part("m", 1, 3), part("m", 3, 3)], Code::ModelNotFound, "m-00002-of-00003.gguf is missing"),
            (vec![part("m", 1, 99_999)], Code::ModelNotFound, "m-00005-of-99999.gguf and more are missing"),
            (vec![part("m", 1, 2), part("m", 1, 2)], Code::InvalidArgument, "given twice"),
            (vec![part("m", 1, 2), part("n", 2, 2)], Code::InvalidArgument, "different models"),
            (vec![part("m", 1, 2), part("m", 2, 3)], Code::InvalidArgument, "different models"),
        ] {
            let error = order(&names).unwrap_err();
            assert!(error.code == code && error.message.contains(message), "{error}");
        }
    }
}
