//! The reference of pair losses: which model it is, and its log-probabilities of the responses.
//!
//! In Float32 the log-probabilities are computed once. In BFloat16 those of the starting model are computed with each
//! micro-batch, in the same pass as the policy's: rounding depends on which sequences share a pass, and in separate
//! passes the reference would differ from a policy with the same weights, for long responses by more than the margin of
//! a pair. Those of another model are always computed once, after which it leaves the memory.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use plumbline_crds::artifact::hex;
use plumbline_crds::policy_tuning::PolicyTuningSpec;
use plumbline_crds::run::RunDocument;
use plumbline_feedback::data::tokens::Sequence;
use plumbline_feedback::files;
use plumbline_feedback::shutdown;
use plumbline_feedback::text::tokenizer::Tokenizer;

use crate::load::hugging_face::ModelFolder;
use crate::model::decoder::Decoder;
use crate::model::linear::Adapters;
use crate::model::view::ModelView;
use crate::stage::inputs::input_path;
use crate::train::frozen_states::FrozenStates;
use crate::train::io::TrainingIo;
use crate::train::policy::Policy;
use crate::train::responses::{ResponseBatch, split};
use crate::{Error, Result};

/// Sequences per forward pass of the reference.
const REFERENCE_SEQUENCES: usize = 32;

/// How the reference's log-probabilities of responses are obtained.
pub(super) enum Reference<'a> {
    /// Computed once: one value per sequence.
    Once(Vec<f64>),
    /// Computed by the model with each micro-batch.
    EachTime(ModelView<'a>),
}

impl<'a> Reference<'a> {
    /// The reference of a run. `frozen`: output of the policy's frozen layers for the sequences.
    ///
    /// # Errors
    /// `Config` for another reference model that does not read the policy's tokens, `Data` if log-probabilities are not
    /// finite, `Interrupted`.
    pub(super) fn new(
        run: &RunDocument,
        spec: &PolicyTuningSpec,
        sequences: &[Sequence],
        policy: &'a Policy,
        tokenizer: &Tokenizer,
        frozen: Option<&FrozenStates>,
        io: &mut TrainingIo,
    ) -> Result<Self> {
        let device = policy.decoder.device();
        if spec.dpo.as_ref().is_some_and(|d| d.reference_model.is_some()) {
            let field = "dpo.referenceModel";
            let other = load(run, spec, sequences, tokenizer, device)?;
            let pass = Pass { field, model: ModelView { decoder: &other, adapters: Adapters::Off }, frozen: None };
            return pass.once(run, spec, sequences, io).map(Self::Once);
        }
        if policy.decoder.kind != Kind::Float {
            return Ok(Self::EachTime(policy.reference()));
        }
        Pass { field: "policyModel", model: policy.reference(), frozen }.once(run, spec, sequences, io).map(Self::Once)
    }

    /// `[sequences]`: the log-probability of each response of a batch. `sequences`: their numbers in the run.
    pub(super) fn of(&self, batch: &ResponseBatch, sequences: &[usize], device: Device) -> Tensor {
        match self {
            Self::Once(all) => {
                let of_batch: Vec<f32> = sequences.iter().map(|&i| all[i] as f32).collect();
                Tensor::from_slice(&of_batch).to_device(device)
            }
            Self::EachTime(model) => tch::no_grad(|| {
                let found = batch.logprobs(model.decoder, model.adapters, 1.0);
                batch.sum_by_sequence(&found.logprobs)
            }),
        }
    }
}

/// Loads the model of `spec.dpo.referenceModel`, which reads what the policy reads.
fn load(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    sequences: &[Sequence],
    policy: &Tokenizer,
    device: Device,
) -> Result<Decoder> {
    const FIELD: &str = "spec.dpo.referenceModel";
    let folder = input_path(run, "dpo.referenceModel")?;
    if let Some((token, id)) = policy.first_missing_in(&Tokenizer::load(&folder)?) {
        return Err(Error::Config(format!(
            "{FIELD}: expected the tokenizer of the policy, found one in which {token:?} is not token {id}; use a model \
             with the policy's tokenizer, or omit the field: the policy model is the reference"
        )));
    }
    let opened = ModelFolder::open(&folder)?;
    let (context, longest) =
        (opened.config.longest(i64::MAX), sequences.iter().map(Sequence::len).max().unwrap_or_default());
    if context < longest {
        return Err(Error::Config(format!(
            "{FIELD}: expected a context of {longest} tokens or more, as the longest pair has, found {context}; lower \
             spec.training.maxLength to {context}, or use a model with a longer context"
        )));
    }
    opened.decoder(spec.training.precision, device)
}

/// The log-probabilities as stored in the work directory.
#[derive(Deserialize, Serialize)]
struct Stored {
    /// Identifies the inputs that they were computed from.
    key: String,
    logprobs: Vec<f64>,
}

/// A pass of a reference over all sequences.
struct Pass<'a> {
    /// The spec field of the model, without `spec.`.
    field: &'static str,
    model: ModelView<'a>,
    /// Output of the model's frozen layers.
    frozen: Option<&'a FrozenStates>,
}

impl Pass<'_> {
    /// Identifies what the log-probabilities are computed from: the model, and the tokens of each sequence.
    fn key(&self, run: &RunDocument, spec: &PolicyTuningSpec, sequences: &[Sequence]) -> String {
        let mut hash = Sha256::new();
        hash.update(run.input(self.field).map_or("", |i| i.digest.as_str()));
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

    /// The log-probability of each sequence's response, computed once per run and stored in the work directory. Stored
    /// values with a different key are recomputed.
    fn once(
        &self,
        run: &RunDocument,
        spec: &PolicyTuningSpec,
        sequences: &[Sequence],
        io: &mut TrainingIo,
    ) -> Result<Vec<f64>> {
        let key = self.key(run, spec, sequences);
        let path = io.work.join("reference-logprobs.json");
        let ranks = &io.ranks;
        let kept = if ranks.is_first() { files::kept::<Stored>(&path)? } else { None };
        if let Some(kept) = ranks.broadcast(kept.filter(|kept| kept.key == key))? {
            return Ok(kept.logprobs);
        }
        let all: Vec<usize> = (0..sequences.len()).collect();
        let share = ranks.share(&all);
        io.progress.stage("Reference", share.len() as i64);
        let mut sums = Vec::with_capacity(share.len());
        for items in share.chunks(REFERENCE_SEQUENCES) {
            let part: Vec<&Sequence> = items.iter().map(|&i| &sequences[i]).collect();
            let batch = ResponseBatch::new(&part, self.model.decoder.device())
                .with_frozen_states(self.frozen.map(|t| t.gather(items)));
            let found = tch::no_grad(|| batch.logprobs(self.model.decoder, self.model.adapters, 1.0));
            sums.extend(split(&found.logprobs, &batch.counts).iter().map(|l| l.iter().sum::<f64>()));
            io.progress.advance(sums.len() as i64);
            if shutdown::requested() {
                return Err(Error::Interrupted);
            }
        }
        let sums = ranks.gather(sums)?.concat();
        if sums.iter().any(|sum| !sum.is_finite()) {
            return Err(Error::Data(format!(
                "spec.{}: the model computes log-probabilities that are not finite before the first step; its weights \
                 do not match its config.json",
                self.field
            )));
        }
        if ranks.is_first() {
            files::keep(&path, &Stored { key, logprobs: sums.clone() })?;
        }
        Ok(sums)
    }
}
