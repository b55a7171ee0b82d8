//! The Bradley-Terry loss of a reward model (Bradley and Terry, 1952; Christiano et al., 2017; soft labels as in Lee et
//! al., 2023).

use tch::Tensor;

/// Cross-entropy between the preference and `sigmoid(chosen - rejected - margin)`, one value per pair.
///
/// - `chosen`, `rejected`: `[pairs]`, scores.
/// - `preference`: `[pairs]`, in 0..=1: probability that chosen is better; 1 for a hard label.
/// - `margin`: `[pairs]`, required lead of the chosen score; `None` means 0.
///
/// `-p log sigmoid(d) - (1 - p) log sigmoid(-d)` with `d = chosen - rejected - margin`.
pub fn bradley_terry(chosen: &Tensor, rejected: &Tensor, preference: &Tensor, margin: Option<&Tensor>) -> Tensor {
    let mut difference = chosen - rejected;
    if let Some(margin) = margin {
        difference -= margin;
    }
    // log sigmoid(-d) = log sigmoid(d) - d, so the loss is (1 - p) d - log sigmoid(d).
    (1.0 - preference) * &difference - difference.log_sigmoid()
}

/// Centring term (Eisenstein et al., 2023): the squared sum of the two scores, one value per pair. It keeps scores near
/// zero, as preferences only determine differences of scores.
pub fn centering(chosen: &Tensor, rejected: &Tensor) -> Tensor {
    (chosen + rejected).square()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::LN_2;

    use crate::loss::test_support::{assert_close, tensor};

    // By hand: log(1 + e^-0.5) = 0.474077, log(1 + e^1) = 1.313262, log 2 = 0.693147.
    fn scores() -> (Tensor, Tensor) {
        (tensor(&[1.0, -0.5, 2.0]), tensor(&[0.5, 0.5, 2.0]))
    }

    #[test]
    fn a_hard_label_gives_minus_log_sigmoid_of_the_difference() {
        let (c, r) = scores();
        assert_close(&bradley_terry(&c, &r, &tensor(&[1.0; 3]), None), &[0.474_077, 1.313_262, LN_2]);
    }

    #[test]
    fn a_soft_label_mixes_both_directions() {
        let (c, r) = scores();
        assert_close(&bradley_terry(&c, &r, &tensor(&[0.75; 3]), None), &[0.599_077, 1.063_262, LN_2]);
    }

    #[test]
    fn a_margin_increases_the_loss() {
        let (c, r) = scores();
        let margin = tensor(&[0.2, 0.0, 0.5]);
        assert_close(&bradley_terry(&c, &r, &tensor(&[1.0; 3]), Some(&margin)), &[0.554_355, 1.313_262, 0.974_077]);
    }

    #[test]
    fn centring_is_the_mean_of_squared_sums() {
        let (c, r) = scores();
        assert_close(&(centering(&c, &r).mean(tch::Kind::Double) * 0.01), &[0.060_833]);
    }

    #[test]
    fn a_huge_difference_stays_finite() {
        let loss = bradley_terry(&tensor(&[-1e4]), &tensor(&[1e4]), &tensor(&[1.0]), None);
        assert_close(&loss, &[2e4]);
    }
}
