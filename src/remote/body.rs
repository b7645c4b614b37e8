//! The body of an answer: a stream of events, or JSON. Which of them comes is seen from how it begins: the types that hosts
//! give are not always right.

use super::calls::Calls;
use super::failure;
use super::json::{self, Halves};
use super::sse::{Event, Parser};
use super::{Client, LARGEST};
use crate::http::{Failure, Response};
use crate::openai::{Chunk, Delta, lenient};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet, VecDeque};

/// Answers to one request, at most; nobody offers more than 128.
const MOST_ANSWERS: usize = 1024;

/// An answer as it comes.
pub(super) struct Body {
    client: Client,
    response: Response,
    form: Form,
    /// The beginning, until it tells the form; of JSON all of it.
    start: Vec<u8>,
    /// Bytes that came.
    read: usize,
    parser: Parser,
    events: VecDeque<Event>,
    /// Answers that have begun and not ended, and those that have.
    open: HashSet<usize>,
    closed: HashSet<usize>,
    /// The tool calls of each answer.
    calls: HashMap<usize, Calls>,
    halves: Halves<(usize, Part)>,
    /// Chunks that came.
    chunks: usize,
    /// The host said that it was all.
    done: bool,
    ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Unknown,
    Events,
    Json,
}

/// A text that goes on from chunk to chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Text,
    Content,
    Reasoning,
    Refusal,
    Arguments(usize),
}

impl Body {
    pub(super) fn new(client: Client, response: Response) -> Body {
        Body {
            client,
            response,
            form: Form::Unknown,
            start: Vec::new(),
            read: 0,
            parser: Parser::default(),
            events: VecDeque::new(),
            open: HashSet::new(),
            closed: HashSet::new(),
            calls: HashMap::new(),
            halves: Halves::default(),
            chunks: 0,
            done: false,
            ended: false,
        }
    }

    /// The next chunk; nothing at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Chunk>, Failure> {
        loop {
            while let Some(event) = self.events.pop_front().filter(|_| !self.ended) {
                if let Some(chunk) = self.event(&event)? {
                    return Ok(Some(chunk));
                }
            }
            if self.ended {
                return Ok(None);
            }
            match self.response.chunk().await? {
                Some(bytes) => self.take(&bytes)?,
                None => {
                    if self.form == Form::Unknown {
                        self.decide(true)?;
                    }
                    self.ended = true;
                    match self.form {
                        Form::Json => return self.whole().map(Some),
                        _ => return self.rest(),
                    }
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.read = self.read.saturating_add(bytes.len());
        if self.read > LARGEST {
            let error =
                self.broken(&format!("an answer of more than {} MB, which is not read on", LARGEST >> 20));
            return Err(Failure::never(error));
        }
        match self.form {
            Form::Events => Ok(self.feed(bytes)?),
            Form::Json => {
                self.start.extend_from_slice(bytes);
                Ok(())
            }
            Form::Unknown => {
                self.start.extend_from_slice(bytes);
                self.decide(false)
            }
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        self.parser.feed(bytes, &mut self.events).map_err(|error| error.context(self.client.host()))
    }

    /// Finds out what comes, if the beginning says it. `all` of it is there at the end.
    fn decide(&mut self, all: bool) -> Result<(), Failure> {
        const BOM: &[u8] = b"\xEF\xBB\xBF";
        const FIELDS: [&[u8]; 5] = [b"data", b"event", b"id", b"retry", b":"];
        // What stands before it means nothing in either form.
        let blank = self.start.strip_prefix(BOM).unwrap_or(&self.start).trim_ascii_start();
        let before = self.start.len() - blank.len();
        self.start.drain(..before);
        let text = self.start.as_slice();
        let media_type = self.response.header("Content-Type").unwrap_or_default();
        self.form = match text.first() {
            Some(b'{' | b'[') => Form::Json,
            _ if FIELDS.iter().any(|field| text.starts_with(field)) => Form::Events,
            // A field may have come in part, or the mark before it.
            _ if !all && FIELDS.iter().chain([&BOM]).any(|field| field.starts_with(text)) => return Ok(()),
            _ if media_type.trim_start().to_ascii_lowercase().starts_with("text/event-stream") => {
                Form::Events
            }
            _ => Form::Json,
        };
        if self.form == Form::Events {
            let start = std::mem::take(&mut self.start);
            self.feed(&start)?;
        }
        Ok(())
    }

    /// What the stream ended with; then it must have been whole.
    fn rest(&mut self) -> Result<Option<Chunk>, Failure> {
        if let Some(event) = self.parser.rest()
            && let Some(chunk) = self.event(&event)?
        {
            // The end is looked at again: nothing more comes.
            self.ended = false;
            return Ok(Some(chunk));
        }
        match self.done || self.open.is_empty() {
            true => Ok(None),
            false => {
                Err(Error::network(format!("{}: the answer ended before its end", self.client.host())).into())
            }
        }
    }

    /// An answer in one piece is one chunk.
    fn whole(&mut self) -> Result<Chunk, Failure> {
        let bytes = std::mem::take(&mut self.start);
        if bytes.trim_ascii().is_empty() {
            return Err(self.broken("an answer without content").into());
        }
        let body = match failure::read(self.client.host(), &bytes, self.client.token())? {
            // Some answer with a list of one.
            Value::Array(mut list) if list.len() == 1 => list.remove(0),
            body => body,
        };
        match self.chunk(body, true)? {
            Some(chunk) => Ok(chunk),
            None => Err(self.broken("the answer is not as OpenAI has it: it has no `choices`").into()),
        }
    }

    fn event(&mut self, event: &Event) -> Result<Option<Chunk>, Failure> {
        let data = event.data.trim();
        if data.is_empty() {
            return Ok(None);
        }
        if data.trim_matches('"') == "[DONE]" {
            (self.done, self.ended) = (true, true);
            return Ok(None);
        }
        let failed = event.kind.to_ascii_lowercase().contains("error");
        let body = match failure::read(self.client.host(), data.as_bytes(), self.client.token()) {
            Ok(body) => body,
            Err(_) if event.unfinished || keeps_alive(data) || keeps_alive(&event.kind) => return Ok(None),
            Err(_) if failed => json!(data),
            Err(error) => return Err(error.into()),
        };
        if failed {
            return Err(failure::within(self.client.host(), &body, self.client.token()));
        }
        let Some(chunk) = self.chunk(body, false)? else { return Ok(None) };
        for choice in &chunk.choices {
            if choice.finish_reason.is_some() {
                self.open.remove(&choice.index);
                self.closed.insert(choice.index);
            } else if !self.closed.contains(&choice.index) {
                // What comes after an end, such as token counts, begins nothing.
                self.open.insert(choice.index);
            }
        }
        if self.open.len() + self.closed.len() > MOST_ANSWERS {
            return Err(self.too_many());
        }
        Ok(Some(chunk))
    }

    /// JSON as a chunk; nothing where it is no part of the answer.
    fn chunk(&mut self, body: Value, whole: bool) -> Result<Option<Chunk>, Failure> {
        let (host, token) = (self.client.host(), self.client.token());
        if failure::is_failure(&body) {
            return Err(failure::within(host, &body, token));
        }
        let choices = body.get("choices");
        let list = choices.map_or(&[][..], |choices| {
            choices.as_array().map_or(std::slice::from_ref(choices), Vec::as_slice)
        });
        if list.len() > MOST_ANSWERS {
            return Err(self.too_many());
        }
        for choice in list {
            let said = [Some(choice), choice.get("delta"), choice.get("message")];
            if let Some(at) = said.into_iter().flatten().find(|at| failure::has_error(at)) {
                return Err(failure::within(host, at, token));
            }
            if let Some(reason) = choice.get("finish_reason").and_then(lenient::failure) {
                let reason = failure::clean(&reason, token);
                return Err(self.broken(&format!("the model failed (finish_reason {reason:?})")).into());
            }
        }
        // Signs of life, and news that are not of the answer.
        let of_answer = ["choices", "usage", "id", "object", "model", "created"];
        let keeps_alive = body.get("type").and_then(Value::as_str).is_some_and(keeps_alive);
        let counted = choices.is_some_and(|choices| !choices.is_null()) || body.get("usage").is_some();
        let passes = !of_answer.iter().any(|name| body.get(name).is_some_and(|value| !value.is_null()));
        if (whole && !counted) || passes || (keeps_alive && !counted) {
            return Ok(None);
        }
        let mut chunk = lenient::chunk(body).map_err(|why| {
            Failure::from(self.broken(&format!("the answer is not as OpenAI has it: {why}")))
        })?;
        self.put_right(&mut chunk, whole);
        Ok(Some(chunk))
    }

    /// Numbers the tool calls, and makes characters whole.
    fn put_right(&mut self, chunk: &mut Chunk, whole: bool) {
        self.chunks += 1;
        let number = self.chunks;
        for choice in &mut chunk.choices {
            let index = choice.index;
            // Clients look into it without asking whether it is there.
            if choice.text.is_none() {
                choice.delta.get_or_insert_default();
            }
            if let Some(delta) = &mut choice.delta {
                let calls = self.calls.entry(index).or_default();
                delta.tool_calls.retain_mut(|call| match whole {
                    true => calls.place_whole(call),
                    false => calls.place(call, number),
                });
            }
            let ends = whole || choice.finish_reason.is_some();
            let mut join = |part: Part, text: &mut String| {
                self.halves.join((index, part), text);
                if ends {
                    text.extend(self.halves.rest(&(index, part)));
                }
            };
            let mut optional = |part: Part, text: &mut Option<String>| match text {
                Some(text) => join(part, text),
                None => {
                    let mut rest = String::new();
                    join(part, &mut rest);
                    *text = Some(rest).filter(|rest| !rest.is_empty());
                }
            };
            optional(Part::Text, &mut choice.text);
            if let Some(Delta { content, reasoning_content, tool_calls, other, .. }) = &mut choice.delta {
                optional(Part::Content, content);
                optional(Part::Reasoning, reasoning_content);
                for call in tool_calls {
                    join(Part::Arguments(call.index.unwrap_or(0)), &mut call.function.arguments);
                }
                if let Some(Value::String(refusal)) = other.get_mut("refusal") {
                    join(Part::Refusal, refusal);
                }
                other.values_mut().for_each(json::without_halves);
            }
            choice.logprobs.iter_mut().chain(choice.other.values_mut()).for_each(json::without_halves);
        }
        chunk.other.values_mut().for_each(json::without_halves);
    }

    fn too_many(&self) -> Failure {
        let error = self.broken("more answers than anybody asks for");
        Failure::never(error)
    }

    fn broken(&self, what: &str) -> Error {
        Error::provider_error(format!("{}: {what}", self.client.host()))
    }
}

/// Words that keep a connection open.
fn keeps_alive(word: &str) -> bool {
    let word = word.trim().to_ascii_lowercase().replace(['-', '_', ' '], "");
    matches!(word.as_str(), "ping" | "pong" | "keepalive" | "heartbeat" | "alive" | "noop")
}
