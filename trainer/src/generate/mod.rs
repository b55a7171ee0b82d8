//! Sampling text from a decoder.

pub mod engine;

use crate::Result;
use crate::load::tokenizer::Tokenizer;
use crate::model::decoder::Decoder;
use plumbline_crds::source::Sampling;

/// Why a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model's end token.
    Eos,
    /// A stop string.
    Stop,
    /// The limit of new tokens, or of the context.
    Length,
}

/// A sampled response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Token ids, the end token included when there is one.
    pub tokens: Vec<i64>,
    /// Text, without the end token and what follows a stop string.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// Samples `samples` responses for each prompt (token ids). Response `s` of prompt `p` depends on the seed, on the
/// prompt's `key` and on `s` alone, not on which other prompts are in the call.
///
/// `on_progress(done)` is called with the number of finished responses; returning an error stops the sampling.
pub fn generate(
    _model: &Decoder,
    _tokenizer: &Tokenizer,
    _prompts: &[PromptTokens],
    _samples: usize,
    _sampling: &Sampling,
    _on_progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Vec<Response>>> {
    todo!()
}

/// A tokenised prompt.
#[derive(Clone, Debug)]
pub struct PromptTokens {
    /// Seeds the prompt's samples; the same key and seed give the same responses.
    pub key: u64,
    /// Token ids.
    pub tokens: Vec<i64>,
}
