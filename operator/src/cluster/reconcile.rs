//! One reconcile of one resource: observe, validate, plan, build, apply, status. The same for the three kinds, and the same
//! whether it is the first reconcile or the thousandth: what was done is read from the cluster, never remembered.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kube::runtime::controller::Action as Next;

use super::apply::{apply, clean_up};
use super::context::Context;
use super::dependents::Id;
use super::error::ReconcileError;
use super::observe::{self, Found};
use super::record::{due_report, next_status, record, write};
use super::snapshot::{ObservedResource, Unreadable, Validated};
use super::times::now;
use super::validate::validate;
use crate::plan::plan;
use crate::redact::redact;
use crate::status::unreadable;

/// What was observed has changed since: it is observed again soon.
const CHANGED: Duration = Duration::from_millis(100);

/// Reconciles a resource. Returns when it is to be reconciled again without an event.
///
/// # Errors
/// The step that failed.
pub async fn reconcile(context: &Context, id: &Id) -> Result<Next, ReconcileError> {
    let observed = match observe::resource(&context.client, id).await.map_err(ReconcileError::Observe)? {
        Found::Gone => {
            forget(context, id);
            return Ok(Next::await_change());
        }
        Found::Unreadable(seen) => return reject(context, id, &seen).await,
        Found::Resource(observed) => *observed,
    };
    let validated = validate(&observed, &context.settings);
    follow(context, id, &observed, &validated);
    let snapshot = Box::pin(observe::snapshot(context, id, observed, validated)).await;
    let snapshot = snapshot.map_err(ReconcileError::Observe)?;

    let decision = plan(&snapshot.facts());
    let start = observe::start(context, &snapshot, &decision).await.map_err(ReconcileError::Observe)?;
    let Some(start) = start else { return Ok(Next::requeue(CHANGED)) };

    let children = snapshot.build(&decision, start, &context.settings);
    let applied = apply(context, id, &snapshot, decision, start, children.as_ref()).await;
    let applied = applied.map_err(ReconcileError::Apply)?;

    let report = due_report(context, &snapshot);
    let status = next_status(&snapshot, &applied.decision, report.as_ref());
    if !record(context, id, &snapshot, status).await.map_err(ReconcileError::Status)? {
        return Ok(Next::await_change());
    }
    if let Some(report) = &report {
        context.latest.written(&snapshot.observed.uid, report, Instant::now());
    }
    clean_up(context, id, &snapshot, &applied.decision).await.map_err(ReconcileError::CleanUp)?;
    Ok(applied.next)
}

/// A resource whose spec cannot be read: its status says so, and what runs for it is left alone. Only a change can help.
async fn reject(context: &Context, id: &Id, seen: &Unreadable) -> Result<Next, ReconcileError> {
    context.dependents.set(id, BTreeSet::new());
    let message = format!(
        "expected a spec as the CRD describes it, found {}; apply the CRDs of this version and correct the resource",
        redact(&seen.why, &[])
    );
    let status = unreadable(&seen.previous, seen.generation, message, &now());
    let (uid, created) = (seen.uid.as_str(), seen.created.as_str());
    write(context, id, uid, created, &seen.previous, status).await.map_err(ReconcileError::Status)?;
    Ok(Next::await_change())
}

/// A resource that is gone: nothing is kept of it. Its children are owned by it: the cluster removes them. Outputs stay.
pub(super) fn forget(context: &Context, id: &Id) {
    context.dependents.set(id, BTreeSet::new());
    context.resources.remove(id);
}

/// Notes what a resource refers to before any of it is read: a change that is missed from now on asks for a reconcile.
fn follow(context: &Context, id: &Id, observed: &ObservedResource, validated: &Validated) {
    context.resources.set(id, observed.previous.leading_reason());
    context.dependents.set(id, observe::referents(&observed.resource, validated.output.as_ref()));
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use plumbline_crds::Kind;
    use plumbline_crds::conditions::Reason;
    use serde_json::json;

    use super::*;
    use crate::cluster::dependents::Referent;
    use crate::cluster::mock;

    #[tokio::test]
    async fn a_resource_whose_spec_cannot_be_read_says_so_once_and_is_not_asked_for_again() {
        let object = json!({"apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel",
            "metadata": {"name": "r", "namespace": "n", "uid": "u", "generation": 1},
            "spec": {"datasetRef": {"name": "d"}, "model": {"uri": "m"}}});
        let stored = Arc::new(Mutex::new((object, 0)));
        let shared = stored.clone();
        let context = mock::context(mock::client_with_bodies(move |request, body| {
            let mut stored = shared.lock().unwrap();
            if request.ends_with("/rewardmodels/r/status") {
                stored.0["status"] = body["status"].clone();
                stored.1 += 1;
            }
            (!request.starts_with("POST")).then(|| stored.0.clone())
        }));
        let id = Id { namespace: "n".into(), kind: Kind::RewardModel, name: "r".into() };
        for _ in 0..2 {
            assert_eq!(Box::pin(reconcile(&context, &id)).await.unwrap(), Next::await_change());
        }
        let (object, writes) = stored.lock().unwrap().clone();
        assert_eq!(writes, 1, "the second time nothing is new");
        let stalled =
            object["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Stalled").unwrap();
        assert_eq!((&stalled["status"], &stalled["reason"]), (&json!("True"), &json!("SpecInvalid")));
        assert!(stalled["message"].as_str().unwrap().contains("`model`"), "{stalled}");
        assert_eq!(context.resources.reasons(), [(Kind::RewardModel, Reason::SpecInvalid)]);
    }
    #[tokio::test]
    async fn a_claim_that_the_artifact_of_another_needs_is_waited_for() {
        let resource = json!({"apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel",
            "metadata": {"name": "r", "namespace": "n", "uid": "u", "generation": 1},
            "spec": {"datasetRef": {"name": "d"}, "baseModel": {"uri": "hf://org/m"}, "output": {"uri": "pvc://results/r"}}});
        let ready = json!({"type": "Ready", "status": "True", "reason": "Completed", "lastTransitionTime": ""});
        let artifact = json!({"uri": "pvc://elsewhere/d", "digest": "sha256:d", "sizeBytes": 1, "createdTime": ""});
        let dataset = json!({"metadata": {"name": "d", "generation": 1},
            "status": {"observedGeneration": 1, "conditions": [ready], "artifact": artifact}});
        let context = mock::context(mock::client(move |request| match request.rsplit('/').next().unwrap() {
            "r" | "status" => Some(resource.clone()),
            "d" => Some(dataset.clone()),
            "results" => Some(json!({"metadata": {"name": "results"}})),
            "jobs" => Some(json!({"kind": "JobList", "apiVersion": "batch/v1", "metadata": {}, "items": []})),
            _ => None,
        }));
        let id = Id { namespace: "n".into(), kind: Kind::RewardModel, name: "r".into() };
        Box::pin(reconcile(&context, &id)).await.unwrap();
        assert_eq!(context.resources.reasons(), [(Kind::RewardModel, Reason::ReferenceNotFound)]);
        assert_eq!(context.dependents.of("n", &Referent::Claim("elsewhere".into())), [id]);
    }
}
