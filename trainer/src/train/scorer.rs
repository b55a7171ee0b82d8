//! Scores the responses of a rollout: the reward that a policy is tuned for.

use crate::Result;
use crate::model::reward_model::RewardModel;
use crate::train::samples::Sampled;

/// A source of rewards.
pub trait Scorer {
    /// One score per response, in order. Each rank calls it for its own share.
    fn score(&self, responses: &[Sampled]) -> Result<Vec<f64>>;
}

impl Scorer for RewardModel {
    fn score(&self, responses: &[Sampled]) -> Result<Vec<f64>> {
        let texts: Vec<&[i64]> = responses.iter().map(|r| r.text.as_slice()).collect();
        Ok(RewardModel::score(self, &texts))
    }
}
