//! Carries out a decision: makes the objects of a run, and removes those of runs that are over. Talks to the API server.
//!
//! What stands in the way of a decision revises it: the status must not say that something was started which was not.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use kube::runtime::controller::Action as Next;
use plumbline_crds::conditions::Reason;
use plumbline_crds::status::JobRef;

use super::context::Context;
use super::dependents::Id;
use super::objects::Children;
use super::observe;
use super::outcome;
use super::queue;
use super::snapshot::{JobState, Snapshot, Start, starts};
use super::writes::{self, ApplyOutcome};
use crate::plan::{Action, Decision, Phase, Run};

/// What the API server refused may be allowed later.
const REFUSED: Duration = Duration::from_secs(30);
/// Something has to go first. Its deletion is an event, unless it belonged to something else.
const IN_THE_WAY: Duration = Duration::from_secs(5);

/// A decision that was carried out as far as possible.
pub(super) struct Applied {
    /// The decision, revised by what stood in its way.
    pub(super) decision: Decision,
    /// When to reconcile again without an event.
    pub(super) next: Next,
}

/// Carries out a decision. `children`: the objects of the run that is due.
pub(super) async fn apply(
    context: &Context,
    id: &Id,
    snapshot: &Snapshot,
    decision: Decision,
    start: Start<'_>,
    children: Option<&Children>,
) -> Result<Applied, kube::Error> {
    for job in &snapshot.unwanted {
        // The document first: once its Job is deleted, nothing refers to it any more.
        let document = job.metadata.name.as_deref().unwrap_or_default();
        writes::forget_document(&context.client, &id.namespace, document, &snapshot.observed.uid).await?;
        writes::stop(&context.client, &id.namespace, job).await?;
    }
    let job_state = snapshot.job_state.as_ref();
    let lacks_a_pod = job_state.filter(|state| outcome::may_lack_a_pod(&state.job, &state.pods));
    let next = match (decision.action, start) {
        (_, Start::Paused(left)) => return Ok(paused(decision, left)),
        (_, Start::Due { .. }) => return begin(context, id, snapshot, decision, children).await,
        (Action::Watch, _) if let Some(state) = lacks_a_pod => {
            Next::requeue(outcome::patience(&state.job, &state.pods, &snapshot.now))
        }
        (Action::Watch, _) if job_state.is_some_and(|state| outcome::is_suspended(&state.job)) => {
            queued(context, id, snapshot).await?
        }
        (Action::Finish | Action::Skip | Action::Fail, _) => Next::await_change(),
        // A Job is stopped once the status says so: then nothing else can have deleted it.
        _ => resync(context),
    };
    Ok(Applied { decision, next })
}

/// Removes the Job of a run that is over. The status has to say so first: the Job is the only proof of its outcome.
pub(super) async fn clean_up(
    context: &Context,
    id: &Id,
    snapshot: &Snapshot,
    decision: &Decision,
) -> Result<(), kube::Error> {
    let Some(JobState { job, .. }) = &snapshot.job_state else { return Ok(()) };
    // A run can be over while its Job would still continue.
    let is_over =
        |job: &Job| matches!(snapshot.run, Run::Ended(_)) && !outcome::is_finished(job) && !starts(decision.action);
    if decision.action == Action::Stop || is_over(job) {
        writes::stop(&context.client, &id.namespace, job).await?;
    }
    if matches!(decision.phase, Phase::Done | Phase::Failed | Phase::ArtifactMismatch) {
        writes::expire(&context.client, &id.namespace, job, context.settings.job_ttl_seconds).await?;
    }
    Ok(())
}

fn resync(context: &Context) -> Next {
    Next::requeue(Duration::from_secs(context.settings.resync_seconds))
}

/// What is counted stays counted, should the Job vanish meanwhile; no more is expected of it, and nothing runs yet.
fn paused(mut decision: Decision, left: Duration) -> Applied {
    let job = &mut decision.job;
    (job.attempt, job.uid) = (job.attempt.saturating_sub(1), None);
    Applied { decision, next: Next::requeue(left) }
}

/// A Job that waits in a queue. Resuming it restarts its deadline, so it gets what is left of it.
async fn queued(context: &Context, id: &Id, snapshot: &Snapshot) -> Result<Next, kube::Error> {
    let Some(state) = &snapshot.job_state else { return Ok(resync(context)) };
    let deadline = snapshot.observed.resource.spec.compute().deadline_seconds;
    if let (Some(deadline), Some(counted)) = (deadline, &snapshot.job) {
        let left = deadline.saturating_sub(counted.active_seconds).max(1);
        writes::shorten(&context.client, &id.namespace, &state.job, left).await?;
    }
    if !context.settings.kueue {
        return Ok(resync(context));
    }
    let patience = queue::patience(&state.job, state.workload.as_ref(), &snapshot.now);
    Ok(Next::requeue(patience.min(Duration::from_secs(context.settings.resync_seconds))))
}

/// Makes the objects of a run, after those of the last one are gone.
async fn begin(
    context: &Context,
    id: &Id,
    snapshot: &Snapshot,
    mut decision: Decision,
    children: Option<&Children>,
) -> Result<Applied, kube::Error> {
    forget_last(context, id, snapshot, &decision).await?;
    let Some(children) = children else { return Ok(Applied { decision, next: resync(context) }) };
    // Only now: what was deleted just above may leave a pod behind.
    if let Some(pod) = observe::left_over(&context.client, &snapshot.observed).await? {
        let what = format!("pod {pod} of the last run has not ended yet; this starts when it has");
        return Ok(held(snapshot, Reason::Pending, what, IN_THE_WAY));
    }
    match writes::make(&context.client, &id.namespace, &snapshot.observed.uid, children).await? {
        ApplyOutcome::Job(job) => {
            decision.job.uid.clone_from(&job.metadata.uid);
            Ok(Applied { decision, next: resync(context) })
        }
        ApplyOutcome::InTheWay(what) => Ok(held(snapshot, Reason::Pending, what, IN_THE_WAY)),
        ApplyOutcome::Refused(why) => Ok(held(snapshot, Reason::ChildCreationFailed, why, REFUSED)),
    }
}

/// At most one Job of a resource exists: one that ended would otherwise be taken for the outcome of a later run of the same
/// name.
async fn forget_last(context: &Context, id: &Id, snapshot: &Snapshot, decision: &Decision) -> Result<(), kube::Error> {
    if let Some(state) = &snapshot.job_state {
        writes::forget(&context.client, &id.namespace, &state.job).await?;
    }
    let previous = snapshot.observed.previous.job.as_ref();
    if let Some(last) = previous.filter(|job| job.name != decision.job.name) {
        writes::forget_document(&context.client, &id.namespace, &last.name, &snapshot.observed.uid).await?;
    }
    Ok(())
}

/// Nothing was started: the status must not say so.
fn held(snapshot: &Snapshot, reason: Reason, message: String, pause: Duration) -> Applied {
    let mut job = snapshot.observed.previous.job.clone().unwrap_or_default();
    if snapshot.job_state.is_some() {
        // Its Job was just deleted.
        job = JobRef { uid: None, ..job };
    }
    let decision = Decision { action: Action::Wait, phase: Phase::Active, reason, message, job, outdated: Vec::new() };
    Applied { decision, next: Next::requeue(pause) }
}
