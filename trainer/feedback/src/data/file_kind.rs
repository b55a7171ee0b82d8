//! The type of a data file, from its first bytes and its name. Computes only.

/// Number of bytes that are needed to decide.
pub(crate) const HEAD: usize = 512;

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// Records as JSON: one per line, or an array.
    Json,
    /// Lines of text (`.txt`).
    Lines,
    /// Parquet.
    Parquet,
    /// One of these compressed with gzip.
    Gzip,
    /// One of these compressed with Zstandard.
    Zstd,
}

/// First bytes of unsupported types, their description, and what to do.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (b"ARROW1", "an Arrow file", TO_PARQUET),
    (b"\xff\xff\xff\xff", "an Arrow stream", TO_PARQUET),
    (b"FEA1", "a Feather file", TO_PARQUET),
    (b"PARE", "an encrypted Parquet file", "decrypt it first"),
    (b"PK\x03\x04", "a zip file or a spreadsheet", UNPACK),
    (b"PK\x05\x06", "an empty zip file", UNPACK),
    (b"BZh", "compressed by bzip2", REPACK),
    (b"\xfd7zXZ\x00", "compressed by xz", REPACK),
    (b"\x04\x22\x4d\x18", "compressed by LZ4", REPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a RAR archive", UNPACK),
    (b"\xd0\xcf\x11\xe0", "an old spreadsheet or document", TO_JSON),
    (b"SQLite format 3\0", "an SQLite database", TO_JSON),
    (b"\x89HDF", "an HDF5 file", TO_JSON),
    (b"\x93NUMPY", "a NumPy array", TO_JSON),
    (b"Obj\x01", "an Avro file", TO_PARQUET),
    (b"ORC", "an ORC file", TO_PARQUET),
    (b"%PDF", "a PDF", TO_JSON),
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "fetch the data with `git lfs pull`"),
    (b"<!DOCTYPE", "a web page", "download the data file itself"),
    (b"<!doctype", "a web page", "download the data file itself"),
    (b"<html", "a web page", "download the data file itself"),
    (b"\xff\xfe", "UTF-16", TO_UTF8),
    (b"\xfe\xff", "UTF-16", TO_UTF8),
    (b"\x00\x00\xfe\xff", "UTF-32", TO_UTF8),
];

/// Extensions of unsupported types without characteristic first bytes, their description, and what to do.
const NAMES: &[(&[&str], &str, &str)] = &[
    (&["csv", "tsv"], "delimiter-separated values", TO_JSON),
    (&["xlsx", "xls", "ods"], "a spreadsheet", TO_JSON),
    (&["arrow", "feather", "ipc"], "an Arrow file", TO_PARQUET),
    (&["pkl", "pickle"], "a pickle, which can run arbitrary code", TO_JSON),
    (&["npy", "npz", "pt", "pth", "bin", "safetensors"], "a file of arrays", TO_JSON),
    (&["avro", "orc", "tfrecord", "tfrecords"], "a table of another format", TO_PARQUET),
    (&["yaml", "yml", "toml", "xml", "html", "md"], "a document", TO_JSON),
    (&["zip", "tar", "tgz", "7z", "rar"], "an archive", UNPACK),
    (&["bz2", "xz", "lz4", "br"], "an unsupported compression", REPACK),
    (&["db", "sqlite", "sqlite3"], "a database", TO_JSON),
];

const TO_JSON: &str = "write it as JSON Lines (`to_json` of datasets or pandas)";
const TO_PARQUET: &str = "write it as Parquet or JSON Lines (`to_parquet` or `to_json` of datasets)";
const UNPACK: &str = "extract it, and name the file of records in it";
const REPACK: &str = "decompress it, or compress it with gzip or zstd";
const TO_UTF8: &str = "save it as UTF-8";

/// The type of a file, from its first [`HEAD`] bytes (fewer if it is shorter) and its name. The error describes an
/// unsupported type, and what to do.
pub(crate) fn of(head: &[u8], name: &str) -> Result<FileKind, String> {
    let found = |what: &str, advice: &str| {
        format!(
            "expected Parquet, or JSON Lines or a JSON array, which may be compressed with gzip or zstd, found \
             {what}; {advice}"
        )
    };
    if head.starts_with(b"\x1f\x8b") {
        return Ok(FileKind::Gzip);
    }
    // A Zstandard frame, or a skippable frame (RFC 8878, section 3.1).
    if head.starts_with(b"\x28\xb5\x2f\xfd")
        || (head.len() > 4 && head[0] & 0xf0 == 0x50 && head[1..4] == *b"\x2a\x4d\x18")
    {
        return Ok(FileKind::Zstd);
    }
    if head.starts_with(b"PAR1") {
        return Ok(FileKind::Parquet);
    }
    if let Some((_, what, advice)) = OTHERS.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Err(found(what, advice));
    }
    if head.get(257..262) == Some(b"ustar".as_slice()) {
        return Err(found("a tar archive", UNPACK));
    }
    if head.len() > 2 && head[0] == 0x80 && (2..=5).contains(&head[1]) {
        return Err(found("a pickle, which can run arbitrary code", TO_JSON));
    }
    if is_utf16(head) {
        return Err(found("UTF-16", TO_UTF8));
    }
    let extension = extension(name);
    if let Some((_, what, advice)) = NAMES.iter().find(|(names, ..)| names.contains(&extension.as_str())) {
        return Err(found(what, advice));
    }
    match extension.as_str() {
        "jsonl" | "ndjson" | "json" => Ok(FileKind::Json),
        "txt" => Ok(FileKind::Lines),
        "parquet" => Err(found("a file that is not Parquet despite its name", "write it again")),
        // The name does not identify the type.
        _ => {
            let text = String::from_utf8_lossy(head);
            let text = text.trim_start_matches('\u{feff}').trim_start();
            if text.is_empty() || text.starts_with(['{', '[']) {
                Ok(FileKind::Json)
            } else {
                let text: String = text.chars().take(20).collect();
                Err(found(&format!("content that begins with {text:?}"), TO_JSON))
            }
        }
    }
}

/// The extension of a file's name in lower case, without that of its compression.
pub(crate) fn extension(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let name = [".gz", ".zst", ".zstd"].iter().find_map(|packed| name.strip_suffix(packed)).unwrap_or(&name);
    name.rsplit_once('.').map_or(String::new(), |(_, extension)| extension.to_owned())
}

/// Whether every other byte is zero, as in UTF-16 of a Western language without a byte order mark.
fn is_utf16(head: &[u8]) -> bool {
    let head = &head[..head.len().min(64)];
    let zeros = |from: usize| head.iter().skip(from).step_by(2).all(|b| *b == 0);
    let text = |from: usize| head.iter().skip(from).step_by(2).all(|b| *b != 0);
    head.len() >= 4 && ((zeros(1) && text(0)) || (zeros(0) && text(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_recognised_by_content_whatever_the_name() {
        for (head, name, expected) in [
            (b"{\"a\": 1}".as_slice(), "p.jsonl", FileKind::Json),
            (b"", "p.jsonl", FileKind::Json),
            (b"\xef\xbb\xbf [", "data", FileKind::Json),
            (b"garbage", "p.json", FileKind::Json),
            (b"Once upon", "p.txt", FileKind::Lines),
            (b"Once upon", "P.TXT.gz", FileKind::Lines),
            (b"\x1f\x8b\x08", "p.jsonl", FileKind::Gzip),
            (b"\x28\xb5\x2f\xfd\x04", "p.csv", FileKind::Zstd),
            (b"PAR1\x15", "p.jsonl", FileKind::Parquet),
        ] {
            assert_eq!(of(head, name), Ok(expected), "{name}");
        }
    }

    #[test]
    fn unsupported_types_are_rejected_by_name_with_advice() {
        let tar = [vec![b'a'; 257], b"ustar\x0000".to_vec()].concat();
        let utf16: Vec<u8> = "{\"prompt\": 1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (head, name, expected) in [
            (b"prompt,chosen".as_slice(), "p.csv", "separated values"),
            (b"prompt,chosen", "p", "begins with \"prompt,chosen\""),
            (b"ARROW1\x00\x00", "p.jsonl", "Arrow file"),
            (b"\xff\xff\xff\xff\x08", "data-00000-of-00001.arrow", "Arrow stream"),
            (b"PK\x03\x04\x14", "p.xlsx", "spreadsheet"),
            (b"\x80\x04\x95", "p", "pickle"),
            (b"(lp0", "p.pkl", "pickle"),
            (&tar, "p.jsonl", "tar archive"),
            (&utf16, "p.jsonl", "UTF-16"),
            (b"\xff\xfe{\x00", "p.jsonl", "UTF-16"),
            (b"BZh9", "p.jsonl", "bzip2"),
            (b"version https://git-lfs.", "p.jsonl", "Git LFS pointer"),
            (b"<!DOCTYPE html>", "p.jsonl", "web page"),
            (b"{}", "p.parquet", "not Parquet despite its name"),
        ] {
            let error = of(head, name).unwrap_err();
            assert!(error.contains(expected) && error.contains("; "), "{name}: {error}");
        }
    }
}
