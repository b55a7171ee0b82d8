//! A tokenizer for tests, as files. The tests of the whole server include this file too, so it uses nothing of this
//! crate.

use serde_json::{Map, Value, json};

/// A directory with a byte-level tokenizer: token ids are byte values, 256 (`<|end|>`) ends a response, 257 (`<|pad|>`)
/// has no text. The chat template renders the last message, replaces `TIME` by the time, and rejects conversations that
/// begin with `system`.
pub(crate) fn model_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, value: Value| std::fs::write(folder.path().join(name), value.to_string()).unwrap();
    let split = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    write(
        "tokenizer.json",
        json!({
            "version": "1.0",
            "added_tokens": [special(256, "<|end|>"), special(257, "<|pad|>")],
            "pre_tokenizer": split, "decoder": split,
            "model": {"type": "BPE", "vocab": vocabulary(), "merges": []},
        }),
    );
    let template = "{% if messages[0].role == 'system' %}{{ raise_exception('there is no place for a system message') }}\
        {% endif %}{% if not add_generation_prompt %}{{ raise_exception('the model is to answer') }}{% endif %}\
        {{ messages[-1].content | replace('TIME', strftime_now('%Y-%m-%d %H:%M')) }}";
    write("tokenizer_config.json", json!({"eos_token": "<|end|>", "chat_template": template}));
    folder
}

/// The printable characters that represent bytes in byte-level vocabularies (GPT-2).
fn vocabulary() -> Map<String, Value> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = '\u{100}'..;
    let spelled = |byte: u8| if printable(&byte) { char::from(byte) } else { others.next().unwrap() };
    let characters: Vec<char> = (0..=255).map(spelled).collect();
    characters.iter().enumerate().map(|(byte, c)| (c.to_string(), json!(byte))).collect()
}
