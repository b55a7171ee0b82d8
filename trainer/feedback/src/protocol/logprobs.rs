//! Log-probabilities in the formats of the two APIs. Computes.

use serde::{Serialize, Serializer};

use super::response::Api;
use super::update::Scored;
use crate::text::tokenizer::Tokenizer;

/// `logprobs` of a choice.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Logprobs {
    /// Parallel lists; `text_offset` counts characters from the start of the reply's text.
    Completions {
        tokens: Vec<String>,
        token_logprobs: Vec<f32>,
        top_logprobs: Vec<Ranked>,
        text_offset: Vec<usize>,
    },
    Chat {
        content: Vec<ChatToken>,
    },
}

#[derive(Debug, Serialize)]
pub(super) struct ChatToken {
    #[serde(flatten)]
    token: Spelled,
    top_logprobs: Vec<Spelled>,
}

#[derive(Debug, Serialize)]
struct Spelled {
    token: String,
    logprob: f32,
    /// A token that is only part of a character is represented by its bytes.
    bytes: Vec<u8>,
}

/// Tokens by text with their log-probabilities, most likely first.
#[derive(Debug)]
pub(super) struct Ranked(Vec<(String, f32)>);

impl Serialize for Ranked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

impl Logprobs {
    /// Formats tokens and at most `most` alternatives for each.
    pub(super) fn new(api: Api, tokenizer: &Tokenizer, tokens: &[Scored], most: usize) -> Self {
        match api {
            Api::Completions => Self::Completions {
                token_logprobs: tokens.iter().map(|t| finite(t.logprob)).collect(),
                text_offset: tokens.iter().map(|t| t.offset).collect(),
                top_logprobs: tokens.iter().map(|t| Ranked::new(tokenizer, t, most)).collect(),
                tokens: tokens.iter().map(|t| tokenizer.token_text(t.token)).collect(),
            },
            Api::Chat => Self::Chat { content: tokens.iter().map(|t| ChatToken::new(tokenizer, t, most)).collect() },
        }
    }
}

impl ChatToken {
    fn new(tokenizer: &Tokenizer, scored: &Scored, most: usize) -> Self {
        let top = scored.top.iter().take(most);
        Self {
            token: Spelled::new(tokenizer, scored.token, scored.logprob),
            top_logprobs: top.map(|(token, logprob)| Spelled::new(tokenizer, *token, *logprob)).collect(),
        }
    }
}

impl Spelled {
    fn new(tokenizer: &Tokenizer, token: i64, logprob: f32) -> Self {
        let (text, bytes) = (tokenizer.token_text(token), tokenizer.token_bytes(token));
        Self { token: text, logprob: finite(logprob), bytes }
    }
}

impl Ranked {
    /// The most likely tokens, and the sampled one if it is not among them. Of tokens with the same text, only the most
    /// likely one is listed.
    fn new(tokenizer: &Tokenizer, scored: &Scored, most: usize) -> Self {
        let mut ranked: Vec<(String, f32)> = Vec::with_capacity(most + 1);
        for (token, logprob) in scored.top.iter().take(most).chain([&(scored.token, scored.logprob)]) {
            let text = tokenizer.token_text(*token);
            if ranked.iter().all(|(known, _)| *known != text) {
                ranked.push((text, finite(*logprob)));
            }
        }
        Self(ranked)
    }
}

/// JSON has no infinity; OpenAI represents a probability of zero by -9999.
fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn tokenizer() -> Tokenizer {
        Tokenizer::load(fixture::model_folder().path()).unwrap()
    }

    #[test]
    fn logprobs_have_no_more_digits_than_their_precision() {
        let scored = Scored { token: 97, logprob: -0.1, top: vec![], offset: 0 };
        let json = serde_json::to_string(&Logprobs::new(Api::Chat, &tokenizer(), &[scored], 0)).unwrap();
        assert!(json.contains(r#""logprob":-0.1,"#), "{json}");
    }

    #[test]
    fn the_order_of_top_logprobs_is_by_likelihood() {
        let scored = Scored { token: 122, logprob: -9.0, top: vec![(101, -0.5), (98, -1.0), (100, -2.0)], offset: 0 };
        let json = serde_json::to_string(&Ranked::new(&tokenizer(), &scored, 2)).unwrap();
        assert_eq!(json, r#"{"e":-0.5,"b":-1.0,"z":-9.0}"#);
    }
}
