//! Who begins when, with which pages, and what is kept of those that end.

use super::super::run::{Kept, Run, common_prefix};
use super::super::start::Start;
use super::{Batch, Pin};
use crate::backend::{MOST_SCORED, PAGE, pages};
use crate::{Error, Result};

/// Sequences that are kept for prompts that begin alike, at most; those that are pinned come on top.
const MOST_KEPT: usize = 16;

impl Batch {
    /// Takes in an answer, which begins when there is room for it.
    pub(in super::super) fn add(&mut self, run: Run) {
        self.next_id += 1;
        self.waiting.push_back(Run { id: self.next_id, ..run });
        self.admit();
    }

    /// Lets go of answers that nobody reads, and begins those for which there is room now.
    pub(super) fn admit(&mut self) {
        std::mem::take(&mut self.lent).into_iter().for_each(|page| self.pages.release(page));
        self.lent_state.take().into_iter().for_each(|slot| self.states.release(slot));
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

    /// The sequence that begins most like `tokens`: how far, its pages, and which of those that are kept it is. Where layers
    /// have states, no further than one of these is there.
    fn like(&self, tokens: &[u32]) -> (usize, &[u32], Option<usize>) {
        let (len, pages, kept) = self.alike(tokens);
        let len = if self.states.are_needed() { self.state_like(&tokens[..len]).0 } else { len };
        (len, pages, kept)
    }

    /// The longest beginning of `tokens` whose state there is, and its slot; nothing has none.
    fn state_like(&self, tokens: &[u32]) -> (usize, Option<u32>) {
        let live = self.runs.iter().filter_map(|run| {
            let read = run.history.get(..run.state_of).filter(|read| !read.is_empty())?;
            tokens.starts_with(read).then_some((read.len(), Some(run.state)))
        });
        let kept = self.states.like(tokens).map(|(len, slot)| (len, Some(slot)));
        live.chain(kept).max_by_key(|(len, _)| *len).unwrap_or((0, None))
    }

    /// A slot for what begins with the state in slot `from`.
    pub(super) fn take_state(&mut self, from: Option<u32>) -> Option<u32> {
        let pins = &self.pins;
        self.states.take(from, |tokens| pins.iter().any(|pin| pin.start.prompt() == tokens))
    }

    fn alike(&self, tokens: &[u32]) -> (usize, &[u32], Option<usize>) {
        let live = self.runs.iter().map(|run| (&run.history[..run.cached], run.pages.as_slice(), None));
        let kept = self.kept.iter().enumerate();
        let kept = kept.map(|(index, kept)| (kept.tokens.as_slice(), kept.pages.as_slice(), Some(index)));
        let alike =
            live.chain(kept).map(|(cached, pages, kept)| (common_prefix(cached, tokens), pages, kept));
        // Of equals the one that was used last.
        alike.max_by_key(|(len, _, _)| *len).unwrap_or((0, &[], None))
    }

    fn fits(&self, run: &Run) -> bool {
        self.states.has_room() && self.rest_after(run).is_some()
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
        let ends_there = |kept: &Kept| kept.tokens.len() == len && !self.is_pinned(kept);
        let goes_on = kept
            .filter(|&index| len > 0 && free_to_write && (no_room_to_copy || ends_there(&self.kept[index])));
        let held = if goes_on.is_some() { pages(len) } else { len / PAGE };
        let copied = found.get(held).copied().filter(|_| held < pages(len));
        found[..held].iter().chain(&copied).for_each(|&page| self.pages.share(page));
        run.pages.extend(&found[..held]);
        run.cached = len;
        let copied_state = self.begin_state(&mut run, len)?;
        run.promised = needed - held;
        self.pages.promise(run.promised);
        if let Some(index) = kept {
            let kept = self.kept.remove(index);
            match goes_on {
                Some(_) => self.forget(kept),
                None => self.kept.push(kept),
            }
        }
        self.make_way();
        if len < run.history.len() {
            run.first_scores = None;
        }
        if run.choice == 0 && run.losses == 0 {
            run.talk.cached.set(len.min(run.prompt_len()));
        }
        let made = copied_state.map_or(Ok(()), |from| self.decoder.copy_state(from, run.state));
        let copied_page = match copied {
            Some(page) => {
                let room = run.make_room(len, &mut self.pages);
                let copied = room.and_then(|()| self.decoder.copy_page(page, run.pages[held]));
                self.pages.release(page);
                copied
            }
            None => Ok(()),
        };
        let made = made.and(copied_page);
        let ended = made.is_ok() && run.end_prefill();
        self.runs.push(run);
        if ended {
            self.retire(self.runs.len() - 1);
        }
        made
    }

    /// Gives a sequence that begins with `len` tokens its slot. Gives the slot that is to be copied there.
    fn begin_state(&mut self, run: &mut Run, len: usize) -> Result<Option<u32>> {
        if !self.states.are_needed() {
            return Ok(None);
        }
        let (_, from) = self.state_like(&run.history[..len]);
        let slot = self.take_state(from);
        run.state = slot.ok_or_else(|| Error::internal("there is no room for a sequence's state"))?;
        run.state_of = len;
        Ok(from.filter(|from| *from != run.state))
    }

    /// Keeps what was promised: what is kept goes, what was used last and what is pinned at the end.
    pub(super) fn make_way(&mut self) {
        while self.pages.lacks() && !self.kept.is_empty() {
            let first = self.kept.iter().position(|kept| !self.is_pinned(kept)).unwrap_or(0);
            let first = self.kept.remove(first);
            self.forget(first);
        }
    }

    fn is_pinned(&self, kept: &Kept) -> bool {
        self.pins.iter().any(|pin| pin.start.prompt() == kept.tokens)
    }

    fn forget(&mut self, kept: Kept) {
        kept.pages.iter().for_each(|&page| self.pages.forget(page));
    }

    /// Ends an answer, and keeps what it has in the KV cache.
    pub(super) fn retire(&mut self, index: usize) {
        let mut run = self.runs.remove(index);
        if self.states.are_needed() {
            match run.state_of == run.cached && run.cached > 0 {
                true => self.states.keep(&run.history[..run.cached], run.state),
                false => self.states.release(run.state),
            }
        }
        let Some(kept) = run.give_back(&mut self.pages) else { return };
        self.keep(kept);
    }

    fn keep(&mut self, kept: Kept) {
        // What is the beginning of another one serves nobody, unless it is to stay when that goes.
        let part = |batch: &Self, other: &Kept| {
            let shorter = other.tokens.len() < kept.tokens.len();
            kept.tokens.starts_with(&other.tokens) && !(shorter && batch.is_pinned(other))
        };
        while let Some(part) = self.kept.iter().position(|other| part(self, other)) {
            let part = self.kept.remove(part);
            self.forget(part);
        }
        self.kept.push(kept);
        let unpinned = |batch: &Self| {
            let mut kept = batch.kept.iter().enumerate().filter(|(_, kept)| !batch.is_pinned(kept));
            (kept.next().map(|(first, _)| first), kept.count())
        };
        while let (Some(oldest), MOST_KEPT..) = unpinned(self) {
            let oldest = self.kept.remove(oldest);
            self.forget(oldest);
        }
    }

    /// Keeps the prompt of `start`, once it is in the KV cache, as long as it can. Another one of that name is not
    /// kept any longer.
    pub(in super::super) fn pin(&mut self, name: &str, start: Start) {
        self.unpin(name);
        self.pins.push(Pin { name: name.to_owned(), start });
    }

    /// Says whether there was one.
    pub(in super::super) fn unpin(&mut self, name: &str) -> bool {
        let before = self.pins.len();
        self.pins.retain(|pin| pin.name != name);
        self.pins.len() < before
    }

    /// Names and numbers of tokens.
    pub(in super::super) fn pinned(&self) -> Vec<(String, usize)> {
        self.pins.iter().map(|pin| (pin.name.clone(), pin.start.prompt().len())).collect()
    }

    /// Adds the pages of `tokens` to `out`; false where these tokens are not in the KV cache.
    pub(in super::super) async fn read_pages(&mut self, tokens: &[u32], out: &mut Vec<u8>) -> Result<bool> {
        self.admit();
        let (len, found, _) = self.like(tokens);
        if len < tokens.len() || self.recovery.is_some() {
            return Ok(false);
        }
        let pages = found[..pages(len)].to_vec();
        let (_, state) = self.state_like(tokens);
        self.decoder.read_pages(&pages, out).await?;
        if let Some(slot) = state {
            self.decoder.read_state(slot, out).await?;
        }
        Ok(true)
    }

    /// Keeps `tokens`, of which `bytes` are the pages, and behind them the state; false where there is no room for them.
    pub(in super::super) fn write_pages(&mut self, tokens: &[u32], bytes: &[u8]) -> Result<bool> {
        self.admit();
        if self.like(tokens).0 == tokens.len() {
            return Ok(true);
        }
        let count = pages(tokens.len());
        if self.recovery.is_some() || count > self.pages.available() || !self.states.has_room() {
            return Ok(false);
        }
        let (bytes, state) = bytes.split_at(count * self.decoder.page_size());
        if self.states.are_needed()
            && let Some(slot) = self.take_state(None)
        {
            match self.decoder.write_state(slot, state) {
                Ok(()) => self.states.keep(tokens, slot),
                Err(error) => {
                    self.states.release(slot);
                    return Err(error);
                }
            }
        }
        self.pages.promise(count);
        self.make_way();
        let taken: Vec<u32> = (0..count).map_while(|_| self.pages.take()).collect();
        let size = self.decoder.page_size();
        // Without attention pages have no bytes.
        let mut written = taken.iter().enumerate();
        let written = written
            .try_for_each(|(index, page)| self.decoder.write_page(*page, &bytes[index * size..][..size]));
        taken.iter().for_each(|page| self.pages.keep(*page));
        let kept = Kept { tokens: tokens.to_vec(), pages: taken };
        match written {
            Ok(()) => self.keep(kept),
            Err(error) => {
                self.forget(kept);
                return Err(error);
            }
        }
        Ok(true)
    }
}
