//! Wu et al., 2024 (SPPO, arXiv:2405.00675), eq. 4.7: the log-ratio of each response is drawn to its win rate. TRL's
//! `sppo_hard` is this with certain labels; with soft ones it is the paper's own.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// `(a - (p - 1/2) / beta)^2 + (b + (p - 1/2) / beta)^2` of the log-ratios a (chosen), b (rejected). `target`: `[pairs]`,
/// probability p that chosen is better.
pub(super) fn sppo(ratios: &Sides, target: &Tensor, beta: f64) -> Tensor {
    let aim = (target - 0.5) / beta;
    (&ratios.chosen - &aim).square() + (&ratios.rejected + &aim).square()
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use crate::loss::dpo::tests::{assert_golden, assert_soft};

    #[test]
    fn sppo_matches_pytorch() {
        // (a - (p - 0.5) / B) ** 2 + (b + (p - 0.5) / B) ** 2
        assert_golden(DpoLoss::SppoHard, &[18.0, 85.0]);
        assert_soft(DpoLoss::SppoHard, &[8.0, 13.0]);
    }
}
