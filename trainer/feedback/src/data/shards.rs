//! Finds the files of a split in a directory of data files (IO).
//!
//! A dataset's files are in `data/` or directly in its directory, named as by Plumbline and Hugging Face:
//! `train-00000-of-00002.parquet`, `train-00000.jsonl`, `train.jsonl.gz`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::file_kind;
use crate::{Error, Result};

/// The files of a split, in order. Empty if there are none.
///
/// # Errors
/// [`Error::Data`] if the directory cannot be read, has the split in two formats, or lacks one of its parts.
pub(super) fn of_split(folder: &Path, split: &str) -> Result<Vec<PathBuf>> {
    let wrong = |what: String| Error::Data(format!("{}: {what}", folder.display()));
    let mut parts: Vec<Part> = listing(folder)?.into_iter().filter_map(|path| Part::of(path, split)).collect();
    parts.sort_by(|a, b| a.stem.cmp(&b.stem));
    let stems = |format: &str| -> BTreeSet<&str> {
        parts.iter().filter(|p| p.format == format).map(|p| p.stem.as_str()).collect()
    };
    let (json, parquet) = (stems("json"), stems("parquet"));
    if !json.is_empty() && !parquet.is_empty() && json != parquet {
        return Err(wrong(format!("has the split {split} in two formats, in different files; name the file to read")));
    }
    // Plumbline writes the same records in both formats.
    let format = if json.is_empty() { "parquet" } else { "json" };
    parts.retain(|p| p.format == format);
    for pair in parts.windows(2) {
        if pair[0].stem == pair[1].stem {
            return Err(wrong(format!("has {} twice; remove one of the two", pair[0].stem)));
        }
    }
    whole(&parts).map_err(wrong)?;
    Ok(parts.into_iter().map(|p| p.path).collect())
}

/// The files of a required split.
///
/// # Errors
/// Those of [`of_split`]; also if the directory has no file of the split, with a list of what it has.
pub(super) fn required(folder: &Path, split: &str) -> Result<Vec<PathBuf>> {
    let files = of_split(folder, split)?;
    if !files.is_empty() {
        return Ok(files);
    }
    let names: Vec<String> =
        listing(folder)?.iter().filter_map(|p| p.file_name().and_then(|n| n.to_str()).map(str::to_owned)).collect();
    let saved = names.iter().any(|n| file_kind::extension(n) == "arrow" || n == "dataset_dict.json");
    let advice = if saved {
        "this is the output of `save_to_disk`; write the data with `to_parquet` or `to_json`"
    } else {
        "if the file has another name, name the file itself"
    };
    let found = if names.is_empty() { "no file".to_owned() } else { names[..names.len().min(5)].join(", ") };
    Err(Error::Data(format!(
        "{}: expected a dataset with data/{split}-*.jsonl or data/{split}-*.parquet, found {found}; {advice}",
        folder.display()
    )))
}

/// A file of a split.
struct Part {
    path: PathBuf,
    /// The name without its extensions.
    stem: String,
    format: &'static str,
}

impl Part {
    fn of(path: PathBuf, split: &str) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let format = match file_kind::extension(name).as_str() {
            "jsonl" | "ndjson" | "json" => "json",
            "parquet" => "parquet",
            _ => return None,
        };
        let stem = name.split('.').next()?.to_owned();
        let rest = stem.strip_prefix(split)?;
        let of_split = rest.is_empty() || rest.starts_with('-');
        of_split.then_some(Self { path, stem, format })
    }

    /// The last two numbers of `train-00000-of-00002`.
    fn number(&self) -> Option<(usize, usize)> {
        let (rest, all) = self.stem.rsplit_once("-of-")?;
        Some((rest.rsplit_once('-')?.1.parse().ok()?, all.parse().ok()?))
    }
}

/// Checks that no part of a split is missing.
fn whole(parts: &[Part]) -> Result<(), String> {
    let Some(all) = parts.iter().find_map(|p| p.number().map(|(_, all)| all)) else { return Ok(()) };
    let numbers: Vec<Option<(usize, usize)>> = parts.iter().map(Part::number).collect();
    if numbers.len() == all && numbers.iter().enumerate().all(|(i, n)| *n == Some((i, all))) {
        return Ok(());
    }
    let names: Vec<&str> = parts.iter().map(|p| p.stem.as_str()).collect();
    Err(format!("expected all of the {all} parts of a split, found {}; copy the whole directory", names.join(", ")))
}

/// The files in `data/`, or in the directory itself if it has no `data/`.
fn listing(folder: &Path) -> Result<Vec<PathBuf>> {
    let data = folder.join("data");
    let folder = if data.is_dir() { data.as_path() } else { folder };
    let unreadable = |e| Error::Data(format!("{}: cannot be read: {e}", folder.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        for name in names {
            fs::write(folder.path().join("data").join(name), "").unwrap();
        }
        folder
    }

    fn found(names: &[&str]) -> Result<Vec<String>> {
        let folder = files(names);
        let paths = required(folder.path(), "train")?;
        Ok(paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn the_parts_of_a_split_are_listed_in_order_without_other_splits() {
        let names = [
            "train-00001-of-00002.parquet",
            "train-00000-of-00002.parquet",
            "test-00000-of-00001.parquet",
            "training.json",
        ];
        assert_eq!(found(&names).unwrap(), ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]);
        assert_eq!(found(&["train.jsonl.gz"]).unwrap(), ["train.jsonl.gz"]);
        let written_by_us = ["train-00000.jsonl", "train-00000.parquet"];
        assert_eq!(found(&written_by_us).unwrap(), ["train-00000.jsonl"], "no record is read twice");
    }

    #[test]
    fn missing_and_duplicate_parts_are_rejected() {
        for (names, expected) in [
            (vec!["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "all of the 3 parts"),
            (vec!["train-00000-of-00001.parquet", "train-00001.parquet"], "all of the 1 parts"),
            (vec!["train.jsonl", "train-00000-of-00001.parquet"], "in two formats"),
            (vec!["train.jsonl", "train.json.gz"], "has train twice"),
            (vec!["validation.jsonl", "notes.md"], "found notes.md, validation.jsonl; if the file has another name"),
            (vec!["data-00000-of-00001.arrow", "state.json"], "save_to_disk"),
            (vec![], "found no file"),
        ] {
            let error = found(&names).unwrap_err().to_string();
            assert!(error.contains(expected), "{names:?}: {error}");
        }
    }
}
