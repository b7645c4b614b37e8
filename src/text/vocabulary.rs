//! The tokens of a file: id to text, text to id, and what kind each is.

use super::rolling::{Prefixes, Rolling};
use crate::format::gguf::Metadata;
use crate::{Error, Result};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::ops::Range;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A piece of text.
    Normal,
    /// Stands for what the vocabulary cannot express.
    Unknown,
    /// Steers the model and is no text: `<s>`, `<|im_end|>`.
    Control,
    /// Text that is never cut up.
    UserDefined,
    /// One byte: `<0x0A>`.
    Byte,
    /// Fills a gap in the numbering.
    Unused,
}

impl Kind {
    /// Of a `token_type` value.
    fn from_id(id: i64) -> Kind {
        match id {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            6 => Kind::Byte,
            _ => Kind::Unused,
        }
    }
}

/// The largest published vocabularies have some 260,000.
const MAX_TOKENS: usize = 1 << 21;
/// In bytes. The longest tokens of published vocabularies are runs of some hundred spaces.
const MAX_TOKEN: usize = 1 << 16;

/// All texts lie one behind the other, and the index holds ids only: 150,000 tokens take two allocations. A text is
/// UTF-8 in most files, but nothing says that it has to be.
#[derive(Debug)]
pub(super) struct Vocabulary {
    texts: Vec<u8>,
    /// Where each text ends.
    ends: Vec<u32>,
    index: HashTable<u32>,
    hasher: Rolling,
    kinds: Vec<Kind>,
}

impl Vocabulary {
    pub(super) fn from_metadata(metadata: &Metadata) -> Result<Vocabulary> {
        let key = "tokenizer.ggml.tokens";
        let tokens = metadata.strings(key)?.filter(|tokens| tokens.len() > 0);
        let tokens =
            tokens.ok_or_else(|| Error::corrupt_model(format!("the file has no vocabulary ({key})")))?;
        if tokens.len() > MAX_TOKENS {
            let message = format!("{key} has {} tokens, more than {MAX_TOKENS}", tokens.len());
            return Err(Error::unsupported_model(message));
        }
        let longest = tokens.clone().map(<[u8]>::len).max().unwrap_or(0);
        if longest > MAX_TOKEN {
            let message = format!("{key} has a token of {longest} bytes, more than {MAX_TOKEN}");
            return Err(Error::unsupported_model(message));
        }
        let key = "tokenizer.ggml.token_type";
        check_len(metadata, key, tokens.len())?;
        let kinds = match metadata.integers(key)? {
            Some(kinds) => kinds.into_iter().map(Kind::from_id).collect(),
            None => vec![Kind::Normal; tokens.len()],
        };

        let mut vocabulary = Vocabulary {
            texts: Vec::with_capacity(tokens.clone().map(<[u8]>::len).sum()),
            ends: Vec::with_capacity(tokens.len()),
            index: HashTable::with_capacity(tokens.len()),
            hasher: Rolling::new(longest),
            kinds,
        };
        for (id, token) in tokens.enumerate() {
            let stand_in; // llama.cpp's name for a token without text
            let text = match token.is_empty() {
                true => {
                    stand_in = format!("[EMPTY_{id}]");
                    stand_in.as_bytes()
                }
                false => token,
            };
            let first = vocabulary.intern(text);
            if first != id as u32 {
                return Err(Error::corrupt_model(format!(
                    "tokens {first} and {id} are the same: {:?}",
                    String::from_utf8_lossy(text)
                )));
            }
        }
        Ok(vocabulary)
    }

    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The id of `text`. New texts get ids past the tokens': pieces that merges go through without
    /// their being tokens.
    pub(super) fn intern(&mut self, text: &[u8]) -> u32 {
        let Vocabulary { texts, ends, index, hasher, .. } = self;
        let hash = hasher.hash(text);
        let same = |&id: &u32| text_of(texts, ends, id) == Some(text);
        match index.entry(hash, same, |&id| hasher.hash(text_of(texts, ends, id).unwrap_or_default())) {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let id = ends.len() as u32;
                entry.insert(id);
                texts.extend_from_slice(text);
                ends.push(texts.len() as u32);
                id
            }
        }
    }

    /// The token or interned piece that reads `text`.
    pub(super) fn piece(&self, text: &[u8]) -> Option<u32> {
        self.find(self.hasher.hash(text), text)
    }

    fn find(&self, hash: u64, text: &[u8]) -> Option<u32> {
        self.index.find(hash, |&id| self.text(id) == Some(text)).copied()
    }

    /// From which [`part`](Self::part) finds tokens.
    pub(super) fn prefixes(&self, text: &[u8]) -> Prefixes {
        self.hasher.prefixes(text)
    }

    /// The token that a part of `text` reads, without reading all of that where there is none.
    pub(super) fn part(&self, text: &[u8], prefixes: &Prefixes, part: Range<usize>) -> Option<u32> {
        let hash = self.hasher.part(prefixes, part.clone())?;
        self.find(hash, &text[part]).filter(|&id| self.is_token(id))
    }

    /// The token that reads `text`.
    pub(super) fn token(&self, text: &[u8]) -> Option<u32> {
        self.piece(text).filter(|&id| self.is_token(id))
    }

    pub(super) fn is_token(&self, id: u32) -> bool {
        (id as usize) < self.len()
    }

    pub(super) fn text(&self, id: u32) -> Option<&[u8]> {
        text_of(&self.texts, &self.ends, id)
    }

    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        if let Some(entry) = self.kinds.get_mut(id as usize) {
            *entry = kind;
        }
    }
}

/// A list of one value a token has as many. To be asked before it is read, and takes the room that it claims.
pub(super) fn check_len(metadata: &Metadata, key: &str, tokens: usize) -> Result<()> {
    match metadata.array_len(key) {
        Some(entries) if entries != tokens => {
            Err(Error::corrupt_model(format!("{key} has {entries} entries for {tokens} tokens")))
        }
        _ => Ok(()),
    }
}

fn text_of<'a>(texts: &'a [u8], ends: &[u32], id: u32) -> Option<&'a [u8]> {
    let end = *ends.get(id as usize)?;
    let start = if id == 0 { 0 } else { ends[id as usize - 1] };
    texts.get(start as usize..end as usize)
}
