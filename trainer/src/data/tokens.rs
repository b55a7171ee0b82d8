//! Prompts and responses as tokens, the same for training, scoring and sampling. Pure but for the tokenizer.
//!
//! A plain-text response continues its prompt and gets no end token: responses are often cut at a length, and an end token
//! that the model did not write would teach it to stop there. In a conversation the model's chat template closes the turn.

use serde::{Deserialize, Serialize};

use crate::data::{Content, Message};
use crate::generate::Finish;
use crate::load::tokenizer::Tokenizer;
use crate::{Error, Result};

/// A prompt and a response to it, tokenised apart: the response's tokens do not depend on how the prompt ends.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub struct Sequence {
    /// Tokens of the prompt, the generation prompt of a chat template included.
    pub prompt: Vec<i64>,
    /// Tokens of the response.
    pub response: Vec<i64>,
}

impl Sequence {
    /// Prompt and response in one.
    pub fn tokens(&self) -> Vec<i64> {
        [self.prompt.as_slice(), &self.response].concat()
    }

    /// Prompt and response as a text that was tokenised would give them, for a reward model, which learnt from texts: the
    /// end token that a model sampled (`finish`) is part of the text only where it closes a turn of a conversation.
    pub fn text_tokens(&self, finish: Finish, conversation: bool) -> Vec<i64> {
        let mut tokens = self.tokens();
        if finish == Finish::Eos && !conversation && self.response.len() > 1 {
            tokens.pop();
        }
        tokens
    }

    /// Tokens in all.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.response.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Tokens of a prompt that is to be answered.
pub fn prompt(tokenizer: &Tokenizer, prompt: &Content) -> Result<Vec<i64>> {
    match prompt {
        Content::Text(text) => tokenizer.encode(text),
        Content::Messages(turns) => tokenizer.encode(&tokenizer.render_chat(turns, true)?),
    }
}

/// Tokens of a prompt to a model of which the longest prompt is known. `field` is the spec field for messages.
pub fn prompt_within(tokenizer: &Tokenizer, content: &Content, longest: usize, field: &str) -> Result<Vec<i64>> {
    let tokens = prompt(tokenizer, content)?;
    if (1..=longest).contains(&tokens.len()) {
        return Ok(tokens);
    }
    let start: String = content.to_text().chars().take(40).collect();
    Err(Error::Data(format!(
        "{field}: expected prompts of 1 to {longest} tokens, so that prompt and response fit the model's context of {}, found {} tokens in the prompt that begins with {start:?}; shorten it or leave it out",
        longest + 1,
        tokens.len()
    )))
}

/// Tokens of a prompt and a response.
pub fn sequence(tokenizer: &Tokenizer, prompt: &Content, response: &Content) -> Result<Sequence> {
    match (prompt, response) {
        (Content::Text(p), Content::Text(r)) => {
            Ok(Sequence { prompt: tokenizer.encode(p)?, response: tokenizer.encode(r)? })
        }
        (Content::Messages(p), Content::Messages(r)) => {
            let before = tokenizer.render_chat(p, true)?;
            let turns: Vec<Message> = p.iter().chain(r).cloned().collect();
            let whole = tokenizer.render_chat(&turns, false)?;
            let after = whole.strip_prefix(&before).ok_or_else(|| {
                Error::Data(
                    "the chat template writes a conversation differently once it is answered; its responses cannot be told from its prompts"
                        .into(),
                )
            })?;
            // What a template writes after the end of the turn (a line break, as a rule) is not sampled by a model.
            Ok(Sequence {
                prompt: tokenizer.encode(&before)?,
                response: tokenizer.encode(after.trim_end_matches('\n'))?,
            })
        }
        _ => Err(Error::Data("expected prompt and response both as text or both as messages".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_token_is_left_out_of_a_plain_text_and_no_token_of_a_conversation() {
        let sequence = |response: &[i64]| Sequence { prompt: vec![1, 2], response: response.to_vec() };
        for (finish, plain) in
            [(Finish::Eos, vec![1, 2, 3]), (Finish::Stop, vec![1, 2, 3, 4]), (Finish::Length, vec![1, 2, 3, 4])]
        {
            assert_eq!(sequence(&[3, 4]).text_tokens(finish, false), plain, "{finish:?}");
            assert_eq!(sequence(&[3, 4]).text_tokens(finish, true), [1, 2, 3, 4], "{finish:?}");
        }
        assert_eq!(sequence(&[4]).text_tokens(Finish::Eos, false), [1, 2, 4], "something is left to score");
    }
}
