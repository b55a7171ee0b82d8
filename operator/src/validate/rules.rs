//! What must hold between the fields of one spec, and what a schema alone cannot say. Computes only.

use plumbline_crds::Spec;
use plumbline_crds::compute::Compute;
use plumbline_crds::judge::{Judge, JudgeApi, JudgeLimits, JudgeMode, LabelSource};
use plumbline_crds::policy_tuning::{Method, PolicyTuningSpec, Rollout};
use plumbline_crds::preference_dataset::{Order, OrderPolicy, PreferenceDatasetSpec};
use plumbline_crds::reward_model::RewardModelSpec;
use plumbline_crds::source::{ModelSource, PromptSource, Sampling};
use plumbline_crds::training::Training;
use plumbline_crds::unsupported::{self, Target};

use super::problem::{Finding, alternatives};
use super::templates;
use crate::uri;

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
    if output.credentials_secret_ref.is_some() && output.uri.as_ref().is_some_and(|uri| !uri::is_store(uri)) {
        found.push(
            "spec.output.credentialsSecretRef",
            "expected an output in a store (s3://, gs://, az://), found another; leave it out, and give credentials of inputs as variables in spec.compute.env",
        );
    }
    for field in unsupported::unsupported(spec, target) {
        found.push(field.path, format!("not supported yet; {}", field.instead));
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
    if let Some(model) = spec.dpo.as_ref().and_then(|d| d.reference_model.as_ref()) {
        revision(Some(model), "spec.dpo.referenceModel", found);
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

/// What each method learns from, and the fields that only some methods read.
fn method(spec: &PolicyTuningSpec, found: &mut Findings) {
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
    field("rewardModelRef", spec.reward_model_ref.is_some(), spec.method == Method::Ppo, samples);
    field("prompts", spec.prompts.is_some(), samples, samples);
    field("rollout", spec.rollout != Rollout::default(), false, samples);
    field("datasetRef", spec.dataset_ref.is_some(), false, spec.method == Method::Dpo);
    field("dataset", spec.dataset.is_some(), spec.method == Method::Sft, !samples);
    field("ppo", spec.ppo.is_some(), false, spec.method == Method::Ppo);
    field("dpo", spec.dpo.is_some(), false, spec.method == Method::Dpo);
    field("guard", spec.guard.is_some(), false, samples);
    if spec.method == Method::Dpo {
        found.exactly_one("spec", &[("datasetRef", spec.dataset_ref.is_some()), ("dataset", spec.dataset.is_some())]);
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

fn judge(judge: &Judge, path: &str, found: &mut Findings) {
    let fields = [
        ("endpoint", judge.endpoint.is_some()),
        ("model", judge.model.is_some()),
        ("lexicon", judge.lexicon.is_some()),
    ];
    found.exactly_one(path, &fields);
    revision(judge.model.as_ref(), &format!("{path}.model"), found);
    if judge.lexicon.is_some() {
        if judge.endpoint.is_none() && judge.model.is_none() {
            beside_lexicon(judge, path, found);
        }
        return;
    }
    found.at_most_one(path, &[("template", judge.template.is_some()), ("templates", !judge.templates.is_empty())]);
    found.0.extend(templates::check(judge, path));
    let answers = answers(judge);
    // They are told apart by their words, without the space before them.
    if let [first, second] = &answers[..]
        && (first.trim() == second.trim() || first.trim().is_empty() || second.trim().is_empty())
    {
        found.push(
            format!("{path}.answers"),
            format!("expected two different answers, found \"{first}\" and \"{second}\"; change one"),
        );
    }
    for (i, example) in judge.examples.iter().enumerate() {
        let path = format!("{path}.examples[{i}]");
        let pairwise = judge.mode == JudgeMode::Pairwise;
        let mode = if pairwise { "Pairwise" } else { "Pointwise" };
        for (field, is_set, wanted) in [
            ("response", example.response.is_some(), !pairwise),
            ("responseA", example.response_a.is_some(), pairwise),
            ("responseB", example.response_b.is_some(), pairwise),
        ] {
            if wanted && !is_set {
                found.push(
                    format!("{path}.{field}"),
                    format!("expected {field} in an example of a {mode} judge, found nothing; add it"),
                );
            }
            if is_set && !wanted {
                found.push(
                    format!("{path}.{field}"),
                    format!(
                        "expected no {field} in an example of a {mode} judge, found one; remove it or change `mode`"
                    ),
                );
            }
        }
        if !answers.contains(&example.answer.as_str()) {
            let (known, found_answer) = (alternatives(&answers), &example.answer);
            found.push(
                format!("{path}.answer"),
                format!("expected one of the judge's answers ({known}), found \"{found_answer}\"; write one of them"),
            );
        }
    }
}

/// A word list is asked nothing: it rates one response after the other, as a Pointwise judge does.
fn beside_lexicon(judge: &Judge, path: &str, found: &mut Findings) {
    for (field, is_set) in [
        ("template", judge.template.is_some()),
        ("templates", !judge.templates.is_empty()),
        ("api", judge.api != JudgeApi::default()),
        ("labelSource", judge.label_source != LabelSource::default()),
        ("criteria", !judge.criteria.is_empty()),
        ("answers", judge.answers.is_some()),
        ("examples", !judge.examples.is_empty()),
        ("limits", judge.limits != JudgeLimits::default()),
        ("price", judge.price.is_some()),
    ] {
        if is_set {
            let message =
                format!("expected no {field} beside lexicon, found some; a word list does not read it: remove it");
            found.push(format!("{path}.{field}"), message);
        }
    }
}

/// The two answers of a judge, with the defaults that `Judge::answers` documents.
fn answers(judge: &Judge) -> Vec<&str> {
    match (&judge.answers, judge.mode) {
        (Some(answers), _) => answers.iter().map(String::as_str).collect(),
        (None, JudgeMode::Pairwise) => vec!["A", "B"],
        (None, JudgeMode::Pointwise) => vec!["yes", "no"],
    }
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

fn compute(compute: &Compute, found: &mut Findings) {
    let resources = compute.resources.clone().unwrap_or_default();
    for (field, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        for (name, quantity) in quantities.iter().map(|(name, quantity)| (name, quantity.to_string())) {
            if is_quantity(&quantity) {
                continue;
            }
            found.push(
                format!("spec.compute.resources.{field}.{name}"),
                format!("expected a quantity such as 500m, 8 or 16Gi, found \"{quantity}\"; correct it"),
            );
        }
    }
    for (i, toleration) in compute.tolerations.iter().enumerate() {
        let path = format!("spec.compute.tolerations[{i}]");
        let exists = toleration.operator.as_deref() == Some("Exists");
        if toleration.key.as_ref().is_none_or(String::is_empty) && !exists {
            found.push(
                format!("{path}.operator"),
                "expected Exists for a toleration without a key, found another; write `operator: Exists` or add `key`",
            );
        }
        if toleration.value.is_some() && exists {
            found.push(
                format!("{path}.value"),
                "expected no value with operator Exists, found one; remove one of the two",
            );
        }
        if toleration.toleration_seconds.is_some() && toleration.effect.as_deref() != Some("NoExecute") {
            found.push(
                format!("{path}.tolerationSeconds"),
                "expected tolerationSeconds only with effect NoExecute, found another; write that effect or remove it",
            );
        }
    }
    for (i, variable) in compute.env.iter().enumerate() {
        let fields = [("value", variable.value.is_some()), ("secretKeyRef", variable.secret_key_ref.is_some())];
        found.at_most_one(&format!("spec.compute.env[{i}]"), &fields);
    }
}

/// Whether Kubernetes reads a text as a quantity: a decimal number and a binary suffix, a decimal one or an exponent.
pub(crate) fn is_quantity(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (number, suffix) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()));
    let decimal = number.contains(|c: char| c.is_ascii_digit()) && number.matches('.').count() <= 1;
    let exponent = |e: &str| {
        let digits = e.strip_prefix(['+', '-']).unwrap_or(e);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "n", "u", "m", "k", "M", "G", "T", "P", "E"];
    decimal && (suffixes.contains(&suffix) || suffix.strip_prefix(['e', 'E']).is_some_and(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumbline_crds::Kind;
    use serde_json::{Value, json};

    fn tuning_with(change: &Value) -> Vec<String> {
        let mut spec = json!({"method": "PPO", "policyModel": {"uri": "m"}, "rewardModelRef": {"name": "r"},
                              "prompts": {"inline": ["a"]}});
        merge(&mut spec, change);
        findings(Kind::PolicyTuning, spec)
    }

    fn dataset_with(change: &Value) -> Vec<String> {
        let mut spec = json!({"prompts": {"inline": ["a"]}, "generator": {"model": {"uri": "m"}},
                              "judges": [{"name": "j", "endpoint": {"url": "http://h/v1", "model": "x"}}]});
        merge(&mut spec, change);
        findings(Kind::PreferenceDataset, spec)
    }

    fn reward_with(change: &Value) -> Vec<String> {
        let mut spec = json!({"datasetRef": {"name": "d"}, "baseModel": {"uri": "m"}});
        merge(&mut spec, change);
        findings(Kind::RewardModel, spec)
    }

    fn merge(spec: &mut Value, change: &Value) {
        for (key, value) in change.as_object().unwrap() {
            if value.is_null() {
                spec.as_object_mut().unwrap().remove(key);
            } else {
                spec[key] = value.clone();
            }
        }
    }

    fn findings(kind: Kind, spec: Value) -> Vec<String> {
        let spec = Spec::from_json(kind, spec).unwrap();
        check(&spec, Target::Local).into_iter().map(|f| format!("{}: {}", f.path, f.message)).collect()
    }

    fn judge_with(change: &Value) -> Vec<String> {
        let mut judge = json!({"name": "j", "model": {"uri": "m"}});
        merge(&mut judge, change);
        dataset_with(&json!({"judges": [judge]}))
    }

    #[test]
    fn what_a_word_list_does_not_read_is_refused_by_name() {
        let beside =
            |field: &str, value: Value| judge_with(&json!({"model": null, "lexicon": {"uri": "l"}, field: value}));
        for (field, value) in [
            ("template", json!("{{ response }}")),
            ("templates", json!(["builtin:pointwise-v1"])),
            ("api", json!("Completion")),
            ("labelSource", json!("Verdict")),
            ("criteria", json!([{"name": "c"}])),
            ("answers", json!(["good", "bad"])),
            ("examples", json!([{"response": "r", "answer": "yes"}])),
            ("limits", json!({"concurrency": 1})),
            ("price", json!({"inputPerMillionTokens": 1, "outputPerMillionTokens": 1})),
        ] {
            let found = beside(field, value);
            assert!(found.len() == 1, "{field}: {found:?}");
            assert!(
                found[0].starts_with(&format!("spec.judges[0].{field}: expected no {field} beside lexicon")),
                "{found:?}"
            );
        }
        // It looks at one response at a time, whatever it is told.
        for (field, value) in
            [("mode", json!("Pointwise")), ("mode", json!("Pairwise")), ("limits", json!({})), ("templates", json!([]))]
        {
            assert_eq!(beside(field, value), [""; 0], "{field}");
        }
    }

    #[test]
    fn good_specs_have_no_findings() {
        assert_eq!(tuning_with(&json!({})), [""; 0]);
        assert_eq!(dataset_with(&json!({})), [""; 0]);
        assert_eq!(reward_with(&json!({})), [""; 0]);
        assert_eq!(judge_with(&json!({})), [""; 0]);
    }

    #[test]
    #[rustfmt::skip] // one case a line
    fn each_rule_finds_its_fault_and_only_that() {
        let cases: Vec<(Vec<String>, &str)> = vec![
            (dataset_with(&json!({"prompts": {}})), "spec.prompts: expected exactly one of inline, uri or configMapRef"),
            (dataset_with(&json!({"prompts": {"inline": ["a"], "uri": "p"}})), "spec.prompts: expected only one of"),
            (dataset_with(&json!({"generator": null})), "spec: expected exactly one of generator or responses"),
            (
                tuning_with(&json!({"evaluation": {"prompts": {"inline": ["p"]}, "lexicons": [{"name": "reward", "uri": "l"}]}})),
                "spec.evaluation.lexicons[0].name: expected a name that no other measure has, found `reward`",
            ),
            (
                tuning_with(&json!({"rollout": {"sampling": {"minNewTokens": 9, "maxNewTokens": 8}}})),
                "spec.rollout.sampling.minNewTokens: expected at most spec.rollout.sampling.maxNewTokens (8), found 9",
            ),
            (dataset_with(&json!({"generator": {}})), "spec.generator: expected exactly one of model or endpoint"),
            (dataset_with(&json!({"order": {"sampleFraction": 0.5}})), "spec.order.sampleFraction: expected no sampleFraction, which is for spec.order.policy Sampled only"),
            (tuning_with(&json!({"method": "SFT", "rewardModelRef": null, "prompts": null, "dataset": {"uri": "d"}, "guard": {"maxKl": 1}})), "spec.guard: expected no guard with method SFT"),
            (dataset_with(&json!({"budget": {"maxCost": 5}})), "spec.judges[0].price: expected a price"),
            (judge_with(&json!({"model": null})), "spec.judges[0]: expected exactly one of endpoint, model or lexicon"),
            (judge_with(&json!({"lexicon": {"uri": "l"}, "answers": ["good", "bad"]})), "spec.judges[0]: expected only one of endpoint, model or lexicon, found model and lexicon"),
            (judge_with(&json!({"template": "{{ response_a }}{{ response_b }}", "templates": ["builtin:pairwise-v1"]})), "spec.judges[0]: expected only one of template"),
            (judge_with(&json!({"answers": ["x", "x"]})), "spec.judges[0].answers: expected two different answers"),
            (judge_with(&json!({"answers": [" A", "A"]})), "spec.judges[0].answers: expected two different answers"),
            (judge_with(&json!({"answers": [" ", "A"]})), "spec.judges[0].answers: expected two different answers"),
            (judge_with(&json!({"template": "{{ response_a }} {{ respons_b }}"})), "spec.judges[0].template: line 1: expected a name"),
            (reward_with(&json!({"datasetRef": null})), "spec: expected exactly one of datasetRef or dataset"),
            (reward_with(&json!({"training": {"batchSize": 4}})), "spec.training.microBatchSize: expected at most spec.training.batchSize (4), found 8"),
            (reward_with(&json!({"baseModel": {"uri": "m", "revision": "v1"}})), "spec.baseModel.revision: expected a revision only"),
            (tuning_with(&json!({"rewardModelRef": null})), "spec.rewardModelRef: expected rewardModelRef for method PPO"),
            (tuning_with(&json!({"prompts": null})), "spec.prompts: expected prompts for method PPO"),
            (tuning_with(&json!({"dpo": {}})), "spec.dpo: expected no dpo with method PPO"),
            (tuning_with(&json!({"training": {"maxLength": 256}})), "spec.rollout.sampling.maxNewTokens: expected less than spec.training.maxLength (256)"),
            (tuning_with(&json!({"method": "DPO", "rewardModelRef": null, "prompts": null})), "spec: expected exactly one of datasetRef or dataset"),
            (tuning_with(&json!({"method": "SFT", "rewardModelRef": null, "prompts": null})), "spec.dataset: expected dataset for method SFT"),
            (tuning_with(&json!({"method": "SFT", "rewardModelRef": null, "prompts": null, "dataset": {"uri": "d"}, "ppo": {}})), "spec.ppo: expected no ppo with method SFT"),
            (tuning_with(&json!({"method": "GRPO"})), "spec.method: not supported yet; use PPO, DPO or SFT"),
        ];
        for (found, expected) in cases {
            assert_eq!(found.len(), 1, "{expected}: {found:?}");
            assert!(found[0].starts_with(expected), "expected {expected}, found {}", found[0]);
        }
    }

    #[test]
    fn examples_fit_the_mode_and_the_answers_of_their_judge() {
        let pairwise = json!({"responseA": "a", "responseB": "b", "answer": "A"});
        assert_eq!(judge_with(&json!({"examples": [pairwise]})), [""; 0]);
        let found = judge_with(&json!({"mode": "Pointwise", "examples": [pairwise]}));
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found.iter().any(|f| f.starts_with("spec.judges[0].examples[0].response: expected response")));
        assert!(found.iter().any(|f| f.contains("answers (yes or no), found \"A\"")));
    }

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for text in ["1", "0.5", ".5", "5.", "500m", "16Gi", "1e3", "2E-2", "+1", "100M", "3E"] {
            assert!(is_quantity(text), "{text}");
        }
        for text in ["", ".", "Gi", "8 Gi", "8GB", "1.2.3", "1e", "1ki", "lots", "1,5"] {
            assert!(!is_quantity(text), "{text}");
        }
        let found = reward_with(&json!({"compute": {"resources": {"limits": {"memory": "8GB"}}}}));
        assert!(found.len() == 1 && found[0].starts_with("spec.compute.resources.limits.memory: "), "{found:?}");
    }

    #[test]
    fn a_toleration_is_one_that_kubernetes_takes() {
        let tolerations = |toleration: Value| reward_with(&json!({"compute": {"tolerations": [toleration]}}));
        assert_eq!(tolerations(json!({"operator": "Exists"})), [""; 0]);
        assert_eq!(
            tolerations(json!({"key": "k", "value": "v", "effect": "NoExecute", "tolerationSeconds": 9})),
            [""; 0]
        );
        for (toleration, field) in [
            (json!({"operator": "Equal", "value": "v"}), "operator"),
            (json!({"key": "k", "operator": "Exists", "value": "v"}), "value"),
            (json!({"key": "k", "tolerationSeconds": 9}), "tolerationSeconds"),
        ] {
            let found = tolerations(toleration);
            assert!(
                found.len() == 1 && found[0].starts_with(&format!("spec.compute.tolerations[0].{field}: ")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn prices_are_in_one_currency() {
        let judge = |name: &str, currency: &str| {
            json!({"name": name, "endpoint": {"url": "http://h/v1", "model": "x"},
                   "price": {"inputPerMillionTokens": 1, "outputPerMillionTokens": 1, "currency": currency}})
        };
        let found = dataset_with(&json!({"budget": {"maxCost": 5}, "judges": [judge("a", "USD"), judge("b", "EUR")]}));
        assert!(found.iter().any(|f| f.starts_with("spec.judges[1].price.currency: expected USD")), "{found:?}");
    }
}
