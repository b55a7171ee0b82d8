//! The records of a file or a directory (IO): JSON Lines, a JSON array, Parquet, the first two optionally compressed.
//! Prompts, preferences and texts are all read with this.

use std::path::{Path, PathBuf};

use super::fields::Fields;
use super::jsonl::{self, Next};
use super::schema::REFUSED;
use super::unpack::{Opened, open};
use super::{file_kind, parquet_rows, shards};
use crate::{Error, Result};

/// The files of a path: the file itself, or those of a directory's `train` split.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_dir() { shards::required(path, "train") } else { Ok(vec![path.to_owned()]) }
}

/// Passes each record of a file to `take`. `known`: the fields that it uses. An error of `take` is prefixed with the
/// file and the line (in Parquet, the row).
pub(crate) fn read(path: &Path, known: &[&str], take: &mut dyn FnMut(Fields) -> Result<Next, String>) -> Result<()> {
    let mut record = |value| take(Fields::of("", value)?);
    match open(path)? {
        Opened::Json(mut reader) => jsonl::records(&mut *reader, &mut record).map_err(|e| at_line(path, &e)),
        Opened::Parquet(file) => {
            let columns: Vec<&str> = known.iter().chain(REFUSED).copied().collect();
            parquet_rows::rows(file, &columns, &mut record).map_err(|(row, what)| {
                let place = if row == 0 { String::new() } else { format!(" row {row}:") };
                Error::Data(format!("{}:{place} {what}", path.display()))
            })
        }
        Opened::Lines(_) => Err(Error::Data(format!(
            "{}: expected records, found a file that is plain lines by its name; rename it to .jsonl if it contains \
             JSON Lines",
            path.display()
        ))),
    }
}

/// Whether a file contains lines of text, by its name.
pub(crate) fn is_lines(path: &Path) -> bool {
    path.file_name().and_then(|n| n.to_str()).is_some_and(|name| file_kind::extension(name) == "txt")
}

/// Passes each non-blank line of a text file to `take`.
pub(crate) fn lines(path: &Path, take: &mut dyn FnMut(&str) -> Result<Next, String>) -> Result<()> {
    match open(path)? {
        Opened::Lines(mut reader) => jsonl::lines(&mut *reader, take).map_err(|e| at_line(path, &e)),
        _ => Err(Error::Data(format!(
            "{}: expected lines of text, found Parquet; rename it to .parquet",
            path.display()
        ))),
    }
}

fn at_line(path: &Path, (line, what): &jsonl::Wrong) -> Error {
    Error::Data(format!("{}:{line}: {what}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::super::preference::{Preference, read, read_file, write_file};
    use super::super::{Content, parquet};
    use super::*;

    fn records(from: usize, to: usize) -> Vec<Preference> {
        let text = |what: &str, i: usize| Content::Text(format!("{what} {i} \u{e9}\u{1f600}\n\"[{{,"));
        let one = |i| Preference {
            prompt: text("prompt", i),
            chosen: text("good", i),
            rejected: text("bad", i),
            p: 0.75,
            margin: None,
            prompt_id: text("prompt", i).id(),
            provenance: None,
        };
        (from..to).map(one).collect()
    }

    fn json_lines(records: &[Preference]) -> Vec<u8> {
        records.iter().flat_map(|r| [serde_json::to_vec(r).unwrap(), b"\n".to_vec()].concat()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 0).unwrap()
    }

    /// The records read from a file of this name and content.
    fn read_as(name: &str, bytes: &[u8]) -> Result<Vec<Preference>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        read_file(&path)
    }

    #[test]
    fn every_supported_type_gives_the_same_records() {
        let expected = records(0, 40);
        let lines = json_lines(&expected);
        let array = serde_json::to_vec_pretty(&expected).unwrap();
        let mark = |bytes: &[u8]| [b"\xef\xbb\xbf", bytes].concat();
        let halves = [gzip(&json_lines(&records(0, 20))), gzip(&json_lines(&records(20, 40)))].concat();
        let frames = [zstd(&json_lines(&records(0, 20))), zstd(&json_lines(&records(20, 40)))].concat();
        for (name, bytes) in [
            ("p.jsonl", lines.clone()),
            ("p.json", array.clone()),
            ("p", mark(&array)),
            ("p.jsonl", mark(&lines)),
            ("p.jsonl.gz", gzip(&lines)),
            ("p.jsonl", halves),
            ("p.json.zst", zstd(&array)),
            ("p.jsonl.zst", frames),
            ("p.json", serde_json::to_vec(&expected).unwrap()),
        ] {
            assert_eq!(read_as(name, &bytes).unwrap(), expected, "{name}");
        }
        let packed = read_as("p.csv", &zstd(&lines)).unwrap_err().to_string();
        assert!(packed.contains("separated values"), "what is in the package is called a table: {packed}");
    }

    #[test]
    fn a_directory_is_read_in_parts_with_its_validation_split() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        parquet::write_file(&data.join("train-00001-of-00002.parquet"), &records(20, 40)).unwrap();
        parquet::write_file(&data.join("train-00000-of-00002.parquet"), &records(0, 20)).unwrap();
        let (train, held_out) = read(folder.path()).unwrap();
        assert_eq!(train.len() + held_out.len(), 40);
        assert!(!held_out.is_empty(), "a share of the prompts, as of a file");
        write_file(&data.join("test.jsonl"), &records(40, 45)).unwrap();
        assert_eq!(read(folder.path()).unwrap(), (records(0, 40), records(40, 45)));
    }

    #[test]
    fn an_error_names_the_line_or_the_row() {
        let good = json_lines(&records(0, 1));
        let bad = br#"{"prompt": "q", "chosen": "a", "rejected": 5}"#;
        let array = [b"[\n", good.as_slice(), b",\n\n", bad, b"]"].concat();
        for (name, bytes, expected) in [
            ("p.jsonl", [good.as_slice(), b"\n", bad].concat(), "p.jsonl:3: `rejected` is a number"),
            ("p.json", array.clone(), "p.json:5: `rejected` is a number"),
            ("p.json.gz", gzip(&array), "p.json.gz:5: `rejected` is a number"),
            ("p.json", b"[{}, {}".to_vec(), "p.json:1: expected the field `prompt`; add it"),
            ("p.json", [b"[".as_slice(), &good].concat(), "is not closed"),
            ("p.json", [b"[".as_slice(), &good, b",]"].concat(), "expected a record between the brackets"),
            ("p.json", [b"[".as_slice(), &good, b"]]"].concat(), "unexpected content after the array"),
            ("p.json", b"{\n \"prompt\": 1}".to_vec(), "a complete record on the line, or a JSON array of records"),
            ("p.jsonl", b"5".to_vec(), "p.jsonl:1: expected an object, found a number"),
            ("p.jsonl.gz", gzip(&good)[..30].to_vec(), "the file is truncated or damaged"),
            ("p.jsonl.gz", gzip(&gzip(&good)), "compressed twice"),
            ("p.parquet", b"PAR1 no footer PAR1".to_vec(), "cannot be read as Parquet"),
        ] {
            let error = read_as(name, &bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.parquet");
        let mut rows = records(0, 3);
        rows[1].rejected = rows[1].chosen.clone();
        parquet::write_file(&path, &rows).unwrap();
        let error = read_file(&path).unwrap_err().to_string();
        assert!(error.contains("p.parquet: row 2: `chosen` and `rejected` are equal"), "{error}");
    }

    #[test]
    fn a_record_of_fifty_megabytes_is_accepted() {
        let mut long = records(0, 1);
        long[0].chosen = Content::Text("word ".repeat(10_000_000));
        assert_eq!(read_as("p.jsonl", &json_lines(&long)).unwrap(), long);
    }
}
