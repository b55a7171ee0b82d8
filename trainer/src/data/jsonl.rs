//! JSONL files (IO): read line by line with errors that say where, and written at once.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Whether to read on.
pub(crate) enum Next {
    /// Read the next line.
    Line,
    /// That is enough.
    Stop,
}

/// Hands each line that is not blank to `take`, without its line end. An error of `take` gets the file and the line
/// number before it.
pub(crate) fn lines(path: &Path, take: &mut dyn FnMut(&str) -> Result<Next, String>) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::Data(format!("{}: cannot be opened: {e}", path.display())))?;
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let at = |what: String| Error::Data(format!("{}:{number}: {what}", path.display()));
        if reader.read_until(b'\n', &mut line).map_err(|e| at(e.to_string()))? == 0 {
            break;
        }
        let text = std::str::from_utf8(&line).map_err(|e| at(format!("is not UTF-8 ({e})")))?;
        let text = if number == 1 { text.trim_start_matches('\u{feff}') } else { text };
        let text = text.trim_end_matches(['\n', '\r']);
        if text.trim().is_empty() {
            continue;
        }
        if let Next::Stop = take(text).map_err(at)? {
            break;
        }
    }
    Ok(())
}

/// A line as JSON. The message names the column; the caller knows the line.
pub(crate) fn parse<T: DeserializeOwned>(line: &str) -> Result<T, String> {
    serde_json::from_str(line).map_err(|e| {
        let text = e.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        if e.column() > 0 { format!("column {}: {what}", e.column()) } else { what.to_owned() }
    })
}

/// Writes records to a file, one a line, and forces it to the disk.
pub(crate) fn write<T: Serialize>(path: &Path, records: &[T]) -> Result<()> {
    let failed = |e: io::Error| Error::store(path, &e);
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    for record in records {
        serde_json::to_writer(&mut file, record).map_err(|e| failed(e.into()))?;
        file.write_all(b"\n").map_err(failed)?;
    }
    file.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)
}
