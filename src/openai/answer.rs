//! An answer of a model on this device, in OpenAI's shape.

use super::inputs::{Input, Inputs};
use super::{ChatRequest, Chunk, ChunkChoice, CompletionRequest, Delta, Endpoint, PromptProgress};
use crate::engine::{Engine, Event, FinishReason, Generation, Prompt, Start, Timings, Usage};
use crate::{Error, Result};
use std::collections::VecDeque;
use web_time::{SystemTime, UNIX_EPOCH};

/// Prompts in one request, at most: as many as OpenAI takes.
const MOST_PROMPTS: usize = 2048;
/// Entries of `logit_bias` in the settings of all of them.
const MOST_BIASES: usize = 1 << 20;

/// An answer in the making: chunk by chunk, and whole at the end.
pub struct Answer {
    engine: Engine,
    endpoint: Endpoint,
    id: String,
    created: u64,
    model: String,
    /// Prompts whose turn has not come.
    waiting: VecDeque<Wait>,
    /// The one that is answered, and what to put before each of its texts.
    now: Option<(Generation, String)>,
    /// Answers to one prompt.
    choices: usize,
    /// Answers to the prompts before this one.
    before: usize,
    /// Answers that have begun.
    begun: usize,
    /// Whether chunks have their token ids.
    tokens: bool,
    /// Of the first prompt.
    seed: u64,
    /// Of the prompts before this one; nothing once they were given.
    counted: Option<(Usage, Timings)>,
}

/// A checked prompt.
struct Wait {
    start: Start,
    prefix: String,
}

impl Answer {
    /// Begins to answer a conversation.
    pub async fn chat(engine: &Engine, request: ChatRequest) -> Result<Answer> {
        let ChatRequest { conversation, how } = request;
        let start = engine.prepare(Prompt::Chat(conversation), how.settings).await?;
        let waiting = VecDeque::from([Wait { start, prefix: String::new() }]);
        Answer::begin(engine, Endpoint::Chat, waiting, how.tokens).await
    }

    /// Begins to continue a text, or several, one after the other. All of them are checked first.
    pub async fn complete(engine: &Engine, request: CompletionRequest) -> Result<Answer> {
        let CompletionRequest { prompts: Inputs(prompts), echo, how } = request;
        let many = prompts.len() > 1;
        // Each prompt that waits has settings of its own.
        let biases = prompts.len().saturating_mul(how.settings.sampling.logit_bias.len());
        if prompts.len() > MOST_PROMPTS || biases > MOST_BIASES {
            return Err(Error::invalid_argument(format!(
                "{} prompts with {} entries of logit_bias; at most {MOST_PROMPTS} prompts go into a request, and {MOST_BIASES} entries in all",
                prompts.len(),
                how.settings.sampling.logit_bias.len()
            )));
        }
        let mut waiting = VecDeque::with_capacity(prompts.len());
        for (index, prompt) in prompts.into_iter().enumerate() {
            let prefix = match (&prompt, echo) {
                (_, false) => String::new(),
                (Input::Text(text), true) => text.clone(),
                (Input::Tokens(tokens), true) => {
                    let tokenizer = &engine.language().tokenizer;
                    tokenizer.check(tokens)?;
                    tokenizer.decode(tokens)
                }
            };
            let prompt = match prompt {
                Input::Text(text) => Prompt::Text(text),
                Input::Tokens(tokens) => Prompt::Tokens(tokens),
            };
            let start = engine.prepare(prompt, how.settings.clone()).await;
            let start = start.map_err(|error| match many {
                true => error.context(format!("prompt[{index}]")),
                false => error,
            })?;
            waiting.push_back(Wait { start, prefix });
        }
        Answer::begin(engine, Endpoint::Completions, waiting, how.tokens).await
    }

    async fn begin(
        engine: &Engine,
        endpoint: Endpoint,
        waiting: VecDeque<Wait>,
        tokens: bool,
    ) -> Result<Answer> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let kind = match endpoint {
            Endpoint::Chat => "chatcmpl",
            Endpoint::Completions => "cmpl",
        };
        let (seed, choices) =
            waiting.front().map_or((0, 0), |wait| (wait.start.seed(), wait.start.choices()));
        let mut answer = Answer {
            engine: engine.clone(),
            endpoint,
            id: format!("{kind}-{:x}{:08x}", since_epoch.as_nanos(), seed as u32),
            created: since_epoch.as_secs(),
            model: engine.info().name.clone(),
            waiting,
            now: None,
            choices,
            before: 0,
            begun: 0,
            tokens,
            seed,
            counted: Some(Default::default()),
        };
        answer.turn().await?;
        Ok(answer)
    }

    /// The seed of the first answer.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// One step. While a prompt is processed, and at the very end, chunks have no choices; the last one carries usage
    /// and timings.
    pub async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            let Some((generation, _)) = &mut self.now else {
                let Some((usage, timings)) = self.counted.take() else { return Ok(None) };
                return Ok(Some(Chunk { usage: Some(usage), timings: Some(timings), ..self.chunk() }));
            };
            let Some(event) = generation.next().await? else {
                self.count();
                self.turn().await?;
                continue;
            };
            return Ok(Some(match event {
                Event::Prompt { processed, total } => {
                    Chunk { prompt_progress: Some(PromptProgress { total, processed }), ..self.chunk() }
                }
                Event::Recovery(progress) => Chunk { recovery: Some(progress), ..self.chunk() },
                Event::Token { choice, token, text } => self.part(choice, text, Some(token), None),
                Event::Finish { choice, token, reason, text } => self.part(choice, text, token, Some(reason)),
            }));
        }
    }

    /// Begins with the next prompt.
    async fn turn(&mut self) -> Result<()> {
        if let Some(Wait { start, prefix }) = self.waiting.pop_front() {
            self.now = Some((self.engine.begin(start).await?, prefix));
        }
        Ok(())
    }

    /// Puts the prompt that was answered to those before it.
    fn count(&mut self) {
        if let (Some((generation, _)), Some((usage, timings))) = (self.now.take(), &mut self.counted) {
            usage.add(generation.usage());
            timings.add(generation.timings());
            self.before += self.choices;
        }
    }

    fn chunk(&self) -> Chunk {
        Chunk {
            id: self.id.clone(),
            object: self.endpoint.object().to_owned(),
            created: self.created,
            model: self.model.clone(),
            ..Chunk::default()
        }
    }

    fn part(
        &mut self,
        choice: usize,
        mut text: String,
        token: Option<u32>,
        end: Option<FinishReason>,
    ) -> Chunk {
        let index = self.before + choice;
        let begins = self.begun == index;
        if begins {
            let prefix = self.now.as_ref().map_or("", |(_, prefix)| prefix);
            text.insert_str(0, prefix);
            self.begun += 1;
        }
        let tokens = token.filter(|_| self.tokens).into_iter().collect();
        let choice = ChunkChoice { index, finish_reason: end, tokens, ..ChunkChoice::default() };
        let choice = match self.endpoint {
            Endpoint::Chat => {
                let role = begins.then(|| "assistant".to_owned());
                ChunkChoice { delta: Some(Delta { role, content: Some(text), ..Delta::default() }), ..choice }
            }
            Endpoint::Completions => ChunkChoice { text: Some(text), ..choice },
        };
        Chunk { choices: vec![choice], ..self.chunk() }
    }
}
