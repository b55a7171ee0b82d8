//! The digest of files and directories. Reads files.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{ArtifactError, FileEntry, MANIFEST, io_error, verify_telling};
use crate::{folder, regular};

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
    // A link that leads nowhere, or a pipe, is no reason to take the folder for one without a manifest.
    if path.join(MANIFEST).symlink_metadata().is_ok() {
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
pub(super) fn list_files(folder: &Path, told: &dyn Fn()) -> Result<Vec<FileEntry>, ArtifactError> {
    let mut list = Vec::new();
    for found in files(folder)?.into_iter().filter(|f| f.path != MANIFEST) {
        let path = folder.join(&found.path);
        let unusable = |what| ArtifactError::Unusable { path: path.clone(), what };
        let size = found.file.map_err(unusable)?.len();
        let sha256 = sha256_file(&path, told)?;
        list.push(FileEntry { path: found.path, size, sha256 });
    }
    Ok(list)
}

pub(super) fn files(folder: &Path) -> Result<Vec<folder::Found>, ArtifactError> {
    folder::files(folder).map_err(|(path, source)| ArtifactError::Io { path, source })
}

fn sha256_file(path: &Path, told: &dyn Fn()) -> Result<String, ArtifactError> {
    let file = regular::open(path).map_err(io_error(path))?;
    let size = file.metadata().map_err(io_error(path))?.len();
    digest_of_file(file, size, path, told)
}

/// The sha256 of a file that has so many bytes, hexadecimal. What gives more than it says, as files of `/proc` do, has no end
/// that could be relied on.
pub(super) fn digest_of_file(file: File, size: u64, path: &Path, told: &dyn Fn()) -> Result<String, ArtifactError> {
    let mut file = file.take(size.saturating_add(1));
    let mut hasher = Sha256::new();
    let (mut buffer, mut read) = (vec![0u8; 1 << 20], 0u64);
    loop {
        let n = file.read(&mut buffer).map_err(io_error(path))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        read += n as u64;
        told();
    }
    if read != size {
        let found = if read > size { "more".to_owned() } else { read.to_string() };
        let changes = format!("expected a file of {size} bytes, found {found}; wait until it is written");
        return Err(io_error(path)(io::Error::new(io::ErrorKind::InvalidData, changes)));
    }
    Ok(hex(&hasher.finalize()))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, b| text + &format!("{b:02x}"))
}
