//! What an attempt to ask means: an answer, a reason to wait, or a reason to stop. Computes only.
//!
//! Decided by status, error code and message together, never by the status alone: 429 is a rate limit or an empty
//! account, 400 is one bad question or a protocol that the server does not speak.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::wire::{self, Reply};

/// An HTTP response.
#[derive(Clone, Debug, Default)]
pub struct HttpResponse {
    /// Status code.
    pub status: u16,
    /// Header `retry-after-ms`.
    pub retry_after_ms: Option<String>,
    /// Header `retry-after`: seconds, or an HTTP date.
    pub retry_after: Option<String>,
    /// Body, as text.
    pub body: String,
}

/// What an attempt means.
#[derive(Clone, Debug, PartialEq)]
pub enum Class {
    /// A reply.
    Answer(Box<Reply>),
    /// Try again; not before this long, for every question to this endpoint.
    RetryAfter(Duration, String),
    /// Try again after a back-off.
    RetryBackoff(Fault, String),
    /// This question cannot be answered; others can.
    FatalPair {
        /// Refused for its content.
        filtered: bool,
        /// Why.
        why: String,
    },
    /// No question can be answered: key, quota, model or protocol.
    FatalJob(String),
}

/// Whose fault an attempt's failure looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The endpoint is away or busy: every question would fail now.
    Endpoint,
    /// It may be this question alone that the server cannot get through.
    Question,
}

/// Classifies a response that arrived. `now` is for Retry-After as a date.
pub fn classify(response: &HttpResponse, now: Timestamp) -> Class {
    let error = ServerError::read(&response.body);
    let why = format!("HTTP {}: {}", response.status, error.text);
    if error.is_quota() {
        return Class::FatalJob(format!("{why}. The account has no quota left; top it up or use another key"));
    }
    match response.status {
        200..=299 if !error.present => match wire::reply(&response.body) {
            Ok(reply) => Class::Answer(Box::new(reply)),
            Err(e) => Class::RetryBackoff(
                Fault::Question,
                format!("HTTP {}: {e}: {}", response.status, excerpt(&response.body)),
            ),
        },
        200..=299 => Class::RetryBackoff(Fault::Question, why),
        300..=399 => Class::FatalJob(format!("{why}. The address redirects; write the final address as the url")),
        401 | 403 => Class::FatalJob(format!("{why}. The key is missing, wrong or not allowed to use this model")),
        402 => Class::FatalJob(format!("{why}. The account has no quota left; top it up or use another key")),
        404 => Class::FatalJob(format!("{why}. Check the url (does it end with /v1?) and the name of the model")),
        405 => Class::FatalJob(format!("{why}. The url is not the base address of an OpenAI-compatible server")),
        408 | 409 | 424 | 425 | 429 | 500..=599 => match retry_after(response, now) {
            Some(wait) => Class::RetryAfter(wait, why),
            None if matches!(response.status, 429 | 502 | 503 | 504 | 529) => Class::RetryBackoff(Fault::Endpoint, why),
            None => Class::RetryBackoff(Fault::Question, why),
        },
        _ if error.is_content_filter() => Class::FatalPair { filtered: true, why },
        _ if error.is_protocol() => Class::FatalJob(format!(
            "{why}. The server does not take a parameter of the request; if it has no log-probabilities, set label: Verdict"
        )),
        _ => Class::FatalPair { filtered: false, why },
    }
}

/// Retry-After in milliseconds, seconds or as a date, the most exact first.
fn retry_after(response: &HttpResponse, now: Timestamp) -> Option<Duration> {
    let number =
        |text: &Option<String>| text.as_ref()?.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    let seconds = number(&response.retry_after_ms)
        .map(|ms| ms / 1000.0)
        .or_else(|| number(&response.retry_after))
        .or_else(|| {
            let date = jiff::fmt::rfc2822::parse(response.retry_after.as_ref()?.trim()).ok()?;
            Some(date.timestamp().duration_since(now).as_secs_f64().max(0.0))
        })?;
    Some(Duration::from_secs_f64(seconds.min(86_400.0)))
}

/// The error in a body, whatever its shape: an object or a string, a code that is text or a number, or a proxy's HTML.
struct ServerError {
    present: bool,
    /// Code, type and message in lower case, to look for words.
    words: String,
    text: String,
}

impl ServerError {
    fn read(body: &str) -> Self {
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        let error = &value["error"];
        if let Some(text) = error.as_str() {
            let kind = value["error_type"].as_str().unwrap_or_default();
            return Self { present: true, words: format!("{kind} {text}").to_lowercase(), text: excerpt(text) };
        }
        if error.is_object() {
            let part = |key: &str| match &error[key] {
                Value::String(s) => s.clone(),
                Value::Number(n) => n.to_string(),
                _ => String::new(),
            };
            let (code, kind, message) = (part("code"), part("type"), part("message"));
            let tag = if code.is_empty() { &kind } else { &code };
            let text = if tag.is_empty() { excerpt(&message) } else { format!("{tag}: {}", excerpt(&message)) };
            return Self { present: true, words: format!("{code} {kind} {message}").to_lowercase(), text };
        }
        Self { present: false, words: body.chars().take(2000).collect::<String>().to_lowercase(), text: excerpt(body) }
    }

    fn has(&self, words: &[&str]) -> bool {
        words.iter().any(|w| self.words.contains(w))
    }

    fn is_quota(&self) -> bool {
        self.present
            && self.has(&[
                "insufficient_quota",
                "credit_balance",
                "credit balance",
                "billing_hard_limit",
                "billing hard limit",
                "enforced_spend_limit",
                "exceeded your current quota",
            ])
    }

    fn is_content_filter(&self) -> bool {
        self.has(&["content_filter", "content_policy", "content policy", "content management policy", "responsibleai"])
    }

    fn is_protocol(&self) -> bool {
        self.has(&[
            "unsupported_parameter",
            "unsupported_value",
            "unsupported parameter",
            "logprobs",
            "unknown_parameter",
        ])
    }
}

/// The beginning of a text on one line, without mark-up.
fn excerpt(text: &str) -> String {
    let mut plain = String::new();
    let mut tag = false;
    for c in text.chars().take(2000) {
        match c {
            '<' => tag = true,
            '>' if tag => {
                tag = false;
                plain.push(' ');
            }
            c if !tag => plain.push(c),
            _ => {}
        }
    }
    let words: Vec<&str> = plain.split_whitespace().collect();
    let line: String = words.join(" ").chars().take(300).collect();
    if line.is_empty() { "(empty body)".into() } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-24T08:00:00Z";

    fn class(status: u16, body: &str) -> Class {
        classify(&HttpResponse { status, body: body.into(), ..HttpResponse::default() }, NOW.parse().unwrap())
    }

    fn waits(status: u16, ms: Option<&str>, after: Option<&str>) -> Option<Duration> {
        let response = HttpResponse {
            status,
            retry_after_ms: ms.map(Into::into),
            retry_after: after.map(Into::into),
            body: r#"{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}"#.into(),
        };
        match classify(&response, NOW.parse().unwrap()) {
            Class::RetryAfter(wait, _) => Some(wait),
            Class::RetryBackoff(..) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn retry_after_is_read_in_its_three_forms() {
        assert_eq!(waits(429, None, Some("7")), Some(Duration::from_secs(7)));
        assert_eq!(waits(429, Some("250"), Some("7")), Some(Duration::from_millis(250)));
        assert_eq!(waits(503, None, Some("Tue, 24 Nov 2026 08:00:30 GMT")), Some(Duration::from_secs(30)));
        assert_eq!(
            waits(429, None, Some("Tue, 24 Nov 2026 07:00:00 GMT")),
            Some(Duration::ZERO),
            "a clock that is ahead"
        );
        for nonsense in ["soon", "-3", "NaN", ""] {
            assert_eq!(waits(429, None, Some(nonsense)), None, "{nonsense:?}");
        }
    }

    #[test]
    fn key_quota_model_and_protocol_stop_the_job_with_the_servers_words() {
        for (status, body, words) in [
            (
                401,
                r#"{"error": {"message": "Incorrect API key", "code": "invalid_api_key"}}"#,
                "invalid_api_key: Incorrect",
            ),
            (401, r#"{"error": "Unauthorized"}"#, "Unauthorized"),
            (403, "<html><body><h1>403 Forbidden</h1></body></html>", "403 Forbidden"),
            (404, r#"{"error": {"message": "model 'x' not found, try pulling it"}}"#, "try pulling it"),
            (
                429,
                r#"{"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}}"#,
                "quota",
            ),
            (429, r#"{"error": {"type": "enforced_spend_limit_reached", "message": "m"}}"#, "spend_limit"),
            (400, r#"{"error": {"code": "unsupported_parameter", "message": "max_tokens"}}"#, "unsupported_parameter"),
            (400, r#"{"error": {"code": 400, "message": "logprobs is not supported"}}"#, "logprobs"),
            (301, "", "redirects"),
            (405, "", "base address"),
        ] {
            match class(status, body) {
                Class::FatalJob(why) => assert!(why.contains(words), "{status} {body}: {why}"),
                other => panic!("{status} {body}: {other:?}"),
            }
        }
    }

    #[test]
    fn busy_loading_and_broken_servers_are_tried_again() {
        for (status, body) in [
            (408, ""),
            (429, r#"{"error": {"message": "Rate limit reached", "code": "rate_limit_exceeded"}}"#),
            (429, r#"{"error": "overloaded", "error_type": "overloaded"}"#),
            (500, "Internal Server Error"),
            (502, "<html>bad gateway</html>"),
            (503, r#"{"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}"#),
            (529, r#"{"error": {"type": "overloaded_error", "message": "Overloaded"}}"#),
            (200, "<html>maintenance</html>"),
            (200, "{\"choices\": ["),
            (200, r#"{"error": "upstream failed"}"#),
            (200, ""),
        ] {
            assert!(
                matches!(class(status, body), Class::RetryBackoff(..)),
                "{status} {body}: {:?}",
                class(status, body)
            );
        }
    }

    #[test]
    fn a_question_that_is_too_long_or_filtered_fails_alone() {
        for (status, body, expected) in [
            (
                400,
                r#"{"error": {"code": "context_length_exceeded", "message": "maximum context length is 8192"}}"#,
                false,
            ),
            (400, r#"{"error": {"code": 400, "type": "exceed_context_size_error", "message": "too long"}}"#, false),
            (422, r#"{"error": "Input validation error", "error_type": "validation"}"#, false),
            (400, r#"{"error": {"code": "content_filter", "message": "Azure content management policy"}}"#, true),
        ] {
            assert!(matches!(class(status, body), Class::FatalPair { filtered, .. } if filtered == expected), "{body}");
        }
    }

    #[test]
    fn an_answer_is_an_answer_even_if_it_talks_of_errors() {
        let body =
            r#"{"choices": [{"message": {"content": "insufficient_quota"}, "finish_reason": "stop"}], "error": null}"#;
        assert!(matches!(class(200, body), Class::Answer(r) if r.text == "insufficient_quota"));
    }
}
