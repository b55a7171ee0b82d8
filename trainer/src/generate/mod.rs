//! Sampling text from a decoder.

pub mod engine;
mod responses;
pub mod sampler;
pub mod stop_strings;

pub use responses::{PromptTokens, Response, generate, longest_prompt};
