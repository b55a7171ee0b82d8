//! The OpenAI API as values: requests parsed from JSON, replies and errors written to it. Computes; knows no sockets.
//!
//! Reference: <https://platform.openai.com/docs/api-reference> (completions, chat, models).

pub mod error;
pub mod fields;
pub mod input;
mod logprobs;
pub mod request;
pub mod response;

pub use error::ApiError;
