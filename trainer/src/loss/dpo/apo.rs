//! D'Oosterlinck et al., 2024 (anchored preference optimisation, arXiv:2408.06266), eqs. 7 and 8: which way each response
//! may move relative to the reference is part of the loss.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// Chosen responses become more likely and rejected ones less: `1 - sigmoid(beta a) + sigmoid(beta b)` of the log-ratios a
/// (chosen), b (rejected). For chosen responses that are better than those of the policy.
pub(super) fn apo_zero(ratios: &Sides, beta: f64) -> Tensor {
    1.0 - (&ratios.chosen * beta).sigmoid() + (&ratios.rejected * beta).sigmoid()
}

/// Both become less likely, rejected ones more so: `sigmoid(beta a) + 1 - sigmoid(beta (a - b))`. For chosen responses that
/// are worse than those of the policy.
pub(super) fn apo_down(ratios: &Sides, beta: f64) -> Tensor {
    (&ratios.chosen * beta).sigmoid() + 1.0 - (ratios.difference() * beta).sigmoid()
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use crate::loss::dpo::tests::assert_golden;

    #[test]
    fn apo_zero_matches_pytorch() {
        // 1 - torch.sigmoid(B * a) + torch.sigmoid(B * b)
        assert_golden(DpoLoss::ApoZero, &[0.900_332, 1.074_813]);
    }

    #[test]
    fn apo_down_matches_pytorch() {
        // torch.sigmoid(B * a) + 1 - torch.sigmoid(B * (a - b))
        assert_golden(DpoLoss::ApoDown, &[0.951_146, 1.024_609]);
    }
}
