//! `tune`: the SFT model and a reward model or preference data -> a tuned model, then the evidence that it is better.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use tch::{Device, Kind, Tensor};

use plumbline_crds::conditions::Reason;
use plumbline_crds::policy_tuning::{Method, PolicyTuningSpec};
use plumbline_crds::run::{RunDocument, StageResult};
use plumbline_crds::training::AdapterSave;
use plumbline_crds::{Kind as ResourceKind, Spec};

use crate::files::fresh_folder;
use crate::load::hugging_face::{ModelFolder, copy_tokenizer, write_safetensors};
use crate::load::save::{Architecture, save_model};
use crate::load::tokenizer::{Tokenizer, template_date};
use crate::load::{clock as template_clock, peft};
use crate::model::decoder::Decoder;
use crate::model::heads::ScalarHead;
use crate::model::linear::Adapters;
use crate::model::lora;
use crate::model::trainable::make_trainable;
use crate::ranks::Ranks;
use crate::report::{LeftOut, MetricsWriter, Progress, Report, Section};
use crate::stage::evaluate::{self, Evaluation, Side};
use crate::stage::in_status;
use crate::stage::reward::RewardModel;
use crate::stage::run::{input_path, publish};
use crate::train::clock::Clock;
use crate::train::supervised::{Outlets, resume_step};
use crate::{Error, Result, device};

mod dpo;
mod ppo;
mod rollout;
mod sft;

pub(crate) use ppo::key_of;

/// Runs the stage.
pub fn run(run: &RunDocument) -> Result<StageResult> {
    let Spec::PolicyTuning(spec) = &run.resource.spec else {
        return Err(Error::Config(format!("expected a PolicyTuning, found a {}", run.resource.kind)));
    };
    let work = Path::new(&run.work);
    let ranks = Ranks::join(run)?;
    if let Some(began) = ranks.of_first(ranks.is_first().then(template_clock::now))? {
        template_clock::set(began);
    }
    let own = ranks.folder(work);
    let mut clock = Clock::open(&own)?;
    clock.start("tune")?;
    let folder = input_path(run, "policyModel")?;
    let tokenizer = Tokenizer::load(&folder)?;
    let device = device::of(&spec.compute)?;
    let mut policy = Policy::load(&folder, spec, device)?;
    let reward = match spec.reward_model_ref {
        Some(_) => Some(RewardModel::load(&input_path(run, "rewardModelRef")?, spec.training.precision, device)?),
        None => None,
    };

    let mut metrics = MetricsWriter::open(&own, resume_step(work, &spec.training)?)?;
    let mut progress = Progress::new(&own)?;
    let mut outlets =
        Outlets { work, metrics: &mut metrics, progress: &mut progress, clock: &mut clock, ranks: &ranks };
    let trained = match spec.method {
        Method::Sft => sft::train(run, spec, &tokenizer, &policy, &mut outlets)?,
        Method::Dpo => dpo::train(run, spec, &tokenizer, &policy, &mut outlets)?,
        Method::Ppo => {
            let reward =
                reward.as_ref().ok_or_else(|| Error::Config("spec.method PPO needs spec.rewardModelRef".into()))?;
            ppo::train(run, spec, &tokenizer, &mut policy, reward, &mut outlets)?
        }
        other => {
            return Err(Error::Config(format!("spec.method: {other:?} is not supported yet; use PPO, DPO or SFT")));
        }
    };

    if !ranks.leave()? {
        return Ok(StageResult::new(Reason::Completed, "trained its share"));
    }

    clock.start("evaluate")?;
    let evaluation = match &spec.evaluation {
        None => None,
        Some(wanted) => {
            let sides = (policy.before(), Side { model: &policy.decoder, adapters: Adapters::On });
            Some(evaluate::evaluate(run, wanted, &tokenizer, sides, reward.as_ref(), &trained.prompts, &mut progress)?)
        }
    };
    progress.stage("Saving", 1);
    let staging = work.join("staging");
    fresh_folder(&staging)?;
    policy.save(run, spec, &folder, &staging)?;
    if let Some(evaluation) = &evaluation {
        evaluation.write_samples(&staging)?;
    }
    metrics.copy_into(&staging)?;
    let seconds = clock.seconds()?;
    let mut report = report(run, spec, &trained, evaluation.as_ref(), &metrics, &seconds)?;
    report.template_date(template_date(&folder)?);
    report.write(&staging)?;
    let artifact = publish(run, &staging)?;
    progress.finish();
    let message = evaluation.as_ref().map_or_else(|| "tuned; not evaluated".into(), Evaluation::headline);
    Ok(StageResult {
        artifact: Some(artifact),
        metrics: progress.metrics().to_vec(),
        counts: in_status(trained.left_out.numbers()),
        evaluation: evaluation.as_ref().map(Evaluation::status).unwrap_or_default(),
        cost: evaluation.and_then(|e| e.cost),
        seconds,
        ..StageResult::new(Reason::Completed, message)
    })
}

/// What training leaves for the report.
pub(crate) struct Trained {
    /// Ids of the prompts that were learnt from: evaluation prompts must not be among them.
    pub prompts: Vec<String>,
    /// Why training stopped before its end, if a guard stopped it.
    pub stopped_by_guard: Option<String>,
    /// Records that were read and not learnt from.
    pub left_out: LeftOut,
}

impl Trained {
    /// Nothing yet; `records` is what a record is called.
    fn new(records: &'static str) -> Self {
        Self { prompts: Vec::new(), stopped_by_guard: None, left_out: LeftOut::new(records) }
    }
}

/// The model that is tuned, and the model it was made from.
pub(crate) struct Policy {
    pub decoder: Decoder,
    /// What is trained, by name.
    pub params: BTreeMap<String, Tensor>,
    /// The model as it was, when it is not this one without adapters.
    original: Option<Decoder>,
    /// Predicts returns (methods with a critic).
    pub value_head: Option<ScalarHead>,
    /// The kind that the model is stored in, and its tuned copy will be.
    kind: Kind,
}

impl Policy {
    fn load(folder: &Path, spec: &PolicyTuningSpec, device: Device) -> Result<Self> {
        let opened = ModelFolder::open(folder)?;
        let mut decoder = opened.decoder(spec.training.precision, device)?;
        // Low-rank adapters leave the original weights as they are: switched off, they are the reference.
        let original = match spec.training.adapter {
            Some(_) => None,
            None if spec.method == Method::Sft && spec.evaluation.is_none() => None,
            None => Some(opened.decoder(spec.training.precision, device)?),
        };
        let params = make_trainable(&mut decoder, &spec.training);
        Ok(Self { decoder, params, original, value_head: None, kind: opened.kind()? })
    }

    /// The model as it was.
    pub(crate) fn before(&self) -> Side<'_> {
        match &self.original {
            Some(model) => Side { model, adapters: Adapters::Off },
            None => Side { model: &self.decoder, adapters: Adapters::Off },
        }
    }

    /// Gives the policy a value head that predicts 0 at first.
    fn add_value_head(&mut self) {
        let head = ScalarHead::zero(self.decoder.config.hidden_size, self.decoder.device());
        self.params.insert("value_head.weight".into(), head.trained.shallow_clone());
        self.value_head = Some(head);
    }

    /// Writes a folder that `AutoModelForCausalLM` (merged) or `PeftModel` (adapter) loads, the value head beside it.
    fn save(&self, run: &RunDocument, spec: &PolicyTuningSpec, base: &Path, folder: &Path) -> Result<()> {
        match &spec.training.adapter {
            Some(adapter) if adapter.save == AdapterSave::Adapter => {
                let base_model = run.input("policyModel").map_or("", |i| i.name.as_str());
                peft::save(&self.decoder, adapter, base_model, folder)?;
            }
            _ => {
                let weights = lora::merged_weights(&self.decoder);
                save_model(folder, &weights, self.kind, &self.decoder.config.raw, Architecture::CausalLm)?;
            }
        }
        if let Some(head) = &self.value_head {
            let named = [("value_head.weight".to_owned(), head.weight())].into();
            write_safetensors(&folder.join("value_head.safetensors"), &named)?;
        }
        copy_tokenizer(base, folder)
    }
}

fn report(
    run: &RunDocument,
    spec: &PolicyTuningSpec,
    trained: &Trained,
    evaluation: Option<&Evaluation>,
    metrics: &MetricsWriter,
    seconds: &BTreeMap<String, f64>,
) -> Result<Report> {
    let name = &run.resource.metadata.name;
    let method = json!(spec.method).as_str().unwrap_or_default().to_owned();
    let mut report = Report::new(ResourceKind::PolicyTuning, name, format!("{method}: {name}"));
    report.card.base_model = Some(spec.policy_model.uri.clone());
    report.card.adapter = spec.training.adapter.as_ref().is_some_and(|a| a.save == AdapterSave::Adapter);
    report.card.tags.push(method.to_lowercase());
    report.fact("Method", &method);
    report.fact("Starting model", &spec.policy_model.uri);
    if let Some(reward) = &spec.reward_model_ref {
        report.fact("Reward model", &reward.name);
    }
    if let Some(dataset) = &spec.dataset_ref {
        report.fact("Preference data", &dataset.name);
    }
    if let Some(why) = &trained.stopped_by_guard {
        let title = "Stopped by a guard".into();
        report.sections.push(Section::Notice { title, text: why.clone() });
    }
    if let Some(evaluation) = evaluation {
        for (name, value) in evaluation.numbers() {
            report.number(name, value);
        }
        report.sections.extend(evaluation.sections());
    }
    trained.left_out.show(&mut report, "Too long is more than spec.training.maxLength or the model's context holds.");
    let history = metrics.history()?;
    for (title, unit, names) in CURVES {
        report.sections.extend(Section::curves(title, unit, &history, names));
    }
    report.timings(seconds);
    for role in ["rewardModelRef", "datasetRef"] {
        if let Some(input) = run.input(role) {
            report.upstream.extend(Report::read(Path::new(&input.path))?);
        }
    }
    Ok(report)
}

/// Plots of a report: title, unit, metrics.
const CURVES: &[(&str, &str, &[&str])] = &[
    ("Reward", "score", &["objective/scores", "objective/rlhf_reward"]),
    ("KL divergence to the starting model", "nats a response", &["objective/kl"]),
    ("Loss", "nats", &["loss"]),
    ("Policy loss", "", &["loss/policy_avg"]),
    ("Value loss", "", &["loss/value_avg"]),
    ("Entropy", "nats a token", &["policy/entropy_avg", "entropy"]),
    ("Response length", "tokens", &["completions/mean_length"]),
    ("Implicit rewards", "nats times beta", &["rewards/chosen", "rewards/rejected"]),
    ("Accuracy", "share of pairs", &["rewards/accuracies"]),
];
