//! The form of requests that a server accepts, learned from the parameters it rejects. Computes only.
//!
//! The first request is in the simplest dialect. If a server rejects a parameter by name, later requests omit it; the
//! rejected attempt is not charged. A question's id does not depend on the dialect, so no reply is paid for twice.

use serde::{Deserialize, Serialize};

use super::server_error::ServerError;

/// Number of alternatives requested per position: the default maximum of OpenAI and vLLM.
pub const TOP_LOGPROBS: i64 = 20;
/// The maximum of most servers with a lower limit (TGI, older OpenAI).
const FEWER: i64 = 5;

/// The form of requests to a server.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(default)]
pub struct Dialect {
    /// Whether the token limit is named `max_completion_tokens`, as newer OpenAI models require, instead of
    /// `max_tokens`.
    pub max_completion_tokens: bool,
    /// Whether `temperature: 0` is omitted, so that the server uses its own sampling settings.
    pub no_temperature: bool,
    /// Number of alternatives requested per position.
    pub top_logprobs: i64,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { max_completion_tokens: false, no_temperature: false, top_logprobs: TOP_LOGPROBS }
    }
}

impl Dialect {
    /// The dialect to use after an error to a request in this one; `None` if the error has no remedy.
    pub fn after(self, error: &ServerError) -> Option<Self> {
        if error.is_too_long() {
            return None;
        }
        let about = |name: &str| error.parameter == name || error.words.contains(name);
        let refused = error.has(&[
            "unsupported",
            "not support",
            "unknown",
            "unrecognized",
            "not permitted",
            "not allowed",
            "unexpected",
            "deprecated",
            "extra inputs",
            "only the default",
        ]);
        if about("top_logprobs") || about("logprobs") {
            return self.with_fewer_logprobs(error, refused);
        }
        let limit = error.parameter == "max_tokens" || error.words.contains("max_completion_tokens");
        if about("max_tokens") && limit && refused && !self.max_completion_tokens {
            return Some(Self { max_completion_tokens: true, ..self });
        }
        if about("temperature") && refused && !self.no_temperature {
            return Some(Self { no_temperature: true, ..self });
        }
        None
    }

    /// Requests as many alternatives as the error permits, or else fewer. An error without a number may mean that the
    /// server supports none.
    fn with_fewer_logprobs(self, error: &ServerError, refused: bool) -> Option<Self> {
        let message = error.words.replace("400", "").replace("422", "");
        let numbers = message.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<i64>().ok());
        let named = numbers.filter(|n| (1..self.top_logprobs).contains(n)).max();
        let next = match named {
            Some(named) => named,
            None if refused => return None,
            None if self.top_logprobs > FEWER => FEWER,
            None => self.top_logprobs / 2,
        };
        (next >= 1).then_some(Self { top_logprobs: next, ..self })
    }

    /// The differences from the simplest dialect, for reports; empty if there are none.
    pub fn told(self) -> Vec<String> {
        let mut told = Vec::new();
        if self.max_completion_tokens {
            told.push("max_completion_tokens instead of max_tokens".to_owned());
        }
        if self.no_temperature {
            told.push("without temperature 0, so the same question may get a different answer".to_owned());
        }
        if self.top_logprobs != TOP_LOGPROBS {
            told.push(format!("{} alternatives instead of {TOP_LOGPROBS}", self.top_logprobs));
        }
        told
    }

    /// Whether this is the simplest dialect.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::body::Body;
    use super::*;

    fn after(dialect: Dialect, message: &str) -> Option<Dialect> {
        let body = serde_json::json!({"error": {"message": message, "type": "invalid_request_error", "code": 400}});
        dialect.after(&ServerError::read(&Body::read(body.to_string().as_bytes(), None)))
    }

    #[test]
    fn a_rejected_parameter_changes_only_that_parameter() {
        let plain = Dialect::default();
        for message in [
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            "max_tokens is deprecated, use max_completion_tokens",
        ] {
            assert_eq!(after(plain, message), Some(Dialect { max_completion_tokens: true, ..plain }), "{message}");
        }
        for message in [
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
            "Unrecognized request argument supplied: temperature",
        ] {
            assert_eq!(after(plain, message), Some(Dialect { no_temperature: true, ..plain }), "{message}");
        }
        for (message, top) in [
            ("Cannot request more than 5 logprobs.", 5),
            ("Requested sample logprobs of 20, which is greater than max allowed: 10", 10),
            ("Invalid value for 'top_logprobs': must be less than or equal to 8.", 8),
            ("top_logprobs must be in [0, 4]", 4),
            ("top_logprobs is too large", 5),
        ] {
            assert_eq!(after(plain, message), Some(Dialect { top_logprobs: top, ..plain }), "{message}");
        }
        assert_eq!(after(Dialect { top_logprobs: 5, ..plain }, "too many top_logprobs").unwrap().top_logprobs, 2);
    }

    #[test]
    fn other_errors_do_not_change_the_dialect() {
        let plain = Dialect::default();
        for message in [
            "This model does not support the 'logprobs' parameter.",
            "'max_tokens' or 'max_completion_tokens' is too large: 32. This model's maximum context length is 2048 tokens",
            "messages: string too long",
            "The temperature outside is not known to us",
        ] {
            assert_eq!(after(plain, message), None, "{message}");
        }
        let spoken = Dialect { max_completion_tokens: true, no_temperature: true, top_logprobs: 1 };
        for message in
            ["Unsupported parameter: 'max_tokens'", "temperature is not supported", "top_logprobs is too large"]
        {
            assert_eq!(after(spoken, message), None, "no way round and round: {message}");
        }
    }
}
