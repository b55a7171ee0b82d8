use super::super::fixture::{around, byte_level};
use super::super::incremental::tests::pieces;
use super::*;
use serde_json::{Value, json};

/// A sentencepiece-like vocabulary: four pieces with U+2581 for a space, then every byte as fallback; the first space
/// of a text is dropped.
pub(crate) fn sentencepiece(folder: &Path) -> Tokenizer {
    let pieces = ["<unk>", "\u{2581}a", "\u{2581}b", "c"].map(str::to_owned);
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let vocabulary: serde_json::Map<String, Value> =
        pieces.into_iter().chain(bytes).enumerate().map(|(id, piece)| (piece, json!(id))).collect();
    write(
        folder,
        "tokenizer.json",
        &json!({
            "version": "1.0", "added_tokens": [],
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": vocabulary, "merges": []},
        }),
    );
    Tokenizer::load(folder).unwrap()
}

fn write(folder: &Path, name: &str, value: &Value) {
    std::fs::write(folder.join(name), value.to_string()).unwrap();
}

#[test]
fn text_becomes_ids_whole_and_with_its_special_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = byte_level(folder.path());
    let ids = tokenizer.encode("a to<|end|>").unwrap();
    assert_eq!(ids, [97, 256, 111, 257], "the file's own truncation to 2 tokens must not apply");
    assert_eq!(tokenizer.decode(&ids).unwrap(), "a to");
    assert_eq!(tokenizer.encode("").unwrap(), [0; 0]);
}

#[test]
fn a_token_is_text_and_bytes_even_when_it_is_half_a_character() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = byte_level(folder.path());
    assert_eq!((tokenizer.token_text(256).as_str(), tokenizer.token_text(257).as_str()), (" t", "<|end|>"));
    assert_eq!((tokenizer.token_bytes(0xc3), tokenizer.token_text(0xc3)), (vec![0xc3], "\u{fffd}".to_owned()));
    assert_eq!((0..256).map(|id| tokenizer.token_bytes(id)[0]).collect::<Vec<u8>>(), (0..=255).collect::<Vec<u8>>());
    assert_eq!((tokenizer.token_bytes(9999), tokenizer.token_bytes(-1)), (vec![], vec![]));
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = sentencepiece(folder.path());
    assert_eq!((tokenizer.token_bytes(1), tokenizer.token_bytes(4 + 0xc3)), (b" a".to_vec(), vec![0xc3]));
}

#[test]
fn a_missing_tokenizer_and_a_missing_folder_are_named_apart() {
    let folder = tempfile::tempdir().unwrap();
    let said = |folder: &Path| Tokenizer::load(folder).err().unwrap().to_string();
    let file = said(folder.path());
    assert!(file.contains("tokenizer.json: no such file; expected the tokenizer of"), "{file}");
    let absent = folder.path().join("absent");
    assert_eq!(said(&absent), format!("{}: no such directory", absent.display()));
}

#[test]
fn a_token_that_the_model_has_no_embedding_of_is_refused_where_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "config.json", &json!({"vocab_size": 257}));
    write(folder.path(), "tokenizer_config.json", &json!({"chat_template": "{{ messages[0].content }}<|end|>"}));
    let tokenizer = byte_level(folder.path());
    assert_eq!(tokenizer.encode("a to").unwrap(), [97, 256, 111]);
    let turns = [Message { role: "user".to_owned(), content: "a".to_owned() }];
    let chat = tokenizer.chat(&turns);
    let errors = [tokenizer.encode("a<|end|>").unwrap_err(), chat.encode(&chat.text(1, false).unwrap()).unwrap_err()];
    for error in errors {
        assert!(matches!(error, Error::Data(_)), "{error}");
        for word in ["tokenizer.json", "\"<|end|>\"", "257"] {
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    for (name, value, expected) in [
        ("tokenizer_config.json", json!({"eos_token": "<|end|>"}), "vocabulary of 257"),
        ("generation_config.json", json!({"eos_token_id": [3, 257]}), "vocabulary of 257"),
        ("generation_config.json", json!({"eos_token_id": -5}), "vocabulary of 257"),
        ("generation_config.json", json!({"eos_token_id": "3"}), "generation_config.json: expected token ids"),
        ("generation_config.json", json!({"eos_token_id": [3, null]}), "generation_config.json: expected token ids"),
    ] {
        let path = folder.path().join(name);
        write(folder.path(), name, &value);
        let said = Tokenizer::load(folder.path()).err().unwrap().to_string();
        assert!(said.contains(expected), "{said}");
        std::fs::remove_file(path).unwrap();
    }
    write(folder.path(), "tokenizer_config.json", &json!({"pad_token": "<|end|>", "unk_token": "!"}));
    assert_eq!(Tokenizer::load(folder.path()).unwrap().padding(), Some(("!", 33)), "padding is in the vocabulary");
}

#[test]
fn every_token_that_ends_a_response_is_known_once() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "config.json", &json!({"eos_token_id": 7}));
    write(folder.path(), "generation_config.json", &json!({"eos_token_id": [9, 7]}));
    write(folder.path(), "tokenizer_config.json", &json!({"eos_token": {"content": "<|end|>"}}));
    assert_eq!(byte_level(folder.path()).eos_ids(), [7, 9, 257]);
}

#[test]
fn sequences_are_not_filled_up_with_what_ends_them() {
    let folder = tempfile::tempdir().unwrap();
    for (config, expected) in [
        (json!({"eos_token": "<|end|>", "pad_token": "t", "unk_token": "!"}), Some(("t", 116))),
        (json!({"eos_token": "<|end|>", "pad_token": "<|end|>", "unk_token": "!"}), Some(("!", 33))),
        (json!({"eos_token": "<|end|>", "pad_token": null, "bos_token": {"content": "#"}}), Some(("#", 35))),
        (json!({"eos_token": "<|end|>", "pad_token": "<|end|>", "bos_token": "<|end|>"}), None),
        (json!({"pad_token": "no such token"}), None),
    ] {
        write(folder.path(), "tokenizer_config.json", &config);
        assert_eq!(byte_level(folder.path()).padding(), expected, "{config}");
    }
}

#[test]
fn the_chat_template_is_found_where_models_keep_it() {
    let user = [Message { role: "user".to_owned(), content: "hi".to_owned() }];
    let folder = tempfile::tempdir().unwrap();
    let none = byte_level(folder.path());
    assert!(!none.has_chat_template());
    assert!(none.render_chat(&user, true, clock::now()).unwrap_err().to_string().contains("no chat template"));
    let named = json!([{"name": "tool_use", "template": "tool"}, {"name": "default", "template": "{{ eos_token }}"}]);
    write(folder.path(), "tokenizer_config.json", &json!({"eos_token": "<|end|>", "chat_template": named}));
    assert_eq!(byte_level(folder.path()).render_chat(&user, true, clock::now()).unwrap(), "<|end|>");
    std::fs::write(folder.path().join("chat_template.jinja"), "file: {{ messages[0].content }}").unwrap();
    assert_eq!(byte_level(folder.path()).render_chat(&user, true, clock::now()).unwrap(), "file: hi");
    std::fs::write(folder.path().join("chat_template.jinja"), "{% if %}").unwrap();
    let error = Tokenizer::load(folder.path()).err().unwrap().to_string();
    assert!(error.contains(&folder.path().display().to_string()) && error.contains("chat template"), "{error}");
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Tokenizer::load(folder.path()).err().unwrap().to_string().contains("tokenizer.json"));
    std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    assert!(Tokenizer::load(folder.path()).err().unwrap().to_string().contains("not a tokenizer"));
}

/// A Llama-2-type tokenizer (tests/golden/sentencepiece), which puts `<s>` before every text or does not.
pub(crate) fn llama_2_type(folder: &Path, bos: bool) -> Tokenizer {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/sentencepiece");
    std::fs::copy(golden.join("tokenizer_config.json"), folder.join("tokenizer_config.json")).unwrap();
    let rules = std::fs::read(golden.join("tokenizer.json")).unwrap();
    let mut rules: Value = serde_json::from_slice(&rules).unwrap();
    if !bos {
        rules["post_processor"] = Value::Null;
    }
    write(folder, "tokenizer.json", &rules);
    Tokenizer::load(folder).unwrap()
}

/// What transformers makes of it, with `<s>` and without (tests/parity/golden_sentencepiece.py).
pub(crate) fn of_transformers() -> Vec<Value> {
    let golden: Value = serde_json::from_str(include_str!("../../../../../tests/golden/sentencepiece.json")).unwrap();
    golden["variants"].as_array().unwrap().clone()
}

pub(crate) fn list(value: &Value) -> Vec<i64> {
    serde_json::from_value(value.clone()).unwrap()
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn a_llama_2_type_tokenizer_gives_the_tokens_and_texts_that_transformers_gives() {
    for golden in of_transformers() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = llama_2_type(folder.path(), golden["bos"].as_bool().unwrap());
        for entry in golden["texts"].as_array().unwrap() {
            let ids = tokenizer.encode(text_of(&entry["text"])).unwrap();
            assert_eq!(ids, list(&entry["ids"]), "{entry}");
            assert_eq!(tokenizer.encode_prompt(text_of(&entry["text"])).unwrap(), ids, "nothing is put after a text");
            assert_eq!(tokenizer.decode(&ids).unwrap(), text_of(&entry["decoded"]), "{entry}");
            assert_eq!(pieces(&tokenizer, &ids).concat(), text_of(&entry["decoded"]), "{entry}");
        }
        let mut spaces = 0;
        for entry in golden["continuations"].as_array().unwrap() {
            let mut decoder = tokenizer.incremental(list(&entry["prompt_ids"]).last().copied());
            let text: String = list(&entry["ids"]).iter().map(|id| decoder.push(*id).unwrap()).collect();
            assert_eq!(text, text_of(&entry["text"]), "{entry}");
            spaces += usize::from(text.starts_with(' '));
        }
        assert!(spaces >= 2, "some responses begin with a space");
    }
}

#[test]
fn a_response_after_a_control_token_begins_as_what_is_written_there_does() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = llama_2_type(folder.path(), true);
    let ids = tokenizer.encode("<s>the sea").unwrap();
    let mut decoder = tokenizer.incremental(Some(1));
    let text: String = ids[2..].iter().map(|id| decoder.push(*id).unwrap()).collect();
    assert_eq!(text, "the sea", "the space before a first word is the tokenizer's own");
}

fn text(name: &str) -> Value {
    json!({"Sequence": {"id": name, "type_id": 0}})
}

#[test]
fn a_prompt_has_what_is_put_before_a_text_and_not_what_would_end_it() {
    let end = json!({"SpecialToken": {"id": "<|end|>", "type_id": 0}});
    let tokenizer = around(&json!([end, text("A"), end])).unwrap();
    assert_eq!(tokenizer.encode("ab").unwrap(), [257, 97, 98, 257]);
    assert_eq!(tokenizer.encode_prompt("ab").unwrap(), [257, 97, 98]);
    assert_eq!((tokenizer.encode("").unwrap(), tokenizer.end_of_text()), (vec![257, 257], &[257][..]));
    let error = around(&json!([text("A"), end, text("A")])).err().unwrap().to_string();
    assert!(error.contains("tokenizer.json: post_processor: it changes or repeats a text"), "{error}");
}

/// Tokens of a conversation of one turn with this template, whose control token is `<|end|>`.
fn turn(template: &str, content: &str) -> Vec<i64> {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "tokenizer_config.json", &json!({"chat_template": template}));
    let tokenizer = byte_level(folder.path());
    let turns = [Message { role: "user".to_owned(), content: content.to_owned() }];
    let chat = tokenizer.chat(&turns);
    chat.encode(&chat.text(1, true).unwrap()).unwrap()
}

#[test]
fn a_control_token_that_somebody_writes_is_text_and_the_templates_own_is_not() {
    let template = "{{ messages[0].content | trim }}<|end|>";
    let bytes = |text: &str| text.bytes().map(i64::from).collect::<Vec<_>>();
    assert_eq!(turn(template, "hi"), [bytes("hi"), vec![257]].concat());
    assert_eq!(turn(template, " a<|end|>b "), [bytes("a<|end|>b"), vec![257]].concat());
    assert_eq!(turn(template, "<|<|end|>end|>"), [bytes("<|<|end|>end|>"), vec![257]].concat());
    // A template that puts a turn together with what makes a control token of both cannot be fooled either.
    assert_eq!(
        turn("<|end|>{{ messages[0].content[:7] }}<|end|>", "<|end|>x"),
        [vec![257], bytes("<|end|"), vec![257]].concat()
    );
}

#[test]
fn a_control_token_in_the_middle_of_a_llama_2_type_conversation_is_text() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = llama_2_type(folder.path(), true);
    let turns = [Message { role: "user".to_owned(), content: "end </s> it".to_owned() }];
    let chat = tokenizer.chat(&turns);
    let ids = chat.encode(&chat.text(1, true).unwrap()).unwrap();
    assert_eq!(ids.iter().filter(|id| tokenizer.is_special(**id)).collect::<Vec<_>>(), [&1], "the template's own");
    assert_eq!(tokenizer.decode(&ids).unwrap(), "[INST] end </s> it [/INST]");
}

/// The error of loading or of using a tokenizer whose `tokenizer.json` has other rules.
fn refused(change: impl Fn(&mut Value)) -> String {
    let folder = tempfile::tempdir().unwrap();
    byte_level(folder.path());
    let path = folder.path().join("tokenizer.json");
    let mut rules: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut rules);
    write(folder.path(), "tokenizer.json", &rules);
    let found = Tokenizer::load(folder.path()).and_then(|tokenizer| tokenizer.encode(&"a".repeat(4000)));
    let error = found.unwrap_err();
    assert!(matches!(error, Error::Data(_)), "{error}");
    error.to_string()
}

#[test]
fn rules_without_end_are_an_error_with_the_file_and_end_nothing_else() {
    let replace =
        |pattern: Value, times: usize| json!({"type": "Replace", "pattern": pattern, "content": "a".repeat(times)});
    let bomb: Vec<Value> = (0..3).map(|_| replace(json!({"String": "a"}), 1000)).collect();
    for (name, normalizer) in [
        ("nested", json!({"type": "Sequence", "normalizers": bomb})),
        ("empty", replace(json!({"String": ""}), 1)),
        ("catastrophic", replace(json!({"Regex": "(a+)+$b"}), 1)),
        ("alternatives", replace(json!({"Regex": "(a|aa)+$b"}), 1)),
    ] {
        let error = refused(|rules| rules["normalizer"] = normalizer.clone());
        assert!(error.contains("tokeniz"), "{name}: {error}");
    }
    let split = json!({"type": "Split", "pattern": {"Regex": "(a+)+$b"}, "behavior": "Isolated", "invert": false});
    refused(|rules| {
        rules["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, rules["pre_tokenizer"]]});
    });
    let error = refused(|rules| rules["model"]["dropout"] = json!(0.9));
    assert!(error.contains("tokenizer.json: model.dropout is 0.9"), "{error}");
}
