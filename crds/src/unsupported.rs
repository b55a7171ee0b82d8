//! Fields that are part of the API but that nothing acts on yet. Each is refused by name: a field that is accepted and
//! ignored would be a defect. Remove an entry in the commit that makes its field work.

use crate::judge::{Judge, LabelSource, Reasoning};
use crate::policy_tuning::{GuardAction, Method, PolicyTuningSpec};
use crate::preference_dataset::{Aggregation, PreferenceDatasetSpec};
use crate::resource::Spec;
use crate::reward_model::RewardModelSpec;
use crate::source::{PromptSource, default_validation_fraction};
use crate::training::{AdapterSave, Switch, Training};

/// A field that nothing acts on yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// Path of the field (`spec.judges[0].reasoning`).
    pub path: String,
    /// What to do instead.
    pub instead: String,
}

/// Where a resource is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// By `plumbline run`.
    Local,
    /// By the operator.
    Cluster,
}

/// Every field of a spec that is set and that nothing acts on yet where it is to be run.
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
    let nodes = spec.compute().nodes > 1;
    match spec {
        Spec::PreferenceDataset(_) => {
            list.check(nodes, "spec.compute.nodes", "use 1 node: only training is spread over several");
        }
        _ => list.locally(nodes, "spec.compute.nodes", "use 1 node: `plumbline run` starts one process a stage"),
    }
    list.check(
        spec.compute().accelerators > 1,
        "spec.compute.accelerators",
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

struct List {
    found: Vec<Unsupported>,
    target: Target,
}

impl List {
    fn check(&mut self, is_set: bool, path: impl Into<String>, instead: &str) {
        if is_set {
            self.found.push(Unsupported { path: path.into(), instead: instead.into() });
        }
    }

    fn locally(&mut self, is_set: bool, path: impl Into<String>, instead: &str) {
        self.check(is_set && self.target == Target::Local, path, instead);
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
    list.check(s.aggregation != Aggregation::Mean, "spec.aggregation", "leave it out");
    list.check(s.review.is_some(), "spec.review", "leave it out");
    list.check(s.gates.min_human_kappa.is_some(), "spec.gates.minHumanKappa", "leave it out");
    list.check(s.shards > 1, "spec.shards", "use 1 shard");
}

fn reward(s: &RewardModelSpec, list: &mut List) {
    training(&s.training, list);
    let save = s.training.adapter.as_ref().map(|a| a.save);
    list.check(
        save == Some(AdapterSave::Adapter),
        "spec.training.adapter.save",
        "use Merged: a reward model is saved as a whole",
    );
}

fn tuning(s: &PolicyTuningSpec, list: &mut List) {
    list.check(!matches!(s.method, Method::Sft | Method::Dpo | Method::Ppo), "spec.method", "use PPO, DPO or SFT");
    training(&s.training, list);
    if let Some(p) = &s.prompts {
        prompts(p, "spec.prompts", list);
        all_of(p, "spec.prompts", list);
    }
    if let Some(d) = &s.dpo {
        list.check(
            d.reference_model.is_some(),
            "spec.dpo.referenceModel",
            "leave it out: the policy model is the reference",
        );
    }
    if let Some(g) = &s.guard {
        list.check(g.held_out_judge.is_some(), "spec.guard.heldOutJudge", "use spec.guard.maxKl and minEntropy");
        list.check(g.action == GuardAction::Fail, "spec.guard.action", "use StopAndKeepBest");
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
    list.check(
        t.activation_checkpointing == Switch::Enabled,
        "spec.training.activationCheckpointing",
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
    list.check(
        other,
        format!("{path}.validationFraction"),
        "leave it out: all prompts are used; give those of the evaluation apart",
    );
}

/// Whether a number is another than the one that is the default.
fn is_other(number: f64, usual: f64) -> bool {
    number.to_bits() != usual.to_bits()
}

fn judge(j: &Judge, path: &str, list: &mut List) {
    list.check(j.reasoning != Reasoning::None, format!("{path}.reasoning"), "use None");
    list.check(j.label_source == LabelSource::Votes, format!("{path}.labelSource"), "use LogProbs or Verdict");
}

/// The weight of a judge that is the only one.
fn weight(j: &Judge, path: &str, list: &mut List) {
    list.check(is_other(j.weight, 1.0), format!("{path}.weight"), "leave it out if there is only one judge");
}
