//! Settings of the methods that sample from the policy while they train: one block per method.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::training::Switch;

/// PPO (Schulman et al., 2017) as used on language models (Ziegler et al., 2019).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ppo {
    /// Weight of the KL divergence from the reference model in the reward. Defaults to 0.05.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub kl_coefficient: f64,
    /// Estimator of the KL divergence in the reward (Schulman, 2020). With d = log policy - log reference, K1 is d, K2
    /// is d^2 / 2 and K3 is exp(-d) - 1 + d. Defaults to K1.
    pub kl_estimator: KlEstimator,
    /// Adapts `klCoefficient` towards a target KL divergence (Ziegler et al., 2019). By default the coefficient is
    /// fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_kl: Option<AdaptiveKl>,
    /// Epochs: optimisation passes over each rollout. Defaults to 4.
    #[schemars(range(min = 1, max = 100))]
    pub epochs: i64,
    /// Clipping range of the probability ratio, which is clipped to 1 +- this value. Defaults to 0.2.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub clip_range: f64,
    /// Clipping range of the value function: predictions are clipped to the old value +- this value. Defaults to 0.2.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub value_clip_range: f64,
    /// Weight of the value loss in the total loss. Defaults to 0.1.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub value_coefficient: f64,
    /// Discount factor per token. Defaults to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub gamma: f64,
    /// Lambda of generalised advantage estimation (Schulman et al., 2016). Defaults to 0.95.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub lambda: f64,
    /// Whether advantages are normalised to mean 0 and variance 1 over the tokens of a rollout. Defaults to Enabled.
    pub whiten_advantages: Switch,
    /// Whether rewards are divided by their standard deviation over a rollout, keeping their mean. Defaults to
    /// Disabled.
    pub whiten_rewards: Switch,
    /// Penalty subtracted from the score of a response that was truncated before its end token. Defaults to 0.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub missing_eos_penalty: f64,
    /// Limit that scores are clipped to, positive and negative. By default scores are not clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub score_clip: Option<f64>,
    /// Stops the remaining epochs over a rollout once the mean KL divergence from the sampling policy exceeds this many
    /// nats. By default no epoch is stopped early.
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
            whiten_advantages: Switch::Enabled,
            whiten_rewards: Switch::Disabled,
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

/// Proportional controller of the KL coefficient.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AdaptiveKl {
    /// Target KL divergence per response, in nats.
    #[schemars(range(min = 0.001, max = 1000.0))]
    pub target: f64,
    /// Horizon: responses over which the coefficient adapts. Defaults to 10000.
    #[serde(default = "default_horizon")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub horizon: i64,
}

fn default_horizon() -> i64 {
    10_000
}

/// GRPO (Shao et al., 2024) and the losses that followed it. The advantage of a response is its score less the mean score
/// of the responses to the same prompt.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Grpo {
    /// Loss function: Grpo, DrGrpo, Dapo, Cispo or Gspo. They differ in how tokens are averaged and in what is clipped.
    /// Dapo takes the mean over all tokens of a batch. Defaults to Dapo.
    pub loss: GrpoLoss,
    /// What advantages are divided by: Group is the standard deviation of the scores of a prompt's responses, Batch that
    /// of all scores of a rollout, None leaves them as they are. Defaults to Group.
    pub scale_rewards: RewardScale,
    /// Weight of the KL divergence from the reference model in the loss. Defaults to 0.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub kl_coefficient: f64,
    /// Estimator of the KL divergence in the loss: K2 or K3. The gradient of K1 is zero in expectation. Defaults to K3.
    pub kl_estimator: LossKlEstimator,
    /// Epochs: optimisation passes over each rollout. Defaults to 1.
    #[schemars(range(min = 1, max = 100))]
    pub epochs: i64,
    /// Clipping range of the probability ratio below 1: it is clipped to at least 1 - this value. Cispo does not read it. By
    /// default 0.2, and 0.0003 for Gspo, whose ratios are those of whole responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub clip_range: Option<f64>,
    /// Clipping range of the probability ratio above 1: it is clipped to at most 1 + this value. For Cispo it is TRL's
    /// `epsilon_high` less 1. By default it is `clipRange`, and 0.0004 for Gspo; 0.28 is the value of DAPO (Yu et al.,
    /// 2025).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub clip_range_high: Option<f64>,
    /// Dual clipping (Ye et al., 2020): the loss of a token (for Gspo: of a response) with a negative advantage is at most
    /// this many times the magnitude of the advantage. Cispo does not read it. By default there is no such bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.01, max = 1000.0))]
    pub dual_clip: Option<f64>,
    /// Whether responses that were truncated before their end token are left out of the loss and of what it is divided by.
    /// Their scores still count in the mean of their group. Defaults to Disabled.
    pub mask_truncated: Switch,
    /// Penalty subtracted from the score of a response that was truncated before its end token. Defaults to 0.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub missing_eos_penalty: f64,
    /// Limit that scores are clipped to, positive and negative. By default scores are not clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub score_clip: Option<f64>,
}

impl Default for Grpo {
    fn default() -> Self {
        Self {
            loss: GrpoLoss::Dapo,
            scale_rewards: RewardScale::Group,
            kl_coefficient: 0.0,
            kl_estimator: LossKlEstimator::K3,
            epochs: 1,
            clip_range: None,
            clip_range_high: None,
            dual_clip: None,
            mask_truncated: Switch::Disabled,
            missing_eos_penalty: 0.0,
            score_clip: None,
        }
    }
}

/// Losses of GRPO.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum GrpoLoss {
    /// Clipped ratios per token; the mean of each response's mean over its tokens (Shao et al., 2024, eq. 3).
    Grpo,
    /// Clipped ratios per token; the sum over a response's tokens divided by `maxNewTokens`, so that long responses do
    /// not weigh less per token (Liu et al., 2025).
    DrGrpo,
    /// Clipped ratios per token; the mean over all tokens of a batch (Yu et al., 2025, eq. 8).
    #[default]
    Dapo,
    /// The ratio, clipped from above and without gradient, weights the log-probability of each token; the mean over all
    /// tokens of a batch (MiniMax, 2025, eq. 4).
    Cispo,
    /// One clipped ratio per response, the geometric mean of those of its tokens; the mean over responses (Zheng et al.,
    /// 2025, eq. 5).
    Gspo,
}

/// What advantages of a group are divided by.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum RewardScale {
    /// The standard deviation of the group's scores.
    #[default]
    Group,
    /// The standard deviation of all scores of a rollout.
    Batch,
    /// Nothing.
    None,
}

/// Estimators of the KL divergence as a loss, with `d = log policy - log reference`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum LossKlEstimator {
    /// `d^2 / 2`: its gradient is that of KL(policy || reference).
    K2,
    /// `exp(-d) - 1 + d`: its gradient is that of KL(reference || policy).
    #[default]
    K3,
}

impl From<LossKlEstimator> for KlEstimator {
    fn from(estimator: LossKlEstimator) -> Self {
        match estimator {
            LossKlEstimator::K2 => Self::K2,
            LossKlEstimator::K3 => Self::K3,
        }
    }
}

/// RLOO (Ahmadian et al., 2024). The advantage of a response is its reward less the mean reward of the other responses to
/// the same prompt.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rloo {
    /// Weight of the KL divergence from the reference model in the reward. Defaults to 0.05.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub kl_coefficient: f64,
    /// Estimator of the KL divergence in the reward (Schulman, 2020): K1, K2 or K3, as for PPO. Defaults to K1.
    pub kl_estimator: KlEstimator,
    /// Adapts `klCoefficient` towards a target KL divergence (Ziegler et al., 2019). By default the coefficient is
    /// fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_kl: Option<AdaptiveKl>,
    /// Epochs: optimisation passes over each rollout. Defaults to 1.
    #[schemars(range(min = 1, max = 100))]
    pub epochs: i64,
    /// Clipping range of the probability ratio of a whole response, which is clipped to 1 +- this value. Defaults to
    /// 0.2.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub clip_range: f64,
    /// Whether advantages are normalised to mean 0 and variance 1 over the responses of a rollout. Defaults to Disabled.
    pub whiten_advantages: Switch,
    /// Penalty subtracted from the score of a response that was truncated before its end token. Defaults to 0.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub missing_eos_penalty: f64,
    /// Limit that scores are clipped to, positive and negative. By default scores are not clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub score_clip: Option<f64>,
}

impl Default for Rloo {
    fn default() -> Self {
        Self {
            kl_coefficient: 0.05,
            kl_estimator: KlEstimator::K1,
            adaptive_kl: None,
            epochs: 1,
            clip_range: 0.2,
            whiten_advantages: Switch::Disabled,
            missing_eos_penalty: 0.0,
            score_clip: None,
        }
    }
}

/// REINFORCE (Williams, 1992). The advantage of a response is its reward less a baseline.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Reinforce {
    /// Baseline subtracted from rewards: MovingAverage of the rewards of earlier rollouts, BatchMean of the rewards of the rollout, or None.
    /// Defaults to MovingAverage.
    pub baseline: ReinforceBaseline,
    /// Weight of the past in the moving average, per rollout. Only the baseline MovingAverage reads it. The baseline of the
    /// first rollout is its own mean. Defaults to 0.9.
    #[schemars(range(min = 0.0, max = 0.9999))]
    pub baseline_decay: f64,
    /// Weight of the KL divergence from the reference model in the reward. Defaults to 0.05.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub kl_coefficient: f64,
    /// Estimator of the KL divergence in the reward (Schulman, 2020): K1, K2 or K3, as for PPO. Defaults to K1.
    pub kl_estimator: KlEstimator,
    /// Adapts `klCoefficient` towards a target KL divergence (Ziegler et al., 2019). By default the coefficient is
    /// fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_kl: Option<AdaptiveKl>,
    /// Whether advantages are divided by their standard deviation over the responses of a rollout. Defaults to Disabled.
    pub scale_advantages: Switch,
    /// Penalty subtracted from the score of a response that was truncated before its end token. Defaults to 0.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub missing_eos_penalty: f64,
    /// Limit that scores are clipped to, positive and negative. By default scores are not clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub score_clip: Option<f64>,
}

impl Default for Reinforce {
    fn default() -> Self {
        Self {
            baseline: ReinforceBaseline::MovingAverage,
            baseline_decay: 0.9,
            kl_coefficient: 0.05,
            kl_estimator: KlEstimator::K1,
            adaptive_kl: None,
            scale_advantages: Switch::Disabled,
            missing_eos_penalty: 0.0,
            score_clip: None,
        }
    }
}

/// Baselines of REINFORCE.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum ReinforceBaseline {
    /// Moving average of the mean rewards of earlier rollouts.
    #[default]
    MovingAverage,
    /// Mean reward of the rollout.
    BatchMean,
    /// No baseline.
    None,
}

/// REINFORCE++ (Hu et al., 2025): REINFORCE with PPO's clipping and the KL penalty of the remaining tokens, normalised over
/// all tokens of a rollout.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ReinforcePlusPlus {
    /// Baseline of scores: Group subtracts the mean score of the responses to the same prompt (REINFORCE++-baseline; the KL
    /// penalty stays in the reward), None nothing. Defaults to None.
    pub baseline: GroupBaseline,
    /// Weight of the KL divergence from the reference model in the reward. Defaults to 0.01.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub kl_coefficient: f64,
    /// Estimator of the KL divergence in the reward (Schulman, 2020): K1, K2 or K3, as for PPO. Defaults to K1.
    pub kl_estimator: KlEstimator,
    /// Adapts `klCoefficient` towards a target KL divergence (Ziegler et al., 2019). By default the coefficient is
    /// fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_kl: Option<AdaptiveKl>,
    /// Epochs: optimisation passes over each rollout. Defaults to 1.
    #[schemars(range(min = 1, max = 100))]
    pub epochs: i64,
    /// Clipping range of the probability ratio, which is clipped to 1 +- this value. Defaults to 0.2.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub clip_range: f64,
    /// Penalty subtracted from the score of a response that was truncated before its end token. Defaults to 0.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub missing_eos_penalty: f64,
    /// Limit that scores are clipped to, positive and negative. By default scores are not clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub score_clip: Option<f64>,
}

impl Default for ReinforcePlusPlus {
    fn default() -> Self {
        Self {
            baseline: GroupBaseline::None,
            kl_coefficient: 0.01,
            kl_estimator: KlEstimator::K1,
            adaptive_kl: None,
            epochs: 1,
            clip_range: 0.2,
            missing_eos_penalty: 0.0,
            score_clip: None,
        }
    }
}

/// Baselines of REINFORCE++.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum GroupBaseline {
    /// No baseline.
    #[default]
    None,
    /// Mean score of the responses to the same prompt.
    Group,
}

/// A2C (Mnih et al., 2016, without its asynchronous workers): policy gradients whose advantages a critic estimates, one
/// pass over each rollout, without clipping.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct A2c {
    /// Weight of the KL divergence from the reference model in the reward. Defaults to 0.05.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub kl_coefficient: f64,
    /// Estimator of the KL divergence in the reward (Schulman, 2020): K1, K2 or K3, as for PPO. Defaults to K1.
    pub kl_estimator: KlEstimator,
    /// Adapts `klCoefficient` towards a target KL divergence (Ziegler et al., 2019). By default the coefficient is
    /// fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive_kl: Option<AdaptiveKl>,
    /// Weight of the value loss in the total loss. Defaults to 0.5.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub value_coefficient: f64,
    /// Discount factor per token. Defaults to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub gamma: f64,
    /// Lambda of generalised advantage estimation (Schulman et al., 2016); 1 is the return less the value. Defaults to
    /// 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub lambda: f64,
    /// Whether advantages are normalised to mean 0 and variance 1 over the tokens of a rollout. Defaults to Disabled.
    pub whiten_advantages: Switch,
    /// Penalty subtracted from the score of a response that was truncated before its end token. Defaults to 0.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub missing_eos_penalty: f64,
    /// Limit that scores are clipped to, positive and negative. By default scores are not clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub score_clip: Option<f64>,
}

impl Default for A2c {
    fn default() -> Self {
        Self {
            kl_coefficient: 0.05,
            kl_estimator: KlEstimator::K1,
            adaptive_kl: None,
            value_coefficient: 0.5,
            gamma: 1.0,
            lambda: 1.0,
            whiten_advantages: Switch::Disabled,
            missing_eos_penalty: 0.0,
            score_clip: None,
        }
    }
}
