//! JSON Lines and JSON arrays (IO): read record by record, with errors that state the location, and written as a whole.

use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, Write};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::fields;
use crate::{Error, Result};

/// Maximum size of a record in bytes.
pub(crate) const LONGEST: usize = 64 << 20;

/// Whether to continue reading.
pub(crate) enum Next {
    /// Read the next record.
    Record,
    /// Stop.
    Stop,
}

/// An error and its line, starting from 1.
pub(crate) type Wrong = (usize, String);

/// Passes each line that is not blank to `take`, without its line ending.
pub(crate) fn lines(reader: &mut dyn BufRead, take: &mut dyn FnMut(&str) -> Result<Next, String>) -> Result<(), Wrong> {
    each_line(reader, |bytes, number| {
        let text = std::str::from_utf8(bytes).map_err(|e| (number, format!("is not UTF-8 ({e})")))?;
        if text.trim().is_empty() { Ok(Next::Record) } else { take(text).map_err(|e| (number, e)) }
    })
}

/// Passes each record of JSON Lines or of a JSON array to `take`, with its line.
pub(crate) fn records(
    reader: &mut dyn BufRead,
    take: &mut dyn FnMut(Value) -> Result<Next, String>,
) -> Result<(), Wrong> {
    let mut line = 1;
    if first_byte(reader, &mut line)? == Some(b'[') {
        return array(reader, line, take);
    }
    let skipped = line - 1;
    let in_file = |(number, what): Wrong| (skipped + number, what);
    each_line(reader, |bytes, number| {
        let text = std::str::from_utf8(bytes).map_err(|e| (number, format!("is not UTF-8 ({e})")))?;
        if text.trim().is_empty() {
            return Ok(Next::Record);
        }
        let value = fields::parse(bytes).map_err(|e| (number, broken(&e)))?;
        take(value).map_err(|e| (number, e))
    })
    .map_err(in_file)
}

/// The error of a record that is not valid JSON. The line is reported separately; the column is relative to the record.
fn broken(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or_default();
    let what = if error.is_eof() {
        format!("{what}; expected a complete record on the line, or a JSON array of records")
    } else {
        what.to_owned()
    };
    if error.column() > 0 { format!("column {}: {what}", error.column()) } else { what }
}

/// Passes each line to `take`, without its line ending; a byte order mark before the first one is removed.
fn each_line(reader: &mut dyn BufRead, mut take: impl FnMut(&[u8], usize) -> Result<Next, Wrong>) -> Result<(), Wrong> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let limit = LONGEST as u64 + 2;
        if reader.take(limit).read_until(b'\n', &mut line).map_err(|e| (number, unreadable(&e)))? == 0 {
            break;
        }
        let mut text = line.as_slice();
        if number == 1 {
            text = text.strip_prefix(BOM).unwrap_or(text);
        }
        while let [rest @ .., b'\n' | b'\r'] = text {
            text = rest;
        }
        if text.len() > LONGEST {
            return Err((number, too_long()));
        }
        if let Next::Stop = take(text, number)? {
            break;
        }
    }
    Ok(())
}

const BOM: &[u8] = b"\xef\xbb\xbf";

fn too_long() -> String {
    format!("the record is longer than {} MiB; check that the file has one record per line", LONGEST >> 20)
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}; the file is truncated or damaged")
}

/// The first byte that is not white space. Consumes a byte order mark and white space before it, but not the byte.
fn first_byte(reader: &mut dyn BufRead, line: &mut usize) -> Result<Option<u8>, Wrong> {
    // The buffer is large and filled from the start of the file, so it contains the whole mark.
    if reader.fill_buf().map_err(|e| (*line, unreadable(&e)))?.starts_with(BOM) {
        reader.consume(BOM.len());
    }
    loop {
        let buffer = reader.fill_buf().map_err(|e| (*line, unreadable(&e)))?;
        let Some(&first) = buffer.first() else { return Ok(None) };
        if !first.is_ascii_whitespace() {
            return Ok(Some(first));
        }
        *line += usize::from(first == b'\n');
        reader.consume(1);
    }
}

/// Reads the elements of an array. `line`: the line of its opening bracket, which is the next byte.
fn array(
    reader: &mut dyn BufRead,
    mut line: usize,
    take: &mut dyn FnMut(Value) -> Result<Next, String>,
) -> Result<(), Wrong> {
    reader.consume(1);
    let mut element = Element::default();
    let (mut started, mut before) = (line, 0_usize);
    let mut bytes = reader.bytes();
    loop {
        let Some(byte) = bytes.next() else {
            return Err((line, "the array is not closed; the file is truncated, or a bracket is missing".into()));
        };
        let byte = byte.map_err(|e| (line, unreadable(&e)))?;
        line += usize::from(byte == b'\n');
        let ends = element.is_open() && matches!(byte, b',' | b']');
        if !ends {
            if element.text.is_empty() {
                if byte.is_ascii_whitespace() {
                    continue;
                }
                started = line;
            }
            element.push(byte).map_err(|e| (started, e))?;
            continue;
        }
        let last = byte == b']';
        if last && element.text.is_empty() && before == 0 {
            break;
        }
        if element.text.is_empty() {
            return Err((line, "expected a record between the brackets and commas of the array, found none".into()));
        }
        let value = fields::parse(&element.text).map_err(|e| (started + e.line().max(1) - 1, broken(&e)))?;
        if let Next::Stop = take(value).map_err(|e| (started, e))? {
            return Ok(());
        }
        element = Element { text: std::mem::take(&mut element.text), ..Element::default() };
        element.text.clear();
        before += 1;
        started = line;
        if last {
            break;
        }
    }
    match bytes.find(|b| !b.as_ref().is_ok_and(u8::is_ascii_whitespace)) {
        None => Ok(()),
        Some(Err(e)) => Err((line, unreadable(&e))),
        Some(Ok(_)) => Err((line, "unexpected content after the array; expected the end of the file".into())),
    }
}

/// An element of an array while it is being read.
#[derive(Default)]
struct Element {
    text: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Element {
    /// Whether a comma or a closing bracket here would end it.
    fn is_open(&self) -> bool {
        self.depth == 0 && !self.in_string
    }

    fn push(&mut self, byte: u8) -> Result<(), String> {
        match (self.in_string, byte) {
            (true, _) if self.escaped => self.escaped = false,
            (true, b'\\') => self.escaped = true,
            (_, b'"') => self.in_string = !self.in_string,
            (false, b'{' | b'[') => self.depth += 1,
            (false, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.text.push(byte);
        if self.text.len() > LONGEST { Err(too_long()) } else { Ok(()) }
    }
}

/// Writes records to a file, one per line, and flushes it to disk.
pub(crate) fn write<T: Serialize>(path: &Path, records: &[T]) -> Result<()> {
    let failed = |e: io::Error| Error::disk(path, e);
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    for record in records {
        serde_json::to_writer(&mut file, record).map_err(|e| failed(e.into()))?;
        file.write_all(b"\n").map_err(failed)?;
    }
    file.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    #[test]
    fn a_record_without_end_is_rejected_with_bounded_memory() {
        for first in ["{", "[{"] {
            let endless = first.as_bytes().chain(io::repeat(b'a'));
            let error = records(&mut BufReader::new(endless), &mut |_| Ok(Next::Record)).unwrap_err();
            assert!(error.0 == 1 && error.1.contains("longer than 64 MiB"), "{error:?}");
        }
        let error = lines(&mut BufReader::new(io::repeat(b'a')), &mut |_| Ok(Next::Record)).unwrap_err();
        assert!(error.1.contains("longer than 64 MiB"), "{error:?}");
    }
}
