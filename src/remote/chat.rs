//! Answers of hosted models, chunk by chunk.

use super::attempts::Attempts;
use super::failure::{self, Failure};
use super::sse::Parser;
use super::{Client, LARGEST, cost};
use crate::engine::Usage;
use crate::http::{self, Request, Response};
use crate::openai::{Chunk, ChunkChoice, Chunks, Completion, Endpoint, Origin, Ran};
use crate::{Error, Result};
use futures_util::stream::{StreamExt, try_unfold};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
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
        let stream = body["stream"] == true;
        let url = format!("{}{}", self.base_url(), endpoint.path());
        let accept = if stream { "text/event-stream, application/json" } else { "application/json" };
        let request = Request::post_json(url, &body)?.header("Accept", accept);
        let exchange = Exchange {
            request: self.sign(request).timeouts(self.config.retry.timeouts()),
            attempts: Attempts::new(self.config.retry),
            phase: Phase::Check,
            prompt_tokens: cost::prompt_tokens(&body),
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

    fn body(&self, endpoint: Endpoint, model: &str, body: Value) -> Result<Value> {
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
        let mut body: Map<String, Value> = fields
            .into_iter()
            .filter(|(key, value)| !value.is_null() && !LOCAL.contains(&key.as_str()))
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
        if body.get("stream") == Some(&Value::Bool(true)) {
            body.insert("stream_options".into(), json!({ "include_usage": true }));
        } else {
            body.remove("stream_options");
        }
        Ok(Value::Object(self.with_extra_body(body)))
    }
}

/// One request, from its first attempt to the end of its answer.
struct Exchange {
    client: Client,
    request: Request,
    attempts: Attempts,
    phase: Phase,
    endpoint: Endpoint,
    model: String,
    /// It is on the bill.
    sent: bool,
    /// Something was said: from now on nothing is tried again.
    begun: bool,
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
        self.last = Chunk::default();
        let response = self
            .attempts
            .within(async {
                let response = http::send(request).await?;
                match response.is_success() {
                    true => Ok(response),
                    false => Err(Failure::of(response, client.token()).await),
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
        let (wait, retry) = self.attempts.after(failure)?;
        self.phase = Phase::Wait(wait);
        let object = self.endpoint.object().to_owned();
        Ok(Chunk { object, model: self.model.clone(), retry: Some(retry), ..Chunk::default() })
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
        self.last = Chunk {
            id: chunk.id.clone(),
            object: chunk.object.clone(),
            created: chunk.created,
            model: chunk.model.clone(),
            usage: self.last.usage,
            ..Chunk::default()
        };
        self.said += chunk.choices.iter().map(said).sum::<usize>();
        if self.begun {
            return (!chunk.choices.is_empty()).then_some(chunk);
        }
        if !chunk.says_something() {
            self.held.get_or_insert(chunk);
            return None;
        }
        self.begun = true;
        if let Some(held) = self.held.take() {
            for choice in held.choices {
                let Some(first) = chunk.choices.iter_mut().find(|known| known.index == choice.index) else {
                    continue;
                };
                let (Some(first), Some(delta)) = (&mut first.delta, choice.delta) else { continue };
                first.role = first.role.take().or(delta.role);
            }
        }
        chunk.candlewick = Some(self.origin());
        Some(chunk)
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

/// The body of an answer: a stream of events, or JSON.
struct Body {
    client: Client,
    response: Response,
    parser: Parser,
    events: VecDeque<String>,
    streams: bool,
    /// Answers that have begun and not ended.
    open: Vec<usize>,
    ended: bool,
}

impl Body {
    fn new(client: Client, response: Response) -> Body {
        let media_type = response.header("Content-Type").unwrap_or_default();
        Body {
            streams: media_type.trim_start().to_ascii_lowercase().starts_with("text/event-stream"),
            client,
            response,
            parser: Parser::default(),
            events: VecDeque::new(),
            open: Vec::new(),
            ended: false,
        }
    }

    async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if !self.streams {
                self.ended = true;
                return self.whole().await.map(Some);
            }
            if let Some(event) = self.events.pop_front() {
                if event.trim() == "[DONE]" {
                    self.ended = true;
                    return Ok(None);
                }
                if event.trim().is_empty() {
                    continue;
                }
                return self.event(&event).map(Some);
            }
            match self.response.chunk().await? {
                Some(bytes) => {
                    let host = self.client.host();
                    self.parser.feed(&bytes, &mut self.events).map_err(|error| error.context(host))?;
                }
                None if self.open.is_empty() => self.ended = true,
                None => {
                    let host = self.client.host();
                    return Err(Error::network(format!("{host}: the answer ended before its end")).into());
                }
            }
        }
    }

    /// An answer in one piece is one chunk.
    async fn whole(&mut self) -> Result<Chunk, Failure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.response.chunk().await? {
            if bytes.len() + chunk.len() > LARGEST {
                return Err(self.broken("an answer beyond all bounds").into());
            }
            bytes.extend(chunk);
        }
        let mut body = self.client.json(&bytes)?;
        for choice in body.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(choice) = choice.as_object_mut() else { continue };
            let Some(mut message) = choice.remove("message") else { continue };
            let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
            for (index, call) in calls.into_iter().flatten().enumerate() {
                if let Some(call) = call.as_object_mut() {
                    call.insert("index".into(), index.into());
                }
            }
            choice.insert("delta".into(), message);
        }
        self.chunk(body)
    }

    fn event(&mut self, event: &str) -> Result<Chunk, Failure> {
        let body = self.client.json(event.as_bytes())?;
        let chunk = self.chunk(body)?;
        for choice in &chunk.choices {
            self.open.retain(|index| *index != choice.index);
            if choice.finish_reason.is_none() {
                self.open.push(choice.index);
            }
        }
        Ok(chunk)
    }

    fn chunk(&self, body: Value) -> Result<Chunk, Failure> {
        let choices = body.get("choices").and_then(Value::as_array);
        if choices.is_none() && body.get("usage").is_none() {
            return Err(Failure::within(self.client.host(), &body, self.client.token()));
        }
        if choices.into_iter().flatten().any(|choice| choice["finish_reason"] == "error") {
            return Err(self.broken("the model failed").into());
        }
        let mut chunk: Chunk = serde_path_to_error::deserialize(body).map_err(|error| {
            let error = failure::clean(&error.to_string(), self.client.token());
            Failure::from(self.broken(&format!("the answer is not as OpenAI has it: {error}")))
        })?;
        // What candlewick alone says of an answer; a host that is candlewick too speaks of itself.
        for name in ["candlewick", "retry", "recovery", "prompt_progress"] {
            chunk.other.remove(name);
        }
        for delta in chunk.choices.iter_mut().filter_map(|choice| choice.delta.as_mut()) {
            // OpenRouter's and vLLM's name for it.
            if let Some(Value::String(text)) = delta.other.remove("reasoning") {
                delta.reasoning_content.get_or_insert(text);
            }
        }
        Ok(chunk)
    }

    fn broken(&self, what: &str) -> Error {
        Error::provider_error(format!("{}: {what}", self.client.host()))
    }
}
