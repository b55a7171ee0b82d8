//! The preference record and its JSONL form (IO): TRL's columns `prompt`, `chosen`, `rejected`, and beside them the
//! probability that the chosen side is better and where the label comes from.
//!
//! Plain TRL files are read as well: without `p` a label is taken as certain (1), without `prompt_id` the id is computed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::jsonl::{self, Next};
use super::{Content, Message, prompts};
use crate::{Error, Result};

/// Share of the prompts of a plain JSONL file that is kept for validation.
const FILE_VALIDATION_FRACTION: f64 = 0.05;

/// A labelled pair.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Preference {
    /// What was asked.
    pub prompt: Content,
    /// The better response, in the form of the prompt.
    pub chosen: Content,
    /// The other one.
    pub rejected: Content,
    /// Probability that `chosen` is better, 0..=1; a label of our own is above 0.5.
    #[serde(default = "certain")]
    pub p: f64,
    /// Log-odds of `p`, in nats. A hard label has none: its log-odds are not finite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Hash of the prompt. Records of one prompt belong together: splits and intervals go by it.
    #[serde(default)]
    pub prompt_id: String,
    /// Who labelled it, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

/// Who labelled a pair, and how.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Provenance {
    /// Name of the judge.
    pub judge: String,
    /// Model of the judge.
    pub model: String,
    /// Question template and the hash of its text.
    pub template: String,
    /// In how many orders the pair was asked: 2, 1; 0 for a judge that scores each response on its own.
    pub orders: i32,
    /// Whether the two orders favoured different responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conflict: Option<bool>,
    /// Probability that the judge gave to its two answers together, the mean over its replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_mass: Option<f64>,
    /// Hash of prompt and both responses.
    pub pair_id: String,
    /// Hash of prompt and chosen response.
    pub chosen_id: String,
    /// Hash of prompt and rejected response.
    pub rejected_id: String,
}

fn certain() -> f64 {
    1.0
}

/// What a probability votes for: 1 above one half, 0 below, and 0.5 at one half.
pub fn vote(p: f64) -> f64 {
    if p > 0.5 {
        1.0
    } else if p < 0.5 {
        0.0
    } else {
        0.5
    }
}

/// The two parts of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// To learn from.
    Train,
    /// Kept out of training.
    Validation,
}

impl Split {
    /// Both, in the order of the card.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// The name in files and cards.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }

    /// Where its records stand below a dataset's folder, without the extension.
    pub fn stem(self) -> String {
        format!("data/{}-00000", self.name())
    }
}

/// The training and the validation records of a dataset's folder, or of a JSONL file, which is split by prompt.
pub fn read(path: &Path) -> Result<(Vec<Preference>, Vec<Preference>)> {
    if path.is_dir() {
        return Ok((read_split(path, Split::Train)?, read_split(path, Split::Validation)?));
    }
    let all = read_file(path)?;
    Ok(all.into_iter().partition(|r| !prompts::is_validation(&r.prompt_id, FILE_VALIDATION_FRACTION)))
}

/// Reads a split of a dataset's folder (`data/<split>-*.jsonl`, in order of name). Empty if the split has no file.
pub fn read_split(folder: &Path, split: Split) -> Result<Vec<Preference>> {
    let data = folder.join("data");
    let entries = fs::read_dir(&data).map_err(|e| {
        Error::Data(format!("{}: cannot be read ({e}); expected a dataset with data/train-*.jsonl", data.display()))
    })?;
    let prefix = format!("{}-", split.name());
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::store(&data, &e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with(&prefix) && path.extension().is_some_and(|e| e == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    files.iter().map(|f| read_file(f)).collect::<Result<Vec<_>>>().map(|parts| parts.concat())
}

/// Reads a JSONL file of preferences and checks every record.
pub fn read_file(path: &Path) -> Result<Vec<Preference>> {
    let mut records = Vec::new();
    jsonl::lines(path, &mut |line| {
        let mut record: Preference = jsonl::parse(line)?;
        check(&record)?;
        if record.prompt_id.is_empty() {
            record.prompt_id = record.prompt.id();
        }
        records.push(record);
        Ok(Next::Line)
    })?;
    Ok(records)
}

/// Writes records to a JSONL file, one a line, and forces it to the disk.
pub fn write_file(path: &Path, records: &[Preference]) -> Result<()> {
    jsonl::write(path, records)
}

fn check(record: &Preference) -> Result<(), String> {
    let sides = [("prompt", &record.prompt), ("chosen", &record.chosen), ("rejected", &record.rejected)];
    for (field, content) in sides {
        content.check(field)?;
    }
    let texts = sides.iter().filter(|(_, c)| matches!(c, Content::Text(_))).count();
    if texts != 0 && texts != 3 {
        return Err("`prompt`, `chosen` and `rejected` must be three texts or three lists of turns".into());
    }
    for (field, content) in &sides[1..] {
        if let Content::Messages(turns) = content
            && !matches!(turns.as_slice(), [Message { role, .. }] if role == "assistant")
        {
            return Err(format!("`{field}` must be one turn of the assistant; the turns before it belong to `prompt`"));
        }
    }
    if record.chosen == record.rejected {
        return Err("`chosen` and `rejected` are equal; a preference needs two different responses".into());
    }
    if !(0.0..=1.0).contains(&record.p) {
        return Err(format!("`p` is {}; a probability is between 0 and 1", record.p));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written_and_read(text: &str) -> Result<Vec<Preference>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        fs::write(&path, text).unwrap();
        read_file(&path)
    }

    #[test]
    fn a_plain_trl_file_is_read_as_certain_labels() {
        let rows = written_and_read(r#"{"prompt": "2+2=", "chosen": "4", "rejected": "5", "score": 1}"#).unwrap();
        assert_eq!((rows[0].p, rows[0].margin), (1.0, None));
        assert_eq!(rows[0].prompt_id, Content::Text("2+2=".into()).id());
        let rows = written_and_read(
            r#"{"prompt": [{"role": "user", "content": "2+2?"}], "chosen": [{"role": "assistant", "content": "4"}],
                "rejected": [{"role": "assistant", "content": "5"}], "p": 0.75}"#
                .replace('\n', " ")
                .as_str(),
        )
        .unwrap();
        assert_eq!(rows[0].chosen, rows[0].prompt.answered_by("4"));
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let record = Preference {
            prompt: Content::Text("q\n\u{2028}".into()),
            chosen: Content::Text(" a".into()),
            rejected: Content::Text(String::new()),
            p: 0.812_345_678_901_234_5,
            margin: Some(1.464_123_456_789_012_3),
            prompt_id: "id".into(),
            provenance: Some(Provenance {
                judge: "j".into(),
                model: "m".into(),
                template: "t".into(),
                orders: 2,
                conflict: Some(false),
                label_mass: Some(0.1),
                pair_id: "p".into(),
                chosen_id: "c".into(),
                rejected_id: "r".into(),
            }),
        };
        let path = dir.path().join(Split::Train.stem() + ".jsonl");
        write_file(&path, std::slice::from_ref(&record)).unwrap();
        assert_eq!(read_split(dir.path(), Split::Train).unwrap(), [record]);
        assert!(read_split(dir.path(), Split::Validation).unwrap().is_empty());
    }

    #[test]
    fn broken_records_are_errors_with_file_and_line() {
        for (line, expected) in [
            (r#"{"prompt": "q", "chosen": "a"}"#, "missing field `rejected`"),
            (r#"{"prompt": "q", "chosen": "a", "rejected": "a"}"#, "are equal"),
            (r#"{"prompt": "q", "chosen": "a", "rejected": "b", "p": 1.5}"#, "`p` is 1.5"),
            (r#"{"prompt": "q", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}"#, "three texts"),
            (
                r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
                "one turn of the assistant",
            ),
        ] {
            let good = r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#;
            let error = written_and_read(&format!("{good}\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains("p.jsonl:2:") && error.contains(expected), "{line}: {error}");
        }
    }
}
