//! Jung et al., 2024 (BCO, arXiv:2404.04656) without its reward shift: a classifier of chosen and of rejected
//! responses, each on its own.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// `-log sigmoid(beta a) - log sigmoid(-beta b)` of the log-ratios a (chosen), b (rejected).
pub(super) fn bco_pair(ratios: &Sides, beta: f64) -> Tensor {
    -(&ratios.chosen * beta).log_sigmoid() - (&ratios.rejected * -beta).log_sigmoid()
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use crate::loss::dpo::tests::assert_golden;

    #[test]
    fn bco_pair_matches_pytorch() {
        // -S(B * a) - S(-B * b)
        assert_golden(DpoLoss::BcoPair, &[1.196_278, 1.542_536]);
    }
}
