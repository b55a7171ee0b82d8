//! Texts (IO): what SFT learns from, and texts with a reference label that a reward model is checked against.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::jsonl::{self, Next};
use crate::{Error, Result};

/// A text.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Its reference label: larger is better (1 and 0 for good and bad).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<f64>,
}

/// Reads a `.jsonl` file of objects with `text` and, where there is one, `label` (a number). Other fields are ignored.
pub fn read(path: &Path) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    jsonl::lines(path, &mut |line| {
        let text: Text = jsonl::parse(line)?;
        if text.text.is_empty() {
            return Err("`text` is empty".into());
        }
        texts.push(text);
        Ok(Next::Line)
    })?;
    if texts.is_empty() {
        return Err(Error::Data(format!("{}: has no text; expected one JSON object a line", path.display())));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_keep_their_labels_and_a_bad_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts.jsonl");
        std::fs::write(&path, "{\"text\": \"good\", \"label\": 1}\n\n{\"text\": \"plain\", \"source\": \"x\"}\r\n")
            .unwrap();
        let texts = read(&path).unwrap();
        assert_eq!(texts, [Text { text: "good".into(), label: Some(1.0) }, Text { text: "plain".into(), label: None }]);
        std::fs::write(&path, "{\"text\": \"good\"}\n{\"txt\": 1}\n").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("texts.jsonl:2: column 10: missing field `text`"), "{error}");
    }
}
