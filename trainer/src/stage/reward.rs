//! `reward`: preference data -> a scalar reward model. Bradley-Terry on the judge's probabilities; a scalar head reads the
//! hidden state of a response's last token (Stiennon et al., 2020).
//!
//! Departures from the usual recipe, on purpose: pairs of a prompt stay side by side and a response that takes part in
//! several pairs of a micro-batch is read once; sequences are packed, not padded.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};

use plumbline_crds::artifact;
use plumbline_crds::conditions::Reason;
use plumbline_crds::reward_model::RewardModelSpec;
use plumbline_crds::run::{RunDocument, StageResult};
use plumbline_crds::training::LabelKind;
use plumbline_crds::{Kind as ResourceKind, Spec};

use crate::data::preference::{self, Preference, Split};
use crate::data::tokens::{self, Sequence};
use crate::data::{prompts, texts};
use crate::files::{fresh_folder, write_json};
use crate::load::hugging_face::{ModelFolder, copy_tokenizer, read_object, write_safetensors};
use crate::load::tokenizer::Tokenizer;
use crate::loss::bradley_terry::{bradley_terry, centering};
use crate::measure::calibration::{Calibration, calibration};
use crate::model::attention::Context;
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::model::linear::Adapters;
use crate::model::lora;
use crate::model::packed::Packed;
use crate::model::trainable::make_trainable;
use crate::report::{MetricsWriter, Number, Progress, Report, Section, decimal, status_name};
use crate::train::clock::Clock;
use crate::train::means::Means;
use crate::train::supervised::{Outlets, Task, resume_step, train};
use crate::train::trunk::Trunk;
use crate::{Error, Result};

/// Name of the head's weight in a checkpoint, as in Hugging Face's sequence classifiers.
pub(crate) const HEAD: &str = "score.weight";
/// Share of the prompts of a plain JSONL file that is kept for validation.
const FILE_VALIDATION_FRACTION: f64 = 0.05;
/// Tokens scored in one forward pass when nothing is learnt.
const SCORING_TOKENS: usize = 4096;

/// Runs the stage.
pub fn run(run: &RunDocument) -> Result<StageResult> {
    let Spec::RewardModel(spec) = &run.resource.spec else {
        return Err(Error::Config(format!("expected a RewardModel, found a {}", run.resource.kind)));
    };
    let work = Path::new(&run.work);
    let mut clock = Clock::open(work)?;
    clock.start("reward")?;
    let base = input_path(run, "baseModel")?;
    let tokenizer = Tokenizer::load(&base)?;
    let mut model = RewardModel::from_base(&base, spec)?;
    let data = PairData::load(run, spec, &tokenizer, model.decoder.config.longest(spec.training.max_length))?;
    let params = model.make_trainable(spec);
    let resume = resume_step(work, &spec.training)?;
    let mut metrics = MetricsWriter::open(work, resume)?;
    let mut progress = Progress::new(work)?;
    progress.stage("Reading", 1);
    let task = PairTask { trunk: Trunk::new(&model.decoder, &data.sequences), model: &model, data: &data, spec };
    let mut outlets = Outlets { work, metrics: &mut metrics, progress: &mut progress, clock: &mut clock };
    train(&task, &data.groups, &params, &spec.training, &mut outlets)?;

    progress.stage("Evaluating", 1);
    let evaluation = evaluate(&model, &data, run, spec, &tokenizer)?;
    check_gates(spec, &evaluation)?;
    progress.stage("Saving", 1);
    let staging = work.join("staging");
    let seconds = clock.seconds()?;
    let report = report(run, spec, &data, &evaluation, &metrics, &seconds)?;
    fresh_folder(&staging)?;
    model.save(&base, &tokenizer, &staging)?;
    metrics.copy_into(&staging)?;
    report.write(&staging)?;
    let manifest = artifact::publish(
        &staging,
        Path::new(&run.output),
        &run.resource.kind.to_string(),
        &run.resource.metadata.name,
        run.lineage(),
        jiff::Timestamp::now().to_string(),
    )?;
    progress.finish();
    Ok(StageResult {
        reason: Reason::Completed,
        message: format!(
            "held-out accuracy {:.3} on {} pairs",
            evaluation.held_out.accuracy, evaluation.held_out.pairs
        ),
        artifact: Some(manifest.artifact_ref(&run.output)),
        metrics: progress.metrics().to_vec(),
        inputs: Vec::new(),
        counts: BTreeMap::new(),
        bias: BTreeMap::new(),
        agreement: BTreeMap::new(),
        evaluation: evaluation.numbers().into_iter().map(|(name, v)| (status_name(name), decimal(v))).collect(),
        cost: None,
        seconds,
    })
}

/// The path of an input that the spec requires.
pub(crate) fn input_path(run: &RunDocument, role: &str) -> Result<PathBuf> {
    run.input(role)
        .map(|i| PathBuf::from(&i.path))
        .ok_or_else(|| Error::Config(format!("the run document has no input for spec.{role}")))
}

/// A decoder with a scalar head in place of its language-model head.
pub struct RewardModel {
    decoder: Decoder,
    head: ScalarHead,
    config: Map<String, Value>,
}

impl RewardModel {
    /// The base model with a head that scores everything 0.
    fn from_base(folder: &Path, spec: &RewardModelSpec) -> Result<Self> {
        let opened = ModelFolder::open(folder)?;
        let decoder = opened.decoder(spec.training.precision)?;
        let head = ScalarHead::zero(decoder.config.hidden_size);
        Ok(Self { config: decoder.config.raw.clone(), decoder, head })
    }

    /// A saved reward model.
    pub fn load(folder: &Path, precision: plumbline_crds::training::Precision) -> Result<Self> {
        let opened = ModelFolder::open(folder)?;
        let decoder = opened.decoder(precision)?;
        let weight = opened.tensor(HEAD, &[1, decoder.config.hidden_size], Kind::Float)?;
        Ok(Self { config: decoder.config.raw.clone(), decoder, head: ScalarHead::from_weight(weight) })
    }

    fn make_trainable(&mut self, spec: &RewardModelSpec) -> BTreeMap<String, Tensor> {
        let mut params = make_trainable(&mut self.decoder, &spec.training);
        // A language-model head takes no part in a score.
        self.decoder.lm_head = None;
        params.remove("lm_head.weight");
        params.insert(HEAD.into(), self.head.trained.shallow_clone());
        params
    }

    /// One score a sequence, `[sequences]`; from what the frozen layers computed for them, if that is known.
    fn forward<S: AsRef<[i64]>>(&self, sequences: &[S], frozen_states: Option<Tensor>, adapters: Adapters) -> Tensor {
        let batch = Packed::new(sequences);
        let hidden = match frozen_states {
            Some(states) => self.decoder.forward_from(states, &batch, adapters),
            None => self.decoder.forward(&batch, &mut Context::Whole, adapters),
        };
        self.head.forward(&hidden.index_select(0, &batch.last_rows()))
    }

    /// One score a sequence, without gradients, in bounded memory.
    pub fn score<S: AsRef<[i64]>>(&self, sequences: &[S]) -> Vec<f64> {
        let _no_grad = tch::no_grad_guard();
        let mut scores = Vec::with_capacity(sequences.len());
        let mut start = 0;
        while start < sequences.len() {
            let (mut end, mut tokens) = (start, 0);
            while end < sequences.len() && (end == start || tokens + sequences[end].as_ref().len() <= SCORING_TOKENS) {
                tokens += sequences[end].as_ref().len();
                end += 1;
            }
            let found = self.forward(&sequences[start..end], None, Adapters::On);
            scores.extend((0..found.size()[0]).map(|i| found.double_value(&[i])));
            start = end;
        }
        scores
    }

    /// Writes a folder that `AutoModelForSequenceClassification` loads.
    fn save(&self, base: &Path, tokenizer: &Tokenizer, folder: &Path) -> Result<()> {
        let mut weights = lora::merged_weights(&self.decoder);
        weights.insert(HEAD.into(), self.head.weight());
        write_safetensors(&folder.join("model.safetensors"), &weights)?;
        let mut config = self.config.clone();
        let mistral = config.get("model_type").is_some_and(|family| family == "mistral");
        let family = if mistral { "Mistral" } else { "Llama" };
        config.insert("architectures".into(), json!([format!("{family}ForSequenceClassification")]));
        config.insert("num_labels".into(), json!(1));
        config.insert("id2label".into(), json!({"0": "LABEL_0"}));
        config.insert("label2id".into(), json!({"LABEL_0": 0}));
        config.insert("torch_dtype".into(), json!("float32"));
        // The classifier of transformers reads the last token that is not the padding token. An end token is often both,
        // and would not be read where it closes a turn.
        let padding = tokenizer.padding();
        config.insert("pad_token_id".into(), json!(padding.map(|(_, id)| id)));
        write_json(&folder.join("config.json"), &config)?;
        copy_tokenizer(base, folder)?;
        for name in ["tokenizer_config.json", "special_tokens_map.json"] {
            let path = folder.join(name);
            if path.exists() {
                let mut object = read_object(&path)?;
                object.insert("pad_token".into(), json!(padding.map(|(token, _)| token)));
                write_json(&path, &object)?;
            }
        }
        Ok(())
    }
}

/// The pairs of a dataset's folder, or of a JSONL file split here by prompt.
pub(crate) fn read_pairs(path: &Path) -> Result<(Vec<Preference>, Vec<Preference>)> {
    if path.is_dir() {
        return Ok((preference::read_split(path, Split::Train)?, preference::read_split(path, Split::Validation)?));
    }
    let all = preference::read_file(path)?;
    Ok(all.into_iter().partition(|r| !prompts::is_validation(&r.prompt_id, FILE_VALIDATION_FRACTION)))
}

/// A pair, by the numbers of its sequences.
struct Pair {
    chosen: usize,
    rejected: usize,
    /// Probability that chosen is better.
    preference: f64,
    margin: f64,
}

struct PairData {
    /// Every distinct prompt and response of the pairs, as tokens.
    sequences: Vec<Vec<i64>>,
    train: Vec<Pair>,
    validation: Vec<Pair>,
    /// Training pairs of a prompt.
    groups: Vec<Vec<usize>>,
    /// Longest sequence that is kept, in tokens.
    longest: usize,
    too_long: usize,
}

impl PairData {
    fn load(run: &RunDocument, spec: &RewardModelSpec, tokenizer: &Tokenizer, longest: usize) -> Result<Self> {
        let role = if spec.dataset_ref.is_some() { "datasetRef" } else { "dataset" };
        let path = input_path(run, role)?;
        let (train, validation) = read_pairs(&path)?;
        let mut data = Self {
            sequences: Vec::new(),
            train: Vec::new(),
            validation: Vec::new(),
            groups: Vec::new(),
            longest,
            too_long: 0,
        };
        let mut numbers: HashMap<Vec<i64>, usize> = HashMap::new();
        let mut by_prompt: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for record in &train {
            if let Some(pair) = data.pair(record, spec, tokenizer, &mut numbers)? {
                by_prompt.entry(&record.prompt_id).or_default().push(data.train.len());
                data.train.push(pair);
            }
        }
        for record in &validation {
            let pair = data.pair(record, spec, tokenizer, &mut numbers)?;
            data.validation.extend(pair);
        }
        if data.train.is_empty() {
            return Err(Error::Data(format!(
                "{}: no pair to learn from ({} longer than {longest} tokens: spec.training.maxLength, or the model's context)",
                path.display(),
                data.too_long,
            )));
        }
        data.groups = by_prompt.into_values().collect();
        Ok(data)
    }

    /// The pair of a record; none if a side is too long.
    fn pair(
        &mut self,
        record: &Preference,
        spec: &RewardModelSpec,
        tokenizer: &Tokenizer,
        numbers: &mut HashMap<Vec<i64>, usize>,
    ) -> Result<Option<Pair>> {
        let chosen = tokens::sequence(tokenizer, &record.prompt, &record.chosen)?;
        let rejected = tokens::sequence(tokenizer, &record.prompt, &record.rejected)?;
        if chosen.len().max(rejected.len()) > self.longest || chosen.is_empty() || rejected.is_empty() {
            self.too_long += 1;
            return Ok(None);
        }
        let mut number = |sequence: &Sequence| {
            let tokens = sequence.tokens();
            *numbers.entry(tokens.clone()).or_insert_with(|| {
                self.sequences.push(tokens);
                self.sequences.len() - 1
            })
        };
        Ok(Some(Pair {
            chosen: number(&chosen),
            rejected: number(&rejected),
            preference: match spec.loss.labels {
                LabelKind::Soft => record.p,
                LabelKind::Hard => hard(record.p),
            },
            margin: record.margin.unwrap_or(0.0) * spec.loss.margin_weight,
        }))
    }
}

/// The hard label of a probability; a tie stays one half.
pub(crate) fn hard(p: f64) -> f64 {
    if p > 0.5 {
        1.0
    } else if p < 0.5 {
        0.0
    } else {
        0.5
    }
}

struct PairTask<'a> {
    model: &'a RewardModel,
    data: &'a PairData,
    trunk: Option<Trunk>,
    spec: &'a RewardModelSpec,
}

impl Task for PairTask<'_> {
    fn weight(&self, _item: usize) -> f64 {
        1.0
    }

    fn loss(&self, items: &[usize]) -> Result<(Tensor, Means)> {
        let pairs: Vec<&Pair> = items.iter().map(|&i| &self.data.train[i]).collect();
        // A response that takes part in several of these pairs is read once.
        let mut unique: Vec<usize> = pairs.iter().flat_map(|p| [p.chosen, p.rejected]).collect();
        unique.sort_unstable();
        unique.dedup();
        let sequences: Vec<&Vec<i64>> = unique.iter().map(|&i| &self.data.sequences[i]).collect();
        let states = self.trunk.as_ref().map(|t| t.gather(&unique));
        let scores = self.model.forward(&sequences, states, Adapters::Training);
        let pick = |side: fn(&Pair) -> usize| {
            let rows: Vec<i64> =
                pairs.iter().map(|p| unique.binary_search(&side(p)).unwrap_or_default() as i64).collect();
            scores.index_select(0, &Tensor::from_slice(&rows))
        };
        let (chosen, rejected) = (pick(|p| p.chosen), pick(|p| p.rejected));
        let column =
            |value: fn(&Pair) -> f64| Tensor::from_slice(&pairs.iter().map(|p| value(p) as f32).collect::<Vec<_>>());
        let (preference, margin) = (column(|p| p.preference), column(|p| p.margin));
        let mut loss = bradley_terry(&chosen, &rejected, &preference, Some(&margin)).sum(Kind::Float);
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
        let length = |i: usize| self.data.sequences[i].len() as f64;
        means.total("num_tokens", pairs.iter().map(|p| length(p.chosen) + length(p.rejected)).sum());
        Ok((loss, means))
    }
}

struct Evaluated {
    held_out: Calibration,
    length_correlation: f64,
    /// Accuracy of the sign of a reward on labelled texts, and how many there are.
    reference: Option<(f64, usize)>,
}

impl Evaluated {
    /// The numbers under stable names.
    fn numbers(&self) -> Vec<(&'static str, f64)> {
        let c = &self.held_out;
        let mut numbers = vec![
            ("accuracy", c.accuracy),
            ("log_loss", c.log_loss),
            ("calibration_error", c.ece),
            ("pairs", c.pairs as f64),
            ("length_correlation", self.length_correlation),
        ];
        numbers.extend(self.reference.map(|(accuracy, _)| ("reference_accuracy", accuracy)));
        numbers
    }
}

fn evaluate(
    model: &RewardModel,
    data: &PairData,
    run: &RunDocument,
    spec: &RewardModelSpec,
    tokenizer: &Tokenizer,
) -> Result<Evaluated> {
    let pairs = if data.validation.is_empty() { &data.train } else { &data.validation };
    let mut used: Vec<usize> = pairs.iter().flat_map(|p| [p.chosen, p.rejected]).collect();
    used.sort_unstable();
    used.dedup();
    let found = model.score(&used.iter().map(|&i| &data.sequences[i]).collect::<Vec<_>>());
    let scores: HashMap<usize, f64> = used.into_iter().zip(found).collect();
    let points: Vec<(f64, f64)> =
        pairs.iter().map(|p| (scores[&p.chosen] - scores[&p.rejected], p.preference)).collect();
    let held_out = calibration(&points, 10).ok_or_else(|| Error::Data("there is no pair to evaluate on".into()))?;
    let length = |i: usize| data.sequences[i].len() as f64;
    let lengths: Vec<f64> = pairs.iter().map(|p| length(p.chosen) - length(p.rejected)).collect();
    let differences: Vec<f64> = points.iter().map(|(d, _)| *d).collect();
    let reference = match spec.reference_labels {
        None => None,
        Some(_) => Some(reference_accuracy(model, &input_path(run, "referenceLabels")?, tokenizer)?),
    };
    Ok(Evaluated { held_out, length_correlation: correlation(&lengths, &differences), reference })
}

/// How often a good text has a reward above the median of all and a bad one below: a reward has no zero of its own.
fn reference_accuracy(model: &RewardModel, path: &Path, tokenizer: &Tokenizer) -> Result<(f64, usize)> {
    let labelled: Vec<(Vec<i64>, f64)> = texts::read(path)?
        .into_iter()
        .filter_map(|t| t.label.map(|label| (t.text, label)))
        .map(|(text, label)| Ok((tokenizer.encode(&text)?, label)))
        .collect::<Result<_>>()?;
    if labelled.is_empty() {
        return Err(Error::Data(format!("{}: expected lines with `text` and `label`, found none", path.display())));
    }
    let scores = model.score(&labelled.iter().map(|(tokens, _)| tokens).collect::<Vec<_>>());
    let mut sorted = scores.clone();
    sorted.sort_by(f64::total_cmp);
    let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    let right = scores.iter().zip(&labelled).filter(|(s, (_, label))| (**s > median) == (*label > 0.5)).count();
    Ok((right as f64 / labelled.len() as f64, labelled.len()))
}

/// Pearson's correlation; 0 when one side does not vary.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let (ma, mb) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let cov: f64 = a.iter().zip(b).map(|(x, y)| (x - ma) * (y - mb)).sum();
    let (va, vb): (f64, f64) = (a.iter().map(|x| (x - ma).powi(2)).sum(), b.iter().map(|y| (y - mb).powi(2)).sum());
    if va == 0.0 || vb == 0.0 { 0.0 } else { cov / (va * vb).sqrt() }
}

fn check_gates(spec: &RewardModelSpec, found: &Evaluated) -> Result<()> {
    let c = &found.held_out;
    if let Some(least) = spec.gates.min_accuracy.filter(|&least| c.accuracy < least) {
        return Err(Error::Gate(format!(
            "spec.gates.minAccuracy asks for {least}, the held-out accuracy is {:.3} on {} pairs",
            c.accuracy, c.pairs
        )));
    }
    if let Some(most) = spec.gates.max_calibration_error.filter(|&most| c.ece > most) {
        return Err(Error::Gate(format!(
            "spec.gates.maxCalibrationError asks for at most {most}, the calibration error is {:.3} on {} pairs",
            c.ece, c.pairs
        )));
    }
    Ok(())
}

fn report(
    run: &RunDocument,
    spec: &RewardModelSpec,
    data: &PairData,
    found: &Evaluated,
    metrics: &MetricsWriter,
    seconds: &BTreeMap<String, f64>,
) -> Result<Report> {
    let name = &run.resource.metadata.name;
    let mut report = Report::new(ResourceKind::RewardModel, name, format!("Reward model {name}"));
    report.card.base_model = Some(spec.base_model.uri.clone());
    report.fact("Base model", &spec.base_model.uri);
    report.fact("Preference data", spec.dataset_ref.as_ref().map_or("a file", |r| &r.name));
    report.fact("Loss", "Bradley-Terry on the judge's probabilities; a scalar head on the last token of a response");
    for (name, value) in found.numbers() {
        report.number(name, value);
    }
    let c = &found.held_out;
    let split = if data.validation.is_empty() {
        "training pairs (the dataset has no validation split)"
    } else {
        "held-out pairs"
    };
    let mut rows = vec![
        Number::new("Accuracy against the judge", c.accuracy)
            .percent()
            .reference(0.5)
            .note(format!("{} {split}", c.pairs)),
        Number::new("Log-loss", c.log_loss).reference(std::f64::consts::LN_2).note("nats a pair; ln 2 says nothing"),
        Number::new("Calibration error", c.ece).note("expected, 10 bins of equal mass"),
        Number::new("Correlation with length", found.length_correlation)
            .reference(0.0)
            .note("of score differences with differences in tokens"),
    ];
    if let Some((accuracy, texts)) = found.reference {
        rows.push(
            Number::new("Accuracy on reference labels", accuracy)
                .percent()
                .reference(0.5)
                .note(format!("{texts} labelled texts, split at the median score")),
        );
    }
    report.sections.push(Section::Numbers { title: "Held-out results".into(), rows });
    if data.too_long > 0 {
        report.sections.push(Section::Notice {
            title: "Pairs left out".into(),
            text: format!("{} pairs are longer than {} tokens and were left out.", data.too_long, data.longest),
        });
    }
    let history = metrics.history()?;
    report.sections.extend(Section::curves("Loss", "nats a pair", &history, &["loss"]));
    report.sections.extend(Section::curves("Accuracy", "share of pairs", &history, &["accuracy"]));
    report.sections.push(Section::Timings { title: "Time".into(), seconds: seconds.clone() });
    for (part, value) in seconds {
        report.number(format!("seconds.{part}"), *value);
    }
    if let Some(input) = run.input("datasetRef") {
        report.upstream.extend(Report::read(Path::new(&input.path))?);
    }
    Ok(report)
}
