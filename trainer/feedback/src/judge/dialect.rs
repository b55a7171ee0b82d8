//! What a server takes of a request, learned from what it refuses. Computes only.
//!
//! Every question begins in the plainest dialect. A server that refuses a parameter by name is asked without it from then on;
//! the refused attempt is not charged. A question's id does not depend on the dialect, so a reply is bought once.

use serde::{Deserialize, Serialize};

use super::server_error::ServerError;

/// Alternatives asked for at each position: the most that OpenAI and vLLM give by default.
pub const TOP_LOGPROBS: i64 = 20;
/// What servers that give fewer mostly give (TGI, older OpenAI).
const FEWER: i64 = 5;

/// How a question is written for a server.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(default)]
pub struct Dialect {
    /// The limit of tokens is called `max_completion_tokens`, as newer OpenAI models want, not `max_tokens`.
    pub max_completion_tokens: bool,
    /// `temperature: 0` is left out: the server samples as it likes.
    pub no_temperature: bool,
    /// Alternatives asked for at each position.
    pub top_logprobs: i64,
}

impl Default for Dialect {
    fn default() -> Self {
        Self { max_completion_tokens: false, no_temperature: false, top_logprobs: TOP_LOGPROBS }
    }
}

impl Dialect {
    /// The dialect that an error asks for, given that it is about a request in this one. `None` if nothing is to be changed.
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

    /// As many alternatives as the error names; else fewer and fewer. A server that has none at all says so without a number.
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

    /// What is different from the plainest dialect, for people; empty if nothing is.
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

    /// Whether it is the plainest one.
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
    fn a_refused_parameter_changes_that_parameter_alone() {
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
    fn what_no_other_request_would_mend_changes_nothing() {
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
