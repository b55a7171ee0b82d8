//! What is not on a file system: inputs that are fetched, results and work folders that are kept elsewhere.
//!
//! | question | file |
//! |---|---|
//! | Which files of a repository are fetched, from which URLs? | `listing` |
//! | How is a repository of the Hugging Face hub brought here? | `hub` |
//! | How are objects of S3, Google Cloud Storage and Azure brought here? | `bucket` |
//! | Where is what was fetched kept for the next run? | `cache` |
//! | How is one file brought here, whatever happens on the way? | `download` |
//! | Where may a server send us on to? | `reachable`, `redirects` |
//! | How is an artifact written to a store? | `upload` |
//! | How is a work folder kept in a store, and brought back to another machine? | `index`, `snapshots`, `work_dir_sync` |
//! | How is a store reached, and waited for? | `connect` |

pub mod bucket;
pub mod cache;
mod connect;
pub mod download;
pub mod hub;
mod index;
pub mod listing;
mod reachable;
mod redirects;
mod snapshots;
mod upload;
pub mod work_dir_sync;

use std::fs;
use std::path::Path;

use object_store::path::Path as Key;
use tokio::runtime::{Builder, Runtime};

use crate::{Error, Result};

/// What requests are made with, on the thread that waits for them.
pub fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Error::Failed(format!("the network cannot be used: {e}")))
}

/// The key of a path below a key.
fn below(key: &Key, path: &str) -> Key {
    path.split('/').fold(key.clone(), Key::join)
}

/// Bytes that are free for a folder, or for what is made there.
fn free(folder: &Path) -> Result<u64> {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let found = rustix::fs::statvfs(there).map_err(|e| Error::store(there, &e.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Makes sure that so many bytes fit into a folder, before they come.
fn fits(bytes: u64, folder: &Path) -> Result<()> {
    let free = free(folder)?;
    if bytes <= free {
        return Ok(());
    }
    Err(Error::Disk(format!(
        "{}: expected room for {bytes} bytes, found {free}; free some space, or fetch less",
        folder.display()
    )))
}

/// What was brought to `aside` is whole: it goes to `path`, and what was begun there of other versions goes.
fn finish(aside: &Path, path: &Path) -> Result<()> {
    fs::rename(aside, path).map_err(|e| Error::store(path, &e))?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let begun = format!("{}.", name.to_string_lossy());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&begun) {
            let old = entry.path();
            // It takes room and does no harm.
            let _ = if old.is_dir() { fs::remove_dir_all(old) } else { fs::remove_file(old) };
        }
    }
    Ok(())
}
