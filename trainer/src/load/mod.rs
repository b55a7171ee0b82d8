//! Models and tokenizers in and out: Hugging Face folders, GGUF, chat templates.

pub mod chat_template;
pub mod gguf;
pub mod hugging_face;
pub mod incremental;
pub mod tokenizer;
