//! What is in a folder that is an input or an artifact (IO).
//!
//! Files count by their path and content. A link to a file is that file, wherever it is: the cache of the Hugging Face hub is
//! made of such links. A link to a folder is refused, since it can lead in a circle or anywhere.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use crate::{regular, relative};

/// Names that operating systems and tools leave in folders, apart from hidden ones: no part of an input. Nothing opens a
/// file by such a name.
const LEFT_BY_OTHERS: [&str; 3] = ["lost+found", "Thumbs.db", "desktop.ini"];

/// A file of a folder, or something that should be one.
#[derive(Debug)]
pub struct Found {
    /// Path below the folder, with `/`; readable in any case.
    pub path: String,
    /// What is known of the regular file; or why it cannot be used, to follow its path.
    pub file: Result<Metadata, String>,
}

/// Whether something by this name is no part of an input: its name begins with a dot (`.git`, `.cache`, `.DS_Store`), or it is
/// one that operating systems leave behind.
pub fn is_ignored(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".") || LEFT_BY_OTHERS.iter().any(|other| name == *other)
}

/// Everything below a folder but folders and what [`is_ignored`], in order of path.
///
/// # Errors
/// The path that cannot be read, and why.
pub fn files(folder: &Path) -> Result<Vec<Found>, (PathBuf, io::Error)> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        let dir = folder.join(&below);
        let failed = |e| (dir.clone(), e);
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if is_ignored(&name) {
                continue;
            }
            let below = below.join(&name);
            let path = folder.join(&below);
            let about = fs::symlink_metadata(&path).map_err(|e| (path.clone(), e))?;
            if about.is_dir() {
                pending.push(below);
                continue;
            }
            let shown = below.to_string_lossy().into_owned();
            let named = below.to_str().ok_or_else(|| "has a name that is not UTF-8; rename it".to_owned());
            let named = named.and_then(|path| relative::check(path).map_err(|why| format!("has a bad name: {why}")));
            found.push(Found { path: shown, file: named.and_then(|()| usable(&path, about)) });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn usable(path: &Path, about: Metadata) -> Result<Metadata, String> {
    let about = if about.is_symlink() {
        let followed = fs::metadata(path);
        followed.map_err(|e| format!("is a link that leads nowhere ({e}); remove it, or put the file there"))?
    } else {
        about
    };
    match regular::other(about.file_type()) {
        None => Ok(about),
        Some("a directory") => Err("is a link to a directory; put the directory itself there".into()),
        Some(other) => Err(format!("is {other}; expected regular files only: remove it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    fn refused(root: &Path, name: &str) -> String {
        let all = files(root).unwrap();
        all.iter().find(|f| f.path == name).unwrap().file.as_ref().unwrap_err().clone()
    }

    #[test]
    fn files_are_found_by_path_and_what_nobody_opens_is_left_out() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for folder in ["data/deep", ".git", "lost+found", "empty"] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        for file in ["b", "data/a", "data/deep/c", ".git/config", ".DS_Store", "data/.nfs0001", "lost+found/x"] {
            fs::write(at(file), "x").unwrap();
        }
        let paths: Vec<String> = files(root.path()).unwrap().into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["b", "data/a", "data/deep/c"]);
    }

    #[test]
    fn links_to_files_are_files_and_links_to_folders_pipes_and_odd_names_are_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let (snapshot, blobs) = (root.path().join("snapshots/a"), root.path().join("blobs"));
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join("0123"), "weights").unwrap();
        symlink("../../blobs/0123", snapshot.join("model.safetensors")).unwrap();
        let found = files(&snapshot).unwrap();
        assert_eq!(found[0].file.as_ref().unwrap().len(), 7, "as in the cache of a hub");

        symlink(".", snapshot.join("self")).unwrap();
        symlink("/usr", snapshot.join("usr")).unwrap();
        symlink("nothing", snapshot.join("gone")).unwrap();
        symlink("/dev/zero", snapshot.join("zero")).unwrap();
        mknodat(CWD, snapshot.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        fs::write(snapshot.join("a\nb"), "").unwrap();
        fs::write(snapshot.join(OsStr::from_bytes(b"\xff")), "").unwrap();
        for (name, what) in [
            ("self", "link to a directory"),
            ("usr", "link to a directory"),
            ("gone", "leads nowhere"),
            ("zero", "a device"),
            ("pipe", "a named pipe"),
            ("a\nb", "control character"),
            ("\u{fffd}", "not UTF-8"),
        ] {
            assert!(refused(&snapshot, name).contains(what), "{name}: {}", refused(&snapshot, name));
        }
    }
}
