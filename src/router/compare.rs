//! One prompt, several models.

use super::Provider;
use crate::engine::{FinishReason, Usage};
use crate::http::Retrying;
use crate::openai::{Completion, Endpoint, Origin, Ran};
use crate::turns::Turns;
use crate::{Error, Result};
use futures_util::future::join_all;
use futures_util::stream::StreamExt;
use serde::Serialize;
use serde_json::Value;
use std::rc::Rc;
use web_time::Instant;

/// How one of them did.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(ts_rs::TS))]
pub struct Comparison {
    /// Its name.
    pub model: String,
    /// Who runs it.
    pub provider: String,
    /// Where.
    #[cfg_attr(test, ts(inline))]
    pub ran: Ran,
    /// What it said, also before it failed.
    pub text: String,
    /// Milliseconds to the end.
    pub milliseconds: f64,
    /// Milliseconds to the first text.
    pub first_token_ms: Option<f64>,
    /// Tokens, where they were counted.
    pub usage: Option<Usage>,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
    /// The code of what went wrong.
    #[cfg_attr(test, ts(type = "ErrorCode | null"))]
    pub error: Option<&'static str>,
    /// The same for people.
    pub message: Option<String>,
    /// Where the answer comes from.
    pub candlewick: Option<Origin>,
}

/// Hears that a hosted model will be asked again, and why.
pub type OnRetryBy<'a> = &'a dyn Fn(&dyn Provider, &Retrying);

/// Runs one request over several models, at the same time; the answers come in the models' order. One
/// that fails does not fail the others.
pub async fn compare(
    models: &[Rc<dyn Provider>],
    endpoint: Endpoint,
    body: &Value,
    on_retry: OnRetryBy<'_>,
) -> Vec<Comparison> {
    join_all(models.iter().map(|model| one(&**model, endpoint, body.clone(), on_retry))).await
}

async fn one(model: &dyn Provider, endpoint: Endpoint, body: Value, on_retry: OnRetryBy<'_>) -> Comparison {
    let began = Instant::now();
    let milliseconds = || began.elapsed().as_secs_f64() * 1000.0;
    let (mut answer, mut first_token_ms) = (Completion::default(), None);
    let run: Result<(), Error> = async {
        let mut chunks = model.answer(endpoint, body).await?;
        let mut turns = Turns::new();
        while let Some(chunk) = chunks.next().await {
            turns.pause().await;
            let chunk = chunk?;
            if let Some(retry) = &chunk.retry {
                on_retry(model, retry);
            }
            if chunk.says_something() {
                first_token_ms.get_or_insert_with(milliseconds);
            }
            answer.add(&chunk);
        }
        Ok(())
    }
    .await;
    let failure = run.err();
    Comparison {
        model: model.model(),
        provider: model.provider(),
        ran: model.ran(),
        text: answer.text().to_owned(),
        milliseconds: milliseconds(),
        first_token_ms,
        usage: answer.usage(),
        finish_reason: answer.finish_reason(),
        error: failure.as_ref().map(|error| error.code.as_str()),
        message: failure.map(|error| error.message),
        candlewick: answer.origin().cloned(),
    }
}
