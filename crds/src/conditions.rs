//! Condition types and the closed list of reasons: part of the API, for scripts and GitOps as for people.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// The conditions of a resource, in the order they are written.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// The artifact exists and is verified.
    Ready,
    /// Unknown while the run is active, then True or False permanently.
    Succeeded,
    /// The controller is working towards the spec (kstatus).
    Reconciling,
    /// The run failed and will not recover without a change (kstatus).
    Stalled,
    /// Every reference resolves to something ready.
    InputsReady,
    /// An input's digest changed since the artifact was made.
    Outdated,
}

impl ConditionType {
    /// Every condition, in the order they are written.
    pub const ALL: [Self; 6] =
        [Self::Ready, Self::Succeeded, Self::Reconciling, Self::Stalled, Self::InputsReady, Self::Outdated];
}

/// True, False or Unknown.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

/// Condition, in the shape of `meta/v1` Condition.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type of the condition, unique in the list.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// Status of the condition: True, False or Unknown.
    pub status: ConditionStatus,
    /// Reason of the status in one word, from a closed list.
    #[serde(deserialize_with = "reason")]
    pub reason: Reason,
    /// Reason of the status in a sentence that names the next step.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Generation of the spec that this condition describes.
    #[serde(default)]
    pub observed_generation: i64,
    /// Time at which `status` last changed (RFC 3339).
    #[schemars(length(max = 64))]
    pub last_transition_time: String,
}

/// Reason of a condition's status.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Nothing has been observed yet.
    Pending,
    /// A referenced object does not exist.
    ReferenceNotFound,
    /// A referenced object is not ready.
    ReferenceNotReady,
    /// Every reference resolves.
    InputsResolved,
    /// The spec is not valid.
    SpecInvalid,
    /// Waiting in a queue for quota.
    QuotaPending,
    /// Suspended by `spec.suspend`, or interrupted locally.
    Suspended,
    /// No node fits.
    Unschedulable,
    /// The image cannot be pulled.
    ImagePullFailed,
    /// A container cannot start: a Secret, ConfigMap or key is missing, or it ends at once.
    ConfigInvalid,
    /// The API server rejected a child object.
    ChildCreationFailed,
    /// The stage is running.
    Running,
    /// An attempt failed and is retried.
    Retrying,
    /// A container exceeded its memory limit, or its node ran out of memory.
    OutOfMemory,
    /// The accelerator ran out of memory.
    AcceleratorOutOfMemory,
    /// The pod exceeded its limit of ephemeral storage.
    StorageExceeded,
    /// The pod was preempted, evicted or lost its node.
    NodeDisruption,
    /// A higher-priority run preempted the run.
    Preempted,
    /// The trainer rejected its configuration (exit code 2).
    TrainerConfigRejected,
    /// Input data is broken or does not match its digest (exit code 3).
    DataInvalid,
    /// A judge does not answer (exit code 4).
    JudgeUnavailable,
    /// A judge rejected the request: key, quota or model (exit code 7).
    JudgeRejected,
    /// The labelling budget is spent (exit code 8).
    BudgetExhausted,
    /// No progress for too long.
    #[serde(alias = "Hung")]
    NoProgress,
    /// A pod lost its connection to a peer, and no pod says why (exit code 12).
    PeerLost,
    /// The run's Job was deleted externally.
    JobDeleted,
    /// The artifact could not be stored (exit code 5).
    ArtifactUploadFailed,
    /// The deadline passed.
    DeadlineExceeded,
    /// A quality gate of the spec was not met (exit code 9).
    GateFailed,
    /// A guard against reward hacking stopped the run (exit code 10).
    RewardHackingSuspected,
    /// The trainer failed for a reason without a name of its own.
    TrainerFailed,
    /// An input changed since the artifact was made.
    InputChanged,
    /// Inputs are what the artifact was made from.
    #[serde(alias = "InputsUnchanged")]
    InputsUpToDate,
    /// The run ended and its artifact is verified.
    Completed,
    /// Nothing is wrong: the run has not failed.
    #[serde(alias = "NotFailed")]
    AsExpected,
}

impl Reason {
    /// The reason as written.
    pub fn as_str(self) -> String {
        format!("{self:?}")
    }
}

/// The conditions of a status that any version may have written: those of a type that this version does not know are left out.
pub(crate) fn conditions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Condition>, D::Error> {
    let found = Vec::<serde_json::Value>::deserialize(deserializer)?;
    let is_known = |condition: &serde_json::Value| ConditionType::deserialize(&condition["type"]).is_ok();
    let known = found.into_iter().filter(is_known).map(serde_json::from_value);
    known.collect::<Result<_, _>>().map_err(serde::de::Error::custom)
}

/// A reason that this version does not know must not keep a status from being read: whether the run has ended is in the
/// condition itself.
fn reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Reason, D::Error> {
    let found = serde_json::Value::deserialize(deserializer)?;
    Ok(Reason::deserialize(found).unwrap_or(Reason::TrainerFailed))
}
