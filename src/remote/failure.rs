//! What went wrong, from whatever a server says, and whether another attempt can help.

use super::{Token, json};
use crate::http::{self, Again, Failure, Response};
use crate::{Code, Error, Result};
use serde_json::Value;
use std::time::Duration;

/// The longest part of a server's message that is shown, in characters.
const SHOWN: usize = 500;
/// The most of a failed answer's body that is read.
const LARGEST: usize = 1 << 20;

/// From an answer whose status is none of success.
pub(super) async fn of(response: Response, token: Option<&Token>) -> Failure {
    let (status, asked, host) = (response.status(), response.wait(), response.host().to_owned());
    if status == 0 || (300..400).contains(&status) {
        return Failure::never(redirected(&response));
    }
    let told = response.header("x-should-retry").map(str::to_owned);
    // A body that breaks off says less than the status does.
    let body = response.bytes(LARGEST).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body);
    let body = json::parse(&text).unwrap_or_else(|_| Value::String(plain(&text).to_owned()));
    let failure = new(&host, Some(status), asked, &body, token);
    // As OpenAI's own clients are told.
    let again = match (told.as_deref(), failure.again) {
        (Some("false"), _) => Again::Never,
        (Some("true"), Again::Never) => Again::Later(asked),
        (_, again) => again,
    };
    Failure { again, ..failure }
}

/// From an `error` in an answer whose status was one of success.
pub(super) fn within(host: &str, body: &Value, token: Option<&Token>) -> Failure {
    new(host, status_within(body), None, body, token)
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
    let exhausted = tells_of_exhaustion(&kind, body);
    let code = match status {
        _ if kind.contains("context_length") || tells_of_context(&said) => Code::ContextLengthExceeded,
        Some(400 | 403 | 429) | None if exhausted == Some(Quota::Account) => Code::ResourceExhausted,
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
    let status_text = status.map_or("an error in the answer".to_owned(), |status| format!("HTTP {status}"));
    let said = if said.is_empty() { said } else { format!(": {said}") };
    let error = Error { code, message: format!("{host}: {status_text}{said}{advice}") };
    let estimate = estimated_time(body);
    let again = match status {
        _ if code == Code::ContextLengthExceeded || code == Code::ResourceExhausted => Again::Never,
        // Of a day or a month: it will not pass while somebody waits.
        Some(429) if exhausted.is_some() => Again::Never,
        Some(503) if estimate.is_some() || said.contains("loading") => Again::Loading { estimate, asked },
        Some(status) if !http::may_retry(status) => Again::Never,
        _ => Again::Later(asked),
    };
    Failure { error, again }
}

/// Which of a provider's limits is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quota {
    /// What the account may spend.
    Account,
    /// Of a day or longer.
    Period,
}

/// Limits that are reached for long, unlike those of a second or a minute.
fn tells_of_exhaustion(kind: &str, body: &Value) -> Option<Quota> {
    let kind = kind.to_ascii_lowercase();
    let said = message(body).to_ascii_lowercase();
    let kinds = [
        "insufficient_quota",
        "insufficient_user_quota",
        "insufficient_balance",
        "insufficient_credit",
        "insufficient_funds",
        "exceeded_current_quota",
        "billing",
        "payment_required",
        "arrearage",
    ];
    let words =
        ["insufficient_quota", "insufficient balance", "insufficient credit", "credit balance is too low"];
    if kinds.iter().any(|name| kind.contains(name)) || words.iter().any(|name| said.contains(name)) {
        return Some(Quota::Account);
    }
    let periods =
        ["per day", "per-day", "perday", "per_day", "daily", "per month", "per-month", "monthly", "weekly"];
    // Google names the limit in its details.
    let details = inner(body).get("details").map(|details| details.to_string().to_ascii_lowercase());
    let told = [Some(said), Some(kind), details];
    let any = |text: &String| periods.iter().any(|period| text.contains(period));
    told.iter().flatten().any(any).then_some(Quota::Period)
}

/// The request has its body and token for one host only.
fn redirected(response: &Response) -> Error {
    let (host, status) = (response.host(), response.status());
    // In browsers the answer is hidden.
    let target = response.header("Location").and_then(|location| location.split_once("://"));
    let target = target.map(|(scheme, _)| {
        let location = response.header("Location").unwrap_or_default();
        format!(" to {scheme}://{}", http::host(location))
    });
    let status = if status == 0 { String::new() } else { format!("HTTP {status}: ") };
    Error::provider_error(format!(
        "{host}: {status}the request was redirected{}, where it was not sent. Check the base address",
        target.as_deref().unwrap_or(" elsewhere")
    ))
}

/// Whether there is an `error`.
pub(super) fn has_error(body: &Value) -> bool {
    body.get("error").is_some_and(|error| !says_nothing(error))
}

/// Whether the JSON of a chat's answer with a status of success is an error all the same.
pub(super) fn is_failure(body: &Value) -> bool {
    if has_error(body) {
        return true;
    }
    let given = |name: &str| body.get(name).is_some_and(|value| !says_nothing(value));
    if body.get("choices").is_some_and(Value::is_array) {
        return false;
    }
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let names = ["error_message", "error_msg", "error_type", "error_code", "detail", "errors"];
    text("object") == "error"
        || text("type").contains("error")
        || names.iter().any(|name| given(name))
        || body.get("success") == Some(&Value::Bool(false))
        || (!text("message").is_empty() && body.get("usage").is_none())
        || ["code", "status", "status_code"]
            .iter()
            .any(|name| body.get(name).and_then(Value::as_u64).is_some_and(|code| (400..600).contains(&code)))
}

/// Null, false, 0, and what is empty.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
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
    let body = if body.is_array() { body } else { inner(body) };
    let fields = [
        "message",
        "error",
        "detail",
        "error_message",
        "error_msg",
        "error_description",
        "errors",
        "msg",
        "reason",
        "title",
    ];
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
    let names = ["code", "type", "error_type", "error_code", "status"]
        .iter()
        .filter_map(|field| body.get(field)?.as_str());
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
        kind if kind.contains("BadRequest") => Some(400),
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
        "context too long",
        "prompt is too long",
        "input is too long",
        "exceed context limit",
        "exceeds the context",
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
pub(super) fn clean(text: &str, token: Option<&Token>) -> String {
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
pub(super) fn read(host: &str, body: &[u8], token: Option<&Token>) -> Result<Value> {
    let text = String::from_utf8_lossy(body);
    json::parse(&text).map_err(|_| {
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
        new("host", Some(status), None, &body, Some(&Token::new("hf_topsecret123").unwrap()))
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
    fn errors_with_a_status_of_success() {
        for body in [
            json!({ "error": "x" }),
            json!({ "object": "error", "message": "x" }),
            json!({ "type": "error", "error": { "message": "x" } }),
            json!({ "type": "error", "message": "x" }),
            json!({ "choices": null, "error_type": "BadRequestError", "error_message": "x" }),
            json!({ "detail": "x" }),
            json!({ "message": "x" }),
            json!({ "code": 500, "msg": "x" }),
            json!({ "success": false, "errors": [{ "message": "x" }] }),
        ] {
            assert!(is_failure(&body), "{body}");
            assert!(within("host", &body, None).error.message.contains(": x"), "{body}");
        }
        for body in [
            json!({}),
            json!({ "type": "ping" }),
            json!({ "error": null, "choices": [] }),
            json!({ "error": {}, "id": "x" }),
            json!({ "error": false, "code": 200 }),
            json!({ "choices": [], "message": "x" }),
            json!(["x"]),
        ] {
            assert!(!is_failure(&body), "{body}");
        }
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
        for (status, body, code) in [
            (
                429,
                json!({ "error": { "message": "You exceeded your current quota.", "type": "insufficient_quota" } }),
                Code::ResourceExhausted,
            ),
            (
                429,
                json!({ "error": { "message": "?", "code": "insufficient_quota" } }),
                Code::ResourceExhausted,
            ),
            (
                429,
                json!({ "error": { "type": "exceeded_current_quota_error", "message": "?" } }),
                Code::ResourceExhausted,
            ),
            (
                400,
                json!({ "error": { "message": "Your credit balance is too low." } }),
                Code::ResourceExhausted,
            ),
            (402, json!({ "error": "Insufficient Balance" }), Code::ResourceExhausted),
            (
                429,
                json!({ "error": { "message": "Rate limit exceeded: free-models-per-day", "code": 429 } }),
                Code::RateLimited,
            ),
            (
                429,
                json!({ "error": { "message": "Rate limit reached on tokens per day (TPD)" } }),
                Code::RateLimited,
            ),
            (
                429,
                json!([{ "error": { "code": 429, "message": "Quota exceeded", "details": [{ "violations": [{ "quotaId": "GenerateRequestsPerDayPerProject" }] }] } }]),
                Code::RateLimited,
            ),
        ] {
            let failure = failure(status, body.clone());
            assert_eq!((failure.error.code, failure.again), (code, Again::Never), "{body}");
        }
        for said in ["slow down", "Rate limit reached on requests per minute (RPM). Try again in 2s."] {
            assert_eq!(failure(429, json!({ "error": said })).again, Again::Later(None), "{said}");
        }
        let within = |body: Value| within("host", &body, None).error.code;
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
