//! GRPO (Shao et al., 2024) and the losses that followed it: the responses to a prompt are compared with each other, so no
//! critic is needed. Computes only.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use plumbline_crds::online::{Grpo as Settings, GrpoLoss};
use plumbline_crds::training::Switch;
use plumbline_feedback::data::responses::Finish;

use crate::advantage::{by_group, deviation, group_relative};
use crate::loss::kl::kl;
use crate::loss::policy::{Clip, cispo, clipped};
use crate::method::metrics;
use crate::method::shaping::Shaping;
use crate::train::means::Means;
use crate::train::online::{MicroBatch, OnPolicy};
use crate::train::samples::Sample;

/// The method.
pub struct Grpo {
    settings: Settings,
    shaping: Shaping,
    clip: Clip,
    /// Tokens of the longest response that is sampled.
    longest: i64,
}

impl Grpo {
    /// The method, for responses of at most `longest` tokens.
    pub fn new(settings: Settings, longest: i64) -> Self {
        let shaping = Shaping::from(&settings);
        let low = settings.clip_range;
        let clip = Clip { low, high: settings.clip_range_high.unwrap_or(low), dual: settings.dual_clip };
        Self { settings, shaping, clip, longest }
    }

    fn is_masked(&self, sample: &Sample) -> bool {
        self.settings.mask_truncated == Switch::Enabled && sample.finish == Finish::Length
    }
}

/// Nothing is kept from one rollout to the next.
#[derive(Clone, Deserialize, Serialize)]
pub struct State {}

impl OnPolicy for Grpo {
    type State = State;
    /// The advantage of each response.
    type Experience = Vec<f64>;

    fn state(&self) -> State {
        State {}
    }

    fn restore(&mut self, _state: State) {}

    fn epochs(&self) -> i64 {
        self.settings.epochs
    }

    fn experience(&self, samples: &[Sample]) -> (Vec<f64>, Means) {
        let scores: Vec<f64> = samples.iter().map(|s| self.shaping.score(s)).collect();
        let groups: Vec<usize> = samples.iter().map(|s| s.group).collect();
        let advantages = group_relative(&scores, &groups, self.settings.scale_rewards);
        let mut means = Means::default();
        means.add("reward", scores.iter().sum(), scores.len() as f64);
        for of_group in by_group(&scores, &groups).values() {
            let deviation = deviation(of_group);
            means.add("reward_std", deviation, 1.0);
            means.add("frac_reward_zero_std", f64::from(deviation == 0.0), 1.0);
        }
        (advantages, means)
    }

    fn weight(&self, sample: &Sample) -> f64 {
        if self.is_masked(sample) {
            return 0.0;
        }
        match self.settings.loss {
            GrpoLoss::Grpo | GrpoLoss::Gspo => 1.0,
            GrpoLoss::DrGrpo => self.longest as f64,
            GrpoLoss::Dapo | GrpoLoss::Cispo => sample.old.len() as f64,
        }
    }

    fn loss(&self, experience: &Vec<f64>, micro: &MicroBatch) -> (Tensor, Means) {
        let now = &micro.now.logprobs;
        let lengths = micro.lengths().to_kind(Kind::Float);
        let mean = |per_token: &Tensor| micro.sums(per_token) / &lengths;
        let of_samples = micro.per_sample(|i, _| experience[i]);
        let advantages = micro.spread(&of_samples);
        let log_ratio = now - micro.old();
        let ratio = log_ratio.exp();
        let (losses, by_sample) = match self.settings.loss {
            GrpoLoss::Gspo => {
                let losses = clipped(&mean(&log_ratio).exp(), &of_samples, self.clip);
                (losses.shallow_clone(), losses)
            }
            GrpoLoss::Cispo => {
                let losses = cispo(now, &ratio, &advantages, self.clip.high);
                let sums = micro.sums(&losses);
                (losses, sums)
            }
            loss => {
                let losses = clipped(&ratio, &advantages, self.clip);
                let by_sample = if loss == GrpoLoss::Grpo { mean(&losses) } else { micro.sums(&losses) };
                (losses, by_sample)
            }
        };
        let estimates = kl(now, &micro.tokens(|_, s| &s.reference), self.settings.kl_estimator.into());
        let penalties = match self.settings.loss {
            GrpoLoss::Grpo | GrpoLoss::Gspo => mean(&estimates),
            GrpoLoss::DrGrpo | GrpoLoss::Dapo | GrpoLoss::Cispo => micro.sums(&estimates),
        };
        let kept = micro.per_sample(|_, s| f64::from(!self.is_masked(s)));
        let loss = ((by_sample + penalties * self.settings.kl_coefficient) * kept).sum(Kind::Float);

        let mut means = metrics::step(micro, &losses);
        metrics::add(&mut means, "kl", &estimates);
        let low = ratio.lt(1.0 - self.clip.low).logical_and(&advantages.lt(0.0));
        let high = ratio.gt(1.0 + self.clip.high).logical_and(&advantages.gt(0.0));
        metrics::add(&mut means, "clip_ratio/low_mean", &low);
        metrics::add(&mut means, "clip_ratio/high_mean", &high);
        metrics::add(&mut means, "clip_ratio/region_mean", &low.logical_or(&high));
        (loss, means)
    }
}
