//! Preference records (IO): TRL's columns `prompt`, `chosen`, `rejected`, plus the probability that the chosen side is
//! better and the provenance of the label.
//!
//! Plain TRL files can be read too: without `p` a label is certain (1), without `prompt_id` the id is computed.

use std::path::{Path, PathBuf};

use plumbline_crds::artifact;
use serde::Serialize;
use serde_json::Value;

use super::fields::{Fields, kind};
use super::jsonl::{self, Next};
use super::provenance::Provenance;
use super::schema::{OneForm, check_prompt, content, refuse_unread};
use super::{Content, Message, prompts, rows, shards};
use crate::{Error, Result};

/// Fraction of the prompts that is held out for validation if a dataset has no split of its own.
const FILE_VALIDATION_FRACTION: f64 = 0.05;
/// Fields of a record.
const KNOWN: [&str; 7] = ["prompt", "chosen", "rejected", "p", "margin", "prompt_id", "provenance"];

/// A labelled pair.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Preference {
    /// The prompt.
    pub prompt: Content,
    /// The better response, in the form of the prompt.
    pub chosen: Content,
    /// The rejected response.
    pub rejected: Content,
    /// Probability that `chosen` is better, 0..=1; above 0.5 in Plumbline's own datasets.
    pub p: f64,
    /// Log-odds of `p`, in nats; none for a hard label, whose log-odds are infinite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// Hash of the prompt. Splits and intervals group records by it.
    pub prompt_id: String,
    /// Provenance of the label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

/// The vote of a probability: 1 above one half, 0 below, and 0.5 at one half.
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
    /// For training.
    Train,
    /// Held out of training.
    Validation,
}

impl Split {
    /// Both splits, in the order of the card.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];

    /// The name in files and cards.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }

    /// Path of its records in a dataset's directory, without the extension.
    pub fn stem(self) -> String {
        format!("data/{}-00000", self.name())
    }
}

/// The training and the validation records: the splits of a dataset's directory. If there are only training data, as in
/// a file, a fraction of the prompts is held out.
pub fn read(path: &Path) -> Result<(Vec<Preference>, Vec<Preference>)> {
    let mut reader = Reader::default();
    let (train, held_out) = files(path)?;
    let train = reader.files(&train)?;
    match held_out {
        Some(held_out) => Ok((train, reader.files(&held_out)?)),
        None => Ok(train.into_iter().partition(|r| !prompts::is_validation(&r.prompt_id, FILE_VALIDATION_FRACTION))),
    }
}

/// The files of the training records, and of the validation records if they have their own files.
fn files(path: &Path) -> Result<(Vec<PathBuf>, Option<Vec<PathBuf>>)> {
    let train = rows::files(path)?;
    if !path.is_dir() {
        return Ok((train, None));
    }
    let mut held_out = shards::of_split(path, Split::Validation.name())?;
    if held_out.is_empty() {
        held_out = shards::of_split(path, "test")?;
    }
    // Plumbline's own datasets are already split.
    let has_own = !held_out.is_empty() || path.join(artifact::MANIFEST).exists();
    Ok((train, has_own.then_some(held_out)))
}

/// Prefixes the error `why` of a record that was read from `path` with its file and line, for which the files are read
/// again.
pub fn locate(path: &Path, record: &Preference, why: &Error) -> Error {
    let of_file = |file: &PathBuf| {
        let mut take = |fields| if preference(fields)? == *record { Err(why.to_string()) } else { Ok(Next::Record) };
        rows::read(file, &KNOWN, &mut take).err()
    };
    let (train, held_out) = files(path).unwrap_or_default();
    let mut all = train.iter().chain(held_out.iter().flatten());
    all.find_map(of_file).unwrap_or_else(|| Error::Data(format!("{}: {why}", path.display())))
}

/// Reads a split of a dataset's directory (`data/<split>-*`, ordered by name). Empty if the split has no file.
pub fn read_split(folder: &Path, split: Split) -> Result<Vec<Preference>> {
    Reader::default().files(&shards::of_split(folder, split.name())?)
}

/// Reads a file of preferences and checks every record.
pub fn read_file(path: &Path) -> Result<Vec<Preference>> {
    Reader::default().files(&[path])
}

/// Writes records to a JSONL file, one per line, and flushes it to disk.
pub fn write_file(path: &Path, records: &[Preference]) -> Result<()> {
    jsonl::write(path, records)
}

#[derive(Default)]
struct Reader {
    form: OneForm,
}

impl Reader {
    fn files<P: AsRef<Path>>(&mut self, files: &[P]) -> Result<Vec<Preference>> {
        let mut records = Vec::new();
        for file in files {
            rows::read(file.as_ref(), &KNOWN, &mut |fields| {
                let record = preference(fields)?;
                self.form.check(&record.prompt)?;
                records.push(record);
                Ok(Next::Record)
            })?;
        }
        Ok(records)
    }
}

fn preference(mut fields: Fields) -> Result<Preference, String> {
    let mut side = |name: &str| content(name, fields.required(name)?);
    let (prompt, chosen, rejected) = (side("prompt")?, side("chosen")?, side("rejected")?);
    check_sides(&prompt, &chosen, &rejected)?;
    if fields.has("p") && fields.left().all(|(name, _)| name != "p") {
        return Err("`p` is null; expected a probability in every record, or in none".into());
    }
    let p = fields.number("p")?.unwrap_or(1.0);
    if !(0.0..=1.0).contains(&p) {
        return Err(format!("`p` is {p}; a probability is between 0 and 1"));
    }
    if p <= 0.5 {
        return Err(format!(
            "`p` is {p}; `chosen` is the better response, so `p` must be above 0.5: swap the two and write {}, or \
             remove a pair without a preference",
            1.0 - p
        ));
    }
    let margin = fields.number("margin")?;
    if let Some(margin) = margin.filter(|margin| *margin < 0.0) {
        return Err(format!("`margin` is {margin}; the log-odds that `chosen` is better cannot be negative"));
    }
    let prompt_id = match fields.take("prompt_id") {
        None => prompt.id(),
        Some(Value::String(id)) if id.is_empty() => prompt.id(),
        Some(Value::String(id)) => id,
        Some(Value::Number(id)) => id.to_string(),
        Some(other) => return Err(format!("`prompt_id` is {}; expected a string or a number", kind(&other))),
    };
    let provenance = fields.take("provenance").map(Provenance::read).transpose()?;
    refuse_unread(&fields)?;
    Ok(Preference { prompt, chosen, rejected, p, margin, prompt_id, provenance })
}

fn check_sides(prompt: &Content, chosen: &Content, rejected: &Content) -> Result<(), String> {
    let texts = [prompt, chosen, rejected].iter().filter(|c| matches!(c, Content::Text(_))).count();
    if texts != 0 && texts != 3 {
        return Err("`prompt`, `chosen` and `rejected` must be three strings or three lists of turns".into());
    }
    check_prompt("prompt", prompt)?;
    for (field, content) in [("chosen", chosen), ("rejected", rejected)] {
        if let Content::Messages(turns) = content
            && !matches!(turns.as_slice(), [Message { role, .. }] if role == "assistant")
        {
            return Err(format!("`{field}` must be a single turn of the assistant; earlier turns belong in `prompt`"));
        }
    }
    if chosen == rejected {
        return Err("`chosen` and `rejected` are equal; a preference needs two different responses".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::provenance::{self, JudgeLabel};
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
    fn records_are_read_back_as_written() {
        let label = |judge: &str| JudgeLabel {
            judge: judge.into(),
            model: "m".into(),
            template: "t".into(),
            weight: 0.5,
            p: 0.75,
            orders: 2,
            conflict: Some(false),
            label_mass: Some(0.1),
        };
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
                version: provenance::VERSION,
                judges: ["j", "k"].map(label).into(),
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
            (r#"{"prompt": "q", "chosen": "a"}"#, "expected the field `rejected`; add it"),
            (r#"{"prompt": "q", "chosen": "a", "rejected": "a"}"#, "are equal"),
            (r#"{"prompt": "q", "chosen": "a", "rejected": "b", "p": 1.5}"#, "`p` is 1.5"),
            (r#"{"prompt": "q", "chosen": "a", "rejected": "b", "p": 0.25}"#, "swap the two and write 0.75"),
            (r#"{"prompt": "q", "chosen": "a", "rejected": "b", "p": 0.5}"#, "`p` is 0.5"),
            (r#"{"prompt": "q", "chosen": "a", "rejected": "b", "p": 0.9, "margin": -3}"#, "`margin` is -3"),
            (r#"{"prompt": "q", "chosen": "a", "rejected": "b", "p": null}"#, "`p` is null"),
            (
                r#"{"prompt": "q", "chosen": "a", "rejected": "b", "provenance": {"judge": "j", "orders": 2}}"#,
                "`provenance`: expected version 2, found 1, which another release of Plumbline writes; label the prompts again",
            ),
            (
                r#"{"prompt": "q", "chosen": "a", "rejected": "b", "provenance": {"version": 3}}"#,
                "`provenance`: expected version 2, found 3",
            ),
            (
                r#"{"prompt": "q", "chosen": "a", "rejected": "b", "p": "0.9"}"#,
                "`p` is the string \"0.9\"; expected a number",
            ),
            (r#"{"prompt": "q", "chosen": null, "rejected": "b"}"#, "`chosen` is null; expected a string or a list"),
            (r#"{"prompt": "q", "chosen": 5, "rejected": "b"}"#, "`chosen` is a number; expected a string or a list"),
            (r#"{"prompt": "q", "chosen": "a", "chosen": "c", "rejected": "b"}"#, "duplicate field `chosen`"),
            (
                r#"{"prompt": "q", "chosen": "a", "rejected": "b", "tools": [{"name": "t"}]}"#,
                "`tools` is not supported",
            ),
            (r#"{"prompt": " ", "chosen": "a", "rejected": "b"}"#, "`prompt` is empty"),
            (
                r#"{"prompt": [{"role": "system", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
                "`prompt` must end with a turn of the user",
            ),
            (
                r#"{"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
                "it ends with a turn of the assistant",
            ),
            (
                r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
                "`chosen[0].tool_calls` is not supported",
            ),
            (
                r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
                "a conversation among texts",
            ),
            (r#"{"prompt": "q", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"}"#, "three strings"),
            (
                r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#,
                "a single turn of the assistant",
            ),
        ] {
            let good = r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#;
            let error = written_and_read(&format!("{good}\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains("p.jsonl:2:") && error.contains(expected), "{line}: {error}");
        }
    }
}
