//! Lu et al., 2024 (DiscoPOP, arXiv:2406.08414), eq. 5, the log-ratio modulated loss: logistic for pairs that are ordered
//! right, exponential for those that are not.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// `-(1 - w) log sigmoid(d) + w exp(-d)` with `d = beta (chosen - rejected)` of the log-ratios and `w = sigmoid(d / tau)`.
pub(super) fn discopop(ratios: &Sides, beta: f64, tau: f64) -> Tensor {
    let d = ratios.difference() * beta;
    let weight = &d / tau;
    // exp(-d) alone overflows for pairs far from their order, where its weight is 0.
    let exponential = (weight.log_sigmoid() - &d).exp();
    exponential - (-weight).sigmoid() * d.log_sigmoid()
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use plumbline_crds::dpo::DpoLoss;

    use super::*;
    use crate::loss::dpo::tests::assert_golden;

    #[test]
    fn discopop_matches_pytorch() {
        // d = B * (a - b); w = torch.sigmoid(d / 0.05)
        // -(1 - w) * S(d) + w * torch.exp(-d)
        assert_golden(DpoLoss::Discopop, &[0.670_267, 0.855_580]);
    }

    #[test]
    fn a_pair_far_from_its_order_has_a_finite_loss_and_gradient() {
        let chosen = Tensor::from_slice(&[-2000.0f32]).set_requires_grad(true);
        let ratios = Sides { chosen: chosen.shallow_clone(), rejected: Tensor::from_slice(&[0.0f32]) };
        let loss = discopop(&ratios, 0.1, 0.05).sum(Kind::Float);
        loss.backward();
        assert!((loss.double_value(&[]) - 200.0).abs() < 1e-3, "{loss}");
        assert!((chosen.grad().double_value(&[0]) + 0.1).abs() < 1e-6, "{}", chosen.grad());
    }
}
