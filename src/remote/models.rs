//! What a provider offers: models, who runs them, their context and their prices.

use super::{Answered, Client};
use crate::http::Request;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::rc::Rc;
use std::time::Duration;
use web_time::Instant;

/// How long a list is good for.
const FRESH: Duration = Duration::from_secs(600);

/// A hosted model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HostedModel {
    /// `org/name` on Hugging Face.
    pub id: String,
    /// Who runs it. Empty where the list does not say.
    pub providers: Vec<Provider>,
    /// What goes in: `text`, `image`… Empty where the list does not say.
    pub input_modalities: Vec<String>,
}

/// Who runs a model, and on what terms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Provider {
    /// As it is written after the model's name: `org/name:provider`.
    pub name: String,
    /// Whether it is up.
    pub live: bool,
    /// Tokens of prompt and answer together.
    pub context_length: Option<u64>,
    /// US dollars for a million tokens.
    pub price: Option<Price>,
    /// Whether the model can call tools there.
    pub tools: Option<bool>,
    /// Whether the answer can be held to a JSON schema there.
    pub structured_output: Option<bool>,
}

/// US dollars for a million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// Of the prompt.
    pub input: f64,
    /// Of the answer.
    pub output: f64,
}

/// The list, as long as it is fresh.
#[derive(Debug, Default)]
pub(super) struct Known(Option<(Instant, Rc<Vec<HostedModel>>)>);

impl Known {
    /// The last list, however old.
    pub(super) fn get(&self) -> Option<&[HostedModel]> {
        self.0.as_ref().map(|(_, models)| models.as_slice())
    }
}

impl Client {
    /// All models of the provider. The list is asked for again after ten minutes.
    pub async fn models(&self) -> Result<Rc<Vec<HostedModel>>> {
        if let Some((since, models)) = &self.models.borrow().0
            && since.elapsed() < FRESH
        {
            return Ok(models.clone());
        }
        let request = Request::get(format!("{}/models", self.base_url()));
        let Answered { value, .. } = self.fetch(request, |bytes, _| Ok(read(self.json(&bytes)?)?)).await?;
        let models = Rc::new(value);
        self.models.borrow_mut().0 = Some((Instant::now(), models.clone()));
        Ok(models)
    }

    /// One of them, by its name with or without a choice of provider (`org/name:provider`).
    pub async fn model(&self, name: &str) -> Result<HostedModel> {
        let models = self.models().await?;
        let (id, _) = name.rsplit_once(':').unwrap_or((name, ""));
        let found = models
            .iter()
            .find(|model| model.id == name)
            .or_else(|| models.iter().find(|model| model.id == id));
        found
            .cloned()
            .ok_or_else(|| Error::model_not_found(format!("{} offers no model {name}", self.name())))
    }
}

/// OpenAI's list, with what Hugging Face and OpenRouter add to it.
fn read(body: Value) -> Result<Vec<HostedModel>> {
    let list = body.get("data").unwrap_or(&body);
    let list = list.as_array().ok_or_else(|| Error::provider_error("the list of models is none"))?;
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| Some(text.as_str()?.to_owned())).collect()
    };
    let model = |entry: &Value| {
        Some(HostedModel {
            id: entry["id"].as_str()?.to_owned(),
            providers: entry["providers"].as_array().into_iter().flatten().filter_map(provider).collect(),
            input_modalities: texts(&entry["architecture"]["input_modalities"]),
        })
    };
    Ok(list.iter().filter_map(model).collect())
}

fn provider(entry: &Value) -> Option<Provider> {
    let price = |name: &str| entry["pricing"][name].as_f64().filter(|price| *price >= 0.0);
    Some(Provider {
        name: entry["provider"].as_str()?.to_owned(),
        live: entry["status"].as_str().is_none_or(|status| status == "live"),
        context_length: entry["context_length"].as_u64(),
        price: price("input").zip(price("output")).map(|(input, output)| Price { input, output }),
        tools: entry["supports_tools"].as_bool(),
        structured_output: entry["supports_structured_output"].as_bool(),
    })
}
