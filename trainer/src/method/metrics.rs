//! Metrics that methods have in common, under TRL's names. Computes only.

use tch::{Kind, Tensor};

use crate::train::means::Means;
use crate::train::online::MicroBatch;

/// Adds the values of a tensor to a mean.
pub(super) fn add(means: &mut Means, name: &'static str, values: &Tensor) {
    means.add(name, values.detach().sum(Kind::Double).double_value(&[]), values.numel() as f64);
}

/// The metrics of a rollout's rewards. `kl`: the estimates of each response's tokens, which the reward is less by.
pub(super) fn rewards(scores: &[f64], kl: &[Vec<f64>], kl_coefficient: f64) -> Means {
    let count = scores.len() as f64;
    let penalties: f64 = kl.iter().flatten().sum::<f64>() * -kl_coefficient;
    let mut means = Means::default();
    means.add("objective/kl_coefficient", kl_coefficient, 1.0);
    means.add("objective/non_score_reward", penalties, count);
    means.add("objective/rlhf_reward", scores.iter().sum::<f64>() + penalties, count);
    means
}

/// The metrics of a micro-batch. `losses`: of the policy, per token or per response.
pub(super) fn step(micro: &MicroBatch, losses: &Tensor) -> Means {
    let difference = (&micro.now.logprobs - micro.old()).detach();
    let mut means = Means::default();
    add(&mut means, "loss/policy_avg", losses);
    add(&mut means, "policy/entropy_avg", &micro.now.entropy);
    add(&mut means, "policy/approxkl_avg", &(difference.square() * 0.5));
    add(&mut means, "val/ratio", &difference.exp());
    means
}
