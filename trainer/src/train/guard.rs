//! Guards against reward hacking: limits on a rollout, checked before training uses it. Computes only.

use plumbline_crds::policy_tuning::Guard;

use crate::train::samples::Statistics;

/// The reason to stop training, if a rollout exceeds a limit of `spec.guard`.
pub fn tripped(guard: &Guard, rollout: &Statistics) -> Option<String> {
    if let Some(most) = guard.max_kl.filter(|&most| rollout.kl_per_response > most) {
        let kl = rollout.kl_per_response;
        return Some(format!("the KL divergence is {kl:.2} nats per response, above spec.guard.maxKl of {most}"));
    }
    guard.min_entropy.filter(|&least| rollout.entropy < least).map(|least| {
        format!("the entropy is {:.3} nats per token, below spec.guard.minEntropy of {least}", rollout.entropy)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guard_names_the_exceeded_limit_and_ignores_unset_ones() {
        let rollout = Statistics { kl_per_response: 3.5, entropy: 0.25 };
        let of = |max_kl, min_entropy| tripped(&Guard { max_kl, min_entropy, ..Guard::default() }, &rollout);
        assert_eq!(of(None, None), None);
        assert_eq!(of(Some(3.5), Some(0.25)), None, "a limit itself is allowed");
        let kl = of(Some(3.0), None).unwrap();
        assert!(kl.contains("3.50 nats per response") && kl.contains("spec.guard.maxKl of 3"), "{kl}");
        let entropy = of(Some(4.0), Some(0.3)).unwrap();
        assert!(entropy.contains("0.250 nats per token") && entropy.contains("spec.guard.minEntropy"), "{entropy}");
    }
}
