//! One reconcile of one resource: observe, validate, plan, build, apply, status. The same for the three kinds, and the same
//! whether it is the first reconcile or the thousandth: what was done is read from the cluster, never remembered.

use std::collections::BTreeSet;
use std::time::Duration;

use kube::runtime::controller::Action as Next;

use super::apply::{apply, clean_up};
use super::context::Context;
use super::dependents::Id;
use super::error::ReconcileError;
use super::observe;
use super::record::{next_status, record};
use super::snapshot::{ObservedResource, Validated};
use super::validate::validate;
use crate::plan::plan;

/// What was observed has changed since: it is observed again soon.
const CHANGED: Duration = Duration::from_millis(100);

/// Reconciles a resource. Returns when it is to be reconciled again without an event.
///
/// # Errors
/// The step that failed.
pub async fn reconcile(context: &Context, id: &Id) -> Result<Next, ReconcileError> {
    let Some(observed) = observe::resource(&context.client, id).await? else {
        return Ok(forget(context, id));
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

    let status = next_status(context, &snapshot, &applied.decision);
    if !record(context, id, &snapshot, status).await.map_err(ReconcileError::Status)? {
        return Ok(Next::await_change());
    }
    clean_up(context, id, &snapshot, &applied.decision).await.map_err(ReconcileError::CleanUp)?;
    Ok(applied.next)
}

/// A resource that is gone. Its children are owned by it: the cluster removes them. Outputs stay.
fn forget(context: &Context, id: &Id) -> Next {
    context.dependents.set(id, BTreeSet::new());
    context.resources.remove(id);
    Next::await_change()
}

/// Notes what a resource refers to before any of it is read: a change that is missed from now on asks for a reconcile.
fn follow(context: &Context, id: &Id, observed: &ObservedResource, validated: &Validated) {
    context.resources.set(id, observed.previous.leading_reason());
    context.dependents.set(id, observe::referents(&observed.resource, validated.output.as_ref()));
}
