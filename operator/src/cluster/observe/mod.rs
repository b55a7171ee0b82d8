//! Observes a resource and everything that decides what happens to it. Reads from the API server, and changes nothing.
//!
//! Decisions are made from what is read in the same reconcile and never from a cache: a decision from a stale view could start
//! a run twice, or stop one that should continue.
//!
//! | question | file |
//! |---|---|
//! | What do its references resolve to? | `inputs` |
//! | How are its Job and pods? | `jobs` |
//! | Is anything of an earlier run still alive? | `left_over` |

mod inputs;
mod jobs;
mod left_over;

use k8s_openapi::api::batch::v1::Job;
use kube::{Client, ResourceExt};
use plumbline_crds::{Kind, Resource};

pub(super) use inputs::referents;
pub use left_over::left_over;

use super::context::Context;
use super::dependents::Id;
use super::error::ReconcileError;
use super::kinds;
use super::objects::{KIND_LABEL, MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL, base_name};
use super::outcome;
use super::queue;
use super::snapshot::{ObservedResource, ResolvedInputs, Snapshot, Start, Validated, job_names, starts};
use super::times::{now, timestamp};
use super::usage;
use crate::location::Location;
use crate::plan::{Action, Decision, Inputs, Run};

/// Reads a resource; nothing if it is gone, or being deleted.
///
/// # Errors
/// If the API server does not answer, or has an object that this version cannot read.
pub async fn resource(client: &Client, id: &Id) -> Result<Option<ObservedResource>, ReconcileError> {
    let found = kinds::api(client, id.kind, &id.namespace).get_opt(&id.name).await.map_err(ReconcileError::Observe)?;
    let Some(object) = found else { return Ok(None) };
    let unreadable = |source| ReconcileError::Unreadable { kind: id.kind, name: id.name.clone(), source };
    let mut resource: Resource = serde_json::to_value(&object).and_then(serde_json::from_value).map_err(unreadable)?;
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let created = object.metadata.creation_timestamp.as_ref().map(timestamp).unwrap_or_default();
    let previous = resource.status.take().unwrap_or_default();
    Ok(Some(ObservedResource { resource, uid, created, previous }))
}

/// Looks at everything else that a decision about a resource is made from.
pub(super) async fn snapshot(
    context: &Context,
    id: &Id,
    observed: ObservedResource,
    validated: Validated,
) -> Result<Snapshot, kube::Error> {
    let base_name = base_name(id.kind, &id.name);
    let mut resolved = None;
    if let Some(output) = validated.output.as_ref().filter(|_| validated.problems.is_empty()) {
        resolved = Some(inputs::inputs(&context.client, &observed.resource, output).await?);
    }
    let inputs = resolved.as_ref().map_or(Inputs::Unknown, ResolvedInputs::summary);
    let names = job_names(&observed, &inputs, &base_name);
    let jobs = jobs::jobs(&context.client, &observed).await?;
    let rank = |job: &Job| names.iter().position(|name| *name == job.name_any());
    let (named, others): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| rank(job).is_some());
    let is_ready = matches!(inputs, Inputs::Ready(_));
    let unwanted = others.into_iter().filter(|job| is_ready && job.metadata.deletion_timestamp.is_none()).collect();
    let (mut snapshot, likeliest) = (
        Snapshot {
            observed,
            validated,
            inputs,
            resolved,
            job_state: None,
            unwanted,
            run: Run::None,
            job: None,
            base_name,
            now: now(),
        },
        named.into_iter().min_by_key(rank),
    );
    if let Some(job) = likeliest {
        add_job(context, id, job, &mut snapshot).await?;
    }
    Ok(snapshot)
}

/// Looks at the Job of the run.
async fn add_job(context: &Context, id: &Id, job: Job, snapshot: &mut Snapshot) -> Result<(), kube::Error> {
    let now = &snapshot.now;
    let state = jobs::job_state(&context.client, &id.namespace, job, context.settings.kueue, now).await?;
    let run = outcome::run(&state.job, &state.pods, state.refusal.as_deref());
    snapshot.run = with_uri(queue::explained(run, state.workload.as_ref()), snapshot.validated.output.as_ref());
    let previous = snapshot.observed.previous.job.as_ref();
    let counted = usage::count_usage(&state.job, &state.pods, previous, now);
    snapshot.job = Some(queue::count_evictions(counted, state.workload.as_ref()));
    snapshot.job_state = Some(state);
    Ok(())
}

/// Looks at what only the start of a Job depends on. Nothing where the resource is not the observed one any more: a Job that
/// is missing may be missing because its resource was deleted after it had been read. Asked after the Job, this tells.
pub(super) async fn start<'a>(
    context: &'a Context,
    snapshot: &Snapshot,
    decision: &Decision,
) -> Result<Option<Start<'a>>, kube::Error> {
    if !starts(decision.action) {
        return Ok(Some(Start::NotDue));
    }
    if !is_current(&context.client, &snapshot.observed).await? {
        return Ok(None);
    }
    if let Action::Continue(pause) | Action::Retry(pause) = decision.action {
        let left = snapshot.remaining(pause);
        if !left.is_zero() {
            return Ok(Some(Start::Paused(left)));
        }
    }
    let Some(resolved) = &snapshot.resolved else { return Ok(Some(Start::Due { cache: None })) };
    let namespace = snapshot.observed.resource.metadata.namespace.as_deref().unwrap_or_default();
    let cache = inputs::cache(&context.client, namespace, &context.settings, &resolved.inputs).await?;
    Ok(Some(Start::Due { cache }))
}

async fn is_current(client: &Client, observed: &ObservedResource) -> Result<bool, kube::Error> {
    let metadata = &observed.resource.metadata;
    let api = kinds::api(client, observed.resource.kind, metadata.namespace.as_deref().unwrap_or_default());
    let found = api.get_metadata_opt(&metadata.name).await?.map(|object| object.metadata);
    Ok(found.is_some_and(|m| {
        m.uid.as_ref() == Some(&observed.uid) && m.generation == metadata.generation && m.deletion_timestamp.is_none()
    }))
}

/// The pod knows its artifact by a path, all others by its URI.
fn with_uri(mut run: Run, output: Option<&Location>) -> Run {
    if let (Run::Ended(end), Some(output)) = (&mut run, output)
        && let Some(artifact) = end.result.as_mut().and_then(|r| r.artifact.as_mut())
    {
        artifact.uri = output.to_string();
    }
    run
}

/// A selector of what the operator made for a resource.
fn selector(kind: Kind, name: &str) -> String {
    format!("{MANAGED_BY_LABEL}={MANAGED_BY},{KIND_LABEL}={kind},{NAME_LABEL}={name}")
}
