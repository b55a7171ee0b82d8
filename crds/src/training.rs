//! How a model is trained: optimiser, schedule, batches, adapter, precision, checkpoints. Shared by `RewardModel` and
//! `PolicyTuning`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Training settings.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Training {
    /// Epochs: passes over the data (pairs, texts, or prompts for a method that samples). Defaults to 1.
    #[schemars(range(min = 1, max = 1000))]
    pub epochs: i64,
    /// Stops after this many optimiser steps (rollouts for a method that samples), even if `epochs` are not complete.
    /// By default there is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_steps: Option<i64>,
    /// Sequences (pairs for RewardModel and DPO) per optimiser step. Defaults to 64.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub batch_size: i64,
    /// Sequences (pairs) per forward and backward pass. It determines memory use; the result changes only by rounding
    /// and by the draws of dropout. A run resumes from its checkpoint with a different value. Defaults to 8.
    #[schemars(range(min = 1, max = 100_000))]
    pub micro_batch_size: i64,
    /// Peak learning rate. Defaults to 1e-5.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub learning_rate: f64,
    /// Learning-rate schedule: warm-up and decay.
    pub schedule: Schedule,
    /// AdamW optimiser and gradient clipping.
    pub optimizer: Optimizer,
    /// Longest sequence in tokens, prompt included. Longer sequences are left out and counted. Defaults to 1024.
    #[schemars(range(min = 2, max = 1_048_576))]
    pub max_length: i64,
    /// Number format of frozen weights and of activations. Trained weights are always Float32. Defaults to Float32.
    pub precision: Precision,
    /// Trains a low-rank adapter instead of all weights. By default all weights are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// Whether activations are recomputed in the backward pass to save memory. Defaults to Disabled.
    pub activation_checkpointing: Switch,
    /// Random seed of initialisation, data order and dropout. Defaults to 42.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub seed: i64,
    /// How often checkpoints are written, and how many are kept.
    pub checkpoint: CheckpointPolicy,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            epochs: 1,
            max_steps: None,
            batch_size: 64,
            micro_batch_size: 8,
            learning_rate: 1e-5,
            schedule: Schedule::default(),
            optimizer: Optimizer::default(),
            max_length: 1024,
            precision: Precision::Float32,
            adapter: None,
            activation_checkpointing: Switch::Disabled,
            seed: 42,
            checkpoint: CheckpointPolicy::default(),
        }
    }
}

/// Learning-rate schedule.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Schedule {
    /// Shape of the learning rate after the warm-up: Constant, Linear decay to 0 or Cosine decay to 0. Defaults to
    /// Linear.
    #[serde(rename = "type")]
    pub kind: ScheduleType,
    /// Fraction of the steps over which the learning rate rises linearly from 0. Defaults to 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub warmup_fraction: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { kind: ScheduleType::Linear, warmup_fraction: 0.0 }
    }
}

/// Shape of the learning rate over time.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum ScheduleType {
    /// The peak rate throughout.
    Constant,
    /// Linear decay to 0.
    #[default]
    Linear,
    /// Half a cosine to 0.
    Cosine,
}

/// AdamW (Loshchilov and Hutter, 2019) and gradient clipping.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Optimizer {
    /// Decoupled weight decay, applied to matrices only. Defaults to 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub weight_decay: f64,
    /// Decay rate of the first moment. Defaults to 0.9.
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub beta1: f64,
    /// Decay rate of the second moment. Defaults to 0.999.
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub beta2: f64,
    /// Constant added to the denominator of the update. Defaults to 1e-8.
    #[schemars(range(min = 0.0, max = 0.1))]
    pub epsilon: f64,
    /// Largest global gradient norm; larger gradients are scaled down to it. Defaults to 1.
    #[schemars(range(min = 0.000_001, max = 1_000_000.0))]
    pub max_grad_norm: f64,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self { weight_decay: 0.0, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, max_grad_norm: 1.0 }
    }
}

/// Number format of frozen weights and activations.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits.
    #[default]
    Float32,
    /// 16 bits with the exponent of 32; twice to four times as fast where the processor has it.
    BFloat16,
}

/// An on/off choice that may grow further values.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Switch {
    /// On.
    Enabled,
    /// Off.
    #[default]
    Disabled,
}

/// LoRA (Hu et al., 2021): `y = W x + (alpha / rank) B A x`, B starting at zero.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Adapter {
    /// Type of adapter. Lora is low-rank adaptation (Hu et al., 2021). Defaults to Lora.
    #[serde(rename = "type", default)]
    pub kind: AdapterType,
    /// Rank of the adapter's matrices. Defaults to 16.
    #[serde(default = "default_rank")]
    #[schemars(range(min = 1, max = 1024))]
    pub rank: i64,
    /// Scale of the adapter: its update is multiplied by alpha / rank. Defaults to 32.
    #[serde(default = "default_alpha")]
    #[schemars(range(min = 0.0, max = 65536.0))]
    pub alpha: f64,
    /// Dropout probability on the adapter's input. Defaults to 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
    /// Projections that get an adapter: Attention, Mlp, All, or names of the model's modules such as `q_proj` and
    /// `down_proj`. Names that the model does not have are rejected before training. By default all projections get
    /// one.
    #[serde(default = "default_targets")]
    #[schemars(with = "Vec<String>", length(min = 1, max = 16), inner(length(max = 63), regex(pattern = ADAPTER_TARGET)), extend("x-kubernetes-list-type" = "set"))]
    pub targets: Vec<AdapterTarget>,
    /// Applies the adapter only to the last N layers; the layers below are then not part of the backward pass. By
    /// default the adapter applies to all layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub last_layers: Option<i64>,
    /// What is saved: Merged writes the whole model with the adapter merged into its weights, Adapter a PEFT directory.
    /// Defaults to Merged.
    #[serde(default)]
    pub save: AdapterSave,
}

fn default_rank() -> i64 {
    16
}
fn default_alpha() -> f64 {
    32.0
}
fn default_targets() -> Vec<AdapterTarget> {
    vec![AdapterTarget::All]
}

/// Kind of adapter.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum AdapterType {
    /// Low-rank adaptation.
    #[default]
    Lora,
}

/// What an adapter target may be: a role, or a module's name in Hugging Face models, in lower case.
pub const ADAPTER_TARGET: &str = "^(Attention|Mlp|All|[a-z][a-z0-9_]*)$";

/// Projections of a decoder layer, by their role or by a name.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(from = "String", into = "String")]
pub enum AdapterTarget {
    /// Those of attention.
    Attention,
    /// Those of the MLP.
    Mlp,
    /// All of them.
    All,
    /// The one with this name in Hugging Face models (`q_proj`).
    Module(String),
}

impl From<String> for AdapterTarget {
    fn from(text: String) -> Self {
        match text.as_str() {
            "Attention" => Self::Attention,
            "Mlp" => Self::Mlp,
            "All" => Self::All,
            _ => Self::Module(text),
        }
    }
}

impl From<AdapterTarget> for String {
    fn from(target: AdapterTarget) -> Self {
        match target {
            AdapterTarget::Attention => "Attention".to_owned(),
            AdapterTarget::Mlp => "Mlp".to_owned(),
            AdapterTarget::All => "All".to_owned(),
            AdapterTarget::Module(name) => name,
        }
    }
}

/// What is saved of a model with an adapter.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum AdapterSave {
    /// The whole model with the adapter added into its weights.
    #[default]
    Merged,
    /// The adapter alone, as a PEFT directory.
    Adapter,
}

/// Checkpointing. A run that is killed at any point resumes from its last checkpoint and ends with the same result.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CheckpointPolicy {
    /// Optimiser steps (rollouts for a method that samples) between checkpoints. Defaults to 100.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub every_steps: i64,
    /// Number of checkpoints kept; older ones are deleted. Defaults to 2.
    #[schemars(range(min = 1, max = 100))]
    pub keep: i64,
}

impl Default for CheckpointPolicy {
    fn default() -> Self {
        Self { every_steps: 100, keep: 2 }
    }
}

/// Soft or hard labels.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum LabelKind {
    /// The probability that the first is better.
    Soft,
    /// Which is better.
    Hard,
}
