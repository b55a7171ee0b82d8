//! Token ids of texts, and conversations as a model's template renders them: `tokenize DIRECTORY`, JSON lines in and out.
//! `tests/parity/check_qwen3_tokens.py` compares them with those of transformers.
//!
//! `{"text": ..}` becomes `{"ids": [..], "decoded": ..}`, and `{"messages": [..], "add_generation_prompt": ..}` becomes
//! `{"text": ..}`.

use std::io::{BufRead, Write};
use std::path::Path;

use plumbline_feedback::data::Message;
use plumbline_feedback::text::tokenizer::Tokenizer;
use plumbline_feedback::{Error, clock};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Text { text: String },
    Chat { messages: Vec<Message>, add_generation_prompt: bool },
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: tokenize DIRECTORY")?;
    let tokenizer = Tokenizer::load(Path::new(&folder))?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let found = answer(&tokenizer, serde_json::from_str(&line?)?)?;
        writeln!(out, "{found}")?;
    }
    Ok(())
}

fn answer(tokenizer: &Tokenizer, line: Line) -> Result<Value, Error> {
    match line {
        Line::Text { text } => {
            let ids = tokenizer.encode(&text)?;
            let decoded = tokenizer.decode(&ids)?;
            Ok(json!({"ids": ids, "decoded": decoded}))
        }
        Line::Chat { messages, add_generation_prompt } => {
            Ok(json!({"text": tokenizer.render_chat(&messages, add_generation_prompt, clock::now())?}))
        }
    }
}
