//! The few statistics of the audit that are not shares of one. Computes only.

use std::collections::BTreeMap;

use crate::measure::Estimate;

/// 97.5 % quantile of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// ln(p / (1 - p)).
pub fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

/// The mean of values with a 95 % interval that allows for the values of one cluster going together (the sandwich
/// estimator of Liang and Zeger, 1986, with the C / (C - 1) correction for C clusters). `None` for fewer than two clusters.
pub fn clustered_mean(values: &[(u64, f64)]) -> Option<Estimate> {
    let n = values.len() as f64;
    let mean = values.iter().map(|(_, x)| x).sum::<f64>() / n;
    let mut residuals: BTreeMap<u64, f64> = BTreeMap::new();
    for (cluster, x) in values {
        *residuals.entry(*cluster).or_default() += x - mean;
    }
    let clusters = residuals.len() as f64;
    if clusters < 2.0 {
        return None;
    }
    let error = (residuals.values().map(|r| r * r).sum::<f64>() * clusters / (clusters - 1.0)).sqrt() / n;
    Some(Estimate { value: mean, low: mean - Z * error, high: mean + Z * error })
}

/// Pearson's correlation of (cluster, x, y) with a 95 % interval by Fisher's z, counting clusters rather than values: wide
/// rather than narrow where values of a cluster go together. `None` without variation, or for fewer than five clusters.
pub fn correlation(values: &[(u64, f64, f64)]) -> Option<Estimate> {
    let n = values.len() as f64;
    let clusters = values.iter().map(|(c, ..)| c).collect::<std::collections::BTreeSet<_>>().len() as f64;
    let mean = |f: fn(&(u64, f64, f64)) -> f64| values.iter().map(f).sum::<f64>() / n;
    let (mx, my) = (mean(|v| v.1), mean(|v| v.2));
    let sum = |f: &dyn Fn(f64, f64) -> f64| values.iter().map(|(_, x, y)| f(x - mx, y - my)).sum::<f64>();
    let (xx, yy, xy) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
    if clusters < 5.0 || xx <= 0.0 || yy <= 0.0 {
        return None;
    }
    let r = (xy / (xx * yy).sqrt()).clamp(-0.999_999, 0.999_999);
    let half = Z / (clusters - 3.0).sqrt();
    Some(Estimate { value: r, low: (r.atanh() - half).tanh(), high: (r.atanh() + half).tanh() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sigmoid_and_logit_undo_each_other_and_do_not_overflow() {
        for x in [-30.0, -1.5, 0.0, 0.2, 20.0] {
            assert!((logit(sigmoid(x)) - x).abs() < 1e-6, "{x}");
        }
        assert_eq!((sigmoid(-1e4), sigmoid(1e4)), (0.0, 1.0));
    }

    #[test]
    fn with_one_value_a_cluster_the_interval_is_the_usual_one() {
        // numpy: x = [1, 2, 3, 4]; 1.959964 * x.std(ddof=1) / 2 = 1.265152
        let e = clustered_mean(&[(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]).unwrap();
        assert!((e.value - 2.5).abs() < 1e-12 && (e.high - e.value - 1.265_152).abs() < 1e-5, "{e:?}");
    }

    #[test]
    fn repeating_a_cluster_adds_no_certainty() {
        let once = clustered_mean(&[(0, 1.0), (1, 2.0), (2, 3.0), (3, 4.0)]).unwrap();
        let repeated: Vec<_> = (0..40).map(|i| (i % 4, (i % 4 + 1) as f64)).collect();
        let ten = clustered_mean(&repeated).unwrap();
        assert!((ten.high - ten.low - (once.high - once.low)).abs() < 1e-9);
        assert_eq!(clustered_mean(&[(7, 1.0), (7, 2.0)]), None, "one prompt says nothing about others");
    }

    #[test]
    fn correlation_has_its_known_value() {
        // numpy.corrcoef([0,1,2,3,4,5],[1,3,2,5,4,6])[0,1] = 0.885714
        let y = [1.0, 3.0, 2.0, 5.0, 4.0, 6.0];
        let values: Vec<_> = y.iter().enumerate().map(|(i, y)| (i as u64, i as f64, *y)).collect();
        let r = correlation(&values).unwrap();
        assert!((r.value - 0.885_714).abs() < 1e-5 && r.low < r.value && r.value < r.high && r.high < 1.0);
        assert_eq!(correlation(&values.iter().map(|(c, x, _)| (*c, *x, 1.0)).collect::<Vec<_>>()), None);
    }
}
