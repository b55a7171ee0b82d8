//! Reads manifest files, folders and standard input. Talks to the file system only.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use plumbline_crds::regular;

use crate::printable::cause;

/// The largest file of manifests, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// A file of manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file as people named it; `-` for standard input.
    pub name: String,
    /// The folder that relative paths in it start from, absolute.
    pub folder: PathBuf,
    /// The content.
    pub text: String,
}

/// Why manifests cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A file or folder cannot be read.
    #[error("{path}: {}", why(source))]
    Io {
        /// As named on the command line.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A folder without manifests.
    #[error(
        "{path}: expected *.yaml, *.yml or *.json files in this directory, found none; name the file itself with -f"
    )]
    NoManifests {
        /// As named on the command line.
        path: String,
    },
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("{}; check the path after -f", cause(error)),
        _ => format!("cannot be read: {}", cause(error)),
    }
}

/// Reads what `-f` names: files as they come, a folder's manifests in order of name.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Source>, ReadError> {
    let mut sources = Vec::new();
    for path in paths {
        let failed = |source| ReadError::Io { path: path.display().to_string(), source };
        if path == Path::new("-") {
            let text = bounded(io::stdin().lock()).map_err(failed)?;
            sources.push(Source { name: "-".into(), folder: std::env::current_dir().map_err(failed)?, text });
        } else if path.is_dir() {
            let files = manifests(path).map_err(failed)?;
            if files.is_empty() {
                return Err(ReadError::NoManifests { path: path.display().to_string() });
            }
            for file in files {
                sources.push(file_in_folder(&file)?);
            }
        } else {
            // What is named may be a pipe, as that of another command.
            sources.push(source(path, fs::File::open(path))?);
        }
    }
    Ok(sources)
}

/// A file that nobody named: opening a pipe would wait for a writer that may never come.
fn file_in_folder(path: &Path) -> Result<Source, ReadError> {
    source(path, regular::open(path))
}

fn source(path: &Path, file: io::Result<fs::File>) -> Result<Source, ReadError> {
    let failed = |source| ReadError::Io { path: path.display().to_string(), source };
    let text = file.and_then(bounded).map_err(failed)?;
    let absolute = std::path::absolute(path).map_err(failed)?;
    let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
    Ok(Source { name: path.display().to_string(), folder, text })
}

/// The text of a file that is no larger than files of manifests are.
fn bounded(file: impl Read) -> io::Result<String> {
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        let message =
            format!("more than {MAX_FILE} bytes: put prompts into a file of their own, or manifests into several");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    String::from_utf8(text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.utf8_error()))
}

fn manifests(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if path.is_file() && ["yaml", "yml", "json"].contains(&extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_manifests_in_order_of_name_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yml", "a.yaml", "c.json", "notes.txt"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let texts: Vec<String> = read(&[folder.path().to_owned()]).unwrap().into_iter().map(|s| s.text).collect();
        assert_eq!(texts, ["a.yaml", "b.yml", "c.json"]);
    }

    #[test]
    fn a_file_without_end_is_refused_and_not_read_to_its_end() {
        assert_eq!(bounded(io::repeat(b'a').take(MAX_FILE)).unwrap().len() as u64, MAX_FILE);
        assert!(bounded(io::repeat(b'a')).unwrap_err().to_string().contains("bytes"));
    }

    #[test]
    fn what_is_no_regular_file_in_a_folder_is_never_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("b.yaml");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let error = file_in_folder(&pipe).unwrap_err().to_string();
        assert!(error.contains("b.yaml") && error.contains("a named pipe"), "{error}");
    }

    #[test]
    fn a_long_file_is_refused_for_its_length_also_where_the_limit_cuts_a_character() {
        let long = "a".repeat(MAX_FILE as usize) + "\u{e4}";
        assert_eq!(bounded(long.as_bytes()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(bounded(&b"\xff"[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_path_without_manifests_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read(&[folder.path().to_owned()]), Err(ReadError::NoManifests { .. })));
        let error = read(&[folder.path().join("gone.yaml")]).unwrap_err().to_string();
        assert!(error.ends_with("gone.yaml: no such file or directory; check the path after -f"), "{error}");
    }
}
