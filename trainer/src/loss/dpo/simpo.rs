//! Meng et al., 2024 (SimPO, arXiv:2405.14734), eq. 6: no reference; the reward is the log-probability per token, and
//! chosen has to lead by a margin.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// `-log sigmoid(beta (chosen - rejected) - gamma)`. `mean_logps`: log-probabilities per token.
pub(super) fn simpo(mean_logps: &Sides, beta: f64, gamma: f64) -> Tensor {
    -(mean_logps.difference() * beta - gamma).log_sigmoid()
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::{Dpo, DpoLoss};

    use crate::loss::dpo::dpo;
    use crate::loss::dpo::tests::{assert_golden, hard, pairs};
    use crate::loss::test_support::assert_close;

    #[test]
    fn simpo_matches_pytorch() {
        // -S(B * (pc / nc - pr / nr) - gamma)
        assert_golden(DpoLoss::Simpo, &[0.974_077, 0.854_355]);
        let paper = Dpo { loss: Some(DpoLoss::Simpo), beta: 2.0, simpo_gamma: Some(1.0), ..Dpo::default() };
        assert_close(&dpo(&pairs(), &hard(), &paper), &[1.313_262, 0.048_587]);
    }
}
