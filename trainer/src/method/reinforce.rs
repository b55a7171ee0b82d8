//! REINFORCE (Williams, 1992) on whole responses, with a baseline. Computes only.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use plumbline_crds::online::{Reinforce as Settings, ReinforceBaseline};
use plumbline_crds::training::Switch;

use crate::advantage::deviation;
use crate::loss::policy::policy_gradient;
use crate::method::metrics;
use crate::method::shaping::{KlState, Shaping};
use crate::train::means::Means;
use crate::train::online::{MicroBatch, OnPolicy};
use crate::train::samples::{Sample, Statistics};

/// The method, with its current KL coefficient and baseline.
pub struct Reinforce {
    settings: Settings,
    shaping: Shaping,
    /// Moving average of the mean rewards of earlier rollouts; none before the first.
    average: Option<f64>,
}

impl Reinforce {
    /// The method at the start of training.
    pub fn new(settings: Settings) -> Self {
        let shaping = Shaping::from(&settings);
        Self { settings, shaping, average: None }
    }

    /// The baseline of a rollout with these rewards. The moving average does not depend on them, except in the first
    /// rollout, when there is none.
    fn baseline(&self, rewards: &[f64]) -> f64 {
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        match self.settings.baseline {
            ReinforceBaseline::MovingAverage => self.average.unwrap_or(mean),
            ReinforceBaseline::BatchMean => mean,
            ReinforceBaseline::None => 0.0,
        }
    }
}

/// State that is saved in checkpoints.
#[derive(Clone, Deserialize, Serialize)]
pub struct State {
    #[serde(flatten)]
    kl: KlState,
    average: Option<f64>,
}

impl OnPolicy for Reinforce {
    type State = State;
    /// The advantage of each response.
    type Experience = Vec<f64>;

    fn state(&self) -> State {
        State { kl: self.shaping.state(), average: self.average }
    }

    fn restore(&mut self, state: State) {
        self.shaping.restore(&state.kl);
        self.average = state.average;
    }

    /// One: the gradient is that of the policy that sampled.
    fn epochs(&self) -> i64 {
        1
    }

    fn experience(&self, samples: &[Sample]) -> (Vec<f64>, Means) {
        let shaped = self.shaping.shape(samples);
        let rewards = self.shaping.of_responses(&shaped);
        let baseline = self.baseline(&rewards);
        let mut advantages: Vec<f64> = rewards.iter().map(|reward| reward - baseline).collect();
        if self.settings.scale_advantages == Switch::Enabled {
            // Their mean stays: it is what is left over the baseline.
            let deviation = deviation(&advantages) + 1e-8;
            for advantage in &mut advantages {
                *advantage /= deviation;
            }
        }
        let mut means = self.shaping.means(&shaped);
        means.add("objective/baseline", baseline, 1.0);
        (advantages, means)
    }

    fn weight(&self, _sample: &Sample) -> f64 {
        1.0
    }

    fn loss(&self, experience: &Vec<f64>, micro: &MicroBatch) -> (Tensor, Means) {
        let advantages = micro.per_sample(|i, _| experience[i]);
        let losses = policy_gradient(&micro.sums(&micro.now.logprobs), &advantages);
        let means = metrics::step(micro, &losses);
        (losses.sum(Kind::Float), means)
    }

    fn adapt(&mut self, samples: &[Sample], rollout: &Statistics) {
        let rewards = self.shaping.of_responses(&self.shaping.shape(samples));
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        let decay = self.settings.baseline_decay;
        self.average = Some(self.average.map_or(mean, |average| decay * average + (1.0 - decay) * mean));
        self.shaping.adapt(rollout, samples.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumbline_feedback::data::responses::Finish;
    use plumbline_feedback::data::tokens::Sequence;

    fn sample(score: f64) -> Sample {
        let (old, reference) = (vec![-1.0, -2.0], vec![-1.5, -2.5]);
        let sequence = Sequence { prompt: vec![1], response: vec![2, 3] };
        Sample { group: 0, sequence, finish: Finish::Eos, old, reference, values: vec![], entropy: vec![0.0; 2], score }
    }

    #[test]
    fn the_moving_average_is_of_earlier_rollouts_and_begins_with_the_first_mean() {
        let settings = Settings { baseline_decay: 0.75, kl_coefficient: 0.5, ..Settings::default() };
        let mut method = Reinforce::new(settings);
        // Each reward is the score less 0.5 x (0.5 + 0.5).
        let first = [sample(1.0), sample(3.0)];
        assert_eq!(method.experience(&first).0, [-1.0, 1.0]);
        method.adapt(&first, &Statistics::new(&first));
        let second = [sample(4.0), sample(6.0)];
        assert_eq!(method.experience(&second).0, [2.0, 4.0], "less the 1.5 of the first rollout");
        method.adapt(&second, &Statistics::new(&second));
        // 0.75 x 1.5 + 0.25 x 4.5 = 2.25.
        let (saved, mut resumed) = (method.state(), Reinforce::new(method.settings.clone()));
        resumed.restore(saved);
        assert_eq!(resumed.experience(&first).0, [-1.75, 0.25]);
    }

    #[test]
    fn the_other_baselines_are_the_mean_and_nothing() {
        let of = |baseline| {
            let method = Reinforce::new(Settings { baseline, kl_coefficient: 0.0, ..Settings::default() });
            method.experience(&[sample(1.0), sample(4.0)]).0
        };
        assert_eq!(of(ReinforceBaseline::BatchMean), [-1.5, 1.5]);
        assert_eq!(of(ReinforceBaseline::None), [1.0, 4.0]);
    }
}
