//! The tokenizer of a Hugging Face folder (`tokenizer.json`, `tokenizer_config.json`).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::Value;
use tokenizers::DecoderWrapper;

use super::chat_template::ChatTemplate;
use super::incremental::IncrementalDecoder;
use crate::data::Message;
use crate::{Error, Result};

/// Text to token ids and back, and conversations to text.
pub struct Tokenizer {
    folder: PathBuf,
    inner: tokenizers::Tokenizer,
    eos_ids: Vec<i64>,
    special_tokens: BTreeMap<String, String>,
    chat_template: Option<ChatTemplate>,
    byte_level: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where present, `tokenizer_config.json`, `chat_template.jinja`, `config.json` and
    /// `generation_config.json` of a folder.
    ///
    /// # Errors
    /// [`Error::Data`] with the file's name when one is missing or broken.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(|e| {
            let hint = "a model folder needs one; sentencepiece models must be converted to it first";
            Error::Data(format!("{}: {e} ({hint})", path.display()))
        })?;
        let config = read_json(&folder.join("tokenizer_config.json"))?;
        let special_tokens = special_tokens(&config);
        let template = match read_text(&folder.join("chat_template.jinja"))? {
            Some(text) => Some(text),
            None => chat_template(&config),
        };
        // The clock is read once, so that a process renders a conversation the same way every time.
        let now = jiff::Zoned::now().datetime();
        let chat_template = template
            .map(|source| ChatTemplate::compile(&source, special_tokens.clone(), now))
            .transpose()
            .map_err(|e| Error::Data(format!("{}: {e}", folder.display())))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| Error::Data(format!("{}: not a tokenizer: {e}", path.display())))?;
        // What a text is cut or filled to is the caller's choice, not the file's.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| Error::Data(format!("{}: {e}", path.display())))?;

        let mut eos_ids = Vec::new();
        for name in ["config.json", "generation_config.json"] {
            eos_ids.extend(ids(read_json(&folder.join(name))?.get("eos_token_id")));
        }
        let eos_token = special_tokens.get("eos_token").and_then(|token| inner.token_to_id(token));
        eos_ids.extend(eos_token.map(i64::from));
        let mut seen = std::collections::BTreeSet::new();
        eos_ids.retain(|id| seen.insert(*id));

        let byte_level = inner.get_decoder().is_some_and(is_byte_level);
        Ok(Self { folder: folder.to_owned(), inner, eos_ids, special_tokens, chat_template, byte_level })
    }

    /// Token ids of a text. No token is added; special tokens written in the text are recognised.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| self.failed("encode", &e))?;
        Ok(encoding.get_ids().iter().copied().map(i64::from).collect())
    }

    /// Text of token ids, without special tokens.
    pub fn decode(&self, ids: &[i64]) -> Result<String> {
        let ids = ids
            .iter()
            .map(|id| u32::try_from(*id).map_err(|_| Error::Data(format!("{id} is no token id"))))
            .collect::<Result<Vec<u32>>>()?;
        self.inner.decode(&ids, true).map_err(|e| self.failed("decode", &e))
    }

    /// Decodes a response token by token.
    pub fn incremental(&self) -> IncrementalDecoder<'_> {
        IncrementalDecoder::new(self)
    }

    /// Whether an id is a token that is left out of a text (an end token).
    pub fn is_special(&self, id: i64) -> bool {
        self.token(id).is_some_and(|token| self.inner.get_added_vocabulary().is_special_token(&token))
    }

    /// The bytes that a token adds to a text whose last token is `before`. Not for special tokens.
    pub(super) fn added_bytes(&self, before: Option<i64>, id: i64) -> Result<Vec<u8>> {
        if self.byte_level || self.token(id).is_some_and(|token| byte_token(&token).is_some()) {
            return Ok(self.token_bytes(id));
        }
        // Other decoders look at what is before a token: at the start of a text its space is dropped.
        let Some(before) = before else { return Ok(self.decode(&[id])?.into_bytes()) };
        let known = self.decode(&[before])?.len();
        let text = self.decode(&[before, id])?;
        Ok(text.as_bytes().get(known..).unwrap_or_default().to_vec())
    }

    /// The token written by an id, special ones included, as text for logprobs. A token that holds a part of a character
    /// has U+FFFD in its place; [`Tokenizer::token_bytes`] has the part itself.
    pub fn token_text(&self, id: i64) -> String {
        String::from_utf8_lossy(&self.token_bytes(id)).into_owned()
    }

    /// The bytes a token stands for, special ones included. Empty for an id that the vocabulary does not have.
    pub fn token_bytes(&self, id: i64) -> Vec<u8> {
        let Some(token) = self.token(id) else { return Vec::new() };
        if self.byte_level {
            let bytes: Option<Vec<u8>> = token.chars().map(|c| BYTES.get(&c).copied()).collect();
            bytes.unwrap_or_else(|| token.into_bytes())
        } else if let Some(byte) = byte_token(&token) {
            vec![byte]
        } else {
            token.replace('\u{2581}', " ").into_bytes()
        }
    }

    /// Tokens that end a response: of config.json, generation_config.json and the tokenizer, without duplicates.
    pub fn eos_ids(&self) -> &[i64] {
        &self.eos_ids
    }

    /// A token to fill up sequences with that ends none of them, and its id: the padding token if it is one, else the token
    /// for unknown text or the first of a text. None if there is no such token.
    pub fn padding(&self) -> Option<(&str, i64)> {
        ["pad_token", "unk_token", "bos_token"].iter().find_map(|name| {
            let token = self.special_tokens.get(*name)?;
            let id = i64::from(self.inner.token_to_id(token)?);
            (!self.eos_ids.contains(&id)).then_some((token.as_str(), id))
        })
    }

    /// Whether the folder has a chat template.
    pub fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }

    /// A conversation as the model's own template writes it.
    ///
    /// # Errors
    /// [`Error::Data`] when the folder has no template or the template refuses the conversation.
    pub fn render_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let template = self.chat_template.as_ref().ok_or_else(|| {
            let advice = "give prompts as text, or take a model that was tuned for conversations";
            Error::Data(format!("{}: the model has no chat template; {advice}", self.folder.display()))
        })?;
        template
            .render(messages, add_generation_prompt)
            .map_err(|e| Error::Data(format!("{}: {e}", self.folder.display())))
    }

    fn token(&self, id: i64) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    fn failed(&self, what: &str, error: &tokenizers::Error) -> Error {
        Error::Data(format!("{}: the tokenizer cannot {what}: {error}", self.folder.display()))
    }
}

/// The bytes that stand behind the printable characters of a byte-level vocabulary (GPT-2): printable Latin-1 characters are
/// themselves, and the 68 others are U+0100 onwards in order.
static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0..=255u8).filter(|b| !printable(b)).zip('\u{100}'..).map(|(byte, c)| (c, byte));
    (0..=255u8).filter(printable).map(|byte| (char::from(byte), byte)).chain(others).collect()
});

/// The byte of a fallback token (`<0x0A>`).
fn byte_token(token: &str) -> Option<u8> {
    u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(is_byte_level),
        _ => false,
    }
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::Data(format!("{}: {e}", path.display()))),
    }
}

/// The content of a JSON file; null where there is none.
fn read_json(path: &Path) -> Result<Value> {
    let Some(text) = read_text(path)? else { return Ok(Value::Null) };
    serde_json::from_str(&text).map_err(|e| Error::Data(format!("{}: {e}", path.display())))
}

/// A token id or a list of them.
fn ids(value: Option<&Value>) -> Vec<i64> {
    match value {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_i64).collect(),
        Some(one) => one.as_i64().into_iter().collect(),
        None => Vec::new(),
    }
}

/// The entries of `tokenizer_config.json` that name a token: its text, or an object with the text as `content`.
fn special_tokens(config: &Value) -> BTreeMap<String, String> {
    let Some(entries) = config.as_object() else { return BTreeMap::new() };
    entries
        .iter()
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| {
            let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((name.clone(), text.to_owned()))
        })
        .collect()
}

/// The template in `tokenizer_config.json`: one, or the one named `default` of a list.
fn chat_template(config: &Value) -> Option<String> {
    let value = config.get("chat_template")?;
    let default = || value.as_array()?.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
    let text = value.as_str().or_else(|| default()?.get("template")?.as_str())?;
    Some(text.to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::incremental::tests::pieces;
    use super::*;
    use serde_json::json;

    /// A byte-level vocabulary: every byte by itself (id = its value), one merge, and an end token.
    pub(crate) fn byte_level(folder: &Path) -> Tokenizer {
        let mut chars: Vec<(u8, char)> = BYTES.iter().map(|(c, b)| (*b, *c)).collect();
        chars.sort_unstable();
        let mut vocabulary: serde_json::Map<String, Value> =
            chars.iter().map(|(byte, c)| (c.to_string(), json!(byte))).collect();
        vocabulary.insert("Ġt".to_owned(), json!(256));
        let split = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        write(
            folder,
            "tokenizer.json",
            &json!({
                "version": "1.0",
                "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
                "added_tokens": [{"id": 257, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true}],
                "pre_tokenizer": split, "decoder": split,
                "model": {"type": "BPE", "vocab": vocabulary, "merges": ["Ġ t"]},
            }),
        );
        Tokenizer::load(folder).unwrap()
    }

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
        assert_eq!(
            (0..256).map(|id| tokenizer.token_bytes(id)[0]).collect::<Vec<u8>>(),
            (0..=255).collect::<Vec<u8>>()
        );
        assert_eq!((tokenizer.token_bytes(9999), tokenizer.token_bytes(-1)), (vec![], vec![]));
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = sentencepiece(folder.path());
        assert_eq!((tokenizer.token_bytes(1), tokenizer.token_bytes(4 + 0xc3)), (b" a".to_vec(), vec![0xc3]));
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
        assert!(none.render_chat(&user, true).unwrap_err().to_string().contains("no chat template"));
        let named =
            json!([{"name": "tool_use", "template": "tool"}, {"name": "default", "template": "{{ eos_token }}"}]);
        write(folder.path(), "tokenizer_config.json", &json!({"eos_token": "<|end|>", "chat_template": named}));
        assert_eq!(byte_level(folder.path()).render_chat(&user, true).unwrap(), "<|end|>");
        std::fs::write(folder.path().join("chat_template.jinja"), "file: {{ messages[0].content }}").unwrap();
        assert_eq!(byte_level(folder.path()).render_chat(&user, true).unwrap(), "file: hi");
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

    /// SmolLM2's tokenizer, out of the GGUF file that `make setup` fetches.
    fn smollm2(folder: &Path) -> Tokenizer {
        let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/inputs/SmolLM2-135M-Instruct.Q4_1.gguf");
        assert!(gguf.exists(), "{} is missing; `make setup` fetches it", gguf.display());
        let gguf = crate::load::gguf::GgufFile::open(&gguf).unwrap();
        let vocabulary = crate::load::gguf::vocabulary::read(&gguf.header).unwrap();
        write(folder, "tokenizer.json", &vocabulary.tokenizer);
        write(folder, "tokenizer_config.json", &vocabulary.config);
        write(folder, "generation_config.json", &vocabulary.generation);
        Tokenizer::load(folder).unwrap()
    }

    // The golden file is made by transformers (tests/parity/golden_tokens.py).
    #[test]
    fn smollm2_gives_the_tokens_texts_and_conversations_that_transformers_gives() {
        let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/smollm2_tokens.json")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = smollm2(folder.path());
        let texts = golden["texts"].as_array().unwrap();
        assert!(texts.len() >= 10);
        for entry in texts {
            let expected: Vec<i64> = serde_json::from_value(entry["ids"].clone()).unwrap();
            let found = tokenizer.encode(entry["text"].as_str().unwrap()).unwrap();
            assert_eq!(found, expected, "{}", entry["name"]);
            assert_eq!(tokenizer.decode(&found).unwrap(), entry["decoded"].as_str().unwrap(), "{}", entry["name"]);
            assert_eq!(pieces(&tokenizer, &found).concat(), entry["decoded"].as_str().unwrap(), "{}", entry["name"]);
            let bytes: Vec<u8> = found.iter().flat_map(|id| tokenizer.token_bytes(*id)).collect();
            assert_eq!(bytes, entry["text"].as_str().unwrap().as_bytes(), "{}", entry["name"]);
        }
        for entry in golden["chats"].as_array().unwrap() {
            let messages: Vec<Message> = serde_json::from_value(entry["messages"].clone()).unwrap();
            let prompt = entry["add_generation_prompt"].as_bool().unwrap();
            assert_eq!(tokenizer.render_chat(&messages, prompt).unwrap(), entry["text"].as_str().unwrap());
        }
        assert_eq!(tokenizer.eos_ids(), [2]);
    }
}
