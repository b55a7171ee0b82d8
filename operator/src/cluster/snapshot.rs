//! The values that the steps of a reconcile pass on: a resource, its references, its Job, and all of them together.
//! Computes only.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use plumbline_crds::Resource;
use plumbline_crds::status::{InputRef, JobRef, Status};

use super::objects::{self, Children, Input, Request};
use super::queue::Workload;
use super::settings::Settings;
use super::usage;
use crate::digest;
use crate::location::Location;
use crate::plan::{Action, Artifact, Decision, Inputs, Observed, Rerun, Run};

/// How long the status says that a Job was let go before its successor is made, at least.
const LET_GO: Duration = Duration::from_millis(100);

/// A resource as the API server has it.
#[derive(Clone, Debug)]
pub struct ObservedResource {
    /// The resource, without its status.
    pub resource: Resource,
    /// Its UID.
    pub uid: String,
    /// When it was created (RFC 3339).
    pub created: String,
    /// Its status; the default before it was reconciled once.
    pub previous: Status,
}

/// A resource whose spec this version cannot read.
#[derive(Clone, Debug)]
pub(super) struct Unreadable {
    /// Its UID.
    pub(super) uid: String,
    /// When it was created (RFC 3339).
    pub(super) created: String,
    /// Generation of the spec.
    pub(super) generation: i64,
    /// Its status; the default before it was reconciled once.
    pub(super) previous: Status,
    /// What is wrong with it.
    pub(super) why: String,
}

/// A spec as far as it can be judged without its references.
#[derive(Clone, Debug)]
pub struct Validated {
    /// What is wrong with it; a spec with problems is not run.
    pub problems: Vec<String>,
    /// Where the artifact goes.
    pub output: Option<Location>,
}

/// The Job of a run, and its pods.
#[derive(Clone, Debug)]
pub struct JobState {
    /// The Job.
    pub job: Job,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Why it has none that could run, where the cluster refuses the next.
    pub refusal: Option<String>,
    /// What Kueue says of it, where it is in a queue.
    pub workload: Option<Workload>,
}

/// What the references of a spec resolve to.
#[derive(Clone, Debug, Default)]
pub struct ResolvedInputs {
    /// The inputs that exist.
    pub inputs: Vec<Input>,
    /// `Kind/name` of what does not exist.
    pub missing: Vec<String>,
    /// `Kind/name` of what has no artifact yet.
    pub unready: Vec<String>,
}

impl ResolvedInputs {
    /// As a decision is made from them.
    pub(super) fn summary(&self) -> Inputs {
        let lineage = |input: &Input| InputRef {
            role: input.role.clone(),
            name: input.name.clone(),
            digest: input.digest.clone(),
        };
        match self {
            Self { missing, .. } if !missing.is_empty() => Inputs::NotFound(missing.clone()),
            Self { unready, .. } if !unready.is_empty() => Inputs::NotReady(unready.clone()),
            Self { inputs, .. } => Inputs::Ready(inputs.iter().map(lineage).collect()),
        }
    }
}

/// What is observed where something is about to start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start<'a> {
    /// Nothing is about to start.
    NotDue,
    /// The pause before the next attempt is not over: what is left of it.
    Paused(Duration),
    /// A Job is due, with this cache of fetched inputs.
    Due { cache: Option<&'a Location> },
}

/// Everything that a decision about a resource is made from.
pub(super) struct Snapshot {
    pub(super) observed: ObservedResource,
    pub(super) validated: Validated,
    /// The inputs in short, and as a run is built from them; none where the spec must not be run.
    pub(super) inputs: Inputs,
    pub(super) resolved: Option<ResolvedInputs>,
    /// The Job of the run, if it exists.
    pub(super) job_state: Option<JobState>,
    /// Jobs of reconciles that were cut short, which are not what is wanted any more.
    pub(super) unwanted: Vec<Job>,
    pub(super) run: Run,
    pub(super) job: Option<JobRef>,
    pub(super) base_name: String,
    /// The time of the snapshot (RFC 3339).
    pub(super) now: String,
}

impl Snapshot {
    /// The facts that `plan` decides from.
    pub(super) fn facts(&self) -> Observed<'_> {
        Observed {
            spec: &self.observed.resource.spec,
            generation: self.observed.resource.metadata.generation.unwrap_or_default(),
            previous: &self.observed.previous,
            inputs: &self.inputs,
            run: &self.run,
            job: self.job.as_ref(),
            base_name: &self.base_name,
            problems: &self.validated.problems,
            artifact: Artifact::Unseen,
            stopping: false,
            rerun: Rerun::SpecChange,
        }
    }

    /// What is left of a pause that began when the last attempt ended. The status says at least once that its Job was let go.
    pub(super) fn remaining(&self, pause: Duration) -> Duration {
        let job_state = self.job_state.as_ref();
        let left = job_state.map_or(Duration::ZERO, |state| usage::remaining(pause, &state.job, &self.now));
        let is_let_go = self.job.as_ref().is_none_or(|job| job.uid.is_none());
        if is_let_go { left } else { left.max(LET_GO) }
    }

    /// Accelerator seconds of the run so far, as far as its Job can tell.
    pub(super) fn accelerator_seconds(&self) -> Option<i64> {
        let state = self.job_state.as_ref()?;
        let previous = &self.observed.previous;
        let before = (previous.accelerator_seconds.unwrap_or(0), previous.job.as_ref());
        let held = usage::accelerator_seconds(&state.job, &state.pods, before, &self.now);
        Some(held.max(before.0))
    }

    /// The objects of the run that is due; none where nothing is.
    pub(super) fn build(&self, decision: &Decision, start: Start<'_>, settings: &Settings) -> Option<Children> {
        let Start::Due { cache } = start else { return None };
        let (resolved, output) = (self.resolved.as_ref()?, self.validated.output.as_ref()?);
        Some(objects::children(&Request {
            resource: &self.observed.resource,
            uid: &self.observed.uid,
            job: &decision.job,
            // A new run counts from zero, one that resumes counts on.
            accelerator_seconds: match decision.action {
                Action::Start => 0,
                _ => self.accelerator_seconds().or(self.observed.previous.accelerator_seconds).unwrap_or(0),
            },
            inputs: &resolved.inputs,
            output,
            cache,
            settings,
        }))
    }
}

/// The Jobs that may hold a run, the likeliest first: the one that the status names, and the one that a reconcile which was
/// cut short may have made.
pub(super) fn job_names(observed: &ObservedResource, inputs: &Inputs, base_name: &str) -> Vec<String> {
    let recorded = observed.previous.job.as_ref().map(|job| job.name.clone());
    let wanted = match inputs {
        Inputs::Ready(inputs) => Some(digest::run_name(base_name, &observed.resource.spec, inputs)),
        _ => None,
    };
    let mut names: Vec<String> = recorded.into_iter().chain(wanted).filter(|n| !n.is_empty()).collect();
    names.dedup();
    names
}

/// Whether a decision starts a Job.
pub(super) fn starts(action: Action) -> bool {
    matches!(action, Action::Start | Action::Continue(_) | Action::Retry(_))
}
