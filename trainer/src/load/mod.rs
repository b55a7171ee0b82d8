//! Models and tokenizers in and out: Hugging Face folders, PEFT adapters, GGUF, chat templates.

pub mod chat_template;
pub mod gguf;
pub mod hugging_face;
pub mod incremental;
pub mod peft;
pub mod tokenizer;
