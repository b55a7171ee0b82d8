//! Digests of inputs and artifacts, remembered for files that have not changed. Talks to the file system only.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use plumbline_crds::artifact::{self, ArtifactError, hex};
use plumbline_crds::folder;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::work_dir::write_atomically;
use crate::plan::Artifact;

/// Files changed less than this ago are digested again next time: a second change in the same tick of the file
/// system's clock would not show.
const SETTLED: Duration = Duration::from_secs(2);
/// Version of what is looked at in an input: what was remembered under other rules is verified again.
const RULES: &str = "2";

/// Digests by absolute path.
#[derive(Debug, Default)]
pub struct Digests {
    file: PathBuf,
    entries: BTreeMap<String, Entry>,
}

/// A digest and what the files looked like when it was taken.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
struct Entry {
    /// Digest over path, size, times and inode of every file.
    fingerprint: String,
    digest: String,
}

impl Digests {
    /// The digests remembered in a file. A file that is missing or broken only costs time.
    pub fn load(file: PathBuf) -> Self {
        let entries = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Self { file, entries }
    }

    /// Remembers them.
    pub fn save(&self) -> io::Result<()> {
        write_atomically(&self.file, &serde_json::to_vec_pretty(&self.entries)?)
    }

    /// The digest of a file or folder, as [`artifact::digest_path`] defines it; an artifact is verified.
    pub fn digest(&mut self, path: &Path) -> Result<String, ArtifactError> {
        // Taking the digest says what is wrong with it.
        let Some(Fingerprint { text, newest }) = fingerprint(path)? else { return artifact::digest_path(path) };
        let key = path.to_string_lossy().into_owned();
        if let Some(entry) = self.entries.get(&key)
            && entry.fingerprint == text
        {
            return Ok(entry.digest.clone());
        }
        self.entries.remove(&key);
        let digest = artifact::digest_path(path)?;
        if newest.elapsed().is_ok_and(|age| age > SETTLED) {
            self.entries.insert(key, Entry { fingerprint: text, digest: digest.clone() });
        }
        Ok(digest)
    }

    /// What lies where an artifact belongs.
    pub fn artifact(&mut self, folder: &Path) -> Result<Artifact, ArtifactError> {
        if !folder.join(artifact::MANIFEST).is_file() {
            return Ok(Artifact::Absent);
        }
        match self.digest(folder) {
            Ok(_) => {
                let manifest = artifact::read_manifest(folder)?;
                Ok(Artifact::Verified(manifest.artifact_ref(&format!("file://{}", folder.display()))))
            }
            Err(error @ (ArtifactError::Altered { .. } | ArtifactError::Unreadable { .. })) => {
                Ok(Artifact::Mismatch(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }
}

struct Fingerprint {
    text: String,
    newest: SystemTime,
}

/// What the files that count look like. An input with something in it that cannot be one has no fingerprint.
fn fingerprint(path: &Path) -> Result<Option<Fingerprint>, ArtifactError> {
    let io = |(path, source)| ArtifactError::Io { path, source };
    let whole = fs::metadata(path).map_err(|e| io((path.to_owned(), e)))?;
    let mut lines = vec![format!("{RULES}\n")];
    let mut newest = SystemTime::UNIX_EPOCH;
    let mut add = |path: &str, data: &Metadata| {
        // The change time catches what a restored modification time would hide.
        let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(data.ctime()).unwrap_or(0));
        newest = newest.max(changed);
        lines.push(format!(
            "{path} {} {}.{} {}.{} {}:{}\n",
            data.size(),
            data.mtime(),
            data.mtime_nsec(),
            data.ctime(),
            data.ctime_nsec(),
            data.dev(),
            data.ino(),
        ));
    };
    if whole.is_dir() {
        for found in folder::files(path).map_err(io)? {
            let Ok(data) = &found.file else { return Ok(None) };
            add(&found.path, data);
        }
    } else {
        add("", &whole);
    }
    let digest = Sha256::digest(lines.concat().as_bytes());
    Ok(Some(Fingerprint { text: hex(&digest), newest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_file_is_not_read_again_and_a_changed_one_is() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("model");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("weights"), "one").unwrap();
        let mut digests = Digests::load(root.path().join("digests.json"));
        let first = digests.digest(&path).unwrap();
        assert!(digests.entries.is_empty(), "a file that was written just now is not settled");

        // What is remembered is returned: a wrong digest under the right fingerprint shows that nothing is read.
        let remembered =
            Entry { fingerprint: fingerprint(&path).unwrap().unwrap().text, digest: "sha256:remembered".into() };
        digests.entries.insert(path.display().to_string(), remembered);
        digests.save().unwrap();
        let mut digests = Digests::load(root.path().join("digests.json"));
        assert_eq!(digests.digest(&path).unwrap(), "sha256:remembered");

        fs::write(path.join("weights"), "two").unwrap();
        let second = digests.digest(&path).unwrap();
        assert!(second != "sha256:remembered" && second != first, "same size, other content");
    }

    #[test]
    fn what_is_put_beside_the_files_of_a_remembered_artifact_is_noticed() {
        let root = tempfile::tempdir().unwrap();
        let (staging, target) = (root.path().join("staging"), root.path().join("out"));
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join("config.json"), "{}").unwrap();
        let honest = artifact::publish(&staging, &target, "Model", "m", Vec::new(), "t".into()).unwrap().digest;
        let mut digests = Digests::default();
        let text = fingerprint(&target).unwrap().unwrap().text;
        let remembered = Entry { fingerprint: text, digest: honest.clone() };
        digests.entries.insert(target.display().to_string(), remembered);
        assert_eq!(digests.digest(&target).unwrap(), honest);
        let extra = target.join("chat_template.jinja");
        fs::write(&extra, "x").unwrap();
        assert!(
            digests.digest(&target).unwrap_err().to_string().contains("chat_template.jinja is not in the manifest")
        );
        fs::remove_file(&extra).unwrap();
        let remembered = Entry { fingerprint: fingerprint(&target).unwrap().unwrap().text, digest: honest };
        digests.entries.insert(target.display().to_string(), remembered);
        std::os::unix::fs::symlink("/dev/zero", &extra).unwrap();
        assert!(digests.digest(&target).unwrap_err().to_string().contains("chat_template.jinja"));
    }

    #[test]
    fn a_folder_without_a_manifest_is_no_artifact_and_an_altered_one_is_told_apart() {
        let root = tempfile::tempdir().unwrap();
        let (staging, target) = (root.path().join("staging"), root.path().join("out"));
        fs::create_dir(&staging).unwrap();
        fs::write(staging.join("a"), "content").unwrap();
        let mut digests = Digests::default();
        assert_eq!(digests.artifact(&target).unwrap(), Artifact::Absent);
        assert_eq!(digests.artifact(&staging).unwrap(), Artifact::Absent);
        let manifest = artifact::publish(&staging, &target, "RewardModel", "r", Vec::new(), "t".into()).unwrap();
        let Artifact::Verified(found) = digests.artifact(&target).unwrap() else { panic!() };
        assert_eq!((found.digest, found.uri), (manifest.digest, format!("file://{}", target.display())));
        fs::write(target.join("a"), "Content").unwrap();
        assert!(matches!(digests.artifact(&target).unwrap(), Artifact::Mismatch(how) if how.contains('a')));
    }
}
