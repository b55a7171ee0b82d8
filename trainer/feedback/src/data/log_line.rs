//! A line of an append-only log: a record as a JSON object, with a checksum as its last member. Computes only.
//!
//! A line can be damaged in several ways: a crash or a full disk truncates it, so that the next one may be appended to
//! its remains, or the disk returns other bytes. The checksum detects all of these; without it a changed letter would
//! go unnoticed.

use std::io::{self, BufRead};

use serde::de::DeserializeOwned;

/// The text before and after the version number, and around the eight digits of the checksum.
const VERSION: &[u8] = b"{\"version\":";
const BEFORE: &[u8] = b",\"crc32c\":\"";
const AFTER: &[u8] = b"\"}";
const SEAL: usize = BEFORE.len() + 8 + AFTER.len();

/// Position of a record in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// The state of a log, apart from its records.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    /// Number of records.
    pub(super) records: usize,
    /// Length in bytes up to the end of the last complete record.
    pub(super) whole: u64,
    /// Whether the last record lacks its line break.
    pub(super) unfinished: bool,
    /// Numbers of the damaged lines, from 1: those with anything besides records.
    pub(super) damaged: Vec<usize>,
    /// The first line with a record of another version, and that version; 1 for a record without a version.
    pub(super) other_version: Option<(usize, u32)>,
}

/// Formats a record as a line with its version, its checksum and a line break.
///
/// # Errors
/// If the record is not a JSON object.
pub(super) fn sealed(record: &[u8], version: u32) -> Result<Vec<u8>, String> {
    let members = record.strip_prefix(b"{").filter(|rest| rest.len() > 1 && rest.ends_with(b"}"));
    let members = members.ok_or("a record has to be a JSON object with members")?;
    let mut line = VERSION.to_vec();
    line.extend_from_slice(version.to_string().as_bytes());
    line.push(b',');
    line.extend_from_slice(members);
    let sum = crc32c::crc32c(&line);
    line.pop();
    line.extend_from_slice(BEFORE);
    line.extend_from_slice(format!("{sum:08x}").as_bytes());
    line.extend_from_slice(AFTER);
    line.push(b'\n');
    Ok(line)
}

/// Reads a log line by line, and passes each record and its position to `take`.
///
/// # Errors
/// If the log cannot be read.
pub(super) fn replay<T: DeserializeOwned>(
    log: &mut dyn BufRead,
    version: u32,
    take: &mut dyn FnMut(T, Span),
) -> io::Result<Replayed> {
    let (mut replayed, mut line, mut offset) = (Replayed::default(), Vec::new(), 0);
    for number in 1.. {
        line.clear();
        if log.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let read = line.len() as u64;
        let ended = line.pop_if(|last| *last == b'\n').is_some();
        let (found, is_damaged) = pieces::<T>(&line, version);
        // An unterminated last line counts if it is complete; otherwise it was never finished.
        if ended || (!is_damaged && !found.is_empty()) {
            for (at, piece) in found {
                match piece {
                    Piece::Record(record, length) => {
                        replayed.records += 1;
                        take(record, Span { offset: offset + at as u64, length: length as u32 });
                    }
                    Piece::OtherVersion(other) => drop(replayed.other_version.get_or_insert((number, other))),
                }
            }
            if is_damaged && !line.is_empty() {
                replayed.damaged.push(number);
            }
            (replayed.whole, replayed.unfinished) = (offset + read, !ended);
        }
        offset += read;
    }
    Ok(replayed)
}

/// The record of a line as JSON with its version and without its checksum; `None` if the checksum is wrong.
pub(super) fn opened(line: &[u8]) -> Option<Vec<u8>> {
    let (content, seal) = line.split_at_checked(line.len().checked_sub(SEAL)?)?;
    let digits = std::str::from_utf8(seal.strip_prefix(BEFORE)?.strip_suffix(AFTER)?).ok()?;
    let mut content = content.to_vec();
    content.push(b'}');
    (u32::from_str_radix(digits, 16).ok()? == crc32c::crc32c(&content)).then_some(content)
}

/// Parses a record returned by [`opened`]; `None` if it has another version.
pub(super) fn record<T: DeserializeOwned>(content: &[u8], version: u32) -> Option<T> {
    let members = content.strip_prefix(VERSION)?.strip_prefix(version.to_string().as_bytes())?.strip_prefix(b",")?;
    serde_json::from_slice(&[b"{", members].concat()).ok()
}

enum Piece<T> {
    /// A record, and its length in bytes.
    Record(T, usize),
    OtherVersion(u32),
}

/// The records in a line with their offsets, and whether the line contains anything else. Usually there is one record;
/// checksums also separate records if a line break between them is lost.
fn pieces<T: DeserializeOwned>(line: &[u8], version: u32) -> (Vec<(usize, Piece<T>)>, bool) {
    if let Some(piece) = piece(line, version) {
        return (vec![(0, piece)], false);
    }
    let (mut found, mut is_damaged, mut from) = (Vec::new(), line.is_empty(), 0);
    while from < line.len() {
        let end = seal_end(&line[from..]).map_or(line.len(), |end| from + end);
        // After an incomplete record, the next one begins at one of the braces.
        let mut starts = (from..end).filter(|start| line[*start] == b'{');
        match starts.find_map(|start| Some((start, piece(&line[start..end], version)?))) {
            Some((start, piece)) => {
                is_damaged |= start > from;
                found.push((start, piece));
            }
            None => is_damaged = true,
        }
        from = end;
    }
    (found, is_damaged)
}

/// Parses a record, if its checksum is right.
fn piece<T: DeserializeOwned>(line: &[u8], version: u32) -> Option<Piece<T>> {
    let content = opened(line)?;
    if let Some(record) = record(&content, version) {
        return Some(Piece::Record(record, line.len()));
    }
    let written = content.strip_prefix(VERSION).map_or(Some(1), |rest| {
        let digits: String = rest.iter().take_while(|b| b.is_ascii_digit()).map(|b| char::from(*b)).collect();
        digits.parse().ok()
    });
    written.filter(|written| *written != version).map(Piece::OtherVersion)
}

/// The end of the first checksum.
fn seal_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(SEAL).position(is_seal).map(|at| at + SEAL)
}

/// Whether bytes of the length of a checksum have its format.
fn is_seal(bytes: &[u8]) -> bool {
    let digits = &bytes[BEFORE.len()..SEAL - AFTER.len()];
    bytes.starts_with(BEFORE) && bytes.ends_with(AFTER) && digits.iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(bytes: &[u8]) -> (Vec<Value>, Replayed) {
        let mut records = Vec::new();
        let replayed = replay::<Value>(&mut &bytes[..], 2, &mut |record, span| {
            let at = span.offset as usize;
            let again = opened(&bytes[at..at + span.length as usize]).and_then(|c| super::record::<Value>(&c, 2));
            assert_eq!(again.as_ref(), Some(&record), "the span of a record holds it");
            records.push(record);
        });
        (records, replayed.unwrap())
    }

    fn line(record: &str, version: u32) -> String {
        String::from_utf8(sealed(record.as_bytes(), version).unwrap()).unwrap()
    }

    #[test]
    fn a_sealed_line_is_json_and_contains_its_record() {
        let record = json!({"id": "1", "text": "a \"}\", {b"});
        let line = line(&record.to_string(), 2);
        let parsed: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&parsed["text"], &parsed["version"]), (&record["text"], &json!(2)));
        let whole = line.len() as u64;
        assert_eq!(read(line.as_bytes()), (vec![record], Replayed { records: 1, whole, ..Replayed::default() }));
        assert!(sealed(b"1", 2).is_err() && sealed(b"{}", 2).is_err());
    }

    #[test]
    fn a_line_without_a_checksum_is_not_a_record() {
        let whole = line("{\"id\":1}", 2);
        let (records, replayed) = read(format!("{whole}{{\"id\":2}}\nnonsense\n{{\"i{whole}{{\"id\":3}}").as_bytes());
        assert_eq!(records, [json!({"id": 1}), json!({"id": 1})]);
        assert_eq!((replayed.damaged, replayed.unfinished), (vec![2, 3, 4], false));
    }

    #[test]
    fn records_of_other_versions_are_reported_and_not_read() {
        let (records, replayed) = read((line("{\"id\":1}", 2) + &line("{\"id\":2}", 7)).as_bytes());
        assert_eq!((records.len(), replayed.other_version, replayed.damaged), (1, Some((2, 7)), Vec::new()));
        // Written by a release without versions.
        let (content, seal) = ("{\"id\":3}", crc32c::crc32c(b"{\"id\":3}"));
        let old = format!("{},\"crc32c\":\"{seal:08x}\"}}\n", &content[..content.len() - 1]);
        assert_eq!(read(old.as_bytes()).1.other_version, Some((1, 1)));
    }
}
