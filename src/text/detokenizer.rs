//! Tokens to text as they come, in whole characters.

use super::tokenizer::Tokenizer;
use super::vocabulary::Kind;

/// Turns a stream of tokens into text. Everything pushed, put together, is what
/// [`Tokenizer::decode`] gives for all the tokens at once.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    /// The bytes of a character that is not complete yet: three at most.
    pending: Vec<u8>,
    /// Whether nothing has come yet, and a space now would be the one that encoding puts in front.
    strip_space: bool,
    show_special: bool,
}

impl Detokenizer {
    pub(super) fn new(strip_space: bool) -> Self {
        Detokenizer { pending: Vec::new(), strip_space, show_special: false }
    }

    /// Shows control tokens as they are written in the vocabulary instead of leaving them out.
    pub fn show_special(mut self) -> Self {
        self.show_special = true;
        self
    }

    /// The text that `id` completes; often none, when a character takes several tokens. What can be
    /// no character shows as U+FFFD. The time depends on the token only.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        let is_hidden = matches!(tokenizer.kind(id), Kind::Control | Kind::Unknown) && !self.show_special;
        if !is_hidden {
            let bytes = tokenizer.token_bytes(id);
            let rest = bytes.strip_prefix(b" ").filter(|_| self.strip_space);
            self.pending.extend_from_slice(rest.unwrap_or(&bytes));
            self.strip_space &= bytes.is_empty();
        }
        self.complete()
    }

    /// The end: what is left of an incomplete character, as U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    fn complete(&mut self) -> String {
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            let is_last = done + invalid.len() == self.pending.len();
            if is_last && is_incomplete(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                done += invalid.len();
            }
        }
        self.pending.drain(..done);
        text
    }
}

/// Whether more bytes could make these a character.
fn is_incomplete(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
}
