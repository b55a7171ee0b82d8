//! `RewardModel`: preference data -> a scalar reward model (Bradley and Terry, 1952).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::Compute;
use crate::source::{DataSource, ModelSource, NameRef, Output};
use crate::training::{LabelKind, Training};

/// Desired state of a RewardModel: the preference data, the base model, training settings, gates and where the model
/// goes.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "plumbline.dev",
        version = "v1alpha1",
        kind = "RewardModel",
        namespaced,
        status = "crate::status::Status",
        category = "rlaif",
        shortname = "rewardm",
        doc = "A RewardModel is a scalar reward model trained on preference data.",
        printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
        printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
        printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.percent"),
        printcolumn(name = "Metric", type_ = "string", json_path = ".status.evaluation.accuracy"),
        printcolumn(name = "Artifact", type_ = "string", json_path = ".status.artifact.uri", priority = 1),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RewardModelSpec {
    /// PreferenceDataset in the same namespace to learn from. Exactly one of `datasetRef` and `dataset` is required.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_ref: Option<NameRef>,
    /// Preference data that no PreferenceDataset resource made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DataSource>,
    /// Model whose backbone is used. Its language-model head is replaced by a scalar head.
    pub base_model: ModelSource,
    /// Training settings: batches, optimiser, schedule, adapter, precision and checkpoints.
    #[serde(default)]
    pub training: Training,
    /// Settings of the Bradley-Terry loss.
    #[serde(default)]
    pub loss: RewardLoss,
    /// Quality gates. The run fails if one of them is not met.
    #[serde(default)]
    pub gates: RewardGates,
    /// Labelled texts on which accuracy is measured as well, reported beside the held-out accuracy: records with `text`
    /// and `label` (1 good, 0 bad).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_labels: Option<DataSource>,
    /// Where the reward model is written.
    #[serde(default)]
    pub output: Output,
    /// Pod settings: accelerators, threads, resources, placement, retries and deadline.
    #[serde(default)]
    pub compute: Compute,
    /// Suspends the run and releases its resources. The run resumes from its last checkpoint when this is set back to
    /// false. Defaults to false.
    #[serde(default)]
    pub suspend: bool,
}

/// Bradley-Terry loss and its terms.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RewardLoss {
    /// Target of the loss: Soft uses the judge's probability, Hard only which response is preferred. Defaults to Soft.
    pub labels: LabelKind,
    /// Assumed fraction of wrong labels, by which every label is moved towards one half. Defaults to 0.
    #[schemars(range(min = 0.0, max = 0.5))]
    pub label_smoothing: f64,
    /// Weight of the pair's `margin`, which is subtracted from the score difference. Defaults to 0.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub margin_weight: f64,
    /// Weight of the mean squared sum of the two scores, which keeps scores near zero. Defaults to 0.01.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub centering_coefficient: f64,
}

impl Default for RewardLoss {
    fn default() -> Self {
        Self { labels: LabelKind::Soft, label_smoothing: 0.0, margin_weight: 0.0, centering_coefficient: 0.01 }
    }
}

/// Quality gates of a reward model. A gate that is not set is not checked.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RewardGates {
    /// Smallest accuracy on held-out pairs, as a fraction. By default it is not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_accuracy: Option<f64>,
    /// Largest expected calibration error. By default it is not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_calibration_error: Option<f64>,
}
