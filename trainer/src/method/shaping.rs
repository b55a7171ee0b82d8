//! Scores and KL divergences as rewards: what methods make of samples before they compute advantages. Computes only.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use plumbline_crds::online::{A2c, AdaptiveKl, Grpo, KlEstimator, Ppo, Reinforce, ReinforcePlusPlus, Rloo};
use plumbline_feedback::data::responses::Finish;

use crate::advantage::{adapt_kl_coefficient, token_rewards};
use crate::loss::kl::kl;
use crate::train::means::Means;
use crate::train::samples::{Sample, Statistics};
use crate::values::to_f64;

/// How scores and divergences become rewards, with the current KL coefficient.
pub(super) struct Shaping {
    /// Scores are clipped to +- this value.
    score_clip: Option<f64>,
    /// Subtracted from the score of a response that was truncated.
    missing_eos_penalty: f64,
    /// Weight of the KL divergence in the reward at present.
    coefficient: f64,
    estimator: KlEstimator,
    adaptive: Option<AdaptiveKl>,
}

/// What is kept in checkpoints.
#[derive(Clone, Deserialize, Serialize)]
pub struct KlState {
    kl_coefficient: f64,
}

/// Samples as methods see them. One entry per response.
pub(super) struct Shaped {
    /// The scores, clipped and penalised.
    pub scores: Vec<f64>,
    /// The KL estimate of each token, in nats.
    pub kl: Vec<Vec<f64>>,
}

/// From the settings of methods that penalise the divergence in the reward.
macro_rules! penalised {
    ($($method:ty),*) => {$(
        impl From<&$method> for Shaping {
            fn from(settings: &$method) -> Self {
                Self {
                    score_clip: settings.score_clip,
                    missing_eos_penalty: settings.missing_eos_penalty,
                    coefficient: settings.kl_coefficient,
                    estimator: settings.kl_estimator,
                    adaptive: settings.adaptive_kl.clone(),
                }
            }
        }
    )*};
}

penalised!(Ppo, Rloo, Reinforce, ReinforcePlusPlus, A2c);

impl From<&Grpo> for Shaping {
    /// Its penalty is a part of the loss.
    fn from(settings: &Grpo) -> Self {
        Self {
            score_clip: settings.score_clip,
            missing_eos_penalty: settings.missing_eos_penalty,
            coefficient: 0.0,
            estimator: KlEstimator::default(),
            adaptive: None,
        }
    }
}

impl Shaping {
    /// The score used as reward.
    pub(super) fn score(&self, sample: &Sample) -> f64 {
        let score = self.score_clip.map_or(sample.score, |c| sample.score.clamp(-c, c));
        if sample.finish == Finish::Length { score - self.missing_eos_penalty } else { score }
    }

    /// Scores and divergences of samples.
    pub(super) fn shape(&self, samples: &[Sample]) -> Shaped {
        let estimate =
            |s: &Sample| to_f64(&kl(&Tensor::from_slice(&s.old), &Tensor::from_slice(&s.reference), self.estimator));
        Shaped { scores: samples.iter().map(|s| self.score(s)).collect(), kl: samples.iter().map(estimate).collect() }
    }

    /// The reward of each response as a whole: its score less its weighted divergence.
    pub(super) fn of_responses(&self, shaped: &Shaped) -> Vec<f64> {
        let reward = |(score, kl): (&f64, &Vec<f64>)| score - self.coefficient * kl.iter().sum::<f64>();
        shaped.scores.iter().zip(&shaped.kl).map(reward).collect()
    }

    /// The rewards of each response's tokens: minus the weighted divergence at each, and a score at the last. `scores`: one
    /// per response.
    pub(super) fn of_tokens(&self, shaped: &Shaped, scores: &[f64]) -> Vec<Vec<f64>> {
        shaped.kl.iter().zip(scores).map(|(kl, &score)| token_rewards(kl, self.coefficient, score)).collect()
    }

    /// The metrics of a rollout's rewards, under TRL's names.
    pub(super) fn means(&self, shaped: &Shaped) -> Means {
        let count = shaped.scores.len() as f64;
        let penalties: f64 = shaped.kl.iter().flatten().sum::<f64>() * -self.coefficient;
        let mut means = Means::default();
        means.add("objective/kl_coefficient", self.coefficient, 1.0);
        means.add("objective/non_score_reward", penalties, count);
        means.add("objective/rlhf_reward", shaped.scores.iter().sum::<f64>() + penalties, count);
        means
    }

    /// The state to save.
    pub(super) fn state(&self) -> KlState {
        KlState { kl_coefficient: self.coefficient }
    }

    /// Restores a saved state.
    pub(super) fn restore(&mut self, state: &KlState) {
        self.coefficient = state.kl_coefficient;
    }

    /// Moves an adaptive coefficient towards its target after a rollout of `responses` responses.
    pub(super) fn adapt(&mut self, rollout: &Statistics, responses: usize) {
        if let Some(adaptive) = &self.adaptive {
            self.coefficient = adapt_kl_coefficient(
                self.coefficient,
                rollout.kl_per_response,
                adaptive.target,
                adaptive.horizon as f64,
                responses as f64,
            );
        }
    }
}
