//! The status of a resource. All three kinds share the type; fields that a kind does not have stay unset.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::{self, Condition, ConditionStatus, ConditionType, Reason};

/// The most metrics that a status holds.
pub const MAX_METRICS: usize = 32;

/// Observed state of the resource: conditions, progress, results, cost and the Job of the run.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Generation of the spec that this status describes; -1 until the controller has reconciled the resource once.
    #[schemars(range(min = -1))]
    pub observed_generation: i64,
    /// Conditions of the resource, one of each type.
    #[serde(deserialize_with = "conditions::conditions")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Progress of the current stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Latest values of a bounded set of training metrics, named as in TRL.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_METRICS), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub metrics: Vec<Metric>,
    /// Artifact that the run produced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactRef>,
    /// Inputs that the artifact was made from, with their digests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub inputs: Vec<InputRef>,
    /// Job of the current or last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobRef>,
    /// Time at which the first attempt started (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub start_time: Option<String>,
    /// Time at which the run succeeded or failed (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub completion_time: Option<String>,
    /// Accelerator seconds of all attempts: accelerators held, times the seconds for which they were held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator_seconds: Option<i64>,
    /// Cost of judge requests so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// Number of records read, used and left out, by reason. A PreferenceDataset counts `prompts`, `pairs`, `labels`,
    /// `conflicts` and so on; the other kinds count `records`, `leftOut`, `leftOutTooLong` and so on.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub counts: BTreeMap<String, i64>,
    /// Measured biases of the judge of a PreferenceDataset, such as `position` and `length`, as decimals.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub bias: BTreeMap<String, String>,
    /// Measured agreement between orders, judges and people of a PreferenceDataset, as decimals.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub agreement: BTreeMap<String, String>,
    /// Held-out results of a RewardModel or PolicyTuning, such as `accuracy`, `winRate`, `winRateLow` and
    /// `winRateHigh`, as decimals. A RewardModel without held-out pairs has results on its training pairs, whose names
    /// start with `train`, such as `trainAccuracy`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub evaluation: BTreeMap<String, String>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            observed_generation: -1,
            conditions: Vec::new(),
            progress: None,
            metrics: Vec::new(),
            artifact: None,
            inputs: Vec::new(),
            job: None,
            start_time: None,
            completion_time: None,
            accelerator_seconds: None,
            cost: None,
            counts: BTreeMap::new(),
            bias: BTreeMap::new(),
            agreement: BTreeMap::new(),
            evaluation: BTreeMap::new(),
        }
    }
}

impl Status {
    /// The condition of a type, if it is set.
    pub fn condition(&self, kind: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|c| c.kind == kind)
    }

    /// Whether a condition is True.
    pub fn is_true(&self, kind: ConditionType) -> bool {
        self.condition(kind).is_some_and(|c| c.status == ConditionStatus::True)
    }

    /// The word in the Status column: the reason of the condition that matters most now.
    pub fn leading_reason(&self) -> Reason {
        [ConditionType::Stalled, ConditionType::Ready, ConditionType::Reconciling]
            .into_iter()
            .filter_map(|kind| self.condition(kind))
            .find(|c| c.status == ConditionStatus::True)
            .or_else(|| self.condition(ConditionType::Ready))
            .map_or(Reason::Pending, |c| c.reason)
    }
}

/// Progress of a stage.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// Current stage, such as Generating, Judging, Training or Evaluating.
    #[schemars(length(max = 64))]
    pub stage: String,
    /// Units of work completed: prompts, questions or steps, depending on the stage.
    pub completed: i64,
    /// Units of work in total.
    pub total: i64,
    /// Completed fraction of the total, in percent.
    pub percent: i64,
    /// Estimated time until the stage is complete, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// Time of the last update (RFC 3339).
    #[schemars(length(max = 64))]
    pub last_update_time: String,
}

/// Latest value of a metric.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
pub struct Metric {
    /// Name of the metric, as in TRL.
    #[schemars(length(max = 128))]
    pub name: String,
    /// Value of the metric, as a decimal.
    #[schemars(length(max = 64))]
    pub value: String,
}

/// Artifact that a run produced.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactRef {
    /// URI of the artifact's directory.
    #[schemars(length(max = 1024))]
    pub uri: String,
    /// Digest of the whole artifact: `sha256:` and hexadecimal digits.
    #[schemars(length(max = 80))]
    pub digest: String,
    /// Size of all files together, in bytes.
    pub size_bytes: i64,
    /// Time at which the artifact was completed (RFC 3339).
    #[schemars(length(max = 64))]
    pub created_time: String,
}

/// Input that an artifact was made from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InputRef {
    /// Role of the input: the field of the spec that names it, such as `datasetRef`, `baseModel`, `policyModel` or
    /// `prompts`.
    #[schemars(length(max = 64))]
    pub role: String,
    /// Name of the resource, or the URI, of the input.
    #[schemars(length(max = 1024))]
    pub name: String,
    /// Digest of the input: `sha256:` and hexadecimal digits. Empty until the run has read the input.
    #[schemars(length(max = 80))]
    pub digest: String,
}

/// Job of an attempt.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct JobRef {
    /// Name of the Job. Without its last part it is the name of the work directory.
    #[schemars(length(max = 253))]
    pub name: String,
    /// Last generation of the spec that the run belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Digest of that spec, without the fields that do not define the run, such as `compute` and `budget`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub spec_digest: Option<String>,
    /// UID of the Job. It is unset in a local run and while no Job exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,
    /// Number of the current attempt, starting from 1.
    pub attempt: i64,
    /// Running time of all attempts in seconds, without suspensions.
    #[serde(skip_serializing_if = "is_zero")]
    pub active_seconds: i64,
    /// Time up to which `activeSeconds` has been counted (RFC 3339).
    #[serde(alias = "countedTime", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_counted_time: Option<String>,
    /// Number of attempts that ended early, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub retries: BTreeMap<String, i64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// Cost of judge requests.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Cost {
    /// Number of requests that a judge answered.
    pub requests: i64,
    /// Number of prompt tokens.
    pub prompt_tokens: i64,
    /// Number of completion tokens.
    pub completion_tokens: i64,
    /// Amount of money in `currency`, as a decimal. It is unset if no price is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub amount: Option<String>,
    /// ISO 4217 code of the currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 3))]
    pub currency: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A condition as the API server has it.
    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    /// The conditions as the first version wrote them: `status` and `reason` of Ready, Succeeded, Reconciling, Stalled and Outdated.
    fn first_version(states: [(&str, &str); 5], message: &str) -> Value {
        let [ready, succeeded, reconciling, stalled, outdated] = states;
        json!([
            condition("Ready", ready.0, ready.1, message),
            condition("Succeeded", succeeded.0, succeeded.1, message),
            condition("Reconciling", reconciling.0, reconciling.1, ""),
            condition("Stalled", stalled.0, stalled.1, ""),
            condition("InputsReady", "True", "InputsResolved", ""),
            condition("Outdated", outdated.0, outdated.1, ""),
        ])
    }

    #[test]
    fn a_status_of_the_first_version_is_read_whole_for_a_run_that_is_active_done_or_failed() {
        let job = |retries: Value| {
            json!({"name": "r-0123456789", "uid": "u", "attempt": 2, "activeSeconds": 60,
                "countedTime": "2026-01-01T00:01:00Z", "retries": retries})
        };
        let inputs = json!([{"role": "baseModel", "name": "pvc://models/sft", "digest": ""}]);
        let active = first_version(
            [
                ("False", "Running"),
                ("Unknown", "Running"),
                ("True", "Running"),
                ("False", "NotFailed"),
                ("Unknown", "Pending"),
            ],
            "attempt 2 of r-0123456789",
        );
        let dataset: Status = serde_json::from_value(json!({
            "observedGeneration": 1, "conditions": active, "inputs": inputs, "job": job(json!({"Hung": 1})),
            "startTime": "2026-01-01T00:00:00Z", "cost": {"requests": 3, "promptTokens": 30, "completionTokens": 3},
            "progress": {"stage": "Judging", "completed": 3, "total": 10, "percent": 30, "lastUpdateTime": "2026-01-01T00:00:30Z"},
        }))
        .unwrap();
        assert_eq!(dataset.conditions.len(), 6);
        assert_eq!((dataset.leading_reason(), dataset.is_true(ConditionType::Stalled)), (Reason::Running, false));
        assert_eq!(dataset.condition(ConditionType::Stalled).unwrap().reason, Reason::AsExpected);
        assert_eq!(dataset.job.unwrap().last_counted_time.as_deref(), Some("2026-01-01T00:01:00Z"));

        let done = first_version(
            [
                ("True", "Completed"),
                ("True", "Completed"),
                ("False", "Completed"),
                ("False", "NotFailed"),
                ("False", "InputsUnchanged"),
            ],
            "the artifact is at pvc://results/r",
        );
        let reward: Status = serde_json::from_value(json!({
            "observedGeneration": 1, "conditions": done, "inputs": inputs, "job": job(json!({})),
            "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z", "acceleratorSeconds": 60,
            "artifact": {"uri": "pvc://results/r", "digest": "sha256:d", "sizeBytes": 5, "createdTime": "2026-01-01T00:01:00Z"},
            "counts": {"records": 9}, "evaluation": {"accuracy": "0.9"}, "metrics": [{"name": "loss", "value": "0.1"}],
        }))
        .unwrap();
        assert_eq!((reward.leading_reason(), reward.is_true(ConditionType::Succeeded)), (Reason::Completed, true));
        assert_eq!(reward.condition(ConditionType::Outdated).unwrap().reason, Reason::InputsUpToDate);

        let failed = first_version(
            [("False", "Hung"), ("False", "Hung"), ("False", "Hung"), ("True", "Hung"), ("Unknown", "Pending")],
            "no progress for 1800 s; gave up after 3 retries",
        );
        let tuning: Status = serde_json::from_value(json!({
            "observedGeneration": 1, "conditions": failed, "inputs": inputs, "job": job(json!({"Hung": 4})),
            "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z",
        }))
        .unwrap();
        assert_eq!((tuning.leading_reason(), tuning.is_true(ConditionType::Stalled)), (Reason::NoProgress, true));
    }

    #[test]
    fn what_a_later_version_adds_to_a_status_hides_nothing_of_the_rest() {
        let conditions = json!([
            condition("Paused", "True", "Paused", ""),
            condition("Ready", "False", "DiskOnFire", "the disk is on fire"),
            condition("Succeeded", "False", "DiskOnFire", "the disk is on fire"),
            condition("Stalled", "True", "DiskOnFire", "the disk is on fire"),
        ]);
        let status = json!({"observedGeneration": 3, "conditions": conditions, "verdict": {"a": 1}, "job": {"name": "r-1", "attempt": 2, "node": "n"}});
        let status: Status = serde_json::from_value(status).unwrap();
        let stalled = status.condition(ConditionType::Stalled).unwrap();
        assert_eq!((stalled.status, stalled.reason), (ConditionStatus::True, Reason::TrainerFailed));
        assert_eq!(stalled.message, "the disk is on fire");
        assert_eq!((status.conditions.len(), status.job.unwrap().attempt), (3, 2));
        let broken = json!({"conditions": [{"type": "Ready", "status": "Perhaps", "reason": "Running", "lastTransitionTime": ""}]});
        assert!(serde_json::from_value::<Status>(broken).is_err(), "no version writes this");
    }
}
