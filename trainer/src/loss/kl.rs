//! Estimators of the KL divergence from samples (Schulman, 2020, "Approximating KL divergence").

use tch::Tensor;

use plumbline_crds::online::KlEstimator;

/// One estimate per token of KL(policy || reference), from tokens that the policy sampled. `policy` and `reference`:
/// their log-probabilities, any shape. With `d = policy - reference`: K1 `d`, K2 `d^2 / 2`, K3 `exp(-d) - 1 + d`.
pub fn kl(policy: &Tensor, reference: &Tensor, estimator: KlEstimator) -> Tensor {
    let d = policy - reference;
    match estimator {
        KlEstimator::K1 => d,
        KlEstimator::K2 => d.square() * 0.5,
        KlEstimator::K3 => d.neg().expm1() + d,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::test_support::{assert_close, tensor};

    #[test]
    fn the_three_estimators_match_the_published_vector() {
        let (policy, reference) = (tensor(&[-1.0; 3]), tensor(&[0.0, -15.0, -30.0]));
        assert_close(&kl(&policy, &reference, KlEstimator::K1), &[-1.0, 14.0, 29.0]);
        assert_close(&kl(&policy, &reference, KlEstimator::K2), &[0.5, 98.0, 420.5]);
        let k3 = kl(&policy, &reference, KlEstimator::K3);
        assert_close(&k3, &[0.718_282, 13.000_001, 28.0]);
    }
}
