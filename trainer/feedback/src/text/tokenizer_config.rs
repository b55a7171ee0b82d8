//! What a Hugging Face directory states about its tokenizer outside `tokenizer.json` (IO): the special tokens by name,
//! the chat template, the tokens that end a response.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use crate::{Error, Result};

/// The description of a tokenizer.
#[derive(Debug)]
pub(super) struct TokenizerConfig {
    /// Special tokens by their names (`bos_token`).
    pub(super) special_tokens: BTreeMap<String, String>,
    /// The text of the chat template.
    pub(super) chat_template: Option<String>,
    /// Ids that end a response, from `config.json` and `generation_config.json`, in their order.
    pub(super) eos_ids: Vec<i64>,
    /// Vocabulary size of the model, from its `config.json`.
    pub(super) vocabulary: Option<i64>,
}

impl TokenizerConfig {
    /// Reads `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja`, `config.json` and
    /// `generation_config.json` of a directory, each if present.
    ///
    /// # Errors
    /// [`Error::Data`] with the name of a file that is broken.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let mut config = read_object(&folder.join("tokenizer_config.json"))?;
        // As transformers reads it: the map is of older folders, whose configuration has no `added_tokens_decoder`, and
        // there it has the last word.
        let map = read_object(&folder.join("special_tokens_map.json"))?;
        if !config.contains_key("added_tokens_decoder") {
            config.extend(map);
        }
        let chat_template = match read_text(&folder.join("chat_template.jinja"))? {
            Some(text) => Some(text),
            None => chat_template(&config),
        };
        let mut eos_ids = Vec::new();
        let mut vocabulary = None;
        for name in ["config.json", "generation_config.json"] {
            let path = folder.join(name);
            let object = read_object(&path)?;
            let found = object.get("eos_token_id").unwrap_or(&Value::Null);
            eos_ids.extend(ids(found).ok_or_else(|| {
                Error::Data(format!("{}: expected token ids in `eos_token_id`, found {found}", path.display()))
            })?);
            vocabulary = vocabulary.or_else(|| object.get("vocab_size").and_then(Value::as_i64));
        }
        Ok(Self { special_tokens: special_tokens(&config), chat_template, eos_ids, vocabulary })
    }
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::Data(format!("{}: {e}", path.display()))),
    }
}

/// The object in a JSON file; empty if the file does not exist.
fn read_object(path: &Path) -> Result<Map<String, Value>> {
    let Some(text) = read_text(path)? else { return Ok(Map::new()) };
    serde_json::from_str(&text).map_err(|e| Error::Data(format!("{}: expected a JSON object: {e}", path.display())))
}

/// A token id or a list of them; none for anything else.
fn ids(value: &Value) -> Option<Vec<i64>> {
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(items) => items.iter().map(Value::as_i64).collect(),
        one => Some(vec![one.as_i64()?]),
    }
}

/// The entries that name a token: its text, or an object with the text as `content`.
fn special_tokens(config: &Map<String, Value>) -> BTreeMap<String, String> {
    config
        .iter()
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| {
            let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((name.clone(), text.to_owned()))
        })
        .collect()
}

/// The template in `tokenizer_config.json`: a single one, or the one named `default` in a list.
fn chat_template(config: &Map<String, Value>) -> Option<String> {
    let value = config.get("chat_template")?;
    let default = || value.as_array()?.iter().find(|t| t.get("name").and_then(Value::as_str) == Some("default"));
    let text = value.as_str().or_else(|| default()?.get("template")?.as_str())?;
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(files: &[(&str, Value)]) -> Result<TokenizerConfig> {
        let folder = tempfile::tempdir().unwrap();
        for (name, value) in files {
            std::fs::write(folder.path().join(name), value.to_string()).unwrap();
        }
        TokenizerConfig::read(folder.path())
    }

    fn bos(files: &[(&str, Value)]) -> Option<String> {
        read(files).unwrap().special_tokens.remove("bos_token")
    }

    #[test]
    fn special_tokens_are_read_from_where_transformers_reads_them() {
        let map = ("special_tokens_map.json", json!({"bos_token": {"content": "<map>", "lstrip": false}}));
        let config = ("tokenizer_config.json", json!({"bos_token": "<config>"}));
        let newer = ("tokenizer_config.json", json!({"bos_token": "<config>", "added_tokens_decoder": {}}));
        let nameless = ("tokenizer_config.json", json!({"added_tokens_decoder": {}}));
        assert_eq!(bos(std::slice::from_ref(&map)).as_deref(), Some("<map>"));
        assert_eq!(bos(std::slice::from_ref(&config)).as_deref(), Some("<config>"));
        assert_eq!(bos(&[config, map.clone()]).as_deref(), Some("<map>"));
        assert_eq!(bos(&[newer, map.clone()]).as_deref(), Some("<config>"));
        assert_eq!(bos(&[nameless, map]), None);
    }

    #[test]
    fn a_file_that_is_no_object_is_an_error_with_its_name() {
        for name in ["tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json"] {
            let error = read(&[(name, json!([1]))]).unwrap_err();
            assert!(matches!(&error, Error::Data(text) if text.contains(name)), "{error}");
        }
    }
}
