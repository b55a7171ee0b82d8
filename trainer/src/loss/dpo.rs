//! The DPO family: pair losses computed from log-probabilities under the policy and the reference.

use tch::Tensor;

use plumbline_crds::policy_tuning::DpoLoss;

use crate::loss::pair_logps::PairLogps;

/// Settings of a DPO loss.
#[derive(Clone, Copy, Debug)]
pub struct DpoSettings {
    /// The loss function.
    pub loss: DpoLoss,
    /// Strength of the KL regularisation towards the reference, above 0.
    pub beta: f64,
    /// Assumed fraction of wrong labels, 0..0.5 (conservative DPO, Mitchell, 2023).
    pub label_smoothing: f64,
}

/// One loss per pair, `[pairs]`. `preference`: `[pairs]`, probability that the chosen response is better; 1 for a hard label.
pub fn dpo(logps: &PairLogps, preference: &Tensor, settings: DpoSettings) -> Tensor {
    match settings.loss {
        DpoLoss::Sigmoid => sigmoid(logps, preference, settings),
    }
}

/// Rafailov et al., 2023, eq. 7: with `d = beta (chosen - rejected)` of the log-ratios to the reference, and the target `p`
/// smoothed to `p (1 - e) + (1 - p) e`: `-p log sigmoid(d) - (1 - p) log sigmoid(-d)`.
fn sigmoid(logps: &PairLogps, preference: &Tensor, settings: DpoSettings) -> Tensor {
    let ratios = logps.logratios();
    let logits = (ratios.chosen - ratios.rejected) * settings.beta;
    let e = settings.label_smoothing;
    let target = preference * (1.0 - 2.0 * e) + e;
    (1.0 - target) * &logits - logits.log_sigmoid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::LN_2;

    use crate::loss::pair_logps::Sides;
    use crate::loss::test_support::{assert_close, tensor};

    fn settings(label_smoothing: f64) -> DpoSettings {
        DpoSettings { loss: DpoLoss::Sigmoid, beta: 0.1, label_smoothing }
    }

    fn sides(chosen: &[f64], rejected: &[f64]) -> Sides {
        Sides { chosen: tensor(chosen), rejected: tensor(rejected) }
    }

    // Two pairs, whose log-ratios are 2, -2 / -2, 1. The numbers below, with PyTorch:
    //   pc, pr = torch.tensor([-12., -20.]), torch.tensor([-15., -9.])
    //   rc, rr = torch.tensor([-14., -18.]), torch.tensor([-13., -10.])
    //   d, e = 0.1 * ((pc - rc) - (pr - rr)), 0.0  # or 0.1
    //   -(1 - e) * F.logsigmoid(d) - e * F.logsigmoid(-d)
    fn pairs() -> PairLogps {
        PairLogps {
            policy: sides(&[-12.0, -20.0], &[-15.0, -9.0]),
            reference: sides(&[-14.0, -18.0], &[-13.0, -10.0]),
            lengths: sides(&[6.0, 9.0], &[7.0, 4.0]),
        }
    }

    #[test]
    fn sigmoid_matches_the_hand_computed_vector() {
        assert_close(&dpo(&pairs(), &tensor(&[1.0, 1.0]), settings(0.0)), &[0.513_015, 0.854_355]);
    }

    #[test]
    fn label_smoothing_gives_conservative_dpo() {
        assert_close(&dpo(&pairs(), &tensor(&[1.0, 1.0]), settings(0.1)), &[0.553_015, 0.824_355]);
    }

    #[test]
    fn policy_equal_to_reference_gives_ln_2_whatever_the_label() {
        let same = || sides(&[-12.0, -20.0], &[-15.0, -9.0]);
        let pairs = PairLogps { policy: same(), reference: same(), ..pairs() };
        assert_close(&dpo(&pairs, &tensor(&[1.0, 0.3]), settings(0.0)), &[LN_2, LN_2]);
    }

    #[test]
    fn a_soft_label_of_one_half_has_no_gradient_at_the_reference() {
        let chosen = tensor(&[-3.0]).set_requires_grad(true);
        let policy = Sides { chosen: chosen.shallow_clone(), rejected: tensor(&[-4.0]) };
        let pairs = PairLogps { policy, reference: sides(&[-3.0], &[-4.0]), lengths: sides(&[1.0], &[1.0]) };
        dpo(&pairs, &tensor(&[0.5]), settings(0.0)).sum(tch::Kind::Double).backward();
        assert_close(&chosen.grad(), &[0.0]);
    }
}
