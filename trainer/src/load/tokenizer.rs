//! The tokenizer of a Hugging Face folder (`tokenizer.json`, `tokenizer_config.json`).

use std::path::Path;

use crate::Result;
use crate::data::Message;

/// Text to token ids and back, and conversations to text.
pub struct Tokenizer {}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where present, `tokenizer_config.json` and `generation_config.json` of a folder.
    pub fn load(_folder: &Path) -> Result<Self> {
        todo!()
    }

    /// Token ids of a text. No token is added; special tokens written in the text are recognised.
    pub fn encode(&self, _text: &str) -> Result<Vec<i64>> {
        todo!()
    }

    /// Text of token ids, without special tokens.
    pub fn decode(&self, _ids: &[i64]) -> Result<String> {
        todo!()
    }

    /// The token written by an id, special ones included, as text for logprobs (`bytes` may be a part of a character).
    pub fn token_text(&self, _id: i64) -> String {
        todo!()
    }

    /// Tokens that end a response: of config.json, generation_config.json and the tokenizer, without duplicates.
    pub fn eos_ids(&self) -> &[i64] {
        todo!()
    }

    /// Whether the folder has a chat template.
    pub fn has_chat_template(&self) -> bool {
        todo!()
    }

    /// A conversation as the model's own template writes it.
    pub fn render_chat(&self, _messages: &[Message], _add_generation_prompt: bool) -> Result<String> {
        todo!()
    }
}
