//! Keeps a run in a store while it goes on: its work folder from time to time, its artifact at the end. A pod on another
//! machine continues from there. Talks to the store, from a thread of its own, and to the file system.
//!
//! A stage can be killed at any moment and continue, so every moment between two of its writes is one to continue from. The
//! thread that writes says when ([`moment`]); the files are linked aside, which takes no time, and brought to the store while
//! it works on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use plumbline_crds::run::{PROGRESS_FILE, RunDocument, StageResult, StorePlaces};
use tokio::runtime::Runtime;

use super::snapshots::{Frozen, Snapshots, Stamp};
use super::upload;
use crate::files::HELD;
use crate::{Error, Result, shutdown};

/// Least time between two moments that are kept, unless one is worth more than others.
const EVERY: Duration = Duration::from_secs(20);
/// Folder below the work folder with the files of the moment that is on its way.
const ASIDE: &str = ".moment";
/// Folder below the work folder with an artifact that is not complete.
const STAGING: &str = "staging";
/// Folder below the work folder that fetching the inputs leaves its result in; it is kept by itself.
pub const FETCHED: &str = "fetch";
/// What is made anew by whoever continues, or kept by itself.
const LEFT_OUT: [&str; 5] = [ASIDE, PROGRESS_FILE, STAGING, FETCHED, HELD];
/// Folder below the work folder's place in the store with the report of a run that did not meet a gate.
const REPORT: &str = "report";

/// The work folder that is kept, if one is.
static KEPT: Mutex<Option<Kept>> = Mutex::new(None);

struct Kept {
    work: PathBuf,
    /// To the thread.
    sender: Sender<Vec<Frozen>>,
    thread: JoinHandle<(Snapshots, Runtime)>,
    /// A moment is on its way.
    busy: Arc<AtomicBool>,
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
/// ends well. With `part`, only that folder of the work folder is kept, at a place of its own.
///
/// # Errors
/// The stage's own; `Config`, `Data` and `Store` where the store does not take or give what it has to; `Failed` where another
/// process has taken the run over.
pub fn within(
    document: &RunDocument,
    part: Option<&str>,
    stage: impl FnOnce() -> Result<StageResult>,
) -> Result<StageResult> {
    let Some(store) = &document.store else { return stage() };
    let runtime = super::runtime()?;
    let of_output = |e: Error| e.within(&format!("spec.output.uri: {}", store.artifact));
    let resource = &document.resource;
    let owner = (resource.kind.to_string(), resource.metadata.name.clone());
    runtime.block_on(shutdown::unless_asked(upload::check(&store.artifact, &owner))).map_err(of_output)?;
    if let Some(uri) = &store.work {
        let kept = |whole: &str| part.map_or_else(|| whole.to_owned(), |part| format!("{whole}/{part}"));
        begin(&kept(uri), Path::new(&kept(&document.work))).map_err(of_output)?;
    }
    let ended = stage();
    let kept = end().map_err(of_output);
    if let Err(taken_over @ Error::Failed(_)) = kept {
        // Whatever the stage says: it was stopped because of this.
        return Err(taken_over);
    }
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

/// A file of the work folder that another process keeps there, if it has kept one: to read, and nothing more.
pub async fn file(uri: &str, path: &str) -> Result<Option<Vec<u8>>> {
    let read = async || Snapshots::open(uri).await?.content(path).await;
    match read().await {
        // It may have been replaced in between.
        Err(Error::Data(_)) => read().await,
        found => found,
    }
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

/// Takes the work folder over, brings it here as it was kept, and keeps it from now on.
fn begin(uri: &str, work: &Path) -> Result<()> {
    // The thread's own, since connections that are kept open belong to the runtime that opened them.
    let runtime = super::runtime()?;
    // A store that would refuse it later refuses now, before anything is spent.
    let (mut snapshots, brought) = runtime.block_on(shutdown::unless_asked(async {
        let mut snapshots = Snapshots::open(uri).await?;
        snapshots.take_over().await?;
        let brought = snapshots.restore(work).await?;
        Ok((snapshots, brought))
    }))?;
    if brought > 0 {
        tracing::info!(files = brought, "the run goes on from what was kept");
    }
    let (sender, moments) = channel::<Vec<Frozen>>();
    let (busy, aside) = (Arc::<AtomicBool>::default(), work.join(ASIDE));
    let done = busy.clone();
    let thread = std::thread::spawn(move || {
        for files in moments {
            match runtime.block_on(snapshots.save(&files)) {
                Ok(()) => tracing::debug!(files = files.len(), "a moment is kept"),
                Err(Error::Failed(why)) => {
                    tracing::error!("{why}");
                    shutdown::request();
                }
                Err(error) => tracing::warn!("a moment is not kept: {error}"),
            }
            let _ = fs::remove_dir_all(&aside);
            done.store(false, Ordering::Release);
        }
        (snapshots, runtime)
    });
    *kept() = Some(Kept { work: work.to_owned(), sender, thread, busy, last: Instant::now(), due: false });
    Ok(())
}

/// Keeps the last moment.
fn end() -> Result<()> {
    let Some(Kept { work, sender, thread, .. }) = kept().take() else { return Ok(()) };
    drop(sender);
    let (mut snapshots, runtime) =
        thread.join().map_err(|_| Error::Store("the thread that keeps the work folder ended".into()))?;
    runtime.block_on(snapshots.save(&freeze(&work)?))
}

fn keep(of_worth: bool) {
    let mut kept = kept();
    let Some(kept) = kept.as_mut() else { return };
    kept.due |= of_worth || kept.last.elapsed() >= EVERY;
    if !kept.due || kept.busy.load(Ordering::Acquire) {
        return;
    }
    match freeze(&kept.work) {
        Ok(files) => {
            kept.busy.store(true, Ordering::Release);
            // A thread that has ended is told of at the end.
            let _ = kept.sender.send(files);
            (kept.due, kept.last) = (false, Instant::now());
        }
        Err(error) => tracing::warn!("a moment is not kept: {error}"),
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
                let stamp = Stamp::of(&about).map_err(|e| Error::store(&source, &e))?;
                files.push(Frozen { path: below.to_string_lossy().into_owned(), file: target, stamp });
            }
        }
    }
    Ok(files)
}
