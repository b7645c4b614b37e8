//! Hosted models: Hugging Face's router, and any server that speaks OpenAI's interface.
//!
//! [`Client::chat`] and [`Client::complete`] give the same [chunks](crate::openai::Chunk) as a local
//! model does; [`tasks`] are what Hugging Face's own inference servers do beside chat, and
//! [`models`] lists what there is. Requests that fail are made again where that can help, as
//! [`Retry`] says. Dropping a future or a stream ends its transfer.

mod attempts;
mod body;
mod calls;
mod change;
mod chat;
pub mod cost;
mod failure;
mod json;
pub mod models;
mod sse;
pub mod tasks;

pub use attempts::Retry;
pub(crate) use attempts::{milliseconds, some_milliseconds};
pub use chat::whole;

pub use crate::http::Token;

use crate::engine::Usage;
use crate::http::{self, Failure, OnRetry, Request};
use crate::{Error, Result};
use attempts::Attempts;
use change::Change;
use cost::{Budget, Totals};
use models::Price;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Hugging Face's router.
pub const HUGGING_FACE: &str = "https://router.huggingface.co/v1";

/// Where hosted models are, and how to ask them.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// What answers call this provider. By default its host.
    pub name: Option<String>,
    /// Of OpenAI's interface, mostly ending in `/v1`. Default: [`HUGGING_FACE`].
    #[serde(rename = "baseURL")]
    pub base_url: String,
    /// What to send to whom asks for a name and a proof.
    pub token: Option<Token>,
    /// The organization on Hugging Face that pays.
    pub bill_to: Option<String>,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// Fields of every request's body, where the request does not have them itself; null takes a field out, whoever set it.
    pub extra_body: Map<String, Value>,
    /// The address is a relay to Hugging Face's router, [tasks] included.
    pub hf_inference: bool,
    /// When to try again.
    pub retry: Retry,
    /// What may be spent.
    pub budget: Budget,
    /// What models cost, by their names; before what the list of models says.
    pub prices: BTreeMap<String, Price>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: None,
            base_url: HUGGING_FACE.to_owned(),
            token: None,
            bill_to: None,
            headers: BTreeMap::new(),
            extra_body: Map::new(),
            hf_inference: false,
            retry: Retry::default(),
            budget: Budget::default(),
            prices: BTreeMap::new(),
        }
    }
}

/// A provider of hosted models. Clones share its list of models and its bill.
#[derive(Debug, Clone)]
pub struct Client {
    config: Rc<Config>,
    name: Rc<str>,
    models: Rc<RefCell<models::Known>>,
    totals: Rc<Cell<Totals>>,
    /// What is changed in requests to a model, because its host refused them as they were.
    changes: Rc<RefCell<Vec<(String, Change)>>>,
    on_retry: OnRetry,
}

impl Client {
    /// Checks the configuration; asks nobody.
    pub fn new(mut config: Config) -> Result<Client> {
        config.base_url = base(&config.base_url)?;
        config.retry.check()?;
        let name = config.name.clone().filter(|name| !name.trim().is_empty());
        let name = name.unwrap_or_else(|| match config.base_url.as_str() {
            HUGGING_FACE => "huggingface".to_owned(),
            url => http::host(url).to_owned(),
        });
        Ok(Client {
            config: Rc::new(config),
            name: name.into(),
            models: Rc::default(),
            totals: Rc::default(),
            changes: Rc::default(),
            on_retry: OnRetry::default(),
        })
    }

    /// The same provider; `on_retry` hears of requests that this clone makes again, but for chats and completions, whose
    /// [chunks](crate::openai::Chunk) say so themselves.
    pub fn hearing(&self, on_retry: OnRetry) -> Client {
        Client { on_retry, ..self.clone() }
    }

    /// What answers call this provider.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its base address, without an end.
    pub fn base_url(&self) -> &str {
        &self.config.base_url
    }

    /// What was spent so far.
    pub fn totals(&self) -> Totals {
        self.totals.get()
    }

    /// What answers depend on beside the request and the model. Never the token.
    pub(crate) fn identity(&self) -> String {
        let Config { base_url, bill_to, extra_body, .. } = &*self.config;
        format!("{base_url} {} {}", bill_to.as_deref().unwrap_or_default(), Value::Object(extra_body.clone()))
    }

    /// What a model costs, as far as that is known without asking.
    fn price(&self, model: &str, served_by: Option<&str>) -> Option<Price> {
        let (id, suffix) = model.rsplit_once(':').map_or((model, None), |(id, suffix)| (id, Some(suffix)));
        let configured = self.config.prices.get(model).or_else(|| self.config.prices.get(id));
        configured.copied().or_else(|| {
            let known = self.models.borrow();
            known.get()?.iter().find(|known| known.id == model || known.id == id)?.price(served_by.or(suffix))
        })
    }

    /// Refuses to go beyond the budget. For one in dollars the list of models is asked for prices.
    async fn check_budget(&self, model: &str, prompt_tokens: usize) -> Result<()> {
        let budget = self.config.budget;
        if budget.dollars.is_some() && self.price(model, None).is_none() {
            self.models().await?;
        }
        self.totals().check(budget, prompt_tokens, self.price(model, None))
    }

    /// Counts a request when it is sent: those beside it see that.
    fn began(&self) {
        let totals = self.totals();
        self.totals.set(Totals { requests: totals.requests + 1, ..totals });
    }

    /// It came to nothing.
    fn took_back(&self) {
        let totals = self.totals();
        self.totals.set(Totals { requests: totals.requests.saturating_sub(1), ..totals });
    }

    /// Puts an answer on the bill; gives its price.
    fn count(&self, model: &str, served_by: Option<&str>, usage: Usage, counted: bool) -> Option<f64> {
        let mut totals = self.totals();
        let cost = totals.add(usage, counted, self.price(model, served_by));
        self.totals.set(totals);
        cost
    }

    fn host(&self) -> &str {
        http::host(&self.config.base_url)
    }

    fn token(&self) -> Option<&Token> {
        self.config.token.as_ref()
    }

    /// A request's headers. Those that the configuration adds may be secrets, which no platform keeps from the host that
    /// a redirect names.
    fn sign(&self, mut request: Request) -> Request {
        if self.config.bill_to.is_some() || !self.config.headers.is_empty() {
            request = request.staying();
        }
        if let Some(token) = self.token() {
            request = request.bearer(token.secret());
        }
        if let Some(organization) = &self.config.bill_to {
            request = request.header("X-HF-Bill-To", organization);
        }
        self.config.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    /// The fields of a request's body that the configuration adds.
    fn with_extra_body(&self, mut body: Map<String, Value>) -> Map<String, Value> {
        for (key, value) in &self.config.extra_body {
            match value {
                Value::Null => _ = body.shift_remove(key),
                value => _ = body.entry(key).or_insert_with(|| value.clone()),
            }
        }
        body
    }

    /// As [`Client::fetch`], within the budget and on the bill. `read` says how many tokens the host counted, which most do
    /// not; then `prompt_tokens` stands. Where a model's price is not known, as of most that have such tasks, a budget in
    /// dollars does not bind.
    async fn fetch_paid<T>(
        &self,
        model: &str,
        prompt_tokens: usize,
        request: Request,
        read: impl Fn(Vec<u8>, &str) -> Result<(T, Option<usize>), Failure>,
    ) -> Result<Answered<T>> {
        let (budget, price) = (self.config.budget, self.price(model, None));
        let budget = Budget { dollars: budget.dollars.filter(|_| price.is_some()), ..budget };
        self.totals().check(budget, prompt_tokens, price)?;
        self.began();
        let Answered { value: (value, counted), attempts, waited_ms } =
            self.fetch(request, read).await.inspect_err(|_| self.took_back())?;
        let usage = Usage { prompt_tokens: counted.unwrap_or(prompt_tokens), ..Usage::default() };
        self.count(model, None, usage, counted.is_some());
        Ok(Answered { value, attempts, waited_ms })
    }

    /// Makes a request until it is answered and `read` can make something of the body and its media type.
    async fn fetch<T>(
        &self,
        request: Request,
        read: impl Fn(Vec<u8>, &str) -> Result<T, Failure>,
    ) -> Result<Answered<T>> {
        let mut attempts = Attempts::new(self.config.retry);
        let request = self.sign(request).timeouts(self.config.retry.timeouts());
        loop {
            let attempt = async {
                let response = http::send(request.clone()).await?;
                if !response.is_success() {
                    return Err(failure::of(response, self.token()).await);
                }
                let media_type = response.header("Content-Type").unwrap_or_default().to_owned();
                read(response.bytes(LARGEST).await?, &media_type)
            };
            match attempts.within(attempt).await {
                Ok(value) => {
                    let Attempts { made, waited, .. } = attempts;
                    return Ok(Answered { value, attempts: made, waited_ms: waited.as_millis() as u64 });
                }
                Err(failure) => {
                    let (wait, retry) = attempts.after(failure)?;
                    self.on_retry.tell(&retry);
                    http::sleep(wait).await;
                }
            }
        }
    }

    /// The JSON of an answer, unless that is an error.
    fn json(&self, body: &[u8]) -> Result<Value, Failure> {
        let mut value = failure::read(self.host(), body, self.token())?;
        json::without_halves(&mut value);
        match failure::has_error(&value) {
            true => Err(failure::within(self.host(), &value, self.token())),
            false => Ok(value),
        }
    }
}

/// The longest answer that is read, in bytes.
const LARGEST: usize = 64 << 20;

/// What came back, and how long that took.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Answered<T> {
    /// The answer.
    pub value: T,
    /// Requests made for it.
    pub attempts: u32,
    /// Milliseconds of waiting between them.
    pub waited_ms: u64,
}

/// A base address without an end that people paste with it.
fn base(url: &str) -> Result<String> {
    let url = url.trim();
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if !matches!(scheme, "http" | "https") || host.is_empty() {
        return Err(Error::invalid_argument(
            "the base address of hosted models must begin with https:// or http://",
        ));
    }
    if host.contains('@') || rest.contains(['?', '#']) {
        return Err(Error::invalid_argument(format!(
            "the base address at {} holds more than an address; a token belongs in `token`",
            http::host(url)
        )));
    }
    let url = url.trim_end_matches('/');
    let url = ["/chat/completions", "/completions", "/models"]
        .iter()
        .find_map(|end| url.strip_suffix(end))
        .unwrap_or(url);
    Ok(url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_tokens() {
        for url in ["https://a.b/v1", "https://a.b/v1/", " https://a.b/v1/chat/completions "] {
            assert_eq!(base(url).unwrap(), "https://a.b/v1");
        }
        for url in [
            "",
            "a.b/v1",
            "ftp://a.b",
            "https://",
            "https://me:secret@a.b/v1",
            "https://a.b/v1?api_key=secret",
        ] {
            let error = base(url).unwrap_err();
            assert!(!error.message.contains("secret"), "{error}");
        }
        for token in ["", "  ", "two words", "line\nbreak", "é"] {
            assert!(Token::new(token).is_err(), "{token:?}");
        }
        let config: Config = serde_json::from_value(serde_json::json!({ "token": " hf_secret\n" })).unwrap();
        assert_eq!(config.token.as_ref().unwrap().secret(), "hf_secret");
        let client = Client::new(config).unwrap();
        assert_eq!(client.name(), "huggingface");
        assert!(!format!("{client:?}").contains("secret"));
        let wrong =
            serde_json::from_value::<Config>(serde_json::json!({ "token": "my secret" })).unwrap_err();
        assert!(!wrong.to_string().contains("secret"), "{wrong}");
    }
}
