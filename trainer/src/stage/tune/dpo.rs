//! DPO (Rafailov et al., 2023) and the losses of its family: pairs -> a policy, with a frozen reference or without one. A
//! response that is part of several pairs of a micro-batch is computed once.

use tch::{Kind, Tensor};

use plumbline_crds::dpo::{Dpo, DpoLoss};
use plumbline_crds::policy_tuning::PolicyTuningSpec;
use plumbline_crds::run::RunDocument;
use plumbline_feedback::data::preference;
use plumbline_feedback::data::tokens::Sequence;
use plumbline_feedback::report::Why;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::Result;
use crate::loss::dpo::orpo::log_odds;
use crate::loss::dpo::{at_start, dpo, rewards};
use crate::loss::pair_logps::{PairLogps, Sides};
use crate::model::config::Config;
use crate::model::linear::Adapters;
use crate::stage::inputs::dataset_path;
use crate::stage::tune::reference::Reference;
use crate::train::frozen_states::FrozenStates;
use crate::train::io::TrainingIo;
use crate::train::means::Means;
use crate::train::pairs::{PairBatch, Pairs};
use crate::train::policy::Policy;
use crate::train::responses::ResponseBatch;
use crate::train::supervised::{self, Task};

/// Maximum difference between the first loss and the expected one, relative to the latter where that is above 1.
const FIRST_LOSS_OFF: f64 = 1e-3;

/// Reads the pairs for training, and the ids of their prompts.
pub(super) fn read(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    tokenizer: &Tokenizer,
    config: &Config,
) -> Result<(Pairs, Vec<String>)> {
    let path = dataset_path(run)?;
    let settings = spec.dpo.clone().unwrap_or_default();
    let longest = config.longest(spec.training.max_length);
    let (records, held_out) = preference::read(&path)?;
    let unusable = |s: &Sequence| match s {
        s if s.prompt.is_empty() || s.response.is_empty() => Some(Why::Empty),
        s if s.len() > longest => Some(Why::TooLong),
        _ => None,
    };
    let mut pairs = Pairs::new(&records, &path, tokenizer, settings.labels, unusable)?;
    pairs.left_out.held_out(held_out.len());
    pairs.enough(&path, longest)?;
    // Ids by content, as a file may have its own ids.
    let prompts = records.iter().map(|r| r.prompt.id()).collect();
    Ok((pairs, prompts))
}

/// Whether the starting model is the reference of a tuning, and has to be kept beside the policy.
pub(super) fn reads_starting_model(spec: &PolicyTuningSpec) -> bool {
    let settings = spec.dpo.clone().unwrap_or_default();
    settings.uses_reference() && settings.reference_model.is_none()
}

/// Trains the policy on pairs.
pub(super) fn train(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    pairs: &Pairs,
    tokenizer: &Tokenizer,
    policy: &Policy,
    io: &mut TrainingIo,
) -> Result<()> {
    let settings = spec.dpo.clone().unwrap_or_default();
    let (mut frozen, mut reference) = (None, None);
    if !supervised::is_finished(&pairs.groups, &spec.training, io)? {
        io.progress.stage("Reading", 1);
        frozen = FrozenStates::of_ranks(&io.ranks, spec.training.epochs, &policy.decoder, &pairs.tokens());
        if settings.uses_reference() {
            let of = Reference::new(run, spec, &pairs.sequences, policy, tokenizer, frozen.as_ref(), io)?;
            reference = Some(of);
        }
    }
    let task = PairTask { policy, pairs, frozen, reference, settings };
    supervised::train(&task, &pairs.groups, &policy.params, &spec.training, io)
}

/// Values of the sequences of a batch, expanded to the sides of its pairs.
fn sides(pairs: &PairBatch, of_sequence: &Tensor) -> Sides {
    let (chosen, rejected) = pairs.sides(of_sequence);
    Sides { chosen, rejected }
}

struct PairTask<'a> {
    policy: &'a Policy,
    pairs: &'a Pairs,
    frozen: Option<FrozenStates>,
    /// None if no loss has a reference.
    reference: Option<Reference<'a>>,
    settings: Dpo,
}

impl PairTask<'_> {
    /// The metrics of `count` pairs. `entropy`: summed over the tokens of each response.
    fn means(&self, logps: &PairLogps, entropy: &Sides, count: f64) -> Means {
        let sum = |t: &Tensor| t.detach().sum(Kind::Double).double_value(&[]);
        let (beta, rewards, mut means) = (self.settings.beta, rewards(logps, &self.settings), Means::default());
        let margins = rewards.difference();
        means.add("rewards/chosen", beta * sum(&rewards.chosen), count);
        means.add("rewards/rejected", beta * sum(&rewards.rejected), count);
        means.add("rewards/margins", beta * sum(&margins), count);
        means.add("rewards/accuracies", sum(&margins.gt(0.0)), count);
        means.add("logps/chosen", sum(&logps.policy.chosen), count);
        means.add("logps/rejected", sum(&logps.policy.rejected), count);
        let (sft, orpo) = (self.settings.has(DpoLoss::Sft), self.settings.has(DpoLoss::Orpo));
        if sft || orpo {
            let mean_logps = logps.per_token(&logps.policy);
            means.add("nll_loss", -sum(&mean_logps.chosen), count);
            if orpo {
                let odds = log_odds(&mean_logps);
                means.add("log_odds_chosen", sum(&odds), count);
                means.add("log_odds_ratio", sum(&odds.log_sigmoid()), count);
            }
        }
        // A response counts once per pair that contains it, so that the mean does not depend on how pairs are split
        // into micro-batches.
        means.add("entropy", sum(&entropy.chosen), sum(&logps.lengths.chosen));
        means.add("entropy", sum(&entropy.rejected), sum(&logps.lengths.rejected));
        means
    }
}

impl Task for PairTask<'_> {
    fn weight(&self, _item: usize) -> f64 {
        1.0
    }

    fn after_first_step(&self, loss: f64) {
        let Some(expected) = at_start(&self.settings) else { return };
        let off = (loss - expected).abs();
        if off > FIRST_LOSS_OFF * expected.max(1.0) {
            tracing::warn!(
                "the first loss is {loss:.6}, {off:.6} from {expected:.6}, its value while policy and reference are the \
                 same model: the two are computed differently, and the training signal is off by as much"
            );
        } else {
            tracing::info!(
                "the first loss is {loss:.6}; expected {expected:.6}, as policy and reference are still the same model"
            );
        }
    }

    fn loss(&self, items: &[usize]) -> Result<(Tensor, Means)> {
        let device = self.policy.decoder.device();
        let pairs = self.pairs.batch(items, device);
        let sequences: Vec<&Sequence> = pairs.sequences.iter().map(|&i| &self.pairs.sequences[i]).collect();
        let states = self.frozen.as_ref().map(|t| t.gather(&pairs.sequences));
        let batch = ResponseBatch::new(&sequences, device).with_frozen_states(states);
        // Before the policy's pass, as its graph fills the memory.
        let reference = self.reference.as_ref().map(|r| r.of(&batch, &pairs.sequences, device));
        let found = batch.logprobs(&self.policy.decoder, Adapters::Training, 1.0);
        let logps = PairLogps {
            policy: sides(&pairs, &batch.sum_by_sequence(&found.logprobs)),
            reference: reference.map(|of_sequence| sides(&pairs, &of_sequence)),
            lengths: sides(&pairs, &Tensor::from_slice(&batch.counts).to_device(device)),
        };
        let loss = dpo(&logps, &pairs.column(|p| p.preference), &self.settings).sum(Kind::Float);
        let entropy = sides(&pairs, &batch.sum_by_sequence(&found.entropy.detach()));
        Ok((loss, self.means(&logps, &entropy, items.len() as f64)))
    }
}
