//! Losses of policy-gradient methods, one value per token or per response. Ratios are `exp(new - old)` of
//! log-probabilities now and at sampling time; which of them have gradients is up to the caller.

use tch::Tensor;

/// The interval that probability ratios are clipped to.
#[derive(Clone, Copy, Debug)]
pub struct Clip {
    /// Clipped to at least `1 - low`.
    pub low: f64,
    /// Clipped to at most `1 + high`.
    pub high: f64,
    /// Bound on the loss where the advantage is negative, in multiples of the advantage; above 1.
    pub dual: Option<f64>,
}

impl Clip {
    /// Clips to 1 +- `range`.
    pub fn symmetric(range: f64) -> Self {
        Self { low: range, high: range, dual: None }
    }

    /// The ratios, clipped.
    fn apply(&self, ratio: &Tensor) -> Tensor {
        ratio.clamp(1.0 - self.low, 1.0 + self.high)
    }

    /// 1 for each ratio outside the interval, else 0.
    pub fn exceeded(&self, ratio: &Tensor) -> Tensor {
        ratio.ne_tensor(&self.apply(ratio))
    }
}

/// Clipped loss (PPO: Schulman et al., 2017, eq. 7): `max(-A r, -A clip(r))`. With a dual clip `c`, at most `-A c` where
/// `A < 0` (Ye et al., 2020, eq. 5). `ratio` and `advantages`: the same shape, which is that of the result.
pub fn clipped(ratio: &Tensor, advantages: &Tensor, clip: Clip) -> Tensor {
    let loss = (-advantages * ratio).maximum(&(-advantages * clip.apply(ratio)));
    match clip.dual {
        Some(bound) => loss.minimum(&(-advantages * bound)).where_self(&advantages.lt(0.0), &loss),
        None => loss,
    }
}

/// CISPO (MiniMax, 2025, eq. 4): `-min(r, 1 + high) A log p`, the ratio without gradient. No token loses its gradient.
pub fn cispo(logprobs: &Tensor, ratio: &Tensor, advantages: &Tensor, high: f64) -> Tensor {
    -ratio.detach().clamp_max(1.0 + high) * advantages * logprobs
}

/// The policy gradient itself (REINFORCE: Williams, 1992): `-A log p`.
pub fn policy_gradient(logprobs: &Tensor, advantages: &Tensor) -> Tensor {
    -advantages * logprobs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::test_support::{assert_close, tensor};
    use tch::Kind;

    #[test]
    fn clipping_takes_the_pessimistic_side() {
        let ratio = tensor(&[0.5, 1.0, 1.5]);
        assert_close(&clipped(&ratio, &tensor(&[1.0, -1.0, 2.0]), Clip::symmetric(0.2)), &[-0.5, 1.0, -2.4]);
    }

    #[test]
    fn the_upper_range_applies_to_rising_ratios_only() {
        let (ratio, advantages) = (tensor(&[1.25, 1.5, 0.75]), tensor(&[1.0, 1.0, -1.0]));
        let clip = Clip { low: 0.2, high: 0.28, dual: None };
        assert_close(&clipped(&ratio, &advantages, clip), &[-1.25, -1.28, 0.8]);
        assert_eq!(Vec::<bool>::try_from(clip.exceeded(&ratio)).unwrap(), [false, true, true]);
    }

    #[test]
    fn a_dual_clip_bounds_the_loss_of_negative_advantages() {
        let (ratio, advantages) = (tensor(&[0.5, 1.0, 10.0]), tensor(&[1.0, -1.0, -4.0]));
        let clip = Clip { dual: Some(3.0), ..Clip::symmetric(0.2) };
        assert_close(&clipped(&ratio, &advantages, clip), &[-0.5, 1.0, 12.0]);
        assert_close(&clipped(&ratio, &advantages, Clip::symmetric(0.2)), &[-0.5, 1.0, 40.0]);
    }

    // Two responses of 3 and 5 tokens; worked out by hand from the definitions, tokens laid end to end.
    #[test]
    fn the_mean_clipped_loss_and_clip_fraction_of_two_responses() {
        let old = tensor(&[-1.0, -0.5, -2.0, -0.7, -1.2, -0.3, -0.9, -1.5]);
        let new = tensor(&[-0.9, -0.8, -1.9, -0.7, -1.0, -0.6, -0.9, -1.2]);
        let advantages =
            tensor(&[1.280_430, 1.207_693, 1.109_905, -0.897_481, -0.801_861, -0.729_507, -0.639_196, -0.529_982]);
        let ratio = (new - old).exp();
        let clip = Clip::symmetric(0.2);
        assert_close(&clipped(&ratio, &advantages, clip).mean(Kind::Double), &[0.034_834]);
        // exp(0.3) = 1.35, exp(0.2) = 1.22 and exp(-0.3) = 0.74 twice are outside 0.8..1.2.
        assert_eq!(clip.exceeded(&ratio).sum(Kind::Int64).int64_value(&[]), 4);
    }

    // Python: r = torch.tensor([0.5, 1.5, 3.0]); -r.clamp(max=2.0) * A * logp
    #[test]
    fn cispo_weights_every_token_and_keeps_its_gradient() {
        let logprobs = tensor(&[-1.0, -2.0, -0.5]).set_requires_grad(true);
        let (ratio, advantages) = (tensor(&[0.5, 1.5, 3.0]), tensor(&[1.0, -1.0, 2.0]));
        let loss = cispo(&logprobs, &ratio, &advantages, 1.0);
        assert_close(&loss, &[0.5, -3.0, 2.0]);
        loss.sum(Kind::Double).backward();
        assert_close(&logprobs.grad(), &[-0.5, 1.5, -4.0]);
    }

    #[test]
    fn the_policy_gradient_raises_the_log_probability_of_what_was_good() {
        assert_close(&policy_gradient(&tensor(&[-1.0, -2.0]), &tensor(&[0.5, -1.0])), &[0.5, -2.0]);
    }

    #[test]
    fn gradients_are_those_of_finite_differences() {
        let (old, advantages) = (tensor(&[-1.0, -0.5, -2.0, -0.7]), tensor(&[1.3, -0.7, -1.1, 0.4]));
        let at = [-0.95, -0.1, -2.6, -0.9];
        let clip = Clip { low: 0.2, high: 0.28, dual: Some(3.0) };
        let losses: [&dyn Fn(&Tensor) -> Tensor; 2] =
            [&|new: &Tensor| clipped(&(new - &old).exp(), &advantages, clip), &|new: &Tensor| {
                policy_gradient(new, &advantages)
            }];
        for loss in losses {
            let new = tensor(&at).set_requires_grad(true);
            loss(&new).sum(Kind::Double).backward();
            let value = |at: &[f64]| loss(&tensor(at)).sum(Kind::Double).double_value(&[]);
            let expected: Vec<f64> = (0..at.len())
                .map(|i| {
                    let (mut up, mut down) = (at, at);
                    up[i] += 1e-6;
                    down[i] -= 1e-6;
                    (value(&up) - value(&down)) / 2e-6
                })
                .collect();
            assert_close(&new.grad(), &expected);
        }
    }
}
