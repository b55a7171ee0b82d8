//! Chen et al., 2024 (NCA, arXiv:2402.05369) for a pair whose preference is certain: noise contrast that also
//! keeps the chosen response from becoming less likely.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// `-log sigmoid(beta a) - log sigmoid(-beta a) / 2 - log sigmoid(-beta b) / 2` of the log-ratios a (chosen), b (rejected).
pub(super) fn nca_pair(ratios: &Sides, beta: f64) -> Tensor {
    let (a, b) = (&ratios.chosen * beta, &ratios.rejected * beta);
    -a.log_sigmoid() - (-&a).log_sigmoid() * 0.5 - (-b).log_sigmoid() * 0.5
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use crate::loss::dpo::tests::assert_golden;

    #[test]
    fn nca_pair_matches_pytorch() {
        // -S(B * a) - 0.5 * S(-B * a) - 0.5 * S(-B * b)
        assert_golden(DpoLoss::NcaPair, &[1.296_278, 1.469_407]);
    }
}
