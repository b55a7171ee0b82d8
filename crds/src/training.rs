//! How a model is trained: optimiser, schedule, batches, adapter, precision, checkpoints. Shared by `RewardModel` and
//! `PolicyTuning`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Training settings.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Training {
    /// Passes over the data (pairs, texts, or prompts for a method that samples). Default 1.
    #[schemars(range(min = 1, max = 1000))]
    pub epochs: i64,
    /// Stop after this many optimiser steps (of a method that samples: rollouts), whatever `epochs` says.
    /// Default: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_steps: Option<i64>,
    /// Sequences (pairs for RewardModel and DPO) per optimiser step. Default 64.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub batch_size: i64,
    /// Sequences (pairs) a forward and backward pass; changes memory, and the result only by rounding and by what dropout
    /// leaves out. A run continues from its checkpoint with another value. Default 8.
    #[schemars(range(min = 1, max = 100_000))]
    pub micro_batch_size: i64,
    /// Peak learning rate. Default 1e-5.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub learning_rate: f64,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// AdamW and gradient clipping.
    pub optimizer: Optimizer,
    /// Longest sequence in tokens, prompt included; longer ones are left out and counted. Default 1024.
    #[schemars(range(min = 2, max = 1_048_576))]
    pub max_length: i64,
    /// Number format of the frozen weights and of activations; trained weights are always Float32. Default Float32.
    pub precision: Precision,
    /// Train a low-rank adapter instead of all weights. Default: all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
    /// Recompute activations in the backward pass to save memory. Default Disabled.
    pub activation_checkpointing: Switch,
    /// Seed of initialisation, data order and dropout. Default 42.
    #[schemars(range(min = 0, max = 9_007_199_254_740_991_i64))]
    pub seed: i64,
    /// Checkpointing.
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
    /// Shape after the warm-up: Constant, Linear to 0, or Cosine to 0. Default Linear.
    #[serde(rename = "type")]
    pub kind: ScheduleType,
    /// Share of the steps over which the rate rises linearly from 0. Default 0.
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
    /// Decoupled weight decay, of matrices only. Default 0.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub weight_decay: f64,
    /// Decay of the first moment. Default 0.9.
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub beta1: f64,
    /// Decay of the second moment. Default 0.999.
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub beta2: f64,
    /// Added to the denominator. Default 1e-8.
    #[schemars(range(min = 0.0, max = 0.1))]
    pub epsilon: f64,
    /// The global gradient norm is clipped to this. Default 1.
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
    /// Kind of adapter. Default Lora.
    #[serde(rename = "type", default)]
    pub kind: AdapterType,
    /// Rank. Default 16.
    #[serde(default = "default_rank")]
    #[schemars(range(min = 1, max = 1024))]
    pub rank: i64,
    /// Scale: the update is multiplied by alpha / rank. Default 32.
    #[serde(default = "default_alpha")]
    #[schemars(range(min = 0.0, max = 65536.0))]
    pub alpha: f64,
    /// Dropout on the adapter's input. Default 0.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
    /// Projections that get an adapter: Attention, Mlp, All, or names of the model's modules (q_proj, down_proj). Names that
    /// the model does not have are rejected before training. Default: All.
    #[serde(default = "default_targets")]
    #[schemars(with = "Vec<String>", length(min = 1, max = 16), inner(length(max = 63), regex(pattern = ADAPTER_TARGET)), extend("x-kubernetes-list-type" = "set"))]
    pub targets: Vec<AdapterTarget>,
    /// Apply the adapter only to the last N layers; those below are then not part of the backward pass. Default: all layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub last_layers: Option<i64>,
    /// What is saved: Merged writes a whole model, Adapter a PEFT folder. Default Merged.
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
    /// The adapter alone, as a PEFT folder.
    Adapter,
}

/// Checkpointing. A run killed at any point continues from its last checkpoint and ends the same.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CheckpointPolicy {
    /// Steps between checkpoints. Default 100.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub every_steps: i64,
    /// Checkpoints kept. Default 2.
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
