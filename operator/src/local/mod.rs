//! `plumbline run`: the resources of a few manifests, made on this machine. And `plumbline plan`: what that would do.
//!
//! | question | file |
//! |---|---|
//! | What happens to a resource, step by step? | `executor` |
//! | What is looked at before each step? | `observe`, `resolve`, `digests` |
//! | What does `plan` say of a resource? | `forecast` |
//! | What must hold before anything starts? | `preflight`, `secrets` |
//! | How is a stage run, with its judges? | `stage`, `served`, `files` |
//! | How is a process started, found again and ended? | `process`, `tied`, `interrupt` |
//! | Where is everything kept? | `work_dir` |
//! | What do people see? | `screen`, `summary` |

pub mod digests;
pub mod executor;
mod files;
pub mod forecast;
pub mod interrupt;
pub mod observe;
pub mod preflight;
pub mod process;
pub mod resolve;
pub mod screen;
pub mod secrets;
pub mod served;
pub mod stage;
pub mod summary;
pub mod tied;
pub mod work_dir;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use plumbline_crds::artifact::ArtifactError;
use plumbline_crds::conditions::ConditionType;
use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::unsupported::Target;
use plumbline_crds::{Kind, Resource};
use rustix::fs::Access;

use crate::manifest::read::{self, ReadError};
use crate::plan::{Action, Observed, Rerun, plan};
use crate::validate::references::{self, Elsewhere};
use crate::validate::{self, Manifest, Problem};
use digests::Digests;
use executor::{Executor, Outcome};
use interrupt::Interrupt;
use resolve::ResolveError;
use screen::Screen;
use work_dir::{WorkDir, WorkDirError};

/// What begins the name of a run: each resource has a folder of its own.
const RUN: &str = "run";

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Manifest files, folders, or `-`.
    pub files: Vec<PathBuf>,
    /// Where everything is kept.
    pub work_dir: PathBuf,
    /// The trainer's program, if it is not the one beside this or on the PATH.
    pub trainer: Option<PathBuf>,
}

/// Why a run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The manifests cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Something is wrong with the manifests or what they name; one line a problem.
    #[error("{}", lines(.0))]
    Refused(Vec<Problem>),
    /// There is no trainer.
    #[error("expected the program plumbline-trainer {place}, found none; build it, or name it with --trainer")]
    NoTrainer {
        /// Where it was looked for.
        place: String,
    },
    /// There is one that may not be executed.
    #[error(
        "{path}: expected a program that may be executed, found a file that may not; chmod +x it, or name another with --trainer"
    )]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
    /// The work folder.
    #[error(transparent)]
    WorkDir(#[from] WorkDirError),
    /// An input.
    #[error(transparent)]
    Input(#[from] ResolveError),
    /// An artifact.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The operating system's signals.
    #[error("cannot receive SIGINT and SIGTERM: {0}")]
    Signals(#[source] io::Error),
}

impl RunError {
    /// The exit code to end with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Read(_) | Self::Refused(_) | Self::NoTrainer { .. } | Self::NotExecutable { .. } => ExitCode::Config,
            Self::Input(ResolveError::Content { .. }) | Self::Artifact(_) => ExitCode::Data,
            Self::WorkDir(error) | Self::Input(ResolveError::WorkDir(error)) => error.exit_code(),
            Self::Signals(_) => ExitCode::Failed,
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Runs everything and prints the table, also where it cannot go on. Returns the exit code: 0, that of the first stage that
/// failed, or 75 when interrupted.
///
/// # Errors
/// What keeps all of it from being run, or from being run on.
pub async fn run(options: &Options) -> Result<u8, RunError> {
    let looked_at = WorkDir::look(&options.work_dir)?;
    let manifests = load(options, &looked_at)?;
    let secrets = secrets::collect(&manifests).map_err(RunError::Refused)?;
    let trainer = find_trainer(options.trainer.as_deref())?;

    let work_dir = WorkDir::open(&options.work_dir)?;
    let digests = Digests::load(work_dir.digests_file());
    let interrupt = Interrupt::listen().map_err(RunError::Signals)?;
    let mut executor = Executor { work_dir, digests, trainer, secrets, interrupt, screen: Screen::on_stderr() };
    let ended = run_each(&manifests, &mut executor).await;
    let printed = print_summary(&manifests, &executor.work_dir);
    let failure = ended?;
    printed?;
    let interrupted = executor.interrupt.happened().then(|| ExitCode::Interrupted.number());
    Ok(failure.or(interrupted).unwrap_or_default())
}

/// Runs one resource after the other. Returns the exit code of the first that failed. One that fails keeps none from being run
/// but those that need it, unless the disk takes nothing more: all of them need it.
async fn run_each(manifests: &[Manifest], executor: &mut Executor) -> Result<Option<u8>, RunError> {
    let mut failure = None;
    for (number, manifest) in manifests.iter().enumerate() {
        if executor.interrupt.happened() {
            break;
        }
        let outcome = executor.bring_to_end(manifest).await;
        if let Err(error) = executor.digests.save() {
            // It costs time, the next time.
            tracing::warn!("digests are not remembered: {error}");
        }
        let code = match outcome {
            Ok(Outcome::Failed(code)) => code,
            Ok(_) => continue,
            Err(error) => {
                not_run(&manifests[number + 1..], &executor.screen);
                return Err(error);
            }
        };
        failure = failure.or(Some(code));
        if code == ExitCode::StoreUnavailable.number()
            && let Err(error) = executor.work_dir.probe()
        {
            executor.screen.say(&error.to_string());
            not_run(&manifests[number + 1..], &executor.screen);
            break;
        }
    }
    Ok(failure)
}

fn not_run(manifests: &[Manifest], screen: &Screen) {
    let ids: Vec<String> = manifests.iter().map(|m| m.resource.id()).collect();
    if !ids.is_empty() {
        screen.say(&format!("not run: {}", ids.join(", ")));
    }
}

/// What a run would do now.
#[derive(Debug)]
pub struct Explained {
    /// One line per resource.
    pub lines: Vec<String>,
    /// What a run would end with before it starts any of them.
    pub problems: Vec<Problem>,
}

/// What a run would do now, and why.
///
/// # Errors
/// What keeps it from being known.
pub fn explain(options: &Options) -> Result<Explained, RunError> {
    let work_dir = WorkDir::look(&options.work_dir)?;
    let manifests = load(options, &work_dir)?;
    let problems = secrets::collect(&manifests).err().unwrap_or_default();
    let mut digests = Digests::load(work_dir.digests_file());
    let (mut pending, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let mut lines = Vec::new();
    for manifest in &manifests {
        let resource = &manifest.resource;
        let observation = observe::observe(manifest, &work_dir, &mut digests, &pending)?;
        let run = observe::unrecorded_end(manifest, &work_dir, &observation.previous);
        let observed = Observed {
            spec: &resource.spec,
            generation: observation.generation,
            previous: &observation.previous,
            inputs: &observation.inputs,
            run: &run,
            job: None,
            base_name: RUN,
            problems: &[],
            artifact: observation.artifact,
            stopping: false,
            rerun: Rerun::Asked,
        };
        let decision = plan(&observed);
        lines.push(format!("{}: {}", resource.id(), forecast::forecast(&observed, &decision, &ids)));
        // What is made from something that is made again may be made again too.
        let waits = forecast::waits(&observation.inputs, &ids);
        if waits || !matches!(decision.action, Action::Skip | Action::Finish) {
            pending.insert((resource.kind, resource.metadata.name.clone()));
            ids.insert(resource.id());
        }
    }
    Ok(Explained { lines, problems })
}

/// The manifests, valid and in the order in which they can be made, with all they need on this machine.
fn load(options: &Options, work_dir: &WorkDir) -> Result<Vec<Manifest>, RunError> {
    let sources = read::read(&options.files)?;
    let elsewhere = Elsewhere { existing: work_dir.resources()?, ..Elsewhere::default() };
    let manifests = validate::validate(&sources, &elsewhere, Target::Local).map_err(RunError::Refused)?;
    let problems = preflight::check(&manifests, work_dir);
    if !problems.is_empty() {
        return Err(RunError::Refused(problems));
    }
    let resources: Vec<&Resource> = manifests.iter().map(|m| &m.resource).collect();
    Ok(references::order(&resources).into_iter().map(|i| manifests[i].clone()).collect())
}

fn find_trainer(given: Option<&Path>) -> Result<PathBuf, RunError> {
    const NAME: &str = "plumbline-trainer";
    if let Some(path) = given {
        let found = std::path::absolute(path).ok().filter(|p| p.is_file());
        return executable(found.ok_or_else(|| RunError::NoTrainer { place: format!("at {}", path.display()) })?);
    }
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let files = beside.into_iter().chain(std::env::split_paths(&on_path)).map(|folder| folder.join(NAME));
    // As a shell does: the first that may be executed; one that may not is named where there is no other.
    let (found, refused): (Vec<_>, Vec<_>) =
        files.filter(|path| path.is_file()).map(executable).partition(Result::is_ok);
    let none = || Err(RunError::NoTrainer { place: "beside this program or on the PATH".into() });
    found.into_iter().chain(refused).next().unwrap_or_else(none)
}

/// A program, if it may be executed: what only its start would tell would be told of each stage.
fn executable(path: PathBuf) -> Result<PathBuf, RunError> {
    match rustix::fs::access(&path, Access::EXEC_OK) {
        Ok(()) => Ok(path),
        Err(_) => Err(RunError::NotExecutable { path }),
    }
}

fn print_summary(manifests: &[Manifest], work_dir: &WorkDir) -> Result<(), RunError> {
    let mut resources = Vec::new();
    for manifest in manifests {
        let resource = &manifest.resource;
        let stored = work_dir.resource(resource.kind, &resource.metadata.name)?;
        resources.push(stored.unwrap_or_else(|| resource.clone()));
    }
    let age = |since: &str| {
        let since: jiff::Timestamp = since.parse().ok()?;
        Some(jiff::Timestamp::now().as_second() - since.as_second())
    };
    print!("{}", crate::printable::text(&summary::table(&resources, &age)));
    for line in summary::left_out(&resources) {
        println!("{}", crate::printable::line(&line));
    }
    if let Some(report) = report(&resources) {
        println!("report: {}", crate::printable::line(&report));
    }
    Ok(())
}

/// The report of the last tuned policy, or of the last resource there is one of.
fn report(resources: &[Resource]) -> Option<String> {
    let ready = |r: &&Resource| r.status.as_ref().is_some_and(|s| s.is_true(ConditionType::Ready));
    let made: Vec<&Resource> = resources.iter().filter(ready).collect();
    let last = made.iter().rev().find(|r| r.kind == Kind::PolicyTuning).or(made.last())?;
    let uri = &last.status.as_ref()?.artifact.as_ref()?.uri;
    let file = Path::new(uri.strip_prefix("file://").unwrap_or(uri)).join("report.html");
    file.is_file().then(|| file.display().to_string())
}

/// This moment in RFC 3339, to the second.
fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_trainer_that_may_not_be_executed_is_refused_before_anything_starts() {
        let folder = tempfile::tempdir().unwrap();
        let trainer = folder.path().join("plumbline-trainer");
        fs::write(&trainer, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&trainer, Permissions::from_mode(0o644)).unwrap();
        let error = find_trainer(Some(&trainer)).unwrap_err();
        assert!(error.to_string().contains("chmod +x"), "{error}");
        assert_eq!(error.exit_code(), ExitCode::Config);
        fs::set_permissions(&trainer, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find_trainer(Some(&trainer)).unwrap(), trainer);
    }
}
