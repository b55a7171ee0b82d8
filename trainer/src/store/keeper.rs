//! Keeps a run in a store while it goes on: its work folder from time to time, its artifact at the end. A pod on another
//! machine continues from there. Talks to the store, from a thread of its own, and to the file system.
//!
//! A stage can be killed at any moment and continue, so every moment between two of its writes is one to continue from. The
//! thread that writes says when ([`moment`]); the files are linked aside, which takes no time, and brought to the store while
//! it works on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plumbline_crds::run::{PROGRESS_FILE, RunDocument, StageResult, StorePlaces};
use tokio::runtime::Runtime;

use super::snapshots::{Frozen, Snapshots, Stamp};
use super::upload;
use crate::{Error, Result};

/// Least time between two moments that are kept, unless one is worth more than others.
const EVERY: Duration = Duration::from_secs(20);
/// Folder below the work folder with the files of the moment that is on its way.
const ASIDE: &str = ".moment";
/// Folder below the work folder with an artifact that is not complete.
const STAGING: &str = "staging";
/// What is made anew by whoever continues.
const LEFT_OUT: [&str; 3] = [ASIDE, PROGRESS_FILE, STAGING];
/// Folder below the work folder's place in the store with the report of a run that did not meet a gate.
const REPORT: &str = "report";

/// The work folder that is kept, if one is.
static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

struct Kept {
    work: PathBuf,
    /// To the thread; full while a moment is on its way.
    sender: SyncSender<Vec<Frozen>>,
    thread: JoinHandle<Snapshots>,
    last: Instant,
    /// A moment of worth has come while another one was on its way.
    due: bool,
}

/// The work folder is at a moment to continue from.
pub fn moment() {
    keep(false);
}

/// The work folder is at a moment that is worth more than others: a checkpoint.
pub fn checkpoint() {
    keep(true);
}

/// Runs a stage. What an earlier process kept of it is here before it begins, and what it makes is in the store when this
/// ends well.
///
/// # Errors
/// The stage's own; `Config`, `Data` and `Store` where the store does not take or give what it has to.
pub fn within(document: &RunDocument, stage: impl FnOnce() -> Result<StageResult>) -> Result<StageResult> {
    let Some(store) = &document.store else { return stage() };
    let runtime = super::runtime()?;
    let of_output = |e: Error| e.within(&format!("spec.output.uri: {}", store.artifact));
    let resource = &document.resource;
    let owner = (resource.kind.to_string(), resource.metadata.name.clone());
    runtime.block_on(upload::check(&store.artifact, &owner)).map_err(of_output)?;
    if let Some(uri) = &store.work {
        begin(uri, Path::new(&document.work), &runtime).map_err(of_output)?;
    }
    let ended = stage();
    let kept = end(&runtime).map_err(of_output);
    let result = match ended {
        Ok(result) => result,
        Err(error) => {
            kept.unwrap_or_else(|e| tracing::warn!("what was done since the last moment is not kept: {e}"));
            return Err(with_report(error, document, store, &runtime));
        }
    };
    kept?;
    if result.artifact.is_some() {
        let uploaded = runtime.block_on(upload::publish(Path::new(&document.output), &store.artifact, &owner));
        uploaded.map_err(of_output)?;
    }
    Ok(result)
}

/// The same error; of a gate that was not met, with the place of the report, which says why. What failed it is not worth its
/// room.
fn with_report(error: Error, document: &RunDocument, store: &StorePlaces, runtime: &Runtime) -> Error {
    let (Error::Gate(message), Some(work)) = (&error, &store.work) else { return error };
    let (staging, place) = (Path::new(&document.work).join(STAGING), format!("{work}/{REPORT}"));
    match runtime.block_on(upload::records(&staging, &place)) {
        Ok(()) => Error::Gate(format!("{message}; its report is in {place}")),
        Err(failed) => {
            tracing::warn!("the report is not kept: {failed}");
            error
        }
    }
}

/// Brings the work folder here as it was kept, and keeps it from now on.
fn begin(uri: &str, work: &Path, runtime: &Runtime) -> Result<()> {
    let mut snapshots = runtime.block_on(Snapshots::open(uri))?;
    let brought = runtime.block_on(snapshots.restore(work))?;
    if brought > 0 {
        tracing::info!(files = brought, "the run goes on from what was kept");
    }
    // A store that would refuse it later refuses now, before anything is spent.
    let aside = work.join(ASIDE);
    runtime.block_on(snapshots.save(&freeze(work)?))?;
    fs::remove_dir_all(&aside).map_err(|e| Error::store(&aside, &e))?;
    let (sender, moments) = sync_channel::<Vec<Frozen>>(0);
    let own = super::runtime()?;
    let thread = std::thread::spawn(move || {
        for files in moments {
            match own.block_on(snapshots.save(&files)) {
                Ok(()) => tracing::debug!(files = files.len(), "a moment is kept"),
                Err(error) => tracing::warn!("a moment is not kept: {error}"),
            }
            let _ = fs::remove_dir_all(&aside);
        }
        snapshots
    });
    *kept() = Some(Kept { work: work.to_owned(), sender, thread, last: Instant::now(), due: false });
    Ok(())
}

/// Keeps the last moment.
fn end(runtime: &Runtime) -> Result<()> {
    let Some(Kept { work, sender, thread, .. }) = kept().take() else { return Ok(()) };
    drop(sender);
    let mut snapshots =
        thread.join().map_err(|_| Error::Failed("the thread that keeps the work folder ended".into()))?;
    runtime.block_on(snapshots.save(&freeze(&work)?))
}

fn keep(of_worth: bool) {
    let mut kept = kept();
    let Some(kept) = kept.as_mut() else { return };
    kept.due |= of_worth || kept.last.elapsed() >= EVERY;
    if !kept.due || kept.work.join(ASIDE).exists() {
        return;
    }
    let files = match freeze(&kept.work) {
        Ok(files) => files,
        Err(error) => return tracing::warn!("a moment is not kept: {error}"),
    };
    if kept.sender.try_send(files).is_ok() {
        (kept.due, kept.last) = (false, Instant::now());
    } else {
        let _ = fs::remove_dir_all(kept.work.join(ASIDE));
    }
}

fn kept() -> MutexGuard<'static, Option<Kept>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Links every file aside: what is replaced or removed later stays as it is, and of what grows, the size is noted.
fn freeze(work: &Path) -> Result<Vec<Frozen>> {
    let aside = work.join(ASIDE);
    crate::files::fresh_folder(&aside)?;
    let (mut files, mut pending) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(below) = pending.pop() {
        let folder = work.join(&below);
        for entry in fs::read_dir(&folder).map_err(|e| Error::store(&folder, &e))? {
            let name = entry.map_err(|e| Error::store(&folder, &e))?.file_name();
            let (below, source) = (below.join(&name), folder.join(&name));
            if LEFT_OUT.iter().any(|left_out| below == Path::new(left_out)) {
                continue;
            }
            let about = fs::symlink_metadata(&source).map_err(|e| Error::store(&source, &e))?;
            let target = aside.join(&below);
            if about.is_dir() {
                fs::create_dir(&target).map_err(|e| Error::store(&target, &e))?;
                pending.push(below);
            } else if about.is_file() {
                fs::hard_link(&source, &target).map_err(|e| Error::store(&target, &e))?;
                let modified = about.modified().map_err(|e| Error::store(&source, &e))?;
                let stamp = Stamp { size: about.len(), modified, inode: about.ino() };
                files.push(Frozen { path: below.to_string_lossy().into_owned(), file: target, stamp });
            }
        }
    }
    Ok(files)
}
