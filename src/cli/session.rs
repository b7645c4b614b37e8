//! `--session FILE`: a conversation that goes on with the next command.

use super::arguments::Common;
use super::output::{replace_file, say};
use crate::chat::Conversation;
use crate::engine::{Engine, Prompt, Restored, Saved};
use crate::{Error, Result};
use serde_json::Value;
use std::cell::RefCell;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where a conversation is kept, if it is.
#[derive(Default)]
pub(super) struct SessionFile {
    path: Option<PathBuf>,
    here: Rc<RefCell<Option<Engine>>>,
    /// What was said in it.
    pub messages: Option<Vec<Value>>,
}

impl SessionFile {
    /// Reads what is there, into the model on this device if there is one. Fails where that is no session: it would be lost
    /// with the next one.
    pub(super) async fn open(
        path: Option<&Path>,
        here: &Rc<RefCell<Option<Engine>>>,
        common: &Common,
    ) -> Result<SessionFile> {
        let Some(path) = path else { return Ok(SessionFile::default()) };
        let in_file = |error: Error| error.context(path.display());
        let bytes = match fs::read(path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(in_file(Error::invalid_argument(error.to_string()))),
        };
        let engine = here.borrow().clone();
        if engine.as_ref().is_some_and(|engine| engine.language().template.is_none()) {
            let message = "--session needs a model with a chat template; this one continues text";
            return Err(Error::invalid_argument(message));
        }
        let conversation = match (bytes, engine) {
            (None, _) => None,
            (Some(bytes), Some(engine)) => {
                let Restored { conversation, reason, .. } = engine.restore(&bytes).await.map_err(in_file)?;
                if let Some(reason) = reason.filter(|_| !common.quiet) {
                    say!("the model reads the session again: {reason}");
                }
                conversation
            }
            (Some(bytes), None) => Saved::read(&bytes).await.map_err(in_file)?.0.conversation,
        };
        let messages = conversation.map(|conversation| conversation.messages);
        Ok(SessionFile { path: Some(path.to_owned()), here: here.clone(), messages })
    }

    /// Writes it out, where it is kept. What was there before stays until all of it is written.
    pub(super) async fn save(&self, messages: Vec<Value>) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let conversation = Conversation::new(messages);
        let engine = self.here.borrow().clone();
        let bytes = match engine {
            Some(engine) => engine.save(Prompt::Chat(conversation), &mut |_| ()).await?,
            None => Saved::conversation(conversation).await?,
        };
        replace_file(path, &bytes)
            .map_err(|error| Error::invalid_argument(format!("cannot write {}: {error}", path.display())))
    }
}
