//! The DPO family: losses of a pair's log-probability ratios to the reference.

use tch::Tensor;

use plumbline_crds::policy_tuning::DpoLoss;

/// Settings of a DPO loss.
#[derive(Clone, Copy, Debug)]
pub struct DpoSettings {
    /// Which loss.
    pub loss: DpoLoss,
    /// Strength of the pull to the reference, above 0.
    pub beta: f64,
    /// Assumed share of wrong labels, 0..0.5 (conservative DPO, Mitchell, 2023).
    pub label_smoothing: f64,
}

/// One loss a pair. `chosen` and `rejected`: `[pairs]`, log policy - log reference summed over a response's tokens.
/// `preference`: `[pairs]`, probability that chosen is better; 1 for a hard label.
///
/// Sigmoid (Rafailov et al., 2023, eq. 7): with `d = beta (chosen - rejected)` and the target `p` smoothed to
/// `p (1 - e) + (1 - p) e`: `-p log sigmoid(d) - (1 - p) log sigmoid(-d)`.
pub fn dpo(chosen: &Tensor, rejected: &Tensor, preference: &Tensor, settings: DpoSettings) -> Tensor {
    let logits = (chosen - rejected) * settings.beta;
    match settings.loss {
        DpoLoss::Sigmoid => {
            let e = settings.label_smoothing;
            let target = preference * (1.0 - 2.0 * e) + e;
            (1.0 - target) * &logits - logits.log_sigmoid()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::LN_2;

    use crate::loss::test_support::{assert_close, tensor};

    fn settings(label_smoothing: f64) -> DpoSettings {
        DpoSettings { loss: DpoLoss::Sigmoid, beta: 0.1, label_smoothing }
    }

    // Policy -12, -20 / -15, -9 and reference -14, -18 / -13, -10, so the ratios are 2, -2 / -2, 1.
    fn ratios() -> (Tensor, Tensor) {
        (tensor(&[2.0, -2.0]), tensor(&[-2.0, 1.0]))
    }

    #[test]
    fn sigmoid_matches_the_hand_computed_vector() {
        let (c, r) = ratios();
        assert_close(&dpo(&c, &r, &tensor(&[1.0, 1.0]), settings(0.0)), &[0.513_015, 0.854_355]);
    }

    #[test]
    fn label_smoothing_gives_conservative_dpo() {
        let (c, r) = ratios();
        assert_close(&dpo(&c, &r, &tensor(&[1.0, 1.0]), settings(0.1)), &[0.553_015, 0.824_355]);
    }

    #[test]
    fn policy_equal_to_reference_gives_ln_2_whatever_the_label() {
        let zero = tensor(&[0.0, 0.0]);
        assert_close(&dpo(&zero, &zero, &tensor(&[1.0, 0.3]), settings(0.0)), &[LN_2, LN_2]);
    }

    #[test]
    fn a_soft_label_of_one_half_pulls_nowhere() {
        let c = tensor(&[0.0]).set_requires_grad(true);
        dpo(&c, &tensor(&[0.0]), &tensor(&[0.5]), settings(0.0)).sum(tch::Kind::Double).backward();
        assert_close(&c.grad(), &[0.0]);
    }
}
