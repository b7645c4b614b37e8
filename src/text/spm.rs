//! SentencePiece as llama.cpp runs it: from single characters, the neighbours whose joint text is the
//! token with the highest score are joined first. What is no token in the end is written as bytes.

use super::merges::{NONE, Symbol, Word};
use super::vocabulary::{Vocabulary, check_len};
use crate::Result;
use crate::format::gguf::Metadata;
use crate::turns::Turns;

#[derive(Debug)]
pub(super) struct Spm {
    /// By id: the higher a token's score, the lower its rank.
    ranks: Vec<u32>,
    /// The token for each byte, or [`NONE`].
    bytes: [u32; 256],
    /// For bytes without a token.
    unknown: Option<u32>,
}

impl Spm {
    pub(super) fn new(metadata: &Metadata, vocabulary: &Vocabulary, unknown: Option<u32>) -> Result<Spm> {
        let key = "tokenizer.ggml.scores";
        check_len(metadata, key, vocabulary.len())?;
        let ranks: Vec<u32> = match metadata.f32s(key)? {
            Some(scores) => scores.into_iter().map(rank).collect(),
            None => vec![0; vocabulary.len()],
        };
        let bytes = std::array::from_fn(|byte| {
            let byte = byte as u8;
            let token = byte_token(vocabulary, byte).or_else(|| vocabulary.token(&[byte]));
            token.unwrap_or(NONE)
        });
        Ok(Spm { ranks, bytes, unknown })
    }

    /// `text` has "▁" for spaces.
    pub(super) async fn encode(
        &self,
        vocabulary: &Vocabulary,
        text: &str,
        word: &mut Word,
        turns: &mut Turns,
        ids: &mut Vec<u32>,
    ) {
        word.clear();
        let mut utf8 = [0; 4];
        for character in text.chars() {
            let text = character.encode_utf8(&mut utf8).as_bytes();
            word.push(vocabulary.token(text).unwrap_or(NONE), text.len());
        }
        let prefixes = vocabulary.prefixes(text.as_bytes());
        let join = |left: &Symbol, right: &Symbol| {
            let joined = left.start as usize..(right.start + right.len) as usize;
            let id = vocabulary.part(text.as_bytes(), &prefixes, joined)?;
            Some((self.ranks[id as usize], id))
        };
        word.merge(turns, join).await;
        for symbol in word.symbols() {
            if symbol.piece != NONE {
                ids.push(symbol.piece);
                continue;
            }
            for &byte in &text.as_bytes()[symbol.start as usize..(symbol.start + symbol.len) as usize] {
                match self.bytes[byte as usize] {
                    NONE => ids.extend(self.unknown),
                    id => ids.push(id),
                }
            }
        }
    }
}

/// The `<0x0A>` token of a byte.
pub(super) fn byte_token(vocabulary: &Vocabulary, byte: u8) -> Option<u32> {
    vocabulary.token(format!("<0x{byte:02X}>").as_bytes())
}

/// Orders as floats do, downwards.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // makes -0 equal 0
    let ascending = if score.is_sign_negative() && bits != 0 { !bits } else { bits | 1 << 31 };
    !ascending
}
