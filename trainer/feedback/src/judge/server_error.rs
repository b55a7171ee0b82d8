//! Extracts the error from a server's response body, in any known format. Computes only.
//!
//! OpenAI, vLLM and llama.cpp return an object `error`, TGI and Ollama a string `error`, older vLLM and many proxies a
//! flat object with `message`, FastAPI a list `detail` whose entries have `loc` and `msg`. Only these fields are
//! interpreted: an error may repeat the whole request, and the words of a question must not influence the
//! classification.

use serde_json::Value;

use super::body::Body;

/// Maximum characters of an excerpt.
const EXCERPT: usize = 300;

/// An error reported by a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// Whether the body is an error response.
    pub present: bool,
    /// The parameter of the request that the error is about, such as `max_tokens`; empty if it names none.
    pub parameter: String,
    /// Code, type and message in lower case, for classification.
    pub words: String,
    /// The text to show.
    pub text: String,
}

impl ServerError {
    /// Extracts the error of a body.
    pub fn read(body: &Body) -> Self {
        let Some(json) = &body.json else {
            let words = body.text.chars().take(2000).collect::<String>().to_lowercase();
            return Self { words, text: excerpt(&body.text), ..Self::default() };
        };
        let error = &json["error"];
        if let Some(text) = error.as_str() {
            return Self::of(&[&json["error_type"]], "", text);
        }
        if error.is_object() {
            return Self::of(&[&error["code"], &error["type"]], &part(&error["param"]), &part(&error["message"]));
        }
        if let Some(details) = json["detail"].as_array().filter(|d| d.iter().any(|d| d["msg"].is_string())) {
            let messages: Vec<String> = details.iter().map(|d| part(&d["msg"])).collect();
            // `loc` is the path of the field: ["body", "max_tokens"], ["body", "messages", 0, "content"].
            let parameter = part(&details[0]["loc"][1]);
            return Self::of(&[&details[0]["type"]], &parameter, &messages.join("; "));
        }
        let flat = ["message", "detail", "msg"].iter().map(|key| part(&json[*key])).find(|text| !text.is_empty());
        match flat {
            Some(message) if json["choices"].is_null() => {
                Self::of(&[&json["code"], &json["type"]], &part(&json["param"]), &message)
            }
            // An unknown format: shown, but not interpreted.
            _ => Self { text: excerpt(&body.text), ..Self::default() },
        }
    }

    fn of(tags: &[&Value], parameter: &str, message: &str) -> Self {
        let tags: Vec<String> = tags.iter().map(|tag| part(tag)).filter(|tag| !tag.is_empty()).collect();
        let text = match tags.first() {
            Some(tag) => format!("{}: {}", excerpt(tag), excerpt(message)),
            None => excerpt(message),
        };
        let words = format!("{} {message}", tags.join(" ")).to_lowercase();
        Self { present: true, parameter: parameter.to_lowercase(), words, text }
    }

    /// Whether code, type or message contain one of these words.
    pub fn has(&self, words: &[&str]) -> bool {
        words.iter().any(|w| self.words.contains(w))
    }

    /// Whether the quota is exhausted.
    pub fn is_quota(&self) -> bool {
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

    /// Whether a content filter rejected the question.
    pub fn is_content_filter(&self) -> bool {
        self.has(&["content_filter", "content_policy", "content policy", "content management policy", "responsibleai"])
    }

    /// Whether the question is too long for the model. Such a message often mentions `max_tokens` too.
    pub fn is_too_long(&self) -> bool {
        self.has(&[
            "context_length",
            "context length",
            "context window",
            "context size",
            "context_size",
            "too long",
            "too many tokens",
            "maximum length",
            "input length",
            "reduce the length",
        ])
    }

    /// Whether the server rejects a parameter, whatever the question.
    pub fn is_protocol(&self) -> bool {
        const PARAMETERS: [&str; 5] =
            ["max_tokens", "max_completion_tokens", "temperature", "logprobs", "top_logprobs"];
        PARAMETERS.contains(&self.parameter.as_str())
            || self.has(&[
                "unsupported_parameter",
                "unsupported_value",
                "unsupported parameter",
                "unsupported value",
                "unknown_parameter",
                "unknown parameter",
                "logprobs",
            ])
    }
}

/// A string or a number, as text.
fn part(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// The beginning of a text on one line, without markup.
pub fn excerpt(text: &str) -> String {
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
    let line = one_line(&plain, EXCERPT);
    if line.is_empty() { "(empty body)".into() } else { line }
}

/// The first characters of a text, on one line.
pub fn one_line(text: &str, most: usize) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> ServerError {
        ServerError::read(&Body::read(body.as_bytes(), None))
    }

    #[test]
    fn every_shape_of_an_error_is_read_by_its_message_alone() {
        for (body, parameter, text) in [
            (r#"{"error": {"message": "m", "type": "t", "code": "c", "param": "p"}}"#, "p", "c: m"),
            (r#"{"error": {"message": "m", "type": "t", "code": null}}"#, "", "t: m"),
            (r#"{"error": {"message": "m", "code": 400}}"#, "", "400: m"),
            (r#"{"error": "Unauthorized"}"#, "", "Unauthorized"),
            (r#"{"error": "m", "error_type": "validation"}"#, "", "validation: m"),
            (
                r#"{"object": "error", "message": "m", "type": "BadRequestError", "param": null, "code": 400}"#,
                "",
                "400: m",
            ),
            (r#"{"detail": "Not Found"}"#, "", "Not Found"),
            (
                r#"{"detail": [{"loc": ["body", "messages", 0], "msg": "too long", "type": "value_error", "input": {"logprobs": 1}}]}"#,
                "messages",
                "value_error: too long",
            ),
        ] {
            let error = error(body);
            assert!(error.present, "{body}");
            assert_eq!((error.parameter.as_str(), error.text.as_str()), (parameter, text), "{body}");
            assert!(!error.is_protocol(), "{body}");
        }
    }

    #[test]
    fn repeated_parts_of_the_request_are_not_interpreted() {
        for body in [
            r#"{"detail": [{"loc": ["body", "messages"], "msg": "bad", "input": "logprobs insufficient_quota content_filter"}]}"#,
            r#"{"error": {"message": "bad", "request": {"logprobs": true, "max_tokens": 4}}}"#,
            r#"{"echo": "unsupported_parameter logprobs content_filter"}"#,
        ] {
            let error = error(body);
            assert!(!error.is_protocol() && !error.is_quota() && !error.is_content_filter(), "{body}: {error:?}");
        }
    }

    #[test]
    fn a_completion_is_not_an_error_whatever_other_fields_it_has() {
        assert!(!error(r#"{"choices": [{"text": "A"}], "message": "ok"}"#).present);
        assert!(!error(r#"{"choices": [{"text": "A"}], "error": null}"#).present);
    }
}
