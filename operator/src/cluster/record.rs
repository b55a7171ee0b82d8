//! The last step of a visit: writes what is new of a resource, and lets people know. Talks to the API server.

use std::time::Instant;

use kube::runtime::events::{Event, EventType};
use plumbline_crds::conditions::ConditionType;
use plumbline_crds::status::Status;

use super::apply;
use super::context::Context;
use super::dependents::Id;
use super::events;
use super::fit;
use super::observe::ObserveError;
use super::outcome;
use super::reconcile::World;
use super::usage;
use crate::plan::Run;
use crate::printable;
use crate::redact::redact;
use crate::status::with_progress;

/// Lines of a log that an event shows.
const LOG_LINES: i64 = 20;
/// The longest note of an event, in characters (`events.k8s.io/v1` Event allows 1 KiB; these may have several bytes).
const MOST_NOTE: usize = 250;
/// Seconds of running after which a status is written for the count alone: what is not written is lost with the pods.
const UNCOUNTED: i64 = 300;

/// Counts what the run has held so far: never less than before, since pods that are gone cannot be counted again. And dates
/// its end by when it was, however late it is seen.
pub(super) fn account(status: &mut Status, world: &World) {
    let Some(work) = &world.work else { return };
    let previous = &world.seen.previous;
    if status.completion_time.is_some()
        && status.completion_time != previous.completion_time
        && let Some(end) = usage::end_time(&work.job)
    {
        status.completion_time = Some(end);
    }
    if world.seen.resource.spec.compute().accelerators > 0
        && let Some(held) = world.held()
    {
        status.accelerator_seconds = Some(held);
    }
}

/// Adds what the running stage said last, when that is due.
pub(super) fn tell(context: &Context, world: &World, status: Status) -> Status {
    let uid = &world.seen.uid;
    if !matches!(world.run, Run::Running(_)) {
        context.latest.forget(uid);
        return status;
    }
    let job = world.job.as_ref().and_then(|job| job.uid.as_deref()).unwrap_or_default();
    match context.latest.take(uid, job, Instant::now()) {
        Some(report) => with_progress(status, &report),
        None => status,
    }
}

/// Writes a status that says something new, and lets people know. False where the resource is gone.
pub(super) async fn record(context: &Context, id: &Id, world: &World, status: Status) -> Result<bool, ObserveError> {
    let (status, misfits) = fit::status(id.kind, status);
    let status = &status;
    context.resources.set(id, status.leading_reason());
    let previous = &world.seen.previous;
    if same(previous, status) {
        return Ok(true);
    }
    let Id { namespace, kind, name } = id;
    if !misfits.is_empty() {
        context.metrics.misfits(*kind, misfits.len());
        tracing::warn!(fields = misfits.join(", "), "the run said what a status cannot hold; it is cut or left out");
    }
    if !apply::write_status(&context.client, *kind, namespace, name, &world.seen.uid, status).await? {
        return Ok(false);
    }
    context.metrics.status_changed(*kind, &world.seen.created, previous, status);
    let reference = apply::reference(*kind, namespace, name, &world.seen.uid);
    if let Some(event) = events::event(previous, status) {
        tracing::info!(reason = event.reason, "{}", status.condition(ConditionType::Ready).map_or("", |c| &c.message));
        context.publisher.publish(&event, &reference).await;
    }
    if let Some(event) = log_of_failure(context, world, status).await {
        context.publisher.publish(&event, &reference).await;
    }
    Ok(true)
}

/// The end of the log of a run that failed for good, as an event: the pod may be gone when somebody looks.
async fn log_of_failure(context: &Context, world: &World, status: &Status) -> Option<Event> {
    let failed = |status: &Status| status.is_true(ConditionType::Stalled);
    if !failed(status) || failed(&world.seen.previous) {
        return None;
    }
    let work = world.work.as_ref()?;
    let pod = outcome::culprit(&work.job, &work.pods)?;
    let namespace = world.seen.resource.metadata.namespace.as_deref().unwrap_or_default();
    let tail = apply::log_tail(&context.client, namespace, pod, LOG_LINES).await?;
    let tail = redact(&tail, &[]);
    let tail = printable::text(&tail);
    let start = tail.char_indices().rev().nth(MOST_NOTE).map_or(0, |(at, _)| at);
    Some(Event {
        type_: EventType::Warning,
        reason: "TrainerLog".into(),
        note: Some(tail[start..].to_owned()),
        action: "Run".into(),
        secondary: None,
    })
}

/// Whether two statuses differ at most in how long something has run: a clock that ticks is no news for a while.
fn same(before: &Status, after: &Status) -> bool {
    let active = |status: &Status| status.job.as_ref().map_or(0, |job| job.active_seconds);
    if active(after).saturating_sub(active(before)) >= UNCOUNTED {
        return false;
    }
    let still = |status: &Status| {
        let mut status = status.clone();
        status.accelerator_seconds = None;
        if let Some(job) = &mut status.job {
            job.active_seconds = 0;
            job.last_counted_time = None;
        }
        status
    };
    still(before) == still(after)
}
