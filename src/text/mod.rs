//! Text to tokens and back.
//!
//! [`Tokenizer`] is built from a GGUF file's metadata and gives the ids that llama.cpp gives:
//!
//! ```text
//! text ─► special tokens cut out ─┬► spm        a space in front, best-scored neighbours joined
//!                                 ├► bpe        cut into words by regexes, lowest-ranked neighbours joined
//!                                 └► wordpiece  cleaned, cut into words, longest match from the left
//! ids  ─► detokenizer ─► whole characters, as they become complete
//! ```
//!
//! The `tokenizers` crate is not used. Its models differ from llama.cpp's where files do (scores
//! instead of merges, "▁" instead of "##", characters or merges outside the vocabulary), its regexes
//! backtrack and silently give up on long runs of spaces, and it wants the vocabulary as several maps
//! of owned strings. Joining neighbours, all that SPM and BPE are, is the hundred lines of `merges`.

mod bpe;
mod detokenizer;
mod merges;
mod pretokenizers;
mod rolling;
mod special;
mod spm;
mod tokenizer;
mod trie;
mod vocabulary;
mod wordpiece;

pub use detokenizer::Detokenizer;
pub use tokenizer::Tokenizer;
pub use vocabulary::Kind;
