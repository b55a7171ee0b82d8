//! What methods make of scores and KL divergences before they compute advantages. Computes only.

use tch::Tensor;

use plumbline_crds::online::{AdaptiveKl, KlEstimator};
use plumbline_feedback::data::responses::Finish;

use crate::advantage::adapt_kl_coefficient;
use crate::loss::kl::kl;
use crate::train::samples::{Sample, Statistics};
use crate::values::to_f64;

/// How a score becomes a reward.
pub(super) struct Shaping {
    /// Scores are clipped to +- this value.
    pub score_clip: Option<f64>,
    /// Subtracted from the score of a response that was truncated.
    pub missing_eos_penalty: f64,
}

impl Shaping {
    /// The score used as reward.
    pub(super) fn score(&self, sample: &Sample) -> f64 {
        let score = self.score_clip.map_or(sample.score, |c| sample.score.clamp(-c, c));
        if sample.finish == Finish::Length { score - self.missing_eos_penalty } else { score }
    }
}

/// The KL divergence from the reference as part of the reward.
pub(super) struct KlPenalty {
    /// Weight of the divergence at present.
    pub coefficient: f64,
    estimator: KlEstimator,
    adaptive: Option<AdaptiveKl>,
}

impl KlPenalty {
    pub(super) fn new(coefficient: f64, estimator: KlEstimator, adaptive: Option<AdaptiveKl>) -> Self {
        Self { coefficient, estimator, adaptive }
    }

    /// The estimate of each token, in nats.
    pub(super) fn per_token(&self, sample: &Sample) -> Vec<f64> {
        let (policy, reference) = (Tensor::from_slice(&sample.old), Tensor::from_slice(&sample.reference));
        to_f64(&kl(&policy, &reference, self.estimator))
    }

    /// The reward of each response as a whole: its score less its weighted divergence. `estimates`: per token, in nats.
    pub(super) fn rewards(&self, scores: &[f64], estimates: &[Vec<f64>]) -> Vec<f64> {
        let reward = |(score, kl): (&f64, &Vec<f64>)| score - self.coefficient * kl.iter().sum::<f64>();
        scores.iter().zip(estimates).map(reward).collect()
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
