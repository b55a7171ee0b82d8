//! Accuracy, log-loss and calibration of a reward model on held-out pairs (computes).

/// How well reward differences predict preferences.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// Fraction of the decided pairs on which the difference has the sign of the preference. Equal rewards count as
    /// wrong, as in TRL. NaN if no pair is decided.
    pub accuracy: f64,
    /// Mean of -[t log s(d) + (1 - t) log(1 - s(d))] with the difference d, the target t and the logistic function s,
    /// in nats. A model without information has ln 2 = 0.693.
    pub log_loss: f64,
    /// Expected calibration error, 0..=1 (see [`calibration`]).
    pub ece: f64,
    /// Number of usable pairs.
    pub pairs: usize,
    /// Number of pairs with a preference: the target is not one half.
    pub decided: usize,
    /// Number of pairs skipped because a difference or target is not a number.
    pub failed: usize,
    /// The bins of the calibration error, least confident first.
    pub bins: Vec<Bin>,
}

/// A bin of the calibration error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bin {
    /// Mean confidence of the model in the side it prefers, 0.5..=1.
    pub confidence: f64,
    /// Mean target of the side that the model prefers: how often that side is better.
    pub accuracy: f64,
    /// Number of pairs.
    pub pairs: usize,
}

/// Compares reward differences with targets, given as (r_a - r_b, probability that a is better). `None` if no pair is
/// usable.
///
/// The expected calibration error is ECE = sum_b n_b / n |accuracy_b - confidence_b| over `bins` bins of equal mass
/// (Nguyen and O'Connor, EMNLP 2015) rather than equal width, so that every bin has enough pairs. Each pair is oriented
/// so that the model prefers its first side: the result must not depend on which side is called `a` (in preference data
/// always the chosen one). Pairs of equal confidence share a bin. On random preferences a model without information has
/// ECE 0, so the ECE is only meaningful together with the log-loss.
pub fn calibration(pairs: &[(f64, f64)], bins: usize) -> Option<Calibration> {
    let usable: Vec<(f64, f64)> =
        pairs.iter().copied().filter(|(d, t)| d.is_finite() && (0.0..=1.0).contains(t)).collect();
    if usable.is_empty() {
        return None;
    }
    let n = usable.len() as f64;
    let decided: Vec<_> = usable.iter().filter(|(_, t)| (t - 0.5).abs() > 0.0).collect();
    let right = decided.iter().filter(|(d, t)| (*d > 0.0 && *t > 0.5) || (*d < 0.0 && *t < 0.5)).count();
    let bins = equal_mass_bins(&usable, bins.max(1));
    Some(Calibration {
        accuracy: right as f64 / decided.len() as f64,
        log_loss: usable.iter().map(|(d, t)| t * softplus(-d) + (1.0 - t) * softplus(*d)).sum::<f64>() / n,
        ece: bins.iter().map(|b| b.pairs as f64 / n * (b.accuracy - b.confidence).abs()).sum(),
        pairs: usable.len(),
        decided: decided.len(),
        failed: pairs.len() - usable.len(),
        bins,
    })
}

/// log(1 + e^x) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn equal_mass_bins(pairs: &[(f64, f64)], bins: usize) -> Vec<Bin> {
    let mut turned: Vec<(f64, f64)> = pairs.iter().map(|&(d, t)| (d.abs(), side_preferred(d, t))).collect();
    turned.sort_by(|a, b| a.0.total_cmp(&b.0));
    let n = turned.len();
    let mut result = Vec::with_capacity(bins);
    let mut start = 0;
    for bin in 1..=bins {
        let mut end = (bin * n / bins).max(start);
        while end > start && end < n && turned[end].0.total_cmp(&turned[end - 1].0).is_eq() {
            end += 1;
        }
        let members = &turned[start..end];
        if !members.is_empty() {
            let count = members.len() as f64;
            result.push(Bin {
                confidence: members.iter().map(|(d, _)| 1.0 / (1.0 + (-d).exp())).sum::<f64>() / count,
                accuracy: members.iter().map(|(_, t)| t).sum::<f64>() / count,
                pairs: members.len(),
            });
        }
        start = end;
    }
    result
}

/// The target of the side with the larger reward; one half if there is none.
fn side_preferred(difference: f64, target: f64) -> f64 {
    if difference > 0.0 {
        target
    } else if difference < 0.0 {
        1.0 - target
    } else {
        0.5
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Pairs whose outcome has exactly the probability s(d); the model reports `scale` times d.
    fn simulated(scale: f64, n: usize) -> Vec<(f64, f64)> {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        (0..n)
            .map(|_| {
                let d: f64 = rng.random_range(-3.0..3.0);
                let won = rng.random_bool(1.0 / (1.0 + (-d).exp()));
                // As in preference data: the winner first.
                if won { (scale * d, 1.0) } else { (-scale * d, 1.0) }
            })
            .collect()
    }

    #[test]
    fn equal_rewards_count_as_wrong_and_undecided_pairs_do_not_count() {
        let c = calibration(&[(1.0, 1.0), (0.0, 1.0), (-1.0, 0.2), (2.0, 0.5)], 2).unwrap();
        assert!((c.accuracy - 2.0 / 3.0).abs() < 1e-12, "{c:?}");
        assert_eq!((c.pairs, c.decided, c.failed), (4, 3, 0));
    }

    #[test]
    fn log_loss_is_the_hand_computed_cross_entropy() {
        // s(1) = 0.731059: -0.8 ln 0.731059 - 0.2 ln 0.268941 = 0.513262
        let c = calibration(&[(1.0, 0.8)], 10).unwrap();
        assert!((c.log_loss - 0.513_262).abs() < 1e-6, "{}", c.log_loss);
        let chance = calibration(&[(0.0, 1.0)], 10).unwrap();
        assert!((chance.log_loss - std::f64::consts::LN_2).abs() < 1e-12);
        let sure = calibration(&[(-1000.0, 1.0)], 10).unwrap();
        assert!((sure.log_loss - 1000.0).abs() < 1e-9, "large differences do not overflow");
    }

    #[test]
    fn a_calibrated_model_has_a_small_error_and_an_overconfident_one_a_large_one() {
        let good = calibration(&simulated(1.0, 20_000), 10).unwrap();
        let overconfident = calibration(&simulated(3.0, 20_000), 10).unwrap();
        assert!(good.ece < 0.02, "{}", good.ece);
        assert!(overconfident.ece > 0.1, "{}", overconfident.ece);
        assert!(overconfident.bins.iter().all(|b| b.confidence >= b.accuracy - 0.02));
        assert!((good.accuracy - overconfident.accuracy).abs() < 1e-12, "a scale changes no sign");
    }

    #[test]
    fn which_side_comes_first_does_not_matter() {
        let pairs = simulated(1.5, 999);
        let swapped: Vec<_> = pairs.iter().map(|(d, t)| (-d, 1.0 - t)).collect();
        let (a, b) = (calibration(&pairs, 10).unwrap(), calibration(&swapped, 10).unwrap());
        assert!((a.ece - b.ece).abs() < 1e-12 && (a.accuracy - b.accuracy).abs() < 1e-12);
    }

    #[test]
    fn bins_have_equal_mass_and_never_split_equal_confidence() {
        let c = calibration(&simulated(1.0, 1000), 10).unwrap();
        assert_eq!(c.bins.iter().map(|b| b.pairs).collect::<Vec<_>>(), vec![100; 10]);
        let tied: Vec<_> = (0..10).map(|i| (1.0, f64::from(i % 2))).collect();
        let c = calibration(&tied, 5).unwrap();
        assert_eq!(c.bins.len(), 1, "ten pairs of one confidence are one bin");
        assert!((c.ece - (0.731_059 - 0.5)).abs() < 1e-6);
    }

    #[test]
    fn values_that_are_not_numbers_are_skipped_and_counted() {
        let c = calibration(&[(1.0, 1.0), (f64::NAN, 1.0), (1.0, 2.0)], 3).unwrap();
        assert_eq!((c.pairs, c.failed), (1, 2));
        assert_eq!(calibration(&[(f64::INFINITY, 1.0)], 3), None);
    }
}
