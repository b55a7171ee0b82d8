//! `reward`: preference data -> a scalar reward model. Bradley-Terry on the judge's probabilities; a scalar head reads the
//! hidden state of a response's last token (Stiennon et al., 2020).
//!
//! Deliberate departures from the usual recipe: pairs of a prompt stay together and a response that is part of several
//! pairs of a micro-batch is computed once; sequences are packed, not padded.

use tch::{Kind, Tensor};

use plumbline_crds::Spec;
use plumbline_crds::conditions::Reason;
use plumbline_crds::reward_model::RewardModelSpec;
use plumbline_crds::run::{RunDocument, StageResult};
use plumbline_feedback::data::preference::{self, Preference};
use plumbline_feedback::data::texts::{self, Text};
use plumbline_feedback::data::tokens::Sequence;
use plumbline_feedback::files::fresh_folder;
use plumbline_feedback::measure::calibration::{Calibration, calibration};
use plumbline_feedback::measure::pearson;
use plumbline_feedback::report::{LeftOut, Why, decimal, status_name};
use plumbline_feedback::store::work_dir_sync::WorkDirSync;
use plumbline_feedback::text::tokenizer::{Tokenizer, template_date};

use crate::loss::bradley_terry::{bradley_terry, centering};
use crate::loss::label::smoothed;
use crate::model::linear::Adapters;
use crate::model::reward_model::RewardModel;
use crate::stage::in_status;
use crate::stage::inputs::{dataset_path, input_path};
use crate::stage::run::publish;
use crate::train::frozen_states::FrozenStates;
use crate::train::io::TrainingIo;
use crate::train::means::Means;
use crate::train::pairs::Pairs;
use crate::train::supervised::{Task, is_finished, train};
use crate::{Error, Result, device};

mod show;

/// Runs the stage.
pub fn run(run: &RunDocument, sync: &WorkDirSync) -> Result<StageResult> {
    let Spec::RewardModel(spec) = &run.resource.spec else {
        return Err(Error::Config(format!("expected a RewardModel, found a {}", run.resource.kind)));
    };
    let mut io = TrainingIo::open(run, sync, "reward", &spec.training)?;
    let base = input_path(run, "baseModel")?;
    let tokenizer = Tokenizer::load(&base)?;
    let device = device::of(&spec.compute)?;
    let mut model = RewardModel::from_base(&base, spec, device)?;
    let config = &model.decoder.config;
    let data = Data::load(run, spec, &tokenizer, config.longest(spec.training.max_length))?;
    // Check first what is needed last: a fault in it must not cost the training.
    data.check_gates(spec)?;
    let reference = Reference::read(run, spec, &tokenizer, config.longest(i64::MAX))?;
    let params = model.make_trainable(spec)?;
    io.progress.stage("Reading", 1);
    let tokens = data.train.tokens();
    let finished = is_finished(&data.train.groups, &spec.training, &io)?;
    let frozen = || FrozenStates::of_ranks(&io.ranks, spec.training.epochs, &model.decoder, &tokens);
    let task = PairTask {
        frozen: if finished { None } else { frozen() },
        model: &model,
        pairs: &data.train,
        tokens: &tokens,
        spec,
    };
    train(&task, &data.train.groups, &params, &spec.training, &mut io)?;
    if !io.ranks.finish()? {
        return Ok(StageResult::new(Reason::Completed, "this rank has finished training"));
    }

    io.progress.stage("Saving", 1);
    let staging = io.work.join("staging");
    fresh_folder(&staging)?;
    model.save(&base, &tokenizer, &staging)?;
    // Merging adapters and rounding to the stored data type change weights: measure the model that users will load.
    drop((model, params));
    let saved = RewardModel::load(&staging, spec.training.precision, device)?;
    io.progress.stage("Evaluating", 1);
    let evaluation = evaluate(&saved, &data, reference.as_ref())?;
    let seconds = io.clock.seconds()?;
    let mut report = show::report(run, spec, &data, &evaluation, &io.metrics, &seconds)?;
    report.template_date(template_date(&base)?);
    io.metrics.copy_into(&staging)?;
    report.write(&staging)?;
    // Checked after the report is written, as the report shows why a gate was not met.
    check_gates(spec, &evaluation)?;
    let artifact = publish(run, &staging)?;
    io.progress.finish();
    let split = if evaluation.held_out { "held-out" } else { "training" };
    let message =
        format!("accuracy {:.3} on {} {split} pairs", evaluation.measured.accuracy, evaluation.measured.pairs);
    Ok(StageResult {
        artifact: Some(artifact),
        metrics: io.progress.metrics().to_vec(),
        counts: in_status(data.left_out().numbers()),
        evaluation: evaluation.numbers().into_iter().map(|(name, v)| (status_name(&name), decimal(v))).collect(),
        seconds,
        ..StageResult::new(Reason::Completed, message)
    })
}

/// The pairs of a run.
struct Data {
    train: Pairs,
    validation: Pairs,
    /// Longest usable sequence, in tokens.
    longest: usize,
}

impl Data {
    fn load(run: &RunDocument, spec: &RewardModelSpec, tokenizer: &Tokenizer, longest: usize) -> Result<Self> {
        let path = dataset_path(run)?;
        let (train, validation) = preference::read(&path)?;
        let unusable = |s: &Sequence| match s.len() {
            0 => Some(Why::Empty),
            n if n > longest => Some(Why::TooLong),
            _ => None,
        };
        let pairs = |records: &[Preference]| Pairs::new(records, &path, tokenizer, spec.loss.labels, unusable);
        let data = Self { train: pairs(&train)?, validation: pairs(&validation)?, longest };
        data.train.enough(&path, longest)?;
        if data.validation.pairs.is_empty() && !validation.is_empty() {
            return Err(Error::Data(format!(
                "{}: no pair of the validation split can be used: {} left out, where too long means more than \
                 {longest} tokens (spec.training.maxLength, or the model's context); raise spec.training.maxLength, \
                 or provide other pairs",
                path.display(),
                data.validation.left_out.words()
            )));
        }
        Ok(data)
    }

    /// Rejects gates on held-out pairs if there are none: accuracy on training pairs says nothing about other pairs.
    fn check_gates(&self, spec: &RewardModelSpec) -> Result<()> {
        let gates = [
            ("minAccuracy", spec.gates.min_accuracy.is_some()),
            ("maxCalibrationError", spec.gates.max_calibration_error.is_some()),
        ];
        match gates.iter().find(|(_, is_set)| *is_set && self.validation.pairs.is_empty()) {
            Some((gate, _)) => Err(Error::Data(format!(
                "spec.gates.{gate} is measured on held-out pairs, but the data has no validation split; hold prompts \
                 out (a larger spec.prompts.validationFraction of the PreferenceDataset, more prompts, or a directory \
                 with a validation split), or omit the gate"
            ))),
            None => Ok(()),
        }
    }

    /// The pairs for measuring: the training pairs if no others are held out.
    fn held_out(&self) -> &Pairs {
        if self.validation.pairs.is_empty() { &self.train } else { &self.validation }
    }

    /// Records skipped in both splits.
    fn left_out(&self) -> LeftOut {
        let mut all = self.train.left_out.clone();
        all.merge(&self.validation.left_out);
        all
    }
}

struct PairTask<'a> {
    model: &'a RewardModel,
    pairs: &'a Pairs,
    /// Tokens of each sequence of the pairs.
    tokens: &'a [Vec<i64>],
    frozen: Option<FrozenStates>,
    spec: &'a RewardModelSpec,
}

impl Task for PairTask<'_> {
    fn weight(&self, _item: usize) -> f64 {
        1.0
    }

    fn loss(&self, items: &[usize]) -> Result<(Tensor, Means)> {
        let batch = self.pairs.batch(items, self.model.decoder.device());
        let sequences: Vec<&Vec<i64>> = batch.sequences.iter().map(|&i| &self.tokens[i]).collect();
        let states = self.frozen.as_ref().map(|t| t.gather(&batch.sequences));
        let (chosen, rejected) = batch.sides(&self.model.forward(&sequences, states, Adapters::Training));
        let preference = batch.column(|p| p.preference);
        let margin = batch.column(|p| p.margin * self.spec.loss.margin_weight);
        let target = smoothed(&preference, self.spec.loss.label_smoothing);
        let mut loss = bradley_terry(&chosen, &rejected, &target, Some(&margin)).sum(Kind::Float);
        if self.spec.loss.centering_coefficient > 0.0 {
            loss += centering(&chosen, &rejected).sum(Kind::Float) * self.spec.loss.centering_coefficient;
        }

        let count = items.len() as f64;
        let sum = |t: &Tensor| t.sum(Kind::Double).double_value(&[]);
        let mut means = Means::default();
        let difference = (&chosen - &rejected).detach();
        let signs = (&preference - 0.5).sign();
        let decided = sum(&signs.abs());
        means.add("accuracy", sum(&(difference.sign() * &signs).gt(0.0)), decided);
        means.add("margin", sum(&(difference * &signs)), count);
        means.add("mean_reward", sum(&(&chosen + &rejected).detach()), 2.0 * count);
        let length = |i: usize| self.tokens[i].len() as f64;
        means.total("num_tokens", batch.pairs.iter().map(|p| length(p.chosen) + length(p.rejected)).sum());
        Ok((loss, means))
    }
}

struct Evaluated {
    measured: Calibration,
    /// Whether the metrics are of held-out pairs.
    held_out: bool,
    length_correlation: f64,
    /// Accuracy of the reward's sign on labelled texts, and the number of texts.
    reference: Option<(f64, usize)>,
}

fn evaluate(model: &RewardModel, data: &Data, reference: Option<&Reference>) -> Result<Evaluated> {
    let pairs = data.held_out();
    let scores = model.score(&pairs.tokens());
    let points: Vec<(f64, f64)> =
        pairs.pairs.iter().map(|p| (scores[p.chosen] - scores[p.rejected], p.preference)).collect();
    let not_numbers = points.iter().filter(|(difference, _)| !difference.is_finite()).count();
    if not_numbers > 0 {
        return Err(Error::Failed(format!(
            "the saved reward model gives {not_numbers} of {} evaluated pairs a score that is not a finite number; lower \
             spec.training.learningRate, or use spec.training.precision Float32",
            points.len()
        )));
    }
    let measured = calibration(&points, 10).ok_or_else(|| Error::Data("there is no pair to evaluate on".into()))?;
    let length = |i: usize| pairs.sequences[i].len() as f64;
    let lengths = pairs.pairs.iter().map(|p| length(p.chosen) - length(p.rejected));
    let length_correlation = pearson(&lengths.zip(points.iter().map(|(d, _)| *d)).collect::<Vec<_>>()).unwrap_or(0.0);
    let reference = reference.map(|r| r.accuracy(model));
    let held_out = !data.validation.pairs.is_empty();
    Ok(Evaluated { measured, held_out, length_correlation, reference })
}

/// Labelled reference texts: tokens and label.
struct Reference(Vec<(Vec<i64>, f64)>);

impl Reference {
    /// Reads the reference texts, if the spec has any. `longest`: maximum number of tokens of the model.
    fn read(run: &RunDocument, spec: &RewardModelSpec, tokenizer: &Tokenizer, longest: usize) -> Result<Option<Self>> {
        if spec.reference_labels.is_none() {
            return Ok(None);
        }
        let path = input_path(run, "referenceLabels")?;
        let mut labelled = Vec::new();
        for (number, Text { text, label, .. }) in (1..).zip(texts::read(&path)?) {
            let Some(label) = label else {
                return Err(Error::Data(format!(
                    "{}: expected a number as `label` in every record, found none in record {number}; add it, or \
                     remove the record",
                    path.display()
                )));
            };
            let tokens = tokenizer.encode(&text)?;
            if !(1..=longest).contains(&tokens.len()) {
                let start: String = text.chars().take(40).collect();
                return Err(Error::Data(format!(
                    "{}: expected texts of 1 to {longest} tokens, the model's context, found {} tokens in the text \
                     that begins with {start:?}; shorten or remove it",
                    path.display(),
                    tokens.len()
                )));
            }
            labelled.push((tokens, label));
        }
        Ok(Some(Self(labelled)))
    }

    /// The fraction of texts whose reward is on the right side of the median of all (rewards have no absolute zero):
    /// above it for a good text, below for a bad one. Also returns the number of texts.
    fn accuracy(&self, model: &RewardModel) -> (f64, usize) {
        let scores = model.score(&self.0.iter().map(|(tokens, _)| tokens).collect::<Vec<_>>());
        let mut sorted = scores.clone();
        sorted.sort_by(f64::total_cmp);
        let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        let right = scores.iter().zip(&self.0).filter(|(s, (_, label))| (**s > median) == (*label > 0.5)).count();
        (right as f64 / self.0.len() as f64, self.0.len())
    }
}

fn check_gates(spec: &RewardModelSpec, found: &Evaluated) -> Result<()> {
    let c = &found.measured;
    if let Some(least) = spec.gates.min_accuracy.filter(|&least| c.accuracy.is_nan() || c.accuracy < least) {
        return Err(Error::Gate(format!(
            "held-out accuracy {:.3} on {} pairs is below spec.gates.minAccuracy {least}",
            c.accuracy, c.pairs
        )));
    }
    if let Some(most) = spec.gates.max_calibration_error.filter(|&most| c.ece > most) {
        return Err(Error::Gate(format!(
            "calibration error {:.3} on {} pairs is above spec.gates.maxCalibrationError {most}",
            c.ece, c.pairs
        )));
    }
    Ok(())
}
