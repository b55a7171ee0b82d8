//! Artifacts: a folder is complete when its `manifest.json` is there, every file matches it, and nothing else is there. Reads
//! and writes files; operator and trainer verify with the same code.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::status::{ArtifactRef, InputRef};
use crate::{folder, regular, relative};

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
    /// Reads a manifest that somebody else may have written: every path leads below the folder, and is there once.
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
        "{path}: not a complete artifact: there is no manifest.json; the run that writes it has not finished, or the folder was copied in part"
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
fn copy(from: &Path, to: &Path) -> Result<(), ArtifactError> {
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
fn list_files(folder: &Path, told: &dyn Fn()) -> Result<Vec<FileEntry>, ArtifactError> {
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

fn files(folder: &Path) -> Result<Vec<folder::Found>, ArtifactError> {
    folder::files(folder).map_err(|(path, source)| ArtifactError::Io { path, source })
}

fn sha256_file(path: &Path, told: &dyn Fn()) -> Result<String, ArtifactError> {
    let file = regular::open(path).map_err(io_error(path))?;
    let size = file.metadata().map_err(io_error(path))?.len();
    digest_of_file(file, size, path, told)
}

/// The sha256 of a file that has so many bytes, hexadecimal. What gives more than it says, as files of `/proc` do, has no end
/// that could be relied on.
fn digest_of_file(file: File, size: u64, path: &Path, told: &dyn Fn()) -> Result<String, ArtifactError> {
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
        let changes = format!("expected a file of {size} bytes, found another length; is it being written?");
        return Err(io_error(path)(io::Error::new(io::ErrorKind::InvalidData, changes)));
    }
    Ok(hex(&hasher.finalize()))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, b| text + &format!("{b:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

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
    fn what_the_manifest_does_not_name_is_refused_wherever_it_is_and_whatever_it_is() {
        let root = tempfile::tempdir().unwrap();
        let target = published(root.path());
        let extra = |name: &str| target.join(name);
        for name in ["model.safetensors.index.json", "data/train-00001.jsonl", "chat_template.jinja", "deep/er/x"] {
            fs::create_dir_all(extra(name).parent().unwrap()).unwrap();
            fs::write(extra(name), "x").unwrap();
            let error = verify(&target).unwrap_err();
            assert!(matches!(&error, ArtifactError::Altered { .. }), "{error}");
            assert!(error.to_string().contains(&format!("altered: {name} is not in the manifest")), "{error}");
            assert!(digest_path(&target).is_err(), "as an input it has no digest");
            fs::remove_file(extra(name)).unwrap();
        }
        mknodat(CWD, extra("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(verify(&target).unwrap_err().to_string().contains("pipe is not in the manifest"));
        fs::remove_file(extra("pipe")).unwrap();
        symlink(root.path(), extra("elsewhere")).unwrap();
        assert!(verify(&target).unwrap_err().to_string().contains("elsewhere is not in the manifest"));
        fs::remove_file(extra("elsewhere")).unwrap();
        // What operating systems and tools leave there.
        fs::create_dir(extra("lost+found")).unwrap();
        fs::create_dir(extra(".cache")).unwrap();
        for name in [".DS_Store", ".gitattributes", ".cache/x", "lost+found/1"] {
            fs::write(extra(name), "x").unwrap();
        }
        verify(&target).unwrap();
    }

    #[test]
    fn a_named_file_may_be_a_link_to_its_content_and_to_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let target = published(root.path());
        let (file, blob) = (target.join("data/a.jsonl"), root.path().join("blob"));
        fs::rename(&file, &blob).unwrap();
        symlink("../../blob", &file).unwrap();
        verify(&target).unwrap();
        for (other, what) in [("/etc/passwd", "bytes where"), ("/dev/zero", "is a device"), ("/", "link to a folder")] {
            fs::remove_file(&file).unwrap();
            symlink(other, &file).unwrap();
            let error = verify(&target).unwrap_err().to_string();
            assert!(error.contains("data/a.jsonl") && error.contains(what), "{error}");
        }
    }

    #[test]
    fn a_manifest_that_names_what_is_not_below_its_folder_or_anything_twice_is_refused_before_a_file_is_opened() {
        let root = tempfile::tempdir().unwrap();
        let target = published(root.path());
        let text = fs::read_to_string(target.join(MANIFEST)).unwrap();
        let refused = |from: &str, to: &str, what: &str| {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            fs::write(target.join(MANIFEST), changed).unwrap();
            let error = verify(&target).unwrap_err();
            assert!(matches!(error, ArtifactError::Unreadable { .. }) && error.to_string().contains(what), "{error}");
        };
        for path in ["/dev/zero", "../out/data/a.jsonl", "data//a.jsonl", "./data/a.jsonl", "", "data/a\\u0000"] {
            refused("data/a.jsonl", path, "not a path below a folder");
        }
        refused("data/a.jsonl", "README.md", "README.md\" again");
        refused("data/a.jsonl", "manifest.json", "manifest.json\" again");
        refused("\"size\": 4", "\"size\": 18446744073709551615", "more than an artifact");
        refused("\"size\": 4", "\"size\": -1", "invalid value");
        refused("\"schemaVersion\": 1", "\"schemaVersion\": 2", "expected schemaVersion 1");
        refused("\"sha256\": \"", "\"sha256\": \"X", "64 lower-case");
    }

    #[test]
    fn a_manifest_that_is_no_file_is_refused_and_does_not_make_the_folder_a_plain_one() {
        let root = tempfile::tempdir().unwrap();
        let target = published(root.path());
        let manifest = target.join(MANIFEST);
        fs::remove_file(&manifest).unwrap();
        mknodat(CWD, &manifest, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(digest_path(&target).unwrap_err().to_string().contains("a named pipe"));
        fs::remove_file(&manifest).unwrap();
        symlink("nowhere", &manifest).unwrap();
        assert!(digest_path(&target).unwrap_err().to_string().contains("manifest.json"));
    }

    #[test]
    fn a_plain_input_with_a_pipe_a_device_or_a_circle_has_no_digest_and_is_named() {
        let root = tempfile::tempdir().unwrap();
        let (model, pipe) = (root.path().join("model"), root.path().join("model/pipe"));
        fs::create_dir(&model).unwrap();
        fs::write(model.join("config.json"), "{}").unwrap();
        let honest = digest_path(&model).unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(digest_path(&model).unwrap_err().to_string().contains("model/pipe: is a named pipe"));
        assert!(digest_path(&pipe).unwrap_err().to_string().contains("a named pipe"));
        fs::remove_file(&pipe).unwrap();
        for target in ["/dev/zero", ".", "/usr/share", "/proc/self/status"] {
            symlink(target, &pipe).unwrap();
            let error = digest_path(&model).unwrap_err().to_string();
            assert!(error.contains("pipe"), "{target}: {error}");
            fs::remove_file(&pipe).unwrap();
        }
        fs::write(model.join(".DS_Store"), "x").unwrap();
        assert_eq!(digest_path(&model).unwrap(), honest);
    }

    /// Bounded: single changes of a manifest at every byte, and cuts.
    #[test]
    fn no_changed_manifest_is_accepted_as_another_artifact() {
        let root = tempfile::tempdir().unwrap();
        let target = published(root.path());
        let manifest = target.join(MANIFEST);
        let honest = verify(&target).unwrap();
        let text = fs::read(&manifest).unwrap();
        for at in 0..text.len() {
            for changed in [b'/', b'0', 0xff] {
                let mut other = text.clone();
                other[at] = changed;
                fs::write(&manifest, &other).unwrap();
                if let Ok(found) = verify(&target) {
                    assert_eq!((&found.digest, &found.files), (&honest.digest, &honest.files), "byte {at}");
                }
            }
            fs::write(&manifest, &text[..at]).unwrap();
            assert!(verify(&target).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_comes_from_another_file_system_is_copied_whole() {
        let root = tempfile::tempdir().unwrap();
        let (staging, target) = (root.path().join("staging"), root.path().join("out"));
        fs::create_dir_all(staging.join("data")).unwrap();
        fs::write(staging.join("data/a.jsonl"), "{}\n").unwrap();
        // What an attempt that was killed has left.
        copy(&staging, &target.with_added_extension("arriving")).unwrap();
        assert_eq!(fs::read(root.path().join("out.arriving/data/a.jsonl")).unwrap(), b"{}\n");
        publish(&staging, &target, "Model", "m", Vec::new(), String::new()).unwrap();
        verify(&target).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing is left beside it");
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
