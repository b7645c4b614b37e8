//! Who may answer: the model on this device, or a hosted one. The same request in, the same chunks out.

use crate::engine::{Document, Embedding, Engine};
use crate::http::OnRetry;
use crate::openai::{
    Answer, ChatRequest, Chunks, CompletionRequest, EmbeddingRequest, Embeddings, Endpoint, Origin, Ran,
};
use crate::remote::Client;
use crate::remote::models::HostedModel;
use crate::remote::tasks::Vectors;
use crate::{Error, Result};
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{StreamExt, try_unfold};
use serde::Serialize;
use serde_json::Value;

/// The largest whole number up to which JavaScript tells all apart. Seeds that are drawn are smaller.
const MOST_EXACT: u64 = (1 << 53) - 1;

/// What a model can do, as far as it is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Capabilities {
    /// Answers come in parts.
    pub streaming: bool,
    /// It calls tools. Models on this device do not: templates may show them tools, but nothing reads calls out of what
    /// they write.
    pub tools: Option<bool>,
    /// It sees pictures.
    pub vision: Option<bool>,
    /// Answers can be held to JSON, or to a schema.
    pub json: Option<bool>,
    /// It turns texts into vectors.
    pub embeddings: Option<bool>,
    /// Tokens of prompt and answer together.
    pub context: Option<u64>,
}

impl Capabilities {
    /// What a request needs and this model cannot do, in words.
    pub fn missing(&self, body: &Value) -> Option<&'static str> {
        let given = |field: &str| body.get(field).is_some_and(|value| !value.is_null());
        let tools = body["tools"].as_array().is_some_and(|tools| !tools.is_empty());
        let parts = body["messages"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|message| message["content"].as_array());
        let pictures = parts.flatten().any(|part| part["type"] == "image_url" || part["type"] == "image");
        let json = given("response_format") && body["response_format"]["type"] != "text";
        let cannot = Some(false);
        [
            (tools && self.tools == cannot, "it cannot call tools"),
            (pictures && self.vision == cannot, "it cannot see pictures"),
            (json && self.json == cannot, "it cannot be held to JSON"),
        ]
        .into_iter()
        .find_map(|(missing, words)| missing.then_some(words))
    }
}

/// A model that answers.
pub trait Provider {
    /// Where it runs.
    fn ran(&self) -> Ran;
    /// Who runs it: a device, or a provider's name.
    fn provider(&self) -> String;
    /// Its name.
    fn model(&self) -> String;
    /// What answers depend on beside the request. Never a token.
    fn identity(&self) -> String;
    /// What it can do.
    fn capabilities(&self) -> LocalBoxFuture<'_, Result<Capabilities>>;
    /// Begins to answer, once it is this request's turn.
    fn answer(&self, endpoint: Endpoint, body: Value) -> LocalBoxFuture<'_, Result<Chunks>>;
    /// The vectors of texts, each with its own status.
    fn embed<'a>(
        &'a self,
        request: &'a EmbeddingRequest,
        on_retry: OnRetry,
    ) -> LocalBoxFuture<'a, Result<Embeddings>>;
}

/// A model on this device.
#[derive(Clone)]
pub struct Local(pub Engine);

impl Local {
    /// Where it runs now; a GPU may have been lost.
    fn origin(&self) -> Origin {
        Origin {
            ran: Ran::Local,
            provider: self.provider(),
            model: self.model(),
            reason: String::new(),
            attempts: 1,
            waited_ms: 0,
            cached: false,
            cost: None,
            seed: None,
        }
    }
}

impl Provider for Local {
    fn ran(&self) -> Ran {
        Ran::Local
    }

    fn provider(&self) -> String {
        self.0.info().device.to_owned()
    }

    fn model(&self) -> String {
        self.0.info().name.clone()
    }

    fn identity(&self) -> String {
        let info = self.0.info();
        format!("local {} {} {} {}", info.device, info.name, info.quantization, info.file_size)
    }

    fn capabilities(&self) -> LocalBoxFuture<'_, Result<Capabilities>> {
        let capabilities = Capabilities {
            streaming: true,
            // Templates may tell a model of tools, but nothing here reads calls out of its text.
            tools: Some(false),
            vision: Some(false),
            json: Some(false),
            embeddings: Some(self.0.is_encoder()),
            context: Some(self.0.info().context_length as u64),
        };
        Box::pin(async move { Ok(capabilities) })
    }

    fn answer(&self, endpoint: Endpoint, body: Value) -> LocalBoxFuture<'_, Result<Chunks>> {
        Box::pin(async move {
            let answer = match endpoint {
                Endpoint::Chat => Answer::chat(&self.0, ChatRequest::try_from(body)?).await?,
                Endpoint::Completions => {
                    Answer::complete(&self.0, CompletionRequest::try_from(body)?).await?
                }
            };
            let step = async |(mut answer, local, mut begun): (Answer, Local, bool)| {
                let Some(mut chunk) = answer.next().await? else { return Ok(None) };
                let last = chunk.usage.is_some();
                if last || (!begun && !chunk.choices.is_empty()) {
                    begun = true;
                    let seed = Some(answer.seed()).filter(|&seed| seed <= MOST_EXACT);
                    chunk.candlewick = Some(Origin { seed, ..local.origin() });
                }
                Ok(Some((chunk, (answer, local, begun))))
            };
            Ok(try_unfold((answer, self.clone(), false), step).boxed_local())
        })
    }

    fn embed<'a>(
        &'a self,
        request: &'a EmbeddingRequest,
        _: OnRetry,
    ) -> LocalBoxFuture<'a, Result<Embeddings>> {
        Box::pin(async move {
            self.0.check_encoder()?;
            let embedded = self.0.embed_all(&request.documents, request.settings).await?;
            let mut tokens = 0;
            let vectors = embedded.into_iter().map(|embedded| {
                let Embedding { vector, tokens: read } = embedded?;
                tokens += read;
                Ok(vector)
            });
            let vectors = vectors.collect();
            Ok(Embeddings { vectors, tokens, origin: self.origin() })
        })
    }
}

/// A hosted model.
#[derive(Debug, Clone)]
pub struct Hosted {
    /// Who has it.
    pub client: Client,
    /// Its name there.
    pub model: String,
}

impl Provider for Hosted {
    fn ran(&self) -> Ran {
        Ran::Remote
    }

    fn provider(&self) -> String {
        self.client.name().to_owned()
    }

    fn model(&self) -> String {
        self.model.clone()
    }

    fn identity(&self) -> String {
        format!("{} {}", self.client.identity(), self.model)
    }

    fn capabilities(&self) -> LocalBoxFuture<'_, Result<Capabilities>> {
        Box::pin(async move { Ok(self.client.model(&self.model).await?.capabilities(&self.model)) })
    }

    fn answer(&self, endpoint: Endpoint, body: Value) -> LocalBoxFuture<'_, Result<Chunks>> {
        Box::pin(async move { self.client.answer(endpoint, &self.model, body) })
    }

    fn embed<'a>(
        &'a self,
        request: &'a EmbeddingRequest,
        on_retry: OnRetry,
    ) -> LocalBoxFuture<'a, Result<Embeddings>> {
        let texts: Option<Vec<String>> = request
            .documents
            .iter()
            .map(|document| match document {
                Document::Text(text) => Some(text.clone()),
                Document::Tokens(_) => None,
            })
            .collect();
        Box::pin(async move {
            let texts = texts.ok_or_else(|| {
                Error::invalid_argument(
                    "hosted models embed texts; token ids are only for models on this device",
                )
            })?;
            let answered = self.client.hearing(on_retry).embed(&self.model, &texts).await?;
            let origin = Origin {
                ran: Ran::Remote,
                provider: self.provider(),
                model: self.model(),
                reason: String::new(),
                attempts: answered.attempts,
                waited_ms: answered.waited_ms,
                cached: false,
                cost: None,
                seed: None,
            };
            let cut = |vector: Result<Vec<f32>>| {
                let mut vector = vector?;
                request.settings.cut(&mut vector)?;
                Ok(vector)
            };
            let Vectors { each, tokens } = answered.value;
            let vectors = each.into_iter().map(cut).collect();
            Ok(Embeddings { vectors, tokens: tokens.unwrap_or(0), origin })
        })
    }
}

impl HostedModel {
    /// What it can do where `name` (`org/name[:provider]`) has it run; the best of all providers where
    /// that is open.
    pub fn capabilities(&self, name: &str) -> Capabilities {
        let chosen = name.strip_prefix(&self.id).and_then(|rest| rest.strip_prefix(':'));
        let known = chosen.filter(|chosen| self.providers.iter().any(|provider| provider.name == *chosen));
        let providers = || {
            self.providers.iter().filter(move |provider| match known {
                Some(name) => provider.name == name,
                None => provider.live,
            })
        };
        // True where one can, false where all say they cannot.
        let any =
            |can: fn(&crate::remote::models::Provider) -> Option<bool>| providers().filter_map(can).max();
        let inputs = &self.input_modalities;
        Capabilities {
            streaming: true,
            tools: any(|provider| provider.tools),
            vision: (!inputs.is_empty()).then(|| inputs.iter().any(|input| input == "image")),
            json: any(|provider| provider.structured_output),
            embeddings: None,
            context: providers().filter_map(|provider| provider.context_length).max(),
        }
    }
}
