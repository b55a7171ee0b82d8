//! Classifies an attempt to ask a question: an answer, a reason to wait, or a reason to stop. Computes only.
//!
//! Status, error code and message decide together, never the status alone: 429 is a rate limit or an exhausted quota,
//! 400 is one invalid question or an unsupported protocol.

use std::time::Duration;

use jiff::Timestamp;

use super::body::Body;
use super::dialect::Dialect;
use super::server_error::{ServerError, excerpt};
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
    /// Body, safe to show.
    pub body: Body,
}

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum AttemptOutcome {
    /// A reply.
    Answer(Box<Reply>),
    /// Retry; no request to this endpoint may be sent before this time has passed.
    RetryAfter(Duration, String),
    /// Retry after a back-off.
    RetryBackoff(Fault, String),
    /// The server does not accept this form of request; retry in this dialect.
    Rewrite(Dialect, String),
    /// This question is not answered, at no charge; others can be.
    Refused(Refusal, String),
    /// No question can be answered, because of the key, quota, model or protocol.
    FatalJob(String),
}

/// Why a server refuses a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its content.
    Filtered,
    /// It is longer than the model's context.
    TooLong,
    /// Unknown; perhaps the server does not accept this form of request.
    Unknown,
}

/// The likely cause of a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The endpoint is down or overloaded: every question would fail now.
    Endpoint,
    /// Possibly only this question, which the server cannot process.
    Question,
}

/// Classifies the response to a question sent in a dialect. `now` is needed for Retry-After as a date.
pub fn classify(response: &HttpResponse, dialect: Dialect, now: Timestamp) -> AttemptOutcome {
    let error = ServerError::read(&response.body);
    let status = response.status;
    // Many servers repeat the status as the error code.
    let text = error.text.strip_prefix(&format!("{status}: ")).unwrap_or(&error.text);
    let why = format!("HTTP {status}: {}", text.trim_end_matches('.'));
    if error.is_quota() {
        return AttemptOutcome::FatalJob(format!("{why}. The account has no quota left; top it up or use another key"));
    }
    match status {
        200..=299 if !error.present => match wire::reply(&response.body) {
            Ok(reply) => AttemptOutcome::Answer(Box::new(reply)),
            Err(e) => AttemptOutcome::RetryBackoff(
                Fault::Question,
                format!("HTTP {status}: {e}: {}", excerpt(&response.body.text)),
            ),
        },
        200..=299 => AttemptOutcome::RetryBackoff(Fault::Question, why),
        300..=399 => {
            AttemptOutcome::FatalJob(format!("{why}. The address redirects; write the final address as the url"))
        }
        401 | 403 => {
            AttemptOutcome::FatalJob(format!("{why}. The key is missing, wrong or not allowed to use this model"))
        }
        402 => AttemptOutcome::FatalJob(format!("{why}. The account has no quota left; top it up or use another key")),
        404 => {
            AttemptOutcome::FatalJob(format!("{why}. Check the url (does it end with /v1?) and the name of the model"))
        }
        405 => {
            AttemptOutcome::FatalJob(format!("{why}. The url is not the base address of an OpenAI-compatible server"))
        }
        408 | 409 | 424 | 425 | 429 | 500..=599 => match retry_after(response, now) {
            Some(wait) => AttemptOutcome::RetryAfter(wait, why),
            None if matches!(status, 429 | 502 | 503 | 504 | 529) => AttemptOutcome::RetryBackoff(Fault::Endpoint, why),
            None => AttemptOutcome::RetryBackoff(Fault::Question, why),
        },
        _ if error.is_content_filter() => AttemptOutcome::Refused(Refusal::Filtered, why),
        _ if error.is_too_long() => AttemptOutcome::Refused(Refusal::TooLong, why),
        _ => match dialect.after(&error) {
            Some(next) => AttemptOutcome::Rewrite(next, why),
            None if error.is_protocol() => AttemptOutcome::FatalJob(format!(
                "{why}. The server does not accept a parameter of the request; if it has no log-probabilities, set \
                 labelSource: Verdict"
            )),
            None => AttemptOutcome::Refused(Refusal::Unknown, why),
        },
    }
}

/// The delay of Retry-After: in milliseconds, seconds or as a date; the most precise form takes precedence.
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-24T08:00:00Z";

    fn class(status: u16, body: &str) -> AttemptOutcome {
        let body = Body::read(body.as_bytes(), None);
        classify(&HttpResponse { status, body, ..HttpResponse::default() }, Dialect::default(), NOW.parse().unwrap())
    }

    fn waits(status: u16, ms: Option<&str>, after: Option<&str>) -> Option<Duration> {
        let response = HttpResponse {
            status,
            retry_after_ms: ms.map(Into::into),
            retry_after: after.map(Into::into),
            body: Body::read(br#"{"error": {"message": "slow down", "code": "rate_limit_exceeded"}}"#, None),
        };
        match classify(&response, Dialect::default(), NOW.parse().unwrap()) {
            AttemptOutcome::RetryAfter(wait, _) => Some(wait),
            AttemptOutcome::RetryBackoff(..) => None,
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
            (400, r#"{"error": {"code": 400, "message": "logprobs is not supported"}}"#, "HTTP 400: logprobs"),
            (301, "", "redirects"),
            (405, "", "base address"),
        ] {
            match class(status, body) {
                AttemptOutcome::FatalJob(why) => assert!(why.contains(words), "{status} {body}: {why}"),
                other => panic!("{status} {body}: {other:?}"),
            }
        }
    }

    #[test]
    fn busy_loading_and_broken_servers_are_retried() {
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
                matches!(class(status, body), AttemptOutcome::RetryBackoff(..)),
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
                Refusal::TooLong,
            ),
            (
                400,
                r#"{"error": {"code": 400, "type": "exceed_context_size_error", "message": "too long"}}"#,
                Refusal::TooLong,
            ),
            (422, r#"{"error": "Input validation error", "error_type": "validation"}"#, Refusal::Unknown),
            (
                422,
                r#"{"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "string too long", "type": "value_error",
                    "input": {"logprobs": true, "top_logprobs": 20, "max_tokens": 4}}]}"#,
                Refusal::TooLong,
            ),
            (
                400,
                r#"{"error": {"code": 400, "message": "'max_tokens' or 'max_completion_tokens' is too large: 32. This model's
                    maximum context length is 2048 tokens and your request has 2040 input tokens"}}"#,
                Refusal::TooLong,
            ),
            (400, r#"{"problem": "unsupported_parameter logprobs content_filter"}"#, Refusal::Unknown),
            (
                400,
                r#"{"error": {"code": "content_filter", "message": "Azure content management policy"}}"#,
                Refusal::Filtered,
            ),
        ] {
            assert!(
                matches!(class(status, body), AttemptOutcome::Refused(refusal, _) if refusal == expected),
                "{body}"
            );
        }
    }

    #[test]
    fn a_rejected_parameter_is_omitted_or_ends_the_job() {
        for (status, body, expected) in [
            (
                400,
                r#"{"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use
                    'max_completion_tokens' instead.", "param": "max_tokens", "code": "unsupported_parameter"}}"#,
                Dialect { max_completion_tokens: true, ..Dialect::default() },
            ),
            (
                422,
                r#"{"detail": [{"loc": ["body", "top_logprobs"], "msg": "Input should be less than or equal to 5"}]}"#,
                Dialect { top_logprobs: 5, ..Dialect::default() },
            ),
            (
                400,
                r#"{"object": "error", "message": "Cannot request more than 3 logprobs.", "code": 400}"#,
                Dialect { top_logprobs: 3, ..Dialect::default() },
            ),
        ] {
            let class = class(status, body);
            assert!(matches!(&class, AttemptOutcome::Rewrite(dialect, _) if *dialect == expected), "{body}: {class:?}");
        }
        let none =
            r#"{"error": {"message": "This model does not support the 'logprobs' parameter.", "param": "logprobs"}}"#;
        assert!(matches!(class(400, none), AttemptOutcome::FatalJob(why) if why.contains("labelSource: Verdict")));
    }

    #[test]
    fn an_answer_that_mentions_errors_is_still_an_answer() {
        let body =
            r#"{"choices": [{"message": {"content": "insufficient_quota"}, "finish_reason": "stop"}], "error": null}"#;
        assert!(matches!(class(200, body), AttemptOutcome::Answer(r) if r.choices[0].text == "insufficient_quota"));
    }
}
