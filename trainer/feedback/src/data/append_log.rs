//! An append-only JSONL file (IO): paid replies and samples are on disk before they are used.
//!
//! A record is written, as one whole line, before [`AppendLog::append`] returns: it survives a kill of the process.
//! Records are flushed to disk every [`SYNC_EVERY`] records and by [`AppendLog::sync`]: a crash of the machine can lose
//! the records since then, which are then obtained again. If an append fails, its partial line is truncated at once, so
//! that the next record begins a line. `log_line` describes how damaged lines are read: a damaged line does not affect
//! others.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use super::log_line::Span;
use super::log_line::{self, Replayed};
use crate::{Error, Result};

/// Number of records between two flushes to disk.
pub const SYNC_EVERY: usize = 64;
/// Maximum number of damaged lines listed in a message.
const NAMED: usize = 3;

/// A record of a log.
pub trait Record: Serialize + DeserializeOwned {
    /// Format version, written with each record. A log with another version is rejected.
    const VERSION: u32;
    /// Consequence of deleting the log, as the end of a message: "its questions are asked again".
    const WITHOUT: &'static str;
}

/// An open log, locked by this process.
#[derive(Debug)]
pub struct AppendLog<T> {
    file: File,
    path: PathBuf,
    /// Total length of its complete lines, in bytes.
    whole: u64,
    unsynced: usize,
    records: PhantomData<T>,
}

impl<T: Record> AppendLog<T> {
    /// Opens or creates the log and returns its records in the order they were written. See [`AppendLog::open_with`].
    ///
    /// # Errors
    /// Those of [`AppendLog::open_with`].
    pub fn open(path: &Path) -> Result<(Self, Vec<T>)> {
        let mut records = Vec::new();
        let log = Self::open_with(path, &mut |record, _| records.push(record))?;
        Ok((log, records))
    }

    /// Opens or creates the log and replays it: passes each record and its position to `take`, in the order they were
    /// written. One line at a time is in memory. An incomplete last line is dropped. Damaged lines before it are
    /// skipped with a warning and stay in the file.
    ///
    /// # Errors
    /// `Disk` if the file cannot be read or written, `Store` if another process has locked it, `Data` if none of its
    /// lines is a record, or if a record has another version.
    pub fn open_with(path: &Path, take: &mut dyn FnMut(T, Span)) -> Result<Self> {
        let io = |e: std::io::Error| Error::disk(path, e);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(io)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::Store(format!("{}: another process is using this file; wait for it, or stop it", path.display()))
        })?;
        let replayed = log_line::replay(&mut BufReader::new(&file), T::VERSION, take).map_err(io)?;
        let Replayed { records, whole, unfinished, damaged, other_version } = replayed;
        if let Some((line, version)) = other_version {
            return Err(Error::Data(format!(
                "{}:{line}: expected a record of version {}, found version {version}, which another release of Plumbline \
                 writes; finish the run with that release, or move the file away and run again: {}",
                path.display(),
                T::VERSION,
                T::WITHOUT
            )));
        }
        if records == 0
            && let Some(first) = damaged.first()
        {
            return Err(Error::Data(format!(
                "{}:{first}: expected the records of an earlier run, found none in {} lines; move the file away and \
                 run again: {}",
                path.display(),
                damaged.len(),
                T::WITHOUT
            )));
        }
        for line in damaged.iter().take(NAMED) {
            tracing::warn!(
                "{}:{line}: the line is damaged; its record will be generated or requested again",
                path.display()
            );
        }
        if damaged.len() > NAMED {
            tracing::warn!("{}: {} damaged lines in total", path.display(), damaged.len());
        }
        file.set_len(whole).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        let mut log = Self { file, path: path.to_owned(), whole, unsynced: 0, records: PhantomData };
        if unfinished {
            log.write(b"\n")?;
        }
        Ok(log)
    }

    /// Appends a record and returns its position. When this returns, the record survives a kill of the process.
    ///
    /// # Errors
    /// `Disk` if it cannot be written, and the file is then unchanged; or if the records so far, with this one, cannot be
    /// flushed to disk.
    pub fn append(&mut self, record: &T) -> Result<Span> {
        let json = serde_json::to_vec(record).map_err(|e| e.to_string());
        let line = json.and_then(|json| log_line::sealed(&json, T::VERSION));
        let line = line.map_err(|e| Error::Failed(format!("{}: {e}", self.path.display())))?;
        let span = Span { offset: self.whole, length: line.len() as u32 - 1 };
        self.write(&line)?;
        self.unsynced += 1;
        if self.unsynced >= SYNC_EVERY {
            self.sync()?;
        }
        Ok(span)
    }

    /// Reads a record by its position.
    ///
    /// # Errors
    /// `Disk` if it cannot be read, `Data` if its checksum is wrong.
    pub fn read(&self, span: Span) -> Result<T> {
        let json = self.read_json(span)?;
        log_line::record(&json, T::VERSION).ok_or_else(|| self.changed(span))
    }

    /// The bytes of a record: a JSON object with its version and without its checksum.
    ///
    /// # Errors
    /// Those of [`AppendLog::read`].
    pub fn read_json(&self, span: Span) -> Result<Vec<u8>> {
        let mut line = vec![0; span.length as usize];
        self.file.read_exact_at(&mut line, span.offset).map_err(|e| Error::disk(&self.path, e))?;
        log_line::opened(&line).ok_or_else(|| self.changed(span))
    }

    fn changed(&self, span: Span) -> Error {
        Error::Data(format!(
            "{}: the record at byte {} has changed since it was written; another process or a faulty disk changes the file; run \
             again, and what is damaged is requested again",
            self.path.display(),
            span.offset
        ))
    }

    /// Writes a line after the complete lines, and truncates it if that fails.
    fn write(&mut self, line: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::Start(self.whole)).and_then(|_| self.file.write_all(line));
        if let Err(error) = written {
            // If this fails too, the next line still begins at the right position, and readers drop an incomplete line.
            let _ = self.file.set_len(self.whole);
            return Err(Error::disk(&self.path, error));
        }
        self.whole += line.len() as u64;
        Ok(())
    }

    /// Flushes all records to disk.
    pub fn sync(&mut self) -> Result<()> {
        self.unsynced = 0;
        self.file.sync_data().map_err(|e| Error::disk(&self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
    struct Line {
        id: u64,
        text: String,
    }

    impl super::Record for Line {
        const VERSION: u32 = 2;
        const WITHOUT: &'static str = "they are made again";
    }

    fn record(id: u64) -> Line {
        Line { id, text: format!("{{\"id\": {id}}} \u{1F600} x") }
    }

    fn ids(path: &Path) -> Vec<u64> {
        AppendLog::<Line>::open(path).unwrap().1.iter().map(|r| r.id).collect()
    }

    fn log_of(path: &Path, ids: std::ops::RangeInclusive<u64>) {
        let (mut log, _) = AppendLog::open(path).unwrap();
        for id in ids {
            log.append(&record(id)).unwrap();
        }
    }

    #[test]
    fn an_incomplete_last_line_is_dropped_and_the_log_continues() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        log_of(&path, 1..=2);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"id\": 3, \"te"].concat()).unwrap();
        assert_eq!(ids(&path), [1, 2]);
        assert_eq!(fs::read(&path).unwrap(), whole);
        log_of(&path, 3..=3);
        assert_eq!(ids(&path), [1, 2, 3]);
        // Only its line break is missing, so it is a valid record.
        let three = fs::read(&path).unwrap();
        fs::write(&path, &three[..three.len() - 1]).unwrap();
        assert_eq!(ids(&path), [1, 2, 3]);
        assert_eq!(fs::read(&path).unwrap(), three);
    }

    #[test]
    fn a_damaged_line_is_skipped_alone_and_stays_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        log_of(&path, 1..=3);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        // The second one changes a letter of a string: it is valid JSON, but its checksum is wrong.
        for damaged in ["nonsense".to_owned(), lines[1].replace(" x\"", " y\""), "\0".repeat(4096)] {
            let all = format!("{}\n{damaged}\n{}\n", lines[0], lines[2]);
            fs::write(&path, &all).unwrap();
            assert_eq!(ids(&path), [1, 3], "{damaged}");
            assert_eq!(fs::read_to_string(&path).unwrap(), all, "nothing that was paid for is thrown away");
            log_of(&path, 4..=4);
            assert_eq!(ids(&path), [1, 3, 4]);
        }
    }

    #[test]
    fn only_the_incomplete_part_of_joined_lines_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        log_of(&path, 1..=3);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for cut in 1..lines[1].len() {
            if !lines[1].is_char_boundary(cut) {
                continue;
            }
            fs::write(&path, format!("{}\n{}{}\n", lines[0], &lines[1][..cut], lines[2])).unwrap();
            assert_eq!(ids(&path), [1, 3], "cut after {cut}");
        }
        fs::write(&path, format!("{}{}{}\n", lines[0], lines[1], lines[2])).unwrap();
        assert_eq!(ids(&path), [1, 2, 3]);
    }

    #[test]
    fn a_file_without_any_record_is_rejected_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        fs::write(&path, "1\n{\"other\": 3}\n").unwrap();
        let error = AppendLog::<Line>::open(&path).unwrap_err();
        assert!(matches!(&error, Error::Data(m) if m.contains("log.jsonl:1:") && !m.contains("delete")), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n{\"other\": 3}\n", "the file must stay as it was");
    }

    #[test]
    fn a_log_is_opened_by_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let held = AppendLog::<Line>::open(&path).unwrap();
        assert!(AppendLog::<Line>::open(&path).unwrap_err().to_string().contains("another process"));
        drop(held);
        AppendLog::<Line>::open(&path).unwrap();
    }

    /// A sample: each byte of a log changed in some ways, and each truncation.
    #[test]
    fn no_damage_of_a_log_gives_a_record_that_was_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        log_of(&path, 1..=4);
        let whole = fs::read(&path).unwrap();
        let written: Vec<Line> = (1..=4).map(record).collect();
        let check = |bytes: &[u8], lost: usize| {
            fs::write(&path, bytes).unwrap();
            let found = AppendLog::<Line>::open(&path).unwrap().1;
            assert!(found.len() + lost >= 4, "{} records are lost", 4 - found.len());
            let mut rest = written.iter();
            assert!(found.iter().all(|f| rest.any(|w| w == f)), "{found:?} in {}", String::from_utf8_lossy(bytes));
        };
        for at in 0..whole.len() {
            for byte in [b'0', b'"', b'}', b'\n', 0, 0xff, whole[at] ^ 1, whole[at] ^ 0x20] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                // An added or removed line break, and the lines around it.
                check(&bytes, 2);
            }
        }
        let first = whole.iter().position(|b| *b == b'\n').unwrap();
        (first..whole.len()).for_each(|cut| check(&whole[..cut], 4));
    }
}
