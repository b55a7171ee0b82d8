//! The status that follows from a decision. Computes only.

use plumbline_crds::conditions::{Condition, ConditionStatus, ConditionType, Reason};
use plumbline_crds::run::{ProgressReport, StageResult};
use plumbline_crds::status::{JobRef, MAX_METRICS, Status};

use crate::plan::{self, Action, Decision, Inputs, Observed, Phase, Run};
use crate::printable::line;

/// The status to write after a decision at the time `now` (RFC 3339).
pub fn status(observed: &Observed, decision: &Decision, now: &str) -> Status {
    let recorded = observed.previous.job.as_ref().is_some_and(|job| job.name == decision.job.name);
    let new_run = decision.action == Action::Start || (!recorded && decision.job != JobRef::default());
    let mut status = if new_run { Status::default() } else { observed.previous.clone() };
    status.observed_generation = observed.generation;
    status.conditions = conditions(observed.previous, observed.generation, observed.inputs, decision, now);
    if decision.job != JobRef::default() {
        status.job = Some(decision.job.clone());
    }
    if new_run {
        status.start_time = Some(now.to_owned());
        if let Inputs::Ready(inputs) = observed.inputs {
            status.inputs.clone_from(inputs);
        }
    }
    if matches!(decision.phase, Phase::Waiting | Phase::Active | Phase::Suspended) {
        // Also of a run that had ended, and goes on.
        status.completion_time = None;
    }
    if let Run::Ended(end) = observed.run
        && matches!(decision.action, Action::Finish | Action::Fail)
        && matches!(decision.phase, Phase::Done | Phase::Failed)
    {
        // A Job that has ended is observed again at every reconcile; it ended once.
        status.completion_time.get_or_insert_with(|| now.to_owned());
        if let Some(result) = &end.result {
            take_result(&mut status, result);
        }
    }
    if let Some(artifact) = plan::made(observed).filter(|_| decision.action == Action::Finish) {
        status.artifact = Some(artifact.clone());
        if let Some(progress) = &mut status.progress {
            progress.completed = progress.total;
            progress.percent = 100;
            progress.eta_seconds = None;
        }
    }
    status
}

/// The status of a resource whose spec of this generation cannot be read, for a reason. What became of its run is not touched by
/// that.
pub fn unreadable(previous: &Status, generation: i64, message: String, now: &str) -> Status {
    let decision = Decision {
        action: Action::Fail,
        phase: Phase::Failed,
        reason: Reason::SpecInvalid,
        message,
        job: JobRef::default(),
        outdated: Vec::new(),
    };
    let mut conditions = conditions(previous, generation, &Inputs::Unknown, &decision, now);
    if let Some(of_run) = previous.condition(ConditionType::Succeeded).filter(|_| previous.job.is_some())
        && let Some(succeeded) = conditions.iter_mut().find(|c| c.kind == ConditionType::Succeeded)
    {
        succeeded.clone_from(of_run);
    }
    Status { observed_generation: generation, conditions, ..previous.clone() }
}

/// The status with what a running stage says.
pub fn with_progress(mut status: Status, report: &ProgressReport) -> Status {
    status.progress = Some(report.progress.clone());
    status.metrics = bounded(&report.metrics);
    if report.cost.is_some() {
        status.cost.clone_from(&report.cost);
    }
    status
}

/// As many characters as a condition's message holds.
const MAX_MESSAGE: usize = 1024;

fn bounded<T: Clone>(items: &[T]) -> Vec<T> {
    items.iter().take(MAX_METRICS).cloned().collect()
}

fn take_result(status: &mut Status, result: &StageResult) {
    status.metrics = bounded(&result.metrics);
    status.counts.clone_from(&result.counts);
    status.bias.clone_from(&result.bias);
    status.agreement.clone_from(&result.agreement);
    status.evaluation.clone_from(&result.evaluation);
    if result.cost.is_some() {
        status.cost.clone_from(&result.cost);
    }
    for input in status.inputs.iter_mut().filter(|i| i.digest.is_empty()) {
        if let Some(found) = result.inputs.iter().find(|found| found.role == input.role) {
            input.digest.clone_from(&found.digest);
        }
    }
}

/// All six, always: what is absent would read as Unknown and let a stale Ready pass.
fn conditions(previous: &Status, generation: i64, inputs: &Inputs, decision: &Decision, now: &str) -> Vec<Condition> {
    ConditionType::ALL
        .into_iter()
        .map(|kind| {
            let (status, reason, message) = condition(kind, inputs, decision);
            let before = previous.condition(kind);
            let since = before.filter(|c| c.status == status).map_or(now, |c| c.last_transition_time.as_str());
            Condition {
                kind,
                status,
                reason,
                message: line(&message).chars().take(MAX_MESSAGE).collect(),
                observed_generation: generation,
                last_transition_time: since.to_owned(),
            }
        })
        .collect()
}

fn condition(kind: ConditionType, inputs: &Inputs, decision: &Decision) -> (ConditionStatus, Reason, String) {
    use ConditionStatus::{False, True, Unknown};
    let stated = |status| (status, decision.reason, decision.message.clone());
    let quiet = |status, reason| (status, reason, String::new());
    match kind {
        ConditionType::InputsReady => inputs_ready(inputs),
        ConditionType::Outdated => outdated(decision),
        ConditionType::Ready => stated(if decision.phase == Phase::Done { True } else { False }),
        ConditionType::Succeeded => match decision.phase {
            Phase::Done => stated(True),
            Phase::Failed => stated(False),
            // It describes the run and stays so; what happens to the artifact is described by Ready.
            Phase::ArtifactMismatch => quiet(True, Reason::Completed),
            Phase::Waiting | Phase::Active | Phase::Suspended => stated(Unknown),
        },
        ConditionType::Reconciling => match decision.phase {
            Phase::Waiting | Phase::Active => stated(True),
            _ => quiet(False, decision.reason),
        },
        ConditionType::Stalled => match decision.phase {
            Phase::Failed | Phase::ArtifactMismatch => stated(True),
            _ => quiet(False, Reason::AsExpected),
        },
    }
}

fn inputs_ready(inputs: &Inputs) -> (ConditionStatus, Reason, String) {
    match inputs {
        Inputs::Ready(_) => (ConditionStatus::True, Reason::InputsResolved, String::new()),
        Inputs::NotFound(names) => {
            (ConditionStatus::False, Reason::ReferenceNotFound, format!("{} not found", names.join(", ")))
        }
        Inputs::NotReady(names) => {
            (ConditionStatus::False, Reason::ReferenceNotReady, format!("{} has no artifact yet", names.join(", ")))
        }
        Inputs::Unknown => (ConditionStatus::Unknown, Reason::Pending, String::new()),
    }
}

fn outdated(decision: &Decision) -> (ConditionStatus, Reason, String) {
    match (decision.phase, decision.outdated.is_empty()) {
        (Phase::Done | Phase::ArtifactMismatch, false) => {
            let message = format!(
                "{} changed after this artifact was made; to run again, change a field of the spec that determines the result, or keep the artifact",
                decision.outdated.join(", ")
            );
            (ConditionStatus::True, Reason::InputChanged, message)
        }
        (Phase::Done | Phase::ArtifactMismatch, true) => {
            (ConditionStatus::False, Reason::InputsUpToDate, String::new())
        }
        _ => (ConditionStatus::Unknown, Reason::Pending, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_unreadable_spec_is_invalid_and_leaves_what_became_of_its_run() {
        let now = "2026-01-01T00:00:00Z";
        let unread = |previous: &Status| unreadable(previous, 2, "found `label`".into(), now);
        let stands = |status: &Status, kind| status.condition(kind).map(|c| (c.status, c.reason));
        let fresh = unread(&Status::default());
        for (kind, status) in [
            (ConditionType::Ready, ConditionStatus::False),
            (ConditionType::Succeeded, ConditionStatus::False),
            (ConditionType::Stalled, ConditionStatus::True),
        ] {
            assert_eq!(stands(&fresh, kind), Some((status, Reason::SpecInvalid)), "{kind:?}");
        }
        assert_eq!((fresh.observed_generation, fresh.leading_reason()), (2, Reason::SpecInvalid));
        let conditions = ["Ready", "Succeeded"]
            .map(|kind| json!({"type": kind, "status": "True", "reason": "Completed", "lastTransitionTime": now}));
        let done = json!({"observedGeneration": 1, "job": {"name": "r-1", "attempt": 1}, "conditions": conditions});
        let done: Status = serde_json::from_value(done).unwrap();
        let unread = unread(&done);
        assert_eq!(stands(&unread, ConditionType::Ready), Some((ConditionStatus::False, Reason::SpecInvalid)));
        assert_eq!(stands(&unread, ConditionType::Succeeded), Some((ConditionStatus::True, Reason::Completed)));
        assert_eq!(unread.job, done.job);
        assert_eq!(unreadable(&unread, 2, "found `label`".into(), "2026-01-02T00:00:00Z"), unread, "nothing is new");
    }
}
