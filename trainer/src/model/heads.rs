//! What turns hidden states into numbers: token log-probabilities of chosen rows, and a scalar.

use tch::{Kind, Tensor};

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
    hidden.linear(&weight, None::<&Tensor>).to_kind(Kind::Float)
}

/// Log-probabilities of `targets` (`[rows]`, Int64) under softmax(logits / temperature) of `hidden` (`[rows, hidden]`).
pub fn token_logprobs(decoder: &Decoder, hidden: &Tensor, targets: &Tensor, temperature: f64) -> TokenLogProbs {
    let logits = logits(decoder, hidden);
    let logits = if (temperature - 1.0).abs() < 1e-12 { logits } else { logits / temperature };
    let all = logits.log_softmax(-1, Kind::Float);
    let entropy = tch::no_grad(|| -(all.exp() * &all).sum_dim_intlist(-1, false, Kind::Float));
    let logprobs = all.gather(-1, &targets.unsqueeze(-1), false).squeeze_dim(-1);
    TokenLogProbs { logprobs, entropy }
}

/// A linear head with one output and no bias, always Float32.
#[derive(Debug)]
pub struct ScalarHead {
    /// `[1, hidden]`.
    pub weight: Tensor,
}

impl ScalarHead {
    /// `[rows, hidden]` -> `[rows]`, Float32.
    pub fn forward(&self, hidden: &Tensor) -> Tensor {
        hidden.to_kind(Kind::Float).linear(&self.weight, None::<&Tensor>).squeeze_dim(-1)
    }
}
