//! Rafailov et al., 2023 (arXiv:2305.18290), eq. 7; conservative DPO (Mitchell, 2023) with a smoothed label. `SigmoidNorm`
//! is the same on log-ratios per token, `Cpo` (the preference part of Xu et al., 2024, arXiv:2401.08417) on log-probabilities.

use tch::Tensor;

use crate::loss::label::cross_entropy;
use crate::loss::pair_logps::Sides;

/// Cross-entropy between the label and `sigmoid(d)`, `d = beta (chosen - rejected)`: `-p log sigmoid(d) - (1 - p) log
/// sigmoid(-d)`.
///
/// - `ratios`: log-ratios; per token for `SigmoidNorm`, log-probabilities under the policy for `Cpo`.
/// - `target`: `[pairs]`, probability that chosen is better.
pub(super) fn sigmoid(ratios: &Sides, target: &Tensor, beta: f64) -> Tensor {
    cross_entropy(&(ratios.difference() * beta), target)
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use crate::loss::dpo::tests::{assert_golden, assert_smoothed, assert_soft};

    #[test]
    fn sigmoid_matches_pytorch() {
        // d = B * (a - b); t = p * (1 - e) + (1 - p) * e
        // -S(d); -t * S(d) - (1 - t) * S(-d)
        assert_golden(DpoLoss::Sigmoid, &[0.513_015, 0.854_355]);
        assert_smoothed(DpoLoss::Sigmoid, &[0.553_015, 0.824_355]);
        assert_soft(DpoLoss::Sigmoid, &[0.553_015, 0.734_355]);
    }

    #[test]
    fn sigmoid_norm_matches_pytorch() {
        // d = B * (a / nc - b / nr)
        assert_golden(DpoLoss::SigmoidNorm, &[0.649_159, 0.731_350]);
        assert_soft(DpoLoss::SigmoidNorm, &[0.658_159, 0.701_350]);
    }

    #[test]
    fn cpo_matches_pytorch() {
        // d = B * (pc - pr)
        assert_golden(DpoLoss::Cpo, &[0.554_355, 1.387_335]);
        assert_soft(DpoLoss::Cpo, &[0.584_355, 0.947_335]);
    }
}
