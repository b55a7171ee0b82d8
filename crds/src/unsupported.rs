//! Fields that are part of the API but that nothing acts on: not yet, or not where the resource is to be run. Each is refused
//! by name: a field that is accepted and ignored would be a defect. Remove an entry in the commit that makes its field work.

use serde::Serialize;
use serde_json::Value;

use crate::judge::{Judge, LabelSource, Reasoning};
use crate::policy_tuning::{GuardAction, Method, PolicyTuningSpec};
use crate::preference_dataset::{Aggregation, PreferenceDatasetSpec};
use crate::resource::Spec;
use crate::reward_model::RewardModelSpec;
use crate::source::{PromptSource, default_validation_fraction};
use crate::training::{AdapterSave, Switch, Training};

/// A field that nothing acts on where its resource is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Path of the field (`spec.judges[0].reasoning`).
    pub path: String,
    /// The value that was found, where others of the field are accepted.
    pub found: Option<String>,
    /// Why nothing acts on it.
    pub cause: Cause,
    /// What to do instead.
    pub instead: String,
}

/// Why nothing acts on a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is not implemented.
    NotYet,
    /// `plumbline run` has nothing for it; the operator does.
    Local,
    /// The rest of the spec leaves it nothing to act on, in words (`with a single judge`).
    Without(&'static str),
}

impl Unsupported {
    /// Found, why not, and what to do instead.
    pub fn message(&self) -> String {
        let found = self.found.as_ref().map(|value| format!("found {value}, which is ")).unwrap_or_default();
        match self.cause {
            Cause::NotYet => format!("{found}not supported yet; {}", self.instead),
            Cause::Local => format!(
                "{found}not available in a local run (for a cluster, check with `validate --cluster`); {}",
                self.instead
            ),
            Cause::Without(what) => format!("has no effect {what}; {}", self.instead),
        }
    }
}

/// Where a resource is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// By `plumbline run`.
    Local,
    /// By the operator.
    Cluster,
}

/// Every field of a spec that is set and that nothing acts on where it is to be run.
pub fn unsupported(spec: &Spec, target: Target) -> Vec<Unsupported> {
    let mut list = List { found: Vec::new(), target };
    match spec {
        Spec::PreferenceDataset(s) => dataset(s, &mut list),
        Spec::RewardModel(s) => reward(s, &mut list),
        Spec::PolicyTuning(s) => tuning(s, &mut list),
    }
    list.locally(
        spec.output().credentials_secret_ref.is_some(),
        "spec.output.credentialsSecretRef",
        "set the variables (AWS_ACCESS_KEY_ID, ...) where you start `plumbline run`",
    );
    let nodes = spec.compute().nodes;
    match spec {
        Spec::PreferenceDataset(_) => {
            list.value(nodes > 1, "spec.compute.nodes", nodes, "use 1 node: only training is spread over several");
        }
        _ => list.value_locally(
            nodes > 1,
            "spec.compute.nodes",
            nodes,
            "use 1 node: `plumbline run` starts one process per stage",
        ),
    }
    let accelerators = spec.compute().accelerators;
    list.value(
        accelerators > 1,
        "spec.compute.accelerators",
        accelerators,
        "use 1: a pod trains on one accelerator (0 for the CPU)",
    );
    list.locally(
        !spec.compute().env.is_empty(),
        "spec.compute.env",
        "set the variables where you start `plumbline run`",
    );
    list.locally(spec.compute().deadline_seconds.is_some(), "spec.compute.deadlineSeconds", "leave it out");
    list.found
}

/// Whether a method trains.
pub fn is_supported(method: Method) -> bool {
    method != Method::BestOfN
}

struct List {
    found: Vec<Unsupported>,
    target: Target,
}

impl List {
    /// A field, whatever its value.
    fn check(&mut self, is_set: bool, path: impl Into<String>, instead: &str) {
        self.push(is_set, path.into(), None, Cause::NotYet, instead);
    }

    /// One value of a field that accepts others.
    fn value(&mut self, is_set: bool, path: impl Into<String>, found: impl Serialize, instead: &str) {
        self.push(is_set, path.into(), Some(shown(found)), Cause::NotYet, instead);
    }

    /// A field that is for a cluster.
    fn locally(&mut self, is_set: bool, path: impl Into<String>, instead: &str) {
        self.push(is_set && self.target == Target::Local, path.into(), None, Cause::Local, instead);
    }

    /// One value of a field, which is for a cluster.
    fn value_locally(&mut self, is_set: bool, path: impl Into<String>, found: impl Serialize, instead: &str) {
        self.push(is_set && self.target == Target::Local, path.into(), Some(shown(found)), Cause::Local, instead);
    }

    /// A field that the rest of the spec leaves without effect.
    fn without(&mut self, is_set: bool, path: impl Into<String>, what: &'static str, instead: &str) {
        self.push(is_set, path.into(), None, Cause::Without(what), instead);
    }

    fn push(&mut self, is_set: bool, path: String, found: Option<String>, cause: Cause, instead: &str) {
        if is_set {
            self.found.push(Unsupported { path, found, cause, instead: instead.into() });
        }
    }
}

/// A value as a manifest has it.
fn shown(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

fn dataset(s: &PreferenceDatasetSpec, list: &mut List) {
    prompts(&s.prompts, "spec.prompts", list);
    list.check(s.responses.is_some(), "spec.responses", "let spec.generator.model write the responses");
    if let Some(g) = &s.generator {
        list.check(g.endpoint.is_some(), "spec.generator.endpoint", "use spec.generator.model");
    }
    for (i, j) in s.judges.iter().enumerate() {
        judge(j, &format!("spec.judges[{i}]"), list);
    }
    if let [only] = s.judges.as_slice() {
        weight(only, "spec.judges[0]", list);
    }
    list.value(s.aggregation != Aggregation::Mean, "spec.aggregation", s.aggregation, "leave it out");
    list.check(s.review.is_some(), "spec.review", "leave it out");
    list.check(s.gates.min_human_kappa.is_some(), "spec.gates.minHumanKappa", "leave it out");
    list.value(s.shards > 1, "spec.shards", s.shards, "use 1 shard");
}

fn reward(s: &RewardModelSpec, list: &mut List) {
    training(&s.training, list);
    let save = s.training.adapter.as_ref().map(|a| a.save);
    list.value(
        save == Some(AdapterSave::Adapter),
        "spec.training.adapter.save",
        save,
        "use Merged: a reward model is saved as a whole",
    );
}

fn tuning(s: &PolicyTuningSpec, list: &mut List) {
    list.value(!is_supported(s.method), "spec.method", s.method, "use another method");
    training(&s.training, list);
    if let Some(p) = &s.prompts {
        prompts(p, "spec.prompts", list);
        all_of(p, "spec.prompts", list);
    }
    // Ratios and divergences are those of the whole distribution.
    let sampling = &s.rollout.sampling;
    list.check(sampling.temperature <= 0.0, "spec.rollout.sampling.temperature", "use a temperature above 0");
    list.check(sampling.top_p < 1.0, "spec.rollout.sampling.topP", "sample from all tokens: leave it out");
    list.check(sampling.top_k > 0, "spec.rollout.sampling.topK", "sample from all tokens: leave it out");
    list.check(sampling.min_p > 0.0, "spec.rollout.sampling.minP", "sample from all tokens: leave it out");
    if let Some(g) = &s.guard {
        list.check(g.held_out_judge.is_some(), "spec.guard.heldOutJudge", "use spec.guard.maxKl and minEntropy");
        list.value(g.action == GuardAction::Fail, "spec.guard.action", g.action, "use StopAndKeepBest");
    }
    if let Some(e) = &s.evaluation {
        prompts(&e.prompts, "spec.evaluation.prompts", list);
        all_of(&e.prompts, "spec.evaluation.prompts", list);
        if let Some(j) = &e.judge {
            judge(j, "spec.evaluation.judge", list);
            weight(j, "spec.evaluation.judge", list);
        }
    }
}

fn training(t: &Training, list: &mut List) {
    list.value(
        t.activation_checkpointing == Switch::Enabled,
        "spec.training.activationCheckpointing",
        t.activation_checkpointing,
        "use a smaller spec.training.microBatchSize",
    );
}

fn prompts(p: &PromptSource, path: &str, list: &mut List) {
    list.locally(p.config_map_ref.is_some(), format!("{path}.configMapRef"), "use inline or uri");
}

/// Prompts of which none is kept for validation, as a PreferenceDataset keeps some.
fn all_of(p: &PromptSource, path: &str, list: &mut List) {
    let usual = default_validation_fraction();
    let other = is_other(p.validation_fraction, usual);
    list.value(
        other,
        format!("{path}.validationFraction"),
        p.validation_fraction,
        "leave it out: all prompts are used; those of the evaluation are listed separately",
    );
}

/// Whether a number is another than the one that is the default.
fn is_other(number: f64, usual: f64) -> bool {
    number.to_bits() != usual.to_bits()
}

fn judge(j: &Judge, path: &str, list: &mut List) {
    list.value(j.reasoning != Reasoning::None, format!("{path}.reasoning"), j.reasoning, "use None");
    let source = j.label_source;
    list.value(source == LabelSource::Votes, format!("{path}.labelSource"), source, "use LogProbs or Verdict");
}

/// The weight of a judge that is the only one.
fn weight(j: &Judge, path: &str, list: &mut List) {
    list.without(is_other(j.weight, 1.0), format!("{path}.weight"), "with a single judge", "remove it");
}
