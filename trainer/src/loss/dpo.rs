//! The DPO family: pair losses computed from log-probabilities under the policy and, for most, under a reference. One
//! file per loss.

use tch::{Kind, Tensor};

use plumbline_crds::dpo::{Dpo, DpoLoss};
use plumbline_crds::training::LabelKind;

use crate::loss::label::smoothed;
use crate::loss::pair_logps::{PairLogps, Sides};

mod apo;
mod bco_pair;
mod discopop;
mod exo_pair;
mod hinge;
mod ipo;
mod nca_pair;
pub(crate) mod orpo;
mod robust;
mod sft;
mod sigmoid;
mod simpo;
mod sppo;

/// Margin of `Simpo` and temperature of `Discopop` that TRL has too.
const SIMPO_GAMMA: f64 = 0.5;
const DISCOPOP_TAU: f64 = 0.05;

/// The weighted sum of the losses of the settings, one value per pair, `[pairs]`.
///
/// - `logps`: with a reference if one of the losses uses it ([`Dpo::uses_reference`]).
/// - `preference`: `[pairs]`, probability that the chosen response is better; 1 for a hard label.
pub fn dpo(logps: &PairLogps, preference: &Tensor, settings: &Dpo) -> Tensor {
    settings
        .losses()
        .iter()
        .fold(preference.zeros_like(), |sum, l| sum + one(l.loss, logps, preference, settings) * l.weight)
}

/// One of the losses.
fn one(loss: DpoLoss, logps: &PairLogps, preference: &Tensor, settings: &Dpo) -> Tensor {
    let (beta, e) = (settings.beta, settings.label_smoothing);
    let (ratios, target) = (logps.logratios(), smoothed(preference, e));
    let mean_logps = || logps.per_token(&logps.policy);
    match loss {
        DpoLoss::Sigmoid => sigmoid::sigmoid(&ratios, &target, beta),
        DpoLoss::SigmoidNorm => sigmoid::sigmoid(&logps.per_token(&ratios), &target, beta),
        DpoLoss::Hinge => hinge::hinge(&ratios, beta),
        DpoLoss::Ipo => ipo::ipo(&logps.per_token(&ratios), &target, beta),
        DpoLoss::Robust => robust::robust(&ratios, beta, e),
        DpoLoss::ExoPair => exo_pair::exo_pair(&ratios, &target, beta),
        DpoLoss::NcaPair => nca_pair::nca_pair(&ratios, beta),
        DpoLoss::BcoPair => bco_pair::bco_pair(&ratios, beta),
        DpoLoss::SppoHard => sppo::sppo(&ratios, &target, beta),
        DpoLoss::ApoZero => apo::apo_zero(&ratios, beta),
        DpoLoss::ApoDown => apo::apo_down(&ratios, beta),
        DpoLoss::Discopop => discopop::discopop(&ratios, beta, settings.discopop_tau.unwrap_or(DISCOPOP_TAU)),
        DpoLoss::Simpo => simpo::simpo(&mean_logps(), beta, settings.simpo_gamma.unwrap_or(SIMPO_GAMMA)),
        DpoLoss::Orpo => orpo::orpo(&mean_logps(), beta),
        DpoLoss::Cpo => sigmoid::sigmoid(&logps.policy, &target, beta),
        DpoLoss::Sft => sft::sft(&mean_logps()),
    }
}

/// Implicit rewards divided by beta (Rafailov et al., 2023, eq. 5): log-ratios. Without a reference, what the losses
/// compare: log-probabilities for `Cpo`, and per token for the others.
pub fn rewards(logps: &PairLogps, settings: &Dpo) -> Sides {
    if logps.reference.is_some() || settings.has(DpoLoss::Cpo) {
        logps.logratios()
    } else {
        logps.per_token(&logps.policy)
    }
}

/// The loss while the policy is its own reference; none if it depends on the pair.
pub fn at_start(settings: &Dpo) -> Option<f64> {
    if settings.losses().iter().any(|l| !l.loss.uses_reference()) || settings.reference_model.is_some() {
        return None;
    }
    let zero = || Tensor::zeros([1], (Kind::Double, tch::Device::Cpu));
    let equal = || Sides { chosen: zero(), rejected: zero() };
    let lengths = Sides { chosen: zero() + 1.0, rejected: zero() + 1.0 };
    let pair = PairLogps { policy: equal(), reference: Some(equal()), lengths };
    let of = |p: f64| dpo(&pair, &Tensor::from_slice(&[p]), settings).double_value(&[0]);
    let certain = of(1.0);
    let depends_on_label = settings.labels == LabelKind::Soft && (certain - of(0.75)).abs() > 1e-9;
    (!depends_on_label).then_some(certain)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::f64::consts::LN_2;

    use plumbline_crds::dpo::WeightedLoss;

    use crate::loss::test_support::{assert_close, tensor};

    // The vectors of the losses' own tests, with PyTorch:
    //   import torch; from torch.nn.functional import logsigmoid as S
    //   pc, pr = torch.tensor([-12., -20.]), torch.tensor([-15., -9.])
    //   rc, rr = torch.tensor([-14., -18.]), torch.tensor([-13., -10.])
    //   nc, nr = torch.tensor([4., 8.]), torch.tensor([5., 2.])
    //   a, b, B = pc - rc, pr - rr, 0.1
    //   p, e = torch.ones(2), 0.0; smoothed: e = 0.1; soft: p = torch.tensor([0.9, 0.6])
    pub(crate) fn pairs() -> PairLogps {
        PairLogps {
            policy: sides(&[-12.0, -20.0], &[-15.0, -9.0]),
            reference: Some(sides(&[-14.0, -18.0], &[-13.0, -10.0])),
            lengths: sides(&[4.0, 8.0], &[5.0, 2.0]),
        }
    }

    pub(crate) fn sides(chosen: &[f64], rejected: &[f64]) -> Sides {
        Sides { chosen: tensor(chosen), rejected: tensor(rejected) }
    }

    pub(crate) fn hard() -> Tensor {
        tensor(&[1.0, 1.0])
    }

    fn settings(loss: DpoLoss, label_smoothing: f64) -> Dpo {
        Dpo { loss: Some(loss), label_smoothing, ..Dpo::default() }
    }

    #[track_caller]
    pub(crate) fn assert_golden(loss: DpoLoss, expected: &[f64]) {
        assert_close(&dpo(&pairs(), &hard(), &settings(loss, 0.0)), expected);
    }

    #[track_caller]
    pub(crate) fn assert_smoothed(loss: DpoLoss, expected: &[f64]) {
        assert_close(&dpo(&pairs(), &hard(), &settings(loss, 0.1)), expected);
    }

    #[track_caller]
    pub(crate) fn assert_soft(loss: DpoLoss, expected: &[f64]) {
        assert_close(&dpo(&pairs(), &tensor(&[0.9, 0.6]), &settings(loss, 0.0)), expected);
    }

    #[track_caller]
    pub(crate) fn assert_smoothed_and_soft(loss: DpoLoss, expected: &[f64]) {
        assert_close(&dpo(&pairs(), &tensor(&[0.9, 0.6]), &settings(loss, 0.1)), expected);
    }

    #[test]
    fn losses_are_summed_with_their_weights() {
        let weighted = |loss, weight| WeightedLoss { loss, weight };
        let losses = vec![weighted(DpoLoss::Sigmoid, 1.0), weighted(DpoLoss::Sft, 0.2)];
        // -S(B * (a - b)) + 0.2 * -pc / nc
        assert_close(&dpo(&pairs(), &hard(), &Dpo { losses, ..Dpo::default() }), &[1.113_015, 1.354_355]);
    }

    /// Every loss, with smoothing where it reads it, and with a soft label where it accepts one.
    fn every_case() -> Vec<(Dpo, f64)> {
        let smoothing = |loss: DpoLoss| if loss.reads_label_smoothing() { 0.1 } else { 0.0 };
        let hard = DpoLoss::ALL.map(|loss| (settings(loss, smoothing(loss)), 1.0));
        let soft = DpoLoss::ALL.into_iter().filter(|l| l.accepts_probabilities());
        hard.into_iter().chain(soft.map(|loss| (settings(loss, smoothing(loss)), 0.7))).collect()
    }

    /// Pairs of ragged lengths, with log-ratios on both sides of 0 and none at the hinge's edge.
    fn ragged() -> PairLogps {
        PairLogps {
            policy: sides(&[-3.0, -41.5, -8.25, -60.0], &[-2.5, -12.0, -33.0, -7.75]),
            reference: Some(sides(&[-4.5, -38.0, -8.0, -71.0], &[-2.0, -17.0, -25.5, -9.0])),
            lengths: sides(&[1.0, 17.0, 6.0, 25.0], &[2.0, 5.0, 13.0, 3.0]),
        }
    }

    #[test]
    fn gradients_of_every_loss_are_those_of_finite_differences() {
        const STEP: f64 = 1e-6;
        for (settings, label) in every_case() {
            let (pairs, label) = (ragged(), tensor(&[label; 4]));
            let loss = |chosen: Tensor, rejected: Tensor| {
                let policy = Sides { chosen, rejected };
                dpo(&PairLogps { policy, ..ragged() }, &label, &settings)
            };
            let leaf = |t: &Tensor| t.copy().set_requires_grad(true);
            let (chosen, rejected) = (leaf(&pairs.policy.chosen), leaf(&pairs.policy.rejected));
            loss(chosen.shallow_clone(), rejected.shallow_clone()).sum(Kind::Double).backward();
            let moved = |by: [f64; 2]| loss(&pairs.policy.chosen + by[0], &pairs.policy.rejected + by[1]);
            for (gradient, step) in [(chosen.grad(), [STEP, 0.0]), (rejected.grad(), [0.0, STEP])] {
                // Sft does not read the rejected response.
                let gradient = if gradient.defined() { gradient } else { tensor(&[0.0; 4]) };
                let expected = (moved(step) - moved(step.map(|s| -s))) / (2.0 * STEP);
                let off = ((&gradient - &expected).abs() / (gradient.abs() + 1.0)).max().double_value(&[]);
                assert!(off < 1e-6, "{:?} {step:?}: {gradient} and {expected}", settings.loss);
            }
        }
    }

    #[test]
    fn the_loss_of_a_pair_depends_on_no_other_pair() {
        for (settings, label) in every_case() {
            let (pairs, reference) = (ragged(), ragged().reference.unwrap());
            let together = dpo(&pairs, &tensor(&[label; 4]), &settings);
            for i in 0..4 {
                let of = |s: &Sides| Sides { chosen: s.chosen.narrow(0, i, 1), rejected: s.rejected.narrow(0, i, 1) };
                let alone = PairLogps {
                    policy: of(&pairs.policy),
                    reference: Some(of(&reference)),
                    lengths: of(&pairs.lengths),
                };
                let alone = dpo(&alone, &tensor(&[label]), &settings);
                let (alone, expected) = (alone.double_value(&[0]), together.double_value(&[i]));
                assert!((alone - expected).abs() < 1e-12 * (1.0 + expected.abs()), "{settings:?}: {alone}, {expected}");
            }
        }
    }

    #[test]
    fn losses_without_a_reference_do_not_read_it() {
        for loss in DpoLoss::ALL.into_iter().filter(|l| !l.uses_reference()) {
            let without = PairLogps { reference: None, ..pairs() };
            let [with, without] = [pairs(), without].map(|p| dpo(&p, &hard(), &settings(loss, 0.0)));
            assert_eq!(Vec::<f64>::try_from(with).unwrap(), Vec::<f64>::try_from(without).unwrap(), "{loss:?}");
        }
    }

    #[test]
    fn the_loss_at_the_start_is_known_where_it_is_that_of_equal_models() {
        // With torch.zeros(1) for a and b in the formulas of the losses' files.
        let known = [
            (DpoLoss::Sigmoid, LN_2),
            (DpoLoss::SigmoidNorm, LN_2),
            (DpoLoss::Hinge, 1.0),
            (DpoLoss::Ipo, 25.0),
            (DpoLoss::Robust, LN_2),
            (DpoLoss::ExoPair, 0.510_826),
            (DpoLoss::NcaPair, 2.0 * LN_2),
            (DpoLoss::BcoPair, 2.0 * LN_2),
            (DpoLoss::ApoZero, 1.0),
            (DpoLoss::ApoDown, 1.0),
            (DpoLoss::Discopop, 0.846_574),
        ];
        for (loss, expected) in known {
            let smoothing = if loss.reads_label_smoothing() { 0.1 } else { 0.0 };
            let found = at_start(&settings(loss, smoothing)).unwrap();
            assert!((found - expected).abs() < 1e-6, "{loss:?}: {found}");
        }
        assert_eq!(at_start(&settings(DpoLoss::SppoHard, 0.0)), Some(50.0));
        for loss in [DpoLoss::Simpo, DpoLoss::Orpo, DpoLoss::Cpo, DpoLoss::Sft] {
            assert_eq!(at_start(&settings(loss, 0.0)), None, "{loss:?}");
        }
    }

    #[test]
    fn the_loss_at_the_start_is_unknown_with_soft_labels_that_it_depends_on() {
        let soft = |loss| at_start(&Dpo { labels: LabelKind::Soft, ..settings(loss, 0.1) });
        assert_eq!([DpoLoss::ExoPair, DpoLoss::SppoHard].map(soft), [None, None]);
        assert!(soft(DpoLoss::Sigmoid).is_some_and(|start| (start - LN_2).abs() < 1e-9));
        let other = serde_json::from_str(r#"{"referenceModel": {"uri": "m"}}"#).unwrap();
        assert_eq!(at_start(&other), None, "the policy is not its own reference");
    }

    #[test]
    fn rewards_are_what_the_losses_compare() {
        let of = |loss, reference| {
            let pairs = PairLogps { reference, ..pairs() };
            rewards(&pairs, &settings(loss, 0.0)).chosen
        };
        assert_close(&of(DpoLoss::Simpo, pairs().reference), &[2.0, -2.0]);
        assert_close(&of(DpoLoss::Simpo, None), &[-3.0, -2.5]);
        assert_close(&of(DpoLoss::Cpo, None), &[-12.0, -20.0]);
    }

    #[test]
    fn a_soft_label_of_one_half_has_no_gradient_at_the_reference() {
        let chosen = tensor(&[-3.0]).set_requires_grad(true);
        let policy = Sides { chosen: chosen.shallow_clone(), rejected: tensor(&[-4.0]) };
        let reference = Some(sides(&[-3.0], &[-4.0]));
        let pairs = PairLogps { policy, reference, lengths: sides(&[1.0], &[1.0]) };
        dpo(&pairs, &tensor(&[0.5]), &settings(DpoLoss::Sigmoid, 0.0)).sum(Kind::Double).backward();
        assert_close(&chosen.grad(), &[0.0]);
    }
}
