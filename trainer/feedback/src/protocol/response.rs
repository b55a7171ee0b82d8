//! Replies of `/v1/completions` and `/v1/chat/completions`, complete and in chunks. Computes.

use std::sync::Arc;

use serde::Serialize;

use super::logprobs::Logprobs;
use super::update::{End, Scored, Update};
use crate::data::responses::Finish;
use crate::text::tokenizer::Tokenizer;

/// The API that a reply belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Api {
    Completions,
    Chat,
}

/// Formats the replies to one request.
pub struct Writer {
    /// Which API.
    pub api: Api,
    /// The reply's id.
    pub id: String,
    /// When the request was received, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Identifies the build: for the same seed, replies with different fingerprints may differ.
    pub fingerprint: &'static str,
    /// Maximum number of log-probabilities per position; none if they are not written.
    pub logprobs: Option<usize>,
    /// Whether chunks have a `usage` field.
    pub include_usage: bool,
    /// Formats tokens.
    pub tokenizer: Arc<Tokenizer>,
}

/// Token counts of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of each prompt, counted once however many samples it has.
    pub prompt_tokens: usize,
    /// Sampled tokens, including end tokens and stop strings.
    pub completion_tokens: usize,
    /// The sum of both.
    pub total_tokens: usize,
}

impl Usage {
    /// The usage with these token counts.
    pub fn new(prompt_tokens: usize, completion_tokens: usize) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// A finished sequence.
#[derive(Debug, PartialEq)]
pub struct Sequence {
    /// All of its text.
    pub text: String,
    /// All of its tokens, if requested.
    pub tokens: Vec<Scored>,
    /// How it ended.
    pub end: End,
}

/// A reply, or a chunk of one.
#[derive(Debug, Serialize)]
pub struct Reply {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: &'static str,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Stated::is_absent")]
    usage: Stated,
}

/// The usage in a reply or chunk.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
enum Stated {
    /// A chunk of a stream without usage.
    Absent,
    /// A chunk before the last one: `null`.
    Later,
    Now(Usage),
}

impl Stated {
    fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    #[serde(flatten)]
    content: Content,
    logprobs: Option<Logprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Content {
    Text(String),
    Message(ChatMessage),
    Delta(ChatMessage),
}

#[derive(Debug, Default, Serialize)]
struct ChatMessage {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl Writer {
    /// The reply to a request without streaming: every sequence, in order.
    pub fn whole(&self, sequences: Vec<Sequence>, prompt_tokens: usize) -> Reply {
        let completion_tokens = sequences.iter().map(|s| s.end.sampled).sum();
        let choices = sequences.into_iter().enumerate().map(|(index, sequence)| Choice {
            index,
            logprobs: self.spell(&sequence.tokens),
            finish_reason: Some(finish_reason(sequence.end.finish)),
            content: match self.api {
                Api::Completions => Content::Text(sequence.text),
                Api::Chat => Content::Message(ChatMessage { role: Some("assistant"), content: Some(sequence.text) }),
            },
        });
        let object = match self.api {
            Api::Completions => "text_completion",
            Api::Chat => "chat.completion",
        };
        self.reply(object, choices.collect(), Stated::Now(Usage::new(prompt_tokens, completion_tokens)))
    }

    /// The first chunk of each of `count` sequences of a chat; for completions there are none.
    pub fn opening(&self, count: usize) -> Vec<Reply> {
        let count = if self.api == Api::Chat { count } else { 0 };
        let open = |index| {
            let delta = ChatMessage { role: Some("assistant"), content: Some(String::new()) };
            self.chunk(Choice { index, content: Content::Delta(delta), logprobs: None, finish_reason: None })
        };
        (0..count).map(open).collect()
    }

    /// The chunks of an update: its text, then its end.
    pub fn chunks(&self, update: Update) -> Vec<Reply> {
        let Update { sequence: index, text, tokens, end } = update;
        let mut chunks = Vec::with_capacity(2);
        if !text.is_empty() || !tokens.is_empty() {
            let content = self.delta(Some(text));
            chunks.push(self.chunk(Choice { index, content, logprobs: self.spell(&tokens), finish_reason: None }));
        }
        if let Some(end) = end {
            let finish_reason = Some(finish_reason(end.finish));
            chunks.push(self.chunk(Choice { index, content: self.delta(None), logprobs: None, finish_reason }));
        }
        chunks
    }

    /// The last chunk, if usage was requested.
    pub fn usage(&self, usage: Usage) -> Option<Reply> {
        self.include_usage.then(|| self.reply(self.chunk_object(), Vec::new(), Stated::Now(usage)))
    }

    fn spell(&self, tokens: &[Scored]) -> Option<Logprobs> {
        self.logprobs.map(|most| Logprobs::new(self.api, &self.tokenizer, tokens, most))
    }

    fn delta(&self, text: Option<String>) -> Content {
        match self.api {
            Api::Completions => Content::Text(text.unwrap_or_default()),
            Api::Chat => Content::Delta(ChatMessage { role: None, content: text }),
        }
    }

    fn chunk(&self, choice: Choice) -> Reply {
        self.reply(self.chunk_object(), vec![choice], if self.include_usage { Stated::Later } else { Stated::Absent })
    }

    fn chunk_object(&self) -> &'static str {
        match self.api {
            Api::Completions => "text_completion",
            Api::Chat => "chat.completion.chunk",
        }
    }

    fn reply(&self, object: &'static str, choices: Vec<Choice>, usage: Stated) -> Reply {
        Reply {
            id: self.id.clone(),
            object,
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: self.fingerprint,
            choices,
            usage,
        }
    }
}

fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Eos | Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use serde_json::{Value, json};

    fn writer(api: Api, logprobs: Option<usize>, include_usage: bool) -> Writer {
        Writer {
            api,
            id: "id".into(),
            created: 7,
            model: "m".into(),
            fingerprint: "f",
            logprobs,
            include_usage,
            tokenizer: Arc::new(Tokenizer::load(fixture::model_folder().path()).unwrap()),
        }
    }

    fn tokens() -> Vec<Scored> {
        vec![
            Scored { token: 99, logprob: -2.5, top: vec![(97, -0.5), (98, -1.5)], offset: 0 },
            Scored { token: 0xC3, logprob: f32::NEG_INFINITY, top: vec![(0xC4, -0.25), (0xC3, -0.75)], offset: 1 },
        ]
    }

    fn sequence() -> Sequence {
        Sequence { text: "c".into(), tokens: tokens(), end: End { finish: Finish::Length, sampled: 2 } }
    }

    fn value(reply: impl Serialize) -> Value {
        serde_json::to_value(reply).unwrap()
    }

    #[test]
    fn a_completion_has_parallel_lists_of_logprobs() {
        assert_eq!(
            value(writer(Api::Completions, Some(2), false).whole(vec![sequence()], 5)),
            json!({
                "id": "id", "object": "text_completion", "created": 7, "model": "m", "system_fingerprint": "f",
                "choices": [{
                    "index": 0,
                    "text": "c",
                    "logprobs": {
                        "tokens": ["c", "\u{FFFD}"],
                        "token_logprobs": [-2.5, -9999.0],
                        "top_logprobs": [{"a": -0.5, "b": -1.5, "c": -2.5}, {"\u{FFFD}": -0.25}],
                        "text_offset": [0, 1],
                    },
                    "finish_reason": "length",
                }],
                "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
            })
        );
    }

    #[test]
    fn a_chat_has_a_list_of_tokens_with_their_bytes() {
        assert_eq!(
            value(writer(Api::Chat, Some(1), false).whole(vec![sequence()], 5)),
            json!({
                "id": "id", "object": "chat.completion", "created": 7, "model": "m", "system_fingerprint": "f",
                "choices": [{
                    "index": 0,
                    "message": {"role": "assistant", "content": "c"},
                    "logprobs": {"content": [
                        {"token": "c", "logprob": -2.5, "bytes": [99],
                         "top_logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97]}]},
                        {"token": "\u{FFFD}", "logprob": -9999.0, "bytes": [0xC3],
                         "top_logprobs": [{"token": "\u{FFFD}", "logprob": -0.25, "bytes": [0xC4]}]},
                    ]},
                    "finish_reason": "length",
                }],
                "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
            })
        );
    }

    #[test]
    fn logprobs_are_null_unless_requested() {
        for api in [Api::Completions, Api::Chat] {
            let reply = value(writer(api, None, false).whole(vec![sequence()], 5));
            assert_eq!(reply["choices"][0]["logprobs"], Value::Null);
        }
    }

    #[test]
    fn a_chat_opens_with_the_role_and_ends_with_a_reason() {
        let writer = writer(Api::Chat, None, false);
        let opening = value(writer.opening(2));
        assert_eq!(
            opening[1]["choices"][0],
            json!({"index": 1, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null})
        );
        assert_eq!(opening[1]["object"], "chat.completion.chunk");
        let end = Some(End { finish: Finish::Stop, sampled: 3 });
        let chunks = value(writer.chunks(Update { sequence: 1, text: "x".into(), tokens: vec![], end }));
        assert_eq!(
            chunks[0]["choices"][0],
            json!({"index": 1, "delta": {"content": "x"}, "logprobs": null, "finish_reason": null})
        );
        assert_eq!(
            chunks[1]["choices"][0],
            json!({"index": 1, "delta": {}, "logprobs": null, "finish_reason": "stop"})
        );
        assert_eq!(chunks.as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_completion_opens_with_text() {
        let writer = writer(Api::Completions, None, false);
        assert!(writer.opening(3).is_empty());
        let chunks = value(writer.chunks(Update { sequence: 0, text: "x".into(), tokens: vec![], end: None }));
        assert_eq!(chunks[0]["choices"][0], json!({"index": 0, "text": "x", "logprobs": null, "finish_reason": null}));
        assert_eq!(chunks[0]["object"], "text_completion");
    }

    #[test]
    fn usage_is_in_the_last_chunk_only_and_only_if_requested() {
        let update = || Update { sequence: 0, text: "x".into(), tokens: vec![], end: None };
        let asked = writer(Api::Chat, None, true);
        assert_eq!(value(asked.chunks(update()))[0]["usage"], Value::Null);
        assert!(value(asked.chunks(update()))[0].as_object().unwrap().contains_key("usage"));
        let last = value(asked.usage(Usage::new(2, 3)).unwrap());
        assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(5)));
        let not_asked = writer(Api::Chat, None, false);
        assert!(!value(not_asked.chunks(update()))[0].as_object().unwrap().contains_key("usage"));
        assert!(not_asked.usage(Usage::new(2, 3)).is_none());
    }
}
