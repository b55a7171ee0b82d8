//! Sampling text from a decoder.

use serde::{Deserialize, Serialize};

pub mod engine;
mod responses;
pub mod sampler;
pub mod stop_strings;

pub use responses::{PromptTokens, Response, generate, longest_prompt};

/// Why a response ended.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum Finish {
    /// The model's end token.
    Eos,
    /// A stop string.
    Stop,
    /// The limit of new tokens, or of the context.
    Length,
}
