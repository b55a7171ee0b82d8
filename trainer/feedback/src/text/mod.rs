//! Text as models see it: tokenizers, chat templates, and the tokens of a conversation.

pub mod chat;
pub mod chat_template;
mod control_tokens;
#[cfg(test)]
pub(crate) mod fixture;
pub mod incremental;
pub mod jinja;
#[cfg(test)]
mod mutations;
pub mod token_bytes;
pub mod tokenizer;
mod tokenizer_config;
mod tokenizer_rules;
