//! Losses of a critic, one value per token.

use tch::Tensor;

/// Half the squared error of the value. All `[tokens]`.
pub fn squared(values: &Tensor, returns: &Tensor) -> Tensor {
    (values - returns).square() * 0.5
}

/// Clipped value loss (Ziegler et al., 2019): half the larger of the squared errors of the value and of the value clipped
/// to `old +- clip_range`. All `[tokens]`.
pub fn clipped(new: &Tensor, old: &Tensor, returns: &Tensor, clip_range: f64) -> Tensor {
    let clipped = old + (new - old).clamp(-clip_range, clip_range);
    (new - returns).square().maximum(&(clipped - returns).square()) * 0.5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::test_support::{assert_close, tensor};

    #[test]
    fn clipping_penalises_a_jump_in_full() {
        let (old, returns) = (tensor(&[0.5, 0.4]), tensor(&[-0.348_402, -0.377_266]));
        let loss = clipped(&tensor(&[0.5, 0.9]), &old, &returns, 0.2);
        // 0.848402^2 / 2; the jump to 0.9 is not clipped: 1.277266^2 / 2.
        assert_close(&loss, &[0.359_893, 0.815_704]);
        assert_close(&squared(&tensor(&[0.5, 0.9]), &returns), &[0.359_893, 0.815_704]);
    }
}
