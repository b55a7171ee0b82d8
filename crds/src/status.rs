//! What comes back on a resource. The same type for the three kinds; fields that a kind does not have stay unset.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::{Condition, ConditionStatus, ConditionType, Reason};

/// Status of a resource.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// Generation of the spec that this status speaks of; -1 before the first visit.
    #[schemars(range(min = -1))]
    pub observed_generation: i64,
    /// Conditions, one of each type.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Progress of the current stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Latest values of a bounded set of metrics, under TRL's names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub metrics: Vec<Metric>,
    /// What was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ArtifactRef>,
    /// What it was made from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub inputs: Vec<InputRef>,
    /// The job of the current or last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobRef>,
    /// When the first attempt started (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub start_time: Option<String>,
    /// When the run ended, either way (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub completion_time: Option<String>,
    /// Accelerators held times seconds, over all attempts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accelerator_seconds: Option<i64>,
    /// What judges cost so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// How many records were read, used and left out, by reason: of a PreferenceDataset prompts, pairs, labels, conflicts ...;
    /// of the others `records`, `leftOut`, `leftOutTooLong` ...
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub counts: BTreeMap<String, i64>,
    /// PreferenceDataset: measured biases of the judge, as decimals (position, length ...).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub bias: BTreeMap<String, String>,
    /// PreferenceDataset: agreement between orders, judges and people, as decimals.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub agreement: BTreeMap<String, String>,
    /// RewardModel and PolicyTuning: held-out results, as decimals (accuracy, winRate, winRateLow, winRateHigh ...). Of a
    /// RewardModel without held-out pairs, those on its training pairs, by names that begin with `train` (trainAccuracy ...).
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

/// How far a stage is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Progress {
    /// What is being done: Generating, Judging, Training, Evaluating ...
    #[schemars(length(max = 64))]
    pub stage: String,
    /// Units done.
    pub completed: i64,
    /// Units in all.
    pub total: i64,
    /// completed / total in percent.
    pub percent: i64,
    /// Estimated seconds to the end of this stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// When this was last updated (RFC 3339).
    #[schemars(length(max = 64))]
    pub last_update_time: String,
}

/// The latest value of a metric.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
pub struct Metric {
    /// Name, as in TRL.
    #[schemars(length(max = 128))]
    pub name: String,
    /// Value, as a decimal.
    #[schemars(length(max = 64))]
    pub value: String,
}

/// What was made.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactRef {
    /// Where it is.
    #[schemars(length(max = 1024))]
    pub uri: String,
    /// `sha256:` and the digest of the whole (see `artifact`).
    #[schemars(length(max = 80))]
    pub digest: String,
    /// Bytes in all files.
    pub size_bytes: i64,
    /// When it was completed (RFC 3339).
    #[schemars(length(max = 64))]
    pub created_time: String,
}

/// What something was made from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InputRef {
    /// What the input is for: `datasetRef`, `baseModel`, `policyModel`, `prompts` ...
    #[schemars(length(max = 64))]
    pub role: String,
    /// Name of the resource, or the URI.
    #[schemars(length(max = 1024))]
    pub name: String,
    /// `sha256:` and the digest.
    #[schemars(length(max = 80))]
    pub digest: String,
}

/// The job of an attempt.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct JobRef {
    /// Name of the Job. Without its last part, the name of the work folder.
    #[schemars(length(max = 253))]
    pub name: String,
    /// The last generation of the spec that this run is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Digest of that spec, without what makes no other run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub spec_digest: Option<String>,
    /// UID of the Job. Unset locally.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub uid: Option<String>,
    /// Attempts so far.
    pub attempt: i64,
    /// Seconds of running, without suspensions.
    #[serde(skip_serializing_if = "is_zero")]
    pub active_seconds: i64,
    /// Time up to which activeSeconds has been counted (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub counted_time: Option<String>,
    /// Attempts that ended early, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub retries: BTreeMap<String, i64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// What judges cost.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Cost {
    /// Requests answered.
    pub requests: i64,
    /// Prompt tokens.
    pub prompt_tokens: i64,
    /// Completion tokens.
    pub completion_tokens: i64,
    /// Money, as a decimal; unset when no price is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub amount: Option<String>,
    /// ISO 4217 code.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 3))]
    pub currency: Option<String>,
}
