//! PPO (Schulman et al., 2017) on a language model, as Ziegler et al. (2019) and Stiennon et al. (2020) do it: penalise the KL
//! divergence to the starting model in the reward, estimate advantages, and take clipped steps. Computes only.
//!
//! The value head uses the policy's own hidden states. Every mean is over actual tokens, as there is no padding.

use tch::{Kind, Tensor};

use plumbline_crds::online::Ppo as Settings;
use plumbline_crds::training::Switch;

use crate::advantage::whiten_all;
use crate::loss::policy::{Clip, clipped};
use crate::loss::value;
use crate::method::critic::Experience;
use crate::method::metrics;
use crate::method::shaping::{KlState, Shaping};
use crate::train::means::Means;
use crate::train::online::{MicroBatch, OnPolicy};
use crate::train::samples::{Sample, Statistics};

/// The method, with its current KL coefficient.
pub struct Ppo {
    settings: Settings,
    shaping: Shaping,
}

impl Ppo {
    /// The method at the start of training.
    pub fn new(settings: Settings) -> Self {
        let shaping = Shaping::from(&settings);
        Self { settings, shaping }
    }
}

impl OnPolicy for Ppo {
    type State = KlState;
    type Experience = Experience;

    fn state(&self) -> KlState {
        self.shaping.state()
    }

    fn restore(&mut self, state: KlState) {
        self.shaping.restore(&state);
    }

    fn epochs(&self) -> i64 {
        self.settings.epochs
    }

    fn experience(&self, samples: &[Sample]) -> (Experience, Means) {
        let shaped = self.shaping.shape(samples);
        let mut rewards = self.shaping.of_tokens(&shaped, &shaped.scores);
        if self.settings.whiten_rewards == Switch::Enabled {
            whiten_all(&mut rewards, true);
        }
        let mut means = self.shaping.means(&shaped);
        let (discounts, whiten) = ((self.settings.gamma, self.settings.lambda), self.settings.whiten_advantages);
        let experience = Experience::new(&rewards, samples, discounts, whiten, &mut means);
        (experience, means)
    }

    fn weight(&self, sample: &Sample) -> f64 {
        sample.old.len() as f64
    }

    fn loss(&self, experience: &Experience, micro: &MicroBatch) -> (Tensor, Means) {
        let settings = &self.settings;
        let clip = Clip::symmetric(settings.clip_range);
        let ratio = (&micro.now.logprobs - micro.old()).exp();
        let advantages = micro.tokens(|i, _| &experience.advantages[i]);
        let policy_losses = clipped(&ratio, &advantages, clip);
        let mut loss = policy_losses.sum(Kind::Float);
        let mut means = metrics::step(micro, &policy_losses);
        metrics::add(&mut means, "policy/clipfrac_avg", &clip.exceeded(&ratio));
        if let Some(values) = &micro.values {
            let old_values = micro.tokens(|_, s| &s.values);
            let returns = micro.tokens(|i, _| &experience.returns[i]);
            let value_losses = value::clipped(values, &old_values, &returns, settings.value_clip_range);
            loss += value_losses.sum(Kind::Float) * settings.value_coefficient;
            metrics::add(&mut means, "loss/value_avg", &value_losses);
            let moved = (values - &old_values).abs().gt(settings.value_clip_range);
            metrics::add(&mut means, "val/clipfrac_avg", &moved);
        }
        (loss, means)
    }

    fn stops_early(&self, step: &Means) -> bool {
        let moved = step.mean("policy/approxkl_avg").unwrap_or_default();
        self.settings.target_kl.is_some_and(|most| moved > most)
    }

    fn adapt(&mut self, samples: &[Sample], rollout: &Statistics) {
        self.shaping.adapt(rollout, samples.len());
    }
}
