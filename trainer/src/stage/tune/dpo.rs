//! DPO (Rafailov et al., 2023): pairs and a frozen reference -> a policy. The reference's log-probabilities are computed
//! once; a response that takes part in several pairs of a micro-batch is read once.

use std::collections::{BTreeMap, HashMap};

use tch::{Kind, Tensor};

use plumbline_crds::policy_tuning::{Dpo, PolicyTuningSpec};
use plumbline_crds::run::RunDocument;
use plumbline_crds::training::LabelKind;

use crate::data::preference::Preference;
use crate::data::tokens::{self, Sequence};
use crate::load::tokenizer::Tokenizer;
use crate::loss::dpo::{DpoSettings, dpo};
use crate::model::linear::Adapters;
use crate::stage::evaluate::Side;
use crate::stage::reward::{hard, input_path, read_pairs};
use crate::stage::stop;
use crate::stage::tune::{Policy, Trained};
use crate::train::means::Means;
use crate::train::responses::{ResponseBatch, split};
use crate::train::supervised::{self, Outlets, Task};
use crate::train::trunk::Trunk;
use crate::{Error, Result, files};

/// Sequences that the reference reads in one pass.
const REFERENCE_SEQUENCES: usize = 32;

/// Trains the policy on pairs.
pub(super) fn train(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    tokenizer: &Tokenizer,
    policy: &Policy,
    outlets: &mut Outlets,
) -> Result<Trained> {
    let role = if spec.dataset_ref.is_some() { "datasetRef" } else { "dataset" };
    let path = input_path(run, role)?;
    let settings = spec.dpo.clone().unwrap_or_default();
    let (records, _) = read_pairs(&path)?;
    let data = PairData::new(&records, tokenizer, policy.decoder.config.longest(spec.training.max_length), &settings)?;
    if data.pairs.is_empty() {
        let (left_out, longest) = (records.len(), policy.decoder.config.longest(spec.training.max_length));
        return Err(Error::Data(format!(
            "{}: no pair to learn from ({left_out} empty or longer than {longest} tokens: spec.training.maxLength, or the model's context)",
            path.display()
        )));
    }
    outlets.progress.stage("Reading", 1);
    let tokens: Vec<Vec<i64>> = data.sequences.iter().map(Sequence::tokens).collect();
    let trunk = Trunk::new(&policy.decoder, &tokens);
    let reference = reference_logprobs(outlets, &data.sequences, policy.before(), trunk.as_ref())?;
    let task = PairTask {
        policy,
        data: &data,
        trunk,
        reference: &reference,
        settings: DpoSettings { loss: settings.loss, beta: settings.beta, label_smoothing: settings.label_smoothing },
    };
    supervised::train(&task, &data.groups, &policy.params, &spec.training, outlets)?;
    Ok(Trained { prompts: records.into_iter().map(|r| r.prompt_id).collect(), stopped_by_guard: None })
}

/// A pair, by the numbers of its sequences.
struct Pair {
    chosen: usize,
    rejected: usize,
    /// Probability that chosen is better.
    preference: f64,
}

struct PairData {
    /// Every distinct prompt and response.
    sequences: Vec<Sequence>,
    pairs: Vec<Pair>,
    /// Pairs of a prompt.
    groups: Vec<Vec<usize>>,
}

impl PairData {
    fn new(records: &[Preference], tokenizer: &Tokenizer, longest: usize, settings: &Dpo) -> Result<Self> {
        let mut data = Self { sequences: Vec::new(), pairs: Vec::new(), groups: Vec::new() };
        // By prompt and response: the same tokens cut elsewhere have another response.
        let mut numbers: HashMap<Sequence, usize> = HashMap::new();
        let mut by_prompt: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for record in records {
            let chosen = tokens::sequence(tokenizer, &record.prompt, &record.chosen)?;
            let rejected = tokens::sequence(tokenizer, &record.prompt, &record.rejected)?;
            let usable = |s: &Sequence| !s.prompt.is_empty() && !s.response.is_empty() && s.len() <= longest;
            if !usable(&chosen) || !usable(&rejected) {
                tracing::warn!(prompt = record.prompt_id, longest, "a pair is empty or too long and is left out");
                continue;
            }
            let mut number = |sequence: Sequence| {
                *numbers.entry(sequence).or_insert_with_key(|sequence| {
                    data.sequences.push(sequence.clone());
                    data.sequences.len() - 1
                })
            };
            let (chosen, rejected) = (number(chosen), number(rejected));
            let preference = match settings.labels {
                LabelKind::Hard => hard(record.p),
                LabelKind::Soft => record.p,
            };
            by_prompt.entry(&record.prompt_id).or_default().push(data.pairs.len());
            data.pairs.push(Pair { chosen, rejected, preference });
        }
        data.groups = by_prompt.into_values().collect();
        Ok(data)
    }
}

/// The reference's log-probability of each sequence's response, computed once a run and kept in the work folder.
fn reference_logprobs(
    outlets: &mut Outlets,
    sequences: &[Sequence],
    reference: Side,
    trunk: Option<&Trunk>,
) -> Result<Vec<f64>> {
    let path = outlets.work.join("reference-logprobs.json");
    if let Some(kept) = files::kept::<Vec<f64>>(&path)?.filter(|kept| kept.len() == sequences.len()) {
        return Ok(kept);
    }
    outlets.progress.stage("Reference", sequences.len() as i64);
    let mut sums = Vec::with_capacity(sequences.len());
    for start in (0..sequences.len()).step_by(REFERENCE_SEQUENCES) {
        let part: Vec<&Sequence> = sequences.iter().skip(start).take(REFERENCE_SEQUENCES).collect();
        let items: Vec<usize> = (start..start + part.len()).collect();
        let batch = ResponseBatch::new(&part).with_frozen_states(trunk.map(|t| t.gather(&items)));
        let found = tch::no_grad(|| batch.logprobs(reference.model, reference.adapters, 1.0));
        sums.extend(split(&found.logprobs, &batch.counts).iter().map(|l| l.iter().sum::<f64>()));
        outlets.progress.advance(sums.len() as i64);
        if stop::requested() {
            return Err(Error::Interrupted);
        }
    }
    files::keep(&path, &sums)?;
    Ok(sums)
}

struct PairTask<'a> {
    policy: &'a Policy,
    data: &'a PairData,
    trunk: Option<Trunk>,
    reference: &'a [f64],
    settings: DpoSettings,
}

impl Task for PairTask<'_> {
    fn weight(&self, _item: usize) -> f64 {
        1.0
    }

    fn loss(&self, items: &[usize]) -> Result<(Tensor, Means)> {
        let pairs: Vec<&Pair> = items.iter().map(|&i| &self.data.pairs[i]).collect();
        let mut unique: Vec<usize> = pairs.iter().flat_map(|p| [p.chosen, p.rejected]).collect();
        unique.sort_unstable();
        unique.dedup();
        let sequences: Vec<&Sequence> = unique.iter().map(|&i| &self.data.sequences[i]).collect();
        let states = self.trunk.as_ref().map(|t| t.gather(&unique));
        let batch = ResponseBatch::new(&sequences).with_frozen_states(states);
        let found = batch.logprobs(&self.policy.decoder, Adapters::Training, 1.0);
        let logps = batch.sum_by_sequence(&found.logprobs);
        let reference: Vec<f32> = unique.iter().map(|&i| self.reference[i] as f32).collect();
        let ratios = &logps - Tensor::from_slice(&reference);
        let rows = |side: fn(&Pair) -> usize| -> Tensor {
            let rows: Vec<i64> =
                pairs.iter().map(|p| unique.binary_search(&side(p)).unwrap_or_default() as i64).collect();
            Tensor::from_slice(&rows)
        };
        let (chosen_rows, rejected_rows) = (rows(|p| p.chosen), rows(|p| p.rejected));
        let (chosen, rejected) = (ratios.index_select(0, &chosen_rows), ratios.index_select(0, &rejected_rows));
        let preference: Vec<f32> = pairs.iter().map(|p| p.preference as f32).collect();
        let loss = dpo(&chosen, &rejected, &Tensor::from_slice(&preference), self.settings).sum(Kind::Float);

        let count = pairs.len() as f64;
        let sum = |t: &Tensor| t.detach().sum(Kind::Double).double_value(&[]);
        let (beta, mut means) = (self.settings.beta, Means::default());
        means.add("rewards/chosen", beta * sum(&chosen), count);
        means.add("rewards/rejected", beta * sum(&rejected), count);
        means.add("rewards/margins", beta * sum(&(&chosen - &rejected)), count);
        means.add("rewards/accuracies", sum(&(&chosen - &rejected).gt(0.0)), count);
        means.add("logps/chosen", sum(&logps.index_select(0, &chosen_rows)), count);
        means.add("logps/rejected", sum(&logps.index_select(0, &rejected_rows)), count);
        // As many times as it takes part in a pair, so that the mean does not depend on what shares a micro-batch.
        let of_sequence = batch.sum_by_sequence(&found.entropy.detach());
        let tokens = Tensor::from_slice(&batch.counts);
        for rows in [&chosen_rows, &rejected_rows] {
            means.add("entropy", sum(&of_sequence.index_select(0, rows)), sum(&tokens.index_select(0, rows)));
        }
        Ok((loss, means))
    }
}
