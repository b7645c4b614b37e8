//! WordPiece as Hugging Face transformers runs it for BERT: text is cleaned and cut into words, and each word is
//! taken apart into the longest tokens from the left. A word begins with "▁" in the vocabulary.
//!
//! llama.cpp has its own cleaning, which loses the vowels of Hangul and of the scripts of India; the models were
//! trained with this one (`BertNormalizer`, `BertPreTokenizer` and `WordPiece` of the tokenizers crate).

use super::trie::{ROOT, Trie};
use super::vocabulary::Vocabulary;
use crate::format::gguf::Metadata;
use crate::turns::Turns;
use crate::{Error, Result};
use regex_automata::meta::Regex;
use unicode_normalization::UnicodeNormalization;

/// Words of more characters are unknown.
const MAX_WORD: usize = 100;

// What cleaning finds, in this order of precedence.
const BLANK: usize = 0;
const DROPPED: usize = 1;
const CLEANING: [&str; 3] = [
    r"[\t\n\r\p{Zs}\p{Zl}\p{Zp}]", // other control characters are no spaces but dropped
    r"[\p{Cc}\p{Cf}\p{Co}\u{FFFD}]",
    // Chinese, character by character. (That Extension E begins at U+2B920 is a slip of the pen that models were
    // trained with.)
    r"[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\u{F900}-\u{FAFF}\u{2F800}-\u{2FA1F}]",
];
/// A space, or punctuation, of which each character is a word: ASCII's symbols are some to BERT.
const WORDS: [&str; 2] = [" ", r"[\p{P}$+<=>^`|~]"];

#[derive(Debug)]
pub(super) struct WordPiece {
    cleaning: Regex,
    accents: Regex,
    words: Regex,
    lowercase: bool,
    strip_accents: bool,
    tokens: Trie,
    unknown: Option<u32>,
}

impl WordPiece {
    pub(super) fn new(
        metadata: &Metadata,
        vocabulary: &Vocabulary,
        unknown: Option<u32>,
    ) -> Result<WordPiece> {
        let lowercase = metadata.bool("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
        let strip_accents = metadata.bool("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase);
        let tokens = (0..vocabulary.len() as u32).filter_map(|id| Some((vocabulary.text(id)?, id)));
        let regex = |patterns: &[&str]| {
            Regex::new_many(patterns).map_err(|error| Error::internal(format!("WordPiece: {error}")))
        };
        Ok(WordPiece {
            cleaning: regex(&CLEANING)?,
            // As the tokenizers crate knows them: three characters have changed their category since.
            accents: regex(&[r"[[\p{Mn}\u{1734}]--[\u{1885}\u{1886}]]+"])?,
            words: regex(&WORDS)?,
            lowercase,
            strip_accents,
            tokens: Trie::new(tokens)?,
            unknown,
        })
    }

    pub(super) async fn encode(&self, text: &str, turns: &mut Turns, ids: &mut Vec<u32>) {
        let text = self.normalize(text);
        let mut at = 0;
        for found in self.words.find_iter(&text) {
            turns.step().await;
            self.encode_word(&text[at..found.start()], ids);
            if &text[found.range()] != " " {
                self.encode_word(&text[found.range()], ids);
            }
            at = found.end();
        }
        self.encode_word(&text[at..], ids);
    }

    /// Text with one kind of space, which is also around Chinese characters.
    fn normalize(&self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        let mut at = 0;
        for found in self.cleaning.find_iter(text) {
            clean.push_str(&text[at..found.start()]);
            match found.pattern().as_usize() {
                BLANK => clean.push(' '),
                DROPPED => {}
                _ => {
                    clean.push(' ');
                    clean.push_str(&text[found.range()]);
                    clean.push(' ');
                }
            }
            at = found.end();
        }
        clean.push_str(&text[at..]);
        if self.strip_accents {
            let decomposed: String = clean.nfd().collect();
            clean.clear();
            let mut at = 0;
            for found in self.accents.find_iter(&decomposed) {
                clean.push_str(&decomposed[at..found.start()]);
                at = found.end();
            }
            clean.push_str(&decomposed[at..]);
        }
        match self.lowercase {
            // Character by character: a sigma at the end of a word is none to BERT.
            true => clean.chars().flat_map(char::to_lowercase).collect(),
            false => clean,
        }
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) {
        if word.is_empty() {
            return;
        }
        let before = ids.len();
        let known = word.chars().nth(MAX_WORD).is_none() && {
            let start = "▁".bytes().try_fold(ROOT, |node, byte| self.tokens.step(node, byte));
            let first = start.and_then(|start| self.longest(start, word));
            let mut rest = word;
            let mut next = first;
            while let Some((id, len)) = next {
                ids.push(id);
                rest = &rest[len..];
                next = if rest.is_empty() { None } else { self.longest(ROOT, rest) };
            }
            rest.is_empty()
        };
        if !known {
            ids.truncate(before);
            ids.extend(self.unknown);
        }
    }

    /// The longest token that `text` begins with when one stands at `node`, and how much of it that is.
    fn longest(&self, mut node: u32, text: &str) -> Option<(u32, usize)> {
        let mut longest = None;
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            let Some(next) = self.tokens.step(node, byte) else { break };
            node = next;
            longest = self.tokens.value(node).map(|id| (id, at + 1)).or(longest);
        }
        longest
    }
}
