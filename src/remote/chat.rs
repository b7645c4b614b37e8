//! Answers of hosted models, chunk by chunk.

use super::attempts::Attempts;
use super::body::Body;
use super::change::{Change, TOKENS};
use super::failure;
use super::{Client, cost};
use crate::engine::{FinishReason, Usage};
use crate::http::{self, Failure, Request, Retrying};
use crate::openai::{Chunk, ChunkChoice, Chunks, Completion, Endpoint, Origin, Ran};
use crate::{Error, Result};
use futures_util::stream::{StreamExt, try_unfold};
use serde_json::{Map, Value, json};
use std::pin::pin;
use std::time::Duration;
use web_time::{SystemTime, UNIX_EPOCH};

/// Reads an answer to its end.
pub async fn whole(chunks: Chunks) -> Result<Completion> {
    let (mut chunks, mut whole) = (pin!(chunks), Completion::default());
    while let Some(chunk) = chunks.next().await {
        whole.add(&chunk?);
    }
    Ok(whole)
}

/// Bytes of text that a host may send for each token that it was asked for, and to begin with. Real tokens have four on
/// average; runs of spaces have many more.
const BYTES_A_TOKEN: usize = 32;
const BYTES_MORE: usize = 4096;

/// Fields that only local models understand.
const LOCAL: [&str; 4] = ["truncate", "ignore_eos", "add_generation_prompt", "chat_template"];

impl Client {
    /// Asks `model` to answer a conversation. `body` is OpenAI's, with fields of the provider's own
    /// where it has such; `continue_final_message` goes on with the last message. `stream` says
    /// whether the answer comes in parts.
    pub fn chat(&self, model: &str, body: Value) -> Result<Chunks> {
        self.answer(Endpoint::Chat, model, body)
    }

    /// Asks `model` to continue a text.
    pub fn complete(&self, model: &str, body: Value) -> Result<Chunks> {
        self.answer(Endpoint::Completions, model, body)
    }

    /// Either of them.
    pub fn answer(&self, endpoint: Endpoint, model: &str, body: Value) -> Result<Chunks> {
        let body = self.body(endpoint, model, body)?;
        let exchange = Exchange {
            request: self.request(endpoint, &body)?,
            attempts: Attempts::new(self.config.retry),
            phase: Phase::Check,
            most: most(&body),
            changes: Vec::new(),
            written: 0,
            prompt_tokens: cost::prompt_tokens(&body),
            body,
            said: 0,
            ended: false,
            endpoint,
            model: model.to_owned(),
            sent: false,
            begun: false,
            held: None,
            last: Chunk::default(),
            served_by: None,
            client: self.clone(),
        };
        let step = async |mut exchange: Exchange| Ok(exchange.next().await?.map(|chunk| (chunk, exchange)));
        Ok(try_unfold(exchange, step).boxed_local())
    }

    fn request(&self, endpoint: Endpoint, body: &Map<String, Value>) -> Result<Request> {
        let stream = body.get("stream") == Some(&Value::Bool(true));
        let url = format!("{}{}", self.base_url(), endpoint.path());
        let accept = if stream { "text/event-stream, application/json" } else { "application/json" };
        let request = Request::post_json(url, body)?.header("Accept", accept);
        Ok(self.sign(request).timeouts(self.config.retry.timeouts()))
    }

    fn body(&self, endpoint: Endpoint, model: &str, body: Value) -> Result<Map<String, Value>> {
        let Value::Object(fields) = body else {
            return Err(Error::invalid_argument("the request is not an object"));
        };
        let (needed, kind) = match endpoint {
            Endpoint::Chat => ("messages", "an array of messages"),
            Endpoint::Completions => ("prompt", "a text"),
        };
        match (endpoint, fields.get(needed)) {
            (Endpoint::Chat, Some(Value::Array(messages))) if !messages.is_empty() => {}
            (Endpoint::Completions, Some(Value::String(_) | Value::Array(_))) => {}
            _ => return Err(Error::invalid_argument(format!("{needed} must be {kind}"))),
        }
        // Whoever asks for none has a reason.
        let uncounted = fields.get("stream_options").is_some_and(Value::is_null);
        let mut body: Map<String, Value> = fields
            .into_iter()
            .filter(|(key, value)| !value.is_null() && !LOCAL.contains(&key.as_str()))
            // No limit, as llama.cpp has it; hosts want it left out.
            .filter(|(key, value)| value != &json!(-1) || !TOKENS.contains(&key.as_str()))
            .collect();
        body.insert("model".into(), model.into());
        if body.get("continue_final_message") == Some(&Value::Bool(true)) {
            let last = body["messages"].as_array().and_then(|messages| messages.last());
            if last.is_none_or(|message| message["role"] != "assistant") {
                return Err(Error::invalid_argument("to continue, the last message must be the assistant's"));
            }
            // As vLLM and TGI understand it; others go on with a last message of the assistant by themselves.
            body.insert("add_generation_prompt".into(), false.into());
        }
        if body.get("stream") == Some(&Value::Bool(true)) && !uncounted {
            body.entry("stream_options").or_insert_with(|| json!({ "include_usage": true }));
        }
        let mut body = self.with_extra_body(body);
        if body.get("stream") != Some(&Value::Bool(true)) {
            body.shift_remove("stream_options");
        }
        for (_, change) in self.changes.borrow().iter().filter(|(known, _)| known == model) {
            change.apply(&mut body);
        }
        Ok(body)
    }
}

/// The longest answer to a request, in bytes of text, where it has a limit.
fn most(body: &Map<String, Value>) -> Option<usize> {
    let number = |name: &str| usize::try_from(body.get(name)?.as_u64()?).ok();
    let tokens = TOKENS.iter().find_map(|name| number(name))?;
    let answers = number("n").unwrap_or(1).max(1);
    Some(tokens.saturating_mul(BYTES_A_TOKEN).saturating_add(BYTES_MORE).saturating_mul(answers))
}

/// One request, from its first attempt to the end of its answer.
struct Exchange {
    client: Client,
    body: Map<String, Value>,
    request: Request,
    /// What was changed in it, since a host refused it.
    changes: Vec<Change>,
    attempts: Attempts,
    phase: Phase,
    endpoint: Endpoint,
    model: String,
    /// It is on the bill.
    sent: bool,
    /// Something was said: from now on nothing is tried again.
    begun: bool,
    /// Bytes of text so far, and how many there may be.
    written: usize,
    most: Option<usize>,
    /// Says nothing, such as a role alone; comes together with what does.
    held: Option<Chunk>,
    /// What the last chunk will be.
    last: Chunk,
    /// Who did the work for a router, as far as it says so.
    served_by: Option<String>,
    /// Of the prompt, roughly.
    prompt_tokens: usize,
    /// Tokens of the answer so far, roughly.
    said: usize,
    /// It was counted.
    ended: bool,
}

enum Phase {
    Check,
    Send,
    Wait(Duration),
    Read(Box<Body>),
    Ended,
}

impl Exchange {
    async fn next(&mut self) -> Result<Option<Chunk>> {
        loop {
            let failure = match &mut self.phase {
                Phase::Ended => return Ok(None),
                // The host goes on and on: whoever asked for less has it.
                Phase::Read(_) if self.most.is_some_and(|most| self.written > most) => {
                    return Ok(Some(self.end()));
                }
                Phase::Check => {
                    self.phase = Phase::Ended;
                    self.client.check_budget(&self.model, self.prompt_tokens).await?;
                    self.client.began();
                    self.sent = true;
                    self.phase = Phase::Send;
                    continue;
                }
                Phase::Wait(duration) => {
                    http::sleep(*duration).await;
                    self.phase = Phase::Send;
                    continue;
                }
                Phase::Send => match self.send().await {
                    Ok(body) => {
                        self.phase = Phase::Read(Box::new(body));
                        continue;
                    }
                    Err(failure) => failure,
                },
                Phase::Read(body) => match self.attempts.in_time(body.next()).await {
                    Ok(Some(chunk)) => match self.give(chunk) {
                        Some(chunk) => return Ok(Some(chunk)),
                        None => continue,
                    },
                    Ok(None) if self.begun => return Ok(Some(self.end())),
                    Ok(None) => {
                        Error::provider_error(format!("{}: an answer without content", self.client.host()))
                            .into()
                    }
                    Err(failure) => failure,
                },
            };
            return self.failed(failure).map(Some);
        }
    }

    async fn send(&mut self) -> Result<Body, Failure> {
        let (client, request) = (&self.client, self.request.clone());
        self.held = None;
        self.written = 0;
        self.last = Chunk::default();
        let response = self
            .attempts
            .within(async {
                let response = http::send(request).await?;
                match response.is_success() {
                    true => Ok(response),
                    false => Err(failure::of(response, client.token()).await),
                }
            })
            .await?;
        self.served_by = response.header("x-inference-provider").map(str::to_owned);
        Ok(Body::new(client.clone(), response))
    }

    /// The next attempt, or the end.
    fn failed(&mut self, failure: Failure) -> Result<Chunk> {
        self.phase = Phase::Ended;
        if self.begun {
            let Failure { mut error, .. } = failure;
            error.message += ", in the middle of the answer";
            return Err(error);
        }
        if let Some(change) = Change::for_refusal(&failure.error, &self.body)
            && !self.changes.contains(&change)
        {
            change.apply(&mut self.body);
            self.request = self.client.request(self.endpoint, &self.body)?;
            self.changes.push(change);
            self.phase = Phase::Send;
            let retry = Retrying::new(self.attempts.made, failure.error, Duration::ZERO);
            return Ok(self.told(retry));
        }
        let (wait, retry) = self.attempts.after(failure)?;
        self.phase = Phase::Wait(wait);
        Ok(self.told(retry))
    }

    fn told(&self, retry: Retrying) -> Chunk {
        let object = self.endpoint.object().to_owned();
        Chunk { object, model: self.model.clone(), retry: Some(retry), ..Chunk::default() }
    }

    /// A chunk as the caller gets it: with the first that says something comes all before it.
    fn give(&mut self, mut chunk: Chunk) -> Option<Chunk> {
        chunk.object = self.endpoint.object().to_owned();
        if chunk.model.is_empty() {
            chunk.model.clone_from(&self.model);
        }
        if chunk.created == 0 {
            chunk.created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        }
        if let Some(usage) = chunk.usage.take() {
            self.last.usage = Some(usage);
        }
        if !chunk.usage_details.is_empty() {
            self.last.usage_details = std::mem::take(&mut chunk.usage_details);
        }
        self.last.id.clone_from(&chunk.id);
        self.last.object.clone_from(&chunk.object);
        self.last.created = chunk.created;
        self.last.model.clone_from(&chunk.model);
        for choice in &mut chunk.choices {
            self.endpoint_shape(choice);
        }
        self.said += chunk.choices.iter().map(said).sum::<usize>();
        self.written = self.written.saturating_add(chunk.choices.iter().map(written).sum());
        if self.most.is_some_and(|most| self.written > most) {
            for choice in &mut chunk.choices {
                choice.finish_reason.get_or_insert(FinishReason::Length);
            }
        }
        if self.begun {
            if chunk.choices.is_empty() {
                self.last.other.extend(chunk.other);
                return None;
            }
            return Some(chunk);
        }
        if let Some(held) = self.held.take() {
            chunk.follow(held);
        }
        if !chunk.says_something() {
            self.held = Some(chunk);
            return None;
        }
        self.begun = true;
        // What this model's host refused, it will refuse again.
        let mut changes = self.client.changes.borrow_mut();
        changes.extend(self.changes.drain(..).map(|change| (self.model.clone(), change)));
        drop(changes);
        chunk.candlewick = Some(self.origin());
        Some(chunk)
    }

    /// Some hosts answer a chat as they continue texts, and the other way round.
    fn endpoint_shape(&self, choice: &mut ChunkChoice) {
        match self.endpoint {
            Endpoint::Chat => {
                if let Some(text) = choice.text.take() {
                    choice.delta.get_or_insert_default().content.get_or_insert(text);
                }
            }
            Endpoint::Completions if choice.text.is_none() => {
                choice.text = choice.delta.as_mut().and_then(|delta| delta.content.take());
            }
            _ => {}
        }
    }

    fn end(&mut self) -> Chunk {
        self.phase = Phase::Ended;
        let cost = self.count();
        let candlewick = Some(Origin { cost, ..self.origin() });
        Chunk { candlewick, ..std::mem::take(&mut self.last) }
    }

    /// Puts the answer on the bill, once.
    fn count(&mut self) -> Option<f64> {
        if !self.begun || std::mem::replace(&mut self.ended, true) {
            return None;
        }
        let rough = Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.said,
            total_tokens: self.prompt_tokens + self.said,
            ..Usage::default()
        };
        let counted = self.last.usage;
        self.client.count(&self.model, self.served_by.as_deref(), counted.unwrap_or(rough), counted.is_some())
    }

    fn origin(&self) -> Origin {
        Origin {
            ran: Ran::Remote,
            provider: match &self.served_by {
                Some(name) => format!("{}/{name}", self.client.name()),
                None => self.client.name().to_owned(),
            },
            model: self.model.clone(),
            reason: "it was asked for".to_owned(),
            attempts: self.attempts.made,
            waited_ms: self.attempts.waited.as_millis() as u64,
            cached: false,
            cost: None,
            seed: None,
        }
    }
}

/// An answer that nobody reads to its end has its price too.
impl Drop for Exchange {
    fn drop(&mut self) {
        self.count();
        if self.sent && !self.begun {
            self.client.took_back();
        }
    }
}

/// About how many tokens a choice brings.
fn said(choice: &ChunkChoice) -> usize {
    let delta = choice.delta.as_ref();
    let texts = [
        choice.text.as_ref(),
        delta.and_then(|delta| delta.content.as_ref()),
        delta.and_then(|delta| delta.reasoning_content.as_ref()),
    ];
    texts.into_iter().flatten().map(|text| cost::tokens(text)).sum()
}

/// Bytes of text that a choice brings. Thoughts are not counted: some hosts have a limit of their own for them.
fn written(choice: &ChunkChoice) -> usize {
    let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let delta = choice.delta.as_ref().map_or(0, |delta| {
        let calls = delta.tool_calls.iter().map(|call| call.function.arguments.len()).sum::<usize>();
        let refusal = delta.other.get("refusal").and_then(Value::as_str).map_or(0, str::len);
        len(&delta.content) + calls + refusal
    });
    len(&choice.text) + delta
}
