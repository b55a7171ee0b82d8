//! The OpenAI protocol as JSON: the body of a request, and what a body that came back says. Computes only.
//!
//! Servers differ in what they return for log-probabilities: OpenAI, vLLM, TGI and Ollama answer `/chat/completions`
//! with `logprobs.content[].top_logprobs[]`; `/completions` with parallel lists `logprobs.tokens` and
//! `logprobs.top_logprobs` (llama.cpp answers it in the chat form). Both forms are read from both.

use plumbline_crds::judge::{JudgeApi, LabelSource};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::form::Form;

/// Alternatives asked for at each position: the most that OpenAI and vLLM give by default.
const TOP_LOGPROBS: i64 = 20;
/// Positions whose alternatives are kept: the answer is the first token that is not white space.
const POSITIONS_KEPT: usize = 4;

/// What a judge answered. It is what the journal keeps, so that a better reader of replies needs no new questions.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct Reply {
    /// Text of the first choice.
    pub text: String,
    /// `stop`, `length`, `content_filter` ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<String>,
    /// OpenAI's refusal text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Alternatives at the first positions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub positions: Vec<Position>,
    /// Tokens that were charged, where the server says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The model that answered, which need not be the one that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// OpenAI's fingerprint of the system behind the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// A position of a reply: the token that was written and its alternatives.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Position {
    /// The token that was written.
    pub token: String,
    /// Tokens and their log-probabilities, the written one among them where the server lists it.
    pub top: Vec<(String, f64)>,
}

/// Tokens that were charged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Usage {
    /// Of the prompt.
    pub prompt: i64,
    /// Of the completion.
    pub completion: i64,
}

/// Path below the base URL.
pub fn path(api: JudgeApi) -> &'static str {
    match api {
        JudgeApi::Chat => "chat/completions",
        JudgeApi::Completion => "completions",
    }
}

/// The body of a request. Greedy, so that the same question has the same answer wherever the server allows it.
pub fn request(form: &Form, model: &str, system: Option<&str>, text: &str) -> Value {
    let mut body = json!({"model": model, "max_tokens": form.max_tokens(), "temperature": 0});
    match form.api {
        JudgeApi::Chat => {
            let system = system.map(|s| json!({"role": "system", "content": s}));
            let turns = system.into_iter().chain([json!({"role": "user", "content": text})]);
            body["messages"] = turns.collect();
            if form.label == LabelSource::LogProbs {
                body["logprobs"] = true.into();
                body["top_logprobs"] = TOP_LOGPROBS.into();
            }
        }
        JudgeApi::Completion => {
            body["prompt"] = system.map_or_else(|| text.to_owned(), |s| format!("{s}\n\n{text}")).into();
            if form.label == LabelSource::LogProbs {
                body["logprobs"] = TOP_LOGPROBS.into();
            }
        }
    }
    body
}

/// The reply in the body of a successful response; an error says what is wrong with the body.
pub fn reply(body: &str) -> Result<Reply, String> {
    let value: Value = serde_json::from_str(body).map_err(|e| format!("the body is not JSON ({e})"))?;
    let choice = value["choices"].get(0).ok_or("the body has no `choices`")?;
    let message = &choice["message"];
    let text = message["content"].as_str().or_else(|| choice["text"].as_str()).unwrap_or_default();
    let owned = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    Ok(Reply {
        text: text.to_owned(),
        finish: owned(&choice["finish_reason"]),
        refusal: owned(&message["refusal"]),
        positions: positions(&choice["logprobs"]),
        usage: usage(&value["usage"]),
        model: owned(&value["model"]),
        fingerprint: owned(&value["system_fingerprint"]),
    })
}

fn usage(value: &Value) -> Option<Usage> {
    Some(Usage {
        prompt: value["prompt_tokens"].as_i64().filter(|n| *n >= 0)?,
        completion: value["completion_tokens"].as_i64().filter(|n| *n >= 0)?,
    })
}

fn positions(logprobs: &Value) -> Vec<Position> {
    if let Some(content) = logprobs["content"].as_array() {
        let read = |entry: &Value| {
            let pair = |v: &Value| Some((v["token"].as_str()?.to_owned(), v["logprob"].as_f64()?));
            let mut top: Vec<_> = entry["top_logprobs"].as_array().into_iter().flatten().filter_map(pair).collect();
            if top.is_empty() {
                top.extend(pair(entry));
            }
            Some(Position { token: entry["token"].as_str()?.to_owned(), top })
        };
        return content.iter().take(POSITIONS_KEPT).filter_map(read).collect();
    }
    let Some(tokens) = logprobs["tokens"].as_array() else { return Vec::new() };
    let read = |(i, token): (usize, &Value)| {
        let token = token.as_str()?.to_owned();
        let listed: Option<&Map<String, Value>> = logprobs["top_logprobs"].get(i).and_then(Value::as_object);
        let mut top: Vec<_> =
            listed.into_iter().flatten().filter_map(|(t, p)| Some((t.clone(), p.as_f64()?))).collect();
        if top.is_empty() {
            top.extend(logprobs["token_logprobs"].get(i).and_then(Value::as_f64).map(|p| (token.clone(), p)));
        }
        Some(Position { token, top })
    };
    tokens.iter().enumerate().take(POSITIONS_KEPT).filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_reply_is_read_whole() {
        let reply = reply(
            r#"{"id": "x", "model": "judge-2", "system_fingerprint": "fp", "choices": [{"index": 0, "finish_reason": "length",
            "message": {"role": "assistant", "content": "A", "refusal": null},
            "logprobs": {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": [
                {"token": "A", "logprob": -0.1}, {"token": "B", "logprob": -2.5}]}]}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}}"#,
        )
        .unwrap();
        assert_eq!(reply.text, "A");
        assert_eq!(reply.finish.as_deref(), Some("length"));
        assert_eq!(
            reply.positions,
            [Position { token: "A".into(), top: vec![("A".into(), -0.1), ("B".into(), -2.5)] }]
        );
        assert_eq!(reply.usage, Some(Usage { prompt: 100, completion: 1 }));
        assert_eq!((reply.model.as_deref(), reply.refusal), (Some("judge-2"), None));
    }

    #[test]
    fn both_forms_of_completion_log_probabilities_are_read_alike() {
        let legacy = reply(
            r#"{"choices": [{"text": " good", "finish_reason": "length", "logprobs": {"tokens": [" good"],
            "token_logprobs": [-0.5], "top_logprobs": [{" good": -0.5, " bad": -1.0}]}}]}"#,
        );
        let chat = reply(
            r#"{"choices": [{"text": " good", "finish_reason": "length", "logprobs": {"content": [{"token": " good",
            "logprob": -0.5, "top_logprobs": [{"token": " good", "logprob": -0.5}, {"token": " bad", "logprob": -1.0}]}]}}]}"#,
        );
        assert_eq!(legacy.as_ref().unwrap().positions.len(), 1);
        assert_eq!(legacy, chat);
    }

    #[test]
    fn an_endpoint_that_ignores_the_request_for_log_probabilities_gives_none_rather_than_a_guess() {
        for logprobs in ["null", "{}", "{\"content\": null}", "{\"content\": []}", "{\"tokens\": []}", "[1]"] {
            let body = format!(r#"{{"choices": [{{"message": {{"content": "A"}}, "logprobs": {logprobs}}}]}}"#);
            assert_eq!(reply(&body).unwrap().positions, [], "{logprobs}");
        }
    }

    #[test]
    fn bodies_that_hold_no_reply_are_errors() {
        for body in ["", "<html>bad gateway</html>", "{}", "{\"choices\": []}", "[]", "\"A\""] {
            assert!(reply(body).is_err(), "{body}");
        }
        let null = reply(r#"{"choices": [{"message": {"content": null, "refusal": "no"}, "finish_reason": "stop"}]}"#)
            .unwrap();
        assert_eq!((null.text.as_str(), null.refusal.as_deref()), ("", Some("no")));
    }
}
