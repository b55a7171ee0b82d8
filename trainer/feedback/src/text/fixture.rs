//! Tokenizers for tests; also compiled into the trainer's tests.

use std::path::Path;

use plumbline_feedback::Result;
use plumbline_feedback::text::token_bytes::BYTES;
use plumbline_feedback::text::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// A byte-level vocabulary: every byte by itself (id = its value), one merge, and an end token.
pub(crate) fn byte_level(folder: &Path) -> Tokenizer {
    let mut chars: Vec<(u8, char)> = BYTES.iter().map(|(c, b)| (*b, *c)).collect();
    chars.sort_unstable();
    let mut vocabulary: serde_json::Map<String, Value> =
        chars.iter().map(|(byte, c)| (c.to_string(), json!(byte))).collect();
    vocabulary.insert("Ġt".to_owned(), json!(256));
    let split = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let rules = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "added_tokens": [{"id": 257, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "pre_tokenizer": split, "decoder": split,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": ["Ġ t"]},
    });
    std::fs::write(folder.join("tokenizer.json"), rules.to_string()).unwrap();
    Tokenizer::load(folder).unwrap()
}

/// A tokenizer whose post-processor puts tokens around a text, as JSON lists the parts.
pub(crate) fn around(single: &Value) -> Result<Tokenizer> {
    let folder = tempfile::tempdir().unwrap();
    byte_level(folder.path());
    let path = folder.path().join("tokenizer.json");
    let mut rules: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let of = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let end = json!({"<|end|>": {"id": "<|end|>", "ids": [257], "tokens": ["<|end|>"]}});
    rules["post_processor"] =
        json!({"type": "TemplateProcessing", "single": single, "pair": [of("A"), of("B")], "special_tokens": end});
    std::fs::write(path, rules.to_string()).unwrap();
    Tokenizer::load(folder.path())
}
