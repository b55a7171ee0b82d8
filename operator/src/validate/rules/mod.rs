//! Rules between the fields of one spec, and what a schema alone cannot say. Computes only. Judges, the losses of DPO and
//! pods have files of their own.

mod compute;
mod dpo;
mod judge;

use std::collections::BTreeMap;

use plumbline_crds::Spec;
use plumbline_crds::compute::Compute;
use plumbline_crds::judge::Judge;
use plumbline_crds::online::GroupBaseline;
use plumbline_crds::policy_tuning::{Method, PolicyTuningSpec, Rollout};
use plumbline_crds::preference_dataset::{Order, OrderPolicy, PreferenceDatasetSpec};
use plumbline_crds::reward_model::RewardModelSpec;
use plumbline_crds::source::{KeyRef, ModelSource, PromptSource, Sampling};
use plumbline_crds::training::Training;
use plumbline_crds::unsupported::{self, Target};

use super::problem::{Finding, alternatives};
use crate::uri;
use compute::compute;
use dpo::dpo;
use judge::judge;

/// Everything that is wrong between the fields of a spec, where it is to be run.
pub fn check(spec: &Spec, target: Target) -> Vec<Finding> {
    let mut found = Findings(Vec::new());
    match spec {
        Spec::PreferenceDataset(spec) => dataset(spec, &mut found),
        Spec::RewardModel(spec) => reward(spec, &mut found),
        Spec::PolicyTuning(spec) => tuning(spec, &mut found),
    }
    compute(spec.compute(), &mut found);
    let output = spec.output();
    if let Some(uri) = output.uri.as_ref().filter(|uri| output.credentials_secret_ref.is_some() && !uri::is_store(uri))
    {
        found.push(
            "spec.output.credentialsSecretRef",
            format!("expected an output in a store (s3://, gs://, az://), found {uri}; remove it, and set credentials of inputs in spec.compute.env"),
        );
    }
    for field in unsupported::unsupported(spec, target) {
        let message = field.message();
        found.push(field.path, message);
    }
    found.0
}

struct Findings(Vec<Finding>);

impl Findings {
    fn push(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Finding::new(path, message));
    }

    /// Exactly one of the fields of `path` is set.
    fn exactly_one(&mut self, path: &str, fields: &[(&str, bool)]) {
        self.at_most_one(path, fields);
        if !fields.iter().any(|f| f.1) {
            let names: Vec<&str> = fields.iter().map(|f| f.0).collect();
            self.push(path, format!("expected exactly one of {}, found none; add one", alternatives(&names)));
        }
    }

    fn at_most_one(&mut self, path: &str, fields: &[(&str, bool)]) {
        let set: Vec<&str> = fields.iter().filter(|f| f.1).map(|f| f.0).collect();
        if set.len() > 1 {
            let names: Vec<&str> = fields.iter().map(|f| f.0).collect();
            let (names, set) = (alternatives(&names), set.join(" and "));
            self.push(path, format!("expected only one of {names}, found {set}; remove all but one"));
        }
    }
}

fn dataset(spec: &PreferenceDatasetSpec, found: &mut Findings) {
    prompts(&spec.prompts, "spec.prompts", found);
    found.exactly_one("spec", &[("generator", spec.generator.is_some()), ("responses", spec.responses.is_some())]);
    if let Some(generator) = &spec.generator {
        let (model, endpoint) = (generator.model.as_ref(), generator.endpoint.is_some());
        found.exactly_one("spec.generator", &[("model", model.is_some()), ("endpoint", endpoint)]);
        revision(model, "spec.generator.model", found);
        sampling(&generator.sampling, "spec.generator.sampling", found);
    }
    for (i, one) in spec.judges.iter().enumerate() {
        judge(one, &format!("spec.judges[{i}]"), found);
    }
    api_keys(&spec.judges, found);
    let order = &spec.order;
    if order.policy != OrderPolicy::Sampled
        && order.sample_fraction.to_bits() != Order::default().sample_fraction.to_bits()
    {
        found.push(
            "spec.order.sampleFraction",
            "expected no sampleFraction, which is for spec.order.policy Sampled only; remove it or change policy",
        );
    }
    if spec.budget.max_cost.is_some() {
        cost(&spec.judges, found);
    }
}

/// Each API key reaches the trainer in an environment variable, and two different ones may get the same name: then one of them
/// would be sent to the other's endpoint.
fn api_keys(judges: &[Judge], found: &mut Findings) {
    let mut passed: BTreeMap<String, &KeyRef> = BTreeMap::new();
    for (i, judge) in judges.iter().enumerate() {
        let Some(key) = judge.endpoint.as_ref().and_then(|e| e.api_key_secret_ref.as_ref()) else { continue };
        let variable = key.variable();
        let first = *passed.entry(variable.clone()).or_insert(key);
        if first != key {
            found.push(
                format!("spec.judges[{i}].endpoint.apiKeySecretRef"),
                format!(
                    "expected an environment variable of its own, found {variable} for key {} of Secret {} and for key {} of Secret {}; rename a Secret or a key",
                    first.key, first.name, key.key, key.name
                ),
            );
        }
    }
}

/// A limit in money can only be kept when every call has a price, all in one currency.
fn cost(judges: &[Judge], found: &mut Findings) {
    let mut currency: Option<&str> = None;
    for (i, judge) in judges.iter().enumerate().filter(|(_, j)| j.endpoint.is_some()) {
        let path = format!("spec.judges[{i}].price");
        match (&judge.price, currency) {
            (None, _) => found.push(path, "expected a price, as spec.budget.maxCost is set, found none; add `price` or use spec.budget.maxRequests"),
            (Some(price), Some(first)) if price.currency != first => found.push(
                format!("{path}.currency"),
                format!("expected {first} as for the judges before, found {}; give all prices in one currency", price.currency),
            ),
            (Some(price), _) => currency = Some(&price.currency),
        }
    }
}

fn reward(spec: &RewardModelSpec, found: &mut Findings) {
    found.exactly_one("spec", &[("datasetRef", spec.dataset_ref.is_some()), ("dataset", spec.dataset.is_some())]);
    revision(Some(&spec.base_model), "spec.baseModel", found);
    training(&spec.training, found);
    nodes(&spec.compute, "spec.training.batchSize", spec.training.batch_size, found);
}

/// Measures that every evaluation reports; a lexicon of the same name would take their place.
pub(crate) const MEASURES: [&str; 5] = ["reward", "distinct_2", "repetition_rate", "length", "ended"];

fn tuning(spec: &PolicyTuningSpec, found: &mut Findings) {
    revision(Some(&spec.policy_model), "spec.policyModel", found);
    training(&spec.training, found);
    nodes(&spec.compute, "spec.training.batchSize", spec.training.batch_size, found);
    if spec.method.samples() {
        nodes(&spec.compute, "spec.rollout.promptsPerStep", spec.rollout.prompts_per_step, found);
    }
    method(spec, found);
    if let Some(source) = &spec.prompts {
        prompts(source, "spec.prompts", found);
    }
    let (new, longest) = (spec.rollout.sampling.max_new_tokens, spec.training.max_length);
    if spec.method.samples() && new >= longest {
        found.push(
            "spec.rollout.sampling.maxNewTokens",
            format!("expected less than spec.training.maxLength ({longest}), which has to hold the prompt too, found {new}; lower it or raise maxLength"),
        );
    }
    sampling(&spec.rollout.sampling, "spec.rollout.sampling", found);
    if let Some(evaluation) = &spec.evaluation {
        for (i, lexicon) in evaluation.lexicons.iter().enumerate() {
            if MEASURES.contains(&lexicon.name.as_str()) {
                found.push(
                    format!("spec.evaluation.lexicons[{i}].name"),
                    format!("expected a name that no other measure has, found `{}`; rename it", lexicon.name),
                );
            }
        }
        sampling(&evaluation.sampling, "spec.evaluation.sampling", found);
        prompts(&evaluation.prompts, "spec.evaluation.prompts", found);
        if let Some(one) = &evaluation.judge {
            judge(one, "spec.evaluation.judge", found);
        }
    }
    if let Some(settings) = &spec.dpo {
        dpo(settings, found);
        revision(settings.reference_model.as_ref(), "spec.dpo.referenceModel", found);
    }
    if let Some(one) = spec.guard.as_ref().and_then(|g| g.held_out_judge.as_ref()) {
        judge(one, "spec.guard.heldOutJudge", found);
    }
}

fn sampling(sampling: &Sampling, path: &str, found: &mut Findings) {
    let (least, most) = (sampling.min_new_tokens, sampling.max_new_tokens);
    if least > most {
        found.push(
            format!("{path}.minNewTokens"),
            format!("expected at most {path}.maxNewTokens ({most}), found {least}; lower it"),
        );
    }
}

/// What each method learns from, and the fields that only some methods read. A method that is not supported is refused
/// first, and its inputs are not checked.
fn method(spec: &PolicyTuningSpec, found: &mut Findings) {
    if !unsupported::is_supported(spec.method) {
        return;
    }
    let name = method_name(spec.method);
    let mut field = |field: &str, is_set: bool, needed: bool, read: bool| {
        if needed && !is_set {
            found.push(
                format!("spec.{field}"),
                format!("expected {field} for method {name}, found nothing; add `{field}`"),
            );
        }
        if is_set && !read {
            found.push(
                format!("spec.{field}"),
                format!(
                    "expected no {field} with method {name}, which does not read it; remove it or change spec.method"
                ),
            );
        }
    };
    let samples = spec.method.samples();
    field("rewardModelRef", spec.reward_model_ref.is_some(), samples, samples);
    field("prompts", spec.prompts.is_some(), samples, samples);
    field("rollout", spec.rollout != Rollout::default(), false, samples);
    field("datasetRef", spec.dataset_ref.is_some(), false, spec.method == Method::Dpo);
    field("dataset", spec.dataset.is_some(), spec.method == Method::Sft, !samples);
    let mut settings = |name: &str, is_set: bool, of: Method| field(name, is_set, false, spec.method == of);
    settings("ppo", spec.ppo.is_some(), Method::Ppo);
    settings("grpo", spec.grpo.is_some(), Method::Grpo);
    settings("rloo", spec.rloo.is_some(), Method::Rloo);
    settings("reinforce", spec.reinforce.is_some(), Method::Reinforce);
    settings("reinforcePlusPlus", spec.reinforce_plus_plus.is_some(), Method::ReinforcePlusPlus);
    settings("a2c", spec.a2c.is_some(), Method::A2c);
    settings("dpo", spec.dpo.is_some(), Method::Dpo);
    field("guard", spec.guard.is_some(), false, samples);
    several_responses(spec, found);
    if spec.method == Method::Dpo {
        found.exactly_one("spec", &[("datasetRef", spec.dataset_ref.is_some()), ("dataset", spec.dataset.is_some())]);
    }
}

/// Methods that compare the responses to a prompt learn nothing from a single one.
fn several_responses(spec: &PolicyTuningSpec, found: &mut Findings) {
    let is_grouped = spec.reinforce_plus_plus.as_ref().is_some_and(|r| r.baseline == GroupBaseline::Group);
    let by = match spec.method {
        method if method.compares_responses() => format!("method {}", method_name(method)),
        Method::ReinforcePlusPlus if is_grouped => "spec.reinforcePlusPlus.baseline Group".to_owned(),
        _ => return,
    };
    if spec.rollout.responses_per_prompt < 2 {
        found.push(
            "spec.rollout.responsesPerPrompt",
            format!("expected at least 2 for {by}, which compares the responses to a prompt with each other, found 1; use 4 or more"),
        );
    }
}

/// The method as written in a manifest.
fn method_name(method: Method) -> String {
    serde_json::to_value(method).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn training(training: &Training, found: &mut Findings) {
    let (micro, batch) = (training.micro_batch_size, training.batch_size);
    if micro > batch {
        found.push(
            "spec.training.microBatchSize",
            format!("expected at most spec.training.batchSize ({batch}), found {micro}; lower it or raise batchSize"),
        );
    }
}

/// Each pod has a share of what is computed together.
fn nodes(compute: &Compute, field: &str, shared: i64, found: &mut Findings) {
    let nodes = compute.nodes;
    if nodes > shared {
        found.push(
            "spec.compute.nodes",
            format!("expected at most {field} ({shared}), of which each node computes a share, found {nodes}; lower it or raise {field}"),
        );
    }
}

fn prompts(source: &PromptSource, path: &str, found: &mut Findings) {
    let fields = [
        ("inline", source.inline.is_some()),
        ("uri", source.uri.is_some()),
        ("configMapRef", source.config_map_ref.is_some()),
    ];
    found.exactly_one(path, &fields);
}

fn revision(model: Option<&ModelSource>, path: &str, found: &mut Findings) {
    if let Some(model) = model
        && model.revision.is_some()
        && !model.uri.starts_with("hf://")
    {
        found.push(
            format!("{path}.revision"),
            "expected a revision only with an hf:// URI, found one with a file; remove it",
        );
    }
}

#[cfg(test)]
mod tests;
