//! Files of a run (IO): small ones that are written whole or not at all and read back after a restart, and those of others,
//! which are opened only if they are regular.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use plumbline_crds::regular;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Replaces a file in one step: a reader, and a restart after a kill, sees the old content or the new one.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let aside = path.with_added_extension("new");
    let written = fs::write(&aside, content).map_err(|e| Error::store(&aside, &e));
    let replaced = written.and_then(|()| fs::rename(&aside, path).map_err(|e| Error::store(path, &e)));
    // Half a file takes room that a full disk does not have.
    replaced.inspect_err(|_| drop(fs::remove_file(&aside)))
}

/// Keeps a value for a restart; [`kept`] reads it back.
pub fn keep<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|e| Error::Failed(format!("{}: {e}", path.display())))?;
    replace(path, &text)
}

/// A value that was kept, if there is one.
pub fn kept<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|e| Error::Data(format!("{}: {e}", path.display())))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::store(path, &e)),
    }
}

/// Writes JSON for people and other programs, indented, with a line break at the end, and forces it to the disk.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::Failed(format!("{}: {e}", path.display())))?;
    text.push(b'\n');
    File::create(path)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .map_err(|e| Error::store(path, &e))
}

/// Opens a file that somebody else made. A pipe, a device and a folder are refused without waiting for them; links to files are
/// followed.
///
/// # Errors
/// `Data`, with the path and what is there.
pub fn open_regular(path: &Path) -> Result<File> {
    regular::open(path).map_err(|e| Error::Data(format!("{}: cannot be opened: {e}", path.display())))
}

/// Makes an empty folder: what a killed attempt left there must not become part of an artifact.
pub fn fresh_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::store(folder, &e)),
        _ => fs::create_dir_all(folder).map_err(|e| Error::store(folder, &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_what_was_never_kept_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        assert_eq!(kept::<Vec<f64>>(&path).unwrap(), None);
        keep(&path, &vec![0.1, -2.5]).unwrap();
        keep(&path, &vec![0.1, -2.5, 3.0]).unwrap();
        assert_eq!(kept::<Vec<f64>>(&path).unwrap(), Some(vec![0.1, -2.5, 3.0]));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left aside");
        fs::write(&path, "[0.1").unwrap();
        assert!(kept::<Vec<f64>>(&path).unwrap_err().to_string().contains("a.json"));
    }

    #[test]
    fn a_fresh_folder_is_empty_whatever_was_there() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("staging");
        fresh_folder(&folder).unwrap();
        fs::write(folder.join("left"), "x").unwrap();
        fresh_folder(&folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}
