//! Converts the tokenizer in a GGUF file's metadata to `tokenizer.json` and `tokenizer_config.json`. Pure: header in,
//! JSON out.

use serde_json::{Map, Value, json};

use super::header::Header;
use super::metadata::{Metadata, MetadataError};

/// The files of a tokenizer, and the generation config with the end tokens.
#[derive(Debug)]
pub struct Vocabulary {
    /// The content of `tokenizer.json`.
    pub tokenizer: Value,
    /// The content of `tokenizer_config.json`, chat template included.
    pub config: Value,
    /// The content of `generation_config.json`.
    pub generation: Value,
}

/// Why a tokenizer cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum VocabularyError {
    /// A metadata entry is missing or invalid.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A kind of tokenizer that would be converted incorrectly.
    #[error("{0}, which is not supported; use the Hugging Face directory of this model instead")]
    Kind(String),
    /// The vocabulary contradicts itself.
    #[error("{0}")]
    Broken(String),
}

/// `tokenizer.ggml.token_type` of a control token (`<|im_end|>`), which ordinary text never produces and decoding
/// skips.
const CONTROL: u64 = 3;
/// `tokenizer.ggml.token_type` of an ordinary token that is matched as a whole before any other processing.
const USER_DEFINED: u64 = 4;

/// Converts the tokenizer.
pub fn read(header: &Header) -> Result<Vocabulary, VocabularyError> {
    let tokens = Metadata::required(header.metadata.texts("tokenizer.ggml.tokens")?, "tokenizer.ggml.tokens")?;
    let special = SpecialTokens::read(header, &tokens)?;
    Ok(Vocabulary {
        tokenizer: tokenizer(header, &tokens, &special)?,
        config: tokenizer_config(header, &special)?,
        generation: generation_config(header)?,
    })
}

fn tokenizer(header: &Header, tokens: &[&str], special: &SpecialTokens) -> Result<Value, VocabularyError> {
    let model = header.metadata.text("tokenizer.ggml.model")?.unwrap_or("not stated");
    if model != "gpt2" {
        return Err(VocabularyError::Kind(format!(
            "the tokenizer's model is {model} (only gpt2, which is byte-level BPE, is supported)"
        )));
    }
    let pre = Metadata::required(header.metadata.text("tokenizer.ggml.pre")?, "tokenizer.ggml.pre")?;
    let pre_tokenizer = pre_tokenizer(pre)?;
    let merges = Metadata::required(header.metadata.texts("tokenizer.ggml.merges")?, "tokenizer.ggml.merges")?;
    let types =
        Metadata::required(header.metadata.integers("tokenizer.ggml.token_type")?, "tokenizer.ggml.token_type")?;
    if types.len() != tokens.len() {
        return Err(VocabularyError::Broken(format!(
            "there are {} tokens and {} token types",
            tokens.len(),
            types.len()
        )));
    }
    let mut vocabulary = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = vocabulary.insert((*token).to_owned(), json!(id)) {
            return Err(VocabularyError::Broken(format!("the token {token:?} has two ids, {first} and {id}")));
        }
    }
    let added: Vec<Value> = tokens
        .iter()
        .zip(&types)
        .enumerate()
        .filter(|(_, (_, kind))| [CONTROL, USER_DEFINED].contains(kind))
        .map(|(id, (token, kind))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == CONTROL})
        })
        .collect();
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer(pre),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(header, special)?,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": merges,
        },
    }))
}

/// The post-processor that adds the start token, the end token or both to every text, or nothing.
fn post_processor(header: &Header, special: &SpecialTokens) -> Result<Value, VocabularyError> {
    let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
    let mut named = Map::new();
    for (name, key) in [("bos_token", "add_bos_token"), ("eos_token", "add_eos_token")] {
        if header.metadata.truth(&format!("tokenizer.ggml.{key}"))? != Some(true) {
            continue;
        }
        let (id, token) = special.named(name).ok_or_else(|| {
            VocabularyError::Broken(format!("tokenizer.ggml.{key} is true, but the vocabulary has no {name}"))
        })?;
        let place = json!({"SpecialToken": {"id": token, "type_id": 0}});
        single.insert(if name == "bos_token" { 0 } else { single.len() }, place);
        named.insert(token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
    }
    if named.is_empty() {
        return Ok(Value::Null);
    }
    let second = json!({"Sequence": {"id": "B", "type_id": 1}});
    let pair: Vec<Value> = single.iter().cloned().chain([second]).collect();
    Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named}))
}

/// The normaliser that runs before splitting: Qwen's tokenizers apply NFC, which their GGUF files do not record.
fn normalizer(pre: &str) -> Value {
    if pre == "qwen2" { json!({"type": "NFC"}) } else { Value::Null }
}

/// How text is split before merges apply. GGUF contains only a name; the rule behind each name is in llama.cpp's
/// `convert_hf_to_gguf_update.py` and the Hugging Face tokenizers it refers to.
fn pre_tokenizer(name: &str) -> Result<Value, VocabularyError> {
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    match name {
        "gpt-2" => Ok(bytes),
        "smollm" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            Ok(json!({"type": "Sequence", "pretokenizers": [digits, bytes]}))
        }
        "qwen2" => {
            let bytes =
                json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
            let words = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
            Ok(json!({"type": "Sequence", "pretokenizers": [words, bytes]}))
        }
        other => Err(VocabularyError::Kind(format!(
            "unsupported pre-tokenizer {other} (only gpt-2, smollm and qwen2 are supported)"
        ))),
    }
}

/// The splitting rule of Qwen2 and Qwen3: contractions, letters after an optional symbol, single digits, symbols, line
/// ends, spaces.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Special tokens: name, id and text.
struct SpecialTokens<'a>(Vec<(&'static str, u64, &'a str)>);

impl<'a> SpecialTokens<'a> {
    fn read(header: &Header, tokens: &[&'a str]) -> Result<Self, VocabularyError> {
        let mut found = Vec::new();
        for (name, key) in [
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("eot_token", "eot"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
        ] {
            let key = format!("tokenizer.ggml.{key}_token_id");
            if let Some(id) = header.metadata.integer(&key)? {
                let token = usize::try_from(id).ok().and_then(|id| tokens.get(id));
                let outside =
                    || VocabularyError::Broken(format!("{key} is {id} and there are {} tokens", tokens.len()));
                let token = *token.ok_or_else(outside)?;
                // transformers has no name for the end-of-turn token; generation_config.json has its id.
                if name != "eot_token" {
                    found.push((name, id, token));
                }
            }
        }
        Ok(Self(found))
    }

    fn named(&self, wanted: &str) -> Option<(u64, &'a str)> {
        self.0.iter().find(|(name, ..)| *name == wanted).map(|(_, id, token)| (*id, *token))
    }
}

fn tokenizer_config(header: &Header, special: &SpecialTokens) -> Result<Value, VocabularyError> {
    let mut config = Map::new();
    // This class uses tokenizer.json as it is; the model's own class would build its own splitting rules.
    config.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
    config.extend(special.0.iter().map(|(name, _, token)| ((*name).to_owned(), json!(token))));
    config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
    if let Some(length) = header.metadata.integer("llama.context_length")? {
        config.insert("model_max_length".to_owned(), json!(length));
    }
    if let Some(template) = header.metadata.text("tokenizer.chat_template")? {
        config.insert("chat_template".to_owned(), json!(template));
    }
    Ok(Value::Object(config))
}

fn generation_config(header: &Header) -> Result<Value, VocabularyError> {
    let mut config = Map::new();
    for (name, key) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        if let Some(id) = header.metadata.integer(&format!("tokenizer.ggml.{key}_token_id"))? {
            config.insert(name.to_owned(), json!(id));
        }
    }
    // The model may end a turn with a different token than a document; generation stops at either.
    if let (Some(text), Some(turn)) = (
        header.metadata.integer("tokenizer.ggml.eos_token_id")?,
        header.metadata.integer("tokenizer.ggml.eot_token_id")?,
    ) && text != turn
    {
        config.insert("eos_token_id".to_owned(), json!([text, turn]));
    }
    Ok(Value::Object(config))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::path::Path;

    use plumbline_feedback::clock;
    use plumbline_feedback::data::Message;
    use plumbline_feedback::text::tokenizer::Tokenizer;

    use super::super::GgufFile;
    use super::super::header::tests::Writer;
    use super::*;

    /// Five tokens: end, space, the digits 1 and 2, and their merge.
    pub(crate) fn vocabulary(writer: Writer, pre: &str) -> Writer {
        writer
            .str("tokenizer.ggml.model", "gpt2")
            .str("tokenizer.ggml.pre", pre)
            .strs("tokenizer.ggml.tokens", &["<|end|>", "Ġ", "1", "2", "12"])
            .i32s("tokenizer.ggml.token_type", &[3, 1, 1, 1, 1])
            .strs("tokenizer.ggml.merges", &["1 2"])
            .u32("tokenizer.ggml.bos_token_id", 0)
            .str("tokenizer.chat_template", "{{ messages[0]['content'] }}")
    }

    fn read_writer(writer: Writer) -> Result<Vocabulary, VocabularyError> {
        let bytes = writer.finish();
        read(&Header::parse(&mut &bytes[..], bytes.len() as u64).unwrap())
    }

    fn encode(vocabulary: &Vocabulary, text: &str) -> Vec<u32> {
        let tokenizer: tokenizers::Tokenizer = vocabulary.tokenizer.to_string().parse().unwrap();
        tokenizer.encode(text, false).unwrap().get_ids().to_vec()
    }

    #[test]
    fn smollm_splits_digits_and_gpt_2_merges_them() {
        let smollm = read_writer(vocabulary(Writer::default(), "smollm")).unwrap();
        assert_eq!(encode(&smollm, "12 12<|end|>"), [2, 3, 1, 2, 3, 0]);
        let gpt2 = read_writer(vocabulary(Writer::default(), "gpt-2")).unwrap();
        assert_eq!(encode(&gpt2, "12 12<|end|>"), [4, 1, 4, 0]);
    }

    #[test]
    fn special_tokens_and_the_template_are_in_the_config() {
        let v = read_writer(vocabulary(Writer::default(), "smollm")).unwrap();
        assert_eq!(v.config["bos_token"], "<|end|>");
        assert_eq!(v.config["chat_template"], "{{ messages[0]['content'] }}");
        assert!(v.config.get("eos_token").is_none());
        assert_eq!(v.tokenizer["added_tokens"][0]["special"], true);
        let two = vocabulary(Writer::default(), "smollm")
            .u32("tokenizer.ggml.eos_token_id", 0)
            .u32("tokenizer.ggml.eot_token_id", 4);
        assert_eq!(read_writer(two).unwrap().generation["eos_token_id"], json!([0, 4]));
    }

    #[test]
    fn the_imported_tokenizer_adds_the_same_start_and_end_tokens() {
        let around = |writer: Writer| {
            let vocabulary = read_writer(writer)?;
            let tokenizer: tokenizers::Tokenizer = vocabulary.tokenizer.to_string().parse().unwrap();
            Ok::<_, VocabularyError>(tokenizer.encode("12", true).unwrap().get_ids().to_vec())
        };
        let writer = || vocabulary(Writer::default(), "gpt-2");
        assert_eq!(around(writer()).unwrap(), [4]);
        assert_eq!(around(writer().bool("tokenizer.ggml.add_bos_token", true)).unwrap(), [0, 4]);
        let both = || writer().bool("tokenizer.ggml.add_bos_token", true).bool("tokenizer.ggml.add_eos_token", true);
        assert_eq!(around(both().u32("tokenizer.ggml.eos_token_id", 2)).unwrap(), [0, 4, 2]);
        let error = around(both()).unwrap_err().to_string();
        assert!(error.contains("add_eos_token is true") && error.contains("no eos_token"), "{error}");
    }

    #[test]
    fn tokenizers_that_would_be_converted_incorrectly_are_rejected_by_name() {
        let refusal = |writer: Writer| read_writer(writer).unwrap_err().to_string();
        assert!(refusal(vocabulary(Writer::default(), "llama-bpe")).contains("llama-bpe"));
        let sentencepiece =
            Writer::default().strs("tokenizer.ggml.tokens", &["a"]).str("tokenizer.ggml.model", "llama");
        assert!(refusal(sentencepiece).contains("model is llama"));
        assert!(refusal(Writer::default()).contains("lacks tokenizer.ggml.tokens"));
        let outside = vocabulary(Writer::default(), "smollm").u32("tokenizer.ggml.eos_token_id", 5);
        assert!(refusal(outside).contains("eos_token_id is 5 and there are 5 tokens"));
    }

    /// SmolLM2's tokenizer, from the GGUF file that `make setup` downloads.
    fn smollm2(folder: &Path) -> Tokenizer {
        let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/inputs/SmolLM2-135M-Instruct.Q4_1.gguf");
        assert!(gguf.exists(), "{} is missing; `make setup` fetches it", gguf.display());
        let vocabulary = read(&GgufFile::open(&gguf).unwrap().header).unwrap();
        for (name, value) in [
            ("tokenizer.json", &vocabulary.tokenizer),
            ("tokenizer_config.json", &vocabulary.config),
            ("generation_config.json", &vocabulary.generation),
        ] {
            fs::write(folder.join(name), value.to_string()).unwrap();
        }
        Tokenizer::load(folder).unwrap()
    }

    // The golden file is generated with transformers (tests/parity/golden_tokens.py).
    #[test]
    fn smollm2_encodes_and_decodes_as_transformers_does() {
        let golden: Value = serde_json::from_str(include_str!("../../../../tests/golden/smollm2_tokens.json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = smollm2(folder.path());
        let texts = golden["texts"].as_array().unwrap();
        assert!(texts.len() >= 10);
        for entry in texts {
            let expected: Vec<i64> = serde_json::from_value(entry["ids"].clone()).unwrap();
            let (text, decoded) = (entry["text"].as_str().unwrap(), entry["decoded"].as_str().unwrap());
            let found = tokenizer.encode(text).unwrap();
            assert_eq!(found, expected, "{}", entry["name"]);
            assert_eq!(tokenizer.decode(&found).unwrap(), decoded, "{}", entry["name"]);
            let mut decoder = tokenizer.incremental(None);
            let pieces: String = found.iter().map(|id| decoder.push(*id).unwrap()).collect();
            assert_eq!(pieces, decoded, "{}", entry["name"]);
            let bytes: Vec<u8> = found.iter().flat_map(|id| tokenizer.token_bytes(*id)).collect();
            assert_eq!(bytes, text.as_bytes(), "{}", entry["name"]);
        }
        for entry in golden["chats"].as_array().unwrap() {
            let messages: Vec<Message> = serde_json::from_value(entry["messages"].clone()).unwrap();
            let prompt = entry["add_generation_prompt"].as_bool().unwrap();
            let text = tokenizer.render_chat(&messages, prompt, clock::now()).unwrap();
            assert_eq!(text, entry["text"].as_str().unwrap());
        }
        assert_eq!(tokenizer.eos_ids(), [2]);
    }
}
