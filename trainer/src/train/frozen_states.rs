//! Output of a decoder's frozen layers for the sequences of a run, computed once: when only the upper layers are
//! trained, every epoch starts from it, and so does the reference.

use tch::Tensor;

use crate::model::decoder::Decoder;
use crate::model::packed::{Packed, passes};
use crate::ranks::Ranks;
use crate::train::responses::PASS_TOKENS;

/// Maximum memory in bytes; if more is needed, the states are recomputed each time.
const MOST_BYTES: usize = 1 << 30;

/// Hidden states after the frozen layers, one `[tokens, hidden]` tensor per sequence.
pub struct FrozenStates(Vec<Tensor>);

impl FrozenStates {
    /// The states of sequences; none if no layer is frozen, or if they need too much memory.
    pub fn new<S: AsRef<[i64]>>(decoder: &Decoder, sequences: &[S]) -> Option<Self> {
        // Without frozen layers, only the embedding lookup would be saved.
        decoder.frozen_layers.filter(|&n| n > 0)?;
        let tokens: usize = sequences.iter().map(|s| s.as_ref().len()).sum();
        let width = decoder.config.architecture.hidden_size as usize * decoder.kind.elt_size_in_bytes();
        if tokens * width > MOST_BYTES {
            return None;
        }
        let mut states = Vec::with_capacity(sequences.len());
        for pass in passes(sequences.iter().map(|s| s.as_ref().len()), PASS_TOKENS) {
            let batch = Packed::new(&sequences[pass]).to_device(decoder.device());
            let found = decoder.frozen_states(&batch)?;
            let rows = batch.starts().into_iter().zip(&batch.lengths);
            // A copy: a view would keep the whole pass in memory.
            states.extend(rows.map(|(from, &n)| found.narrow(0, from, n).copy()));
        }
        Some(Self(states))
    }

    /// The same for several ranks, which divide the passes over the sequences among them: each rank would compute the
    /// states of all sequences, which only pays off if `uses` is at least the number of ranks.
    pub fn of_ranks<S: AsRef<[i64]>>(ranks: &Ranks, uses: i64, decoder: &Decoder, sequences: &[S]) -> Option<Self> {
        if uses < ranks.size() as i64 { None } else { Self::new(decoder, sequences) }
    }

    /// The states of some of the sequences, concatenated.
    pub fn gather(&self, items: &[usize]) -> Tensor {
        Tensor::cat(&items.iter().map(|&i| &self.0[i]).collect::<Vec<_>>(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::attention::Context;
    use crate::model::decoder::tests::random;
    use crate::model::linear::Adapters;
    use crate::model::lora;

    #[test]
    fn starting_from_the_frozen_states_equals_a_whole_forward_pass() {
        let mut decoder = random(3);
        let adapter = serde_json::from_value(serde_json::json!({"rank": 2, "lastLayers": 1})).unwrap();
        lora::attach(&mut decoder, &adapter, 1).unwrap();
        decoder.frozen_layers = Some(1);
        let sequences: [&[i64]; 3] = [&[1, 2, 3], &[4, 5], &[6, 7, 8, 9]];
        let frozen = FrozenStates::new(&decoder, &sequences).unwrap();
        let batch = Packed::new(&[sequences[2], sequences[0]]);
        let from_trunk = decoder.forward_from(frozen.gather(&[2, 0]), &batch, Adapters::On);
        let whole = decoder.forward(&batch, &mut Context::Whole, Adapters::On);
        assert!((from_trunk - whole).abs().max().double_value(&[]) < 1e-5);
        decoder.frozen_layers = None;
        assert!(FrozenStates::new(&decoder, &sequences).is_none());
    }
}
