//! All answers that go on, and their steps through the model: who begins when, what a step has, and who gets what came out.
//!
//! Whoever waits for an event of an answer drives the steps, for all answers. Waiting may be given up at any moment: what
//! was enqueued on the device is then read by whoever comes next.

use super::Info;
use super::generation::Event;
use super::model::{Loaded, Plan};
use super::pages::Pages;
use super::recovery::{Recovery, Step as Coming};
use super::run::{Kept, Run, Scores, Talk, common_prefix};
use crate::backend::{MOST_SCORED, PAGE, Span, Step, Token, pages};
use crate::model::Decoder;
use crate::text::Tokenizer;
use crate::{Code, Error, Result};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use web_time::Instant;

/// Sequences that are kept for prompts that begin alike, at most.
const MOST_KEPT: usize = 16;
/// A prompt that joins answers that go on comes in pieces of one in so many of a step's rows: each of them holds
/// the answers up.
const JOIN: usize = 2;

pub(super) struct Batch {
    decoder: Decoder,
    pages: Pages,
    /// Answers that go on, in the order in which they began.
    runs: Vec<Run>,
    /// Those that wait for room, in their order.
    waiting: VecDeque<Run>,
    /// Sequences that have ended; the one that was used last is at the end.
    kept: Vec<Kept>,
    /// Rows of the last step whose scores nobody has read: the number of the row, and whose it is.
    unread: VecDeque<(usize, u64)>,
    /// Choices that the device has made, or will make, and nobody has read: for each, whose its rows are.
    chosen: VecDeque<Vec<u64>>,
    /// Whose prompt had a piece in the last step, and has not heard of it.
    prompted: Option<u64>,
    /// Pages that no answer has: see [`Batch::logits`].
    lent: Vec<u32>,
    next_id: u64,
    recovery: Option<Recovery>,
    /// To bring the model back; nothing where its device cannot be lost.
    model: Option<Rc<Plan>>,
    info: Rc<RefCell<Rc<Info>>>,
    scratch: Scores,
    tokens: Vec<u32>,
}

impl Batch {
    pub(super) fn new(decoder: Decoder, model: Rc<Plan>, info: Rc<RefCell<Rc<Info>>>) -> Self {
        Batch {
            pages: Pages::new(pages(decoder.context())),
            model: can_be_lost(&decoder).then_some(model),
            decoder,
            runs: Vec::new(),
            waiting: VecDeque::new(),
            kept: Vec::new(),
            unread: VecDeque::new(),
            chosen: VecDeque::new(),
            prompted: None,
            lent: Vec::new(),
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

    /// Takes in an answer, which begins when there is room for it.
    pub(super) fn add(&mut self, run: Run) {
        self.next_id += 1;
        self.waiting.push_back(Run { id: self.next_id, ..run });
        self.admit();
    }

    /// Lets go of answers that nobody reads, and begins those for which there is room now.
    fn admit(&mut self) {
        std::mem::take(&mut self.lent).into_iter().for_each(|page| self.pages.release(page));
        self.waiting.retain(|run| !run.talk.is_closed());
        while let Some(index) = self.runs.iter().position(|run| run.talk.is_closed()) {
            self.retire(index);
        }
        while self.recovery.is_none()
            && self.runs.len() < MOST_SCORED
            && self.waiting.front().is_some_and(|run| self.fits(run))
            && let Some(run) = self.waiting.pop_front()
        {
            if let Err(error) = self.begin(run) {
                self.fail(error);
            }
        }
    }

    /// Pages that it needs in all.
    fn needed(&self, run: &Run) -> usize {
        pages(run.most_tokens(self.decoder.context()).max(run.history.len()))
    }

    /// The sequence that begins most like `tokens`: how far, its pages, and which of those that are kept it is.
    fn like(&self, tokens: &[u32]) -> (usize, &[u32], Option<usize>) {
        let live = self.runs.iter().map(|run| (&run.history[..run.cached], run.pages.as_slice(), None));
        let kept = self.kept.iter().enumerate();
        let kept = kept.map(|(index, kept)| (kept.tokens.as_slice(), kept.pages.as_slice(), Some(index)));
        let alike =
            live.chain(kept).map(|(cached, pages, kept)| (common_prefix(cached, tokens), pages, kept));
        // Of equals the one that was used last.
        alike.max_by_key(|(len, _, _)| *len).unwrap_or((0, &[], None))
    }

    fn fits(&self, run: &Run) -> bool {
        self.rest_after(run).is_some()
    }

    /// Pages that are still to be had once it has begun; nothing where it does not fit.
    fn rest_after(&self, run: &Run) -> Option<usize> {
        let (len, found, _) = self.like(run.reusable());
        let shared = found[..len / PAGE].iter().filter(|page| self.pages.is_live(**page)).count();
        self.pages.available().checked_sub(self.needed(run) - shared)
    }

    /// Begins with what is there already. Whole pages are shared with who has them. The last one is taken over from a
    /// sequence that had ended there, or would have to go, and else copied: whoever has it may write on.
    fn begin(&mut self, mut run: Run) -> Result<()> {
        let (len, found, mut kept) = self.like(run.reusable());
        let (found, needed) = (found.to_vec(), self.needed(&run));
        let last = found.get(len / PAGE).copied().filter(|_| !len.is_multiple_of(PAGE));
        let free_to_write = last.is_none_or(|page| !self.pages.is_live(page));
        let no_room_to_copy = self.rest_after(&run) == Some(0);
        if let (Some(page), true, true) = (last, free_to_write, no_room_to_copy) {
            // To others of those that are kept it may be a whole page.
            let (others, rest) = std::mem::take(&mut self.kept)
                .into_iter()
                .enumerate()
                .partition::<Vec<_>, _>(|(index, other)| Some(*index) != kept && other.pages.contains(&page));
            others.into_iter().for_each(|(_, other)| self.forget(other));
            kept = rest.iter().position(|(index, _)| Some(*index) == kept);
            self.kept = rest.into_iter().map(|(_, other)| other).collect();
        }
        let free_to_write = last.is_none_or(|page| self.pages.is_kept_once(page));
        let goes_on = kept.filter(|&index| {
            len > 0 && free_to_write && (no_room_to_copy || self.kept[index].tokens.len() == len)
        });
        let held = if goes_on.is_some() { pages(len) } else { len / PAGE };
        let copied = found.get(held).copied().filter(|_| held < pages(len));
        found[..held].iter().chain(&copied).for_each(|&page| self.pages.share(page));
        run.pages.extend(&found[..held]);
        run.cached = len;
        run.promised = needed - held;
        self.pages.promise(run.promised);
        if let Some(index) = kept {
            let kept = self.kept.remove(index);
            match goes_on {
                Some(_) => self.forget(kept),
                None => self.kept.push(kept),
            }
        }
        while self.pages.lacks() && !self.kept.is_empty() {
            let oldest = self.kept.remove(0);
            self.forget(oldest);
        }
        if len < run.history.len() {
            run.first_scores = None;
        }
        if run.choice == 0 && run.losses == 0 {
            run.talk.cached.set(len.min(run.prompt_len()));
        }
        let made = match copied {
            Some(page) => {
                let room = run.make_room(len, &mut self.pages);
                let copied = room.and_then(|()| self.decoder.copy_page(page, run.pages[held]));
                self.pages.release(page);
                copied
            }
            None => Ok(()),
        };
        self.runs.push(run);
        made
    }

    fn forget(&mut self, kept: Kept) {
        kept.pages.iter().for_each(|&page| self.pages.forget(page));
    }

    /// Ends an answer, and keeps what it has in the KV cache.
    fn retire(&mut self, index: usize) {
        let mut run = self.runs.remove(index);
        let Some(kept) = run.give_back(&mut self.pages) else { return };
        // What is the beginning of another one serves nobody.
        while let Some(part) = self.kept.iter().position(|other| kept.tokens.starts_with(&other.tokens)) {
            let part = self.kept.remove(part);
            self.forget(part);
        }
        self.kept.push(kept);
        if self.kept.len() > MOST_KEPT {
            let oldest = self.kept.remove(0);
            self.forget(oldest);
        }
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
            let run = &mut self.runs[index];
            let end = run.history.len().min(run.cached + most);
            run.make_room(end, &mut self.pages)?;
            step.tokens.extend(run.history[run.cached..end].iter().copied().map(Token::Known));
            step.spans.push(Span { pages: run.pages.clone(), position: run.cached, rows: end - run.cached });
            if end == run.history.len() {
                scored.push(run.id);
            }
        }
        if step.rows() == 0 {
            return Ok(false);
        }
        step.scored = scored.len();
        self.decoder.run(&step)?;
        for (index, span) in prompt.into_iter().chain(answers).zip(&step.spans) {
            self.runs[index].cached = span.end();
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
            step.spans.push(Span { pages: run.pages.clone(), position, rows: 1 });
        }
        self.decoder.run(&step)?;
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
        if count > self.pages.available() || self.recovery.is_some() {
            return Ok(false);
        }
        self.pages.promise(count);
        while self.pages.lacks() && !self.kept.is_empty() {
            let oldest = self.kept.remove(0);
            self.forget(oldest);
        }
        // Where waiting is given up they come back with the next step.
        self.lent.extend((0..count).map_while(|_| self.pages.take()));
        let (step_len, mut logits) = (self.decoder.step_len().min(MOST_SCORED), Vec::new());
        for (index, chunk) in tokens.chunks(step_len).enumerate() {
            let position = index * step_len;
            let step = Step {
                tokens: chunk.iter().copied().map(Token::Known).collect(),
                spans: vec![Span { pages: self.lent.clone(), position, rows: chunk.len() }],
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

    /// Brings the model back at once where `error` says that its GPU was lost, for the `losses`th time; any other error
    /// comes back. Gives the number of losses.
    pub(super) async fn recover(&mut self, error: Error, losses: usize) -> Result<usize> {
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
    fn fail(&mut self, error: Error) {
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
        for mut run in self.runs.drain(..).rev() {
            run.lose();
            self.waiting.push_front(run);
        }
        let losses = self.waiting.iter().map(|run| run.losses).max().unwrap_or(0).max(losses);
        self.recovery = Some(Recovery::begin(model, error, losses)?);
        Ok(())
    }

    /// A step of the recovery.
    async fn come_back(&mut self) -> Result<()> {
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
        self.decoder = decoder;
        // Its source, and whatever that holds, is not needed any more.
        self.model.take_if(|_| !can_be_lost(&self.decoder));
    }
}

fn can_be_lost(decoder: &Decoder) -> bool {
    decoder.backend().gpu().is_some()
}
