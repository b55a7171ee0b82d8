//! PPO (Schulman et al., 2017) on a language model, as Ziegler et al. (2019) and Stiennon et al. (2020) do it: penalise the KL
//! divergence to the starting model in the reward, estimate advantages, and take clipped steps. Computes only.
//!
//! The value head uses the policy's own hidden states. Every mean is over actual tokens, as there is no padding.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use plumbline_crds::policy_tuning::Ppo as Settings;
use plumbline_crds::training::Switch;
use plumbline_feedback::data::responses::Finish;

use crate::advantage::{adapt_kl_coefficient, explained_variance, gae, token_rewards, whiten};
use crate::loss::kl::kl;
use crate::loss::ppo::{clipped, policy_loss, value_loss};
use crate::train::means::Means;
use crate::train::online::{MicroBatch, OnPolicy};
use crate::train::samples::{Sample, Statistics};
use crate::values::to_f64;

/// The method, with its current KL coefficient.
pub(super) struct Ppo {
    settings: Settings,
    kl_coefficient: f64,
}

impl Ppo {
    pub(super) fn new(settings: Settings) -> Self {
        let kl_coefficient = settings.kl_coefficient;
        Self { settings, kl_coefficient }
    }
}

/// State that is saved in checkpoints.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct State {
    kl_coefficient: f64,
}

/// The training data of a rollout. Lists have one entry per sample, inner ones one per response token.
pub(super) struct Experience {
    advantages: Vec<Vec<f64>>,
    returns: Vec<Vec<f64>>,
}

impl OnPolicy for Ppo {
    type State = State;
    type Experience = Experience;

    fn state(&self) -> State {
        State { kl_coefficient: self.kl_coefficient }
    }

    fn restore(&mut self, state: State) {
        self.kl_coefficient = state.kl_coefficient;
    }

    fn epochs(&self) -> i64 {
        self.settings.epochs
    }

    fn experience(&self, samples: &[Sample]) -> (Experience, Means) {
        let scores: Vec<f64> = samples.iter().map(|s| self.score(s)).collect();
        let estimates: Vec<Vec<f64>> = samples.iter().map(|s| self.kl(s)).collect();
        let mut rewards: Vec<Vec<f64>> =
            estimates.iter().zip(&scores).map(|(k, &score)| token_rewards(k, self.kl_coefficient, score)).collect();
        if self.settings.whiten_rewards == Switch::Enabled {
            whiten_all(&mut rewards, true);
        }
        let of = |(r, s): (&Vec<f64>, &Sample)| gae(r, &s.values, self.settings.gamma, self.settings.lambda);
        let (mut advantages, returns): (Vec<_>, Vec<_>) = rewards.iter().zip(samples).map(of).unzip();
        if self.settings.whiten_advantages == Switch::Enabled {
            whiten_all(&mut advantages, false);
        }
        let means = self.means(samples, &scores, &estimates, &returns);
        (Experience { advantages, returns }, means)
    }

    fn weight(&self, sample: &Sample) -> f64 {
        sample.old.len() as f64
    }

    fn loss(&self, experience: &Experience, micro: &MicroBatch) -> (Tensor, Means) {
        let settings = &self.settings;
        let now = &micro.now.logprobs;
        let old = micro.tokens(|_, s| &s.old);
        let advantages = micro.tokens(|i, _| &experience.advantages[i]);
        let policy_losses = policy_loss(now, &old, &advantages, settings.clip_range);
        let mut loss = policy_losses.sum(Kind::Float);

        let n = now.size()[0] as f64;
        let sum = |t: &Tensor| t.detach().sum(Kind::Double).double_value(&[]);
        let mut means = Means::default();
        if let Some(values) = &micro.values {
            let old_values = micro.tokens(|_, s| &s.values);
            let returns = micro.tokens(|i, _| &experience.returns[i]);
            let value_losses = value_loss(values, &old_values, &returns, settings.value_clip_range);
            loss += value_losses.sum(Kind::Float) * settings.value_coefficient;
            means.add("loss/value_avg", sum(&value_losses), n);
            let moved = (values - &old_values).abs().gt(settings.value_clip_range);
            means.add("val/clipfrac_avg", sum(&moved), n);
        }
        let difference = (now - &old).detach();
        means.add("loss/policy_avg", sum(&policy_losses), n);
        means.add("policy/entropy_avg", sum(&micro.now.entropy), n);
        means.add("policy/approxkl_avg", 0.5 * sum(&difference.square()), n);
        means.add("policy/clipfrac_avg", sum(&clipped(now, &old, settings.clip_range)), n);
        means.add("val/ratio", sum(&difference.exp()), n);
        (loss, means)
    }

    fn stops_early(&self, step: &Means) -> bool {
        let moved = step.mean("policy/approxkl_avg").unwrap_or_default();
        self.settings.target_kl.is_some_and(|most| moved > most)
    }

    fn adapt(&mut self, rollout: &Statistics, responses: usize) {
        if let Some(adaptive) = &self.settings.adaptive_kl {
            self.kl_coefficient = adapt_kl_coefficient(
                self.kl_coefficient,
                rollout.kl_per_response,
                adaptive.target,
                adaptive.horizon as f64,
                responses as f64,
            );
        }
    }
}

impl Ppo {
    /// The score used as reward.
    fn score(&self, sample: &Sample) -> f64 {
        let score = self.settings.score_clip.map_or(sample.score, |c| sample.score.clamp(-c, c));
        if sample.finish == Finish::Length { score - self.settings.missing_eos_penalty } else { score }
    }

    /// The KL estimate of each token, in nats.
    fn kl(&self, sample: &Sample) -> Vec<f64> {
        let (policy, reference) = (Tensor::from_slice(&sample.old), Tensor::from_slice(&sample.reference));
        to_f64(&kl(&policy, &reference, self.settings.kl_estimator))
    }

    fn means(&self, samples: &[Sample], scores: &[f64], kl: &[Vec<f64>], returns: &[Vec<f64>]) -> Means {
        let count = samples.len() as f64;
        let penalties: f64 = kl.iter().flatten().sum::<f64>() * -self.kl_coefficient;
        let values: Vec<f64> = samples.iter().flat_map(|s| &s.values).copied().collect();
        let returns: Vec<f64> = returns.iter().flatten().copied().collect();
        let mut means = Means::default();
        means.add("objective/kl_coefficient", self.kl_coefficient, 1.0);
        means.add("objective/non_score_reward", penalties, count);
        means.add("objective/rlhf_reward", scores.iter().sum::<f64>() + penalties, count);
        means.add("val/explained_variance", explained_variance(&values, &returns), 1.0);
        means
    }
}

fn whiten_all(rows: &mut [Vec<f64>], keep_mean: bool) {
    let mut flat: Vec<f64> = rows.iter().flatten().copied().collect();
    whiten(&mut flat, keep_mean);
    let mut next = flat.into_iter();
    for value in rows.iter_mut().flatten() {
        *value = next.next().unwrap_or_default();
    }
}
