//! Texts (IO): training data for SFT, and texts with a reference label for checking a reward model.

use std::path::Path;

use super::fields::Fields;
use super::jsonl::Next;
use super::rows;
use super::schema::refuse_unread;
use crate::{Error, Result};

/// A text.
#[derive(Clone, Debug, PartialEq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Its reference label: larger is better (1 and 0 for good and bad).
    pub label: Option<f64>,
    /// Whether the text is complete, not truncated. A text is complete unless its record has `false`.
    pub complete: bool,
}

/// Reads the records of a file or directory: objects with `text` and optionally `label` (a number) and `complete`.
pub fn read(path: &Path) -> Result<Vec<Text>> {
    let mut texts = Vec::new();
    for file in rows::files(path)? {
        let known: Vec<&str> = ["text", "label", "complete"].into_iter().chain(OTHER_FORMS.iter().copied()).collect();
        rows::read(&file, &known, &mut |record| {
            texts.push(text(record)?);
            Ok(Next::Record)
        })?;
    }
    if texts.is_empty() {
        return Err(Error::Data(format!("{}: has no texts; expected records with `text`", path.display())));
    }
    Ok(texts)
}

/// Fields of records that contain more than `text`.
const OTHER_FORMS: &[&str] =
    &["messages", "conversations", "prompt", "completion", "chosen", "rejected", "instruction"];

fn text(mut record: Fields) -> Result<Text, String> {
    if let Some((name, _)) = record.left().find(|(name, _)| OTHER_FORMS.contains(name)) {
        return Err(format!(
            "`{name}` is not supported: a record is its `text` alone; write the conversation as text, as the model's \
             chat template does"
        ));
    }
    let text = record.text("text")?;
    if text.is_empty() {
        return Err("`text` is empty".into());
    }
    let (label, complete) = (record.number("label")?, record.switch("complete")?.unwrap_or(true));
    refuse_unread(&record)?;
    Ok(Text { text, label, complete })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_their_labels_and_invalid_lines_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("texts.jsonl");
        let lines = [
            r#"{"text": "good", "label": 1}"#,
            "",
            r#"{"text": "plain", "source": "x", "label": null}"#,
            r#"{"text": "cut", "complete": false}"#,
        ];
        std::fs::write(&path, lines.join("\r\n")).unwrap();
        let text = |text: &str, label, complete| Text { text: text.into(), label, complete };
        let expected = [text("good", Some(1.0), true), text("plain", None, true), text("cut", None, false)];
        assert_eq!(read(&path).unwrap(), expected);
        for (line, expected) in [
            (r#"{"txt": 1}"#, "expected the field `text`, found `txt`; rename the field"),
            (r#"{"text": null}"#, "`text` is null; expected a string"),
            (r#"{"text": ""}"#, "`text` is empty"),
            (r#"{"text": "a", "label": true}"#, "`label` is true; expected a number"),
            (r#"{"text": "a", "complete": "no"}"#, "`complete` is a string; expected true or false"),
            (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "`messages` is not supported"),
            (r#"{"text": "a", "prompt": "b"}"#, "`prompt` is not supported"),
        ] {
            std::fs::write(&path, format!("{{\"text\": \"good\"}}\n{line}\n")).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("texts.jsonl:2: ") && error.contains(expected), "{line}: {error}");
        }
    }
}
