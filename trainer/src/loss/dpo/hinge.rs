//! Zhao et al., 2023 (SLiC-HF, arXiv:2305.10425), eq. 1, on the log-ratios of DPO as in Liu et al., 2023 (RSO,
//! arXiv:2309.06657).

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// `max(0, 1 - beta (chosen - rejected))` of the log-ratios.
pub(super) fn hinge(ratios: &Sides, beta: f64) -> Tensor {
    (ratios.difference() * -beta + 1.0).relu()
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use crate::loss::dpo::tests::assert_golden;

    #[test]
    fn hinge_matches_pytorch() {
        // torch.relu(1 - B * (a - b))
        assert_golden(DpoLoss::Hinge, &[0.6, 1.3]);
    }
}
