//! `RewardModel`: preference data -> a scalar reward model (Bradley and Terry, 1952).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::Compute;
use crate::source::{DataSource, ModelSource, NameRef, Output};
use crate::training::{LabelKind, Training};

/// What a RewardModel is made from.
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
        doc = "A scalar reward model trained on preference data.",
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
    /// The PreferenceDataset to learn from. Exactly one of `datasetRef` and `dataset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_ref: Option<NameRef>,
    /// Preference data from elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DataSource>,
    /// The model whose backbone is used; its language-model head is replaced by a scalar head.
    pub base_model: ModelSource,
    /// How it is trained.
    #[serde(default)]
    pub training: Training,
    /// The Bradley-Terry loss.
    #[serde(default)]
    pub loss: RewardLoss,
    /// What must hold for the model to be used.
    #[serde(default)]
    pub gates: RewardGates,
    /// Labelled texts to measure accuracy on as well, printed beside the held-out accuracy: records with `text` and `label`
    /// (1 good, 0 bad).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference_labels: Option<DataSource>,
    /// Where the model goes.
    #[serde(default)]
    pub output: Output,
    /// The pod: threads, resources, where it may run, retries.
    #[serde(default)]
    pub compute: Compute,
    /// Suspend the run and release its resources. It resumes from its last checkpoint when set back to false. Default false.
    #[serde(default)]
    pub suspend: bool,
}

/// The Bradley-Terry loss and its terms.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RewardLoss {
    /// Soft uses the judge's probability as the target, Hard its sign. Default Soft.
    pub labels: LabelKind,
    /// Weight of the pair's `margin`, subtracted from the score difference. Default 0.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub margin_weight: f64,
    /// Weight of the mean squared score sum, which keeps scores near zero. Default 0.01.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub centering_coefficient: f64,
}

impl Default for RewardLoss {
    fn default() -> Self {
        Self { labels: LabelKind::Soft, margin_weight: 0.0, centering_coefficient: 0.01 }
    }
}

/// What must hold for the model to be used. A gate that is not set is not checked.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RewardGates {
    /// At least this held-out pair accuracy. Default: not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_accuracy: Option<f64>,
    /// At most this expected calibration error. Default: not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_calibration_error: Option<f64>,
}
