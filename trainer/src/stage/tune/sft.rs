//! SFT: next-token cross-entropy on texts. Packed, so no token is padding; the mean is over all tokens of a batch.

use tch::{Kind, Tensor};

use plumbline_crds::policy_tuning::PolicyTuningSpec;
use plumbline_crds::run::RunDocument;

use crate::data::texts;
use crate::data::tokens::Sequence;
use crate::load::tokenizer::Tokenizer;
use crate::model::linear::Adapters;
use crate::stage::run::input_path;
use crate::stage::tune::{Policy, Trained};
use crate::train::means::Means;
use crate::train::responses::ResponseBatch;
use crate::train::supervised::{self, Outlets, Task};
use crate::{Error, Result};

/// Trains the policy on texts.
pub(super) fn train(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    tokenizer: &Tokenizer,
    policy: &Policy,
    outlets: &mut Outlets,
) -> Result<Trained> {
    let path = input_path(run, "dataset")?;
    let longest = policy.decoder.config.longest(spec.training.max_length);
    let mut sequences = Vec::new();
    for text in texts::read(&path)? {
        let tokens = tokenizer.encode(&text.text)?;
        // A long text is read in pieces: every token but a piece's first is predicted.
        sequences.extend(
            tokens
                .chunks(longest)
                .filter(|piece| piece.len() > 1)
                .map(|piece| Sequence { prompt: piece[..1].to_vec(), response: piece[1..].to_vec() }),
        );
    }
    if sequences.is_empty() {
        return Err(Error::Data(format!("{}: no text of two tokens or more to learn from", path.display())));
    }
    let groups: Vec<Vec<usize>> = (0..sequences.len()).map(|i| vec![i]).collect();
    let task = TextTask { policy, sequences: &sequences };
    supervised::train(&task, &groups, &policy.params, &spec.training, outlets)?;
    Ok(Trained::default())
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
