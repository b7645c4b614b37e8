//! What is asked of a model, and the answer event by event.

use super::counts::{Timings, Usage};
use super::run::{Run, Talk};
use super::stop::StopMatcher;
use super::{Language, Shared};
use crate::chat::Conversation;
use crate::progress::Progress;
use crate::sampling::{Sampler, Sampling};
use crate::text::Detokenizer;
use crate::turns::{Turns, yield_now};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::rc::Rc;

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

/// A checked request.
pub(crate) struct Start {
    prompt: Vec<u32>,
    settings: Settings,
    sampler: Sampler,
    detokenizer: Detokenizer,
}

impl Start {
    pub(super) async fn new(
        language: &Language,
        context: usize,
        prompt: Prompt,
        mut settings: Settings,
    ) -> Result<Start> {
        // No answer is longer, and no sum overflows.
        settings.max_tokens = settings.max_tokens.min(context);
        if settings.choices == 0 {
            return Err(Error::invalid_argument("n is 0; it must be at least 1"));
        }
        let tokenizer = &language.tokenizer;
        let turns = &mut Turns::new();
        let begins_text =
            matches!(&prompt, Prompt::Chat(conversation) if !conversation.continue_final_message);
        let mut tokens = match prompt {
            Prompt::Text(text) => tokenizer.encode_with_special_in_turns(&text, true, turns).await?,
            Prompt::Tokens(tokens) => {
                tokenizer.check(&tokens)?;
                tokens
            }
            Prompt::Chat(conversation) => {
                // Templates write the tokens that begin a text themselves, where they want any.
                let text = language.render(&conversation)?;
                let tokens = tokenizer.encode_in_turns(&text, true, turns).await?;
                match tokenizer.bos().filter(|bos| tokenizer.adds_bos() && tokens.first() != Some(bos)) {
                    Some(bos) => [&[bos], tokens.as_slice()].concat(),
                    None => tokens,
                }
            }
        };
        if tokens.is_empty() {
            tokens.extend(tokenizer.bos());
        }
        if tokens.is_empty() {
            return Err(Error::invalid_argument(
                "the prompt is empty, and this model has no token to begin with",
            ));
        }
        if tokens.len() >= context {
            match settings.truncation {
                Truncation::Error => return Err(too_long(tokens.len(), context)),
                Truncation::Middle => remove_middle(&mut tokens, context, settings.max_tokens),
            }
        }
        let mut sampler = Sampler::new(&settings.sampling, language.tokenizer.len())?;
        tokens.iter().for_each(|&token| sampler.accept(token));
        let detokenizer = tokenizer.detokenizer(begins_text);
        Ok(Start { prompt: tokens, settings, sampler, detokenizer })
    }

    /// Of the first answer.
    pub(crate) fn seed(&self) -> u64 {
        self.sampler.seed()
    }

    pub(super) fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// Number of answers.
    pub(crate) fn choices(&self) -> usize {
        self.settings.choices
    }

    /// The answer in the making; nothing where there is none to make.
    pub(super) fn run(self) -> (Rc<Talk>, Option<Run>) {
        let Start { prompt, settings, sampler, detokenizer } = self;
        let talk = Rc::new(Talk::new(prompt.len(), settings.choices));
        if settings.max_tokens == 0 {
            let (reason, token) = (FinishReason::Length, None);
            for choice in 0..settings.choices {
                talk.push(Ok(Event::Finish { choice, reason, token, text: String::new() }));
            }
            return (talk, None);
        }
        let fresh = (settings.choices > 1).then(|| Box::new((sampler.clone(), detokenizer.clone())));
        let run = Run {
            id: 0,
            talk: talk.clone(),
            choice: 0,
            sampler,
            detokenizer,
            stop: StopMatcher::new(&settings.stop),
            settings: Rc::new(settings),
            history: prompt,
            cached: 0,
            pages: Vec::new(),
            promised: 0,
            first_scores: None,
            fresh,
            losses: 0,
        };
        (talk, Some(run))
    }
}

pub(super) fn too_long(prompt: usize, context: usize) -> Error {
    Error::context_length_exceeded(format!(
        "the prompt has {prompt} tokens, and the context holds {context}, the answer included. \
         Shorten the prompt, load the model with a larger context, or have the middle of the prompt cut out"
    ))
}

/// Leaves room for the answer, or half of the context where that is less.
fn remove_middle(tokens: &mut Vec<u32>, context: usize, max_tokens: usize) {
    let keep = context.saturating_sub(max_tokens).max(context / 2).max(1).min(tokens.len());
    // The first token is mostly BOS.
    let head = (keep / 2).max(1);
    let tail = tokens.len() - (keep - head);
    tokens.drain(head..tail);
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
        let mut rested = false;
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
