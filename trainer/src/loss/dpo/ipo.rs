//! Azar et al., 2023 (arXiv:2310.12036), eq. 17, with log-ratios per token as in TRL: with sums, the margin that the loss
//! aims at would be one of long responses only.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// `p (h - 1 / (2 beta))^2 + (1 - p) (h + 1 / (2 beta))^2` with `h = chosen - rejected`.
///
/// - `ratios`: log-ratios per token.
/// - `target`: `[pairs]`, probability that chosen is better.
pub(super) fn ipo(ratios: &Sides, target: &Tensor, beta: f64) -> Tensor {
    let (h, aim) = (ratios.difference(), 0.5 / beta);
    target * (&h - aim).square() + (1.0 - target) * (&h + aim).square()
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use crate::loss::dpo::tests::{assert_golden, assert_soft};

    #[test]
    fn ipo_matches_pytorch() {
        // h = a / nc - b / nr
        // p * (h - 1 / (2 * B)) ** 2 + (1 - p) * (h + 1 / (2 * B)) ** 2
        assert_golden(DpoLoss::Ipo, &[16.81, 33.0625]);
        assert_soft(DpoLoss::Ipo, &[18.61, 27.0625]);
    }
}
