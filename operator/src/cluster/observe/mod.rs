//! Observes a resource and everything that decides what happens to it. Reads from the API server, and changes nothing.
//!
//! Decisions are made from what is read in the same reconcile and never from a cache: a decision from a stale view could start
//! a run twice, or stop one that should continue.
//!
//! | question | file |
//! |---|---|
//! | What do its references resolve to? | `inputs` |
//! | How are its Job and pods? | `jobs` |
//! | Is anything of an earlier run still alive? | `left_over`, which `apply` asks |

mod inputs;
mod jobs;
mod left_over;

use k8s_openapi::api::batch::v1::Job;
use kube::{Client, ResourceExt};
use plumbline_crds::status::Status;
use plumbline_crds::{Kind, Resource};
use serde::Deserialize;

pub(super) use inputs::referents;
pub use left_over::left_over;

use super::context::Context;
use super::dependents::Id;
use super::kinds;
use super::objects::{KIND_LABEL, MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL, base_name};
use super::outcome;
use super::queue;
use super::snapshot::{ObservedResource, ResolvedInputs, Snapshot, Start, Unreadable, Validated, job_names, starts};
use super::times::{now, timestamp};
use super::usage;
use crate::location::Location;
use crate::plan::{Action, Decision, Inputs, Run};

/// What is found of a resource.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing, or one that is being deleted.
    Gone,
    /// A resource.
    Resource(Box<ObservedResource>),
    /// One whose spec this version cannot read; an earlier one may have accepted it.
    Unreadable(Box<Unreadable>),
}

/// Reads a resource.
pub(super) async fn resource(client: &Client, id: &Id) -> Result<Found, kube::Error> {
    let found = kinds::api(client, id.kind, &id.namespace).get_opt(&id.name).await?;
    let Some(object) = found.filter(|object| object.metadata.deletion_timestamp.is_none()) else {
        return Ok(Found::Gone);
    };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let created = object.metadata.creation_timestamp.as_ref().map(timestamp).unwrap_or_default();
    match serde_json::to_value(&object).and_then(serde_json::from_value::<Resource>) {
        Ok(mut resource) => {
            let previous = resource.status.take().unwrap_or_default();
            Ok(Found::Resource(Box::new(ObservedResource { resource, uid, created, previous })))
        }
        Err(why) => {
            let previous = object.data.get("status").and_then(|status| Status::deserialize(status).ok());
            let (previous, generation) = (previous.unwrap_or_default(), object.metadata.generation.unwrap_or_default());
            Ok(Found::Unreadable(Box::new(Unreadable { uid, created, generation, previous, why: why.to_string() })))
        }
    }
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
        resolved = Some(inputs::inputs(context, id, &observed.resource, output).await?);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::mock;
    use serde_json::{Value, json};

    async fn found(change: &Value) -> Found {
        let mut object = json!({"apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel",
            "metadata": {"name": "r", "namespace": "n", "uid": "u", "generation": 3},
            "spec": {"datasetRef": {"name": "d"}, "baseModel": {"uri": "m"}},
            "status": {"observedGeneration": 2, "job": {"name": "r-1", "attempt": 2}}});
        for (path, value) in change.as_object().unwrap() {
            let (parent, field) = path.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap()[field] = value.clone();
        }
        let client = mock::client(move |_| Some(object.clone()));
        let id = Id { namespace: "n".into(), kind: Kind::RewardModel, name: "r".into() };
        resource(&client, &id).await.unwrap()
    }

    #[tokio::test]
    async fn a_spec_that_this_version_cannot_read_keeps_its_status_and_one_that_is_being_deleted_is_gone() {
        assert!(matches!(found(&json!({})).await, Found::Resource(seen) if seen.previous.observed_generation == 2));
        let renamed = json!({"/spec/model": {"uri": "m"}});
        let Found::Unreadable(seen) = found(&renamed).await else { panic!("it is read") };
        assert!(seen.why.contains("model"), "{}", seen.why);
        assert_eq!((seen.generation, seen.uid.as_str(), seen.previous.job.unwrap().attempt), (3, "u", 2));
        let deleted = json!({"/spec/model": {"uri": "m"}, "/metadata/deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert!(matches!(found(&deleted).await, Found::Gone));
    }
}
