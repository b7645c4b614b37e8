//! WordPiece as llama.cpp runs it for BERT: text is cleaned and cut into words, and each word is
//! taken apart into the longest tokens from the left. A word begins with "▁" in the vocabulary.

use super::vocabulary::Vocabulary;
use crate::model::gguf::Metadata;
use crate::{Error, Result};
use regex_automata::meta::Regex;
use unicode_normalization::char::decompose_canonical;

// What `classes` finds, in this order of precedence.
const SPACE: usize = 0;
const DROPPED: usize = 1;
const ACCENT: usize = 2;
const CLASSES: [&str; 4] = [
    r"\s+",
    r"[\p{Cc}\p{Cf}\p{Co}\u{FFFD}]", // not a run of them: line feeds are both, and spaces come first
    r"\p{M}+",
    // Words of one character: punctuation, ASCII symbols, and Chinese. (That Extension E begins at
    // U+2B920 is a slip of the pen that models were trained with.)
    r"[\p{P}$+<=>^`|~\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\u{F900}-\u{FAFF}\u{2F800}-\u{2FA1F}]",
];

#[derive(Debug)]
pub(super) struct WordPiece {
    classes: Regex,
    lowercase: bool,
    strip_accents: bool,
    /// Of the longest token, in bytes.
    longest: usize,
    unknown: Option<u32>,
}

impl WordPiece {
    pub fn new(metadata: &Metadata, vocabulary: &Vocabulary, unknown: Option<u32>) -> Result<WordPiece> {
        let lowercase = metadata.bool("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
        let strip_accents = metadata.bool("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase);
        let lengths = (0..vocabulary.len() as u32).filter_map(|id| vocabulary.text(id)).map(<[u8]>::len);
        Ok(WordPiece {
            classes: Regex::new_many(&CLASSES)
                .map_err(|error| Error::internal(format!("WordPiece: {error}")))?,
            lowercase,
            strip_accents,
            longest: lengths.max().unwrap_or(0),
            unknown,
        })
    }

    pub fn encode(&self, vocabulary: &Vocabulary, text: &str, ids: &mut Vec<u32>) {
        // llama.cpp keeps only the first character of each decomposition, which for Latin letters is
        // what remains without the accents.
        let base = |character| {
            let mut first = None;
            decompose_canonical(character, |part| _ = first.get_or_insert(part));
            first.unwrap_or(character)
        };
        let decomposed: Option<String> = self.strip_accents.then(|| text.chars().map(base).collect());
        let text = decomposed.as_deref().unwrap_or(text);

        let mut word = String::from("▁");
        let finish = |word: &mut String, ids: &mut Vec<u32>| {
            if word.len() > "▁".len() {
                self.encode_word(vocabulary, word, ids);
                word.truncate("▁".len());
            }
        };
        let mut at = 0;
        for found in self.classes.find_iter(text) {
            self.append(&mut word, &text[at..found.start()]);
            at = found.end();
            match found.pattern().as_usize() {
                SPACE => finish(&mut word, ids),
                DROPPED => {}
                ACCENT if self.strip_accents => {}
                ACCENT => self.append(&mut word, &text[found.range()]),
                _ => {
                    finish(&mut word, ids);
                    self.append(&mut word, &text[found.range()]);
                    finish(&mut word, ids);
                }
            }
        }
        self.append(&mut word, &text[at..]);
        finish(&mut word, ids);
    }

    fn append(&self, word: &mut String, text: &str) {
        match self.lowercase {
            // One character for one, as llama.cpp's table has it.
            true => word.extend(text.chars().map(|c| c.to_lowercase().next().unwrap_or(c))),
            false => word.push_str(text),
        }
    }

    fn encode_word(&self, vocabulary: &Vocabulary, word: &str, ids: &mut Vec<u32>) {
        let before = ids.len();
        let mut rest = word;
        while !rest.is_empty() {
            let longest = rest.len().min(self.longest);
            let token = (1..=longest)
                .rev()
                .filter(|&len| rest.is_char_boundary(len))
                .find_map(|len| Some((vocabulary.token(&rest.as_bytes()[..len])?, len)));
            match token {
                Some((id, len)) => {
                    ids.push(id);
                    rest = &rest[len..];
                }
                None => {
                    ids.truncate(before);
                    ids.extend(self.unknown);
                    return;
                }
            }
        }
    }
}
