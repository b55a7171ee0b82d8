//! Responses in a packed batch, and the hidden states that predict their tokens. Pure.

use plumbline_feedback::data::tokens::Sequence;
use tch::{Device, Tensor};

use crate::model::attention::Context;
use crate::model::decoder::Decoder;
use crate::model::heads::{SuppressedTokens, TokenLogProbs, token_logprobs};
use crate::model::linear::Adapters;
use crate::model::packed::{Packed, passes};
use crate::values::to_f64;

/// Maximum tokens per forward pass without gradients.
pub(crate) const PASS_TOKENS: usize = 2048;

/// Concatenated sequences, and the positions of their responses.
pub struct ResponseBatch {
    /// Prompts and responses.
    pub packed: Packed,
    /// `[response tokens]`: the packed row whose hidden state predicts each response token.
    pub rows: Tensor,
    /// `[response tokens]`: the response tokens.
    pub targets: Tensor,
    /// Response tokens of each sequence.
    pub counts: Vec<i64>,
    /// Output of the decoder's frozen layers for the packed tokens, if it is known.
    frozen_states: Option<Tensor>,
}

impl ResponseBatch {
    /// Packs sequences for a decoder on `device`. Each prompt and each response must contain at least one token.
    pub fn new(sequences: &[&Sequence], device: Device) -> Self {
        let tokens: Vec<Vec<i64>> = sequences.iter().map(|s| s.tokens()).collect();
        let packed = Packed::new(&tokens).to_device(device);
        let (mut rows, mut targets, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (start, sequence) in packed.starts().into_iter().zip(sequences) {
            let first = start + sequence.prompt.len() as i64 - 1;
            rows.extend((0..sequence.response.len() as i64).map(|t| first + t));
            targets.extend_from_slice(&sequence.response);
            counts.push(sequence.response.len() as i64);
        }
        let on_device = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        let (rows, targets) = (on_device(&rows), on_device(&targets));
        Self { packed, rows, targets, counts, frozen_states: None }
    }

    /// The same batch with known frozen states of its sequences.
    #[must_use]
    pub fn with_frozen_states(mut self, states: Option<Tensor>) -> Self {
        self.frozen_states = states;
        self
    }

    /// Hidden states that predict the response tokens, `[response tokens, hidden]`.
    pub fn hidden(&self, decoder: &Decoder, adapters: Adapters) -> Tensor {
        let hidden = match &self.frozen_states {
            Some(states) => decoder.forward_from(states.shallow_clone(), &self.packed, adapters),
            None => decoder.forward(&self.packed, &mut Context::Whole, adapters),
        };
        hidden.index_select(0, &self.rows)
    }

    /// Log-probabilities of the response tokens, `[response tokens]`.
    pub fn logprobs(&self, decoder: &Decoder, adapters: Adapters, temperature: f64) -> TokenLogProbs {
        token_logprobs(decoder, &self.hidden(decoder, adapters), &self.targets, temperature, None)
    }

    /// The tokens that must not be sampled among the first `least` of each response; none if there are no such tokens.
    pub fn suppressed<'a>(&self, tokens: &'a [i64], least: i64) -> Option<SuppressedTokens<'a>> {
        let positions = self.counts.iter().flat_map(|&n| 0..n);
        let rows: Vec<i64> = positions.zip(0..).filter(|(t, _)| *t < least).map(|(_, row)| row).collect();
        (!rows.is_empty() && !tokens.is_empty())
            .then(|| SuppressedTokens { tokens, rows: Tensor::from_slice(&rows).to_device(self.rows.device()) })
    }

    /// Sums values per response token over each sequence, `[sequences]`.
    pub fn sum_by_sequence(&self, values: &Tensor) -> Tensor {
        let owner: Vec<i64> =
            self.counts.iter().enumerate().flat_map(|(i, &n)| std::iter::repeat_n(i as i64, n as usize)).collect();
        Tensor::zeros([self.counts.len() as i64], (values.kind(), values.device())).index_add(
            0,
            &Tensor::from_slice(&owner).to_device(values.device()),
            values,
        )
    }
}

/// Log-probability of each response token of each sequence, without gradients, in bounded memory.
pub fn response_logprobs(
    decoder: &Decoder,
    adapters: Adapters,
    sequences: &[&Sequence],
    temperature: f64,
) -> Vec<Vec<f64>> {
    let _no_grad = tch::no_grad_guard();
    let mut all = Vec::with_capacity(sequences.len());
    for pass in passes(sequences.iter().map(|s| s.len()), PASS_TOKENS) {
        let batch = ResponseBatch::new(&sequences[pass], decoder.device());
        let logprobs = batch.logprobs(decoder, adapters, temperature).logprobs;
        all.extend(split(&logprobs, &batch.counts));
    }
    all
}

/// Splits values per response token by sequence.
pub fn split(values: &Tensor, counts: &[i64]) -> Vec<Vec<f64>> {
    let flat = to_f64(values);
    let mut start = 0;
    counts
        .iter()
        .map(|&n| {
            let end = start + n as usize;
            let part = flat[start..end].to_vec();
            start = end;
            part
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(prompt: &[i64], response: &[i64]) -> Sequence {
        Sequence { prompt: prompt.to_vec(), response: response.to_vec() }
    }

    #[test]
    fn the_row_before_a_token_predicts_it() {
        let (a, b) = (sequence(&[1, 2], &[3, 4]), sequence(&[5], &[6]));
        let batch = ResponseBatch::new(&[&a, &b], Device::Cpu);
        assert_eq!(Vec::<i64>::try_from(&batch.rows).unwrap(), [1, 2, 4]);
        assert_eq!(Vec::<i64>::try_from(&batch.targets).unwrap(), [3, 4, 6]);
        let sums = batch.sum_by_sequence(&Tensor::from_slice(&[1.0f32, 2.0, 5.0]));
        assert_eq!(Vec::<f32>::try_from(sums).unwrap(), [3.0, 5.0]);
    }

    #[test]
    fn tokens_are_suppressed_at_the_start_of_each_response() {
        let (a, b) = (sequence(&[1], &[5, 6, 7]), sequence(&[1, 2], &[8]));
        let batch = ResponseBatch::new(&[&a, &b], Device::Cpu);
        let rows = |least| batch.suppressed(&[0], least).map(|b| Vec::<i64>::try_from(b.rows).unwrap());
        assert_eq!(rows(2), Some(vec![0, 1, 3]));
        assert_eq!(rows(0), None);
        assert!(batch.suppressed(&[], 2).is_none());
    }
}
