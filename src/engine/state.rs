//! What the model has computed of a conversation: made ahead, kept under a name, written out and read back.
//!
//! A state is a text's tokens with their pages of keys and values. It is written out as
//!
//! ```text
//! "CANDLEST"  version: u32  length of the header: u32  header: JSON  pages  SHA-256 of all before: 32 bytes
//! ```
//!
//! with numbers in little-endian order. Pages are as the device has them, so that what is read back is what was there to
//! the bit: [`Saved::form`] says of which weights and what kind of device.

use super::Engine;
use super::generation::{Event, Generation, Prompt};
use super::start::Start;
use crate::backend::pages;
use crate::chat::Conversation;
use crate::store::{Store, read_session, save_session};
use crate::turns::Turns;
use crate::{Code, Error, Result};
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"CANDLEST";
const VERSION: u32 = 1;
/// Of a SHA-256.
const HASH: usize = 32;
/// What stands before the header.
const FRONT: usize = MAGIC.len() + 8;
/// Bytes between two looks at whether others want to work.
const PIECE: usize = 1 << 20;

/// A state that was written out, without its pages.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Saved {
    /// Whose: weights, what is computed with them, and on what kind of device.
    pub form: String,
    /// What the model has read.
    pub tokens: Vec<u32>,
    /// The conversation that these tokens are the beginning of, where it is one.
    pub conversation: Option<Conversation>,
    page_size: usize,
    /// Bytes behind the pages: what recurrent layers remember.
    #[serde(default)]
    state_size: usize,
}

/// What has become of a state that was read back.
#[derive(Debug, Clone, PartialEq)]
pub struct Restored {
    /// The conversation, where it is one's state.
    pub conversation: Option<Conversation>,
    /// Tokens that the model need not read again.
    pub tokens: usize,
    /// Why that is none, where it is.
    pub reason: Option<String>,
}

impl Saved {
    /// What `bytes` are, and where the pages are in them. Fails with `invalid_argument` where they are no state, or one
    /// that was damaged.
    pub async fn read(bytes: &[u8]) -> Result<(Saved, &[u8])> {
        let refused = |why: &str| Err(Error::invalid_argument(format!("this is no saved session: {why}")));
        let Some((front, _)) = bytes.split_at_checked(FRONT).filter(|(front, _)| front.starts_with(MAGIC))
        else {
            return refused("it does not begin as one");
        };
        let number = |at: usize| u32::from_le_bytes([front[at], front[at + 1], front[at + 2], front[at + 3]]);
        if number(MAGIC.len()) != VERSION {
            let message =
                format!("a session of version {}; this reads version {VERSION}", number(MAGIC.len()));
            return Err(Error::invalid_argument(message));
        }
        let damaged = "it is damaged or incomplete";
        let Some((content, hash)) = bytes.split_last_chunk::<HASH>() else {
            return refused(damaged);
        };
        if hash_of(content).await != *hash {
            return refused(damaged);
        }
        let header_len = number(MAGIC.len() + 4) as usize;
        let Some((header, pages_of)) = content[FRONT..].split_at_checked(header_len) else {
            return refused("its header is too long");
        };
        let saved: Saved = match serde_json::from_slice(header) {
            Ok(saved) => saved,
            Err(error) => return refused(&error.to_string()),
        };
        let of_pages = pages(saved.tokens.len()).checked_mul(saved.page_size);
        if of_pages.and_then(|bytes| bytes.checked_add(saved.state_size)) != Some(pages_of.len()) {
            return refused("its pages are not those of its tokens");
        }
        Ok((saved, pages_of))
    }

    /// A conversation of which nothing was computed.
    pub async fn conversation(conversation: Conversation) -> Result<Vec<u8>> {
        let (form, tokens) = (String::new(), Vec::new());
        let mut bytes =
            Saved { form, tokens, conversation: Some(conversation), page_size: 0, state_size: 0 }.front()?;
        let hash = hash_of(&bytes).await;
        bytes.extend_from_slice(&hash);
        Ok(bytes)
    }

    /// All but the pages and what follows them.
    fn front(&self) -> Result<Vec<u8>> {
        let header = serde_json::to_vec(self).map_err(Error::internal)?;
        let len = u32::try_from(header.len())
            .map_err(|_| Error::invalid_argument("the conversation is too long to be saved"))?;
        let numbers = [VERSION, len].map(u32::to_le_bytes);
        Ok([MAGIC, numbers.as_flattened(), &header].concat())
    }
}

/// The SHA-256; others have their turns meanwhile.
async fn hash_of(bytes: &[u8]) -> [u8; HASH] {
    let (mut hasher, mut turns) = (Sha256::new(), Turns::new());
    for piece in bytes.chunks(PIECE) {
        hasher.update(piece);
        turns.pause().await;
    }
    hasher.finalize().into()
}

impl Engine {
    /// Puts the beginning of all prompts that go on with a conversation into the KV cache: an answer then begins at
    /// once. Events say how far it is.
    pub async fn prefill(&self, prompt: Prompt) -> Result<Generation> {
        self.begin(self.beginning(prompt).await?).await
    }

    /// The same to its end. Gives the number of tokens.
    pub async fn read_ahead(&self, prompt: Prompt, on_event: &mut dyn FnMut(Event)) -> Result<usize> {
        let start = self.beginning(prompt).await?;
        let tokens = start.prompt().len();
        self.finish(start, on_event).await?;
        Ok(tokens)
    }

    async fn beginning(&self, prompt: Prompt) -> Result<Start> {
        self.decoder()?;
        Start::prefill(&self.language, self.info().context_length, prompt).await
    }

    // Futures that are boxed are compiled once instead of at each caller.
    fn finish<'a>(
        &'a self,
        start: Start,
        on_event: &'a mut dyn FnMut(Event),
    ) -> LocalBoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut generation = self.begin(start).await?;
            while let Some(event) = generation.next().await? {
                on_event(event);
            }
            Ok(())
        })
    }

    /// Keeps the beginning of all prompts that go on with `prompt` in the KV cache, where others that are kept go first;
    /// a prompt that needs the room gets it nevertheless. After a lost GPU it is computed again. What was pinned by that
    /// name before is not any longer. Gives the number of tokens.
    pub fn pin<'a>(
        &'a self,
        name: &'a str,
        prompt: Prompt,
        on_event: &'a mut dyn FnMut(Event),
    ) -> LocalBoxFuture<'a, Result<usize>> {
        Box::pin(async move {
            let start = self.beginning(prompt).await?;
            let tokens = start.prompt().len();
            self.decoder()?.batch.lock().await.pin(name, start.clone());
            self.finish(start, on_event).await?;
            Ok(tokens)
        })
    }

    /// As [`Engine::pin`], for a conversation that `store` keeps as a session of that name: read back from there, if what
    /// is there is this one's, and else written once it is computed.
    pub async fn pin_stored(
        &self,
        store: &dyn Store,
        name: &str,
        conversation: Conversation,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<usize> {
        let there = match read_session(store, name).await? {
            // What is damaged or foreign is computed again.
            Some(bytes) => self.restore(&bytes).await.ok(),
            None => None,
        };
        let prompt = Prompt::Chat(conversation.clone());
        let tokens = self.pin(name, prompt.clone(), on_event).await?;
        let same = |there: Restored| there.tokens == tokens && there.conversation == Some(conversation);
        if !there.is_some_and(same) {
            save_session(store, name, &self.save(prompt, on_event).await?).await?;
        }
        Ok(tokens)
    }

    /// Lets a pinned prompt go. Says whether there was one.
    pub async fn unpin(&self, name: &str) -> Result<bool> {
        Ok(self.decoder()?.batch.lock().await.unpin(name))
    }

    /// Names of what is pinned, each with its tokens.
    pub async fn pinned(&self) -> Result<Vec<(String, usize)>> {
        Ok(self.decoder()?.batch.lock().await.pinned())
    }

    /// Writes out what the model has computed of a prompt, and the conversation where it is one. What is not in the KV
    /// cache is computed first: `on_event` hears how far that is. Of a conversation that has outgrown the context nothing but
    /// what was said is written: which of its turns are left out, the next request says.
    pub fn save<'a>(
        &'a self,
        prompt: Prompt,
        on_event: &'a mut dyn FnMut(Event),
    ) -> LocalBoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            let conversation = match &prompt {
                Prompt::Chat(conversation) => Some(conversation.clone()),
                Prompt::Text(_) | Prompt::Tokens(_) => None,
            };
            let start = match (self.beginning(prompt).await, &conversation) {
                (Err(Error { code: Code::ContextLengthExceeded, .. }), Some(conversation)) => {
                    return Saved::conversation(conversation.clone()).await;
                }
                (start, _) => start?,
            };
            let tokens = start.prompt().to_vec();
            self.finish(start, on_event).await?;
            let mut batch = self.decoder()?.batch.lock().await;
            batch.settle(&self.language.tokenizer).await;
            let (form, page_size) = (batch.decoder().page_form(), batch.decoder().page_size());
            let state_size = batch.decoder().state_size();
            let saved = Saved { form, tokens, conversation, page_size, state_size };
            let mut bytes = saved.front()?;
            if !batch.read_pages(&saved.tokens, &mut bytes).await? {
                return Err(Error::resource_exhausted(
                    "other answers have taken the room of this session meanwhile. Save it when they have ended",
                ));
            }
            drop(batch);
            let hash = hash_of(&bytes).await;
            bytes.extend_from_slice(&hash);
            Ok(bytes)
        })
    }

    /// Reads back what [`Engine::save`] wrote. What was computed with other weights or on another kind of device, or has no
    /// room now, is computed again when it is needed. Fails with `invalid_argument` where it is no state, or was damaged.
    pub fn restore<'a>(&'a self, bytes: &'a [u8]) -> LocalBoxFuture<'a, Result<Restored>> {
        Box::pin(async move {
            let shared = self.decoder()?;
            let (saved, pages) = Saved::read(bytes).await?;
            let mut batch = shared.batch.lock().await;
            batch.settle(&self.language.tokenizer).await;
            let decoder = batch.decoder();
            let ours = saved.form == decoder.page_form()
                && saved.page_size == decoder.page_size()
                && saved.state_size == decoder.state_size();
            let reason = match ours {
                false if saved.tokens.is_empty() => Some("nothing was computed of it"),
                false => {
                    Some("it was saved with another model, another version or on another kind of device")
                }
                true if batch.write_pages(&saved.tokens, pages)? => None,
                true => Some("there is no room for it now"),
            };
            let tokens = if reason.is_none() { saved.tokens.len() } else { 0 };
            Ok(Restored { conversation: saved.conversation, tokens, reason: reason.map(str::to_owned) })
        })
    }
}
