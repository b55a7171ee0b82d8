//! Caches fetched inputs for later runs, on a volume that runs share. Talks to the file system.
//!
//! The name of an entry identifies its content: a repository at a commit, or objects as they are listed. It is complete
//! or absent, and never overwritten. The source is always contacted first: a run that may not list it gets nothing from
//! the cache.

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
/// Its subdirectory with a lock file per entry, locked while the entry is fetched.
const LOCKS: &str = ".locks";
/// Interval at which a waiting process checks whether the fetching process has exited.
const LOOK: Duration = Duration::from_secs(1);
/// Number of characters of the readable name that are part of an entry's name.
const READABLE: usize = 64;

/// A directory to cache inputs in, if there is one.
#[derive(Clone, Debug)]
pub struct Cache(Option<PathBuf>);

impl Cache {
    /// The cache that the environment configures.
    pub fn from_env() -> Self {
        Self(std::env::var_os(FOLDER).filter(|folder| !folder.is_empty()).map(PathBuf::from))
    }

    /// Makes `path` a link to the entry for a URI in a state (a commit, or a digest of a listing). If there is no such
    /// entry, `bring` creates it at the path that it is called with; among several processes one does so, and the
    /// others wait. If the cache cannot be used, `bring` creates `path` itself.
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
        // The modification time records the last use, for cleaning up. Only the owner of an entry can set it.
        let _ = File::open(&entry).and_then(|file| file.set_modified(SystemTime::now()));
        tracing::info!(uri, entry = %entry.display(), "taken from the cache");
        link(&entry, path).map_err(|e| Error::disk(path, e))
    }
}

/// Name of an entry: derived from its content, with a readable part.
fn name(uri: &str, state: &str) -> String {
    let known = uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let known: String =
        known.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).take(READABLE).collect();
    format!("{}-{known}", hex(&Sha256::digest(format!("{uri}\n{state}"))[..16]))
}

/// Waits until no other process fetches an entry. Does nothing if that cannot be determined: the cache only saves time,
/// and must never fail a run.
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
    // A dangling link: its entry was removed.
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    symlink(entry, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_named_by_source_and_state_within_the_cache() {
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
