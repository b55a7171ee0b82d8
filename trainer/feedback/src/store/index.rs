//! A snapshot of a work directory: each file as a list of pieces, named by their digests. Computes only.
//!
//! A piece is written once and never changed, and an index is replaced atomically, so that a store contains one
//! complete snapshot whenever the process is killed. If a file has only grown, only its last piece is uploaded again.

use std::collections::{BTreeMap, BTreeSet};

use plumbline_crds::relative;
use serde::{Deserialize, Serialize};

/// Size of a piece in bytes; the last one of a file may be shorter.
pub(super) const PIECE: u64 = 16 << 20;
/// Version of this format.
const VERSION: i64 = 1;

/// A snapshot of a work directory.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    /// Version of this format: 1.
    pub(super) schema_version: i64,
    /// The process that owns the directory.
    #[serde(default)]
    pub(super) owner: String,
    /// Its files, by path relative to the directory, separated by `/`.
    pub(super) files: BTreeMap<String, Entry>,
}

/// A file.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub(super) struct Entry {
    /// Size in bytes.
    pub(super) size: u64,
    /// The sha256 of each piece, hexadecimal, in order.
    pub(super) pieces: Vec<String>,
}

impl Default for Index {
    fn default() -> Self {
        Self { schema_version: VERSION, owner: String::new(), files: BTreeMap::new() }
    }
}

impl Index {
    /// Parses an index.
    ///
    /// # Errors
    /// A description of the fault.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let index: Self = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if index.schema_version != VERSION {
            return Err(format!("expected version {VERSION}, found {}", index.schema_version));
        }
        for (path, entry) in &index.files {
            relative::check(path)?;
            if entry.pieces.len() as u64 != pieces(entry.size) {
                return Err(format!("{path}: {} pieces do not make {} bytes", entry.pieces.len(), entry.size));
            }
        }
        Ok(index)
    }

    /// All pieces that the snapshot refers to.
    pub(super) fn pieces(&self) -> BTreeSet<&str> {
        self.files.values().flat_map(|entry| entry.pieces.iter().map(String::as_str)).collect()
    }
}

/// The number of pieces of a file of this size.
pub(super) fn pieces(size: u64) -> u64 {
    size.div_ceil(PIECE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &str, size: u64, pieces: usize) -> Vec<u8> {
        let entry = Entry { size, pieces: vec!["ab".into(); pieces] };
        serde_json::to_vec(&Index { files: [(path.to_owned(), entry)].into(), ..Index::default() }).unwrap()
    }

    #[test]
    fn an_index_reads_back_and_names_each_piece_once() {
        let index = Index::read(&text("a/b", PIECE + 1, 2)).unwrap();
        assert_eq!(index.files["a/b"].size, PIECE + 1);
        assert_eq!(index.pieces(), ["ab"].into());
        assert!(Index::read(&text("empty", 0, 0)).is_ok());
    }

    /// A sample: each byte of an index changed in some ways, and each truncation.
    #[test]
    fn no_damaged_index_leads_outside_the_directory_or_panics() {
        let whole = text("journal/replies.jsonl", PIECE + 1, 2);
        for at in 0..whole.len() {
            for changed in [b'/', b'.', b'9', b'-', b'"', b'}', 0, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = changed;
                if let Ok(index) = Index::read(&bytes) {
                    assert!(index.files.keys().all(|path| relative::check(path).is_ok()), "byte {at}");
                    assert!(index.files.values().all(|entry| entry.pieces.len() as u64 == pieces(entry.size)));
                }
            }
            assert!(Index::read(&whole[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn paths_outside_the_directory_and_wrong_sizes_are_rejected() {
        for path in ["../a", "/a", "a//b", "a/./b", ""] {
            assert!(Index::read(&text(path, 1, 1)).unwrap_err().contains("not a path below"), "{path}");
        }
        assert!(Index::read(&text("a", PIECE + 1, 1)).unwrap_err().contains("do not make"));
        assert!(Index::read(b"{\"schemaVersion\": 2, \"files\": {}}").unwrap_err().contains("expected version 1"));
        assert!(Index::read(b"{").is_err());
    }
}
