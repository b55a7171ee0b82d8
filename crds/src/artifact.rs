//! Artifacts: a folder is complete when its `manifest.json` is there and every file matches it. This is the one file of
//! the crate that reads and writes; operator and trainer verify with the same code.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::status::{ArtifactRef, InputRef};

/// Name of the file that completes an artifact.
pub const MANIFEST: &str = "manifest.json";

/// What an artifact consists of and was made from.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of this format: 1.
    pub schema_version: i64,
    /// Kind of the resource that made it, or `Model` for an imported model.
    pub kind: String,
    /// Name of the resource.
    pub name: String,
    /// Every file but this one, by path.
    pub files: Vec<FileEntry>,
    /// `sha256:` and the digest of the list of files (see [`digest_of`]).
    pub digest: String,
    /// Digests of what it was made from.
    pub inputs: Vec<InputRef>,
    /// When it was completed (RFC 3339). Not part of the digest.
    pub created_time: String,
}

/// A file of an artifact.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct FileEntry {
    /// Path below the folder, with `/`.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Digest, hexadecimal.
    pub sha256: String,
}

impl Manifest {
    /// The reference that a status holds.
    pub fn artifact_ref(&self, uri: &str) -> ArtifactRef {
        ArtifactRef {
            uri: uri.to_owned(),
            digest: self.digest.clone(),
            size_bytes: self.files.iter().map(|f| f.size).sum::<u64>() as i64,
            created_time: self.created_time.clone(),
        }
    }
}

/// Why a folder is not a usable artifact.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// No manifest.
    #[error(
        "{path}: not a complete artifact: there is no manifest.json; the run that writes it has not finished, or the folder was copied in part"
    )]
    Incomplete {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest cannot be read.
    #[error("{path}: manifest.json cannot be read: {source}")]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A file is missing or differs.
    #[error(
        "{path}: the artifact was altered: {file} {what}; restore it, or delete the folder and run the resource again"
    )]
    Altered {
        /// The folder.
        path: PathBuf,
        /// The file.
        file: String,
        /// What was expected and found.
        what: String,
    },
    /// The folder cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> ArtifactError + '_ {
    move |source| ArtifactError::Io { path: path.to_owned(), source }
}

/// Reads the manifest of a folder and checks every file's presence, size and digest.
pub fn verify(folder: &Path) -> Result<Manifest, ArtifactError> {
    verify_telling(folder, &|| {})
}

/// The same; `told` is called whenever another piece has been read, of a MiB at most.
pub fn verify_telling(folder: &Path, told: &dyn Fn()) -> Result<Manifest, ArtifactError> {
    let manifest = read_manifest(folder)?;
    for entry in &manifest.files {
        let altered = |what: String| ArtifactError::Altered { path: folder.to_owned(), file: entry.path.clone(), what };
        let path = folder.join(&entry.path);
        let found = match fs::metadata(&path) {
            Ok(m) => m.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(altered("is missing".into())),
            Err(e) => return Err(io_error(&path)(e)),
        };
        if found != entry.size {
            return Err(altered(format!("has {found} bytes where the manifest says {}", entry.size)));
        }
        let sha256 = sha256_file(&path, told)?;
        if sha256 != entry.sha256 {
            return Err(altered(format!("has sha256 {sha256} where the manifest says {}", entry.sha256)));
        }
    }
    let digest = digest_of(&manifest.files);
    if digest != manifest.digest {
        return Err(ArtifactError::Altered {
            path: folder.to_owned(),
            file: MANIFEST.into(),
            what: format!("says digest {} where its files give {digest}", manifest.digest),
        });
    }
    Ok(manifest)
}

/// Reads the manifest of a folder without checking its files.
pub fn read_manifest(folder: &Path) -> Result<Manifest, ArtifactError> {
    let path = folder.join(MANIFEST);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(ArtifactError::Incomplete { path: folder.to_owned() });
        }
        Err(e) => return Err(io_error(&path)(e)),
    };
    serde_json::from_slice(&text).map_err(|source| ArtifactError::Unreadable { path: folder.to_owned(), source })
}

/// Completes `staging` with a manifest and moves it to `target`, replacing what is there. After a crash at any point
/// `target` is the old artifact, the new one, or absent; never a mixture.
pub fn publish(
    staging: &Path,
    target: &Path,
    kind: &str,
    name: &str,
    inputs: Vec<InputRef>,
    created_time: String,
) -> Result<Manifest, ArtifactError> {
    let files = list_files(staging, &|| {})?;
    let manifest = Manifest {
        schema_version: 1,
        kind: kind.to_owned(),
        name: name.to_owned(),
        digest: digest_of(&files),
        files,
        inputs,
        created_time,
    };
    let path = staging.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|source| ArtifactError::Unreadable { path: staging.to_owned(), source })?;
    let mut file = File::create(&path).map_err(io_error(&path))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(io_error(&path))?;
    // A bare name has the empty path for a parent.
    let parent = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => target,
    };
    fs::create_dir_all(parent).map_err(io_error(parent))?;
    // The old artifact leaves in one step: a removal that is cut short would leave a mixture behind.
    let replaced = target.with_added_extension("replaced");
    remove(&replaced)?;
    match fs::rename(target, &replaced) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_error(target)(e)),
    }
    fs::rename(staging, target).map_err(io_error(target))?;
    File::open(parent).and_then(|f| f.sync_all()).map_err(io_error(parent))?;
    remove(&replaced)?;
    Ok(manifest)
}

/// Removes a folder if it is there.
fn remove(folder: &Path) -> Result<(), ArtifactError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(folder)(e)),
        _ => Ok(()),
    }
}

/// The digest of an input: of a folder with a manifest, the manifest's after verification; of another folder, of its
/// files as a manifest would list them; of a file, of its bytes. Always `sha256:` and 64 hexadecimal digits.
pub fn digest_path(path: &Path) -> Result<String, ArtifactError> {
    digest_path_telling(path, &|| {})
}

/// The same; `told` is called whenever another piece has been read, of a MiB at most.
pub fn digest_path_telling(path: &Path, told: &dyn Fn()) -> Result<String, ArtifactError> {
    if !path.is_dir() {
        return Ok(format!("sha256:{}", sha256_file(path, told)?));
    }
    if path.join(MANIFEST).exists() {
        Ok(verify_telling(path, told)?.digest)
    } else {
        Ok(digest_of(&list_files(path, told)?))
    }
}

/// Files that tell how an artifact was made, with the seconds it took: verified like the others, but not part of the
/// digest, so that the same work gives the same digest.
pub const RECORDS: [&str; 4] = ["report.json", "report.html", "summary.json", "README.md"];

/// The digest of a list of files: sha256 over one line a file, `sha256 size path`, in order of path, without records of
/// how it was made.
pub fn digest_of(files: &[FileEntry]) -> String {
    let content = files.iter().filter(|f| !RECORDS.contains(&f.path.as_str()));
    let mut lines: Vec<String> = content.map(|f| format!("{} {} {}\n", f.sha256, f.size, f.path)).collect();
    lines.sort_by(|a, b| a.splitn(3, ' ').nth(2).cmp(&b.splitn(3, ' ').nth(2)));
    format!("sha256:{}", hex(&Sha256::digest(lines.concat().as_bytes())))
}

/// Every file below a folder but the manifest, in order of path.
fn list_files(folder: &Path, told: &dyn Fn()) -> Result<Vec<FileEntry>, ArtifactError> {
    let mut files = Vec::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(io_error(&dir))? {
            let path = entry.map_err(io_error(&dir))?.path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let relative = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
            if relative == MANIFEST {
                continue;
            }
            let size = fs::metadata(&path).map_err(io_error(&path))?.len();
            files.push(FileEntry { path: relative, size, sha256: sha256_file(&path, told)? });
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn sha256_file(path: &Path, told: &dyn Fn()) -> Result<String, ArtifactError> {
    let mut file = File::open(path).map_err(io_error(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(io_error(path))?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
        told();
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, b| text + &format!("{b:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(root: &Path) -> PathBuf {
        let staging = root.join("staging");
        fs::create_dir_all(staging.join("data")).unwrap();
        fs::write(staging.join("data/a.jsonl"), "{}\n").unwrap();
        fs::write(staging.join("README.md"), "text").unwrap();
        let target = root.join("out");
        publish(&staging, &target, "RewardModel", "r", Vec::new(), "2026-01-01T00:00:00Z".into()).unwrap();
        target
    }

    #[test]
    fn a_published_folder_verifies_and_its_digest_does_not_depend_on_time() {
        let root = tempfile::tempdir().unwrap();
        let target = published(root.path());
        let manifest = verify(&target).unwrap();
        assert_eq!(manifest.files.iter().map(|f| f.path.as_str()).collect::<Vec<_>>(), ["README.md", "data/a.jsonl"]);
        assert_eq!(digest_path(&target).unwrap(), manifest.digest);
        fs::remove_file(target.join(MANIFEST)).unwrap();
        assert_eq!(digest_path(&target).unwrap(), manifest.digest, "a plain folder has the digest of its files");
    }

    #[test]
    fn an_incomplete_or_altered_folder_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let target = published(root.path());
        fs::write(target.join("README.md"), "texT").unwrap();
        let error = verify(&target).unwrap_err().to_string();
        assert!(error.contains("README.md") && error.contains("altered"), "{error}");
        fs::write(target.join("README.md"), "texts").unwrap();
        assert!(verify(&target).unwrap_err().to_string().contains("5 bytes"));
        fs::remove_file(target.join("README.md")).unwrap();
        assert!(verify(&target).unwrap_err().to_string().contains("missing"));
        fs::remove_file(target.join(MANIFEST)).unwrap();
        assert!(matches!(verify(&target), Err(ArtifactError::Incomplete { .. })));
    }

    #[test]
    fn publishing_a_folder_with_a_dot_in_its_name_leaves_its_neighbours_alone() {
        let root = tempfile::tempdir().unwrap();
        let neighbour = root.path().join("model.replaced");
        fs::create_dir_all(&neighbour).unwrap();
        for _ in 0..2 {
            let staging = root.path().join("staging");
            fs::create_dir_all(&staging).unwrap();
            fs::write(staging.join("a"), "a").unwrap();
            publish(&staging, &root.path().join("model.v1"), "RewardModel", "r", Vec::new(), String::new()).unwrap();
        }
        assert!(neighbour.exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "what was replaced is gone");
    }
}
