//! Preference pairs as tokens: each distinct prompt with response is stored once, and pairs refer to sequences by
//! index. Pure, apart from the tokenizer.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use plumbline_crds::training::LabelKind;
use plumbline_feedback::data::preference::{Preference, locate, vote};
use plumbline_feedback::data::tokens::{self, Sequence};
use plumbline_feedback::report::{LeftOut, Why};
use plumbline_feedback::text::tokenizer::Tokenizer;
use tch::{Device, Tensor};

use crate::{Error, Result};

/// A pair, with the indices of its sequences.
pub struct Pair {
    /// The preferred sequence.
    pub chosen: usize,
    /// The rejected sequence.
    pub rejected: usize,
    /// Probability that chosen is better, 0..=1.
    pub preference: f64,
    /// The record's margin (log-odds); 0 if it has none.
    pub margin: f64,
}

/// The pairs of some records.
pub struct Pairs {
    /// Every distinct prompt with response. The same tokens with a different boundary are a different sequence.
    pub sequences: Vec<Sequence>,
    /// In order of the records.
    pub pairs: Vec<Pair>,
    /// Indices of the pairs of each prompt.
    pub groups: Vec<Vec<usize>>,
    /// Records that were read, and how many were skipped.
    pub left_out: LeftOut,
}

impl Pairs {
    /// Tokenises records. A record is skipped if `unusable` returns a reason for one of its sequences, or if both
    /// sequences have the same tokens.
    ///
    /// # Errors
    /// [`Error::Data`] with the file and line of the first record that cannot be tokenised. `path` is where the records were read.
    pub fn new(
        records: &[Preference],
        path: &Path,
        tokenizer: &Tokenizer,
        labels: LabelKind,
        unusable: impl Fn(&Sequence) -> Option<Why>,
    ) -> Result<Self> {
        let mut found =
            Self { sequences: Vec::new(), pairs: Vec::new(), groups: Vec::new(), left_out: LeftOut::new("pairs") };
        found.left_out.read(records.len());
        let mut numbers: HashMap<Sequence, usize> = HashMap::new();
        let mut by_prompt: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for record in records {
            let [chosen, rejected] = tokens::pair(tokenizer, &record.prompt, &record.chosen, &record.rejected)
                .map_err(|why| if let Error::Data(_) = why { locate(path, record, &why) } else { why })?;
            let rendering = chosen.rendering.max(rejected.rendering);
            let (chosen, rejected) = (chosen.sequence, rejected.sequence);
            let equal = || (chosen == rejected).then_some(Why::Equal);
            if let Some(why) = unusable(&chosen).or_else(|| unusable(&rejected)).or_else(equal) {
                found.left_out.add(why);
                continue;
            }
            found.left_out.rendered(rendering);
            let mut number = |sequence: Sequence| {
                *numbers.entry(sequence).or_insert_with_key(|sequence| {
                    found.sequences.push(sequence.clone());
                    found.sequences.len() - 1
                })
            };
            let (chosen, rejected) = (number(chosen), number(rejected));
            let preference = match labels {
                LabelKind::Soft => record.p,
                LabelKind::Hard => vote(record.p),
            };
            by_prompt.entry(&record.prompt_id).or_default().push(found.pairs.len());
            found.pairs.push(Pair { chosen, rejected, preference, margin: record.margin.unwrap_or(0.0) });
        }
        found.groups = by_prompt.into_values().collect();
        Ok(found)
    }

    /// Rejects a file if none of its pairs can be used, and logs how many were skipped.
    pub fn enough(&self, path: &Path, longest: usize) -> Result<()> {
        let left_out = &self.left_out;
        if left_out.total() > 0 {
            tracing::warn!("{} were left out; longer than {longest} tokens is too long", left_out.words());
        }
        if self.groups.is_empty() && left_out.total() == 0 {
            return Err(Error::Data(format!("{}: no pair to train on: there are no records", path.display())));
        }
        if self.pairs.is_empty() {
            return Err(Error::Data(format!(
                "{}: no pair to train on: {} left out, where too long means more than {longest} tokens \
                 (spec.training.maxLength, or the model's context); {}",
                path.display(),
                left_out.words(),
                match left_out.main() {
                    Some(Why::Equal) =>
                        "the chat template or the tokenizer makes both responses of a pair the same, because it omits \
                         what differs: use another model or template",
                    Some(Why::TooLong) => "raise spec.training.maxLength, or provide shorter pairs",
                    _ => "provide other pairs",
                }
            )));
        }
        Ok(())
    }

    /// Tokens of each sequence.
    pub fn tokens(&self) -> Vec<Vec<i64>> {
        self.sequences.iter().map(Sequence::tokens).collect()
    }

    /// Some of the pairs, by index, for a decoder on `device`.
    pub fn batch(&self, items: &[usize], device: Device) -> PairBatch<'_> {
        PairBatch::new(items.iter().map(|&i| &self.pairs[i]).collect(), device)
    }
}

/// Pairs that are computed together: a sequence that occurs in several of them is computed once.
pub struct PairBatch<'a> {
    /// The pairs.
    pub pairs: Vec<&'a Pair>,
    /// Indices of the distinct sequences, ascending: the rows of the computation.
    pub sequences: Vec<usize>,
    /// `[pairs]`: the row of each pair's chosen sequence.
    pub chosen: Tensor,
    /// `[pairs]`: the row of each pair's rejected sequence.
    pub rejected: Tensor,
}

impl<'a> PairBatch<'a> {
    /// Batches pairs for a decoder on `device`.
    pub fn new(pairs: Vec<&'a Pair>, device: Device) -> Self {
        let mut sequences: Vec<usize> = pairs.iter().flat_map(|p| [p.chosen, p.rejected]).collect();
        sequences.sort_unstable();
        sequences.dedup();
        let rows = |side: fn(&Pair) -> usize| {
            let rows: Vec<i64> =
                pairs.iter().map(|p| sequences.binary_search(&side(p)).unwrap_or_default() as i64).collect();
            Tensor::from_slice(&rows).to_device(device)
        };
        Self { chosen: rows(|p| p.chosen), rejected: rows(|p| p.rejected), sequences, pairs }
    }

    /// One value per pair, `[pairs]`, Float32.
    pub fn column(&self, value: impl Fn(&Pair) -> f64) -> Tensor {
        let values: Vec<f32> = self.pairs.iter().map(|p| value(p) as f32).collect();
        Tensor::from_slice(&values).to_device(self.chosen.device())
    }

    /// Values of the distinct sequences, expanded to the two sides of each pair: (`[pairs]`, `[pairs]`).
    pub fn sides(&self, of_sequence: &Tensor) -> (Tensor, Tensor) {
        (of_sequence.index_select(0, &self.chosen), of_sequence.index_select(0, &self.rejected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_of_several_pairs_is_one_row() {
        let pair = |chosen, rejected| Pair { chosen, rejected, preference: 1.0, margin: 0.0 };
        let (a, b) = (pair(7, 2), pair(2, 9));
        let batch = PairBatch::new(vec![&a, &b], Device::Cpu);
        assert_eq!(batch.sequences, [2, 7, 9]);
        let (chosen, rejected) = batch.sides(&Tensor::from_slice(&[0.2f32, 0.7, 0.9]));
        assert_eq!(Vec::<f32>::try_from(chosen).unwrap(), [0.7, 0.2]);
        assert_eq!(Vec::<f32>::try_from(rejected).unwrap(), [0.2, 0.9]);
    }
}
