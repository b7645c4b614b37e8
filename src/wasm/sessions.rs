//! What the model has computed of conversations: made ahead, pinned, and kept in the browser's storage.

use super::stop::Stopper;
use super::{Engine, request, to_js};
use crate::chat::Conversation;
use crate::engine::{Event, Prompt, Restored};
use crate::openai::{ChatRequest, PromptProgress};
use crate::store::{self, IndexedDbStore};
use crate::{Error, Result};
use futures_util::future::LocalBoxFuture;
use js_sys::Function;
use serde::Serialize;
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
impl Engine {
    /// Puts a conversation through the model, so that an answer begins at once. Gives the number of its tokens.
    pub async fn prefill(
        &self,
        stopper: &Stopper,
        body: JsValue,
        on_progress: Function,
    ) -> Result<f64, JsValue> {
        let (engine, prompt) = (self.local()?, prompt(&body)?);
        let mut tell = teller(on_progress);
        Ok(stopper.around(engine.read_ahead(prompt, &mut tell)).await? as f64)
    }

    /// Keeps a conversation's beginning in the KV cache before others; where it shall stay in the browser's storage too, it
    /// is read back from there, or written. Gives the number of its tokens.
    pub async fn pin(
        &self,
        stopper: &Stopper,
        name: String,
        body: JsValue,
        persist: bool,
        on_progress: Function,
    ) -> Result<f64, JsValue> {
        let (engine, conversation) = (self.local()?, conversation(&body)?);
        let work = async {
            let mut tell = teller(on_progress);
            let tokens = match persist {
                true => {
                    let store = opened().await?;
                    engine.pin_stored(&store, &name, conversation, &mut tell).await?
                }
                false => engine.pin(&name, Prompt::Chat(conversation), &mut tell).await?,
            };
            Ok(tokens as f64)
        };
        Ok(stopper.around(work).await?)
    }

    /// Lets go of what was pinned by that name. Says whether there was such.
    pub async fn unpin(&self, name: String) -> Result<bool, JsValue> {
        Ok(self.local()?.unpin(&name).await?)
    }

    /// What is pinned: names, each with its tokens.
    pub async fn pinned(&self) -> Result<JsValue, JsValue> {
        #[derive(Serialize)]
        struct Pinned {
            name: String,
            tokens: usize,
        }
        let pinned = self.local()?.pinned().await?.into_iter();
        Ok(to_js(&pinned.map(|(name, tokens)| Pinned { name, tokens }).collect::<Vec<_>>())?)
    }

    /// A conversation as bytes, with what the model has computed of it.
    #[wasm_bindgen(js_name = saveSession)]
    pub async fn save_session(
        &self,
        stopper: &Stopper,
        body: JsValue,
        on_progress: Function,
    ) -> Result<Vec<u8>, JsValue> {
        let (engine, prompt) = (self.local()?, prompt(&body)?);
        let mut tell = teller(on_progress);
        Ok(stopper.around(engine.save(prompt, &mut tell)).await?)
    }

    /// The same into the browser's storage.
    #[wasm_bindgen(js_name = storeSession)]
    pub async fn store_session(
        &self,
        stopper: &Stopper,
        name: String,
        body: JsValue,
        on_progress: Function,
    ) -> Result<(), JsValue> {
        let (engine, prompt) = (self.local()?, prompt(&body)?);
        let work = async {
            let store = opened().await?;
            let bytes = engine.save(prompt, &mut teller(on_progress)).await?;
            store::save_session(&store, &name, &bytes).await
        };
        Ok(stopper.around(work).await?)
    }

    /// A conversation that was written out, and what has become of what was computed of it.
    #[wasm_bindgen(js_name = restoreSession)]
    pub async fn restore_session(&self, stopper: &Stopper, bytes: Vec<u8>) -> Result<JsValue, JsValue> {
        let engine = self.local()?;
        Ok(to_js(&back(stopper.around(engine.restore(&bytes)).await?)?)?)
    }

    /// The same from the browser's storage; undefined where there is none of that name.
    #[wasm_bindgen(js_name = openSession)]
    pub async fn open_session(&self, stopper: &Stopper, name: String) -> Result<JsValue, JsValue> {
        let engine = self.local()?;
        let work = async {
            let store = opened().await?;
            match store::read_session(&store, &name).await? {
                Some(bytes) => Ok(Some(back(engine.restore(&bytes).await?)?)),
                None => Ok(None),
            }
        };
        match stopper.around(work).await? {
            Some(back) => Ok(to_js(&back)?),
            None => Ok(JsValue::UNDEFINED),
        }
    }

    /// Sessions in the browser's storage.
    #[wasm_bindgen(js_name = listSessions)]
    pub async fn list_sessions() -> Result<JsValue, JsValue> {
        let store = opened().await?;
        Ok(to_js(&store::list_sessions(&store).await?)?)
    }

    /// Bytes that removing one freed.
    #[wasm_bindgen(js_name = removeSession)]
    pub async fn remove_session(name: String) -> Result<f64, JsValue> {
        let store = opened().await?;
        Ok(store::remove_session(&store, &name).await? as f64)
    }
}

/// Boxed, so that opening is compiled once instead of at each caller.
fn opened() -> LocalBoxFuture<'static, Result<IndexedDbStore>> {
    Box::pin(IndexedDbStore::open(None))
}

#[derive(Serialize)]
struct Back {
    #[serde(flatten)]
    conversation: Conversation,
    tokens: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn back(Restored { conversation, tokens, reason }: Restored) -> Result<Back> {
    let conversation =
        conversation.ok_or_else(|| Error::invalid_argument("what was saved is no conversation"))?;
    Ok(Back { conversation, tokens, reason })
}

fn conversation(body: &JsValue) -> Result<Conversation> {
    Ok(request::<ChatRequest>(body)?.conversation)
}

fn prompt(body: &JsValue) -> Result<Prompt> {
    Ok(Prompt::Chat(conversation(body)?))
}

/// Tells a page how far a prompt is.
fn teller(on_progress: Function) -> impl FnMut(Event) {
    move |event| {
        if let Event::Prompt { processed, total } = event
            && let Ok(progress) = to_js(&PromptProgress { processed, total })
        {
            // A listener that throws ends nothing.
            _ = on_progress.call1(&JsValue::NULL, &progress);
        }
    }
}
