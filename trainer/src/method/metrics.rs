//! Metrics that methods have in common, under TRL's names. Computes only.

use tch::{Kind, Tensor};

use crate::train::means::Means;
use crate::train::online::MicroBatch;

/// Adds the values of a tensor to a mean.
pub(super) fn add(means: &mut Means, name: &'static str, values: &Tensor) {
    means.add(name, sum(values), values.numel() as f64);
}

/// Adds some of the values of a tensor to a mean. `kept`: the same shape, 1 for a value that counts and 0 for others.
pub(super) fn add_kept(means: &mut Means, name: &'static str, values: &Tensor, kept: &Tensor) {
    means.add(name, sum(&(values * kept)), sum(kept));
}

/// The metrics of a micro-batch. `losses`: of the policy, per token or per response.
pub(super) fn step(micro: &MicroBatch, losses: &Tensor) -> Means {
    let mut means = policy(micro);
    add(&mut means, "loss/policy_avg", losses);
    means
}

/// The metrics of the policy in a micro-batch.
pub(super) fn policy(micro: &MicroBatch) -> Means {
    let difference = (&micro.now.logprobs - micro.sampled()).detach();
    let mut means = Means::default();
    add(&mut means, "policy/entropy_avg", &micro.now.entropy);
    add(&mut means, "policy/approxkl_avg", &(difference.square() * 0.5));
    add(&mut means, "val/ratio", &difference.exp());
    means
}

fn sum(values: &Tensor) -> f64 {
    values.detach().sum(Kind::Double).double_value(&[])
}
