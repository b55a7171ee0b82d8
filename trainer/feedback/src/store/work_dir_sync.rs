//! Uploads the work directory of a run to a store while its stage runs, and the artifact at the end. A pod on another machine
//! resumes from there. Talks to the store, from a thread of its own, and to the file system.
//!
//! A stage can be killed at any time and resume, so a run can be resumed from the state of its work directory between
//! any two of its writes. The thread that writes calls [`WorkDirSync::snapshot`] between writes; the files are
//! hard-linked to another directory, which is fast, and uploaded in the background.

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

/// Minimum time between two snapshots, unless one contains a new checkpoint.
const EVERY: Duration = Duration::from_secs(20);
/// Subdirectory with the files of the snapshot that is being uploaded.
const ASIDE: &str = ".snapshot";
/// Subdirectory with an incomplete artifact.
const STAGING: &str = "staging";
/// Subdirectory with the result of `fetch`, which is uploaded separately.
pub const FETCHED: &str = "fetch";
/// Not uploaded: files that a resumed run writes again, and those that are uploaded separately.
const LEFT_OUT: [&str; 5] = [ASIDE, PROGRESS_FILE, STAGING, FETCHED, HELD];
/// Directory next to the uploaded work directory with the report of a run that did not meet a gate.
const REPORT: &str = "report";

/// Uploads snapshots of a work directory while a stage runs. Clones share one upload.
#[derive(Clone, Debug)]
pub struct WorkDirSync(Arc<Mutex<Option<Upload>>>);

#[derive(Debug)]
struct Upload {
    work: PathBuf,
    /// Sends snapshots to the uploading thread.
    sender: Sender<Vec<Frozen>>,
    thread: JoinHandle<(Snapshots, Runtime)>,
    /// Whether a snapshot is being uploaded.
    busy: Arc<AtomicBool>,
    last: Instant,
    /// Whether to upload a snapshot as soon as the current upload ends.
    due: bool,
}

impl WorkDirSync {
    /// Uploads nothing: the work directory outlives the process, or another rank uploads it.
    pub fn off() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// Uploads a snapshot if the last one is old enough. Must be called between two writes.
    pub fn snapshot(&self) {
        self.upload(false);
    }

    /// Uploads a snapshot as soon as possible. Called after a new checkpoint.
    pub fn checkpoint(&self) {
        self.upload(true);
    }

    fn upload(&self, checkpoint: bool) {
        let mut upload = self.lock();
        let Some(upload) = upload.as_mut() else { return };
        upload.due |= checkpoint || upload.last.elapsed() >= EVERY;
        if !upload.due || upload.busy.load(Ordering::Acquire) {
            return;
        }
        match freeze(&upload.work) {
            Ok(files) => {
                upload.busy.store(true, Ordering::Release);
                // If the thread has ended, its error is reported at the end.
                let _ = upload.sender.send(files);
                (upload.due, upload.last) = (false, Instant::now());
            }
            Err(error) => tracing::warn!("snapshot upload failed: {error}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Upload>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uploads the last snapshot.
    fn finish(&self) -> Result<()> {
        let Some(Upload { work, sender, thread, .. }) = self.lock().take() else { return Ok(()) };
        drop(sender);
        let (mut snapshots, runtime) =
            thread.join().map_err(|_| Error::Store("the thread that uploads the work directory has ended".into()))?;
        runtime.block_on(snapshots.save(&freeze(&work)?))
    }
}

/// Runs a stage. The state of an earlier process is restored before it starts, and on success its artifact has been
/// uploaded. With `part`, only that subdirectory is uploaded, to a location of its own.
///
/// # Errors
/// The stage's own; `Config`, `Data` and `Store` if the store denies access or does not respond; `Failed` if another
/// process has taken the run over.
pub fn within(
    document: &RunDocument,
    part: Option<&str>,
    stage: impl FnOnce(&WorkDirSync) -> Result<StageResult>,
) -> Result<StageResult> {
    let mut sync = WorkDirSync::off();
    let Some(store) = &document.store else { return stage(&sync) };
    let runtime = super::runtime()?;
    let of_output = |e: Error| e.within(&format!("spec.output.uri: {}", store.artifact));
    let resource = &document.resource;
    let owner = (resource.kind.to_string(), resource.metadata.name.clone());
    runtime.block_on(shutdown::unless_asked(upload::check(&store.artifact, &owner))).map_err(of_output)?;
    if let Some(uri) = &store.work {
        let kept = |whole: &str| part.map_or_else(|| whole.to_owned(), |part| format!("{whole}/{part}"));
        sync = start(&kept(uri), Path::new(&kept(&document.work))).map_err(of_output)?;
    }
    let ended = stage(&sync);
    let kept = sync.finish().map_err(of_output);
    if let Err(taken_over @ Error::Failed(_)) = kept {
        // Takes precedence over the stage's result: the stage was stopped because of it.
        return Err(taken_over);
    }
    let result = match ended {
        Ok(result) => result,
        Err(error) => {
            kept.unwrap_or_else(|e| tracing::warn!("work since the last snapshot was not uploaded: {e}"));
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

/// Reads a file of a work directory that another process uploads; `None` if it has not been uploaded.
pub async fn file(uri: &str, path: &str) -> Result<Option<Vec<u8>>> {
    let read = async || Snapshots::open(uri).await?.content(path).await;
    match read().await {
        // The file may have been replaced during the read; read it again.
        Err(Error::Data(_)) => read().await,
        found => found,
    }
}

/// The same error; for a failed gate, with the location of the report that explains it. If uploading the report fails,
/// the error stays the same.
fn with_report(error: Error, document: &RunDocument, store: &StorePlaces, runtime: &Runtime) -> Error {
    let (Error::Gate(message), Some(work)) = (&error, &store.work) else { return error };
    let (staging, place) = (Path::new(&document.work).join(STAGING), format!("{work}/{REPORT}"));
    match runtime.block_on(upload::records(&staging, &place)) {
        Ok(()) => Error::Gate(format!("{message}; its report is in {place}")),
        Err(failed) => {
            tracing::warn!("the report was not uploaded: {failed}");
            error
        }
    }
}

/// Takes over the work directory, restores its last snapshot, and starts uploading it.
fn start(uri: &str, work: &Path) -> Result<WorkDirSync> {
    // A runtime of the thread's own, since open connections belong to the runtime that opened them.
    let runtime = super::runtime()?;
    // If the store would reject a later upload, it rejects this one, before the run costs anything.
    let (mut snapshots, brought) = runtime.block_on(shutdown::unless_asked(async {
        let mut snapshots = Snapshots::open(uri).await?;
        snapshots.take_over().await?;
        let brought = snapshots.restore(work).await?;
        Ok((snapshots, brought))
    }))?;
    if brought > 0 {
        tracing::info!(files = brought, "the run resumes from its last snapshot");
    }
    let (sender, received) = channel::<Vec<Frozen>>();
    let (busy, aside) = (Arc::<AtomicBool>::default(), work.join(ASIDE));
    let done = busy.clone();
    let thread = std::thread::spawn(move || {
        for files in received {
            match runtime.block_on(snapshots.save(&files)) {
                Ok(()) => tracing::debug!(files = files.len(), "snapshot uploaded"),
                Err(Error::Failed(why)) => {
                    tracing::error!("{why}");
                    shutdown::request();
                }
                Err(error) => tracing::warn!("snapshot upload failed: {error}"),
            }
            let _ = fs::remove_dir_all(&aside);
            done.store(false, Ordering::Release);
        }
        (snapshots, runtime)
    });
    let upload = Upload { work: work.to_owned(), sender, thread, busy, last: Instant::now(), due: false };
    Ok(WorkDirSync(Arc::new(Mutex::new(Some(upload)))))
}

/// Hard-links every file: a file that is later replaced or removed is not affected, and for a file that grows, its size
/// is recorded.
fn freeze(work: &Path) -> Result<Vec<Frozen>> {
    let aside = work.join(ASIDE);
    crate::files::fresh_folder(&aside)?;
    let (mut files, mut pending) = (Vec::new(), vec![PathBuf::new()]);
    while let Some(below) = pending.pop() {
        let folder = work.join(&below);
        for entry in fs::read_dir(&folder).map_err(|e| Error::disk(&folder, e))? {
            let name = entry.map_err(|e| Error::disk(&folder, e))?.file_name();
            let (below, source) = (below.join(&name), folder.join(&name));
            if LEFT_OUT.iter().any(|left_out| below == Path::new(left_out)) {
                continue;
            }
            let about = fs::symlink_metadata(&source).map_err(|e| Error::disk(&source, e))?;
            let target = aside.join(&below);
            if about.is_dir() {
                fs::create_dir(&target).map_err(|e| Error::disk(&target, e))?;
                pending.push(below);
            } else if about.is_file() {
                fs::hard_link(&source, &target).map_err(|e| Error::disk(&target, e))?;
                let stamp = Stamp::of(&about).map_err(|e| Error::disk(&source, e))?;
                files.push(Frozen { path: below.to_string_lossy().into_owned(), file: target, stamp });
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;
    use std::thread;

    use super::*;

    /// An upload that sends its snapshots to the test, which decides when one is done.
    fn sync(work: &Path) -> (WorkDirSync, Receiver<Vec<Frozen>>, Arc<AtomicBool>) {
        let ((sender, received), busy) = (channel(), Arc::<AtomicBool>::default());
        let thread = thread::spawn(|| -> (Snapshots, Runtime) {
            loop {
                thread::park();
            }
        });
        let (work, last) = (work.to_owned(), Instant::now());
        let upload = Upload { work, sender, thread, busy: busy.clone(), last, due: false };
        (WorkDirSync(Arc::new(Mutex::new(Some(upload)))), received, busy)
    }

    #[test]
    fn a_checkpoint_is_uploaded_at_once_or_after_the_current_upload() {
        let work = tempfile::tempdir().unwrap();
        fs::write(work.path().join("state"), "1").unwrap();
        let (sync, received, busy) = sync(work.path());
        sync.snapshot();
        assert!(received.try_recv().is_err(), "the last snapshot is not old");
        sync.clone().checkpoint();
        assert_eq!(received.try_recv().unwrap()[0].path, "state");
        sync.checkpoint();
        sync.snapshot();
        assert!(received.try_recv().is_err(), "one is being uploaded");
        busy.store(false, Ordering::Release);
        sync.snapshot();
        assert_eq!(received.try_recv().unwrap().len(), 1, "the checkpoint is not forgotten");
        busy.store(false, Ordering::Release);
        sync.snapshot();
        assert!(received.try_recv().is_err(), "nor uploaded twice");
    }

    #[test]
    fn a_handle_whose_upload_is_over_or_off_does_nothing() {
        let work = tempfile::tempdir().unwrap();
        let (sync, received, _) = sync(work.path());
        let late = sync.clone();
        drop(sync.lock().take());
        for sync in [late, WorkDirSync::off()] {
            sync.checkpoint();
            sync.finish().unwrap();
        }
        assert!(received.try_recv().is_err() && !work.path().join(ASIDE).exists());
    }
}
