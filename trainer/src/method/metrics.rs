//! Metrics that methods have in common, under TRL's names. Computes only.

use tch::{Kind, Tensor};

use crate::train::means::Means;
use crate::train::online::MicroBatch;

/// Adds the values of a tensor to a mean.
pub(super) fn add(means: &mut Means, name: &'static str, values: &Tensor) {
    means.add(name, values.detach().sum(Kind::Double).double_value(&[]), values.numel() as f64);
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
