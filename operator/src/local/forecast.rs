//! What `plumbline plan` says of a resource: what a run would do with it now, and why. Computes only.

use std::collections::BTreeSet;

use plumbline_crds::conditions::{ConditionType, Reason};

use crate::plan::{self, Action, Artifact, Decision, Inputs, Observed};

/// Whether a resource waits for others that are made before it.
pub fn waits(inputs: &Inputs, pending: &BTreeSet<String>) -> bool {
    matches!(inputs, Inputs::NotReady(names) if names.iter().all(|name| pending.contains(name)))
}

/// What a run would do. `pending`: the resources (`Kind/name`) that it would make before this one, so that what they become is not
/// known yet.
pub fn forecast(observed: &Observed, decision: &Decision, pending: &BTreeSet<String>) -> String {
    let message = &decision.message;
    let start = if observed.previous.job.is_some() { "would start again" } else { "would start" };
    if let Inputs::NotReady(names) = observed.inputs
        && waits(observed.inputs, pending)
    {
        let names = names.join(", ");
        return match decision.action {
            Action::Skip => {
                format!("would start again after {names}, if that changes the artifact it is made from; {message}")
            }
            Action::Wait if decision.reason == Reason::Suspended => format!("would not start: {message}"),
            _ => format!("{start} after {names}: {}", why(observed)),
        };
    }
    match decision.action {
        Action::Start => format!("{start}: {}", why(observed)),
        Action::Continue(_) | Action::Retry(_) => format!("would resume: {}", why(observed)),
        Action::Finish => format!("would record that it has completed: {message}"),
        Action::Skip => format!("would do nothing: {message}"),
        Action::Fail => format!("would fail with {}: {message}", decision.reason.as_str()),
        Action::Wait | Action::Watch | Action::Stop => format!("would not start: {message}"),
    }
}

/// Why there is something to do.
fn why(observed: &Observed) -> String {
    let previous = observed.previous;
    let Some(last) = &previous.job else {
        return match observed.artifact {
            Artifact::Verified(_) => "its artifact is there, but the work directory has no record of it".into(),
            _ => "no artifact yet".into(),
        };
    };
    let made = previous.is_true(ConditionType::Succeeded);
    let since = if made { "after the artifact was made" } else { "since the last run" };
    if !plan::is_of_spec(last, observed) {
        return format!("the spec changed {since}");
    }
    let inputs = if let Inputs::Ready(inputs) = observed.inputs { inputs.as_slice() } else { &[] };
    let changed = plan::changed(&previous.inputs, inputs);
    if !changed.is_empty() {
        let fields: Vec<String> = changed.iter().map(|role| format!("spec.{role}")).collect();
        return format!("{} changed {since}", fields.join(", "));
    }
    if made {
        return "its artifact is gone".into();
    }
    let ready = previous.condition(ConditionType::Ready);
    match ready {
        Some(failed) if previous.is_true(ConditionType::Stalled) => {
            format!("the last run failed with {}: {}", failed.reason.as_str(), failed.message)
        }
        Some(suspended) if suspended.reason == Reason::Suspended => "the last run was interrupted or suspended".into(),
        _ => "the last run ended unexpectedly".into(),
    }
}
