//! Requests of `/v1/completions` and `/v1/chat/completions`, parsed from JSON. Every field is supported, known to have
//! no effect, or rejected by name: a partly understood request would be answered with the wrong text. Computes.

use plumbline_crds::source::Sampling;
use serde_json::Value;

use super::ApiError;
use super::fields::Fields;
use super::input::{Prompt, messages, prompts, stop};
use crate::data::Message;

/// Maximum number of log-probabilities per position.
pub const MOST_LOGPROBS: i64 = 100;
/// Maximum number of samples per prompt.
pub const MOST_SAMPLES: i64 = 128;
/// The completions API's default of `max_tokens`.
const DEFAULT_COMPLETION_TOKENS: usize = 16;

/// Fields that a client may send and that do not affect the text.
const HARMLESS: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];

/// The fields that both APIs share.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// The model's name.
    pub model: String,
    /// Sampling parameters; the plan sets `max_new_tokens` and `seed`.
    pub sampling: Sampling,
    /// Maximum number of new tokens.
    pub max_tokens: MaxTokens,
    /// The field that `max_tokens` was read from, for errors.
    pub max_tokens_field: &'static str,
    /// Samples per prompt.
    pub samples: usize,
    /// Number of most likely tokens to list at each position besides the sampled one; none for no log-probabilities.
    pub logprobs: Option<usize>,
    /// With a seed, equal requests get equal text; without one, each request is random.
    pub seed: Option<i64>,
    /// Whether to stream server-sent events instead of a single reply.
    pub stream: bool,
    /// Whether to end a stream with an event that has the usage.
    pub include_usage: bool,
}

/// The maximum number of new tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxTokens {
    /// As requested; rejected if it does not fit after the prompt.
    Exactly(usize),
    /// Not requested: the smaller of this number and what fits after the prompt.
    AtMost(usize),
}

/// A request of `/v1/completions`.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// One or more prompts.
    pub prompts: Vec<Prompt>,
    /// The shared fields.
    pub params: Params,
}

/// A request of `/v1/chat/completions`.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The conversation, not empty.
    pub messages: Vec<Message>,
    /// The shared fields.
    pub params: Params,
}

/// Parses a body of `/v1/completions`.
pub fn completion(body: &[u8]) -> Result<CompletionRequest, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let prompts = prompts(fields.take("prompt"))?;
    let logprobs = fields.integer("logprobs", 0, MOST_LOGPROBS)?.map(|n| n as usize);
    let max_tokens = match fields.integer("max_tokens", 1, i64::MAX)? {
        Some(tokens) => MaxTokens::Exactly(tokens as usize),
        None => MaxTokens::AtMost(DEFAULT_COMPLETION_TOKENS),
    };
    fields.neutral("echo", |v| v == &Value::Bool(false))?;
    fields.neutral("suffix", |v| v == "")?;
    let best_of = fields.integer("best_of", 1, MOST_SAMPLES)?;
    let params = params(fields, logprobs, max_tokens, "max_tokens")?;
    if best_of.is_some_and(|best| best as usize != params.samples) {
        return Err(ApiError::unsupported(
            "best_of",
            "`best_of` other than `n` is not supported by this server; ask for `n` and choose by `logprobs`",
        ));
    }
    Ok(CompletionRequest { prompts, params })
}

/// Parses a body of `/v1/chat/completions`.
pub fn chat(body: &[u8]) -> Result<ChatRequest, ApiError> {
    let mut fields = Fields::of_body(body)?;
    let messages = messages(fields.take("messages"))?;
    let wanted = fields.flag("logprobs")?;
    let top = fields.integer("top_logprobs", 0, MOST_LOGPROBS)?;
    if top.is_some() && !wanted {
        return Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs: true`"));
    }
    let logprobs = wanted.then(|| top.unwrap_or(0) as usize);
    let old = fields.integer("max_tokens", 1, i64::MAX)?;
    let new = fields.integer("max_completion_tokens", 1, i64::MAX)?;
    let (limit, field) = match (old, new) {
        (Some(old), Some(new)) if old != new => {
            let message = format!("`max_tokens` is {old} and `max_completion_tokens` is {new}; send one of them");
            return Err(ApiError::invalid("max_tokens", message));
        }
        (_, Some(new)) => (Some(new), "max_completion_tokens"),
        (old, None) => (old, "max_tokens"),
    };
    let max_tokens = match limit {
        Some(tokens) => MaxTokens::Exactly(tokens as usize),
        None => MaxTokens::AtMost(usize::MAX),
    };
    fields.neutral("response_format", |v| v == &serde_json::json!({"type": "text"}))?;
    fields.neutral("modalities", |v| v == &serde_json::json!(["text"]))?;
    for (field, none) in [("tool_choice", "none"), ("function_call", "none")] {
        fields.neutral(field, |v| v == none)?;
    }
    for field in ["tools", "functions"] {
        fields.neutral(field, |v| v.as_array().is_some_and(Vec::is_empty))?;
    }
    let params = params(fields, logprobs, max_tokens, field)?;
    Ok(ChatRequest { messages, params })
}

fn params(
    mut fields: Fields,
    logprobs: Option<usize>,
    max_tokens: MaxTokens,
    max_tokens_field: &'static str,
) -> Result<Params, ApiError> {
    let defaults = Sampling::default();
    let top_k = fields.integer("top_k", -1, 1_000_000)?.unwrap_or(defaults.top_k);
    let sampling = Sampling {
        temperature: fields.number("temperature", 0.0, 10.0)?.unwrap_or(defaults.temperature),
        top_p: fields.number("top_p", 0.000_001, 1.0)?.unwrap_or(defaults.top_p),
        // Other servers write "all" as -1.
        top_k: top_k.max(0),
        min_p: fields.number("min_p", 0.0, 1.0)?.unwrap_or(defaults.min_p),
        stop: stop(fields.take("stop"))?,
        ..defaults
    };
    let stream = fields.flag("stream")?;
    let include_usage = match fields.take("stream_options") {
        None => false,
        Some(_) if !stream => {
            return Err(ApiError::invalid("stream_options", "`stream_options` needs `stream: true`"));
        }
        Some(options) => {
            let mut options = Fields::of_value("stream_options", options)?;
            let include_usage = options.flag("include_usage")?;
            // Padding that hides the lengths of chunks from eavesdroppers.
            options.ignore(&["include_obfuscation"]);
            options.refuse_rest()?;
            include_usage
        }
    };
    let params = Params {
        model: fields.required_text("model")?,
        sampling,
        max_tokens,
        max_tokens_field,
        samples: fields.integer("n", 1, MOST_SAMPLES)?.unwrap_or(1) as usize,
        logprobs,
        seed: fields.integer("seed", i64::MIN, i64::MAX)?,
        stream,
        include_usage,
    };
    for (field, value) in [("frequency_penalty", 0.0), ("presence_penalty", 0.0), ("repetition_penalty", 1.0)] {
        fields.neutral(field, |v| v.as_f64() == Some(value))?;
    }
    fields.neutral("logit_bias", |v| v.as_object().is_some_and(serde_json::Map::is_empty))?;
    fields.ignore(&HARMLESS);
    fields.refuse_rest()?;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn completion_with(field: &str, value: Value) -> Result<CompletionRequest, ApiError> {
        let mut body = json!({"model": "m", "prompt": "p"});
        body[field] = value;
        completion(body.to_string().as_bytes())
    }

    fn chat_with(field: &str, value: Value) -> Result<ChatRequest, ApiError> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body[field] = value;
        chat(body.to_string().as_bytes())
    }

    fn param(error: ApiError) -> String {
        assert_eq!(error.status, 400, "{error:?}");
        let param = error.body.param.expect("names a field");
        assert!(error.body.message.contains(&format!("`{param}")), "{:?} does not name {param}", error.body.message);
        param
    }

    #[test]
    fn a_bare_request_gets_the_defaults_of_the_openai_api() {
        let completion = completion_with("prompt", json!("p")).unwrap();
        assert_eq!(completion.prompts, [Prompt::Text("p".into())]);
        assert_eq!(completion.params.max_tokens, MaxTokens::AtMost(16));
        let Params { sampling, samples, logprobs, seed, stream, include_usage, .. } = completion.params;
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p), (1.0, 1.0, 0, 0.0));
        assert_eq!((samples, logprobs, seed, stream, include_usage), (1, None, None, false, false));
        assert!(sampling.stop.is_empty());
        let chat = chat_with("model", json!("m")).unwrap();
        assert_eq!(chat.params.max_tokens, MaxTokens::AtMost(usize::MAX));
        assert_eq!(chat.messages, [Message { role: "user".into(), content: "hi".into() }]);
    }

    #[test]
    fn every_supported_field_is_parsed() {
        let body = json!({
            "model": "m", "prompt": ["a", "b"], "max_tokens": 1, "temperature": 0, "top_p": 0.5, "top_k": 5,
            "min_p": 0.1, "seed": 7, "stop": ["x", "y"], "stream": true, "stream_options": {"include_usage": true},
            "n": 3, "logprobs": 100, "best_of": 3,
        });
        let CompletionRequest { prompts, params } = completion(body.to_string().as_bytes()).unwrap();
        assert_eq!(prompts, [Prompt::Text("a".into()), Prompt::Text("b".into())]);
        assert_eq!(
            params,
            Params {
                model: "m".into(),
                sampling: Sampling {
                    temperature: 0.0,
                    top_p: 0.5,
                    top_k: 5,
                    min_p: 0.1,
                    stop: vec!["x".into(), "y".into()],
                    ..Sampling::default()
                },
                max_tokens: MaxTokens::Exactly(1),
                max_tokens_field: "max_tokens",
                samples: 3,
                logprobs: Some(100),
                seed: Some(7),
                stream: true,
                include_usage: true,
            }
        );
    }

    #[test]
    fn values_out_of_range_are_rejected_by_name() {
        for (field, bad) in [
            ("temperature", json!(-0.1)),
            ("temperature", json!("hot")),
            ("top_p", json!(0)),
            ("top_p", json!(1.1)),
            ("top_k", json!(-2)),
            ("top_k", json!(1.5)),
            ("min_p", json!(2)),
            ("n", json!(0)),
            ("n", json!(129)),
            ("max_tokens", json!(0)),
            ("max_tokens", json!(-1)),
            ("seed", json!("7")),
            ("stream", json!("yes")),
            ("stop", json!("")),
            ("stop", json!(["a", 1])),
            ("stop", json!(vec!["a"; 17])),
            ("stop", json!("a".repeat(65))),
            ("stream_options", json!({"include_usage": true})),
            ("model", json!(null)),
        ] {
            assert_eq!(param(completion_with(field, bad.clone()).unwrap_err()), field, "{bad}");
            assert_eq!(param(chat_with(field, bad.clone()).unwrap_err()), field, "{bad}");
        }
        assert_eq!(param(completion_with("logprobs", json!(101)).unwrap_err()), "logprobs");
        assert_eq!(param(completion_with("logprobs", json!(true)).unwrap_err()), "logprobs");
        assert_eq!(param(chat_with("logprobs", json!(5)).unwrap_err()), "logprobs");
        assert_eq!(param(chat_with("top_logprobs", json!(5)).unwrap_err()), "top_logprobs");
    }

    #[test]
    fn fields_that_change_the_meaning_are_rejected_by_name() {
        let both = [
            ("frequency_penalty", json!(0.5)),
            ("presence_penalty", json!(-1)),
            ("repetition_penalty", json!(1.1)),
            ("logit_bias", json!({"50256": -100})),
            ("guided_choice", json!(["A", "B"])),
            ("structured_outputs", json!({"choice": ["A", "B"]})),
            ("grammar", json!("root ::= x")),
            ("ignore_eos", json!(true)),
            ("temprature", json!(0)),
        ];
        for (field, value) in &both {
            let error = completion_with(field, value.clone()).unwrap_err();
            assert_eq!(error.body.code, Some("unsupported_parameter"));
            assert_eq!(param(error), *field);
            assert_eq!(param(chat_with(field, value.clone()).unwrap_err()), *field);
        }
        for (field, value) in [("echo", json!(true)), ("suffix", json!("end")), ("best_of", json!(2))] {
            assert_eq!(param(completion_with(field, value).unwrap_err()), field);
        }
        for (field, value) in [
            ("tools", json!([{"type": "function"}])),
            ("tool_choice", json!("auto")),
            ("functions", json!([{}])),
            ("function_call", json!("auto")),
            ("response_format", json!({"type": "json_object"})),
            ("modalities", json!(["audio"])),
            ("audio", json!({})),
            ("prediction", json!({})),
            ("reasoning_effort", json!("high")),
            ("web_search_options", json!({})),
            ("prompt", json!("p")),
        ] {
            assert_eq!(param(chat_with(field, value).unwrap_err()), field);
        }
    }

    #[test]
    fn neutral_values_and_harmless_fields_change_nothing() {
        let plain = chat_with("model", json!("m")).unwrap();
        let mut body = json!({
            "model": "m", "messages": [{"role": "user", "content": "hi", "tool_calls": null}],
            "frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1, "logit_bias": {},
            "response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "top_k": -1, "grammar": null,
        });
        for field in HARMLESS {
            body[field] = json!("x");
        }
        assert_eq!(chat(body.to_string().as_bytes()).unwrap(), plain);
    }

    #[test]
    fn the_two_names_of_the_limit_must_agree() {
        let chat = chat_with("max_completion_tokens", json!(5)).unwrap();
        assert_eq!(
            (chat.params.max_tokens, chat.params.max_tokens_field),
            (MaxTokens::Exactly(5), "max_completion_tokens")
        );
        let both = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "max_completion_tokens": 2});
        assert_eq!(param(super::chat(both.to_string().as_bytes()).unwrap_err()), "max_tokens");
    }

    #[test]
    fn a_body_that_is_not_an_object_is_malformed() {
        for body in ["", "{", "[]", "\"x\""] {
            let error = chat(body.as_bytes()).unwrap_err();
            assert_eq!((error.status, error.body.code), (400, Some("invalid_json")));
        }
    }

    #[test]
    fn an_error_does_not_repeat_the_text_of_the_request() {
        let error = completion_with("temperature", json!("a secret prompt")).unwrap_err();
        assert!(!error.body.message.contains("secret"), "{}", error.body.message);
    }
}
