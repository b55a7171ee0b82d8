//! Small operations on files of a run. Talks to the file system.

use std::fs;
use std::io;
use std::path::Path;

use super::work_dir::WorkDirError;

/// The last lines of a file; nothing if it cannot be read.
pub(super) fn tail(file: &Path, lines: usize) -> String {
    let content = fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Removes a file, if it exists.
pub(super) fn remove(file: &Path) -> Result<(), WorkDirError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(WorkDirError::at(file)(error)),
        _ => Ok(()),
    }
}
