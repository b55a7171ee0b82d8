//! Condition types and the closed list of reasons: part of the API, for scripts and GitOps as for people.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The conditions of a resource, in the order they are written.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionType {
    /// The artifact is there and verified.
    Ready,
    /// Unknown while the run is active, then True or False for ever.
    Succeeded,
    /// Work is going on (kstatus).
    Reconciling,
    /// It failed and will not heal by itself (kstatus).
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

/// One condition, in the shape of `meta/v1` Condition.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Type, unique in the list.
    #[serde(rename = "type")]
    pub kind: ConditionType,
    /// True, False or Unknown.
    pub status: ConditionStatus,
    /// Why, in one word, for scripts.
    pub reason: Reason,
    /// Why, in a sentence that names the next step, for people.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Generation of the spec that this speaks of.
    #[serde(default)]
    pub observed_generation: i64,
    /// When `status` last changed (RFC 3339).
    #[schemars(length(max = 64))]
    pub last_transition_time: String,
}

/// Why a condition has its status.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Nothing is known yet.
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
    /// The container cannot be configured: a Secret, ConfigMap or key is missing.
    ConfigInvalid,
    /// The API server refused a child object.
    ChildCreationFailed,
    /// The stage is running.
    Running,
    /// The stage failed in a way that is tried again.
    Retrying,
    /// The host ran out of memory.
    OutOfMemory,
    /// The accelerator ran out of memory.
    AcceleratorOutOfMemory,
    /// The pod kept more on the disk of its node than it may.
    StorageExceeded,
    /// The pod was preempted, evicted or lost its node.
    NodeDisruption,
    /// Its queue gave the quota to a run that comes before it.
    Preempted,
    /// The trainer refused its configuration (exit code 2).
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
    NoProgress,
    /// Of the pods that train together one was lost, and none says why (exit code 12).
    PeerLost,
    /// The Job of the run was deleted by somebody else.
    JobDeleted,
    /// The artifact could not be stored (exit code 5).
    ArtifactUploadFailed,
    /// The deadline passed.
    DeadlineExceeded,
    /// A quality gate of the spec was not met (exit code 9).
    GateFailed,
    /// A guard against reward hacking stopped the run (exit code 10).
    RewardHackingSuspected,
    /// The trainer failed in a way that has no name of its own.
    TrainerFailed,
    /// An input changed since the artifact was made.
    InputChanged,
    /// Inputs are what the artifact was made from.
    InputsUnchanged,
    /// The run ended and its artifact is verified.
    Completed,
    /// The run has not failed.
    NotFailed,
}

impl Reason {
    /// The reason as written.
    pub fn as_str(self) -> String {
        format!("{self:?}")
    }
}
