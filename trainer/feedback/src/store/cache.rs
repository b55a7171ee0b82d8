//! Caches fetched inputs on a volume that runs share, for later runs. Talks to the file system.
//!
//! An entry is named by its content: a repository at a commit, or objects as they are listed. It is complete or absent,
//! and never overwritten. The source is always asked first: a run that may not list it gets nothing from the cache.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use plumbline_crds::artifact::hex;
use sha2::{Digest, Sha256};

use super::download::pause;
use crate::{Error, Result};

/// Environment variable with the directory.
const FOLDER: &str = "PLUMBLINE_INPUT_CACHE";
/// Directory in it with a file for each entry, locked while the entry is fetched.
const LOCKS: &str = ".locks";
/// How soon a waiting process notices that the fetching process has exited.
const LOOK: Duration = Duration::from_secs(1);
/// Number of characters of the readable name that are part of an entry's name.
const READABLE: usize = 64;

/// A directory to cache inputs in, if there is one.
#[derive(Clone, Debug)]
pub struct Cache(Option<PathBuf>);

impl Cache {
    /// The one that the environment names.
    pub fn from_env() -> Self {
        Self(std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from))
    }

    /// Makes `path` a link to the entry of a URI in a state (a commit; a digest of a listing). If there is no such
    /// entry, `bring` creates it at the path that it gets; of several processes one does, and the others wait. If the
    /// cache cannot be used, `bring` creates `path` itself.
    ///
    /// # Errors
    /// Those of `bring`; `Store` if the link cannot be created; `Interrupted`.
    pub async fn through(
        &self,
        uri: &str,
        state: &str,
        path: &Path,
        bring: impl AsyncFnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let Some(folder) = &self.0 else { return bring(path).await };
        let entry = folder.join(name(uri, state));
        if !entry.exists() {
            match alone(folder, &entry).await? {
                None => return bring(path).await,
                Some(_lock) if entry.exists() => {}
                Some(_lock) => bring(&entry).await?,
            }
        }
        // When it was used last tells whether it may go. Only its owner can say so.
        let _ = File::open(&entry).and_then(|file| file.set_modified(SystemTime::now()));
        tracing::info!(uri, entry = %entry.display(), "taken from the cache");
        link(&entry, path).map_err(|e| Error::store(path, &e))
    }
}

/// Name of an entry: derived from its content, with a readable part.
fn name(uri: &str, state: &str) -> String {
    let known = uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let known: String =
        known.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(READABLE).collect();
    format!("{}-{known}", hex(&Sha256::digest(format!("{uri}\n{state}"))[..16]))
}

/// Waits until no other process fetches an entry. Does nothing if that cannot be determined: a cache saves time, and
/// must never fail a run.
async fn alone(folder: &Path, entry: &Path) -> Result<Option<File>> {
    let unusable = |e: &io::Error| tracing::warn!("{}: {e}; fetching inputs without the cache", folder.display());
    let open = || {
        let locks = folder.join(LOCKS);
        fs::create_dir_all(&locks)?;
        File::options().create(true).append(true).open(locks.join(entry.file_name().unwrap_or_default()))
    };
    let Ok(lock) = open().inspect_err(unusable) else { return Ok(None) };
    let mut told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    tracing::info!(entry = %entry.display(), "another run fetches the same; this one waits for it");
                    told = true;
                }
                pause(LOOK).await?;
            }
            Err(TryLockError::Error(e)) => {
                unusable(&e);
                return Ok(None);
            }
        }
    }
}

fn link(entry: &Path, path: &Path) -> io::Result<()> {
    // One that leads nowhere: its entry was removed.
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    symlink(entry, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_named_by_source_and_state_and_stays_in_its_folder() {
        let names = [
            name("hf://org/tiny", "a"),
            name("hf://org/tiny", "b"),
            name("hf://other/tiny", "a"),
            name("s3://bucket/models/tiny/", "a"),
            name("hf://datasets/org/texts/..", "a"),
        ];
        for (i, one) in names.iter().enumerate() {
            assert!(names.iter().skip(i + 1).all(|other| other != one), "{names:?}");
            assert_eq!(Path::new(one).components().count(), 1, "{one}");
        }
        assert!(names[0].ends_with("-tiny") && names[3].ends_with("-tiny"), "{names:?}");
        assert!(name("hf://org/tiny", &"a".repeat(1000)).len() < 128);
        assert!(name(&format!("s3://b/{}", "n".repeat(300)), "a").len() < 128);
    }
}
