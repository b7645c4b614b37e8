//! One answer in the making: its tokens, how they are chosen, and what its reader hears of them.

use super::counts::{Clock, PromptTokensDetails, Timings, Usage};
use super::generation::{Event, FinishReason, Settings};
use super::pages::Pages;
use super::stop::StopMatcher;
use crate::backend::{Top, pages};
use crate::model::Decoder;
use crate::sampling::Sampler;
use crate::text::{Detokenizer, Tokenizer};
use crate::{Error, Result};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use web_time::Instant;

/// Events that may wait for a reader. With as many as that its answers wait too; with fewer they go on beside
/// others, so that readers who take turns are answered together.
const AHEAD: usize = 4;
/// With so many that wait for a reader, others give him a turn.
const BEHIND: usize = 2;

/// What passes between answers to one prompt and their reader.
pub(super) struct Talk {
    events: RefCell<VecDeque<Result<Event>>>,
    /// Answers that have not ended.
    open: Cell<usize>,
    /// Nobody reads any more.
    gone: Cell<bool>,
    /// Nobody reads, and yet it shall go on.
    silent: Cell<bool>,
    /// Others have waited for its reader since he read something.
    awaited: Cell<bool>,
    pub prompt_len: usize,
    /// Messages that were left out of the prompt.
    pub dropped: usize,
    /// Prompt tokens that were in the KV cache already.
    pub cached: Cell<usize>,
    /// Prompt tokens that have been there, as far as the reader knows.
    processed: Cell<usize>,
    /// Tokens of all answers, as far as the reader knows.
    generated: Cell<usize>,
    pub clock: RefCell<Clock>,
}

impl Talk {
    pub(super) fn new(prompt_len: usize, dropped: usize, answers: usize) -> Talk {
        Talk {
            events: RefCell::default(),
            open: Cell::new(answers),
            gone: Cell::new(false),
            silent: Cell::new(false),
            awaited: Cell::new(false),
            prompt_len,
            dropped,
            cached: Cell::new(0),
            processed: Cell::new(0),
            generated: Cell::new(0),
            clock: RefCell::new(Clock::new()),
        }
    }

    pub(super) fn push(&self, event: Result<Event>) {
        if matches!(event, Ok(Event::Finish { .. })) {
            self.open.set(self.open.get().saturating_sub(1));
        }
        if !self.silent.get() {
            self.events.borrow_mut().push_back(event);
        }
    }

    /// Ends all answers with an error.
    pub(super) fn fail(&self, error: Error) {
        if self.open.replace(0) > 0 {
            self.push(Err(error));
        }
    }

    /// The next event for the reader.
    pub(super) fn pop(&self) -> Option<Result<Event>> {
        let event = self.events.borrow_mut().pop_front()?;
        self.awaited.set(false);
        match &event {
            Ok(Event::Prompt { processed, .. }) => {
                self.processed.set(self.processed.get().max((*processed).min(self.prompt_len)));
            }
            Ok(Event::Token { .. } | Event::Finish { token: Some(_), .. }) => {
                self.generated.set(self.generated.get() + 1);
            }
            Ok(Event::Finish { .. } | Event::Recovery(_)) | Err(_) => {}
        }
        Some(event)
    }

    /// Whether there is something for the reader.
    pub(super) fn has_news(&self) -> bool {
        !self.events.borrow().is_empty()
    }

    /// Whether several events wait for its reader. Says so once until he has read one: those who stopped reading hold nobody
    /// up.
    pub(super) fn is_behind(&self) -> bool {
        self.events.borrow().len() >= BEHIND && !self.awaited.replace(true)
    }

    /// Whether nothing more will come.
    pub(super) fn is_over(&self) -> bool {
        self.open.get() == 0 && self.events.borrow().is_empty()
    }

    /// Whether the reader can take more.
    pub(super) fn wants_more(&self) -> bool {
        !self.gone.get() && self.events.borrow().len() < AHEAD
    }

    /// Its events are for nobody.
    pub(super) fn silence(&self) {
        self.silent.set(true);
    }

    pub(super) fn leave(&self) {
        self.gone.set(true);
    }

    /// Whether its answers need not go on.
    pub(super) fn is_closed(&self) -> bool {
        self.gone.get() || self.open.get() == 0
    }

    pub(super) fn usage(&self) -> Usage {
        let (prompt, generated) = (self.prompt_len, self.generated.get());
        Usage {
            prompt_tokens: prompt,
            completion_tokens: generated,
            total_tokens: prompt + generated,
            prompt_tokens_details: PromptTokensDetails {
                cached_tokens: self.cached.get(),
                dropped_messages: self.dropped,
            },
        }
    }

    pub(super) fn timings(&self) -> Timings {
        let processed = self.processed.get().saturating_sub(self.cached.get());
        self.clock.borrow().timings(processed, self.generated.get())
    }
}

/// See the module.
pub(super) struct Run {
    pub id: u64,
    pub talk: Rc<Talk>,
    /// Which of the answers to the prompt.
    pub choice: usize,
    pub settings: Rc<Settings>,
    /// It ends with the prompt, all of which is then in the KV cache.
    pub only_prefill: bool,
    pub sampler: Sampler,
    pub detokenizer: Detokenizer,
    pub stop: StopMatcher,
    /// The prompt and the answer so far.
    pub history: Vec<u32>,
    /// How many of these tokens are in the KV cache.
    pub cached: usize,
    /// Where they are.
    pub pages: Vec<u32>,
    /// The slot of its state, where layers have one.
    pub state: u32,
    /// Tokens that its state is of: with choices that are under way, more than are known.
    pub state_of: usize,
    /// Pages that it may still take.
    pub promised: usize,
    /// What follows the prompt, where another answer to it has found that out.
    pub first_scores: Option<Rc<Vec<f32>>>,
    /// As they were after the prompt, for further answers to it; the first of them has that.
    pub fresh: Option<Box<(Sampler, Detokenizer)>>,
    /// How often its device was lost.
    pub losses: usize,
}

impl Run {
    pub(super) fn prompt_len(&self) -> usize {
        self.talk.prompt_len
    }

    fn has_answered(&self) -> bool {
        self.history.len() > self.prompt_len()
    }

    /// Whether more than the last token has to go through the model: the prompt, and after a loss the answer.
    pub(super) fn must_prefill(&self) -> bool {
        self.cached < self.prompt_len() || self.history.len() - self.cached > 1
    }

    /// Tokens of the history that may be found in the KV cache: the last one has to go through the model for its scores.
    pub(super) fn reusable(&self) -> &[u32] {
        match self.first_scores.is_some() || self.only_prefill {
            true => &self.history,
            false => &self.history[..self.history.len() - 1],
        }
    }

    /// Tokens that it can have in all.
    pub(super) fn most_tokens(&self, context: usize) -> usize {
        self.prompt_len().saturating_add(self.settings.max_tokens).min(context)
    }

    /// Whether it can have no more with `tokens` tokens.
    pub(super) fn ends_with(&self, tokens: usize, context: usize) -> bool {
        tokens >= self.most_tokens(context)
    }

    /// Has pages for the positions before `end`.
    pub(super) fn make_room(&mut self, end: usize, free: &mut Pages) -> Result<()> {
        while self.pages.len() < pages(end) {
            let page = (self.promised > 0).then(|| free.take()).flatten();
            self.pages.push(page.ok_or_else(|| Error::internal("a sequence has more pages than promised"))?);
            self.promised -= 1;
        }
        Ok(())
    }

    /// Gives back all pages and promises, but for those pages that hold tokens.
    pub(super) fn give_back(&mut self, free: &mut Pages) -> Option<Kept> {
        free.take_back(std::mem::take(&mut self.promised));
        let mut held = std::mem::take(&mut self.pages);
        let tokens = self.history[..std::mem::take(&mut self.cached)].to_vec();
        for page in held.split_off(pages(tokens.len()).min(held.len())) {
            free.release(page);
        }
        if held.is_empty() {
            return None;
        }
        held.iter().for_each(|&page| free.keep(page));
        Some(Kept { tokens, pages: held })
    }

    /// Its device is lost, and all that was there.
    pub(super) fn lose(&mut self) {
        (self.cached, self.promised, self.first_scores) = (0, 0, None);
        self.pages.clear();
        self.losses += 1;
    }

    /// The reader hears of a part of the prompt.
    pub(super) fn prefilled(&self, start: Instant) {
        if self.choice == 0 || self.has_answered() {
            self.tell(Event::Prompt { processed: self.cached, total: self.history.len() }, start);
        }
        self.end_prefill();
    }

    /// Ends where nothing but the prompt was wanted, and that is there. Says whether it is so.
    pub(super) fn end_prefill(&self) -> bool {
        let ends = self.only_prefill && self.cached == self.history.len();
        if ends {
            let (choice, reason) = (self.choice, FinishReason::Length);
            self.talk.push(Ok(Event::Finish { choice, reason, token: None, text: String::new() }));
        }
        ends
    }

    fn tell(&self, event: Event, start: Instant) {
        self.talk.clock.borrow_mut().count(&event, start, !self.has_answered());
        self.talk.push(Ok(event));
    }

    /// Goes on with `token`. Says whether that was the end.
    pub(super) fn accept(
        &mut self,
        token: u32,
        tokenizer: &Tokenizer,
        context: usize,
        start: Instant,
    ) -> bool {
        if tokenizer.is_end_of_generation(token) && !self.settings.ignore_eos {
            return self.finish(FinishReason::Stop, None, String::new(), start);
        }
        self.sampler.accept(token);
        let piece = self.detokenizer.push(tokenizer, token);
        let (text, stopped) = self.stop.push(&piece);
        let (text, stopped) = (text.to_owned(), stopped.is_some());
        if stopped || self.ends_with(self.history.len() + 1, context) {
            let reason = if stopped { FinishReason::Stop } else { FinishReason::Length };
            let over = self.finish(reason, Some(token), text, start);
            self.history.push(token);
            return over;
        }
        let event = Event::Token { choice: self.choice, token, text };
        self.tell(event, start);
        self.history.push(token);
        false
    }

    fn finish(&mut self, reason: FinishReason, token: Option<u32>, mut text: String, start: Instant) -> bool {
        // Where a stop string ended the answer, the matcher lets nothing more through.
        let rest = self.detokenizer.finish();
        text += self.stop.push(&rest).0;
        text += self.stop.finish();
        self.tell(Event::Finish { choice: self.choice, reason, token, text }, start);
        true
    }

    /// The further answers to the prompt, once the first has found out what follows it.
    pub(super) fn siblings(&mut self, next_id: &mut u64) -> Vec<Run> {
        let (Some(fresh), Some(scores)) = (self.fresh.take(), self.first_scores.take()) else {
            return Vec::new();
        };
        let (sampler, detokenizer) = *fresh;
        let sibling = |choice: usize| {
            let mut sampler = sampler.clone();
            sampler.reseed(sampler.seed().wrapping_add(choice as u64));
            *next_id += 1;
            Run {
                id: *next_id,
                talk: self.talk.clone(),
                choice,
                settings: self.settings.clone(),
                only_prefill: false,
                sampler,
                detokenizer: detokenizer.clone(),
                stop: StopMatcher::new(&self.settings.stop),
                history: self.history[..self.prompt_len()].to_vec(),
                cached: 0,
                pages: Vec::new(),
                state: 0,
                state_of: 0,
                promised: 0,
                first_scores: Some(scores.clone()),
                fresh: None,
                losses: 0,
            }
        };
        (1..self.settings.choices).map(sibling).collect()
    }

    /// Whether the device can choose its tokens.
    pub(super) fn is_greedy(&self) -> bool {
        self.settings.sampling.is_plain_greedy() && !self.shares_first_scores()
    }

    /// Whether further answers begin with what follows the prompt here.
    pub(super) fn shares_first_scores(&self) -> bool {
        self.fresh.is_some()
    }

    /// Reads the scores of `row` as far as its sampler wants them, and lets that choose.
    pub(super) async fn sample(
        &mut self,
        decoder: &mut Decoder,
        row: usize,
        vocabulary: usize,
        scratch: &mut Scores,
    ) -> Result<u32> {
        let Scores { all, top } = scratch;
        if let Some(wanted) = self.sampler.wanted().filter(|_| !self.shares_first_scores()) {
            decoder.top_k(row, vocabulary, &wanted, top).await?;
            if let Some(token) = self.sampler.sample_top(top)? {
                return Ok(token);
            }
        }
        decoder.scores(row, all).await?;
        if self.shares_first_scores() {
            self.first_scores = Some(Rc::new(all.clone()));
        }
        // Some models have more rows than their vocabulary has tokens.
        self.sampler.sample(&mut all[..vocabulary])
    }

    /// The first token, by the scores that another answer has found.
    pub(super) fn sample_first(&mut self, vocabulary: usize) -> Result<u32> {
        let scores = self.first_scores.take().ok_or_else(|| Error::internal("no answer has begun yet"))?;
        self.sampler.sample(&mut scores[..vocabulary].to_vec())
    }
}

/// What was read of the scores of a row.
#[derive(Default)]
pub(super) struct Scores {
    all: Vec<f32>,
    top: Top,
}

/// A sequence that does not go on, for prompts that begin alike.
pub(super) struct Kept {
    pub tokens: Vec<u32>,
    pub pages: Vec<u32>,
}

/// Tokens with which both begin.
pub(super) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
