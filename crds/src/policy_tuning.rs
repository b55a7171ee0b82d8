//! `PolicyTuning`: SFT model + reward model or preference data -> a tuned model, and the evidence that it is better.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::compute::Compute;
use crate::dpo::Dpo;
use crate::judge::Judge;
use crate::online::{A2c, Grpo, Ppo, Reinforce, ReinforcePlusPlus, Rloo};
use crate::source::{DataSource, ModelSource, NameRef, Output, PromptSource, Sampling};
use crate::training::Training;

/// Desired state of a PolicyTuning: the model to tune, the method and its settings, the evaluation and where the result
/// goes.
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
        doc = "A PolicyTuning tunes a language model by a reward model or by preference data, and measures whether the tuned model is better than the one it started from.",
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
    /// Algorithm that tunes the model. SFT and DPO learn from a dataset; the other methods sample from the policy and
    /// learn from a reward.
    pub method: Method,
    /// Model to tune, as a rule after supervised fine-tuning. It is also the reference model that KL divergence is
    /// measured against.
    pub policy_model: ModelSource,
    /// RewardModel in the same namespace that scores the sampled responses. Only methods that sample read it, and they
    /// need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_model_ref: Option<NameRef>,
    /// PreferenceDataset in the same namespace to learn from. Only DPO reads it, and DPO needs exactly one of
    /// `datasetRef` and `dataset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_ref: Option<NameRef>,
    /// Preference data (DPO) or texts (SFT) that no PreferenceDataset resource made. SFT appends the model's end token
    /// to each text, except to records with `complete: false`, whose text was truncated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DataSource>,
    /// Prompts for which the policy samples responses. Required for methods that sample; other methods do not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<PromptSource>,
    /// How responses are sampled from the policy during training. Only methods that sample read it.
    #[serde(default)]
    pub rollout: Rollout,
    /// Training settings: batches, optimiser, schedule, adapter, precision and checkpoints.
    #[serde(default)]
    pub training: Training,
    /// PPO settings. Only method PPO reads them; omit the block to use the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ppo: Option<Ppo>,
    /// GRPO settings. Only method GRPO reads them; omit the block to use the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpo: Option<Grpo>,
    /// RLOO settings. Only method RLOO reads them; omit the block to use the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rloo: Option<Rloo>,
    /// REINFORCE settings. Only method REINFORCE reads them; omit the block to use the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinforce: Option<Reinforce>,
    /// REINFORCE++ settings. Only method REINFORCEPlusPlus reads them; omit the block to use the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reinforce_plus_plus: Option<ReinforcePlusPlus>,
    /// A2C settings. Only method A2C reads them; omit the block to use the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub a2c: Option<A2c>,
    /// Settings of the DPO family of losses. Only method DPO reads them; omit the block to use the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dpo: Option<Dpo>,
    /// Limits that stop training when it shows signs of reward hacking. Only methods that sample read it. By default
    /// nothing is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// How the tuned model is compared with the model it started from. By default there is no evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
    /// Where the tuned model is written.
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

/// Algorithm that tunes a model.
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
    /// REINFORCE (Williams, 1992) with a baseline.
    #[serde(rename = "REINFORCE")]
    Reinforce,
    /// REINFORCE++ (Hu et al., 2025): with clipping, and advantages normalised over a rollout.
    #[serde(rename = "REINFORCEPlusPlus")]
    ReinforcePlusPlus,
    /// Advantage actor-critic (Mnih et al., 2016).
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

    /// Whether the method compares the responses to a prompt with each other, and so needs several.
    pub fn compares_responses(self) -> bool {
        matches!(self, Self::Grpo | Self::Rloo)
    }
}

/// How responses are sampled from the policy during training.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rollout {
    /// Prompts per rollout. Defaults to 64.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub prompts_per_step: i64,
    /// Responses sampled per prompt. Defaults to 1.
    #[schemars(range(min = 1, max = 1024))]
    pub responses_per_prompt: i64,
    /// Sampling parameters of the responses.
    pub sampling: Sampling,
}

impl Default for Rollout {
    fn default() -> Self {
        Self { prompts_per_step: 64, responses_per_prompt: 1, sampling: Sampling::default() }
    }
}

/// Limits that stop training when it shows signs of reward hacking. A limit that is not set is not checked.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Guard {
    /// Largest KL divergence from the reference model, in nats per response. By default it is not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 10000.0))]
    pub max_kl: Option<f64>,
    /// Smallest mean entropy of the policy, in nats per token. By default it is not checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 100.0))]
    pub min_entropy: Option<f64>,
    /// Judge that training does not learn from and that scores the policy during training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_out_judge: Option<Judge>,
    /// What happens when a limit is exceeded: StopAndKeepBest stops and saves the last checkpoint within the limits,
    /// Fail stops and fails the run. Defaults to StopAndKeepBest.
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

/// How the tuned model is compared with the model it started from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evaluation {
    /// Held-out prompts, disjoint from the training prompts.
    pub prompts: PromptSource,
    /// Judge that compares the responses of the two models. By default there is none, and only measures that need no
    /// judge are reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<Judge>,
    /// Model that the tuned model is compared with. StartingModel is `policyModel` as it was before training. Defaults
    /// to StartingModel.
    #[serde(default)]
    pub baseline: Baseline,
    /// Responses sampled per prompt from each model. Defaults to 1.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    pub samples_per_prompt: i64,
    /// Sampling parameters of both models.
    #[serde(default)]
    pub sampling: Sampling,
    /// Word lists whose mean valence over the responses is reported as `before.<name>` and `after.<name>`: measures
    /// that training never saw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub lexicons: Vec<Lexicon>,
}

fn one() -> i64 {
    1
}

/// Named word list, scored as VADER does (Hutto and Gilbert, 2014).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lexicon {
    /// Name of the measure in the report.
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[a-z][a-z0-9_]*$"))]
    pub name: String,
    /// URI of the file: one `word<TAB>valence` per line, further columns ignored (the format of VADER).
    #[schemars(length(min = 1, max = 1024))]
    pub uri: String,
}

/// Model that a tuned model is compared with.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Baseline {
    /// `policyModel` as it was.
    #[default]
    StartingModel,
}
