//! The OpenAI protocol as JSON: builds request bodies and parses response bodies. Computes only.
//!
//! Servers differ in their log-probabilities: OpenAI, vLLM, TGI and Ollama answer `/chat/completions` with
//! `logprobs.content[].top_logprobs[]`, and `/completions` with parallel lists `logprobs.tokens` and
//! `logprobs.top_logprobs` (llama.cpp uses the chat form for both). Both forms are accepted from both.

use plumbline_crds::judge::JudgeApi;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::body::Body;
use super::dialect::Dialect;
use super::server_error::one_line;
use super::turn::Turn;
use crate::data::id;

/// Number of positions whose alternatives are kept: the answer is the first token that is neither white space nor a
/// bracket.
const POSITIONS_KEPT: usize = 4;
/// Maximum characters kept of display-only texts: names, and the beginning of reasoning and refusals.
const NAME_KEPT: usize = 200;

/// A judge's reply, as stored in the journal: complete enough that an improved reader needs no new questions.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct Reply {
    /// Its choices: one, unless several were requested.
    pub choices: Vec<Choice>,
    /// Tokens that were charged, if the server reports them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The model that answered, which may differ from the requested one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// OpenAI's fingerprint of the system behind the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The dialect of the request.
    #[serde(default, skip_serializing_if = "Dialect::is_default")]
    pub dialect: Dialect,
}

/// One choice of a reply.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// Finish reason: `stop`, `length`, `content_filter` ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<String>,
    /// The beginning of OpenAI's refusal text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The beginning of reasoning in a separate field. It is never read for a verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Alternatives at the first positions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub positions: Vec<Position>,
}

impl Choice {
    /// The first non-blank of its text, refusal and reasoning, to be shown if it has no verdict.
    pub fn said(&self) -> Option<&str> {
        let all = [Some(self.text.as_str()), self.refusal.as_deref(), self.reasoning.as_deref()];
        all.into_iter().flatten().find(|text| !text.trim().is_empty())
    }
}

/// A position of a reply: the generated token and its alternatives.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Position {
    /// The generated token.
    pub token: String,
    /// Tokens and their log-probabilities, including the generated one if the server lists it.
    pub top: Vec<(String, f64)>,
}

/// Tokens that were charged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt: i64,
    /// Completion tokens.
    pub completion: i64,
}

impl Usage {
    /// The sum of both.
    pub fn total(&self) -> i64 {
        self.prompt.saturating_add(self.completion)
    }
}

/// The path relative to the base URL.
pub fn path(api: JudgeApi) -> &'static str {
    match api {
        JudgeApi::Chat => "chat/completions",
        JudgeApi::Completion => "completions",
    }
}

/// The id of a turn's request: a hash of the judge's identity and of everything that is sent. It does not depend on the
/// dialect, so no reply is paid for twice.
pub fn request_id(turn: &Turn, identity: &str, api: JudgeApi) -> String {
    id::of(&[identity, &request(turn, api, Dialect::default(), "").to_string()])
}

/// The body of a request. Decoding is greedy, so that the same question gets the same answer if the server supports it.
pub fn request(turn: &Turn, api: JudgeApi, dialect: Dialect, model: &str) -> Value {
    let limit = if dialect.max_completion_tokens { "max_completion_tokens" } else { "max_tokens" };
    let mut body = json!({"model": model, limit: turn.max_tokens});
    if !dialect.no_temperature {
        body["temperature"] = 0.into();
    }
    match api {
        JudgeApi::Chat => {
            body["messages"] = turn.messages();
            if turn.log_probs {
                body["logprobs"] = true.into();
                body["top_logprobs"] = dialect.top_logprobs.into();
            }
        }
        JudgeApi::Completion => {
            body["prompt"] = turn.text().into();
            if turn.log_probs {
                body["logprobs"] = dialect.top_logprobs.into();
            }
        }
    }
    body
}

/// Parses the reply in the body of a successful response. The error says what is wrong with the body.
pub fn reply(body: &Body) -> Result<Reply, String> {
    if let Some(why) = &body.not_json {
        return Err(format!("the body is not JSON ({why})"));
    }
    let choices: Vec<Choice> = body.get("choices").as_array().into_iter().flatten().map(choice).collect();
    if choices.is_empty() {
        return Err("the body has no `choices`".into());
    }
    Ok(Reply {
        choices,
        usage: usage(body.get("usage")),
        model: shown(body.get("model")),
        fingerprint: shown(body.get("system_fingerprint")),
        dialect: Dialect::default(),
    })
}

fn choice(choice: &Value) -> Choice {
    let message = &choice["message"];
    Choice {
        text: content(&message["content"]).or_else(|| content(&choice["text"])).unwrap_or_default(),
        finish: shown(&choice["finish_reason"]),
        refusal: shown(&message["refusal"]),
        reasoning: ["reasoning_content", "reasoning"].iter().find_map(|key| shown(&message[*key])),
        positions: positions(&choice["logprobs"]),
    }
}

/// The beginning of a display-only text.
fn shown(value: &Value) -> Option<String> {
    value.as_str().map(|s| one_line(s, NAME_KEPT)).filter(|s| !s.is_empty())
}

/// The text of a message: a string, or the strings in a list of parts (as Mistral and others send) without reasoning
/// parts.
fn content(value: &Value) -> Option<String> {
    let part = |part: &Value| match part {
        Value::String(text) => Some(text.clone()),
        _ if matches!(part["type"].as_str(), Some("text" | "output_text") | None) => {
            part["text"].as_str().map(str::to_owned)
        }
        _ => None,
    };
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(part).collect()),
        _ => None,
    }
}

fn usage(value: &Value) -> Option<Usage> {
    // Some servers write integers as floats. Values beyond the range saturate, and are rejected as implausible.
    let tokens = |v: &Value| v.as_f64().filter(|n| *n >= 0.0).map(|n| v.as_i64().unwrap_or(n as i64));
    Some(Usage { prompt: tokens(&value["prompt_tokens"])?, completion: tokens(&value["completion_tokens"])? })
}

fn positions(logprobs: &Value) -> Vec<Position> {
    if let Some(content) = logprobs["content"].as_array() {
        let read = |entry: &Value| {
            let pair = |v: &Value| Some((token(v)?, log_prob(v.get("logprob")?)));
            let mut top: Vec<_> = entry["top_logprobs"].as_array().into_iter().flatten().filter_map(pair).collect();
            if top.is_empty() {
                top.extend(pair(entry));
            }
            Some(Position { token: token(entry)?, top })
        };
        return content.iter().take(POSITIONS_KEPT).filter_map(read).collect();
    }
    let Some(tokens) = logprobs["tokens"].as_array() else { return Vec::new() };
    let read = |(i, token): (usize, &Value)| {
        let token = token_text(token)?;
        let listed: Option<&Map<String, Value>> = logprobs["top_logprobs"].get(i).and_then(Value::as_object);
        let mut top: Vec<_> = listed.into_iter().flatten().map(|(t, p)| (t.clone(), log_prob(p))).collect();
        if top.is_empty() {
            top.extend(logprobs["token_logprobs"].get(i).map(|p| (token.clone(), log_prob(p))));
        }
        Some(Position { token, top })
    };
    tokens.iter().enumerate().take(POSITIONS_KEPT).filter_map(read).collect()
}

/// A log-probability. An invalid value becomes an impossible one, which the reader rejects, instead of being dropped:
/// without it, the other answer would win. JSON, and so the journal, cannot represent NaN.
fn log_prob(value: &Value) -> f64 {
    value.as_f64().unwrap_or(1e9)
}

/// The text of an entry's token: decoded from `bytes` if they are valid UTF-8, since `token` may be in the vocabulary's
/// notation.
fn token(entry: &Value) -> Option<String> {
    let byte = |b: &Value| b.as_u64().and_then(|b| u8::try_from(b).ok());
    let bytes: Option<Vec<u8>> = entry["bytes"].as_array().and_then(|bytes| bytes.iter().map(byte).collect());
    let text = bytes.filter(|bytes| !bytes.is_empty()).and_then(|bytes| String::from_utf8(bytes).ok());
    let clean = |text: String| crate::printable::printable(&text);
    text.map(clean).or_else(|| token_text(&entry["token"]))
}

/// A token as text; a number is a token id, written in vLLM's notation.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|id| format!("{TOKEN_ID}{id}")))
}

/// Prefix that vLLM writes before the id of a token in place of its text (`--return-tokens-as-token-ids`).
pub const TOKEN_ID: &str = "token_id:";

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str) -> Result<Reply, String> {
        super::reply(&Body::read(body.as_bytes(), None))
    }

    #[test]
    fn a_chat_reply_is_parsed_completely() {
        let reply = reply(
            r#"{"id": "x", "model": "judge-2", "system_fingerprint": "fp", "choices": [{"index": 0, "finish_reason": "length",
            "message": {"role": "assistant", "content": "A", "refusal": null},
            "logprobs": {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": [
                {"token": "A", "logprob": -0.1}, {"token": "B", "logprob": -2.5}]}]}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}}"#,
        )
        .unwrap();
        assert_eq!(reply.choices[0].text, "A");
        assert_eq!(reply.choices[0].finish.as_deref(), Some("length"));
        assert_eq!(
            reply.choices[0].positions,
            [Position { token: "A".into(), top: vec![("A".into(), -0.1), ("B".into(), -2.5)] }]
        );
        assert_eq!(reply.usage, Some(Usage { prompt: 100, completion: 1 }));
        assert_eq!((reply.model.as_deref(), reply.choices[0].refusal.as_ref()), (Some("judge-2"), None));
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
        assert_eq!(legacy.as_ref().unwrap().choices[0].positions.len(), 1);
        assert_eq!(legacy, chat);
    }

    #[test]
    fn missing_log_probabilities_are_not_guessed() {
        for logprobs in ["null", "{}", "{\"content\": null}", "{\"content\": []}", "{\"tokens\": []}", "[1]"] {
            let body = format!(r#"{{"choices": [{{"message": {{"content": "A"}}, "logprobs": {logprobs}}}]}}"#);
            assert_eq!(reply(&body).unwrap().choices[0].positions, [], "{logprobs}");
        }
    }

    #[test]
    fn every_choice_is_kept_in_its_order() {
        let reply = reply(r#"{"choices": [{"text": "A"}, {"message": {"content": "B"}}, {"text": "A"}]}"#).unwrap();
        let texts: Vec<&str> = reply.choices.iter().map(|c| c.text.as_str()).collect();
        assert_eq!(texts, ["A", "B", "A"]);
    }

    #[test]
    fn bodies_without_a_reply_are_errors() {
        for body in ["", "<html>bad gateway</html>", "{}", "{\"choices\": []}", "[]", "\"A\""] {
            assert!(reply(body).is_err(), "{body}");
        }
        let null = reply(r#"{"choices": [{"message": {"content": null, "refusal": "no"}, "finish_reason": "stop"}]}"#)
            .unwrap()
            .choices
            .remove(0);
        assert_eq!((null.text.as_str(), null.refusal.as_deref()), ("", Some("no")));
    }

    #[test]
    fn content_in_parts_is_read_without_reasoning() {
        let text = |content: &str| {
            reply(&format!(r#"{{"choices": [{{"message": {{"content": {content}}}}}]}}"#))
                .unwrap()
                .choices
                .remove(0)
                .text
        };
        assert_eq!(
            text(
                r#"[{"type": "thinking", "thinking": [{"type": "text", "text": "B?"}]}, {"type": "text", "text": "A"}]"#
            ),
            "A"
        );
        assert_eq!(
            text(r#"[{"type": "text", "text": "The better answer "}, {"type": "text", "text": "is B."}]"#),
            "The better answer is B."
        );
        assert_eq!(text(r#"["A"]"#), "A");
        assert_eq!(text(r#"[{"type": "reasoning", "text": "B"}, {"type": "output_text", "text": "A"}]"#), "A");
        for none in ["[]", "null", "7", "{}", r#"[{"type": "image_url", "image_url": {"url": "A"}}]"#] {
            assert_eq!(text(none), "", "{none}");
        }
        let thought = reply(r#"{"choices": [{"message": {"content": null, "reasoning_content": "A is\nbetter"}}]}"#)
            .unwrap()
            .choices
            .remove(0);
        assert_eq!((thought.text.as_str(), thought.reasoning.as_deref()), ("", Some("A is better")));
    }

    #[test]
    fn tokens_are_decoded_from_bytes_and_ids_are_marked() {
        let tokens = |entry: &str| {
            let body =
                format!(r#"{{"choices": [{{"message": {{"content": "A"}}, "logprobs": {{"content": [{entry}]}}}}]}}"#);
            reply(&body).unwrap().choices[0].positions.first().map(|p| (p.token.clone(), p.top.len()))
        };
        assert_eq!(tokens(r#"{"token": "\u0120A", "logprob": -0.1, "bytes": [32, 65]}"#), Some((" A".into(), 1)));
        assert_eq!(tokens(r#"{"token": "A", "logprob": -0.1, "bytes": [255]}"#), Some(("A".into(), 1)));
        assert_eq!(tokens(r#"{"token": "A", "logprob": -0.1, "bytes": []}"#), Some(("A".into(), 1)));
        assert_eq!(tokens(r#"{"token": 362, "logprob": -0.1}"#), Some(("token_id:362".into(), 1)));
        assert_eq!(tokens(r#"{"token": "A", "logprob": null}"#), Some(("A".into(), 1)));
        assert_eq!(
            tokens(r#"{"token": "A", "prob": 0.8, "top_probs": [{"token": "A", "prob": 0.8}]}"#),
            Some(("A".into(), 0))
        );
    }

    #[test]
    fn usage_may_be_any_kind_of_number_or_absent() {
        let usage =
            |usage: &str| reply(&format!(r#"{{"choices": [{{"text": "A"}}], "usage": {usage}}}"#)).unwrap().usage;
        let some = |prompt, completion| Some(Usage { prompt, completion });
        assert_eq!(usage(r#"{"prompt_tokens": 50, "completion_tokens": 1}"#), some(50, 1));
        assert_eq!(usage(r#"{"prompt_tokens": 50.0, "completion_tokens": 1.0}"#), some(50, 1));
        assert_eq!(
            usage(r#"{"prompt_tokens": 1e300, "completion_tokens": 18446744073709551615}"#),
            some(i64::MAX, i64::MAX)
        );
        for none in [
            "null",
            "{}",
            "[]",
            r#"{"prompt_tokens": -1, "completion_tokens": 1}"#,
            r#"{"prompt_tokens": null, "completion_tokens": 1}"#,
        ] {
            assert_eq!(usage(none), None, "{none}");
        }
    }
}
