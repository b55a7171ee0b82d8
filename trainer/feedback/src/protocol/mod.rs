//! The OpenAI API as values: parses requests from JSON, and formats replies and errors. Computes; does no IO.
//!
//! Reference: <https://platform.openai.com/docs/api-reference> (completions, chat, models).

pub mod error;
pub mod fields;
#[cfg(test)]
mod fixture;
pub mod input;
mod logprobs;
pub mod request;
pub mod response;
pub mod update;

pub use error::ApiError;
