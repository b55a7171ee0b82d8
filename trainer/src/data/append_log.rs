//! An append-only JSONL file (IO): what was bought or sampled is on disk before it is used.
//!
//! A record is handed to the kernel, as one whole line, before [`AppendLog::append`] returns: it survives the death of
//! the process. It is forced to the disk every [`SYNC_EVERY`] records and by [`AppendLog::sync`]: a crash of the machine
//! can lose the records since then, which are then asked for again. A line that a crash tore is dropped when the file is
//! opened; any other broken line is an error.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Records between two forced writes to the disk.
pub const SYNC_EVERY: usize = 64;

/// An open log. One process at a time holds it.
#[derive(Debug)]
pub struct AppendLog<T> {
    file: File,
    path: PathBuf,
    unsynced: usize,
    records: PhantomData<T>,
}

impl<T: Serialize + DeserializeOwned> AppendLog<T> {
    /// Opens or creates the log and replays it: returns the records in the order they were written.
    pub fn open(path: &Path) -> Result<(Self, Vec<T>)> {
        let io = |e: std::io::Error| Error::store(path, &e);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(io)?;
        }
        let mut file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(io)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Error::Store(format!("{}: another process works on this file; wait for it or stop it", path.display()))
        })?;
        let bytes = fs::read(path).map_err(io)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |last| last + 1);
        let mut records = Vec::new();
        for (number, line) in bytes[..whole].split(|b| *b == b'\n').enumerate().filter(|(_, l)| !l.is_empty()) {
            records.push(serde_json::from_slice(line).map_err(|e| {
                Error::Data(format!(
                    "{}:{}: is not a record of this log ({e}); restore the file, or delete it to begin again",
                    path.display(),
                    number + 1
                ))
            })?);
        }
        file.set_len(whole as u64).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        Ok((Self { file, path: path.to_owned(), unsynced: 0, records: PhantomData }, records))
    }

    /// Appends a record. When this returns, the record survives the death of the process.
    pub fn append(&mut self, record: &T) -> Result<()> {
        let mut line =
            serde_json::to_vec(record).map_err(|e| Error::Failed(format!("{}: {e}", self.path.display())))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| Error::store(&self.path, &e))?;
        self.unsynced += 1;
        if self.unsynced >= SYNC_EVERY { self.sync() } else { Ok(()) }
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

    #[test]
    fn a_torn_last_line_is_dropped_and_the_log_goes_on_after_the_last_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        fs::write(&path, "1\n2\n{\"half\": ").unwrap();
        let (mut log, records) = AppendLog::<i64>::open(&path).unwrap();
        assert_eq!(records, [1, 2]);
        log.append(&3).unwrap();
        drop(log);
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n2\n3\n");
    }

    #[test]
    fn a_broken_line_that_no_crash_explains_is_an_error_with_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        fs::write(&path, "1\nnonsense\n3\n").unwrap();
        let error = AppendLog::<i64>::open(&path).unwrap_err().to_string();
        assert!(error.contains("log.jsonl:2:"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\nnonsense\n3\n", "the file must stay as it was");
    }

    #[test]
    fn two_holders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        let held = AppendLog::<i64>::open(&path).unwrap();
        assert!(AppendLog::<i64>::open(&path).unwrap_err().to_string().contains("another process"));
        drop(held);
        AppendLog::<i64>::open(&path).unwrap();
    }
}
