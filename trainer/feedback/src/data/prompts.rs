//! Prompts (IO): read from the manifest, a file or a directory, without duplicates, split by prompt.

use std::collections::HashSet;
use std::path::Path;

use plumbline_crds::source::PromptSource;
use serde_json::Value;

use super::fields::Fields;
use super::jsonl::Next;
use super::schema::{OneForm, check_prompt, content, refuse_unread, turns};
use super::{Content, fields, id, rows};
use crate::{Error, Result};

/// A prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Hash of the content.
    pub id: String,
    /// The content.
    pub content: Content,
    /// Tags of the record.
    pub tags: Vec<String>,
}

/// Prompts without duplicates, in their original order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompts {
    /// The prompts: all texts, or all conversations.
    pub prompts: Vec<Prompt>,
    /// Number of duplicates that were skipped.
    pub duplicates: usize,
}

/// Reads prompts. `path`: the local path of the source's `uri`; `field`: the spec field for messages (`spec.prompts`).
pub fn read(source: &PromptSource, path: Option<&Path>, field: &str) -> Result<Prompts> {
    let limit = source.limit.map_or(usize::MAX, |l| l as usize);
    let found = Prompts { prompts: Vec::new(), duplicates: 0 };
    let mut reader = Reader { limit, seen: HashSet::new(), form: OneForm::default(), found };
    match (&source.inline, path) {
        (Some(texts), None) => {
            for (i, text) in texts.iter().enumerate() {
                reader
                    .take(("prompt", Content::Text(text.clone())), Vec::new())
                    .map_err(|e| Error::Config(format!("{field}.inline[{i}]: {e}")))?;
            }
        }
        (None, Some(path)) => {
            for file in rows::files(path)? {
                if rows::is_lines(&file) {
                    rows::lines(&file, &mut |line| {
                        refuse_json(line)?;
                        reader.take(("prompt", Content::Text(line.to_owned())), Vec::new())
                    })?;
                } else {
                    rows::read(&file, &["prompt", "messages", "tags"], &mut |record| {
                        let (prompt, tags) = prompt(record)?;
                        reader.take(prompt, tags)
                    })?;
                }
            }
        }
        _ => return Err(Error::Config(format!("{field}: expected exactly one of inline and uri"))),
    }
    if reader.found.prompts.is_empty() {
        return Err(Error::Data(format!(
            "{field}: there are no prompts in {}",
            path.map_or("inline".into(), |p| p.display().to_string())
        )));
    }
    Ok(reader.found)
}

/// Whether a prompt belongs to the validation split. This depends only on the prompt, not on the other prompts, their
/// order, or the responses sampled for it.
pub fn is_validation(prompt_id: &str, fraction: f64) -> bool {
    id::unit(&["validation", prompt_id]) < fraction
}

struct Reader {
    limit: usize,
    seen: HashSet<String>,
    form: OneForm,
    found: Prompts,
}

impl Reader {
    fn take(&mut self, (name, content): (&str, Content), tags: Vec<String>) -> Result<Next, String> {
        if self.found.prompts.len() >= self.limit {
            return Ok(Next::Stop);
        }
        check_prompt(name, &content)?;
        self.form.check(&content)?;
        let id = content.id();
        if self.seen.insert(id.clone()) {
            self.found.prompts.push(Prompt { id, content, tags });
        } else {
            self.found.duplicates += 1;
        }
        Ok(Next::Record)
    }
}

/// The prompt of a record with the name of its field, and its tags.
fn prompt(mut record: Fields) -> Result<((&'static str, Content), Vec<String>), String> {
    let named = match (record.take("prompt"), record.take("messages")) {
        (Some(value), None) => ("prompt", content("prompt", value)?),
        (None, Some(Value::Array(items))) => ("messages", Content::Messages(turns("messages", items)?)),
        (None, Some(other)) => return Err(format!("`messages` is {}; expected a list of turns", fields::kind(&other))),
        (Some(_), Some(_)) => {
            return Err("expected `prompt` (a text) or `messages` (a conversation), found both; remove one".into());
        }
        (None, None) => return Err(record.missing("`prompt` (a text) or `messages` (a conversation)")),
    };
    let tags = record.texts("tags")?;
    refuse_unread(&record)?;
    Ok((named, tags))
}

/// Rejects a line of a text file that is a JSON record: its braces and quotes would become part of the prompt.
fn refuse_json(line: &str) -> Result<(), String> {
    let record = line.trim_start().starts_with('{').then(|| fields::parse(line.as_bytes()).ok()).flatten();
    match record.map(|value| Fields::of("", value)) {
        Some(Ok(record)) if record.has("prompt") || record.has("messages") => {
            Err("is a JSON record in a file of plain lines; rename the file to .jsonl".into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::*;

    fn source() -> PromptSource {
        serde_json::from_value(serde_json::json!({"uri": "prompts"})).unwrap()
    }

    fn read_as(name: &str, text: &str) -> Result<Prompts> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&source(), Some(&path), "spec.prompts")
    }

    #[test]
    fn duplicates_are_removed_and_counted_and_tags_are_kept() {
        let found = read_as(
            "p.jsonl",
            "{\"prompt\": \"a\", \"tags\": [\"safety\"]}\n{\"prompt\": \"b\"}\n{\"prompt\": \"a\"}\n",
        );
        let found = found.unwrap();
        assert_eq!(found.duplicates, 1);
        assert_eq!(found.prompts.len(), 2);
        assert_eq!(found.prompts[0].tags, ["safety"]);
    }

    #[test]
    fn a_text_file_has_one_prompt_per_line_and_keeps_spaces() {
        let found = read_as("p.txt", "Once upon \n\nThe end\r\n").unwrap();
        let texts: Vec<String> = found.prompts.iter().map(|p| p.content.to_text()).collect();
        assert_eq!(texts, ["Once upon ", "The end"]);
    }

    #[test]
    fn a_text_and_a_conversation_of_equal_words_are_different_prompts() {
        let text = Content::Text("userhi".into());
        let turns = Content::Messages(vec![Message { role: "user".into(), content: "hi".into() }]);
        assert_ne!(text.id(), turns.id());
    }

    #[test]
    fn invalid_lines_are_errors_with_file_and_line() {
        for (line, expected) in [
            ("{\"prompt\": \"a\"", "EOF"),
            ("{}", "expected `prompt` (a text) or `messages` (a conversation); add it"),
            ("{\"text\": \"a\"}", "found `text`; rename the field that contains it"),
            ("{\"prompt\": \"a\", \"messages\": []}", "found both; remove one"),
            ("{\"prompt\": \"  \"}", "is empty"),
            ("{\"messages\": []}", "no turns"),
            ("{\"messages\": [{\"role\": \"bot\", \"content\": \"x\"}]}", "role `bot`"),
            ("{\"messages\": [{\"role\": \"system\", \"content\": \"x\"}]}", "it ends with a turn of the system"),
            ("{\"messages\": \"x\"}", "`messages` is a string; expected a list of turns"),
            ("{\"prompt\": 5}", "`prompt` is a number; expected a string or a list of turns"),
            ("{\"prompt\": \"x\", \"tools\": [{}, {\"a\": 1}]}", "`tools` is not supported"),
            ("{\"prompt\": \"x\", \"tags\": \"safety\"}", "`tags` is a string; expected a list of strings"),
            ("[]", "expected an object, found an empty list"),
            ("{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}", "end with a turn of the user"),
            ("{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", "write all prompts as"),
        ] {
            let error = read_as("p.jsonl", &format!("{{\"prompt\": \"good\"}}\n{line}\n")).unwrap_err();
            assert!(matches!(error, Error::Data(_)));
            let error = error.to_string();
            assert!(error.contains("p.jsonl:2:") && error.contains(expected), "{line}: {error}");
        }
        assert!(read_as("p.csv", "a,b").unwrap_err().to_string().contains("separated values"));
        assert!(read_as("p.txt", "{\"prompt\": \"a\"}").unwrap_err().to_string().contains("p.txt:1: is a JSON record"));
        assert_eq!(read_as("p.txt", "{x}").unwrap().prompts[0].content, Content::Text("{x}".into()));
        assert!(read_as("p.txt", "\n\n").unwrap_err().to_string().contains("no prompts"));
    }

    #[test]
    fn the_limit_takes_the_first_prompts() {
        let mut inline = source();
        (inline.uri, inline.limit) = (None, Some(2));
        inline.inline = Some(["a", "a", "b", "c"].map(String::from).to_vec());
        let found = read(&inline, None, "spec.prompts").unwrap();
        assert_eq!((found.prompts.len(), found.duplicates), (2, 1));
    }

    #[test]
    fn adding_prompts_does_not_change_the_split_of_others() {
        let ids: Vec<String> = (0..2000).map(|i| id::of(&[i.to_string()])).collect();
        let share = ids.iter().filter(|i| is_validation(i, 0.1)).count();
        assert!((150..250).contains(&share), "{share}");
        assert!(ids.iter().all(|i| !is_validation(i, 0.0)));
        assert!(
            ids.iter().all(|i| !is_validation(i, 0.1) || is_validation(i, 0.2)),
            "a larger share contains a smaller"
        );
    }
}
