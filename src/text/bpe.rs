//! Byte-pair encoding: text is cut into words, and in each the neighbours that come first in the
//! file's list of merges are joined first.

use super::merges::{NONE, Word};
use super::pretokenizers::{PreTokenizer, Rules};
use super::spm::byte_token;
use super::vocabulary::Vocabulary;
use crate::format::gguf::Metadata;
use crate::turns::Turns;
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;

/// GPT-2 writes each byte as a printable character: itself where it is one, otherwise the next one
/// from U+0100 on.
const BYTE_CHARACTERS: [char; 256] = {
    let mut table = ['\0'; 256];
    let (mut byte, mut next) = (0, 0x100);
    while byte < 256 {
        table[byte as usize] = match byte {
            0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => byte as u8 as char,
            _ => {
                next += 1;
                match char::from_u32(next - 1) {
                    Some(character) => character,
                    None => '\0',
                }
            }
        };
        byte += 1;
    }
    table
};

/// The byte that `character` stands for.
pub(super) fn byte_of(character: char) -> Option<u8> {
    match character as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// The largest published lists have some 510,000.
const MAX_MERGES: usize = 1 << 21;

#[derive(Debug)]
pub(super) struct Bpe {
    pre_tokenizer: PreTokenizer,
    /// Two pieces, left in the upper half: the place in the list, and what they read as together.
    merges: HashMap<u64, (u32, u32)>,
    /// Each byte's piece, or [`NONE`].
    bytes: [u32; 256],
    /// Whether words that are tokens are taken as they are.
    ignore_merges: bool,
    /// Whether tokens are written in GPT-2's characters; otherwise they are text.
    byte_level: bool,
    /// Whether spaces are "▁" in them.
    escapes_spaces: bool,
    lowercase: bool,
}

impl Bpe {
    pub(super) fn new(metadata: &Metadata, vocabulary: &mut Vocabulary, rules: &Rules) -> Result<Bpe> {
        let key = "tokenizer.ggml.merges";
        let list = metadata
            .strings(key)?
            .ok_or_else(|| Error::corrupt_model(format!("the file has no merges ({key})")))?;
        if list.len() > MAX_MERGES {
            let message = format!("{key} has {} entries, more than {MAX_MERGES}", list.len());
            return Err(Error::unsupported_model(message));
        }
        let mut merges = HashMap::with_capacity(list.len());
        let mut joined = Vec::new();
        for (rank, merge) in list.enumerate() {
            // A piece may itself begin with a space. What is no pair is passed over, as in llama.cpp.
            let space = merge.iter().skip(1).position(|&byte| byte == b' ').map(|at| at + 1);
            let Some((left, right)) = space.map(|at| (&merge[..at], &merge[at + 1..])) else { continue };
            joined.clear();
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            let pair = key_of(vocabulary.intern(left), vocabulary.intern(right));
            let piece = vocabulary.intern(&joined);
            merges.entry(pair).or_insert((rank as u32, piece));
        }
        let mut utf8 = [0; 4];
        let bytes = BYTE_CHARACTERS
            .map(|character| vocabulary.piece(character.encode_utf8(&mut utf8).as_bytes()).unwrap_or(NONE));
        Ok(Bpe {
            pre_tokenizer: PreTokenizer::new(rules.splits)?,
            merges,
            bytes,
            ignore_merges: rules.ignore_merges,
            byte_level: rules.byte_level,
            escapes_spaces: rules.escapes_spaces,
            // Only text can be changed: byte-level models are trained on what is written.
            lowercase: !rules.byte_level
                && metadata.bool("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(false),
        })
    }

    /// Whether tokens are written in GPT-2's characters.
    pub(super) fn is_byte_level(&self) -> bool {
        self.byte_level
    }

    pub(super) async fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        word: &mut Word,
        turns: &mut Turns,
        ids: &mut Vec<u32>,
    ) {
        let text = self.normalize(text);
        let mut start = 0;
        let mut written = String::new();
        for end in self.pre_tokenizer.split(&text) {
            turns.step().await;
            let text = &text[start..end];
            start = end;
            if self.ignore_merges || !self.byte_level {
                written.clear();
                match self.byte_level {
                    true => written.extend(text.bytes().map(|byte| BYTE_CHARACTERS[byte as usize])),
                    false => written.push_str(text),
                }
                // Runs of line feeds are whole tokens where spaces are written as "▁".
                let whole = self.ignore_merges || text.bytes().all(|byte| byte == b'\n');
                if let Some(id) = vocabulary.token(written.as_bytes()).filter(|_| whole) {
                    ids.push(id);
                    continue;
                }
            }
            self.encode_word(vocabulary, text, word, turns, ids).await;
        }
    }

    fn normalize<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match (self.escapes_spaces, self.lowercase) {
            (true, _) => text.replace(' ', "▁").into(),
            (_, true) => text.to_lowercase().into(),
            _ => text.into(),
        }
    }

    async fn encode_word(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        word: &mut Word,
        turns: &mut Turns,
        ids: &mut Vec<u32>,
    ) {
        word.clear();
        if self.byte_level {
            text.bytes().for_each(|byte| word.push(self.bytes[byte as usize], 1));
        } else {
            let mut utf8 = [0; 4];
            for character in text.chars() {
                let text = character.encode_utf8(&mut utf8).as_bytes();
                word.push(vocabulary.piece(text).unwrap_or(NONE), text.len());
            }
        }
        word.merge(turns, |left, right| self.merges.get(&key_of(left.piece, right.piece)).copied()).await;
        for symbol in word.symbols() {
            if vocabulary.is_token(symbol.piece) {
                ids.push(symbol.piece);
                continue;
            }
            // As llama.cpp: byte by byte of how it is written, and what has no token either is lost.
            for &byte in &text.as_bytes()[symbol.start as usize..(symbol.start + symbol.len) as usize] {
                if self.byte_level {
                    let mut utf8 = [0; 4];
                    let written = BYTE_CHARACTERS[byte as usize].encode_utf8(&mut utf8);
                    ids.extend(written.bytes().filter_map(|byte| vocabulary.token(&[byte])));
                } else {
                    ids.extend(byte_token(vocabulary, byte));
                }
            }
        }
    }
}

fn key_of(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        for byte in 0..=255 {
            assert_eq!(byte_of(BYTE_CHARACTERS[byte as usize]), Some(byte));
        }
        assert_eq!(BYTE_CHARACTERS[b' ' as usize], 'Ġ');
        assert_eq!(byte_of('｜'), None);
    }
}
