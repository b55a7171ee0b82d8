//! The Bradley-Terry loss of a reward model (Bradley and Terry, 1952; Christiano et al., 2017; soft labels as in Lee et
//! al., 2023).

use tch::Tensor;

use crate::loss::label::cross_entropy;

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
    cross_entropy(&difference, preference)
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

    use crate::loss::label::smoothed;
    use crate::loss::test_support::{assert_close, tensor};

    // With PyTorch:
    //   import torch; from torch.nn.functional import logsigmoid as S
    //   d, m = torch.tensor([1., -.5, 2.]) - torch.tensor([.5, .5, 2.]), torch.tensor([.2, 0., .5])
    //   -p * S(d) - (1 - p) * S(-d)  # or d - m in place of d
    // with p = 1 or 0.75, or smoothed: p = p * 0.8 + 0.1
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
    fn a_smoothed_label_is_a_soft_one() {
        let (c, r) = scores();
        let hard = smoothed(&tensor(&[1.0; 3]), 0.1);
        assert_close(&bradley_terry(&c, &r, &hard, None), &[0.524_077, 1.213_262, LN_2]);
        let soft = smoothed(&tensor(&[0.75; 3]), 0.1);
        assert_close(&bradley_terry(&c, &r, &soft, None), &[0.624_077, 1.013_262, LN_2]);
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
    fn gradients_are_those_of_finite_differences() {
        const STEP: f64 = 1e-6;
        let (chosen, rejected) = (tensor(&[1.0, -0.5, 2.0]), tensor(&[0.5, 0.5, 2.0]));
        let (preference, margin) = (tensor(&[1.0, 0.75, 0.6]), tensor(&[0.2, 0.0, 0.5]));
        let loss = |c: &Tensor, r: &Tensor| {
            bradley_terry(c, r, &smoothed(&preference, 0.1), Some(&margin)) + centering(c, r) * 0.01
        };
        let leaf = |t: &Tensor| t.copy().set_requires_grad(true);
        let (c, r) = (leaf(&chosen), leaf(&rejected));
        loss(&c, &r).sum(tch::Kind::Double).backward();
        let of_chosen = (loss(&(&chosen + STEP), &rejected) - loss(&(&chosen - STEP), &rejected)) / (2.0 * STEP);
        let of_rejected = (loss(&chosen, &(&rejected + STEP)) - loss(&chosen, &(&rejected - STEP))) / (2.0 * STEP);
        assert_close(&(c.grad() - of_chosen), &[0.0; 3]);
        assert_close(&(r.grad() - of_rejected), &[0.0; 3]);
    }
}
