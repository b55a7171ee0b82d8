//! SFT: next-token cross-entropy on texts, each ended by the model's end token unless its record says that it was cut
//! off. Packed, so no token is padding; the mean is over all tokens of a batch.

use tch::{Kind, Tensor};

use plumbline_crds::policy_tuning::PolicyTuningSpec;
use plumbline_crds::run::RunDocument;
use plumbline_feedback::data::texts;
use plumbline_feedback::data::tokens::Sequence;
use plumbline_feedback::report::{LeftOut, Why};
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::model::config::Config;
use crate::model::linear::Adapters;
use crate::stage::inputs::input_path;
use crate::train::io::TrainingIo;
use crate::train::means::Means;
use crate::train::policy::Policy;
use crate::train::responses::ResponseBatch;
use crate::train::supervised::{self, Task};
use crate::{Error, Result};

/// Reads the texts for training.
pub(super) fn read(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    tokenizer: &Tokenizer,
    config: &Config,
) -> Result<(Vec<Sequence>, LeftOut)> {
    let path = input_path(run, "dataset")?;
    let longest = config.longest(spec.training.max_length);
    let texts = texts::read(&path)?;
    let mut left_out = LeftOut::new("texts");
    left_out.read(texts.len());
    if tokenizer.end_id().is_none() {
        tracing::warn!("the model has no end token: it is trained without one, and does not learn to stop");
    }
    let mut sequences = Vec::new();
    for text in &texts {
        let tokens = as_tokens(&text.text, text.complete, tokenizer)?;
        if tokens.len() < 2 {
            left_out.add(Why::Empty);
        }
        sequences.extend(pieces(&tokens, longest));
    }
    if sequences.is_empty() {
        return Err(Error::Data(format!("{}: no text has two tokens or more, which training needs", path.display())));
    }
    Ok((sequences, left_out))
}

/// Trains the policy on texts.
pub(super) fn train(
    spec: &PolicyTuningSpec,
    sequences: &[Sequence],
    policy: &Policy,
    io: &mut TrainingIo,
) -> Result<()> {
    let groups: Vec<Vec<usize>> = (0..sequences.len()).map(|i| vec![i]).collect();
    let task = TextTask { policy, sequences };
    supervised::train(&task, &groups, &policy.params, &spec.training, io)
}

/// Tokenises a text. A complete text gets the tokens that the tokenizer adds to a text's end, and one end token: a
/// model that is never trained on end tokens unlearns to stop. A truncated text gets neither.
fn as_tokens(text: &str, complete: bool, tokenizer: &Tokenizer) -> Result<Vec<i64>> {
    if !complete {
        return tokenizer.encode_prompt(text);
    }
    let mut tokens = tokenizer.encode(text)?;
    let has_end = tokens.last().is_some_and(|last| tokenizer.eos_ids().contains(last));
    if !has_end {
        tokens.extend(tokenizer.end_id());
    }
    Ok(tokens)
}

/// Splits a long text into segments of at most `longest` tokens, in which every token but the first is predicted. A
/// last segment of one token is extended by the token before it.
fn pieces(tokens: &[i64], longest: usize) -> Vec<Sequence> {
    let piece = |p: &[i64]| Sequence { prompt: p[..1].to_vec(), response: p[1..].to_vec() };
    let mut all: Vec<Sequence> = tokens.chunks(longest).filter(|p| p.len() > 1).map(piece).collect();
    if tokens.len() > longest && tokens.len() % longest == 1 {
        all.push(piece(&tokens[tokens.len() - 2..]));
    }
    all
}

struct TextTask<'a> {
    policy: &'a Policy,
    sequences: &'a [Sequence],
}

impl Task for TextTask<'_> {
    fn weight(&self, item: usize) -> f64 {
        self.sequences[item].response.len() as f64
    }

    fn loss(&self, items: &[usize]) -> Result<(Tensor, Means)> {
        let sequences: Vec<&Sequence> = items.iter().map(|&i| &self.sequences[i]).collect();
        let batch = ResponseBatch::new(&sequences, self.policy.decoder.device());
        let found = batch.logprobs(&self.policy.decoder, Adapters::Training, 1.0);
        let tokens: f64 = items.iter().map(|&i| self.weight(i)).sum();
        let mut means = Means::default();
        means.add("entropy", found.entropy.sum(Kind::Double).double_value(&[]), tokens);
        means.total("num_tokens", tokens);
        Ok((-found.logprobs.sum(Kind::Float), means))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use crate::tokenizer_fixture::{around, byte_level};

    #[test]
    fn a_complete_text_has_one_end_token_and_a_truncated_one_none() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), r#"{"eos_token_id": [5, 257]}"#).unwrap();
        std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"eos_token": "<|end|>"}"#).unwrap();
        let tokenizer = byte_level(folder.path());
        let tokens = |text: &str, complete| as_tokens(text, complete, &tokenizer).unwrap();
        assert_eq!(tokens("ab", true), [97, 98, 257], "the tokenizer's own end token, not the first of the model's");
        assert_eq!(tokens("ab", false), [97, 98]);
        let ends = around(
            &json!([{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|end|>", "type_id": 0}}]),
        );
        let ends = ends.unwrap();
        assert_eq!(as_tokens("ab", true, &ends).unwrap(), [97, 98, 257]);
        assert_eq!(as_tokens("ab", false, &ends).unwrap(), [97, 98], "the tokenizer ends no text that was cut");
        assert_eq!(tokens("ab<|end|>", true), [97, 98, 257], "no text ends twice");
        assert_eq!(tokens("ab\u{5}", true), [97, 98, 5], "another end token of the model ends it too");
    }

    #[test]
    fn every_token_but_the_first_of_each_segment_is_predicted() {
        let of = |n: i64, longest| -> Vec<Vec<i64>> {
            pieces(&(0..n).collect::<Vec<_>>(), longest).iter().map(Sequence::tokens).collect()
        };
        assert_eq!(of(7, 4), [vec![0, 1, 2, 3], vec![4, 5, 6]]);
        assert_eq!(of(5, 4), [vec![0, 1, 2, 3], vec![3, 4]], "the end of a text is learnt, wherever it falls");
        assert_eq!(of(4, 4), [vec![0, 1, 2, 3]]);
        assert!(of(1, 4).is_empty());
    }
}
