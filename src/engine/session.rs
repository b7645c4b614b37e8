//! The decoder and what its KV cache holds, from one request to the next.

use super::Info;
use super::model::{Loaded, Plan};
use super::recovery::{Recovery, Step};
use crate::backend::{MOST_SCORED, Step as Rows, Token};
use crate::model::Decoder;
use crate::{Code, Error, Result};
use std::cell::RefCell;
use std::rc::Rc;

/// One request has it at a time.
pub(super) struct Session {
    pub decoder: Decoder,
    /// The tokens in the KV cache. A step ahead may have written one more there.
    pub cached: Vec<u32>,
    /// Choices that the device has made, or will make, and nobody has read.
    unread: usize,
    /// To bring the model back; nothing where its device cannot be lost.
    model: Option<Rc<Plan>>,
    info: Rc<RefCell<Rc<Info>>>,
}

impl Session {
    pub(super) fn new(decoder: Decoder, model: Rc<Plan>, info: Rc<RefCell<Rc<Info>>>) -> Self {
        let model = can_be_lost(&decoder).then_some(model);
        Session { decoder, cached: Vec::new(), unread: 0, model, info }
    }

    /// Begins to bring the model back where `error` says that its GPU was lost, for the `losses`th time in this
    /// request; any other error comes back. The KV cache is empty from now on.
    pub(super) fn recover(&mut self, error: Error, losses: usize) -> Result<Recovery> {
        let (Code::DeviceLost, Some(model)) = (error.code, self.model.clone()) else { return Err(error) };
        // What is left of the old device would take memory from the new one.
        self.decoder.release();
        self.cached.clear();
        self.unread = 0;
        Recovery::begin(model, &error, losses)
    }

    /// The model that has come back.
    pub(super) fn replace(&mut self, Loaded { decoder, reason, memory, .. }: Loaded) {
        let mut info = self.info.borrow_mut();
        *info = Rc::new(info.after_recovery(decoder.backend(), reason, memory));
        self.decoder = decoder;
        // Its source, and whatever that holds, is not needed any more.
        self.model.take_if(|_| !can_be_lost(&self.decoder));
    }

    /// [`Session::recover`] to its end. Gives the number of losses.
    pub(super) async fn recover_at_once(&mut self, error: Error, losses: usize) -> Result<usize> {
        let mut recovery = self.recover(error, losses)?;
        loop {
            if let Step::Done(loaded) = recovery.step().await? {
                self.replace(*loaded);
                return Ok(recovery.losses);
            }
        }
    }

    /// Puts tokens through the model, the last `scored` of which are scored; what the KV cache had from there is gone.
    pub(super) fn forward(&mut self, tokens: &[u32], position: usize, scored: usize) -> Result<()> {
        self.cached.truncate(position);
        self.decoder.run(&Rows::single(tokens.iter().copied(), position, scored))?;
        self.cached.extend(tokens);
        Ok(())
    }

    /// The scores of what follows each of `tokens` from `first` on: `on_row(position, logits)`.
    pub(super) async fn logits(
        &mut self,
        tokens: &[u32],
        first: usize,
        on_row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<()> {
        let (step, mut logits) = (self.decoder.step_len().min(MOST_SCORED), Vec::new());
        for (index, chunk) in tokens.chunks(step).enumerate() {
            self.forward(chunk, index * step, chunk.len())?;
            for row in first.saturating_sub(index * step)..chunk.len() {
                self.decoder.scores(row, &mut logits).await?;
                on_row(index * step + row, &logits);
            }
        }
        Ok(())
    }

    /// Has the device choose what follows the scored row of the last step, among the first `candidates` tokens.
    pub(super) fn choose(&mut self, candidates: usize) -> Result<()> {
        self.decoder.choose(candidates)?;
        self.unread += 1;
        Ok(())
    }

    /// Puts the choice that is under way through the model, unread, and has the next one made, so that
    /// the device works while the first comes here. Nothing happens where that was done before.
    /// The token counts as cached once its reader says so.
    pub(super) fn step_ahead(&mut self, position: usize, candidates: usize) -> Result<()> {
        if self.unread != 1 {
            return Ok(());
        }
        self.cached.truncate(position);
        let step = Rows { tokens: vec![Token::Chosen(0)], ..Rows::single([0], position, 1) };
        self.decoder.run(&step)?;
        self.choose(candidates)
    }

    /// The oldest unread choice. Who gives up waiting finds it here later.
    pub(super) async fn chosen(&mut self) -> Result<u32> {
        let mut tokens = Vec::new();
        let read = self.decoder.chosen(&mut tokens).await;
        self.unread = self.unread.saturating_sub(1);
        read?;
        tokens.first().copied().ok_or_else(|| Error::internal("nothing was chosen"))
    }

    /// Reads what an earlier request has left unread.
    pub(super) async fn settle(&mut self) -> Result<()> {
        while self.unread > 0 {
            // Whatever it was: that request has ended, also with an error.
            _ = self.chosen().await;
        }
        Ok(())
    }
}

fn can_be_lost(decoder: &Decoder) -> bool {
    decoder.backend().gpu().is_some()
}
