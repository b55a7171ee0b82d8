//! RLOO (Ahmadian et al., 2024): REINFORCE on whole responses, each compared with the other responses to its prompt.
//! Computes only.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use plumbline_crds::online::Rloo as Settings;
use plumbline_crds::training::Switch;

use crate::advantage::{leave_one_out, whiten};
use crate::loss::policy::{Clip, clipped};
use crate::method::metrics;
use crate::method::shaping::{KlPenalty, Shaping};
use crate::train::means::Means;
use crate::train::online::{MicroBatch, OnPolicy};
use crate::train::samples::{Sample, Statistics};

/// The method, with its current KL coefficient.
pub struct Rloo {
    settings: Settings,
    shaping: Shaping,
    kl: KlPenalty,
}

impl Rloo {
    /// The method at the start of training.
    pub fn new(settings: Settings) -> Self {
        let shaping = Shaping { score_clip: settings.score_clip, missing_eos_penalty: settings.missing_eos_penalty };
        let kl = KlPenalty::new(settings.kl_coefficient, settings.kl_estimator, settings.adaptive_kl.clone());
        Self { settings, shaping, kl }
    }
}

/// State that is saved in checkpoints.
#[derive(Clone, Deserialize, Serialize)]
pub struct State {
    kl_coefficient: f64,
}

impl OnPolicy for Rloo {
    type State = State;
    /// The advantage of each response.
    type Experience = Vec<f64>;

    fn state(&self) -> State {
        State { kl_coefficient: self.kl.coefficient }
    }

    fn restore(&mut self, state: State) {
        self.kl.coefficient = state.kl_coefficient;
    }

    fn epochs(&self) -> i64 {
        self.settings.epochs
    }

    fn experience(&self, samples: &[Sample]) -> (Vec<f64>, Means) {
        let scores: Vec<f64> = samples.iter().map(|s| self.shaping.score(s)).collect();
        let estimates: Vec<Vec<f64>> = samples.iter().map(|s| self.kl.per_token(s)).collect();
        let groups: Vec<usize> = samples.iter().map(|s| s.group).collect();
        let mut advantages = leave_one_out(&self.kl.rewards(&scores, &estimates), &groups);
        if self.settings.whiten_advantages == Switch::Enabled {
            whiten(&mut advantages, false);
        }
        (advantages, metrics::rewards(&scores, &estimates, self.kl.coefficient))
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
        self.kl.adapt(rollout, samples.len());
    }
}
