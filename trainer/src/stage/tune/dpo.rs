//! DPO (Rafailov et al., 2023): pairs and a frozen reference -> a policy. A response that is part of several pairs of a
//! micro-batch is computed once.
//!
//! In Float32 the reference's log-probabilities are computed once. In BFloat16 they are computed with each micro-batch,
//! in the same pass as the policy's: rounding depends on which sequences share a pass, and in separate passes the
//! reference would differ from a policy with the same weights, for long responses by more than the margin of a pair.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use plumbline_crds::artifact::hex;
use plumbline_crds::policy_tuning::PolicyTuningSpec;
use plumbline_crds::run::RunDocument;
use plumbline_feedback::data::preference;
use plumbline_feedback::data::tokens::Sequence;
use plumbline_feedback::files;
use plumbline_feedback::report::Why;
use plumbline_feedback::shutdown;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::loss::dpo::{DpoSettings, dpo};
use crate::loss::pair_logps::{PairLogps, Sides};
use crate::model::config::Config;
use crate::model::linear::Adapters;
use crate::model::view::ModelView;
use crate::stage::inputs::dataset_path;
use crate::train::frozen_states::FrozenStates;
use crate::train::io::TrainingIo;
use crate::train::means::Means;
use crate::train::pairs::{PairBatch, Pairs};
use crate::train::policy::Policy;
use crate::train::responses::{ResponseBatch, split};
use crate::train::supervised::{self, Task};
use crate::{Error, Result};

/// Sequences per forward pass of the reference.
const REFERENCE_SEQUENCES: usize = 32;

/// Maximum difference between the first loss and ln 2.
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

/// Trains the policy on pairs.
pub(super) fn train(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    pairs: &Pairs,
    policy: &Policy,
    io: &mut TrainingIo,
) -> Result<()> {
    let settings = spec.dpo.clone().unwrap_or_default();
    let (mut frozen, mut reference) = (None, ReferencePass::EachTime(policy.reference()));
    if !supervised::is_finished(&pairs.groups, &spec.training, io)? {
        io.progress.stage("Reading", 1);
        frozen = FrozenStates::of_ranks(&io.ranks, spec.training.epochs, &policy.decoder, &pairs.tokens());
        if policy.decoder.kind == Kind::Float {
            let key = reference_key(run, spec, &pairs.sequences);
            let model = policy.reference();
            let once = reference_logprobs(io, key, &pairs.sequences, model, frozen.as_ref())?;
            reference = ReferencePass::Once(once);
        }
    }
    let task = PairTask {
        policy,
        pairs,
        frozen,
        reference,
        settings: DpoSettings { loss: settings.loss, beta: settings.beta, label_smoothing: settings.label_smoothing },
    };
    supervised::train(&task, &pairs.groups, &policy.params, &spec.training, io)
}

/// The reference's log-probabilities as stored in the work directory.
#[derive(Deserialize, Serialize)]
struct Reference {
    /// Identifies the inputs that they were computed from.
    key: String,
    logprobs: Vec<f64>,
}

/// Identifies what the reference's log-probabilities are computed from: the model, and the tokens of each sequence.
fn reference_key(run: &RunDocument, spec: &PolicyTuningSpec, sequences: &[Sequence]) -> String {
    let mut hash = Sha256::new();
    hash.update(run.input("policyModel").map_or("", |i| i.digest.as_str()));
    hash.update(format!("{:?}", spec.training.precision));
    for sequence in sequences {
        for tokens in [&sequence.prompt, &sequence.response] {
            hash.update(tokens.len().to_le_bytes());
            for token in tokens {
                hash.update(token.to_le_bytes());
            }
        }
    }
    hex(&hash.finalize())
}

/// The reference's log-probability of each sequence's response, computed once per run and stored in the work directory.
/// Stored values with a different key are recomputed.
fn reference_logprobs(
    io: &mut TrainingIo,
    key: String,
    sequences: &[Sequence],
    reference: ModelView,
    frozen: Option<&FrozenStates>,
) -> Result<Vec<f64>> {
    let path = io.work.join("reference-logprobs.json");
    let ranks = &io.ranks;
    let kept = if ranks.is_first() { files::kept::<Reference>(&path)? } else { None };
    if let Some(kept) = ranks.broadcast(kept.filter(|kept| kept.key == key))? {
        return Ok(kept.logprobs);
    }
    let all: Vec<usize> = (0..sequences.len()).collect();
    let share = ranks.share(&all);
    io.progress.stage("Reference", share.len() as i64);
    let mut sums = Vec::with_capacity(share.len());
    for items in share.chunks(REFERENCE_SEQUENCES) {
        let part: Vec<&Sequence> = items.iter().map(|&i| &sequences[i]).collect();
        let batch =
            ResponseBatch::new(&part, reference.decoder.device()).with_frozen_states(frozen.map(|t| t.gather(items)));
        let found = tch::no_grad(|| batch.logprobs(reference.decoder, reference.adapters, 1.0));
        sums.extend(split(&found.logprobs, &batch.counts).iter().map(|l| l.iter().sum::<f64>()));
        io.progress.advance(sums.len() as i64);
        if shutdown::requested() {
            return Err(Error::Interrupted);
        }
    }
    let sums = ranks.gather(sums)?.concat();
    if sums.iter().any(|sum| !sum.is_finite()) {
        return Err(Error::Data(
            "spec.policyModel: the model computes log-probabilities that are not finite before the first step; its \
             weights do not match its config.json"
                .into(),
        ));
    }
    if ranks.is_first() {
        files::keep(&path, &Reference { key, logprobs: sums.clone() })?;
    }
    Ok(sums)
}

/// How the reference's log-probabilities of responses are obtained.
enum ReferencePass<'a> {
    /// Computed once: one value per sequence.
    Once(Vec<f64>),
    /// Computed by the model with each micro-batch.
    EachTime(ModelView<'a>),
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
    reference: ReferencePass<'a>,
    settings: DpoSettings,
}

impl PairTask<'_> {
    /// The metrics of `count` pairs. `entropy`: summed over the tokens of each response.
    fn means(&self, logps: &PairLogps, entropy: &Sides, count: f64) -> Means {
        let sum = |t: &Tensor| t.detach().sum(Kind::Double).double_value(&[]);
        let (beta, ratios, mut means) = (self.settings.beta, logps.logratios(), Means::default());
        let margins = &ratios.chosen - &ratios.rejected;
        means.add("rewards/chosen", beta * sum(&ratios.chosen), count);
        means.add("rewards/rejected", beta * sum(&ratios.rejected), count);
        means.add("rewards/margins", beta * sum(&margins), count);
        means.add("rewards/accuracies", sum(&margins.gt(0.0)), count);
        means.add("logps/chosen", sum(&logps.policy.chosen), count);
        means.add("logps/rejected", sum(&logps.policy.rejected), count);
        // A response counts once per pair that contains it, so that the mean does not depend on how pairs are split
        // into micro-batches.
        means.add("entropy", sum(&entropy.chosen), sum(&logps.lengths.chosen));
        means.add("entropy", sum(&entropy.rejected), sum(&logps.lengths.rejected));
        means
    }

    /// `[sequences]`: the reference's log-probability of each response of a batch. `sequences`: their numbers in the
    /// run.
    fn reference(&self, batch: &ResponseBatch, sequences: &[usize], device: Device) -> Tensor {
        match &self.reference {
            ReferencePass::Once(all) => {
                let of_batch: Vec<f32> = sequences.iter().map(|&i| all[i] as f32).collect();
                Tensor::from_slice(&of_batch).to_device(device)
            }
            ReferencePass::EachTime(model) => tch::no_grad(|| {
                let found = batch.logprobs(model.decoder, model.adapters, 1.0);
                batch.sum_by_sequence(&found.logprobs)
            }),
        }
    }
}

impl Task for PairTask<'_> {
    fn weight(&self, _item: usize) -> f64 {
        1.0
    }

    fn after_first_step(&self, loss: f64) {
        let off = (loss - std::f64::consts::LN_2).abs();
        if off > FIRST_LOSS_OFF {
            tracing::warn!(
                "the first loss is {loss:.6}, {off:.6} from ln 2 = 0.693147, its value while policy and reference are \
                 the same model: the two are computed differently, and the training signal is off by as much"
            );
        } else {
            tracing::info!(
                "the first loss is {loss:.6}; expected ln 2 = 0.693147, as policy and reference are still the same \
                 model"
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
        let reference = self.reference(&batch, &pairs.sequences, device);
        let found = batch.logprobs(&self.policy.decoder, Adapters::Training, 1.0);
        let logps = PairLogps {
            policy: sides(&pairs, &batch.sum_by_sequence(&found.logprobs)),
            reference: sides(&pairs, &reference),
            lengths: sides(&pairs, &Tensor::from_slice(&batch.counts).to_device(device)),
        };
        let loss = dpo(&logps, &pairs.column(|p| p.preference), self.settings).sum(Kind::Float);
        let entropy = sides(&pairs, &batch.sum_by_sequence(&found.entropy.detach()));
        Ok((loss, self.means(&logps, &entropy, items.len() as f64)))
    }
}
