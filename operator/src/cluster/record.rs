//! The last step of a reconcile: writes a status that says something new, and publishes events. Talks to the API server.

use std::time::Instant;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType};
use plumbline_crds::conditions::ConditionType;
use plumbline_crds::run::ProgressReport;
use plumbline_crds::status::Status;

use super::context::Context;
use super::dependents::Id;
use super::events;
use super::fit;
use super::outcome;
use super::snapshot::{JobState, ObservedResource, Snapshot};
use super::usage;
use super::writes;
use crate::plan::{Action, Decision, Run};
use crate::printable;
use crate::redact::redact;
use crate::status::{status, with_progress};

/// Lines of a log that an event shows.
const LOG_LINES: i64 = 20;
/// The longest note of an event, in bytes (`events.k8s.io/v1` Event).
const MOST_NOTE: usize = 1024;
/// Seconds of running after which a status is written for the count alone: what is not written is lost with the pods.
const UNCOUNTED: i64 = 300;

/// The status that follows from a decision that was carried out, with the seconds counted. `report`: what the running stage last
/// reported, where that is due.
pub(super) fn next_status(snapshot: &Snapshot, decision: &Decision, report: Option<&ProgressReport>) -> Status {
    let mut status = status(&snapshot.facts(), decision, &snapshot.now);
    // A Job that exists when a run starts belongs to the run before.
    if decision.action != Action::Start {
        account(&mut status, snapshot);
    }
    match report {
        Some(report) => with_progress(status, report),
        None => status,
    }
}

/// Counts what the run has held so far: never less than before, since pods that are gone cannot be counted again. And dates
/// its end by when it was, however late it is seen.
fn account(status: &mut Status, snapshot: &Snapshot) {
    let Some(state) = &snapshot.job_state else { return };
    let observed = &snapshot.observed;
    if status.completion_time.is_some()
        && status.completion_time != observed.previous.completion_time
        && let Some(end) = usage::end_time(&state.job)
    {
        status.completion_time = Some(end);
    }
    if observed.resource.spec.compute().accelerators > 0
        && let Some(seconds) = snapshot.accelerator_seconds()
    {
        status.accelerator_seconds = Some(seconds);
    }
}

/// What the running stage last reported, when that is due.
pub(super) fn due_report(context: &Context, snapshot: &Snapshot) -> Option<ProgressReport> {
    let uid = &snapshot.observed.uid;
    if !matches!(snapshot.run, Run::Running(_)) {
        context.latest.forget(uid);
        return None;
    }
    let job = snapshot.job.as_ref().and_then(|job| job.uid.as_deref()).unwrap_or_default();
    context.latest.due(uid, job, Instant::now())
}

/// Writes a status that differs from the last one, and publishes what has changed, with the log of a failure. False where the
/// resource is gone.
pub(super) async fn record(
    context: &Context,
    id: &Id,
    snapshot: &Snapshot,
    status: Status,
) -> Result<bool, kube::Error> {
    let ObservedResource { previous, uid, created, .. } = &snapshot.observed;
    let failed = |status: &Status| status.is_true(ConditionType::Stalled);
    let has_failed = failed(&status) && !failed(previous);
    let is_there = write(context, id, uid, created, previous, status).await?;
    if is_there
        && has_failed
        && let Some(state) = &snapshot.job_state
        && let Some(event) = log_of_failure(&context.client, &id.namespace, state).await
    {
        context.publisher.publish(&event, &reference(id, uid)).await;
    }
    Ok(is_there)
}

/// Writes a status in place of the previous one where it differs, and publishes what has changed. False where the resource, of
/// this UID and created at this time (RFC 3339), is gone.
pub(super) async fn write(
    context: &Context,
    id: &Id,
    uid: &str,
    created: &str,
    previous: &Status,
    status: Status,
) -> Result<bool, kube::Error> {
    let (status, misfits) = fit::status(id.kind, status);
    let status = &status;
    context.resources.set(id, status.leading_reason());
    if same(previous, status) {
        return Ok(true);
    }
    let Id { namespace, kind, name } = id;
    if !misfits.is_empty() {
        context.metrics.misfits(*kind, misfits.len());
        tracing::warn!(
            fields = misfits.join(", "),
            "the run reported values that a status cannot hold; they are cut or left out"
        );
    }
    if !writes::write_status(&context.client, *kind, namespace, name, uid, status).await? {
        return Ok(false);
    }
    context.metrics.status_changed(*kind, created, previous, status);
    if let Some(event) = events::event(previous, status) {
        tracing::info!(reason = event.reason, "{}", status.condition(ConditionType::Ready).map_or("", |c| &c.message));
        context.publisher.publish(&event, &reference(id, uid)).await;
    }
    Ok(true)
}

fn reference(id: &Id, uid: &str) -> ObjectReference {
    writes::reference(id.kind, &id.namespace, &id.name, uid)
}

/// The end of the log of a run that failed for good, as an event: the pod may be gone by the time an administrator looks.
async fn log_of_failure(client: &Client, namespace: &str, state: &JobState) -> Option<Event> {
    let pod = outcome::culprit(&state.job, &state.pods)?;
    let tail = writes::log_tail(client, namespace, pod, LOG_LINES).await?;
    let tail = redact(&tail, &[]);
    let tail = printable::text(&tail);
    let start = tail.ceil_char_boundary(tail.len().saturating_sub(MOST_NOTE));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::mock;
    use crate::cluster::outcome::tests::{failed, failed_job};

    /// The note of the event about a log.
    async fn note(log: String) -> String {
        let job = failed_job("PodFailurePolicy");
        let state = JobState { job, pods: vec![failed(3, "Error")], refusal: None, workload: None };
        let client = mock::log_client(move |_| log.clone());
        log_of_failure(&client, "n", &state).await.unwrap().note.unwrap()
    }

    #[tokio::test]
    async fn the_log_of_a_failure_is_shown_without_its_keys() {
        const KEY: &str = "sk-planted-0123456789abcdef";
        let shown = note(format!("the judge said 401 for Bearer {KEY}\nthe stage failed\u{1b}[2J")).await;
        assert_eq!(shown, "the judge said 401 for Bearer [redacted]\nthe stage failed\\u{1b}[2J");
    }
    #[tokio::test]
    async fn as_much_of_a_log_is_shown_as_an_event_holds() {
        let shown = note(format!("{}{}", "a".repeat(2000), "ä".repeat(511))).await;
        assert_eq!(shown, format!("aa{}", "ä".repeat(511)));
        let shown = note(format!("{}b", "ä".repeat(2000))).await;
        assert_eq!((shown.len(), shown.chars().count()), (1023, 512), "no character is cut in two");
    }
}
