//! Hong et al., 2024 (ORPO, arXiv:2403.07691), eqs. 4 to 7: no reference; supervised fine-tuning on the chosen response
//! with a penalty on the odds of the rejected one.
//!
//! The likelihood is that of the response, as in the paper; TRL's includes the prompt.

use tch::Tensor;

use crate::loss::pair_logps::Sides;

/// Largest log-probability per token of which odds are computed: those of 0 are infinite.
const MOST: f64 = -1e-6;

/// `-chosen - beta log sigmoid(o)` with the log-odds ratio `o`. `mean_logps`: log-probabilities per token.
pub(super) fn orpo(mean_logps: &Sides, beta: f64) -> Tensor {
    -(&mean_logps.chosen + log_odds(mean_logps).log_sigmoid() * beta)
}

/// `[pairs]`: log of the odds of chosen over those of rejected, with `log odds = x - log(1 - exp(x))`.
pub(crate) fn log_odds(mean_logps: &Sides) -> Tensor {
    let of = |x: &Tensor| {
        let x = x.clamp_max(MOST);
        &x - (-x.expm1()).log()
    };
    of(&mean_logps.chosen) - of(&mean_logps.rejected)
}

#[cfg(test)]
mod tests {
    use plumbline_crds::dpo::DpoLoss;

    use super::*;
    use crate::loss::dpo::tests::{assert_golden, pairs, sides};
    use crate::loss::test_support::assert_close;

    #[test]
    fn orpo_matches_pytorch() {
        // c, r = pc / nc, pr / nr
        // o = (c - r) - (torch.log1p(-c.exp()) - torch.log1p(-r.exp()))
        // -c - B * S(o)
        let pairs = pairs();
        assert_close(&log_odds(&pairs.per_token(&pairs.policy)), &[0.0, 2.074_479]);
        assert_golden(DpoLoss::Orpo, &[3.069_315, 2.511_834]);
    }

    #[test]
    fn a_certain_response_has_finite_odds() {
        let found = Vec::<f64>::try_from(log_odds(&sides(&[0.0], &[-1.0]))).unwrap();
        assert!(found[0].is_finite() && found[0] > 10.0, "{found:?}");
    }
}
