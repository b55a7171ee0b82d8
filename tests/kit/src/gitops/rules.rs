//! What the tools should say of a resource. Computes only.
//!
//! The rules are those of the API and not those of a tool: Ready says that the artifact is there, Stalled that there will be
//! none, Succeeded that one of the two is known; each for the spec as it is now, or not at all.

use plumbline_crds::conditions::{ConditionType, Reason};
use serde::Deserialize;
use serde_json::Value;

/// What each tool says of an object, in its own words.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verdict {
    /// kstatus: Current, InProgress, Failed, Terminating or Unknown.
    pub kstatus: String,
    /// Flux: Current, InProgress or Failed.
    pub flux: String,
    /// Argo CD: Healthy, Progressing, Degraded, Suspended, Missing or Unknown.
    pub argo: String,
}

impl Verdict {
    /// Nobody waits any longer.
    pub fn current() -> Self {
        Self::new("Current", "Current", "Healthy")
    }

    /// Nobody need wait any longer.
    pub fn failed() -> Self {
        Self::new("Failed", "Failed", "Degraded")
    }

    /// Everybody waits.
    pub fn in_progress() -> Self {
        Self::new("InProgress", "InProgress", "Progressing")
    }

    /// Everybody waits, and Argo CD knows for whom: the other two have no such word.
    pub fn suspended() -> Self {
        Self::new("InProgress", "InProgress", "Suspended")
    }

    /// It is going; the others have no such word.
    pub fn terminating() -> Self {
        Self::new("Terminating", "InProgress", "Progressing")
    }

    fn new(kstatus: &str, flux: &str, argo: &str) -> Self {
        Self { kstatus: kstatus.into(), flux: flux.into(), argo: argo.into() }
    }
}

/// What is wrong with the status of an object, or with how the tools read it.
pub fn wrong(object: &Value, verdict: &Verdict) -> Vec<String> {
    let mut findings = Vec::new();
    let is = |kind, status: &str| condition(object, kind).is_some_and(|c| c["status"] == status);
    let (ready, stalled) = (is(ConditionType::Ready, "True"), is(ConditionType::Stalled, "True"));
    let settled = is(ConditionType::Succeeded, "True") || is(ConditionType::Succeeded, "False");
    if settled != (ready || stalled) || (ready && stalled) {
        let found = format!("Succeeded is known: {settled}, Ready: {ready}, Stalled: {stalled}");
        findings.push(format!("expected one of Ready and Stalled once Succeeded is known, and none before; {found}"));
    }
    let suspended = condition(object, ConditionType::Ready).is_some_and(|c| c["reason"] == Reason::Suspended.as_str());
    let expected = match () {
        () if !object["metadata"]["deletionTimestamp"].is_null() => Verdict::terminating(),
        () if ready => Verdict::current(),
        () if stalled => Verdict::failed(),
        () if suspended => Verdict::suspended(),
        () => Verdict::in_progress(),
    };
    if *verdict != expected {
        findings.push(format!("expected {expected:?}, found {verdict:?}"));
    }
    findings
}

/// A condition that speaks of the spec as it is now, in a status that does.
fn condition(object: &Value, kind: ConditionType) -> Option<&Value> {
    let (generation, status) = (&object["metadata"]["generation"], &object["status"]);
    let kind = format!("{kind:?}");
    let conditions = status["conditions"].as_array().filter(|_| status["observedGeneration"] == *generation)?;
    conditions.iter().find(|c| c["type"] == *kind && c["observedGeneration"] == *generation)
}
