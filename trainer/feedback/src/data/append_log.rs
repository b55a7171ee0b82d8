//! An append-only JSONL file (IO): what was bought or sampled is on disk before it is used.
//!
//! A record is handed to the kernel, as one whole line, before [`AppendLog::append`] returns: it survives the death of
//! the process. It is forced to the disk every [`SYNC_EVERY`] records and by [`AppendLog::sync`]: a crash of the machine
//! can lose the records since then, which are then asked for again. What a failed append has written is cut off at once, so
//! that the next record begins a line. How a damaged line is read is said in `log_line`: it costs itself and no other.

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

/// Records between two forced writes to the disk.
pub const SYNC_EVERY: usize = 64;
/// Damaged lines that are named; of the others there is a number.
const NAMED: usize = 3;

/// A record of a log.
pub trait Record: Serialize + DeserializeOwned {
    /// Version of its form, written with each record. A log with another one is refused rather than misread.
    const VERSION: u32;
    /// What a run does without a log of an earlier one, to end a message: "its questions are asked again".
    const WITHOUT: &'static str;
}

/// An open log. One process at a time holds it.
#[derive(Debug)]
pub struct AppendLog<T> {
    file: File,
    path: PathBuf,
    /// Bytes of its whole lines.
    whole: u64,
    unsynced: usize,
    records: PhantomData<T>,
}

impl<T: Record> AppendLog<T> {
    /// Opens or creates the log and returns its records in the order they were written, as [`AppendLog::open_with`].
    ///
    /// # Errors
    /// As [`AppendLog::open_with`].
    pub fn open(path: &Path) -> Result<(Self, Vec<T>)> {
        let mut records = Vec::new();
        let log = Self::open_with(path, &mut |record, _| records.push(record))?;
        Ok((log, records))
    }

    /// Opens or creates the log and replays it: hands each record to `take` in the order they were written, with where it is.
    /// One line at a time is in memory. The last line is dropped if it was never finished. A damaged line before it stays in
    /// the file, is named in a warning, and is no record.
    ///
    /// # Errors
    /// `Disk` if the file cannot be read or written, `Store` if another process holds it, `Data` if none of its lines is a
    /// record, or one is a record of another version.
    pub fn open_with(path: &Path, take: &mut dyn FnMut(T, Span)) -> Result<Self> {
        let io = |e: std::io::Error| Error::store(path, &e);
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

    /// Appends a record and returns where it is. When this returns, the record survives the death of the process.
    ///
    /// # Errors
    /// `Disk` if it cannot be written: the file is then as it was before.
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

    /// Reads a record again.
    ///
    /// # Errors
    /// `Disk` if it cannot be read, `Data` if it is not what was written.
    pub fn read(&self, span: Span) -> Result<T> {
        let json = self.read_json(span)?;
        log_line::record(&json, T::VERSION).ok_or_else(|| self.changed(span))
    }

    /// The bytes of a record: a JSON object with its version and without its checksum.
    ///
    /// # Errors
    /// As [`AppendLog::read`].
    pub fn read_json(&self, span: Span) -> Result<Vec<u8>> {
        let mut line = vec![0; span.length as usize];
        self.file.read_exact_at(&mut line, span.offset).map_err(|e| Error::store(&self.path, &e))?;
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

    /// Writes at the end of the whole lines, wherever an earlier attempt has left the file.
    fn write(&mut self, line: &[u8]) -> Result<()> {
        let written = self.file.seek(SeekFrom::Start(self.whole)).and_then(|_| self.file.write_all(line));
        if let Err(error) = written {
            // Should this fail too, the next line still begins where it has to, and a reader drops what has no end.
            let _ = self.file.set_len(self.whole);
            return Err(Error::store(&self.path, &error));
        }
        self.whole += line.len() as u64;
        Ok(())
    }

    /// Forces everything to the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.unsynced = 0;
        self.file.sync_data().map_err(|e| Error::store(&self.path, &e))
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
    fn a_torn_last_line_is_dropped_and_the_log_goes_on_after_the_last_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        log_of(&path, 1..=2);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"id\": 3, \"te"].concat()).unwrap();
        assert_eq!(ids(&path), [1, 2]);
        assert_eq!(fs::read(&path).unwrap(), whole);
        log_of(&path, 3..=3);
        assert_eq!(ids(&path), [1, 2, 3]);
        // Only its line break is lacking: it is a record all the same.
        let three = fs::read(&path).unwrap();
        fs::write(&path, &three[..three.len() - 1]).unwrap();
        assert_eq!(ids(&path), [1, 2, 3]);
        assert_eq!(fs::read(&path).unwrap(), three);
    }

    #[test]
    fn a_damaged_line_costs_itself_alone_and_stays_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        log_of(&path, 1..=3);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        // A letter of a text: still JSON, and not what was written.
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
    fn half_a_line_with_whole_ones_glued_to_it_costs_the_half() {
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
    fn a_file_without_a_single_record_is_refused_by_line_and_nothing_is_to_be_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        fs::write(&path, "1\n{\"other\": 3}\n").unwrap();
        let error = AppendLog::<Line>::open(&path).unwrap_err();
        assert!(matches!(&error, Error::Data(m) if m.contains("log.jsonl:1:") && !m.contains("delete")), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n{\"other\": 3}\n", "the file must stay as it was");
    }

    #[test]
    fn two_holders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let held = AppendLog::<Line>::open(&path).unwrap();
        assert!(AppendLog::<Line>::open(&path).unwrap_err().to_string().contains("another process"));
        drop(held);
        AppendLog::<Line>::open(&path).unwrap();
    }

    /// Bounded: each byte of a log changed in some ways, and each cut.
    #[test]
    fn no_change_of_a_log_gives_a_record_that_was_never_written() {
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
                // A line break that is gone or new, and what is on both sides of it.
                check(&bytes, 2);
            }
        }
        let first = whole.iter().position(|b| *b == b'\n').unwrap();
        (first..whole.len()).for_each(|cut| check(&whole[..cut], 4));
    }
}
