//! Brings one resource after the other to its end: observe, plan, record, act, and again. What to do is decided in
//! `plan`; this only does it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use plumbline_crds::Resource;
use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::run::ProgressReport;
use plumbline_crds::status::Status;

use super::digests::Digests;
use super::interrupt::Interrupt;
use super::observe::{observe, unrecorded_end};
use super::preflight::output_folder;
use super::screen::Screen;
use super::stage::{self, Stage};
use super::work_dir::WorkDir;
use super::{RUN, RunError, now};
use crate::plan::{Action, Decision, End, Exit, Observed, Phase, Rerun, Run, plan};
use crate::redact::redact;
use crate::status::{status, with_progress};
use crate::uri;
use crate::validate::Manifest;

/// Least time between two writes of a running resource.
const WRITE_INTERVAL: Duration = Duration::from_secs(15);
/// Lines of the log that a failure is shown with.
const LOG_LINES: usize = 20;

/// Everything that running a resource needs.
#[derive(Debug)]
pub struct Executor {
    /// Where everything is kept.
    pub work_dir: WorkDir,
    /// Digests known so far.
    pub digests: Digests,
    /// The trainer's program.
    pub trainer: PathBuf,
    /// Values that must not be shown.
    pub secrets: Vec<String>,
    /// Whether to stop.
    pub interrupt: Interrupt,
    /// What people see.
    pub screen: Screen,
}

/// How a resource stands when nothing more can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its artifact is there and verified.
    Ready,
    /// It waits for something that did not come, or is suspended.
    Waiting,
    /// It failed, with this exit code.
    Failed(u8),
}

impl Executor {
    /// Brings a resource to its end.
    pub async fn bring_to_end(&mut self, manifest: &Manifest) -> Result<Outcome, RunError> {
        let id = manifest.resource.id();
        let (mut run, mut rerun) = (self.last_end(manifest).await?, Rerun::Asked);
        loop {
            let (decision, status, stage) = self.decide(manifest, &run, rerun)?;
            // What happened is said also where there is no room to record it.
            self.screen.say(&format!("{id}: {}: {}", decision.reason.as_str(), decision.message));
            let recorded = self.record(&stage.resource, status.clone());
            if recorded.is_err() && matches!(decision.action, Action::Fail) {
                self.show_failure(&decision, &run, &stage);
            }
            recorded?;
            let delay = match decision.action {
                Action::Start => Duration::ZERO,
                Action::Continue(delay) | Action::Retry(delay) => delay,
                Action::Finish | Action::Skip => return Ok(Outcome::Ready),
                Action::Fail => return Ok(Outcome::Failed(self.show_failure(&decision, &run, &stage))),
                // Nothing runs while a decision is made here, so there is nothing to look on or to stop.
                Action::Wait | Action::Watch | Action::Stop => return Ok(Outcome::Waiting),
            };
            self.interrupt.sleep(delay).await;
            run = if self.interrupt.happened() {
                Run::None
            } else {
                Run::Ended(Box::new(self.attempt(&stage, &status).await?))
            };
            rerun = Rerun::SpecChange;
        }
    }

    /// Nothing of an earlier `plumbline run` may go on; if it ended well meanwhile, that counts.
    async fn last_end(&self, manifest: &Manifest) -> Result<Run, RunError> {
        let resource = &manifest.resource;
        let name = &resource.metadata.name;
        let stored = self.work_dir.resource(resource.kind, name)?.and_then(|r| r.status).unwrap_or_default();
        if let Some(job) = &stored.job {
            stage::end_leftovers(&self.work_dir.run_folder(resource.kind, name, &job.name)).await?;
        }
        Ok(unrecorded_end(manifest, &self.work_dir, &stored))
    }

    /// Observes and plans.
    fn decide(&mut self, manifest: &Manifest, run: &Run, rerun: Rerun) -> Result<(Decision, Status, Stage), RunError> {
        let observation = observe(manifest, &self.work_dir, &mut self.digests, &BTreeSet::new())?;
        let observed = Observed {
            spec: &manifest.resource.spec,
            generation: observation.generation,
            previous: &observation.previous,
            inputs: &observation.inputs,
            run,
            job: None,
            base_name: RUN,
            problems: &[],
            artifact: observation.artifact,
            stopping: self.interrupt.happened(),
            rerun,
        };
        let decision = plan(&observed);
        let status = status(&observed, &decision, &now());
        let mut resource = manifest.resource.clone();
        resource.metadata.generation = Some(observation.generation);
        let work = self.work_dir.run_folder(resource.kind, &resource.metadata.name, &decision.job.name);
        let stage = Stage {
            trainer: self.trainer.clone(),
            resource,
            inputs: observation.resolved,
            output: output_folder(manifest, &self.work_dir),
            store: manifest.resource.spec.output().uri.clone().filter(|uri| uri::is_store(uri)),
            work,
        };
        Ok((decision, status, stage))
    }

    /// Runs one attempt and passes on what it says.
    async fn attempt(&mut self, stage: &Stage, status: &Status) -> Result<End, RunError> {
        let id = stage.resource.id();
        let (screen, work_dir) = (&mut self.screen, &self.work_dir);
        let (mut latest, mut written): (Option<ProgressReport>, _) = (None, Instant::now());
        let mut on_progress = |report: &ProgressReport| {
            screen.progress(&id, report);
            latest = Some(report.clone());
            if written.elapsed() >= WRITE_INTERVAL {
                written = Instant::now();
                let resource =
                    Resource { status: Some(with_progress(status.clone(), report)), ..stage.resource.clone() };
                if let Err(error) = work_dir.write_resource(&resource) {
                    tracing::warn!("progress is not recorded: {error}");
                }
            }
        };
        let end = stage::run(stage, &mut self.interrupt, &mut on_progress).await;
        self.screen.end_stage();
        if let Some(report) = latest
            && let Err(error) = self.record(&stage.resource, with_progress(status.clone(), &report))
        {
            tracing::warn!("progress is not recorded: {error}");
        }
        let mut end = end?;
        if let Some(result) = &mut end.result {
            result.message = redact(&result.message, &self.secrets);
        }
        Ok(end)
    }

    /// Writes a resource, unless that would change nothing.
    fn record(&self, resource: &Resource, status: Status) -> Result<(), RunError> {
        let resource = Resource { status: Some(status), ..resource.clone() };
        let stored = self.work_dir.resource(resource.kind, &resource.metadata.name)?;
        if stored.as_ref() != Some(&resource) {
            self.work_dir.write_resource(&resource)?;
        }
        Ok(())
    }

    /// Shows the end of the log and returns the exit code.
    fn show_failure(&self, decision: &Decision, run: &Run, stage: &Stage) -> u8 {
        let Run::Ended(end) = run else {
            let code = if decision.phase == Phase::ArtifactMismatch { ExitCode::Data } else { ExitCode::Failed };
            return code.number();
        };
        let tail = stage::log_tail(&stage.work, LOG_LINES);
        if !tail.is_empty() {
            self.screen.say(&format!("the last lines of {}:", stage.work.join(stage::LOG_FILE).display()));
            self.screen.say(&redact(&tail, &self.secrets));
        }
        match end.exit {
            // Exit code 0 without an artifact is a failure all the same.
            Exit::Code(0) | Exit::Signal(_) => ExitCode::Failed.number(),
            Exit::Code(code) => u8::try_from(code).unwrap_or(ExitCode::Failed.number()),
        }
    }
}
