//! How the tools should interpret a resource. Computes only.
//!
//! The rules are those of the API, not of a tool: Ready means that the artifact exists, Stalled that there will be
//! none, Succeeded that one of the two is known. Each refers to the current spec, or is absent.

use plumbline_crds::conditions::{ConditionType, Reason};
use serde::Deserialize;
use serde_json::Value;

/// The verdict of each tool on an object, in its own terms.
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
    /// Finished: the artifact exists.
    pub fn current() -> Self {
        Self::new("Current", "Current", "Healthy")
    }

    /// Finished without an artifact.
    pub fn failed() -> Self {
        Self::new("Failed", "Failed", "Degraded")
    }

    /// In progress.
    pub fn in_progress() -> Self {
        Self::new("InProgress", "InProgress", "Progressing")
    }

    /// Suspended: only Argo CD has a term for this, the others report progress.
    pub fn suspended() -> Self {
        Self::new("InProgress", "InProgress", "Suspended")
    }

    /// Being deleted: only kstatus has a term for this.
    pub fn terminating() -> Self {
        Self::new("Terminating", "InProgress", "Progressing")
    }

    fn new(kstatus: &str, flux: &str, argo: &str) -> Self {
        Self { kstatus: kstatus.into(), flux: flux.into(), argo: argo.into() }
    }
}

/// Faults in the status of an object, or in the tools' interpretation of it.
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

/// A condition whose observed generation is current, in a status whose observed generation is too.
fn condition(object: &Value, kind: ConditionType) -> Option<&Value> {
    let (generation, status) = (&object["metadata"]["generation"], &object["status"]);
    let kind = format!("{kind:?}");
    let conditions = status["conditions"].as_array().filter(|_| status["observedGeneration"] == *generation)?;
    conditions.iter().find(|c| c["type"] == *kind && c["observedGeneration"] == *generation)
}
