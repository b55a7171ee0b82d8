//! Ji et al., 2024 (EXO, arXiv:2402.00856), eq. 16: the KL divergence in the other direction than that of DPO, from the
//! policy's preference to the smoothed label.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// `q (log q - log t) + (1 - q) (log(1 - q) - log(1 - t))` with `q = sigmoid(beta (chosen - rejected))` of the log-ratios.
/// `target`: `[pairs]`, the smoothed label t, above 0 and below 1.
pub(super) fn exo_pair(ratios: &Sides, target: &Tensor, beta: f64) -> Tensor {
    let d = ratios.difference() * beta;
    let (chosen, rejected) = (d.log_sigmoid(), (-d).log_sigmoid());
    chosen.exp() * (&chosen - target.log()) + rejected.exp() * (&rejected - (-target).log1p())
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use crate::loss::dpo::tests::{assert_smoothed, assert_smoothed_and_soft};

    #[test]
    fn exo_pair_matches_pytorch() {
        // d, t = B * (a - b), p * (1 - e) + (1 - p) * e
        // torch.sigmoid(d) * (S(d) - t.log()) + torch.sigmoid(-d) * (S(-d) - (1 - t).log())
        assert_smoothed(DpoLoss::ExoPair, &[0.313_594, 0.685_517]);
        assert_smoothed_and_soft(DpoLoss::ExoPair, &[0.133_440, 0.048_119]);
    }
}
