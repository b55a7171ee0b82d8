//! The parts of a response as they are sampled.

use crate::data::responses::Finish;

/// An update of one sequence.
#[derive(Debug, PartialEq)]
pub struct Update {
    /// Index of the job in the request.
    pub sequence: usize,
    /// Text to append.
    pub text: String,
    /// Tokens to append, if requested.
    pub tokens: Vec<Scored>,
    /// Set with the last update of the sequence.
    pub end: Option<End>,
}

impl Update {
    /// Whether it adds nothing.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.tokens.is_empty() && self.end.is_none()
    }
}

/// How a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The finish reason.
    pub finish: Finish,
    /// Number of sampled tokens, including the end token and a stop string.
    pub sampled: usize,
}

/// A sampled token and its log-probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// Token id.
    pub token: i64,
    /// Natural log-probability.
    pub logprob: f32,
    /// The most likely tokens, most likely first.
    pub top: Vec<(i64, f32)>,
    /// Offset of the token's text in the response, in characters. Tokens that are parts of one character share its
    /// offset; a token without text has the offset of the text after it.
    pub offset: usize,
}
