//! One attempt at a stage: judges are served, the trainer runs, and all of it ends together. Talks to processes and to
//! the run's folder; decides nothing.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plumbline_crds::Resource;
use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::run::{
    PROGRESS_FILE, ProgressReport, RESULT_FILE, ResolvedInput, RunDocument, StageResult, StorePlaces,
};

use super::files;
use super::interrupt::Interrupt;
use super::process::{self, Process, SERVER_PATIENCE, STAGE_PATIENCE};
use super::served::{self, Served};
use super::work_dir::{WorkDirError, write_atomically};
use crate::plan::{End, Exit};

/// How often a running stage is looked at.
const TICK: Duration = Duration::from_millis(250);
/// What the stage writes to its standard output and error, of every attempt.
pub(super) const LOG_FILE: &str = "log.txt";
/// The trainer's subcommand that brings inputs here, and the folder below the work folder that it writes to.
const FETCH: &str = "fetch";
/// What the trainer is started with.
const DOCUMENT_FILE: &str = "run.yaml";
/// Held by the trainer while it lives.
const LOCK_FILE: &str = "trainer.lock";

/// A stage that can be run.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The trainer's program.
    pub trainer: PathBuf,
    /// What is made. Its status is left out.
    pub resource: Resource,
    /// From what.
    pub inputs: Vec<ResolvedInput>,
    /// Where the artifact goes.
    pub output: PathBuf,
    /// The store that it is written to as well, if one.
    pub store: Option<String>,
    /// The folder that survives.
    pub work: PathBuf,
}

/// Makes sure that nothing of an earlier attempt is running.
pub async fn end_leftovers(work: &Path) -> Result<(), WorkDirError> {
    process::end_leftover(&work.join(LOCK_FILE), STAGE_PATIENCE).await?;
    served::end_leftovers(work).await
}

/// Runs one attempt to its end. `on_progress` is told what the stage says whenever it says something new.
pub async fn run(
    stage: &Stage,
    interrupt: &mut Interrupt,
    on_progress: &mut dyn FnMut(&ProgressReport),
) -> Result<End, WorkDirError> {
    fs::create_dir_all(&stage.work).map_err(WorkDirError::at(&stage.work))?;
    end_leftovers(&stage.work).await?;
    // The result of an earlier attempt must not pass for this one's.
    files::remove(&stage.work.join(RESULT_FILE))?;
    if stage.inputs.iter().any(|input| input.source.is_some()) {
        files::remove(&stage.work.join(FETCH).join(RESULT_FILE))?;
        let exit = step(stage, FETCH, &[], interrupt, on_progress).await?;
        if exit != Exit::Code(0) {
            return Ok(End { exit, result: result(&stage.work.join(FETCH)), last: false });
        }
    }
    let judges = served::Request {
        trainer: &stage.trainer,
        spec: &stage.resource.spec,
        inputs: &stage.inputs,
        work: &stage.work,
    };
    let mut served = tokio::select! {
        served = served::start(&judges) => match served? {
            Ok(served) => served,
            Err(end) => return Ok(end),
        },
        () = interrupt.wait() => return Ok(interrupted()),
    };
    let exit = step(stage, stage.resource.kind.stage(), &served, interrupt, on_progress).await;
    for judge in &mut served {
        judge.process.stop(SERVER_PATIENCE).await?;
    }
    Ok(End { exit: exit?, result: result(&stage.work), last: false })
}

/// What the last attempt left to say, if it got that far.
pub fn result(work: &Path) -> Option<StageResult> {
    serde_json::from_slice(&fs::read(work.join(RESULT_FILE)).ok()?).ok()
}

/// The run document of the last attempt. What [`result`] finds is of this one: a result is removed before the next
/// document is written.
pub fn document(work: &Path) -> Option<RunDocument> {
    serde_yaml::from_slice(&fs::read(work.join(DOCUMENT_FILE)).ok()?).ok()
}

/// The last lines of the log.
pub fn log_tail(work: &Path, lines: usize) -> String {
    files::tail(&work.join(LOG_FILE), lines)
}

/// Runs a subcommand of the trainer on the run document.
async fn step(
    stage: &Stage,
    subcommand: &str,
    served: &[Served],
    interrupt: &mut Interrupt,
    on_progress: &mut dyn FnMut(&ProgressReport),
) -> Result<Exit, WorkDirError> {
    let folder = if subcommand == FETCH { stage.work.join(FETCH) } else { stage.work.clone() };
    let document = stage.work.join(DOCUMENT_FILE);
    let text = run_document(stage, served).map_err(WorkDirError::at(&document))?;
    write_atomically(&document, text.as_bytes()).map_err(WorkDirError::at(&document))?;
    let mut trainer = start(stage, subcommand, &document)?;
    let mut last = None;
    let exit = loop {
        tokio::select! {
            exit = trainer.wait() => break exit?,
            () = interrupt.wait() => break trainer.stop(STAGE_PATIENCE).await?,
            () = tokio::time::sleep(TICK) => report(&folder, &mut last, on_progress),
        }
    };
    report(&folder, &mut last, on_progress);
    Ok(exit)
}

fn start(stage: &Stage, subcommand: &str, document: &Path) -> Result<Process, WorkDirError> {
    let arguments = [OsString::from(subcommand), "--run".into(), document.into()];
    let (log, lock) = (stage.work.join(LOG_FILE), stage.work.join(LOCK_FILE));
    process::spawn(&stage.trainer, &arguments, &log, &lock)
}

fn run_document(stage: &Stage, served: &[Served]) -> io::Result<String> {
    let document = RunDocument {
        resource: Resource { status: None, ..stage.resource.clone() },
        inputs: stage.inputs.clone(),
        served_judges: served.iter().map(|s| s.judge.clone()).collect(),
        output: stage.output.to_string_lossy().into_owned(),
        work: stage.work.to_string_lossy().into_owned(),
        // The work directory of a local run outlives the process.
        store: stage.store.clone().map(|artifact| StorePlaces { artifact, work: None }),
    };
    serde_yaml::to_string(&document).map_err(io::Error::other)
}

fn report(work: &Path, last: &mut Option<ProgressReport>, on_progress: &mut dyn FnMut(&ProgressReport)) {
    // The file is replaced whole, so what does not parse is not there yet.
    let read = fs::read(work.join(PROGRESS_FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(report) = read
        && last.as_ref() != Some(&report)
    {
        on_progress(&report);
        *last = Some(report);
    }
}

fn interrupted() -> End {
    End { exit: ExitCode::Interrupted.into(), result: None, last: false }
}
