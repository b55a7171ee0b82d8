//! REINFORCE++ (Hu et al., 2025): no critic; PPO's clipping, and advantages normalised over all tokens of a rollout.
//! Computes only.

use tch::{Kind, Tensor};

use plumbline_crds::online::{GroupBaseline, ReinforcePlusPlus as Settings, RewardScale};

use crate::advantage::{group_relative, whiten_all};
use crate::loss::policy::{Clip, clipped};
use crate::method::metrics;
use crate::method::shaping::{KlState, Shaping};
use crate::train::means::Means;
use crate::train::online::{MicroBatch, OnPolicy};
use crate::train::samples::{Sample, Statistics};

/// The method, with its current KL coefficient.
pub struct ReinforcePlusPlus {
    settings: Settings,
    shaping: Shaping,
}

impl ReinforcePlusPlus {
    /// The method at the start of training.
    pub fn new(settings: Settings) -> Self {
        let shaping = Shaping::from(&settings);
        Self { settings, shaping }
    }
}

impl OnPolicy for ReinforcePlusPlus {
    type State = KlState;
    /// The advantage of each token of each response.
    type Experience = Vec<Vec<f64>>;

    fn state(&self) -> KlState {
        self.shaping.state()
    }

    fn restore(&mut self, state: KlState) {
        self.shaping.restore(&state);
    }

    fn epochs(&self) -> i64 {
        self.settings.epochs
    }

    /// Section 3.2 of the paper: the advantage of a token is the score less the KL penalties of this and all later tokens.
    fn experience(&self, samples: &[Sample]) -> (Vec<Vec<f64>>, Means) {
        let shaped = self.shaping.shape(samples);
        let centred = match self.settings.baseline {
            GroupBaseline::None => shaped.scores.clone(),
            GroupBaseline::Group => {
                let groups: Vec<usize> = samples.iter().map(|s| s.group).collect();
                group_relative(&shaped.scores, &groups, RewardScale::None)
            }
        };
        let rewards = self.shaping.of_tokens(&shaped, &centred);
        let mut advantages: Vec<Vec<f64>> = rewards.into_iter().map(to_go).collect();
        whiten_all(&mut advantages, false);
        (advantages, self.shaping.means(&shaped))
    }

    fn weight(&self, sample: &Sample) -> f64 {
        sample.old.len() as f64
    }

    fn loss(&self, experience: &Vec<Vec<f64>>, micro: &MicroBatch) -> (Tensor, Means) {
        let clip = Clip::symmetric(self.settings.clip_range);
        let ratio = (&micro.now.logprobs - micro.old()).exp();
        let losses = clipped(&ratio, &micro.tokens(|i, _| &experience[i]), clip);
        let mut means = metrics::step(micro, &losses);
        metrics::add(&mut means, "policy/clipfrac_avg", &clip.exceeded(&ratio));
        (losses.sum(Kind::Float), means)
    }

    fn adapt(&mut self, samples: &[Sample], rollout: &Statistics) {
        self.shaping.adapt(rollout, samples.len());
    }
}

/// The sum of this and all later rewards, at each token.
fn to_go(mut rewards: Vec<f64>) -> Vec<f64> {
    let mut sum = 0.0;
    for reward in rewards.iter_mut().rev() {
        sum += *reward;
        *reward = sum;
    }
    rewards
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advantage::token_rewards;

    #[test]
    fn rewards_to_go_hold_the_score_at_every_token() {
        let rewards = token_rewards(&[1.0, 2.0, 3.0], 0.5, 10.0);
        assert_eq!(to_go(rewards), [7.0, 7.5, 8.5]);
    }
}
