//! RLOO (Ahmadian et al., 2024): REINFORCE on whole responses, each compared with the other responses to its prompt.
//! Computes only.

use tch::{Kind, Tensor};

use plumbline_crds::online::Rloo as Settings;
use plumbline_crds::training::Switch;

use crate::advantage::{leave_one_out, whiten};
use crate::loss::policy::{Clip, clipped};
use crate::method::metrics;
use crate::method::shaping::{KlState, Shaping};
use crate::train::means::Means;
use crate::train::online::{MicroBatch, OnPolicy};
use crate::train::samples::{Sample, Statistics};

/// The method, with its current KL coefficient.
pub struct Rloo {
    settings: Settings,
    shaping: Shaping,
}

impl Rloo {
    /// The method at the start of training.
    pub fn new(settings: Settings) -> Self {
        let shaping = Shaping::from(&settings);
        Self { settings, shaping }
    }
}

impl OnPolicy for Rloo {
    type State = KlState;
    /// The advantage of each response.
    type Experience = Vec<f64>;

    fn state(&self) -> KlState {
        self.shaping.state()
    }

    fn restore(&mut self, state: KlState) {
        self.shaping.restore(&state);
    }

    fn epochs(&self) -> i64 {
        self.settings.epochs
    }

    fn experience(&self, samples: &[Sample]) -> (Vec<f64>, Means) {
        let shaped = self.shaping.shape(samples);
        let groups: Vec<usize> = samples.iter().map(|s| s.group).collect();
        let mut advantages = leave_one_out(&self.shaping.of_responses(&shaped), &groups);
        if self.settings.whiten_advantages == Switch::Enabled {
            whiten(&mut advantages, false);
        }
        (advantages, self.shaping.means(&shaped))
    }

    fn weight(&self, _sample: &Sample) -> f64 {
        1.0
    }

    fn loss(&self, experience: &Vec<f64>, micro: &MicroBatch) -> (Tensor, Means) {
        let clip = Clip::symmetric(self.settings.clip_range);
        let ratio = micro.sums(&(&micro.now.logprobs - micro.old())).exp();
        let losses = clipped(&ratio, &micro.per_sample(|i, _| experience[i]), clip);
        let mut means = metrics::step(micro, &losses);
        metrics::add(&mut means, "policy/clipfrac_avg", &clip.exceeded(&ratio));
        (losses.sum(Kind::Float), means)
    }

    fn adapt(&mut self, samples: &[Sample], rollout: &Statistics) {
        self.shaping.adapt(rollout, samples.len());
    }
}
