//! A conversation that goes on.

use super::generation::{Event, FinishReason, Generation, Prompt, Settings};
use super::state::Restored;
use super::{Engine, Usage};
use crate::chat::{Conversation, message};
use crate::{Error, Result};
use serde_json::Value;

/// A conversation with a model, turn by turn. What the model has read stays in the KV cache as long as there is room, also
/// while other sessions go on.
///
/// With [`Truncation::Oldest`](super::Truncation) in the settings it never grows too long.
#[derive(Clone)]
pub struct Session {
    engine: Engine,
    conversation: Conversation,
}

impl Session {
    /// Begins, with what was said so far: often a message of the system.
    pub fn new(engine: Engine, conversation: Conversation) -> Session {
        Session { engine, conversation }
    }

    /// Goes on with what [`Session::save`] wrote, and says what has become of that: see [`Engine::restore`].
    pub async fn restore(engine: Engine, bytes: &[u8]) -> Result<(Session, Restored)> {
        let restored = engine.restore(bytes).await?;
        let conversation = restored.conversation.clone();
        let conversation =
            conversation.ok_or_else(|| Error::invalid_argument("this is no conversation's state"))?;
        Ok((Session::new(engine, conversation), restored))
    }

    /// What was said so far.
    pub fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// Another session that begins with what was said in this one. The model need not read it again.
    pub fn fork(&self) -> Session {
        self.clone()
    }

    /// Goes back to the first `messages` messages. Fails with `invalid_argument` where there are not so many.
    pub fn rewind(&mut self, messages: usize) -> Result<()> {
        let said = self.conversation.messages.len();
        if messages > said {
            let error = format!("the session has {said} messages, and cannot go back to {messages}");
            return Err(Error::invalid_argument(error));
        }
        self.conversation.messages.truncate(messages);
        Ok(())
    }

    /// Asks. The message and the answer are part of the session once the answer has ended, and not before: if that fails
    /// or is dropped, the session is as it was.
    pub async fn send(&mut self, message: Value, settings: Settings) -> Result<Turn<'_>> {
        if settings.choices > 1 {
            return Err(Error::invalid_argument("a session goes on with one answer: n must be 1"));
        }
        let mut conversation = self.conversation.clone();
        conversation.messages.push(message);
        let generation = self.engine.generate(Prompt::Chat(conversation.clone()), settings).await?;
        Ok(Turn { session: self, conversation, generation, text: String::new() })
    }

    /// The session as bytes, with what the model has computed of it: see [`Engine::save`].
    pub async fn save(&self, on_event: &mut dyn FnMut(Event)) -> Result<Vec<u8>> {
        self.engine.save(Prompt::Chat(self.conversation.clone()), on_event).await
    }
}

/// An answer in the making.
pub struct Turn<'a> {
    session: &'a mut Session,
    conversation: Conversation,
    generation: Generation,
    text: String,
}

impl Turn<'_> {
    /// As [`Generation::next`].
    pub async fn next(&mut self) -> Result<Option<Event>> {
        let event = self.generation.next().await?;
        if let Some(Event::Token { text, .. } | Event::Finish { text, .. }) = &event {
            self.text += text;
        }
        if let Some(Event::Finish { .. }) = &event {
            self.conversation.messages.push(message("assistant", &self.text));
            self.session.conversation = std::mem::take(&mut self.conversation);
        }
        Ok(event)
    }

    /// The whole answer, and why it ended.
    pub async fn whole(mut self) -> Result<(String, FinishReason)> {
        let mut ended = FinishReason::Stop;
        while let Some(event) = self.next().await? {
            if let Event::Finish { reason, .. } = event {
                ended = reason;
            }
        }
        Ok((self.text, ended))
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        self.generation.usage()
    }
}
