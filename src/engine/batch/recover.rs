//! What becomes of all answers when a step fails: they end, or the model comes back from a lost GPU.

use super::super::generation::Event;
use super::super::model::{Loaded, Plan};
use super::super::pages::Pages;
use super::super::recovery::{Recovery, Step as Coming};
use super::super::states::States;
use super::{Batch, can_be_lost};
use crate::backend::pages;
use crate::{Code, Error, Result};
use std::collections::VecDeque;
use std::rc::Rc;

impl Batch {
    /// Brings the model back at once where `error` says that its GPU was lost, for the `losses`th time; any other error
    /// comes back. Gives the number of losses.
    pub(in super::super) async fn recover(&mut self, error: Error, losses: usize) -> Result<usize> {
        let (Code::DeviceLost, Some(model)) = (error.code, self.model.clone()) else { return Err(error) };
        self.lose(model, &error, losses)?;
        while let Some(recovery) = &self.recovery {
            let losses = recovery.losses;
            self.come_back().await?;
            if self.recovery.is_none() {
                return Ok(losses);
            }
        }
        Ok(losses)
    }

    /// What an error of the device means: it comes back where it was lost, and otherwise all answers end.
    pub(super) fn fail(&mut self, error: Error) {
        (self.prompted, self.unread) = (None, VecDeque::new());
        let ended = match (error.code, self.model.clone()) {
            (Code::DeviceLost, Some(model)) => match self.lose(model, &error, 1) {
                Ok(()) => return,
                Err(error) => error,
            },
            _ => error,
        };
        self.runs.iter().for_each(|run| run.talk.fail(ended.clone()));
        self.waiting.iter().filter(|run| run.losses > 0).for_each(|run| run.talk.fail(ended.clone()));
        while let Some(mut run) = self.runs.pop() {
            run.cached = 0;
            run.give_back(&mut self.pages);
            if self.states.are_needed() {
                self.states.release(run.state);
            }
        }
    }

    /// Begins to bring the model back. All that was in the KV cache is gone; answers begin again with what they have.
    fn lose(&mut self, model: Rc<Plan>, error: &Error, losses: usize) -> Result<()> {
        // What is left of the old device would take memory from the new one.
        self.decoder.release();
        self.chosen.clear();
        self.kept.clear();
        self.lent.clear();
        self.pages = Pages::new(self.pages.len());
        (self.states, self.lent_state) = (States::new(self.states.len()), None);
        for mut run in self.runs.drain(..).rev() {
            run.lose();
            self.waiting.push_front(run);
        }
        let losses = self.waiting.iter().map(|run| run.losses).max().unwrap_or(0).max(losses);
        self.recovery = Some(Recovery::begin(model, error, losses)?);
        Ok(())
    }

    /// A step of the recovery.
    pub(super) async fn come_back(&mut self) -> Result<()> {
        let Some(recovery) = &mut self.recovery else { return Ok(()) };
        let step = recovery.step().await;
        let (losses, ready) = (recovery.losses, recovery.ready());
        let report = match step {
            Ok(Coming::Progress(progress)) => progress,
            Ok(Coming::Done(loaded)) => {
                self.recovery = None;
                self.replace(*loaded);
                self.waiting.iter_mut().filter(|run| run.losses > 0).for_each(|run| run.losses = losses);
                ready
            }
            Err(error) => {
                self.recovery = None;
                self.waiting.iter().filter(|run| run.losses > 0).for_each(|run| run.talk.fail(error.clone()));
                return Err(error);
            }
        };
        self.waiting.iter().for_each(|run| run.talk.push(Ok(Event::Recovery(report.clone()))));
        Ok(())
    }

    /// The model that has come back.
    fn replace(&mut self, Loaded { decoder, reason, memory, .. }: Loaded) {
        let mut info = self.info.borrow_mut();
        *info = Rc::new(info.after_recovery(decoder.backend(), reason, memory));
        self.pages = Pages::new(pages(decoder.context()));
        self.states = States::new(decoder.state_slots());
        self.decoder = decoder;
        // Its source, and whatever that holds, is not needed any more.
        self.model.take_if(|_| !can_be_lost(&self.decoder));
        drop(info);
        for start in self.pins.iter().map(|pin| pin.start.clone()).collect::<Vec<_>>() {
            let (talk, run) = start.run();
            talk.silence();
            run.into_iter().for_each(|run| self.add(run));
        }
    }
}
