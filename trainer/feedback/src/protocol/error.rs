//! Errors in OpenAI's format: `{"error": {"message", "type", "param", "code"}}`. Computes.

use serde::Serialize;

/// Why a request is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status code.
    pub status: u16,
    /// Seconds for a `Retry-After` header, if retrying helps.
    pub retry_after: Option<u64>,
    /// The `error` object.
    pub body: ErrorBody,
}

/// The `error` object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// What was expected, what was found, what to do.
    pub message: String,
    /// `invalid_request_error`, `server_error` or `overloaded_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The invalid field.
    pub param: Option<String>,
    /// Machine-readable code.
    pub code: Option<&'static str>,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, code: Option<&'static str>, message: String) -> Self {
        Self { status, retry_after: None, body: ErrorBody { message, kind, param: None, code } }
    }

    /// 400: a field has an invalid value.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut error = Self::new(400, "invalid_request_error", Some("invalid_value"), message.into());
        error.body.param = Some(param.into());
        error
    }

    /// 400: an unsupported field that would change the meaning of the request.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        let mut error = Self::invalid(param, message);
        error.body.code = Some("unsupported_parameter");
        error
    }

    /// 400: the body is not a valid request.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", Some("invalid_json"), message.into())
    }

    /// 400: `prompt` tokens and the `completion` tokens requested do not fit into `context`.
    pub fn context_length(param: &str, context: usize, prompt: usize, completion: usize) -> Self {
        let message = format!(
            "the maximum context length is {context} tokens, but {} were asked for ({prompt} in the prompt, \
             {completion} for the completion); shorten the prompt or ask for fewer tokens",
            prompt.saturating_add(completion)
        );
        Self::too_long(param, message)
    }

    /// 400: a prompt is too long for the context, however it is tokenised.
    pub fn too_long(param: &str, message: String) -> Self {
        let mut error = Self::invalid(param, message);
        error.body.code = Some("context_length_exceeded");
        error
    }

    /// 404: this server does not serve that model.
    pub fn model_not_found(asked: &str, served: &str) -> Self {
        let message = format!("the model `{asked:.64}` does not exist here; this server serves `{served}`");
        let mut error = Self::new(404, "invalid_request_error", Some("model_not_found"), message);
        error.body.param = Some("model".into());
        error
    }

    /// 404: no such path.
    pub fn no_route(method: &str, path: &str) -> Self {
        let message = format!(
            "no such route: {method:.16} {path:.64}; see GET /v1/models, POST /v1/completions, POST \
             /v1/chat/completions, GET /health, GET /metrics"
        );
        Self::new(404, "invalid_request_error", Some("not_found"), message)
    }

    /// 405: the path exists, but not for this method.
    pub fn wrong_method(method: &str, path: &str) -> Self {
        let message = format!("{path:.64} does not support {method:.16}");
        Self::new(405, "invalid_request_error", Some("method_not_allowed"), message)
    }

    /// 408: the body was not received within this many seconds.
    pub fn too_slow(seconds: u64) -> Self {
        let message = format!(
            "the request was not received within {seconds} s; send it again, or fewer prompts at \
                               once"
        );
        Self::new(408, "invalid_request_error", Some("request_timeout"), message)
    }

    /// 413: the body is longer than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        let message = format!("the request is longer than {limit} bytes; send fewer prompts at once");
        Self::new(413, "invalid_request_error", Some("request_too_large"), message)
    }

    /// 413: the body contains more than `limit` values.
    pub fn too_many_values(limit: usize) -> Self {
        let message = format!(
            "the request contains more than {limit} JSON values (each prompt and each token id is one); send fewer \
             prompts at once"
        );
        Self::new(413, "invalid_request_error", Some("request_too_large"), message)
    }

    /// 503: the limit of long requests being read is reached.
    pub fn busy_reading() -> Self {
        let message = "too many long requests are being read; try again in a moment".to_owned();
        let mut error = Self::new(503, "overloaded_error", Some("queue_full"), message);
        error.retry_after = Some(1);
        error
    }

    /// 503: the memory for replies is exhausted.
    pub fn out_of_memory(mebibytes: usize) -> Self {
        let message = format!(
            "the prompts and replies of other requests may use all of the {mebibytes} MiB; try again in a \
                     moment"
        );
        let mut error = Self::new(503, "overloaded_error", Some("queue_full"), message);
        error.retry_after = Some(1);
        error
    }

    /// 503: the queue of sequences is full.
    pub fn overloaded(capacity: usize) -> Self {
        let message = format!("{capacity} sequences are being computed or queued; try again in a moment");
        let mut error = Self::new(503, "overloaded_error", Some("queue_full"), message);
        error.retry_after = Some(1);
        error
    }

    /// 503: the model is not loaded yet.
    pub fn loading() -> Self {
        let message = "the model is being loaded; GET /health answers 200 when it is ready".to_owned();
        let mut error = Self::new(503, "server_error", Some("model_loading"), message);
        error.retry_after = Some(1);
        error
    }

    /// 500: the model failed, or the server stopped before the request was complete.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "server_error", Some("internal_error"), message.into())
    }
}
