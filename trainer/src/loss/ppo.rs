//! PPO's clipped losses (Schulman et al., 2017, eq. 7; value clipping as in Ziegler et al., 2019).

use tch::Tensor;

/// Clipped policy loss, one value per token: `max(-A r, -A clip(r, 1 - c, 1 + c))` with `r = exp(new - old)`.
///
/// - `new`, `old`: `[tokens]`, log-probabilities of the sampled tokens now and at sampling time.
/// - `advantages`: `[tokens]`.
pub fn policy_loss(new: &Tensor, old: &Tensor, advantages: &Tensor, clip_range: f64) -> Tensor {
    let ratio = (new - old).exp();
    let clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range);
    (-advantages * ratio).maximum(&(-advantages * clipped))
}

/// Clipped value loss, one value per token: half the larger of the squared errors of the value and of the value clipped
/// to `old +- clip_range`. All `[tokens]`.
pub fn value_loss(new: &Tensor, old: &Tensor, returns: &Tensor, clip_range: f64) -> Tensor {
    let clipped = old + (new - old).clamp(-clip_range, clip_range);
    (new - returns).square().maximum(&(clipped - returns).square()) * 0.5
}

/// 1 for each token whose ratio is clipped by the policy loss (`|r - 1| > c`), else 0.
pub fn clipped(new: &Tensor, old: &Tensor, clip_range: f64) -> Tensor {
    ((new - old).exp() - 1.0).abs().gt(clip_range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::test_support::{assert_close, tensor};
    use tch::Kind;

    #[test]
    fn the_policy_loss_takes_the_pessimistic_side() {
        let old = tensor(&[0.0; 3]);
        let new = tensor(&[0.5, 1.0, 1.5]).log();
        assert_close(&policy_loss(&new, &old, &tensor(&[1.0, -1.0, 2.0]), 0.2), &[-0.5, 1.0, -2.4]);
    }

    // Two responses of 4 and 5 tokens; worked out by hand from the definitions, tokens laid end to end.
    fn case() -> (Tensor, Tensor, Tensor) {
        let old = tensor(&[-1.0, -0.5, -2.0, -0.7, -1.2, -0.3, -0.9, -1.5]);
        let new = tensor(&[-0.9, -0.8, -1.9, -0.7, -1.0, -0.6, -0.9, -1.2]);
        let advantages =
            tensor(&[1.280_430, 1.207_693, 1.109_905, -0.897_481, -0.801_861, -0.729_507, -0.639_196, -0.529_982]);
        (old, new, advantages)
    }

    #[test]
    fn the_mean_policy_loss_and_clip_fraction_of_two_responses() {
        let (old, new, advantages) = case();
        assert_close(&policy_loss(&new, &old, &advantages, 0.2).mean(Kind::Double), &[0.034_834]);
        // exp(0.3) = 1.35, exp(0.2) = 1.22 and exp(-0.3) = 0.74 twice are outside 0.8..1.2.
        assert_eq!(clipped(&new, &old, 0.2).sum(Kind::Int64).int64_value(&[]), 4);
    }

    #[test]
    fn the_value_loss_penalises_a_jump_in_full() {
        let (old, returns) = (tensor(&[0.5, 0.4]), tensor(&[-0.348_402, -0.377_266]));
        let loss = value_loss(&tensor(&[0.5, 0.9]), &old, &returns, 0.2);
        // 0.848402^2 / 2; the jump to 0.9 is not clipped: 1.277266^2 / 2.
        assert_close(&loss, &[0.359_893, 0.815_704]);
    }
}
