//! Output heads: token log-probabilities of selected rows, and a scalar per row.

use tch::{Device, Kind, Tensor};

use crate::model::decoder::Decoder;

/// Log-probabilities of given tokens, and the entropy of the distributions they come from.
#[derive(Debug)]
pub struct TokenLogProbs {
    /// `[rows]`, Float32: log-probability of each target, in nats.
    pub logprobs: Tensor,
    /// `[rows]`, Float32, without gradient: entropy of each distribution, in nats.
    pub entropy: Tensor,
}

/// Logits of hidden states, `[rows, hidden]` -> `[rows, vocab]` in Float32.
pub fn logits(decoder: &Decoder, hidden: &Tensor) -> Tensor {
    let weight = decoder.head_weight();
    let weight = if weight.kind() == hidden.kind() { weight.shallow_clone() } else { weight.to_kind(hidden.kind()) };
    let logits = hidden.linear(&weight, None::<&Tensor>).to_kind(Kind::Float);
    match decoder.config.architecture.logit_softcap {
        Some(cap) => (logits / cap).tanh() * cap,
        None => logits,
    }
}

/// Tokens that must not be sampled in some rows.
#[derive(Debug)]
pub struct SuppressedTokens<'a> {
    /// Token ids.
    pub tokens: &'a [i64],
    /// `[n]`, Int64: the rows in which they are suppressed.
    pub rows: Tensor,
}

impl SuppressedTokens<'_> {
    /// Sets the probability of the suppressed tokens to zero, in place. `logits`: `[rows, vocab]`.
    pub fn apply(&self, logits: &Tensor) {
        for token in self.tokens {
            let _ = logits.select(1, *token).index_fill_(0, &self.rows, BARRED);
        }
    }
}

/// Logit of a suppressed token: its probability is zero, and entropies are not NaN as they would be with minus
/// infinity.
const BARRED: f64 = -1e9;

/// Log-probabilities of `targets` (`[rows]`, Int64) under softmax(logits / temperature) of `hidden` (`[rows, hidden]`), where
/// suppressed tokens have no probability.
pub fn token_logprobs(
    decoder: &Decoder,
    hidden: &Tensor,
    targets: &Tensor,
    temperature: f64,
    suppressed: Option<&SuppressedTokens>,
) -> TokenLogProbs {
    let logits = logits(decoder, hidden);
    let logits = if (temperature - 1.0).abs() < 1e-12 { logits } else { logits / temperature };
    if let Some(suppressed) = suppressed {
        suppressed.apply(&logits);
    }
    let all = logits.log_softmax(-1, Kind::Float);
    let entropy = tch::no_grad(|| -(all.exp() * &all).sum_dim_intlist(-1, false, Kind::Float));
    let logprobs = all.gather(-1, &targets.unsqueeze(-1), false).squeeze_dim(-1);
    TokenLogProbs { logprobs, entropy }
}

/// A linear head with one output and no bias, always in Float32.
///
/// Its weight is `scale` times the trained tensor. AdamW changes every trained entry by about the learning rate, and
/// the hidden states of a decoder are large: unscaled, one step at an adapter's learning rate would change every score
/// by more than typical score differences. With `scale = 1 / sqrt(hidden)` the head changes at the pace of the layers
/// below (the output layer's rule of Yang et al., 2022).
#[derive(Debug)]
pub struct ScalarHead {
    /// `[1, hidden]`: the trained tensor.
    pub trained: Tensor,
    scale: f64,
}

impl ScalarHead {
    /// A trainable head whose output is 0.
    pub fn zero(hidden: i64, device: Device) -> Self {
        let trained = Tensor::zeros([1, hidden], (Kind::Float, device)).set_requires_grad(true);
        Self { trained, scale: (hidden as f64).sqrt().recip() }
    }

    /// A head with a given weight, `[1, hidden]`.
    pub fn from_weight(weight: Tensor) -> Self {
        Self { trained: weight, scale: 1.0 }
    }

    /// The weight, `[1, hidden]`.
    pub fn weight(&self) -> Tensor {
        self.trained.detach() * self.scale
    }

    /// `[rows, hidden]` -> `[rows]`, Float32.
    pub fn forward(&self, hidden: &Tensor) -> Tensor {
        hidden.to_kind(Kind::Float).linear(&(&self.trained * self.scale), None::<&Tensor>).squeeze_dim(-1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decoder::tests::random;

    #[test]
    fn a_suppressed_token_has_no_probability_in_its_rows_only() {
        let decoder = random(5);
        let hidden = Tensor::randn([2, decoder.config.architecture.hidden_size], (Kind::Float, Device::Cpu));
        let of = |target: i64, suppressed: Option<&SuppressedTokens>| {
            let found = token_logprobs(&decoder, &hidden, &Tensor::from_slice(&[target; 2]), 0.7, suppressed);
            (Vec::<f32>::try_from(found.logprobs).unwrap(), Vec::<f32>::try_from(found.entropy).unwrap())
        };
        let end = 4;
        let suppressed = SuppressedTokens { tokens: &[end], rows: Tensor::from_slice(&[1i64]) };
        let (free, entropy) = of(9, None);
        let (kept, entropy_kept) = of(9, Some(&suppressed));
        let (ends, _) = of(end, None);
        let equal = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(equal(kept[0], free[0]) && equal(entropy_kept[0], entropy[0]), "the first row is free");
        assert!((kept[1] - (free[1] - (1.0 - ends[1].exp()).ln())).abs() < 1e-5, "{kept:?} {free:?} {ends:?}");
        assert!(of(end, Some(&suppressed)).0[1] < -1e8);
        assert!(entropy_kept[1].is_finite() && !equal(entropy_kept[1], entropy[1]));
    }

    #[test]
    fn the_gradient_ignores_suppressed_tokens() {
        let decoder = random(5);
        let hidden = Tensor::randn([1, decoder.config.architecture.hidden_size], (Kind::Float, Device::Cpu))
            .set_requires_grad(true);
        let suppressed = SuppressedTokens { tokens: &[4], rows: Tensor::from_slice(&[0i64]) };
        let found = token_logprobs(&decoder, &hidden, &Tensor::from_slice(&[9i64]), 1.0, Some(&suppressed));
        found.logprobs.sum(Kind::Float).backward();
        // By hand: the target's row minus the mean row under the distribution without the suppressed token.
        let weight = decoder.head_weight().detach().to_kind(Kind::Float);
        let open = Tensor::from_slice(&(0..weight.size()[0]).filter(|t| *t != 4).collect::<Vec<i64>>());
        let rows = weight.index_select(0, &open);
        let p = hidden.detach().linear(&rows, None::<&Tensor>).softmax(-1, Kind::Float);
        let expected = weight.get(9) - p.matmul(&rows).squeeze_dim(0);
        let difference = (hidden.grad().squeeze_dim(0) - expected).abs().max().double_value(&[]);
        assert!(difference < 1e-5, "{difference}");
    }
}
