//! The event that a change of status is worth. Computes only.
//!
//! Repeats of an event are counted by the API server under its type, reason and action; the note stays the first one. So
//! a note says what the reason always means, and what differs from time to time stands in the condition's message.

use kube::runtime::events::{Event, EventType};
use plumbline_crds::conditions::{ConditionType, Reason};
use plumbline_crds::status::Status;

/// The event, if the leading reason changed to something that people want to know of.
pub fn event(before: &Status, after: &Status) -> Option<Event> {
    let reason = after.leading_reason();
    if reason == before.leading_reason() {
        return None;
    }
    let Text { type_, action, note } = text(reason)?;
    // Which container it was, and its limit, are the same each time.
    let of_container =
        after.condition(ConditionType::Ready).and_then(|c| c.message.split_once("; ")).map(|(what, _)| what);
    let note = of_container.filter(|_| reason == Reason::OutOfMemory).unwrap_or(note);
    Some(Event { type_, reason: reason.as_str(), note: Some(note.into()), action: action.into(), secondary: None })
}

struct Text {
    type_: EventType,
    action: &'static str,
    note: &'static str,
}

fn text(reason: Reason) -> Option<Text> {
    let of = |type_, action, note| Some(Text { type_, action, note });
    let normal = |action, note| of(EventType::Normal, action, note);
    let warning = |action, note| of(EventType::Warning, action, note);
    match reason {
        Reason::ReferenceNotFound => warning("Wait", "A referenced object does not exist"),
        Reason::ReferenceNotReady => normal("Wait", "A referenced resource has no artifact yet"),
        Reason::SpecInvalid => warning("Validate", "The spec is invalid; see the condition Stalled"),
        Reason::QuotaPending => normal("Wait", "Waiting in a queue for quota"),
        Reason::Preempted => normal("Wait", "Preempted by a higher-priority run"),
        Reason::Suspended => normal("Suspend", "Suspended; resources released, resumes from the last checkpoint"),
        Reason::Unschedulable => warning("Schedule", "No node fits the pod; see the condition Ready"),
        Reason::ImagePullFailed => warning("PullImage", "The image of the trainer cannot be pulled"),
        Reason::ConfigInvalid => warning("CreateContainer", "A container cannot start; see the condition Ready"),
        Reason::ChildCreationFailed => warning("CreateChild", "The API server rejected an object of the run"),
        Reason::Running => normal("Run", "The run has started"),
        Reason::Retrying => warning("Retry", "An attempt failed and is retried"),
        Reason::OutOfMemory => warning("Run", "A container ran out of memory; see the condition Ready"),
        Reason::AcceleratorOutOfMemory => warning("Run", "The accelerator ran out of memory"),
        Reason::StorageExceeded => warning("Run", "The pod exceeded its limit of ephemeral storage"),
        Reason::NodeDisruption => warning("Run", "Pod evicted or preempted"),
        Reason::TrainerConfigRejected => warning("Run", "The trainer rejected its configuration"),
        Reason::DataInvalid => warning("Run", "Input data is invalid or does not match its digest"),
        Reason::JudgeUnavailable => warning("Judge", "A judge is not responding"),
        Reason::JudgeRejected => warning("Judge", "A judge rejected the request; check API key, quota and model name"),
        Reason::BudgetExhausted => warning("Judge", "The judge budget is spent"),
        Reason::PeerLost => warning("Run", "A worker lost its connection to a peer"),
        Reason::NoProgress => warning("Run", "The run made no progress for too long"),
        Reason::JobDeleted => warning("Run", "The run's Job was deleted externally"),
        Reason::ArtifactUploadFailed => warning("Store", "The artifact could not be stored"),
        Reason::DeadlineExceeded => warning("Run", "The run exceeded its deadline"),
        Reason::GateFailed => warning("Evaluate", "A quality gate of the spec was not met"),
        Reason::RewardHackingSuspected => warning("Run", "A guard against reward hacking stopped the run"),
        Reason::TrainerFailed => warning("Run", "The trainer failed; its log says why"),
        Reason::InputChanged => normal("Compare", "An input changed since the artifact was made"),
        Reason::Completed => normal("Finish", "The artifact is complete"),
        // They lead only for a moment, or never.
        Reason::Pending | Reason::InputsResolved | Reason::InputsUpToDate | Reason::AsExpected => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ready(status: &str, reason: &str, message: &str) -> Status {
        let ready =
            json!({"type": "Ready", "status": status, "reason": reason, "message": message, "lastTransitionTime": ""});
        serde_json::from_value(json!({"conditions": [ready]})).unwrap()
    }

    #[test]
    fn an_event_tells_of_a_new_leading_reason_and_only_once() {
        let (running, done) = (ready("False", "Running", ""), ready("True", "Completed", ""));
        let event_of = |before: &Status, after: &Status| event(before, after).map(|e| (e.reason, e.type_));
        assert_eq!(event_of(&Status::default(), &running), Some(("Running".into(), EventType::Normal)));
        assert_eq!(event_of(&running, &done), Some(("Completed".into(), EventType::Normal)));
        assert_eq!(event_of(&done, &done), None);
        let failed = ready("False", "GateFailed", "");
        assert_eq!(event_of(&running, &failed), Some(("GateFailed".into(), EventType::Warning)));
        assert_eq!(event_of(&done, &Status::default()), None, "nothing is known yet: nothing to tell");
    }

    #[test]
    fn the_event_of_a_container_without_memory_names_its_limit() {
        let failed = ready(
            "False",
            "OutOfMemory",
            "the container trainer exceeded its memory limit of 16Gi (exit code 137); raise it",
        );
        let note = event(&Status::default(), &failed).unwrap().note.unwrap();
        assert_eq!(note, "the container trainer exceeded its memory limit of 16Gi (exit code 137)");
    }

    #[test]
    fn what_moves_stays_out_of_the_note() {
        let start = Status::default();
        let first = event(&start, &ready("False", "Retrying", "attempt 1 of 3")).unwrap();
        let second = event(&start, &ready("False", "Retrying", "attempt 2 of 3")).unwrap();
        assert_eq!(first.note, second.note);
        assert!(!first.note.unwrap().contains('1'));
    }
}
