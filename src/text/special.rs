//! Cutting the special tokens that a text names out of it.

use super::trie::{NONE, ROOT, Trie};
use super::vocabulary::{Kind, Vocabulary};
use crate::Result;
use crate::format::gguf::Metadata;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;

/// A part of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fragment {
    Text(Range<usize>),
    Token(u32),
}

/// The tokens that are looked for in texts.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    /// Those that are tokens in every text.
    always: Finder,
    /// Those and the ones that are so only where special tokens are wanted.
    parsed: Finder,
    strips: Strips,
}

/// Which tokens swallow the white space beside them.
#[derive(Debug, Default)]
struct Strips {
    left: Option<u32>,
    right: Vec<u32>,
}

impl SpecialTokens {
    /// Fails with `unsupported_model` where the vocabulary has far too many of them.
    pub(super) fn new(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<SpecialTokens> {
        let of = |kinds: &[Kind]| {
            let ids = (0..vocabulary.len() as u32).filter(|&id| kinds.contains(&vocabulary.kind(id)));
            // What is not UTF-8 is in no text.
            let text = |id| std::str::from_utf8(vocabulary.text(id)?).ok();
            Finder::new(ids.filter_map(|id| Some((text(id)?, id))))
        };
        Ok(SpecialTokens {
            always: of(&[Kind::UserDefined])?,
            parsed: of(&[Kind::UserDefined, Kind::Control, Kind::Unknown])?,
            strips: Strips::new(metadata, vocabulary)?,
        })
    }

    /// Takes out each token in turn, longest first, those of one length by their ids, wherever they occur from the
    /// left. Control tokens are left alone unless `parse_special`; user-defined ones never are. O(n log n) for n bytes,
    /// whatever the vocabulary.
    pub(super) fn partition(&self, text: &str, parse_special: bool) -> Vec<Fragment> {
        let finder = if parse_special { &self.parsed } else { &self.always };
        let mut taken = Taken { text, ranges: BTreeMap::new() };
        let mut candidates = finder.candidates(text);
        while let Some(Candidate { len, end, pattern, .. }) = candidates.pop() {
            let room = taken.room(end as usize);
            if len as usize <= room {
                taken.take(end as usize - len as usize..end as usize, finder.id(pattern), &self.strips);
            } else if let Some(shorter) = finder.fitting(pattern, room) {
                candidates.push(finder.candidate(shorter, end));
            }
        }
        taken.fragments()
    }
}

impl Strips {
    fn new(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Strips> {
        // Files do not say which tokens strip white space; llama.cpp goes by the model's name.
        let name = metadata.text("general.name")?.unwrap_or_default().to_ascii_lowercase();
        let pre = metadata.text("tokenizer.ggml.pre")?.unwrap_or_default();
        let architecture = metadata.text("general.architecture")?.unwrap_or_default();
        let contains = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
        let mut strips = Strips::default();
        if contains(&pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"])
            || contains(&architecture, &["nomic-bert-moe", "jina-bert-v3"])
        {
            strips.left = vocabulary.token(b"<mask>");
        } else if contains(&name, &["phi-3", "phi3"]) {
            let stays = ["<unk>", "<s>", "<|endoftext|>"].map(|text| vocabulary.token(text.as_bytes()));
            strips.right = (0..vocabulary.len() as u32)
                .filter(|&id| is_special(vocabulary, id) && !stays.contains(&Some(id)))
                .collect();
        } else if name.contains("modern-bert") {
            strips.left = vocabulary.token(b"[MASK]");
        }
        Ok(strips)
    }
}

fn is_special(vocabulary: &Vocabulary, id: u32) -> bool {
    matches!(vocabulary.kind(id), Kind::Control | Kind::UserDefined | Kind::Unknown)
}

/// What of a text has become tokens.
struct Taken<'a> {
    text: &'a str,
    /// By beginning: the end, and the token. White space that a token swallows is in its range.
    ranges: BTreeMap<usize, (usize, u32)>,
}

impl Taken<'_> {
    /// How many bytes that end at `end` are still text.
    fn room(&self, end: usize) -> usize {
        match self.ranges.range(..end).next_back() {
            Some((_, &(last, _))) => end.saturating_sub(last),
            None => end,
        }
    }

    fn take(&mut self, token: Range<usize>, id: u32, strips: &Strips) {
        // C's isspace.
        let is_space = |c: char| matches!(c, ' ' | '\t'..='\r');
        let Range { mut start, mut end } = token;
        if strips.left == Some(id) {
            let before = start - self.room(start);
            start = before + self.text[before..start].trim_end_matches(is_space).len();
        }
        if strips.right.binary_search(&id).is_ok() {
            let after = self.ranges.range(end..).next().map_or(self.text.len(), |(&next, _)| next);
            end = after - self.text[end..after].trim_start_matches(is_space).len();
        }
        self.ranges.insert(start, (end, id));
    }

    fn fragments(self) -> Vec<Fragment> {
        let mut fragments = Vec::with_capacity(2 * self.ranges.len() + 1);
        let mut at = 0;
        let text = |range: Range<usize>, fragments: &mut Vec<Fragment>| {
            if !range.is_empty() {
                fragments.push(Fragment::Text(range));
            }
        };
        for (start, (end, id)) in self.ranges {
            text(at..start, &mut fragments);
            fragments.push(Fragment::Token(id));
            at = end;
        }
        text(at..self.text.len(), &mut fragments);
        fragments
    }
}

/// A token that a text may have at a place. Longer ones are greater; of one length, lower ids, then earlier places.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    len: u32,
    id: Reverse<u32>,
    last: Reverse<u32>,
    end: u32,
    pattern: u32,
}

/// Finds the tokens that end at each place of a text, in one walk along it: the automaton of Aho and Corasick
/// (Communications of the ACM 18, 1975).
#[derive(Debug)]
struct Finder {
    trie: Trie,
    /// Of each node: the longest proper suffix of what leads to it that is a node too.
    suffixes: Vec<u32>,
    /// Of each node: the longest token that what leads to it ends with.
    longest: Vec<u32>,
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, Copy)]
struct Pattern {
    id: u32,
    len: u32,
    /// The next shorter token that this one ends with, or [`NONE`].
    shorter: u32,
    /// One much shorter, so that any of them is reached in logarithmic time (Myers, "An applicative random-access
    /// stack", 1983).
    jump: u32,
    /// How many shorter ones there are.
    depth: u32,
}

impl Finder {
    fn new<'a>(tokens: impl Iterator<Item = (&'a str, u32)>) -> Result<Finder> {
        let trie = Trie::new(tokens.map(|(text, id)| (text.as_bytes(), id)))?;
        let nodes = trie.len();
        let mut finder =
            Finder { trie, suffixes: vec![ROOT; nodes], longest: vec![NONE; nodes], patterns: Vec::new() };
        let mut lens = vec![0; nodes];
        for node in 0..nodes as u32 {
            // A suffix is shorter, so its number is lower, and it is done.
            let suffix = finder.suffixes[node as usize];
            let shorter = finder.longest[suffix as usize];
            finder.longest[node as usize] = match finder.trie.value(node) {
                Some(id) => finder.push(id, lens[node as usize], shorter),
                None => shorter,
            };
            for child in finder.trie.children(node) {
                lens[child as usize] = lens[node as usize] + 1;
                if node != ROOT {
                    finder.suffixes[child as usize] = finder.next(suffix, finder.trie.byte(child));
                }
            }
        }
        Ok(finder)
    }

    fn push(&mut self, id: u32, len: u32, shorter: u32) -> u32 {
        let index = self.patterns.len() as u32;
        let (mut jump, mut depth) = (shorter, 0);
        if let Some(next) = self.patterns.get(shorter as usize) {
            depth = next.depth + 1;
            if let Some(far) = self.patterns.get(next.jump as usize) {
                let further = self.patterns.get(far.jump as usize).map_or(0, |pattern| pattern.depth);
                if next.depth - far.depth == far.depth - further && far.jump != NONE {
                    jump = far.jump;
                }
            }
        }
        self.patterns.push(Pattern { id, len, shorter, jump, depth });
        index
    }

    /// Where `byte` leads from a node or, if nowhere, from the longest suffix that it leads from.
    fn next(&self, mut node: u32, byte: u8) -> u32 {
        loop {
            match self.trie.step(node, byte) {
                Some(next) => return next,
                None if node == ROOT => return ROOT,
                None => node = self.suffixes[node as usize],
            }
        }
    }

    /// The longest token that ends at each place.
    fn candidates(&self, text: &str) -> BinaryHeap<Candidate> {
        let mut candidates = Vec::new();
        let mut node = ROOT;
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            node = self.next(node, byte);
            let pattern = self.longest[node as usize];
            if pattern != NONE {
                candidates.push(self.candidate(pattern, at as u32 + 1));
            }
        }
        candidates.into()
    }

    fn candidate(&self, pattern: u32, end: u32) -> Candidate {
        let Pattern { id, len, .. } = self.patterns[pattern as usize];
        Candidate { len, id: Reverse(id), last: Reverse(end), end, pattern }
    }

    fn id(&self, pattern: u32) -> u32 {
        self.patterns[pattern as usize].id
    }

    /// The longest token of at most `room` bytes that `pattern` ends with.
    fn fitting(&self, mut pattern: u32, room: usize) -> Option<u32> {
        loop {
            let Pattern { len, shorter, jump, .. } = *self.patterns.get(pattern as usize)?;
            if len as usize <= room {
                return Some(pattern);
            }
            let jumps = self.patterns.get(jump as usize).is_some_and(|far| far.len as usize > room);
            pattern = if jumps { jump } else { shorter };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::{RngCore, SeedableRng};

    /// As llama.cpp does it: each token searched for in all that is still text.
    fn one_by_one(tokens: &[String], text: &str, strips: &Strips) -> Vec<Fragment> {
        let is_space = |c: char| matches!(c, ' ' | '\t'..='\r');
        let mut ids: Vec<u32> = (0..tokens.len() as u32).collect();
        ids.sort_by_key(|&id| Reverse(tokens[id as usize].len()));
        let mut fragments = vec![Fragment::Text(0..text.len())];
        for id in ids {
            let token = &tokens[id as usize];
            let mut after = Vec::new();
            for fragment in fragments {
                let Fragment::Text(Range { mut start, end }) = fragment else {
                    after.push(fragment);
                    continue;
                };
                while let Some(at) = text[start..end].find(token.as_str()) {
                    let mut left = &text[start..start + at];
                    if strips.left == Some(id) {
                        left = left.trim_end_matches(is_space);
                    }
                    after.push(Fragment::Text(start..start + left.len()));
                    after.push(Fragment::Token(id));
                    start += at + token.len();
                    if strips.right.contains(&id) {
                        start = end - text[start..end].trim_start_matches(is_space).len();
                    }
                }
                after.push(Fragment::Text(start..end));
            }
            fragments = after;
        }
        fragments.retain(|fragment| !matches!(fragment, Fragment::Text(range) if range.is_empty()));
        fragments
    }

    #[test]
    fn as_if_searched_for_one_by_one() {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let mut number = |below: usize| random.next_u32() as usize % below;
        for round in 0..4000 {
            let letters = ["ab", "ab ", "aé ", "abc \n"][round % 4];
            let mut word = |longest: usize| -> String {
                let len = number(longest) + 1;
                (0..len).map(|_| letters.chars().nth(number(letters.chars().count())).unwrap()).collect()
            };
            let mut tokens: Vec<String> = (0..round % 12).map(|_| word(5)).collect();
            tokens.sort();
            tokens.dedup();
            let strips = Strips { left: Some(0), right: vec![1, 2] };
            let text = word(60);
            let finder = Finder::new(tokens.iter().map(String::as_str).zip(0..)).unwrap();
            let empty = Finder::new(std::iter::empty()).unwrap();
            let special = SpecialTokens { always: empty, parsed: finder, strips };
            assert_eq!(
                special.partition(&text, true),
                one_by_one(&tokens, &text, &special.strips),
                "{tokens:?} in {text:?}"
            );
            assert_eq!(special.partition(&text, false), [Fragment::Text(0..text.len())]);
        }
    }
}
