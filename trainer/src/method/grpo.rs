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

/// Clipping range by default.
const RANGE: f64 = 0.2;
/// Clipping ranges of GSPO by default, below and above 1 (Zheng et al., 2025, section 5.1).
const GSPO_RANGE: (f64, f64) = (3e-4, 4e-4);

/// The method.
pub struct Grpo {
    settings: Settings,
    shaping: Shaping,
    clip: Clip,
    /// Tokens of the longest response that is sampled.
    max_response_tokens: i64,
}

impl Grpo {
    /// The method, for responses of at most `max_response_tokens` tokens.
    pub fn new(settings: Settings, max_response_tokens: i64) -> Self {
        let shaping = Shaping::from(&settings);
        let (low, high) = match (settings.clip_range, settings.loss) {
            (Some(range), _) => (range, range),
            (None, GrpoLoss::Gspo) => GSPO_RANGE,
            (None, _) => (RANGE, RANGE),
        };
        let clip = Clip { low, high: settings.clip_range_high.unwrap_or(high), dual: settings.dual_clip };
        Self { settings, shaping, clip, max_response_tokens }
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
            means.add("reward_std", deviation(of_group), 1.0);
            let are_equal = of_group.iter().all(|score| score.to_bits() == of_group[0].to_bits());
            means.add("frac_reward_zero_std", f64::from(are_equal), 1.0);
        }
        let truncated = samples.iter().filter(|s| s.finish == Finish::Length).count() as f64;
        means.add("completions/clipped_ratio", truncated, samples.len() as f64);
        (advantages, means)
    }

    fn weight(&self, sample: &Sample) -> f64 {
        if self.is_masked(sample) {
            return 0.0;
        }
        match self.settings.loss {
            GrpoLoss::Grpo | GrpoLoss::Gspo => 1.0,
            GrpoLoss::DrGrpo => self.max_response_tokens as f64,
            GrpoLoss::Dapo | GrpoLoss::Cispo => sample.old.len() as f64,
        }
    }

    fn loss(&self, experience: &Vec<f64>, micro: &MicroBatch) -> (Tensor, Means) {
        let lengths = micro.lengths.to_kind(Kind::Float);
        let mean = |per_token: &Tensor| micro.sums(per_token) / &lengths;
        let of_samples = micro.per_sample(|i, _| experience[i]);
        let kept = micro.per_sample(|_, s| f64::from(!self.is_masked(s)));
        let (kept_tokens, advantages) = (micro.spread(&kept), micro.spread(&of_samples));
        // Masked before ratios are computed: these may be infinite, and their gradient no number.
        let now = micro.now.logprobs.where_self(&kept_tokens.gt(0.0), &micro.old());
        let log_ratio = &now - micro.old();
        let ratio = log_ratio.exp();
        let mut means = metrics::policy(micro);
        let by_sample = match self.settings.loss {
            GrpoLoss::Gspo => {
                let ratio = mean(&log_ratio).exp();
                self.clip_ratios(&mut means, &ratio, &of_samples, &kept);
                clipped(&ratio, &of_samples, self.clip)
            }
            GrpoLoss::Cispo => {
                let high = ratio.gt(1.0 + self.clip.high).logical_and(&advantages.gt(0.0));
                metrics::add_kept(&mut means, "cispo_clip_ratio", &high.to_kind(Kind::Float), &kept_tokens);
                micro.sums(&cispo(&now, &ratio, &advantages, self.clip.high))
            }
            loss => {
                self.clip_ratios(&mut means, &ratio, &advantages, &kept_tokens);
                let losses = clipped(&ratio, &advantages, self.clip);
                if loss == GrpoLoss::Grpo { mean(&losses) } else { micro.sums(&losses) }
            }
        };
        let estimates = kl(&now, &micro.tokens(|_, s| &s.reference), self.settings.kl_estimator.into());
        metrics::add_kept(&mut means, "kl", &estimates, &kept_tokens);
        let penalties = match self.settings.loss {
            GrpoLoss::Grpo | GrpoLoss::Gspo => mean(&estimates),
            GrpoLoss::DrGrpo | GrpoLoss::Dapo | GrpoLoss::Cispo => micro.sums(&estimates),
        };
        let unmasked = |values: &Tensor| (values * &kept).sum(Kind::Float);
        let policy_loss = unmasked(&by_sample);
        let weight: f64 = micro.samples().map(|s| self.weight(s)).sum();
        means.add("loss/policy_avg", policy_loss.double_value(&[]), weight);
        (policy_loss + unmasked(&penalties) * self.settings.kl_coefficient, means)
    }
}

impl Grpo {
    /// Adds the shares of ratios that the loss clips. `kept`: 1 for each that counts.
    fn clip_ratios(&self, means: &mut Means, ratio: &Tensor, advantages: &Tensor, kept: &Tensor) {
        let low = ratio.lt(1.0 - self.clip.low).logical_and(&advantages.lt(0.0));
        let high = ratio.gt(1.0 + self.clip.high).logical_and(&advantages.gt(0.0));
        for (name, share) in [
            ("clip_ratio/low_mean", &low),
            ("clip_ratio/high_mean", &high),
            ("clip_ratio/region_mean", &low.logical_or(&high)),
        ] {
            metrics::add_kept(means, name, &share.to_kind(Kind::Float), kept);
        }
    }
}
