//! Moves a finished artifact to its place in one step. Writes files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::digest::{digest_of, list_files};
use super::{ArtifactError, MANIFEST, Manifest, VERSION, io_error};
use crate::status::InputRef;

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
        schema_version: VERSION,
        kind: kind.to_owned(),
        name: name.to_owned(),
        digest: digest_of(&files),
        files,
        inputs,
        created_time,
    };
    let path = staging.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|e| ArtifactError::Unreadable { path: staging.to_owned(), what: e.to_string() })?;
    let mut file = File::create(&path).map_err(io_error(&path))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(io_error(&path))?;
    // A bare name has the empty path for a parent.
    let parent = match target.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => target,
    };
    fs::create_dir_all(parent).map_err(io_error(parent))?;
    let arrived = beside(staging, target)?;
    // The old artifact leaves in one step: a removal that is cut short would leave a mixture behind.
    let replaced = target.with_added_extension("replaced");
    remove(&replaced)?;
    match fs::rename(target, &replaced) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(io_error(target)(e)),
    }
    fs::rename(&arrived, target).map_err(io_error(target))?;
    File::open(parent).and_then(|f| f.sync_all()).map_err(io_error(parent))?;
    remove(&replaced)?;
    Ok(manifest)
}

/// Moves a folder to where one step puts it at `target`: it may have to come from another file system.
fn beside(staging: &Path, target: &Path) -> Result<PathBuf, ArtifactError> {
    let arriving = target.with_added_extension("arriving");
    remove(&arriving)?;
    match fs::rename(staging, &arriving) {
        Ok(()) => return Ok(arriving),
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {}
        Err(e) => return Err(io_error(&arriving)(e)),
    }
    let copied = copy(staging, &arriving);
    if copied.is_err() {
        // Half of it takes room that a full disk does not have.
        let _ = fs::remove_dir_all(&arriving);
    }
    copied?;
    remove(staging)?;
    Ok(arriving)
}

/// Copies a folder of folders and regular files, and forces it to the disk.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), ArtifactError> {
    fs::create_dir(to).map_err(io_error(to))?;
    for entry in fs::read_dir(from).map_err(io_error(from))? {
        let name = entry.map_err(io_error(from))?.file_name();
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            copy(&source, &target)?;
            continue;
        }
        let copied = fs::copy(&source, &target).and_then(|_| File::open(&target)).and_then(|file| file.sync_all());
        copied.map_err(io_error(&target))?;
    }
    Ok(())
}

/// Removes a folder if it is there.
fn remove(folder: &Path) -> Result<(), ArtifactError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error(folder)(e)),
        _ => Ok(()),
    }
}
