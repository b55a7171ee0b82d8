//! Chowdhury et al., 2024 (robust DPO, arXiv:2403.00409): an unbiased estimate of the sigmoid loss on the true
//! labels if a known fraction of the given ones is wrong.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// `(-(1 - e) log sigmoid(d) + e log sigmoid(-d)) / (1 - 2 e)` with `d = beta (chosen - rejected)` of the log-ratios.
/// `e`: fraction of wrong labels, 0..0.5.
pub(super) fn robust(ratios: &Sides, beta: f64, e: f64) -> Tensor {
    let d = ratios.difference() * beta;
    ((-&d).log_sigmoid() * e - d.log_sigmoid() * (1.0 - e)) / (1.0 - 2.0 * e)
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use crate::loss::dpo::tests::{assert_golden, assert_smoothed};

    #[test]
    fn robust_matches_pytorch() {
        // d = B * (a - b)
        // (-(1 - e) * S(d) + e * S(-d)) / (1 - 2 * e)
        assert_smoothed(DpoLoss::Robust, &[0.463_015, 0.891_855]);
    }

    #[test]
    fn robust_without_wrong_labels_is_sigmoid() {
        assert_golden(DpoLoss::Robust, &[0.513_015, 0.854_355]);
    }
}
