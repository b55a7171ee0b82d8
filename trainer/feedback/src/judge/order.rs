//! The orders in which a pair is shown, and how their verdicts are combined to a preference. Computes only.
//!
//! If a judge adds a constant to the log-odds of whatever it sees first, the mean log-odds of both orders correct this
//! exactly. Mean probabilities preserve the sign and shrink towards one half; keeping only pairs whose orders agree
//! loses the hard pairs. All three are supported, and the orders also measure the bias (`audit`).

use plumbline_crds::preference_dataset::{Order, OrderCombination, OrderPolicy};

use super::verdict::Verdict;
use crate::data::id;
use crate::measure::{logit, sigmoid};

/// Which response is shown first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presentation {
    /// Response a.
    AB,
    /// Response b.
    BA,
}

impl Presentation {
    /// Returns the two in the order in which they are shown.
    pub fn of<T>(self, a: T, b: T) -> (T, T) {
        match self {
            Self::AB => (a, b),
            Self::BA => (b, a),
        }
    }

    /// Factor that converts log-odds of the first response to log-odds of a.
    fn sign(self) -> f64 {
        match self {
            Self::AB => 1.0,
            Self::BA => -1.0,
        }
    }
}

/// The orders in which a pair is shown. `a_is_low`: whether a has the smaller id, which keeps the choice independent of
/// the names a and b.
pub fn presentations(order: &Order, pair_id: &str, a_is_low: bool) -> Vec<Presentation> {
    let both = match order.policy {
        OrderPolicy::Both => true,
        OrderPolicy::Single => false,
        OrderPolicy::Sampled => id::unit(&["both orders", pair_id]) < order.sample_fraction,
    };
    if both {
        return vec![Presentation::AB, Presentation::BA];
    }
    let low_first = id::unit(&["first", pair_id]) < 0.5;
    vec![if low_first == a_is_low { Presentation::AB } else { Presentation::BA }]
}

/// The preference of a pair's orders.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preference {
    /// Probability that a is better.
    pub p: f64,
    /// Log-odds that a is better, in nats; none if a verdict has no probability.
    pub log_odds: Option<f64>,
    /// Whether the two orders favour different responses; none if there is only one order.
    pub conflict: Option<bool>,
}

/// Combines the verdicts of a pair's orders. `None` if any of them failed: a single order would retain the bias that
/// the other one cancels.
pub fn combine(verdicts: &[(Presentation, &Verdict)], how: OrderCombination) -> Option<Preference> {
    let probabilities: Vec<f64> = verdicts
        .iter()
        .map(|(shown, v)| v.probability().map(|p| shown.of(p, 1.0 - p).0))
        .collect::<Option<Vec<_>>>()
        .filter(|p| !p.is_empty())?;
    let log_odds: Option<Vec<f64>> = verdicts.iter().map(|(shown, v)| v.log_odds().map(|l| shown.sign() * l)).collect();
    let conflict = match probabilities.as_slice() {
        [x, y] => Some((x - 0.5) * (y - 0.5) < 0.0),
        _ => None,
    };
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    Some(match (how, log_odds) {
        (OrderCombination::Logits | OrderCombination::AgreeOnly, Some(log_odds)) => {
            let log_odds = mean(&log_odds);
            Preference { p: sigmoid(log_odds), log_odds: Some(log_odds), conflict }
        }
        (_, log_odds) => {
            let p = mean(&probabilities);
            Preference { p, log_odds: log_odds.map(|_| logit(p)), conflict }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::verdict::SoftVerdict;
    use super::*;
    use Presentation::{AB, BA};

    fn soft(log_odds: f64) -> Verdict {
        Verdict::soft(SoftVerdict { log_odds, mass: None })
    }

    #[test]
    fn mean_log_odds_remove_an_additive_position_bias_exactly() {
        for quality in [-2.0, -0.1, 0.0, 0.7, 3.0] {
            for bias in [-5.0, -1.0, 0.0, 2.0, 8.0] {
                let (first, second) = (soft(quality + bias), soft(-quality + bias));
                let both = combine(&[(AB, &first), (BA, &second)], OrderCombination::Logits).unwrap();
                assert!((both.log_odds.unwrap() - quality).abs() < 1e-12);
                assert_eq!(both.conflict, Some(bias.abs() > quality.abs()));
            }
        }
    }

    #[test]
    fn mean_probabilities_keep_the_sign_and_shrink() {
        let (first, second) = (soft(0.7 + 2.0), soft(-0.7 + 2.0));
        let mean = combine(&[(AB, &first), (BA, &second)], OrderCombination::Probabilities).unwrap();
        assert!(mean.p > 0.5 && mean.p < sigmoid(0.7));
        assert!((sigmoid(mean.log_odds.unwrap()) - mean.p).abs() < 1e-12);
    }

    #[test]
    fn swapping_a_and_b_turns_p_into_its_complement() {
        for how in [OrderCombination::Logits, OrderCombination::Probabilities, OrderCombination::AgreeOnly] {
            let (x, y) = (soft(1.3), soft(0.4));
            let p = combine(&[(AB, &x), (BA, &y)], how).unwrap().p;
            let q = combine(&[(BA, &x), (AB, &y)], how).unwrap().p;
            assert!((p + q - 1.0).abs() < 1e-12);
        }
        for policy in [OrderPolicy::Both, OrderPolicy::Sampled, OrderPolicy::Single] {
            let order = Order { policy, ..Order::default() };
            for pair in ["p", "q", "r", "s"] {
                let mut one = presentations(&order, pair, true);
                let other = presentations(&order, pair, false);
                if one.len() == 1 {
                    one = vec![if one[0] == AB { BA } else { AB }];
                }
                assert_eq!(one, other, "the same response must be shown first");
            }
        }
    }

    #[test]
    fn hard_verdicts_agree_or_cancel_and_have_no_log_odds() {
        let (first, second, tie) = (Verdict::First(None), Verdict::Second(None), Verdict::Tie(None));
        let agree = combine(&[(AB, &first), (BA, &second)], OrderCombination::Logits).unwrap();
        assert_eq!((agree.p, agree.log_odds, agree.conflict), (1.0, None, Some(false)));
        let conflict = combine(&[(AB, &first), (BA, &first)], OrderCombination::Logits).unwrap();
        assert_eq!((conflict.p, conflict.conflict), (0.5, Some(true)));
        let half = combine(&[(AB, &first), (BA, &tie)], OrderCombination::Logits).unwrap();
        assert_eq!((half.p, half.conflict), (0.75, Some(false)));
    }

    #[test]
    fn a_failed_order_leaves_no_preference() {
        let good = soft(3.0);
        for failed in
            [Verdict::Unparsed("x"), Verdict::Ambiguous, Verdict::Refused, Verdict::Truncated, Verdict::TransportFailed]
        {
            assert_eq!(combine(&[(AB, &good), (BA, &failed)], OrderCombination::Logits), None);
        }
        assert_eq!(combine(&[], OrderCombination::Logits), None);
    }

    #[test]
    fn sampled_shows_its_fraction_in_both_orders() {
        let order = Order { policy: OrderPolicy::Sampled, sample_fraction: 0.2, ..Order::default() };
        let twice = (0..5000).filter(|i| presentations(&order, &i.to_string(), true).len() == 2).count();
        assert!((900..1100).contains(&twice), "{twice}");
    }
}
