//! A2C (Mnih et al., 2016): the policy gradient with a critic, one pass over each rollout. Computes only.
//!
//! The value head uses the policy's own hidden states. Every mean is over actual tokens, as there is no padding.

use tch::{Kind, Tensor};

use plumbline_crds::online::A2c as Settings;

use crate::loss::policy::policy_gradient;
use crate::loss::value;
use crate::method::critic::Experience;
use crate::method::metrics;
use crate::method::shaping::{KlState, Shaping};
use crate::train::means::Means;
use crate::train::online::{MicroBatch, OnPolicy};
use crate::train::samples::{Sample, Statistics};

/// The method, with its current KL coefficient.
pub struct A2c {
    settings: Settings,
    shaping: Shaping,
}

impl A2c {
    /// The method at the start of training.
    pub fn new(settings: Settings) -> Self {
        let shaping = Shaping::from(&settings);
        Self { settings, shaping }
    }
}

impl OnPolicy for A2c {
    type State = KlState;
    type Experience = Experience;

    fn state(&self) -> KlState {
        self.shaping.state()
    }

    fn restore(&mut self, state: KlState) {
        self.shaping.restore(&state);
    }

    /// One: the gradient is that of the policy that sampled.
    fn epochs(&self) -> i64 {
        1
    }

    fn experience(&self, samples: &[Sample]) -> (Experience, Means) {
        let shaped = self.shaping.shape(samples);
        let rewards = self.shaping.of_tokens(&shaped, &shaped.scores);
        let mut means = self.shaping.means(&shaped);
        let (discounts, whiten) = ((self.settings.gamma, self.settings.lambda), self.settings.whiten_advantages);
        let experience = Experience::new(&rewards, samples, discounts, whiten, &mut means);
        (experience, means)
    }

    fn weight(&self, sample: &Sample) -> f64 {
        sample.old.len() as f64
    }

    fn loss(&self, experience: &Experience, micro: &MicroBatch) -> (Tensor, Means) {
        let advantages = micro.tokens(|i, _| &experience.advantages[i]);
        let losses = policy_gradient(&micro.now.logprobs, &advantages);
        let mut loss = losses.sum(Kind::Float);
        let mut means = metrics::step(micro, &losses);
        if let Some(values) = &micro.values {
            let value_losses = value::squared(values, &micro.tokens(|i, _| &experience.returns[i]));
            loss += value_losses.sum(Kind::Float) * self.settings.value_coefficient;
            metrics::add(&mut means, "loss/value_avg", &value_losses);
        }
        (loss, means)
    }

    fn adapt(&mut self, samples: &[Sample], rollout: &Statistics) {
        self.shaping.adapt(rollout, samples.len());
    }
}
