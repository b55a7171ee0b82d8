//! The report of a tuned policy (computes, and reads the reports of its inputs).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use plumbline_crds::Kind as ResourceKind;
use plumbline_crds::dpo::{Dpo, WeightedLoss};
use plumbline_crds::policy_tuning::{Method, PolicyTuningSpec};
use plumbline_crds::run::RunDocument;
use plumbline_crds::training::AdapterSave;
use plumbline_feedback::report::{MetricsWriter, Report, Section};

use crate::Result;
use crate::stage::evaluate::Evaluation;
use crate::stage::tune::Trained;

/// Builds the report of a training, and of its evaluation if there is one. `seconds`: by part of the stage.
pub(super) fn report(
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
    if spec.method == Method::Dpo {
        let settings = spec.dpo.clone().unwrap_or_default();
        report.fact("Loss", in_words(&settings));
        if let Some(model) = &settings.reference_model {
            report.fact("Reference model", &model.uri);
        }
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
    trained.left_out.show(&mut report, "Too long means longer than spec.training.maxLength or the model's context.");
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

/// The losses of a tuning on pairs with the weights that are not 1: `Sigmoid + 0.2 Sft`.
fn in_words(settings: &Dpo) -> String {
    let word = |l: &WeightedLoss| match l.weight {
        1.0 => format!("{:?}", l.loss),
        weight => format!("{weight} {:?}", l.loss),
    };
    settings.losses().iter().map(word).collect::<Vec<_>>().join(" + ")
}

/// Plots of a report: title, unit, metrics.
const CURVES: &[(&str, &str, &[&str])] = &[
    ("Reward", "score", &["objective/scores", "objective/rlhf_reward", "reward"]),
    ("KL divergence to the starting model", "nats per response", &["objective/kl"]),
    ("Loss", "nats", &["loss"]),
    ("Policy loss", "", &["loss/policy_avg"]),
    ("Value loss", "", &["loss/value_avg"]),
    ("Entropy", "nats per token", &["policy/entropy_avg", "entropy"]),
    ("Response length", "tokens", &["completions/mean_length"]),
    ("Implicit rewards", "nats times beta", &["rewards/chosen", "rewards/rejected"]),
    ("Accuracy", "share of pairs", &["rewards/accuracies"]),
];
