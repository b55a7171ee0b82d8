//! The journal of replies (IO). A reply is written to the journal before it is used, and a question in the journal is
//! not asked again: a run that is killed anywhere and restarted ends with the same labels and pays for no reply twice.
//! [`crate::data::append_log`] describes what a kill or a crash of the machine can lose.
//!
//! Replies stay on disk; only their positions are in memory, so a journal may be larger than the memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::wire::Reply;
use crate::data::append_log::{AppendLog, Record, Span};
use crate::{Error, Result};

/// Name of the journal's file in its directory.
pub const REPLIES: &str = "replies.jsonl";

/// A line of the journal.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Entry {
    /// Hash of the judge and of the complete request.
    pub id: String,
    /// Name of the judge.
    pub judge: String,
    /// Name of the template with the hash of its text.
    pub template: String,
    /// The subject of the question: a pair and the response shown first, or a response.
    pub about: String,
    /// The reply.
    pub reply: Reply,
}

impl Record for Entry {
    // Version 1 stored only the first choice of a reply.
    const VERSION: u32 = 2;
    const WITHOUT: &'static str = "its questions are asked, and paid for, again";
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    log: AppendLog<Entry>,
    index: HashMap<String, Span>,
}

impl Journal {
    /// Path of the journal in a directory.
    pub fn file(folder: &Path) -> PathBuf {
        folder.join(REPLIES)
    }

    /// Opens or creates the journal of a directory and indexes its replies.
    ///
    /// # Errors
    /// Those of [`AppendLog::open_with`].
    pub fn open(folder: &Path) -> Result<Self> {
        let mut index = HashMap::new();
        let log = AppendLog::<Entry>::open_with(&Self::file(folder), &mut |entry, span| {
            index.entry(entry.id).or_insert(span);
        })?;
        Ok(Self { log, index })
    }

    /// The reply with this id; `None` if there is none.
    ///
    /// # Errors
    /// Those of [`AppendLog::read`].
    pub fn reply(&self, id: &str) -> Result<Option<Reply>> {
        self.index.get(id).map(|span| Ok(self.log.read(*span)?.reply)).transpose()
    }

    /// Whether there is a reply with this id.
    pub fn contains(&self, id: &str) -> bool {
        self.index.contains_key(id)
    }

    /// Number of replies.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are no replies.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Appends a reply. When this returns, the reply may be used.
    ///
    /// # Errors
    /// Those of [`AppendLog::append`].
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        let span = self.log.append(entry)?;
        self.index.insert(entry.id.clone(), span);
        Ok(())
    }

    /// Flushes the journal to disk.
    ///
    /// # Errors
    /// Those of [`AppendLog::sync`].
    pub fn sync(&mut self) -> Result<()> {
        self.log.sync()
    }
}

/// Copies some replies from one directory's journal to another's, ordered by id: an artifact must not depend on the
/// order in which replies arrive. Does nothing if there is no journal.
///
/// # Errors
/// Those of [`Journal::open`]; `Disk` if the copy cannot be written.
pub fn copy_sorted<'a>(from: &Path, to: &Path, ids: impl Iterator<Item = &'a str>) -> Result<()> {
    if !Journal::file(from).exists() {
        return Ok(());
    }
    let source = Journal::open(from)?;
    let mut wanted: Vec<(&str, Span)> = ids.filter_map(|id| Some((id, *source.index.get(id)?))).collect();
    wanted.sort_unstable_by_key(|(id, _)| *id);
    wanted.dedup_by_key(|(id, _)| *id);
    let path = Journal::file(to);
    let failed = |e: std::io::Error| Error::disk(&path, e);
    let mut file = BufWriter::new(File::create(&path).map_err(failed)?);
    for (_, span) in wanted {
        file.write_all(&source.log.read_json(span)?).and_then(|()| file.write_all(b"\n")).map_err(failed)?;
    }
    file.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::wire::Choice;
    use super::*;

    fn entry(id: &str, text: &str) -> Entry {
        let choice = Choice { text: text.into(), ..Choice::default() };
        let reply = Reply { choices: vec![choice], ..Reply::default() };
        Entry { id: id.into(), judge: "j".into(), template: "t@1".into(), about: "pair".into(), reply }
    }

    #[test]
    fn replies_survive_a_kill_in_the_middle_of_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.append(&entry("1", "A")).unwrap();
        assert_eq!(journal.reply("1").unwrap(), Some(entry("1", "A").reply));
        drop(journal);
        let path = Journal::file(dir.path());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [whole.as_slice(), &whole[..whole.len() / 2]].concat()).unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        assert_eq!((journal.len(), journal.reply("1").unwrap()), (1, Some(entry("1", "A").reply)));
        journal.append(&entry("2", "B")).unwrap();
        drop(journal);
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!((journal.len(), journal.reply("2").unwrap()), (2, Some(entry("2", "B").reply)));
    }

    #[test]
    fn the_copy_does_not_depend_on_the_order_of_arrival() {
        let copies = [["1", "2", "3"], ["3", "1", "2"]].map(|order| {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let mut journal = Journal::open(from.path()).unwrap();
            for id in order {
                journal.append(&entry(id, id)).unwrap();
            }
            drop(journal);
            copy_sorted(from.path(), to.path(), ["2", "1", "2", "unanswered"].into_iter()).unwrap();
            fs::read_to_string(Journal::file(to.path())).unwrap()
        });
        assert_eq!(copies[0].lines().count(), 2, "replies to other questions stay behind");
        assert_eq!(copies[0], copies[1]);
        assert!(copies[0].starts_with("{\"version\":2,\"id\":\"1\""), "{}", copies[0]);
    }

    #[test]
    fn a_journal_of_another_release_is_rejected_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let content = r#"{"id":"1","judge":"j","template":"t@1","about":"pair","reply":{"text":"A"}}"#;
        let sum = crc32c::crc32c(content.as_bytes());
        let line = format!("{},\"crc32c\":\"{sum:08x}\"}}\n", &content[..content.len() - 1]);
        fs::write(Journal::file(dir.path()), &line).unwrap();
        let error = Journal::open(dir.path()).unwrap_err().to_string();
        for part in ["replies.jsonl:1:", "version 2", "found version 1", "finish the run with that release", "again"] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        assert_eq!(fs::read_to_string(Journal::file(dir.path())).unwrap(), line, "what was paid for stays");
    }
}
