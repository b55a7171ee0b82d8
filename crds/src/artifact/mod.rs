//! Artifacts: a directory is complete when its `manifest.json` exists, every file matches it, and there is nothing else. Reads
//! files; operator and trainer verify with the same code.

mod digest;
mod publish;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use digest::{RECORDS, digest_of, digest_path, digest_path_telling, hex};
pub use publish::publish;

use crate::status::{ArtifactRef, InputRef};
use crate::{regular, relative};
use digest::{digest_of_file, files};

/// Name of the file that completes an artifact.
pub const MANIFEST: &str = "manifest.json";
/// Version of the format.
const VERSION: i64 = 1;
/// The longest manifest, in bytes: some hundred thousand files.
const MAX_MANIFEST: u64 = 64 << 20;

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
    /// Reads an untrusted manifest: every path must be below the directory, and may occur once.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if manifest.schema_version != VERSION {
            return Err(format!("expected schemaVersion {VERSION}, found {}", manifest.schema_version));
        }
        let mut paths = HashSet::new();
        let mut total = 0i64;
        for FileEntry { path, size, sha256 } in &manifest.files {
            relative::check(path)?;
            if path == MANIFEST || !paths.insert(path) {
                return Err(format!("expected each file but {MANIFEST} once, found \"{path}\" again"));
            }
            let sum = i64::try_from(*size).ok().and_then(|size| total.checked_add(size));
            total = sum.ok_or_else(|| format!("{path}: {size} bytes are more than an artifact can have"))?;
            if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(format!("{path}: expected a sha256 of 64 lower-case hexadecimal digits"));
            }
        }
        Ok(manifest)
    }

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
        "{path}: not a complete artifact: there is no manifest.json; the run that writes it has not finished, or the directory was copied in part"
    )]
    Incomplete {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest is none.
    #[error("{path}: manifest.json is not one of an artifact: {what}; restore it, or run the resource again")]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Something in a folder is no input.
    #[error("{path}: {what}")]
    Unusable {
        /// What is in it.
        path: PathBuf,
        /// What it is, and what to do.
        what: String,
    },
    /// A file is missing or differs.
    #[error(
        "{path}: the artifact was altered: {file} {what}; restore it, or run the resource that made it again; of a model that was changed on purpose, remove manifest.json"
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

/// Reads the manifest of a folder and checks every file's presence, size and digest, and that there is nothing else: a file
/// that the manifest does not name can decide what the named ones mean. [`folder::is_ignored`] says what may be there all the
/// same.
pub fn verify(folder: &Path) -> Result<Manifest, ArtifactError> {
    verify_telling(folder, &|| {})
}

/// The same; `told` is called whenever another piece has been read, of a MiB at most.
pub fn verify_telling(folder: &Path, told: &dyn Fn()) -> Result<Manifest, ArtifactError> {
    let manifest = read_manifest(folder)?;
    let altered =
        |file: &str, what: String| ArtifactError::Altered { path: folder.to_owned(), file: file.into(), what };
    let named: HashSet<&str> = manifest.files.iter().map(|f| f.path.as_str()).collect();
    for found in files(folder)? {
        if found.path != MANIFEST && !named.contains(found.path.as_str()) {
            return Err(altered(&found.path, "is not in the manifest".into()));
        }
        if let Err(what) = found.file {
            return Err(altered(&found.path, what));
        }
    }
    for entry in &manifest.files {
        let altered = |what: String| altered(&entry.path, what);
        let path = folder.join(&entry.path);
        let file = match regular::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(altered("is missing".into())),
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Err(altered(format!("cannot be used: {e}"))),
            Err(e) => return Err(io_error(&path)(e)),
        };
        let size = file.metadata().map_err(io_error(&path))?.len();
        if size != entry.size {
            return Err(altered(format!("has {size} bytes where the manifest says {}", entry.size)));
        }
        let sha256 = digest_of_file(file, size, &path, told)?;
        if sha256 != entry.sha256 {
            return Err(altered(format!("has sha256 {sha256} where the manifest says {}", entry.sha256)));
        }
    }
    let digest = digest_of(&manifest.files);
    if digest != manifest.digest {
        let what = format!("says digest {} where its files give {digest}", manifest.digest);
        return Err(altered(MANIFEST, what));
    }
    Ok(manifest)
}

/// Reads the manifest of a folder without checking its files.
pub fn read_manifest(folder: &Path) -> Result<Manifest, ArtifactError> {
    let path = folder.join(MANIFEST);
    let text = match regular::read(&path, MAX_MANIFEST) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            return Err(ArtifactError::Incomplete { path: folder.to_owned() });
        }
        Err(e) => return Err(io_error(&path)(e)),
    };
    Manifest::parse(&text).map_err(|what| ArtifactError::Unreadable { path: folder.to_owned(), what })
}

#[cfg(test)]
mod tests;
