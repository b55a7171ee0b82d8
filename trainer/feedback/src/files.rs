//! Files of a run (IO): small ones that are written atomically and read back after a restart, and those of others,
//! which are opened only if they are regular.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::Path;

use plumbline_crds::{folder, regular};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// File in a work directory that is locked by the process that uses it.
pub const HELD: &str = "held.lock";

/// Replaces a file atomically: a reader, and a restart after a kill or a power failure, sees the old content or the new
/// one.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let aside = path.with_added_extension("new");
    let write = || {
        let mut file = File::create(&aside)?;
        file.write_all(content)?;
        // Otherwise the new name can reach the disk before the content does.
        file.sync_data()
    };
    let written = write().map_err(|e| Error::disk(&aside, e));
    let replaced = written.and_then(|()| fs::rename(&aside, path).map_err(|e| Error::disk(path, e)));
    // Half a file takes room that a full disk does not have.
    replaced.inspect_err(|_| drop(fs::remove_file(&aside)))
}

/// Saves a value for a restart; [`kept`] reads it back.
pub fn keep<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|e| Error::Failed(format!("{}: {e}", path.display())))?;
    replace(path, &text)
}

/// A saved value, if there is one.
pub fn kept<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|e| Error::Data(format!("{}: {e}", path.display())))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::disk(path, e)),
    }
}

/// Writes JSON for people and other programs, indented, with a line break at the end, and syncs it to disk.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::Failed(format!("{}: {e}", path.display())))?;
    text.push(b'\n');
    File::create(path)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .map_err(|e| Error::disk(path, e))
}

/// Opens a file that is not our own. Pipes, devices and directories are rejected without blocking; links to files are
/// followed.
///
/// # Errors
/// `Data`, with the path and what was found.
pub fn open_regular(path: &Path) -> Result<File> {
    regular::open(path).map_err(|e| Error::Data(format!("{}: cannot be opened: {e}", path.display())))
}

/// Rejects what is no directory, and a model directory that contains anything but regular files and links to them: a pipe, a
/// device, a link to a directory, a dangling link. The inputs of a stage are checked when their digests are computed; this is for
/// directories that are named on the command line.
///
/// # Errors
/// `Data`, with the path and what was found.
pub fn check_folder(path: &Path) -> Result<()> {
    let found = match folder::files(path) {
        Ok(found) => found,
        Err((at, error)) if at == path => {
            let found = match error.kind() {
                ErrorKind::NotFound => "no such directory".to_owned(),
                ErrorKind::NotADirectory => {
                    "expected a model directory, found a file; convert a GGUF file with `plumbline-trainer import`"
                        .to_owned()
                }
                _ => error.to_string(),
            };
            return Err(Error::Data(format!("{}: {found}", path.display())));
        }
        Err((at, error)) => return Err(Error::Data(format!("{}: {error}", at.display()))),
    };
    for found in found {
        found.file.map_err(|why| Error::Data(format!("{}: {why}", path.join(found.path).display())))?;
    }
    Ok(())
}

/// Locks a directory for this process, as long as the file lives: two processes that write to one directory would
/// corrupt each other's work.
///
/// # Errors
/// `Store` if another process holds the lock, `Disk` if it cannot be written.
pub fn hold(folder: &Path) -> Result<File> {
    let path = folder.join(HELD);
    let held = File::options().create(true).truncate(false).write(true).open(&path);
    let held = held.map_err(|e| Error::disk(&path, e))?;
    match held.try_lock() {
        Ok(()) => Ok(held),
        Err(TryLockError::WouldBlock) => Err(Error::Store(format!(
            "{}: another process is running this stage in the same work directory; wait for it, or stop it",
            folder.display()
        ))),
        Err(TryLockError::Error(e)) => {
            tracing::warn!("{}: {e}; another process in the same directory would go unnoticed", path.display());
            Ok(held)
        }
    }
}

/// Checks early that an artifact can be written to its destination, which happens last.
///
/// # Errors
/// `Config`, with the directory that cannot be written.
pub fn check_output(output: &Path) -> Result<()> {
    let probe = output.with_added_extension("probe");
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let made = fs::create_dir_all(parent).and_then(|()| match fs::create_dir(&probe) {
        // One that was killed has left it.
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    });
    let removed = |()| match fs::remove_dir(&probe) {
        // Another rank of the run, which probes the same output, has removed it.
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    };
    made.and_then(removed).map_err(|e| {
        Error::Config(format!(
            "spec.output.uri: cannot write {}: {}: {e}; change its permissions, or choose another directory",
            output.display(),
            parent.display()
        ))
    })
}

/// Creates an empty directory: files of a killed attempt must not become part of an artifact.
pub fn fresh_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::disk(folder, e)),
        _ => fs::create_dir_all(folder).map_err(|e| Error::disk(folder, e)),
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
    fn a_folder_has_one_holder_and_the_next_is_refused_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let held = hold(folder.path()).unwrap();
        let error = hold(folder.path()).unwrap_err().to_string();
        assert!(error.contains(folder.path().to_str().unwrap()) && error.contains("another process"), "{error}");
        drop(held);
        hold(folder.path()).unwrap();
    }

    #[test]
    fn a_model_directory_that_is_missing_or_a_file_is_refused_as_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        check_folder(folder.path()).unwrap();
        let (absent, file) = (folder.path().join("absent"), folder.path().join("model.gguf"));
        fs::write(&file, "GGUF").unwrap();
        for (path, expected) in [(&absent, "no such directory"), (&file, "expected a model directory, found a file")] {
            let error = check_folder(path).unwrap_err();
            let said = format!("{}: {expected}", path.display());
            assert!(matches!(&error, Error::Data(text) if text.starts_with(&said)), "{error}");
        }
    }

    #[test]
    fn ranks_that_probe_the_same_output_at_once_all_find_it_writable() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        std::thread::scope(|ranks| {
            for _ in 0..4 {
                ranks.spawn(|| (0..300).for_each(|_| check_output(&output).unwrap()));
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_output_that_cannot_be_made_is_refused_by_field_and_folder_and_trying_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        check_output(&folder.path().join("new/out")).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 0);
        fs::write(folder.path().join("file"), "").unwrap();
        for output in [folder.path().join("file/out"), "/proc/nowhere/out".into()] {
            let error = check_output(&output).unwrap_err();
            let named = |text: &String| text.contains("spec.output.uri") && text.contains(output.to_str().unwrap());
            assert!(matches!(&error, Error::Config(text) if named(text)), "{error}");
        }
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
