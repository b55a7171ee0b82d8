//! `PolicyTuning`: SFT model + reward model or preference data -> a tuned model, and the evidence that it is better.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::Compute;
use crate::judge::Judge;
use crate::source::{DataSource, ModelSource, NameRef, Output, PromptSource, Sampling};
use crate::training::{LabelKind, Training};

/// What a PolicyTuning is made from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[cfg_attr(feature = "kube", derive(kube::CustomResource))]
#[cfg_attr(
    feature = "kube",
    kube(
        group = "plumbline.dev",
        version = "v1alpha1",
        kind = "PolicyTuning",
        namespaced,
        status = "crate::status::Status",
        category = "rlaif",
        shortname = "poltune",
        doc = "A tuned model, with the evidence that it is better than the model it was made from.",
        printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
        printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
        printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress.percent"),
        printcolumn(name = "Metric", type_ = "string", json_path = ".status.evaluation.winRate"),
        printcolumn(name = "Artifact", type_ = "string", json_path = ".status.artifact.uri", priority = 1),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyTuningSpec {
    /// The algorithm.
    pub method: Method,
    /// The SFT model to tune; also the reference that the KL divergence is measured to.
    pub policy_model: ModelSource,
    /// The RewardModel to learn from (methods that sample).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_model_ref: Option<NameRef>,
    /// The PreferenceDataset to learn from (DPO).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_ref: Option<NameRef>,
    /// Preference data (DPO) or texts (SFT) from elsewhere. A text ends with the model's end token; a record with
    /// `complete: false` has a text that was cut, and does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DataSource>,
    /// Prompts to sample from (methods that sample).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PromptSource>,
    /// How the policy is sampled in training (methods that sample).
    #[serde(default)]
    pub rollout: Rollout,
    /// How it is trained.
    #[serde(default)]
    pub training: Training,
    /// PPO settings. Omit to use the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppo: Option<Ppo>,
    /// Settings of the DPO family. Default: those below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpo: Option<Dpo>,
    /// When to stop against reward hacking. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// How the tuned model is compared with the one it was made from. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
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

/// The algorithm.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Method {
    /// Next-token cross-entropy on texts.
    #[serde(rename = "SFT")]
    Sft,
    /// Direct preference optimisation (Rafailov et al., 2023).
    #[serde(rename = "DPO")]
    Dpo,
    /// Proximal policy optimisation (Schulman et al., 2017) with a KL penalty.
    #[serde(rename = "PPO")]
    Ppo,
    /// REINFORCE with a leave-one-out baseline (Ahmadian et al., 2024).
    #[serde(rename = "RLOO")]
    Rloo,
    /// Group-relative policy optimisation (Shao et al., 2024).
    #[serde(rename = "GRPO")]
    Grpo,
    /// REINFORCE with a moving baseline.
    #[serde(rename = "REINFORCE")]
    Reinforce,
    /// Advantage actor-critic.
    #[serde(rename = "A2C")]
    A2c,
    /// The best of N samples by reward: the baseline that tuning has to beat.
    BestOfN,
}

impl Method {
    /// Whether the method samples from the policy while it trains.
    pub fn samples(self) -> bool {
        !matches!(self, Self::Sft | Self::Dpo)
    }
}

/// How the policy is sampled in training.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rollout {
    /// Prompts per rollout. Default 64.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub prompts_per_step: i64,
    /// Responses per prompt. Default 1.
    #[schemars(range(min = 1, max = 1024))]
    pub responses_per_prompt: i64,
    /// How they are sampled.
    pub sampling: Sampling,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { prompts_per_step: 64, responses_per_prompt: 1, sampling: Sampling::default() }
    }
}

/// PPO (Schulman et al., 2017) as used on language models (Ziegler et al., 2019).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ppo {
    /// Weight of the KL divergence to the policy model in the reward. Default 0.05.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub kl_coefficient: f64,
    /// Estimator of the KL divergence in the reward (Schulman, 2020). Default K1.
    pub kl_estimator: KlEstimator,
    /// Adapt the coefficient towards a target (Ziegler et al., 2019). Default: fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_kl: Option<AdaptiveKl>,
    /// Passes over a rollout. Default 4.
    #[schemars(range(min = 1, max = 100))]
    pub epochs: i64,
    /// The probability ratio is clipped to 1 +- this. Default 0.2.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub clip_range: f64,
    /// Values are clipped to the old value +- this. Default 0.2.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub value_clip_range: f64,
    /// Weight of the value loss. Default 0.1.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub value_coefficient: f64,
    /// Discount. Default 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub gamma: f64,
    /// GAE's lambda (Schulman et al., 2016). Default 0.95.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub lambda: f64,
    /// Scale advantages to mean 0 and variance 1 over the tokens of a rollout. Default Enabled.
    pub whiten_advantages: crate::training::Switch,
    /// Divide rewards by their standard deviation over a rollout, keeping the mean. Default Disabled.
    pub whiten_rewards: crate::training::Switch,
    /// Subtracted from the score of a response that did not end by itself. Default 0.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub missing_eos_penalty: f64,
    /// Scores are clipped to +- this. Default: not clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub score_clip: Option<f64>,
    /// Stop the remaining epochs over a rollout once the mean KL to the sampling policy exceeds this. Default:
    /// never.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub target_kl: Option<f64>,
}

impl Default for Ppo {
    fn default() -> Self {
        Self {
            kl_coefficient: 0.05,
            kl_estimator: KlEstimator::K1,
            adaptive_kl: None,
            epochs: 4,
            clip_range: 0.2,
            value_clip_range: 0.2,
            value_coefficient: 0.1,
            gamma: 1.0,
            lambda: 0.95,
            whiten_advantages: crate::training::Switch::Enabled,
            whiten_rewards: crate::training::Switch::Disabled,
            missing_eos_penalty: 0.0,
            score_clip: None,
            target_kl: None,
        }
    }
}

/// Estimators of KL(policy || reference) from samples, with `d = log policy - log reference`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum KlEstimator {
    /// `d`: unbiased.
    #[default]
    K1,
    /// `d^2 / 2`: biased, low variance.
    K2,
    /// `exp(-d) - 1 + d`: unbiased, never negative.
    K3,
}

/// A proportional controller of the KL coefficient.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdaptiveKl {
    /// Target KL divergence per response, in nats.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub target: f64,
    /// Responses over which the coefficient adapts. Default 10000.
    #[serde(default = "default_horizon")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub horizon: i64,
}

fn default_horizon() -> i64 {
    10_000
}

/// The DPO family.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Dpo {
    /// The loss. Default Sigmoid.
    pub loss: DpoLoss,
    /// Strength of the pull to the reference. Default 0.1.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub beta: f64,
    /// Assumed share of wrong labels (conservative DPO). Default 0.
    #[schemars(range(min = 0.0, max = 0.5))]
    pub label_smoothing: f64,
    /// Soft uses the judge's probability as the target, Hard its sign. Default Hard.
    pub labels: LabelKind,
    /// Reference model, if it differs from policyModel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_model: Option<ModelSource>,
}

impl Default for Dpo {
    fn default() -> Self {
        Self { loss: DpoLoss::Sigmoid, beta: 0.1, label_smoothing: 0.0, labels: LabelKind::Hard, reference_model: None }
    }
}

/// Losses of the DPO family.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum DpoLoss {
    /// Rafailov et al., 2023.
    #[default]
    Sigmoid,
}

/// When to stop against reward hacking. A limit that is not set is not checked.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Guard {
    /// Largest KL divergence to the policy model, in nats per response. Default: not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 10000.0))]
    pub max_kl: Option<f64>,
    /// Smallest mean entropy of the policy, in nats a token. Default: not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub min_entropy: Option<f64>,
    /// A judge that training does not learn from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_judge: Option<Judge>,
    /// What to do when a limit is passed. Default StopAndKeepBest.
    pub action: GuardAction,
}

/// What a guard does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum GuardAction {
    /// Stop, and keep the last checkpoint within the limits.
    #[default]
    StopAndKeepBest,
    /// Stop and fail.
    Fail,
}

/// How the tuned model is compared with the one it was made from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evaluation {
    /// Held-out prompts, disjoint from those of training.
    pub prompts: PromptSource,
    /// The judge that compares. Default: none; only measures without a judge are reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<Judge>,
    /// What the tuned model is compared with. Default SftModel.
    #[serde(default)]
    pub against: Against,
    /// Responses per prompt, of each model. Default 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub samples_per_prompt: i64,
    /// How both models are sampled.
    #[serde(default)]
    pub sampling: Sampling,
    /// Word lists whose mean valence is reported as `before.<name>` and `after.<name>`: measures that training never
    /// saw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub lexicons: Vec<Lexicon>,
}

fn one() -> i64 {
    1
}

/// A named word list, scored as VADER does (Hutto and Gilbert, 2014).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lexicon {
    /// Name in the report.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z][a-z0-9_]*$"))]
    pub name: String,
    /// Where the file is: `word<TAB>valence` a line, more columns ignored (the format of VADER).
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
}

/// What a tuned model is compared with.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Against {
    /// `policyModel` as it was.
    #[default]
    SftModel,
}
