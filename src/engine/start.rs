//! A request that is checked: its prompt in tokens, and what an answer to it begins with.

use super::generation::{Event, FinishReason, Prompt, Settings, Truncation};
use super::run::{Run, Talk, common_prefix};
use super::stop::StopMatcher;
use super::{Language, oldest};
use crate::chat::{Conversation, message};
use crate::sampling::Sampler;
use crate::text::Detokenizer;
use crate::turns::Turns;
use crate::{Error, Result};
use std::rc::Rc;

/// A checked request.
#[derive(Clone)]
pub(crate) struct Start {
    prompt: Vec<u32>,
    /// Messages that are not in it.
    dropped: usize,
    only_prefill: bool,
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
        let begins_text =
            matches!(&prompt, Prompt::Chat(conversation) if !conversation.continue_final_message);
        let mut dropped = 0;
        let mut tokens = match prompt {
            Prompt::Chat(conversation) if settings.truncation == Truncation::Oldest => {
                let room = context - settings.max_tokens.min(context / 2).max(1);
                let left = oldest::dropped(language, conversation, room).await?;
                dropped = left.dropped;
                left.tokens
            }
            prompt => language.tokens(prompt, &mut Turns::new()).await?,
        };
        let tokenizer = &language.tokenizer;
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
                Truncation::Error | Truncation::Oldest => return Err(too_long(tokens.len(), context)),
                Truncation::Middle => remove_middle(&mut tokens, context, settings.max_tokens),
            }
        }
        let mut sampler = Sampler::new(&settings.sampling, language.tokenizer.len())?;
        tokens.iter().for_each(|&token| sampler.accept(token));
        let detokenizer = tokenizer.detokenizer(begins_text);
        Ok(Start { prompt: tokens, dropped, only_prefill: false, settings, sampler, detokenizer })
    }

    /// What puts the beginning of all prompts that go on with `conversation` into the KV cache, and ends.
    pub(super) async fn prefill(language: &Language, context: usize, prompt: Prompt) -> Result<Start> {
        let tokens = match prompt {
            Prompt::Chat(conversation) => language.beginning(conversation).await?,
            prompt => language.tokens(prompt, &mut Turns::new()).await?,
        };
        let settings = Settings { max_tokens: 0, ..Settings::default() };
        let start = Start::new(language, context, Prompt::Tokens(tokens), settings).await?;
        Ok(Start { only_prefill: true, ..start })
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
        let Start { prompt, dropped, only_prefill, settings, sampler, detokenizer } = self;
        let talk = Rc::new(Talk::new(prompt.len(), dropped, settings.choices));
        if settings.max_tokens == 0 && !only_prefill {
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
            only_prefill,
            history: prompt,
            cached: 0,
            pages: Vec::new(),
            state: 0,
            state_of: 0,
            promised: 0,
            first_scores: None,
            fresh,
            losses: 0,
        };
        (talk, Some(run))
    }
}

impl Language {
    /// What the model reads.
    pub(super) async fn tokens(&self, prompt: Prompt, turns: &mut Turns) -> Result<Vec<u32>> {
        let tokenizer = &self.tokenizer;
        match prompt {
            Prompt::Text(text) => tokenizer.encode_with_special_in_turns(&text, true, turns).await,
            Prompt::Tokens(tokens) => {
                tokenizer.check(&tokens)?;
                Ok(tokens)
            }
            Prompt::Chat(conversation) => {
                // Templates write the tokens that begin a text themselves, where they want any.
                let text = self.render(&conversation)?;
                let tokens = tokenizer.encode_in_turns(&text, true, turns).await?;
                Ok(match tokenizer.bos().filter(|bos| tokenizer.adds_bos() && tokens.first() != Some(bos)) {
                    Some(bos) => [&[bos], tokens.as_slice()].concat(),
                    None => tokens,
                })
            }
        }
    }

    /// The tokens with which every prompt begins that goes on with `conversation`: where that is not the user's to go
    /// on with, whatever he says next.
    async fn beginning(&self, conversation: Conversation) -> Result<Vec<u32>> {
        let turns = &mut Turns::new();
        let last = conversation.messages.last().and_then(|last| last["role"].as_str());
        if matches!(last, Some("user" | "tool")) || conversation.continue_final_message {
            return self.tokens(Prompt::Chat(conversation), turns).await;
        }
        let mut prompts = Vec::new();
        for text in ["A", "1"] {
            let mut conversation = conversation.clone();
            conversation.messages.push(message("user", text));
            prompts.push(self.tokens(Prompt::Chat(conversation), turns).await?);
        }
        let len = common_prefix(&prompts[0], &prompts[1]);
        prompts[0].truncate(len);
        Ok(prompts.swap_remove(0))
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
