//! The decoder and what its KV cache holds, from one request to the next.

use crate::Result;
use crate::model::Decoder;

/// One request has it at a time.
pub(super) struct Session {
    pub decoder: Decoder,
    /// The tokens in the KV cache. A step ahead may have written one more there.
    pub cached: Vec<u32>,
    /// Choices that the device has made, or will make, and nobody has read.
    unread: usize,
}

impl Session {
    pub fn new(decoder: Decoder) -> Self {
        Session { decoder, cached: Vec::new(), unread: 0 }
    }

    /// Puts tokens through the model; what the KV cache had from there is gone.
    pub fn forward(&mut self, tokens: &[u32], position: usize) -> Result<()> {
        self.cached.truncate(position);
        self.decoder.forward(tokens, position)?;
        self.cached.extend(tokens);
        Ok(())
    }

    /// Has the device choose what follows row `row` of the last step, among the first `candidates` tokens.
    pub fn choose(&mut self, row: usize, candidates: usize) -> Result<()> {
        self.decoder.choose(row, candidates)?;
        self.unread += 1;
        Ok(())
    }

    /// Puts the choice that is under way through the model, unread, and has the next one made, so that
    /// the device works while the first comes here. Nothing happens where that was done before.
    /// The token counts as cached once its reader says so.
    pub fn step_ahead(&mut self, position: usize, candidates: usize) -> Result<()> {
        if self.unread != 1 {
            return Ok(());
        }
        self.cached.truncate(position);
        self.decoder.forward_chosen(position)?;
        self.choose(0, candidates)
    }

    /// The oldest unread choice. Who gives up waiting finds it here later.
    pub async fn chosen(&mut self) -> Result<u32> {
        let token = self.decoder.chosen().await;
        self.unread = self.unread.saturating_sub(1);
        token
    }

    /// Reads what an earlier request has left unread.
    pub async fn settle(&mut self) -> Result<()> {
        while self.unread > 0 {
            // Whatever it was: that request has ended, also with an error.
            _ = self.chosen().await;
        }
        Ok(())
    }
}
