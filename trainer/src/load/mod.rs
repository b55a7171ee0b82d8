//! Loading and saving models: Hugging Face directories, PEFT adapters, GGUF.

pub mod gguf;
pub mod hugging_face;
pub mod peft;
pub mod save;
pub mod tensor_file;
