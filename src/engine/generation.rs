//! What is asked of a model, and the answer event by event.

use super::Shared;
use super::counts::{Timings, Usage};
use super::run::Talk;
use crate::Result;
use crate::chat::Conversation;
use crate::http::sleep;
use crate::progress::Progress;
use crate::sampling::Sampling;
use crate::turns::yield_now;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use std::time::Duration;

/// The only answer lets others begin after its first step, and after each so many.
const ALONE: usize = 8;
/// Tokens of an answer when nobody says how many.
const DEFAULT_MAX_TOKENS: usize = 512;

/// What to answer to.
#[derive(Debug, Clone)]
pub enum Prompt {
    /// A text to continue. Special tokens written in it count as such.
    Text(String),
    /// The same as tokens, used as they are.
    Tokens(Vec<u32>),
    /// A conversation, put into words by the model's chat template.
    Chat(Conversation),
}

/// What to do with a prompt that does not fit the context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truncation {
    /// Refuse it with `context_length_exceeded`.
    #[default]
    Error,
    /// Take tokens out of its middle.
    Middle,
    /// Leave out the oldest turns of a conversation; messages of the system at its beginning stay, and so does the last
    /// turn. Once it is too long, so many go that what is left takes half of the room: with the turns that follow, it
    /// begins the same. Where it is no conversation that is too long, it is refused.
    Oldest,
}

/// How to answer.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens to generate at most; with 0 only the prompt is counted. Answers also end where the context is full.
    pub max_tokens: usize,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// For prompts that are too long.
    pub truncation: Truncation,
    /// Number of answers, which go on together. Each draws with a seed one higher than the one before.
    pub choices: usize,
    /// Go on where the model would end the answer, for measuring.
    pub ignore_eos: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sampling: Sampling::default(),
            max_tokens: DEFAULT_MAX_TOKENS,
            stop: Vec::new(),
            truncation: Truncation::default(),
            choices: 1,
            ignore_eos: false,
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(test, derive(ts_rs::TS))]
pub enum FinishReason {
    /// The model ended it, or a stop string came.
    Stop,
    /// `max_tokens`, or the context is full.
    Length,
    /// A hosted model calls tools.
    ToolCalls,
    /// A hosted model's filter held the rest back.
    ContentFilter,
}

/// What [`Generation::next`] gives.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "events are handed on, not kept")]
pub enum Event {
    /// A part of the prompt has gone through the model.
    Prompt {
        /// Tokens so far.
        processed: usize,
        /// Tokens in all. Where the model has come back from a lost GPU, those of the answer too.
        total: usize,
    },
    /// The GPU was lost, and the model is on its way to a new one, until the stage is `Ready`. The answer then goes
    /// on where it was.
    Recovery(Progress),
    /// A token was chosen.
    Token {
        /// Which answer, from 0.
        choice: usize,
        /// Its id.
        token: u32,
        /// The text that is now certain; empty while a character or a stop string may be incomplete.
        text: String,
    },
    /// An answer has ended.
    Finish {
        /// Which answer, from 0.
        choice: usize,
        /// Why.
        reason: FinishReason,
        /// The token that ended it, where that is part of the answer.
        token: Option<u32>,
        /// Its text, and what was held back until now.
        text: String,
    },
}

/// Answers to a prompt in the making. All work is done while someone waits for [`Generation::next`], of this or another
/// answer of the engine; dropping it at any moment gives its room to others.
pub struct Generation {
    shared: Rc<Shared>,
    talk: Rc<Talk>,
    prompt: Vec<u32>,
    seed: u64,
    /// That it has driven.
    steps: usize,
}

impl Generation {
    pub(super) fn new(shared: Rc<Shared>, talk: Rc<Talk>, prompt: Vec<u32>, seed: u64) -> Generation {
        Generation { shared, talk, prompt, seed, steps: 0 }
    }

    /// A part of the prompt has gone through the model, or an answer has a token more. `None` when all answers have
    /// ended. Several answers go on together; after an error there is nothing more.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        let (mut rested, mut waited) = (false, false);
        loop {
            if let Some(event) = self.talk.pop() {
                self.shared.changed.notify(usize::MAX);
                return event.map(Some);
            }
            if self.talk.is_over() {
                return Ok(None);
            }
            let changed = self.shared.changed.listen();
            let mut batch = self.shared.batch.lock().await;
            if !rested && batch.others_have_news(&self.talk) {
                // They read first: otherwise what comes piles up with them, and then comes at once.
                rested = true;
                drop(batch);
                yield_now().await;
                continue;
            }
            if !waited && batch.others_are_behind(&self.talk) {
                // A reader of tokens without a text asks for the next at once. The others have a whole turn, and steps go on
                // to have a token of each.
                waited = true;
                drop(batch);
                sleep(Duration::ZERO).await;
                continue;
            }
            if self.talk.has_news() {
                continue;
            }
            let worked = batch.step(&self.shared.language.tokenizer).await;
            let alone = batch.is_alone() && !self.steps.is_multiple_of(ALONE);
            self.steps = self.steps.wrapping_add(1);
            drop(batch);
            match worked {
                true if alone => {}
                // Other readers have their turn: if this one ran ahead, steps would have but its own tokens.
                true => yield_now().await,
                // It waits for room, and those who have it wait for their readers.
                false => changed.await,
            }
        }
    }

    /// The seed of the first answer.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The prompt as the model gets it.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        self.talk.usage()
    }

    /// Speed so far.
    pub fn timings(&self) -> Timings {
        self.talk.timings()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.talk.leave();
        self.shared.changed.notify(usize::MAX);
    }
}
