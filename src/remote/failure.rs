//! What went wrong, from whatever a server says, and whether another attempt can help.

use super::Token;
use crate::http::{self, Response};
use crate::{Code, Error, Result};
use serde_json::Value;
use std::time::Duration;

/// The longest part of a server's message that is shown, in characters.
const SHOWN: usize = 500;
/// The most of a failed answer's body that is read.
const LARGEST: usize = 1 << 20;

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For the caller, if there is no other attempt.
    pub error: Error,
    /// Whether there is.
    pub again: Again,
}

/// What may be done about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It will not pass.
    Never,
    /// It may pass; the server may have said when.
    Later(Option<Duration>),
    /// The model is being loaded, which takes about as long as the estimate.
    Loading { estimate: Option<Duration>, asked: Option<Duration> },
}

/// An answer that breaks its own format. Another one may be better.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let passes = matches!(error.code, Code::Network | Code::ProviderError | Code::RateLimited);
        Failure { error, again: if passes { Again::Later(None) } else { Again::Never } }
    }
}

impl Failure {
    /// From an answer whose status is none of success.
    pub async fn of(response: Response, token: Option<&Token>) -> Failure {
        let (status, asked, host) = (response.status(), response.wait(), response.host().to_owned());
        // A body that breaks off says less than the status does.
        let body = response.bytes(LARGEST).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        let body = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(plain(&text).to_owned()));
        Failure::new(&host, Some(status), asked, &body, token)
    }

    /// From an `error` in an answer whose status was one of success.
    pub fn within(host: &str, body: &Value, token: Option<&Token>) -> Failure {
        Failure::new(host, status_within(body), None, body, token)
    }

    fn new(
        host: &str,
        status: Option<u16>,
        asked: Option<Duration>,
        body: &Value,
        token: Option<&Token>,
    ) -> Failure {
        let said = clean(&message(body), token);
        let kind = kind(body);
        let code = match status {
            _ if kind.contains("context_length") || tells_of_context(&said) => Code::ContextLengthExceeded,
            Some(400 | 405 | 406 | 411 | 413..=415 | 422 | 431) => Code::InvalidArgument,
            Some(401 | 403 | 407 | 451) => Code::Unauthorized,
            // Credits are used up.
            Some(402) => Code::ResourceExhausted,
            Some(404 | 410) => Code::ModelNotFound,
            Some(408) => Code::Network,
            Some(429) => Code::RateLimited,
            _ => Code::ProviderError,
        };
        let advice = match (code, status) {
            (Code::Unauthorized, Some(403)) => ". Check what the token may do",
            (Code::Unauthorized, _) => ". Check the token",
            (Code::ResourceExhausted, _) => ". The account's credits are used up",
            (Code::ModelNotFound, Some(410)) => ". This endpoint is gone; check the base address",
            (Code::ModelNotFound, _) => ". Check the model's name and the base address",
            _ => "",
        };
        let status_text =
            status.map_or("an error in the answer".to_owned(), |status| format!("HTTP {status}"));
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let error = Error { code, message: format!("{host}: {status_text}{said}{advice}") };
        let estimate = estimated_time(body);
        let again = match status {
            _ if code == Code::ContextLengthExceeded => Again::Never,
            Some(503) if estimate.is_some() || said.contains("loading") => Again::Loading { estimate, asked },
            Some(status) if !http::may_retry(status) => Again::Never,
            _ => Again::Later(asked),
        };
        Failure { error, again }
    }
}

/// The object that an error is in: `{error: {…}}`, `{error: "…"}`, or the body itself.
fn inner(body: &Value) -> &Value {
    match body {
        // Some answer with a list of one.
        Value::Array(list) => list.first().map_or(body, inner),
        _ => body.get("error").filter(|error| error.is_object()).unwrap_or(body),
    }
}

/// What a body says, of whatever shape: `{error: "…"}`, `{error: {message}}`, `{error: ["…"]}`,
/// `{detail: "…" | [{loc, msg}]}`, `{message}`, `{errors: […]}`, plain text.
fn message(body: &Value) -> String {
    let body = inner(body);
    let fields = ["message", "error", "detail", "error_description", "errors", "msg"];
    match body {
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            list.iter().map(message).filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ")
        }
        Value::Object(_) => {
            let text =
                fields.iter().filter_map(|field| body.get(field)).map(message).find(|text| !text.is_empty());
            let place = body.get("loc").and_then(Value::as_array).map(|place| {
                let parts = place.iter().map(|part| part.as_str().map_or(part.to_string(), str::to_owned));
                parts.collect::<Vec<_>>().join(".") + ": "
            });
            place.unwrap_or_default() + &text.unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// The provider's own name for the failure: `code` or `type`.
fn kind(body: &Value) -> String {
    let body = inner(body);
    let names = ["code", "type", "error_type"].iter().filter_map(|field| body.get(field)?.as_str());
    names.collect::<Vec<_>>().join(" ")
}

/// A status in the body, or one that its words stand for.
fn status_within(body: &Value) -> Option<u16> {
    let error = inner(body);
    let fields = ["http_status_code", "status_code", "status", "code"];
    let number = |value: &Value| {
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok())?;
        u16::try_from(number).ok().filter(|status| (400..600).contains(status))
    };
    let status =
        [error, body].iter().find_map(|body| fields.iter().find_map(|field| number(body.get(field)?)));
    status.or_else(|| match kind(body) {
        kind if kind.contains("rate_limit") => Some(429),
        kind if kind.contains("invalid_api_key") || kind.contains("authentication") => Some(401),
        kind if kind.contains("insufficient_quota") => Some(402),
        kind if kind.contains("model_not_found") => Some(404),
        kind if kind.contains("invalid_request") || kind.contains("validation") => Some(400),
        kind if kind.contains("overloaded") => Some(503),
        _ => None,
    })
}

fn tells_of_context(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    [
        "maximum context length",
        "context length exceeded",
        "context window",
        "`inputs` tokens + `max_new_tokens`",
    ]
    .iter()
    .any(|words| text.contains(words))
}

/// Seconds until a model is loaded.
fn estimated_time(body: &Value) -> Option<Duration> {
    let seconds = inner(body).get("estimated_time").or_else(|| body.get("estimated_time"))?.as_f64()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Text without markup around it, where a proxy answered with a page: its title.
fn plain(text: &str) -> &str {
    let text = text.trim();
    if !text.starts_with('<') {
        return text;
    }
    let title = || {
        let (_, rest) = text.split_once("<title>")?;
        Some(rest.split_once("</title>")?.0.trim())
    };
    title().unwrap_or("a page, not an answer")
}

/// A server's words, short, on one line, and without secrets: servers repeat tokens and signed
/// addresses in their messages.
pub fn clean(text: &str, token: Option<&Token>) -> String {
    let hidden = match token {
        Some(token) => text.replace(token.secret(), "…"),
        None => text.to_owned(),
    };
    let words = hidden.split_whitespace().map(|word| {
        let secret = word.find("hf_").filter(|at| word.len() >= at + 12);
        match (secret, word.contains("://").then(|| word.find('?')).flatten()) {
            (Some(at), _) | (None, Some(at)) => format!("{}…", &word[..at]),
            _ => word.to_owned(),
        }
    });
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The JSON of an answer.
pub fn json(host: &str, body: &[u8], token: Option<&Token>) -> Result<Value> {
    serde_json::from_slice(body).map_err(|_| {
        let text = String::from_utf8_lossy(&body[..body.len().min(LARGEST)]);
        let text = clean(plain(&text), token);
        let start: String = text.chars().take(80).collect();
        Error::provider_error(format!("{host}: the answer is not JSON but begins with {start:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn failure(status: u16, body: Value) -> Failure {
        Failure::new("host", Some(status), None, &body, Some(&Token::new("hf_topsecret123").unwrap()))
    }

    #[test]
    fn bodies_of_every_shape() {
        for body in [
            json!({ "error": "it broke" }),
            json!({ "error": { "message": "it broke", "type": "x" } }),
            json!({ "error": ["it broke"] }),
            json!({ "detail": "it broke" }),
            json!({ "message": "it broke" }),
            json!({ "errors": [{ "message": "it broke" }] }),
            json!([{ "error": { "message": "it broke" } }]),
            json!("it broke"),
        ] {
            assert_eq!(failure(400, body.clone()).error.message, "host: HTTP 400: it broke", "{body}");
        }
        let detail = json!({ "detail": [{ "loc": ["body", "messages", 0], "msg": "field required" }] });
        assert!(failure(422, detail).error.message.ends_with("body.messages.0: field required"));
        assert_eq!(failure(500, json!(null)).error.message, "host: HTTP 500");
        assert_eq!(plain("<html><head><title>Bad gateway</title></head>"), "Bad gateway");
    }

    #[test]
    fn statuses_have_codes() {
        for (status, code, again) in [
            (400, Code::InvalidArgument, false),
            (401, Code::Unauthorized, false),
            (402, Code::ResourceExhausted, false),
            (403, Code::Unauthorized, false),
            (404, Code::ModelNotFound, false),
            (408, Code::Network, true),
            (409, Code::ProviderError, false),
            (410, Code::ModelNotFound, false),
            (422, Code::InvalidArgument, false),
            (425, Code::ProviderError, true),
            (429, Code::RateLimited, true),
            (500, Code::ProviderError, true),
            (503, Code::ProviderError, true),
        ] {
            let failure = failure(status, json!({ "error": "x" }));
            assert_eq!((failure.error.code, failure.again != Again::Never), (code, again), "{status}");
        }
        let long = json!({ "error": { "message": "too long", "code": "context_length_exceeded" } });
        assert_eq!(failure(400, long).error.code, Code::ContextLengthExceeded);
        let loading =
            failure(503, json!({ "error": "Model a/b is currently loading", "estimated_time": 20.5 }));
        assert_eq!(
            loading.again,
            Again::Loading { estimate: Some(Duration::from_secs_f64(20.5)), asked: None }
        );
        for seconds in [json!(-1), json!(1e300), json!("soon")] {
            let loading = failure(503, json!({ "error": "loading", "estimated_time": seconds }));
            assert_eq!(loading.again, Again::Loading { estimate: None, asked: None });
        }
        let within = |body: Value| Failure::within("host", &body, None).error.code;
        assert_eq!(within(json!({ "error": { "code": 429 } })), Code::RateLimited);
        assert_eq!(within(json!({ "error": { "type": "invalid_request_error" } })), Code::InvalidArgument);
        assert_eq!(within(json!({ "error": "?", "status_code": "401" })), Code::Unauthorized);
    }

    #[test]
    fn secrets_are_not_repeated() {
        let body = json!({ "error": "bad token hf_topsecret123, not hf_someoneelses9, at https://a.b/c?Signature=xyz" });
        let message = failure(401, body).error.message;
        assert_eq!(message, "host: HTTP 401: bad token …, not … at https://a.b/c…. Check the token");
        assert!(clean(&"long ".repeat(1000), None).chars().count() <= SHOWN + 1);
    }
}
