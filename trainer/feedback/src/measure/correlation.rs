//! Pearson's correlation, and its interval for values that come in clusters (computes).

use std::collections::BTreeSet;

use super::interval::{Estimate, Z};

/// Pearson's correlation of pairs of values, -1..=1. `None` if one of the two does not vary.
pub fn pearson(values: &[(f64, f64)]) -> Option<f64> {
    let n = values.len() as f64;
    let (mx, my) = (values.iter().map(|v| v.0).sum::<f64>() / n, values.iter().map(|v| v.1).sum::<f64>() / n);
    let sum = |f: &dyn Fn(f64, f64) -> f64| values.iter().map(|(x, y)| f(x - mx, y - my)).sum::<f64>();
    let (xx, yy, xy) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
    (xx > 0.0 && yy > 0.0).then(|| xy / (xx * yy).sqrt())
}

/// Pearson's correlation of (cluster, x, y) with a 95 % interval by Fisher's z, whose sample size is the number of
/// clusters, not of values: conservative if the values of a cluster are correlated. `None` without variation, or for
/// fewer than five clusters.
pub fn clustered_correlation(values: &[(u64, f64, f64)]) -> Option<Estimate> {
    let clusters = values.iter().map(|(c, ..)| c).collect::<BTreeSet<_>>().len();
    if clusters < 5 {
        return None;
    }
    let r = pearson(&values.iter().map(|(_, x, y)| (*x, *y)).collect::<Vec<_>>())?.clamp(-0.999_999, 0.999_999);
    let half = Z / (clusters as f64 - 3.0).sqrt();
    Some(Estimate { value: r, low: (r.atanh() - half).tanh(), high: (r.atanh() + half).tanh() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlation_has_its_known_value() {
        // numpy.corrcoef([0,1,2,3,4,5],[1,3,2,5,4,6])[0,1] = 0.885714
        let y = [1.0, 3.0, 2.0, 5.0, 4.0, 6.0];
        let values: Vec<_> = y.iter().enumerate().map(|(i, y)| (i as u64, i as f64, *y)).collect();
        let r = clustered_correlation(&values).unwrap();
        assert!((r.value - 0.885_714).abs() < 1e-5 && r.low < r.value && r.value < r.high && r.high < 1.0);
        assert_eq!(clustered_correlation(&values.iter().map(|(c, x, _)| (*c, *x, 1.0)).collect::<Vec<_>>()), None);
    }
}
