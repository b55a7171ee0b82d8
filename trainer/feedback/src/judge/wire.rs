//! The OpenAI protocol as JSON: the body of a request, and what a body that came back says. Computes only.
//!
//! Servers differ in what they return for log-probabilities: OpenAI, vLLM, TGI and Ollama answer `/chat/completions`
//! with `logprobs.content[].top_logprobs[]`; `/completions` with parallel lists `logprobs.tokens` and
//! `logprobs.top_logprobs` (llama.cpp answers it in the chat form). Both forms are read from both.

use plumbline_crds::judge::JudgeApi;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::body::Body;
use super::dialect::Dialect;
use super::server_error::one_line;
use super::turn::Turn;
use crate::data::id;

/// Positions whose alternatives are kept: the answer is the first token that is neither white space nor a bracket.
const POSITIONS_KEPT: usize = 4;
/// Characters that are kept of what is only shown: names, and the beginning of reasoning and refusals.
const NAME_KEPT: usize = 200;

/// What a judge answered. It is what the journal keeps, so that a better reader of replies needs no new questions.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct Reply {
    /// Its answers: one, unless several were asked for.
    pub choices: Vec<Choice>,
    /// Tokens that were charged, where the server says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The model that answered, which need not be the one that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// OpenAI's fingerprint of the system behind the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// How the question was written for this server.
    #[serde(default, skip_serializing_if = "Dialect::is_default")]
    pub dialect: Dialect,
}

/// One of the answers of a reply.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct Choice {
    /// Its text.
    pub text: String,
    /// `stop`, `length`, `content_filter` ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish: Option<String>,
    /// The beginning of OpenAI's refusal text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// The beginning of the reasoning that came beside the text. It is never read for a verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Alternatives at the first positions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub positions: Vec<Position>,
}

impl Choice {
    /// What it said, to be shown where it holds no verdict.
    pub fn said(&self) -> Option<&str> {
        let all = [Some(self.text.as_str()), self.refusal.as_deref(), self.reasoning.as_deref()];
        all.into_iter().flatten().find(|text| !text.trim().is_empty())
    }
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

impl Usage {
    /// Both.
    pub fn total(&self) -> i64 {
        self.prompt.saturating_add(self.completion)
    }
}

/// Path below the base URL.
pub fn path(api: JudgeApi) -> &'static str {
    match api {
        JudgeApi::Chat => "chat/completions",
        JudgeApi::Completion => "completions",
    }
}

/// The id of a turn's request to a judge: a hash of who is asked and of everything that is sent. It does not depend on the
/// dialect, so that a reply is bought once.
pub fn request_id(turn: &Turn, identity: &str, api: JudgeApi) -> String {
    id::of(&[identity, &request(turn, api, Dialect::default(), "").to_string()])
}

/// The body of a request. Greedy, so that the same question has the same answer wherever the server allows it.
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

/// The reply in the body of a successful response; an error says what is wrong with the body.
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

/// The beginning of a text that is only shown.
fn shown(value: &Value) -> Option<String> {
    value.as_str().map(|s| one_line(s, NAME_KEPT)).filter(|s| !s.is_empty())
}

/// A text, or the texts of a list of parts (Mistral and others write `content` so); reasoning among the parts is none.
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
    // Some servers write a whole number as a float. What is beyond the type is at its end, and refused as implausible.
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

/// A log-probability. What is none is beyond all of them rather than left out: without it, its rival would be the answer.
/// JSON, and so the journal, has no NaN to say it.
fn log_prob(value: &Value) -> f64 {
    value.as_f64().unwrap_or(1e9)
}

/// The text of an entry's token: its `bytes` where they are a text, since `token` may be written as the vocabulary has it.
fn token(entry: &Value) -> Option<String> {
    let byte = |b: &Value| b.as_u64().and_then(|b| u8::try_from(b).ok());
    let bytes: Option<Vec<u8>> = entry["bytes"].as_array().and_then(|bytes| bytes.iter().map(byte).collect());
    let text = bytes.filter(|bytes| !bytes.is_empty()).and_then(|bytes| String::from_utf8(bytes).ok());
    let clean = |text: String| crate::printable::printable(&text);
    text.map(clean).or_else(|| token_text(&entry["token"]))
}

/// A token as text; one that is a number is an id, written as vLLM writes it.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|id| format!("{TOKEN_ID}{id}")))
}

/// What vLLM writes before the id of a token in place of its text (`--return-tokens-as-token-ids`).
pub const TOKEN_ID: &str = "token_id:";

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(body: &str) -> Result<Reply, String> {
        super::reply(&Body::read(body.as_bytes(), None))
    }

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
    fn an_endpoint_that_ignores_the_request_for_log_probabilities_gives_none_rather_than_a_guess() {
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
    fn bodies_that_hold_no_reply_are_errors() {
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
    fn content_in_parts_is_its_texts_without_the_reasoning_among_them() {
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
    fn tokens_are_their_bytes_where_these_are_a_text_and_ids_say_so() {
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
    fn usage_is_read_as_a_number_of_any_kind_and_as_nothing_where_it_is_none() {
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
