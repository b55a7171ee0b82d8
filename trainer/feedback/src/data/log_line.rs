//! A line of an append-only log: a record as a JSON object, sealed by a checksum as its last member. Computes only.
//!
//! What can be wrong with a line: it was torn by a crash or a full disk, the next one may be glued to what is left of it, or
//! the disk gave back other bytes. The checksum tells; without it a changed letter of a reply would be another reply.

use serde::de::DeserializeOwned;

/// What is before the eight digits of the checksum, and after them.
const BEFORE: &[u8] = b",\"crc32c\":\"";
const AFTER: &[u8] = b"\"}";
const SEAL: usize = BEFORE.len() + 8 + AFTER.len();

/// What a log holds.
#[derive(Debug)]
pub(super) struct Replayed<T> {
    /// Its records, in order.
    pub(super) records: Vec<T>,
    /// Bytes up to the end of the last one that is whole.
    pub(super) whole: usize,
    /// The last record lacks its line break.
    pub(super) unfinished: bool,
    /// Numbers of the lines, from 1, that are more or other than records.
    pub(super) damaged: Vec<usize>,
}

/// The line of a record, with its checksum and a line break.
///
/// # Errors
/// For what is no JSON object.
pub(super) fn sealed(mut record: Vec<u8>) -> Result<Vec<u8>, String> {
    let sum = crc32c::crc32c(&record);
    if record.pop() != Some(b'}') || record.len() < 2 {
        return Err("a record has to be a JSON object with members".into());
    }
    record.extend_from_slice(BEFORE);
    record.extend_from_slice(format!("{sum:08x}").as_bytes());
    record.extend_from_slice(AFTER);
    record.push(b'\n');
    Ok(record)
}

/// Reads the bytes of a log.
pub(super) fn replay<T: DeserializeOwned>(bytes: &[u8]) -> Replayed<T> {
    let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |last| last + 1);
    let mut replayed = Replayed { records: Vec::new(), whole: end, unfinished: false, damaged: Vec::new() };
    for (number, line) in bytes[..end].split(|b| *b == b'\n').enumerate().filter(|(_, l)| !l.is_empty()) {
        let (found, is_damaged) = read(line);
        replayed.records.extend(found);
        if is_damaged {
            replayed.damaged.push(number + 1);
        }
    }
    if let (found, false) = read(&bytes[end..])
        && !found.is_empty()
    {
        replayed.records.extend(found);
        (replayed.whole, replayed.unfinished) = (bytes.len(), true);
    }
    replayed
}

/// The records of a line, and whether there is anything else in it. Usually it is one; sealed ones can be told apart also where
/// a line break is lost between them.
fn read<T: DeserializeOwned>(line: &[u8]) -> (Vec<T>, bool) {
    if let Some(record) = unsealed(line) {
        return (vec![record], false);
    }
    let (mut records, mut is_damaged, mut rest) = (Vec::new(), false, line);
    while !rest.is_empty() {
        let end = seal_end(rest).unwrap_or(rest.len());
        let (piece, after) = rest.split_at(end);
        // Of what is glued to half a record, the rest is whole: it begins at one of the braces.
        let mut starts = (0..piece.len()).filter(|start| piece[*start] == b'{');
        match starts.find_map(|start| Some((start, unsealed(&piece[start..])?))) {
            Some((start, record)) => {
                records.push(record);
                is_damaged |= start > 0;
            }
            None => is_damaged = true,
        }
        rest = after;
    }
    (records, is_damaged)
}

/// Where the first checksum ends.
fn seal_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(SEAL).position(is_seal).map(|at| at + SEAL)
}

/// Whether as many bytes as a checksum has are one.
fn is_seal(bytes: &[u8]) -> bool {
    let digits = &bytes[BEFORE.len()..SEAL - AFTER.len()];
    bytes.starts_with(BEFORE) && bytes.ends_with(AFTER) && digits.iter().all(u8::is_ascii_hexdigit)
}

/// A record that its checksum says is the one that was written.
fn unsealed<T: DeserializeOwned>(line: &[u8]) -> Option<T> {
    let (content, seal) = line.split_at_checked(line.len().checked_sub(SEAL)?)?;
    let digits = std::str::from_utf8(seal.strip_prefix(BEFORE)?.strip_suffix(AFTER)?).ok()?;
    let mut content = content.to_vec();
    content.push(b'}');
    if u32::from_str_radix(digits, 16).ok()? != crc32c::crc32c(&content) {
        return None;
    }
    serde_json::from_slice(&content).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_sealed_line_is_json_and_gives_its_record_back() {
        let record = json!({"id": "1", "text": "a \"}\", {b"});
        let line = sealed(serde_json::to_vec(&record).unwrap()).unwrap();
        let read: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read["text"], record["text"]);
        let Replayed { records, whole, unfinished, damaged } = replay::<Value>(&line);
        assert_eq!((records, whole, unfinished, damaged), (vec![record], line.len(), false, Vec::new()));
        assert!(sealed(b"1".to_vec()).is_err() && sealed(b"{}".to_vec()).is_err());
    }

    #[test]
    fn a_line_without_its_checksum_is_none() {
        let whole = String::from_utf8(sealed(b"{\"id\":1}".to_vec()).unwrap()).unwrap();
        let found = replay::<Value>(format!("{whole}{{\"id\":2}}\nnonsense\n{{\"i{whole}{{\"id\":3}}").as_bytes());
        assert_eq!(found.records, [json!({"id": 1}), json!({"id": 1})]);
        assert_eq!((found.damaged, found.unfinished), (vec![2, 3, 4], false));
    }
}
