//! One answer: prefill, then decode, token by token, as the caller asks for the next event.

use super::counts::{Clock, PromptTokensDetails, Timings, Usage};
use super::recovery::{Recovery, Step};
use super::stop::StopMatcher;
use super::{Language, Session};
use crate::backend::Top;
use crate::chat::Conversation;
use crate::progress::Progress;
use crate::sampling::{Sampler, Sampling};
use crate::text::Detokenizer;
use crate::turns::Turns;
use crate::{Error, Result};
use async_lock::MutexGuardArc;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use web_time::Instant;

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
    /// Number of answers, one after the other. Each draws on with a seed one higher.
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

/// A checked request that waits for its turn.
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

    /// Number of answers.
    pub(crate) fn choices(&self) -> usize {
        self.settings.choices
    }

    pub(super) fn with(self, language: Rc<Language>, mut session: MutexGuardArc<Session>) -> Generation {
        // The last token has to go through the model again, for its logits.
        let reusable = &self.prompt[..self.prompt.len() - 1];
        let cached = session.cached.iter().zip(reusable).take_while(|(a, b)| a == b).count();
        session.cached.truncate(cached);
        let prompt_len = self.prompt.len();
        let answer = Choice::new(&self.sampler, &self.detokenizer, &self.settings);
        let ahead = is_ahead(&session, &self.settings);
        Generation {
            language,
            session,
            history: self.prompt,
            prompt_len,
            settings: self.settings,
            seed: self.sampler.seed(),
            fresh_sampler: self.sampler,
            fresh_detokenizer: self.detokenizer,
            cached,
            processed: cached,
            prompt_logits: Vec::new(),
            logits: Vec::new(),
            top: Top::default(),
            unread: false,
            answer,
            ahead,
            arrived: None,
            recovery: None,
            losses: 0,
            choice: 0,
            generated: 0,
            clock: Clock::new(),
        }
    }
}

/// Whether the device chooses the tokens.
fn is_ahead(session: &Session, settings: &Settings) -> bool {
    // Further answers begin with the logits of the first.
    session.decoder.backend().chooses_ahead() && settings.sampling.is_plain_greedy() && settings.choices == 1
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

/// The state of one answer of several.
struct Choice {
    sampler: Sampler,
    detokenizer: Detokenizer,
    stop: StopMatcher,
}

impl Choice {
    fn new(sampler: &Sampler, detokenizer: &Detokenizer, settings: &Settings) -> Self {
        Choice {
            sampler: sampler.clone(),
            detokenizer: detokenizer.clone(),
            stop: StopMatcher::new(&settings.stop),
        }
    }
}

/// An answer in the making. It does no work but in [`Generation::next`]; dropping it at any
/// moment leaves the engine ready for the next request.
pub struct Generation {
    language: Rc<Language>,
    session: MutexGuardArc<Session>,
    /// The prompt and the answer so far. What the session has not cached has to go through the model.
    history: Vec<u32>,
    prompt_len: usize,
    settings: Settings,
    /// As it is after the prompt; each answer begins with a copy.
    fresh_sampler: Sampler,
    fresh_detokenizer: Detokenizer,
    /// Of the first answer.
    seed: u64,
    /// Prompt tokens that were in the KV cache already.
    cached: usize,
    /// Prompt tokens that have been there.
    processed: usize,
    /// What follows the prompt, kept while more than one answer is to come.
    prompt_logits: Vec<f32>,
    /// What follows, where all of it was read.
    logits: Vec<f32>,
    /// The likeliest of what follows, where no more was read.
    top: Top,
    /// Whether the sampler has yet to get the scores of the last step. Whoever gave up waiting finds them there.
    unread: bool,
    answer: Choice,
    /// The device chooses the tokens, and works on the next step while one is on its way here.
    ahead: bool,
    /// The first of them.
    arrived: Option<u32>,
    recovery: Option<Recovery>,
    /// Of the device.
    losses: usize,
    choice: usize,
    /// Tokens of all answers.
    generated: usize,
    clock: Clock,
}

impl Generation {
    /// One step: a part of the prompt, or one token. `None` when all answers have ended.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        if self.choice == self.settings.choices {
            return Ok(None);
        }
        if self.settings.max_tokens == 0 {
            return Ok(Some(self.finish(FinishReason::Length, None, String::new())));
        }
        loop {
            if self.recovery.is_some() {
                return self.come_back().await.map(|progress| Some(Event::Recovery(progress)));
            }
            let (start, first) = (Instant::now(), self.history.len() == self.prompt_len);
            let step = match self.must_prefill() {
                true => self.prefill().await,
                false => self.decode().await,
            };
            match step {
                Ok(event) => {
                    self.clock.count(&event, start, first);
                    return Ok(Some(event));
                }
                Err(error) => {
                    self.recovery = Some(self.session.recover(error, self.losses + 1)?);
                    self.arrived = None;
                }
            }
        }
    }

    /// A step of the recovery.
    async fn come_back(&mut self) -> Result<Progress> {
        let Some(recovery) = &mut self.recovery else {
            return Err(Error::internal("nothing to come back from"));
        };
        let step = recovery.step().await;
        if let Ok(Step::Progress(progress)) = step {
            return Ok(progress);
        }
        let (losses, ready) = (recovery.losses, recovery.ready());
        self.recovery = None;
        if let Step::Done(loaded) = step? {
            self.losses = losses;
            self.session.replace(*loaded);
            self.ahead = is_ahead(&self.session, &self.settings);
        }
        Ok(ready)
    }

    /// Whether more than the last token has to go through the model: the prompt, and after a loss the answer.
    fn must_prefill(&self) -> bool {
        let cached = self.session.cached.len();
        cached < self.prompt_len || self.history.len() - cached > 1
    }

    async fn prefill(&mut self) -> Result<Event> {
        let (position, total) = (self.session.cached.len(), self.history.len());
        let end = total.min(position + self.session.decoder.step_len());
        self.session.forward(&self.history[position..end], position, usize::from(end == total))?;
        self.processed = self.processed.max(end.min(self.prompt_len));
        match end == total {
            // Steps must not pile up on the device: between them the caller may stop.
            false => self.session.decoder.wait().await?,
            true if self.ahead => {
                self.session.choose(self.language.tokenizer.len())?;
                self.arrived = Some(self.choice_ahead().await?);
            }
            true => {
                self.unread = true;
                self.read_scores().await?;
            }
        }
        Ok(Event::Prompt { processed: end, total })
    }

    /// The token that the device has chosen. It goes on to the one after that, if there may be one.
    async fn choice_ahead(&mut self) -> Result<u32> {
        // The step ahead has put the last one into the KV cache.
        let cached = self.session.cached.len();
        self.session.cached.extend(&self.history[cached..]);
        if !self.ends_with(self.history.len() + 1) {
            self.session.step_ahead(self.history.len(), self.language.tokenizer.len())?;
        }
        self.session.chosen().await
    }

    /// The token that the sampler draws, after the last one has gone through the model.
    async fn sample(&mut self) -> Result<u32> {
        let cached = self.session.cached.len();
        if cached < self.history.len() {
            self.session.forward(&self.history[cached..], cached, 1)?;
            self.unread = true;
        }
        self.read_scores().await?;
        if self.logits.is_empty() {
            if let Some(token) = self.answer.sampler.sample_top(&self.top)? {
                return Ok(token);
            }
            self.session.decoder.scores(0, &mut self.logits).await?;
        }
        // Some models have more rows than their vocabulary has tokens.
        let vocabulary = self.language.tokenizer.len();
        self.answer.sampler.sample(&mut self.logits[..vocabulary])
    }

    /// Reads as much of what was not read as the sampler wants.
    async fn read_scores(&mut self) -> Result<()> {
        if !self.unread {
            return Ok(());
        }
        let decoder = &mut self.session.decoder;
        self.logits.clear();
        // Further answers begin with them.
        let all = self.settings.choices > 1 && self.history.len() == self.prompt_len;
        match self.answer.sampler.wanted().filter(|_| !all) {
            Some(wanted) => {
                decoder.top_k(0, self.language.tokenizer.len(), &wanted, &mut self.top).await?;
            }
            None => decoder.scores(0, &mut self.logits).await?,
        }
        if all {
            self.prompt_logits.clone_from(&self.logits);
        }
        self.unread = false;
        Ok(())
    }

    /// Whether an answer can have no more when it and the prompt have `tokens` tokens.
    fn ends_with(&self, tokens: usize) -> bool {
        tokens == self.prompt_len + self.settings.max_tokens || tokens >= self.session.decoder.context()
    }

    async fn decode(&mut self) -> Result<Event> {
        let token = match self.arrived.take() {
            Some(token) => token,
            None if self.ahead => self.choice_ahead().await?,
            None => self.sample().await?,
        };
        if self.language.tokenizer.is_end_of_generation(token) && !self.settings.ignore_eos {
            return Ok(self.finish(FinishReason::Stop, None, String::new()));
        }
        self.answer.sampler.accept(token);
        self.history.push(token);
        self.generated += 1;
        let piece = self.answer.detokenizer.push(&self.language.tokenizer, token);
        let (text, stopped) = self.answer.stop.push(&piece);
        let text = text.to_owned();
        if stopped.is_some() {
            return Ok(self.finish(FinishReason::Stop, Some(token), text));
        }
        if self.ends_with(self.history.len()) {
            return Ok(self.finish(FinishReason::Length, Some(token), text));
        }
        Ok(Event::Token { choice: self.choice, token, text })
    }

    /// Ends an answer and makes the next one ready.
    fn finish(&mut self, reason: FinishReason, token: Option<u32>, mut text: String) -> Event {
        // Where a stop string ended the answer, the matcher lets nothing more through.
        let rest = self.answer.detokenizer.finish();
        text += self.answer.stop.push(&rest).0;
        text += self.answer.stop.finish();
        let choice = self.choice;
        self.choice += 1;
        if self.choice < self.settings.choices {
            self.history.truncate(self.prompt_len);
            self.session.cached.truncate(self.prompt_len);
            self.logits.clone_from(&self.prompt_logits);
            self.fresh_sampler.reseed(self.seed.wrapping_add(self.choice as u64));
            self.answer = Choice::new(&self.fresh_sampler, &self.fresh_detokenizer, &self.settings);
        }
        Event::Finish { choice, reason, token, text }
    }

    /// The seed of the first answer.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The prompt as the model gets it.
    pub fn prompt(&self) -> &[u32] {
        &self.history[..self.prompt_len]
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_len,
            completion_tokens: self.generated,
            total_tokens: self.prompt_len + self.generated,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: self.cached },
        }
    }

    /// Speed so far.
    pub fn timings(&self) -> Timings {
        self.clock.timings(self.processed - self.cached, self.generated)
    }
}
