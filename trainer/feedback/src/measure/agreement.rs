//! Agreement of two raters beyond chance (computes).

/// Cohen's kappa (1960) of two raters' votes on the same items, at most 1. `None` without votes, or if the agreement
/// expected by chance is 1.
pub fn kappa(votes: &[(bool, bool)]) -> Option<f64> {
    let share = |f: fn(&&(bool, bool)) -> bool| votes.iter().filter(f).count() as f64 / votes.len() as f64;
    let (x, y, agreed) = (share(|v| v.0), share(|v| v.1), share(|v| v.0 == v.1));
    let expected = x * y + (1.0 - x) * (1.0 - y);
    (!votes.is_empty() && expected < 1.0).then(|| (agreed - expected) / (1.0 - expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kappa_has_its_known_value() {
        // sklearn.metrics.cohen_kappa_score([1,1,1,0,0,0,1,0,1,1],[1,1,0,0,0,1,1,0,1,1]) = 0.583333
        let x = [true, true, true, false, false, false, true, false, true, true];
        let y = [true, true, false, false, false, true, true, false, true, true];
        let votes: Vec<_> = x.into_iter().zip(y).collect();
        assert!((kappa(&votes).unwrap() - 0.583_333).abs() < 1e-6);
        assert_eq!(kappa(&[(true, true); 4]), None, "chance alone would agree");
        assert_eq!(kappa(&[]), None);
    }
}
