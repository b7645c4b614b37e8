//! What Hugging Face's inference servers do beside chat.

use super::to_js;
use crate::Result;
use crate::remote::Client;
use crate::remote::tasks::{Parameters, Picture};
use js_sys::{Array, Uint8Array};
use serde::Deserialize;
use wasm_bindgen::JsValue;

/// What is to be done, and with what.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Task {
    Generate {
        text: String,
        #[serde(default)]
        parameters: Parameters,
    },
    Summarize {
        text: String,
        #[serde(default)]
        parameters: Parameters,
    },
    Translate {
        text: String,
        #[serde(default)]
        parameters: Parameters,
    },
    Classify {
        text: String,
        #[serde(default)]
        parameters: Parameters,
    },
    TextToImage {
        text: String,
        #[serde(default)]
        picture: Picture,
    },
}

impl Task {
    /// A text; for classes a list of {label, score}; for a picture [its bytes, its media type].
    pub(super) async fn run(self, client: &Client, model: &str) -> Result<JsValue> {
        match self {
            Task::Generate { text, parameters } => {
                to_js(&client.generate_text(model, &text, &parameters).await?.value)
            }
            Task::Summarize { text, parameters } => {
                to_js(&client.summarize(model, &text, &parameters).await?.value)
            }
            Task::Translate { text, parameters } => {
                to_js(&client.translate(model, &text, &parameters).await?.value)
            }
            Task::Classify { text, parameters } => {
                to_js(&client.classify(model, &text, &parameters).await?.value)
            }
            Task::TextToImage { text, picture } => {
                let image = client.picture(model, &text, &picture).await?.value;
                Ok(Array::of2(&Uint8Array::from(image.bytes.as_slice()), &image.media_type.into()).into())
            }
        }
    }
}
