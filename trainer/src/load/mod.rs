//! Models and tokenizers in and out: Hugging Face folders, PEFT adapters, GGUF, chat templates.

pub mod chat;
pub mod chat_template;
pub mod clock;
mod control_tokens;
pub mod gguf;
pub mod hugging_face;
pub mod incremental;
pub mod jinja;
#[cfg(test)]
mod mutations;
pub mod peft;
pub mod save;
pub mod tensor_file;
mod token_bytes;
pub mod tokenizer;
mod tokenizer_config;
mod tokenizer_rules;
