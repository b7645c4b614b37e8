//! Cutting the special tokens that a text names out of it.

use super::vocabulary::{Kind, Vocabulary};
use crate::Result;
use crate::model::gguf::Metadata;
use std::collections::BTreeSet;
use std::ops::Range;

/// A part of a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fragment {
    Text(Range<usize>),
    Token(u32),
}

#[derive(Debug)]
struct Special {
    id: u32,
    /// Whether white space before it goes.
    strips_left: bool,
    /// Whether white space behind it goes.
    strips_right: bool,
}

/// The tokens that are looked for in texts, longest first.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    tokens: Vec<Special>,
    /// By first byte, the lengths that tokens have.
    lengths: Vec<BTreeSet<usize>>,
}

impl SpecialTokens {
    pub fn new(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<SpecialTokens> {
        let is_special =
            |id: &u32| matches!(vocabulary.kind(*id), Kind::Control | Kind::UserDefined | Kind::Unknown);
        // What is not UTF-8 is in no text.
        let text = |id: u32| text_of(vocabulary, id).unwrap_or_default();
        let is_text = |id: &u32| text_of(vocabulary, *id).is_some();
        let mut ids: Vec<u32> = (0..vocabulary.len() as u32).filter(is_special).filter(is_text).collect();
        ids.sort_by_key(|&id| std::cmp::Reverse(text(id).len()));
        let mut lengths = vec![BTreeSet::new(); 256];
        for &id in &ids {
            if let Some(&first) = text(id).as_bytes().first() {
                lengths[first as usize].insert(text(id).len());
            }
        }

        // Files do not say which tokens strip white space; llama.cpp goes by the model's name.
        let name = metadata.text("general.name")?.unwrap_or_default().to_ascii_lowercase();
        let pre = metadata.text("tokenizer.ggml.pre")?.unwrap_or_default();
        let architecture = metadata.text("general.architecture")?.unwrap_or_default();
        let contains = |text: &str, parts: &[&str]| parts.iter().any(|part| text.contains(part));
        let (mut strips_left, mut strips_right) = ("", false);
        if contains(&pre, &["jina-v2-de", "jina-v2-es", "jina-v2-code"])
            || contains(&architecture, &["nomic-bert-moe", "jina-bert-v3"])
        {
            strips_left = "<mask>";
        } else if contains(&name, &["phi-3", "phi3"]) {
            strips_right = true;
        } else if name.contains("modern-bert") {
            strips_left = "[MASK]";
        }
        let tokens = ids
            .into_iter()
            .map(|id| Special {
                id,
                strips_left: text(id) == strips_left,
                strips_right: strips_right && !matches!(text(id), "<unk>" | "<s>" | "<|endoftext|>"),
            })
            .collect();
        Ok(SpecialTokens { tokens, lengths })
    }

    /// Takes out each token in turn, longest first, wherever it occurs. Control tokens are left alone
    /// unless `parse_special`; user-defined ones never are.
    pub fn partition(&self, vocabulary: &Vocabulary, text: &str, parse_special: bool) -> Vec<Fragment> {
        let mut fragments = Vec::new();
        if !text.is_empty() {
            fragments.push(Fragment::Text(0..text.len()));
        }
        // Vocabularies have up to thousands of these tokens and texts few of them.
        let present = self.present(vocabulary, text, parse_special);
        for token in self.tokens.iter().filter(|token| present.contains(&token.id)) {
            let wanted = text_of(vocabulary, token.id).unwrap_or_default();
            let mut after = Vec::with_capacity(fragments.len());
            for fragment in fragments {
                match fragment {
                    Fragment::Text(range) => token.take_out(wanted, text, range, &mut after),
                    token => after.push(token),
                }
            }
            fragments = after;
        }
        fragments
    }

    fn present(&self, vocabulary: &Vocabulary, text: &str, parse_special: bool) -> BTreeSet<u32> {
        let mut present = BTreeSet::new();
        let text = text.as_bytes();
        for (at, &first) in text.iter().enumerate() {
            for &len in &self.lengths[first as usize] {
                let Some(id) = text.get(at..at + len).and_then(|text| vocabulary.token(text)) else {
                    continue;
                };
                let wanted = match vocabulary.kind(id) {
                    Kind::UserDefined => true,
                    Kind::Control | Kind::Unknown => parse_special,
                    _ => false,
                };
                if wanted {
                    present.insert(id);
                }
            }
        }
        present
    }
}

fn text_of(vocabulary: &Vocabulary, id: u32) -> Option<&str> {
    std::str::from_utf8(vocabulary.text(id)?).ok()
}

impl Special {
    fn take_out(&self, wanted: &str, text: &str, range: Range<usize>, fragments: &mut Vec<Fragment>) {
        // C's isspace.
        let is_space = |c: char| matches!(c, ' ' | '\t'..='\r');
        let mut start = range.start;
        while let Some(at) = text[start..range.end].find(wanted) {
            let left = &text[start..start + at];
            let left = if self.strips_left { left.trim_end_matches(is_space) } else { left };
            if !left.is_empty() {
                fragments.push(Fragment::Text(start..start + left.len()));
            }
            fragments.push(Fragment::Token(self.id));
            start += at + wanted.len();
            if self.strips_right {
                start = range.end - text[start..range.end].trim_start_matches(is_space).len();
            }
        }
        if start < range.end {
            fragments.push(Fragment::Text(start..range.end));
        }
    }
}
