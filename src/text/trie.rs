//! Byte strings as a tree: what a walk along a text reads of them.

use crate::{Error, Result};
use std::ops::Range;

/// The most nodes, some 90 MB of them while they are made. Special tokens of published vocabularies take
/// some ten thousand, whole vocabularies of BERT's kind a hundred thousand.
const MAX_NODES: usize = 1 << 22;

/// The node before any byte.
pub(super) const ROOT: u32 = 0;
/// No node, or no string.
pub(super) const NONE: u32 = u32::MAX;

/// A tree of strings. Nodes are numbered by depth, and the children of one lie side by side, so that a
/// node costs nine bytes and a parent is numbered below its children.
#[derive(Debug)]
pub(super) struct Trie {
    /// The byte that leads to each node.
    bytes: Vec<u8>,
    /// Where each node's children begin; those of the next node follow.
    children: Vec<u32>,
    /// Which string each node ends, or [`NONE`].
    values: Vec<u32>,
}

impl Trie {
    /// Of `strings`, each with its value. Of equal ones the first counts; empty ones are left out.
    /// Fails with `unsupported_model` beyond four million nodes.
    pub(super) fn new<'a>(strings: impl Iterator<Item = (&'a [u8], u32)>) -> Result<Trie> {
        let mut strings: Vec<_> = strings.filter(|(text, _)| !text.is_empty()).collect();
        strings.sort();
        strings.dedup_by_key(|(text, _)| *text);
        let mut trie = Trie { bytes: vec![0], children: Vec::new(), values: vec![NONE] };
        // Of each node of one depth, the strings that begin as it does.
        let mut level: Vec<Range<usize>> = std::iter::once(0..strings.len()).collect();
        let mut depth = 0;
        while !level.is_empty() {
            let mut below = Vec::new();
            for range in level {
                trie.children.push(trie.bytes.len() as u32);
                trie.push_children(&strings, range, depth, &mut below)?;
            }
            level = below;
            depth += 1;
        }
        trie.children.push(trie.bytes.len() as u32);
        Ok(trie)
    }

    fn push_children(
        &mut self,
        strings: &[(&[u8], u32)],
        range: Range<usize>,
        depth: usize,
        below: &mut Vec<Range<usize>>,
    ) -> Result<()> {
        let mut start = range.start;
        // The string that ends here comes before those that go on.
        if depth > 0 && strings.get(start).is_some_and(|(text, _)| text.len() == depth) {
            start += 1;
        }
        while start < range.end {
            let (text, value) = strings[start];
            let byte = text[depth];
            let end = start + strings[start..range.end].partition_point(|(text, _)| text[depth] == byte);
            if self.bytes.len() == MAX_NODES {
                return Err(Error::unsupported_model(format!(
                    "the vocabulary's special tokens or words are too many: their tree has more than {MAX_NODES} nodes"
                )));
            }
            self.bytes.push(byte);
            self.values.push(if text.len() == depth + 1 { value } else { NONE });
            below.push(start..end);
            start = end;
        }
        Ok(())
    }

    /// Number of nodes.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Where `byte` leads.
    pub(super) fn step(&self, node: u32, byte: u8) -> Option<u32> {
        let children = self.children(node);
        let bytes = &self.bytes[children.start as usize..children.end as usize];
        let at = match bytes {
            [only] => (*only == byte).then_some(0)?,
            _ => bytes.binary_search(&byte).ok()?,
        };
        Some(children.start + at as u32)
    }

    /// The nodes one byte further.
    pub(super) fn children(&self, node: u32) -> Range<u32> {
        self.children[node as usize]..self.children[node as usize + 1]
    }

    /// The byte that leads to a node.
    pub(super) fn byte(&self, node: u32) -> u8 {
        self.bytes[node as usize]
    }

    /// The value of the string that ends at a node.
    pub(super) fn value(&self, node: u32) -> Option<u32> {
        Some(self.values[node as usize]).filter(|&value| value != NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_read_strings() {
        let words: [&[u8]; 6] = [b"he", b"she", b"his", b"hers", b"", b"he"];
        let trie = Trie::new(words.iter().zip(0..).map(|(word, id)| (*word, id))).unwrap();
        let walk = |text: &[u8]| text.iter().try_fold(ROOT, |node, &byte| trie.step(node, byte));
        let value = |text| walk(text).and_then(|node| trie.value(node));
        assert_eq!(
            [value(b"he"), value(b"she"), value(b"his"), value(b"hers")],
            [Some(0), Some(1), Some(2), Some(3)]
        );
        assert_eq!([value(b"h"), value(b"her"), value(b""), value(b"hex")], [None; 4]);
        assert_eq!(trie.len(), "_he_is_rs_she".replace('_', "").len() + 1);
        assert!((1..trie.len() as u32).all(|node| trie.children(node).start > node));
    }

    #[test]
    fn too_many_strings_are_refused() {
        let bytes: Vec<u8> = (0..MAX_NODES as u32 + 5).flat_map(u32::to_be_bytes).collect();
        let strings = bytes.chunks_exact(4).zip(0..);
        assert_eq!(Trie::new(strings).unwrap_err().code, crate::Code::UnsupportedModel);
    }
}
