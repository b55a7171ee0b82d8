//! What was answered (IO). A reply is in the journal before it is used, and a question that is in it is not asked again:
//! a run that is killed anywhere and started again ends with the same labels and pays for nothing twice. What a kill and
//! what a crash of the machine can lose is said in [`crate::data::append_log`].

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::question::Question;
use super::wire::Reply;
use crate::Result;
use crate::data::append_log::AppendLog;
use crate::data::jsonl;

/// Name of the journal's file in its folder.
pub const REPLIES: &str = "replies.jsonl";

/// A line of the journal.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Entry {
    /// Id of the question: a hash of the judge and of everything that was sent.
    pub id: String,
    /// Name of the judge.
    pub judge: String,
    /// Template and the hash of its text.
    pub template: String,
    /// What the question was about: a pair and the response shown first, or a response.
    pub about: String,
    /// What came back.
    pub reply: Reply,
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    log: AppendLog<Entry>,
    replies: HashMap<String, Reply>,
}

impl Journal {
    /// Where the journal of a folder is.
    pub fn file(folder: &Path) -> PathBuf {
        folder.join(REPLIES)
    }

    /// Opens or creates the journal of a folder and reads what is in it.
    pub fn open(folder: &Path) -> Result<Self> {
        let (log, entries) = AppendLog::<Entry>::open(&Self::file(folder))?;
        let mut replies = HashMap::new();
        for entry in entries {
            replies.entry(entry.id).or_insert(entry.reply);
        }
        Ok(Self { log, replies })
    }

    /// The reply to a question, if it was answered.
    pub fn reply(&self, id: &str) -> Option<&Reply> {
        self.replies.get(id)
    }

    /// How many questions are answered.
    pub fn len(&self) -> usize {
        self.replies.len()
    }

    /// Whether nothing is answered.
    pub fn is_empty(&self) -> bool {
        self.replies.is_empty()
    }

    /// Writes a reply down. When this returns, the reply may be used.
    pub fn append(&mut self, judge: &str, question: &Question, reply: Reply) -> Result<()> {
        let entry = Entry {
            id: question.id.clone(),
            judge: judge.to_owned(),
            template: question.template.clone(),
            about: question.about.clone(),
            reply,
        };
        self.log.append(&entry)?;
        self.replies.insert(entry.id, entry.reply);
        Ok(())
    }

    /// Forces the journal to the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.log.sync()
    }
}

/// Copies the replies to some questions from one folder's journal to another's, in order of id: replies arrive in another
/// order every time, and an artifact must not depend on it. Nothing happens if there is no journal.
pub fn copy_sorted(from: &Path, to: &Path, questions: &[Question]) -> Result<()> {
    let source = Journal::file(from);
    if !source.exists() {
        return Ok(());
    }
    let wanted: HashSet<&str> = questions.iter().map(|q| q.id.as_str()).collect();
    let (_, mut entries) = AppendLog::<Entry>::open(&source)?;
    entries.retain(|e| wanted.contains(e.id.as_str()));
    entries.sort_by(|a, b| a.id.cmp(&b.id));
    entries.dedup_by(|a, b| a.id == b.id);
    jsonl::write(&Journal::file(to), &entries)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn question(id: &str) -> Question {
        Question { id: id.into(), template: "t@1".into(), system: None, text: "?".into(), about: "pair".into() }
    }

    fn reply(text: &str) -> Reply {
        Reply { text: text.into(), ..Reply::default() }
    }

    #[test]
    fn what_was_answered_is_there_after_a_kill_in_the_middle_of_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.append("j", &question("1"), reply("A")).unwrap();
        drop(journal);
        let path = Journal::file(dir.path());
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [whole.as_slice(), &whole[..whole.len() / 2]].concat()).unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        assert_eq!((journal.len(), journal.reply("1")), (1, Some(&reply("A"))));
        journal.append("j", &question("2"), reply("B")).unwrap();
        drop(journal);
        assert_eq!(Journal::open(dir.path()).unwrap().len(), 2);
    }

    #[test]
    fn the_copy_does_not_depend_on_the_order_of_arrival() {
        let copies = [["1", "2", "3"], ["3", "1", "2"]].map(|order| {
            let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let mut journal = Journal::open(from.path()).unwrap();
            for id in order {
                journal.append("j", &question(id), reply(id)).unwrap();
            }
            drop(journal);
            copy_sorted(from.path(), to.path(), &["1", "2"].map(question)).unwrap();
            fs::read_to_string(Journal::file(to.path())).unwrap()
        });
        assert_eq!(copies[0].lines().count(), 2, "replies to other questions stay behind");
        assert_eq!(copies[0], copies[1]);
    }
}
