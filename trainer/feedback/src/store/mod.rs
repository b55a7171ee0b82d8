//! Remote storage: inputs that are fetched, and results and work directories that are uploaded.
//!
//! | question | file |
//! |---|---|
//! | Which files of a repository are downloaded, from which URLs? | `listing` |
//! | How is a repository of the Hugging Face hub downloaded? | `hub` |
//! | How are objects of S3, Google Cloud Storage and Azure downloaded? | `bucket` |
//! | Where are inputs cached for later runs? | `cache` |
//! | How is a single file downloaded reliably? | `download` |
//! | Which redirects are followed? | `reachable`, `redirects` |
//! | How is an artifact uploaded? | `upload` |
//! | How is a work directory saved and restored elsewhere? | `index`, `snapshots`, `work_dir_sync` |
//! | How is a store connected to, and waited for? | `connect` |

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

use std::path::Path;
use std::{fs, io};

use object_store::path::Path as Key;
use tokio::runtime::{Builder, Runtime};

use crate::{Error, Result};

/// A runtime for requests, on the calling thread.
pub fn runtime() -> Result<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Error::Failed(format!("the network cannot be used: {e}")))
}

/// The key of a path relative to another key.
fn below(key: &Key, path: &str) -> Key {
    path.split('/').fold(key.clone(), Key::join)
}

/// Free bytes on the file system of a directory that may not exist yet.
fn free(folder: &Path) -> Result<u64> {
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(folder);
    let found = rustix::fs::statvfs(there).map_err(|e| Error::disk(there, e.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Checks that this many bytes fit on a directory's file system, before they are downloaded.
fn fits(bytes: u64, folder: &Path) -> Result<()> {
    let free = free(folder)?;
    if bytes <= free {
        return Ok(());
    }
    let full = format!("expected room for {bytes} bytes, found {free}");
    Err(Error::disk(folder, io::Error::new(io::ErrorKind::StorageFull, full)))
}

/// Moves the complete `aside` to `path`, and removes incomplete downloads of other versions.
fn finish(aside: &Path, path: &Path) -> Result<()> {
    fs::rename(aside, path).map_err(|e| Error::disk(path, e))?;
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let begun = format!("{}.", name.to_string_lossy());
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&begun) {
            let old = entry.path();
            // Failing to remove it only wastes space.
            let _ = if old.is_dir() { fs::remove_dir_all(old) } else { fs::remove_file(old) };
        }
    }
    Ok(())
}
