//! All answers that go on, and their steps through the model: who begins when, what a step has, and who gets what came out.
//!
//! Whoever waits for an event of an answer drives the steps, for all answers. Waiting may be given up at any moment: what
//! was enqueued on the device is then read by whoever comes next.

mod recover;
mod room;

use super::Info;
use super::model::Plan;
use super::pages::Pages;
use super::recovery::Recovery;
use super::run::{Kept, Run, Scores, Talk};
use super::start::Start;
use super::states::States;
use crate::backend::{MOST_SCORED, PAGE, Span, Step, Token, pages};
use crate::model::Decoder;
use crate::text::Tokenizer;
use crate::{Code, Error, Result};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use web_time::Instant;

/// A prompt that joins answers that go on comes in pieces of one in so many of a step's rows: each of them holds
/// the answers up.
const JOIN: usize = 2;

/// Tokens between two states that are kept of a prompt, at least.
const APART: usize = 256;

pub(super) struct Batch {
    decoder: Decoder,
    pages: Pages,
    states: States,
    /// Answers that go on, in the order in which they began.
    runs: Vec<Run>,
    /// Those that wait for room, in their order.
    waiting: VecDeque<Run>,
    /// Sequences that have ended; the one that was used last is at the end.
    kept: Vec<Kept>,
    pins: Vec<Pin>,
    /// Rows of the last step whose scores nobody has read: the number of the row, and whose it is.
    unread: VecDeque<(usize, u64)>,
    /// Choices that the device has made, or will make, and nobody has read: for each, whose its rows are.
    chosen: VecDeque<Vec<u64>>,
    /// Whose prompt had a piece in the last step, and has not heard of it.
    prompted: Option<u64>,
    /// Pages that no answer has: see [`Batch::logits`].
    lent: Vec<u32>,
    lent_state: Option<u32>,
    next_id: u64,
    recovery: Option<Recovery>,
    /// To bring the model back; nothing where its device cannot be lost.
    model: Option<Rc<Plan>>,
    info: Rc<RefCell<Rc<Info>>>,
    scratch: Scores,
    tokens: Vec<u32>,
}

/// A beginning of prompts that goes last where there is no room for all that is kept.
struct Pin {
    name: String,
    /// What puts it into the KV cache.
    start: Start,
}

impl Batch {
    pub(super) fn new(decoder: Decoder, model: Rc<Plan>, info: Rc<RefCell<Rc<Info>>>) -> Self {
        Batch {
            pages: Pages::new(pages(decoder.context())),
            states: States::new(decoder.state_slots()),
            model: can_be_lost(&decoder).then_some(model),
            decoder,
            runs: Vec::new(),
            waiting: VecDeque::new(),
            kept: Vec::new(),
            pins: Vec::new(),
            unread: VecDeque::new(),
            chosen: VecDeque::new(),
            prompted: None,
            lent: Vec::new(),
            lent_state: None,
            next_id: 0,
            recovery: None,
            info,
            scratch: Scores::default(),
            tokens: Vec::new(),
        }
    }

    pub(super) fn decoder(&mut self) -> &mut Decoder {
        &mut self.decoder
    }

    fn run_of(&self, id: u64) -> Option<usize> {
        self.runs.iter().position(|run| run.id == id)
    }

    /// One step of all answers whose readers want more. Says whether there was anything to do.
    pub(super) async fn step(&mut self, tokenizer: &Tokenizer) -> bool {
        self.admit();
        if self.recovery.is_some() {
            // Whoever it concerns has heard of an error.
            _ = self.come_back().await;
            return true;
        }
        let start = Instant::now();
        if self.is_settled() {
            match self.run_step(tokenizer, start) {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    self.fail(error);
                    return true;
                }
            }
        } else if self.chosen.len() == 1
            && let Err(error) = self.go_ahead(tokenizer.len())
        {
            self.fail(error);
            return true;
        }
        if !self.is_settled()
            && let Err(error) = self.read(tokenizer, start).await
        {
            self.fail(error);
        }
        true
    }

    /// Whether there is but one answer.
    pub(super) fn is_alone(&self) -> bool {
        self.runs.len() + self.waiting.len() <= 1
    }

    /// Whether another reader than this one has something to read.
    pub(super) fn others_have_news(&self, talk: &Rc<Talk>) -> bool {
        self.runs.iter().any(|run| !Rc::ptr_eq(&run.talk, talk) && run.talk.has_news())
    }

    /// Whether another reader has left something unread while this one has read more; once for what each has left.
    pub(super) fn others_are_behind(&self, talk: &Rc<Talk>) -> bool {
        let others = self.runs.iter().filter(|run| !Rc::ptr_eq(&run.talk, talk));
        // All of them are told that they were waited for.
        others.filter(|run| run.talk.is_behind()).count() > 0
    }

    /// Whether nothing is on its way.
    fn is_settled(&self) -> bool {
        self.unread.is_empty() && self.chosen.is_empty() && self.prompted.is_none()
    }

    /// Reads what is on its way, so that the device has nothing to do.
    pub(super) async fn settle(&mut self, tokenizer: &Tokenizer) {
        self.admit();
        while !self.is_settled() {
            if let Err(error) = self.read(tokenizer, Instant::now()).await {
                self.fail(error);
            }
        }
    }

    /// Puts a step together and through the model: a piece of one prompt, and a token of every answer.
    fn run_step(&mut self, tokenizer: &Tokenizer, start: Instant) -> Result<bool> {
        if self.sample_firsts(tokenizer, start) {
            return Ok(true);
        }
        let wanted = |run: &Run| run.talk.wants_more();
        let prompt = self.runs.iter().position(|run| wanted(run) && run.must_prefill());
        let answers: Vec<usize> = (0..self.runs.len())
            .filter(|&at| wanted(&self.runs[at]) && !self.runs[at].must_prefill())
            .collect();
        let step_len = self.decoder.step_len();
        let (mut step, mut scored) = (Step::default(), Vec::new());
        let piece = if answers.is_empty() { step_len } else { step_len.div_ceil(JOIN) };
        // The rows that are scored come last.
        for (index, most) in
            prompt.map(|index| (index, piece)).into_iter().chain(answers.iter().map(|&at| (at, 1)))
        {
            if step.rows() == step_len {
                break;
            }
            let stop = self.stop_for_state(&self.runs[index]);
            let run = &mut self.runs[index];
            let end = run.history.len().min(run.cached + most).min(stop);
            run.make_room(end, &mut self.pages)?;
            step.tokens.extend(run.history[run.cached..end].iter().copied().map(Token::Known));
            step.spans.push(Span {
                pages: run.pages.clone(),
                state: run.state,
                position: run.cached,
                rows: end - run.cached,
            });
            if end == run.history.len() && !run.only_prefill {
                scored.push(run.id);
            }
        }
        if step.rows() == 0 {
            return Ok(false);
        }
        step.scored = scored.len();
        self.decoder.run(&step)?;
        for (index, span) in prompt.into_iter().chain(answers).zip(&step.spans) {
            (self.runs[index].cached, self.runs[index].state_of) = (span.end(), span.end());
            self.keep_state(index)?;
        }
        self.prompted = prompt.map(|index| self.runs[index].id);
        let greedy = |id: &u64| self.run_of(*id).is_some_and(|index| self.runs[index].is_greedy());
        if !scored.is_empty() && self.decoder.backend().chooses_ahead() && scored.iter().all(greedy) {
            self.decoder.choose(tokenizer.len())?;
            self.chosen.push_back(scored);
            self.go_ahead(tokenizer.len())?;
        } else {
            self.unread = scored.into_iter().enumerate().collect();
        }
        Ok(true)
    }

    /// Where a prompt has to stop, because its state there is to be kept: at its end, but for a last piece that has to be read
    /// for its scores, and at some points before.
    fn stop_for_state(&self, run: &Run) -> usize {
        if !self.states.are_needed() || !run.must_prefill() {
            return usize::MAX;
        }
        let end = (run.history.len() - 1) / PAGE * PAGE;
        let apart = self.apart();
        let between = (run.cached / apart + 1) * apart;
        if run.cached < end { end.min(between) } else { between }
    }

    /// Tokens between two states that are kept: a sequence as long as the context has no more than half of the slots.
    fn apart(&self) -> usize {
        let most = (self.states.len() / 2).max(1);
        self.decoder.context().div_ceil(most).next_multiple_of(PAGE).max(APART)
    }

    /// Keeps the state of an answer's sequence as it is now, where that is one of those points.
    fn keep_state(&mut self, index: usize) -> Result<()> {
        let Run { state, state_of, .. } = self.runs[index];
        let history = &self.runs[index].history;
        let at_end =
            state_of == (history.len() - 1) / PAGE * PAGE && state_of < self.runs[index].prompt_len();
        let wanted = at_end || state_of.is_multiple_of(self.apart());
        if !self.states.are_needed() || !wanted || state_of == 0 || self.states.knows(&history[..state_of]) {
            return Ok(());
        }
        let tokens = history[..state_of].to_vec();
        if let Some(slot) = self.take_state(None) {
            if let Err(error) = self.decoder.copy_state(state, slot) {
                self.states.release(slot);
                return Err(error);
            }
            self.states.keep(&tokens, slot);
        }
        Ok(())
    }

    /// Puts choices that are under way through the model, unread, and has the next ones made, so that the device works while
    /// the first come here; unless an answer begins or may end with them.
    fn go_ahead(&mut self, vocabulary: usize) -> Result<()> {
        let Some(ids) = self.chosen.front().filter(|ids| ids.len() == self.runs.len()).cloned() else {
            return Ok(());
        };
        let context = self.decoder.context();
        let goes_on = |run: &Run| {
            ids.contains(&run.id) && run.talk.wants_more() && !run.ends_with(run.history.len() + 1, context)
        };
        if !self.runs.iter().all(goes_on) {
            return Ok(());
        }
        let mut step = Step { scored: ids.len(), ..Step::default() };
        for (row, &id) in ids.iter().enumerate() {
            let Some(index) = self.run_of(id) else { return Ok(()) };
            let run = &mut self.runs[index];
            let position = run.history.len();
            run.make_room(position + 1, &mut self.pages)?;
            step.tokens.push(Token::Chosen(row));
            step.spans.push(Span { pages: run.pages.clone(), state: run.state, position, rows: 1 });
        }
        self.decoder.run(&step)?;
        for id in &ids {
            if let Some(index) = self.run_of(*id) {
                self.runs[index].state_of = self.runs[index].history.len() + 1;
            }
        }
        self.decoder.choose(vocabulary)?;
        self.chosen.push_back(ids);
        Ok(())
    }

    /// Reads the oldest of what is on its way, and hands it to the answers.
    async fn read(&mut self, tokenizer: &Tokenizer, start: Instant) -> Result<()> {
        if self.unread.is_empty() && self.chosen.is_empty() {
            // Steps must not pile up on the device: between them the caller may stop.
            self.decoder.wait().await?;
            self.tell_prompted(start);
            return Ok(());
        }
        if !self.chosen.is_empty() {
            let read = self.decoder.chosen(&mut self.tokens).await;
            let ids = self.chosen.pop_front().unwrap_or_default();
            read?;
            self.tell_prompted(start);
            for (id, token) in ids.into_iter().zip(std::mem::take(&mut self.tokens)) {
                if let Some(index) = self.run_of(id) {
                    // The choice was made of all that there was.
                    self.runs[index].cached = self.runs[index].history.len();
                    self.accept(index, Ok(token), tokenizer, start);
                }
            }
            return Ok(());
        }
        while let Some(&(row, id)) = self.unread.front() {
            if let Some(index) = self.run_of(id) {
                let (run, decoder) = (&mut self.runs[index], &mut self.decoder);
                let token = run.sample(decoder, row, tokenizer.len(), &mut self.scratch).await;
                if let Err(Error { code: Code::DeviceLost, .. }) = token {
                    return token.map(|_| ());
                }
                self.tell_prompted(start);
                self.accept(index, token, tokenizer, start);
            }
            self.unread.pop_front();
        }
        self.tell_prompted(start);
        Ok(())
    }

    fn tell_prompted(&mut self, start: Instant) {
        if let Some(index) = self.prompted.take().and_then(|id| self.run_of(id)) {
            self.runs[index].prefilled(start);
        }
    }

    /// Goes on with a token, or ends with an error.
    fn accept(&mut self, index: usize, token: Result<u32>, tokenizer: &Tokenizer, start: Instant) {
        let context = self.decoder.context();
        let run = &mut self.runs[index];
        let siblings = run.siblings(&mut self.next_id);
        let over = match token {
            Ok(token) => run.accept(token, tokenizer, context, start),
            Err(error) => {
                run.talk.fail(error);
                true
            }
        };
        if over {
            self.retire(index);
        }
        // They were there before all that wait.
        siblings.into_iter().rev().for_each(|run| self.waiting.push_front(run));
    }

    /// Begins further answers to a prompt whose scores are known.
    fn sample_firsts(&mut self, tokenizer: &Tokenizer, start: Instant) -> bool {
        let ready = |run: &Run| run.first_scores.is_some() && run.talk.wants_more();
        let mut any = false;
        while let Some(index) = self.runs.iter().position(ready) {
            let token = self.runs[index].sample_first(tokenizer.len());
            self.accept(index, token, tokenizer, start);
            any = true;
        }
        any
    }

    /// Scores of what follows each of `tokens` from `first` on: `on_row(position, logits)`. False where there is no room
    /// for them now.
    pub(super) async fn logits(
        &mut self,
        tokens: &[u32],
        first: usize,
        on_row: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<bool> {
        self.admit();
        let count = pages(tokens.len());
        if count > self.pages.available() || self.recovery.is_some() || !self.states.has_room() {
            return Ok(false);
        }
        self.lent_state = self.take_state(None);
        self.pages.promise(count);
        self.make_way();
        // Where waiting is given up they come back with the next step.
        self.lent.extend((0..count).map_while(|_| self.pages.take()));
        let (step_len, mut logits) = (self.decoder.step_len().min(MOST_SCORED), Vec::new());
        for (index, chunk) in tokens.chunks(step_len).enumerate() {
            let position = index * step_len;
            let step = Step {
                tokens: chunk.iter().copied().map(Token::Known).collect(),
                spans: vec![Span {
                    pages: self.lent.clone(),
                    state: self.lent_state.unwrap_or(0),
                    position,
                    rows: chunk.len(),
                }],
                scored: chunk.len(),
            };
            self.decoder.run(&step)?;
            for row in first.saturating_sub(position)..chunk.len() {
                self.decoder.scores(row, &mut logits).await?;
                on_row(position + row, &logits);
            }
        }
        self.admit();
        Ok(true)
    }
}

fn can_be_lost(decoder: &Decoder) -> bool {
    decoder.backend().gpu().is_some()
}
