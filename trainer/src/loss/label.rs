//! Labels of pairs as probabilities, and the cross-entropy against them.

use tch::Tensor;

/// Label smoothing: the probability that the chosen response is better if a fraction `e` of the labels is wrong,
/// `p (1 - e) + (1 - p) e`. `preference`: `[pairs]`, in 0..=1. `e`: 0..=0.5.
pub fn smoothed(preference: &Tensor, e: f64) -> Tensor {
    preference * (1.0 - 2.0 * e) + e
}

/// Cross-entropy between a label and `sigmoid(difference)`, one value per pair: `-p log sigmoid(d) - (1 - p) log
/// sigmoid(-d)`. `difference`, `preference`: `[pairs]`.
pub fn cross_entropy(difference: &Tensor, preference: &Tensor) -> Tensor {
    // log sigmoid(-d) = log sigmoid(d) - d, so the loss is (1 - p) d - log sigmoid(d).
    (1.0 - preference) * difference - difference.log_sigmoid()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::test_support::{assert_close, tensor};

    #[test]
    fn smoothing_moves_a_label_towards_one_half() {
        assert_close(&smoothed(&tensor(&[1.0, 0.75, 0.5]), 0.1), &[0.9, 0.7, 0.5]);
        assert_close(&smoothed(&tensor(&[1.0, 0.75]), 0.0), &[1.0, 0.75]);
        assert_close(&smoothed(&tensor(&[1.0, 0.75]), 0.5), &[0.5, 0.5]);
    }

    #[test]
    fn a_huge_difference_stays_finite() {
        assert_close(&cross_entropy(&tensor(&[-2e4, 2e4]), &tensor(&[1.0, 1.0])), &[2e4, 0.0]);
    }
}
