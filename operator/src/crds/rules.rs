//! What must hold between fields, as CEL rules in the CRDs, so that an API server refuses at apply what
//! `plumbline validate` refuses before. The functions have the names and the order of `validate/rules`, which says the
//! same in Rust; `tests/cluster/admission` holds the two against each other on a real API server. Computes only.
//!
//! In CEL, `self` is the value that a rule hangs on and `oldSelf` what it was before an update. A field with a default is
//! always there; of any other, `has(self.field)` is asked first. An API server tries the rules of an object with a default on
//! that default before it fills it, so rules over such an object's fields hang above it.

mod dpo;

use plumbline_crds::Kind;
use plumbline_crds::judge::JudgeLimits;
use plumbline_crds::preference_dataset::Order;
use serde_json::{Map, Value, json};

use super::CrdError;
use crate::digest::NOT_PART;
use crate::validate::problem::alternatives;
use crate::validate::rules::MEASURES;
use dpo::dpo;

/// A rule: refused unless `holds`.
struct Rule {
    /// Where it hangs: `spec.judges[]`. Empty for the whole resource.
    at: String,
    /// The CEL expression.
    holds: String,
    /// Expected, and what to do.
    message: String,
    /// The field that the error names, below `at`. Empty for `at` itself.
    field: String,
    reason: Reason,
}

/// How an API server words the error.
enum Reason {
    Invalid,
    Required,
    Forbidden,
}

/// Hangs every rule of a kind into the schema of the whole resource.
pub(super) fn insert(kind: Kind, schema: &mut Value) -> Result<(), CrdError> {
    let mut rules = Rules(Vec::new());
    unchanged_while_it_runs(schema, &mut rules);
    match kind {
        Kind::PreferenceDataset => dataset(&mut rules),
        Kind::RewardModel => reward(&mut rules),
        Kind::PolicyTuning => tuning(schema, &mut rules),
    }
    compute(&mut rules);
    for rule in rules.0 {
        let place = place(schema, &rule.at).ok_or_else(|| CrdError::NoField { kind, path: rule.at.clone() })?;
        let list = place.entry("x-kubernetes-validations").or_insert(json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(rule.json());
        }
    }
    Ok(())
}

/// The schema at a path.
fn place<'a>(schema: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut place = schema;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let name = part.trim_end_matches("[]");
        place = place.get_mut("properties")?.get_mut(name)?;
        if name != part {
            place = place.get_mut("items")?;
        }
    }
    place.as_object_mut()
}

impl Rule {
    fn json(self) -> Value {
        let mut json = json!({"rule": self.holds, "message": self.message});
        if !self.field.is_empty() {
            json["fieldPath"] = format!(".{}", self.field).into();
        }
        match self.reason {
            Reason::Invalid => {}
            Reason::Required => json["reason"] = "FieldValueRequired".into(),
            Reason::Forbidden => json["reason"] = "FieldValueForbidden".into(),
        }
        json
    }
}

struct Rules(Vec<Rule>);

impl Rules {
    fn push(&mut self, at: &str, field: &str, reason: Reason, holds: impl Into<String>, message: impl Into<String>) {
        let (holds, message) = (holds.into(), message.into());
        self.0.push(Rule { at: at.to_owned(), holds, message, field: field.to_owned(), reason });
    }

    /// Exactly one of the fields of `at` is set.
    fn exactly_one(&mut self, at: &str, fields: &[&str]) {
        let message = format!("expected exactly one of {}; add one or remove all but one", alternatives(fields));
        self.push(at, "", Reason::Invalid, one_of(fields), message);
    }
}

/// That exactly one of some fields is set.
fn one_of(fields: &[&str]) -> String {
    let set: Vec<String> = fields.iter().map(|field| format!("has(self.{field})")).collect();
    format!("[{}].exists_one(x, x)", set.join(", "))
}

/// What a run is made from, which is what its digest is taken of, may not change under it.
fn unchanged_while_it_runs(schema: &Value, rules: &mut Rules) {
    let spec = &schema["properties"]["spec"];
    for (name, field) in spec["properties"].as_object().into_iter().flatten() {
        // A part of a field that may change frees that part only.
        let parted = NOT_PART.iter().any(|free| free.starts_with(&format!("/{name}/")));
        let parts = field["properties"].as_object().into_iter().flatten().filter(|_| parted);
        let parts = parts.map(|(part, schema)| (format!("{name}.{part}"), schema, &field["required"]));
        let whole = (!parted).then(|| (name.clone(), field, &spec["required"]));
        for (path, field, required) in whole.into_iter().chain(parts) {
            if NOT_PART.contains(&format!("/{}", path.replace('.', "/")).as_str()) {
                continue;
            }
            let name = path.rsplit('.').next().unwrap_or_default();
            let always = !field["default"].is_null() || required.as_array().is_some_and(|r| r.contains(&name.into()));
            let equal = format!("self.spec.{path} == oldSelf.spec.{path}");
            let unchanged = if always {
                equal
            } else {
                format!("(has(self.spec.{path}) ? has(oldSelf.spec.{path}) && {equal} : !has(oldSelf.spec.{path}))")
            };
            rules.push(
                "",
                &format!("spec.{path}"),
                Reason::Forbidden,
                format!("!has(oldSelf.status.job) || has(oldSelf.status.completionTime) || oldSelf.spec.suspend || {unchanged}"),
                "a started run uses this; set spec.suspend: true first, then change it",
            );
        }
    }
}

fn dataset(rules: &mut Rules) {
    prompts("spec.prompts", rules);
    rules.exactly_one("spec", &["generator", "responses"]);
    location("spec.responses.uri", rules);
    rules.exactly_one("spec.generator", &["model", "endpoint"]);
    model("spec.generator.model", rules);
    sampling("spec.generator", "sampling", rules);
    judge("spec.judges[]", rules);
    let usual = Order::default().sample_fraction;
    rules.push(
        "spec",
        "order.sampleFraction",
        Reason::Forbidden,
        format!("self.order.policy == 'Sampled' || self.order.sampleFraction == {usual:?}"),
        "expected no sampleFraction, which is for order.policy Sampled only; remove it or change policy",
    );
    location("spec.review.labelsFrom.uri", rules);
    rules.push(
        "spec",
        "judges",
        Reason::Invalid,
        "!has(self.budget.maxCost) || self.judges.all(j, !has(j.endpoint) || has(j.price))",
        "expected a price for each judge with an endpoint, as budget.maxCost is set; add `price` or use budget.maxRequests",
    );
    rules.push(
        "spec",
        "judges",
        Reason::Invalid,
        "!has(self.budget.maxCost) || self.judges.all(j, !has(j.endpoint) || !has(j.price) || self.judges.all(k, !has(k.endpoint) || !has(k.price) || j.price.currency == k.price.currency))",
        "expected prices in one currency, as budget.maxCost is set; give all prices in one",
    );
}

fn reward(rules: &mut Rules) {
    rules.exactly_one("spec", &["datasetRef", "dataset"]);
    location("spec.dataset.uri", rules);
    location("spec.referenceLabels.uri", rules);
    model("spec.baseModel", rules);
    training(rules);
    nodes("self.compute.nodes <= self.training.batchSize", "training.batchSize", rules);
}

/// The methods that sample from the policy while they train (`Method::samples`).
const SAMPLES: &str = "!(self.method in ['SFT', 'DPO'])";

fn tuning(schema: &Value, rules: &mut Rules) {
    model("spec.policyModel", rules);
    location("spec.dataset.uri", rules);
    training(rules);
    let prompts_too = "self.method in ['SFT', 'DPO'] || self.compute.nodes <= self.rollout.promptsPerStep";
    let both = format!("self.compute.nodes <= self.training.batchSize && ({prompts_too})");
    nodes(&both, "training.batchSize and rollout.promptsPerStep", rules);
    method(schema, rules);
    prompts("spec.prompts", rules);
    rules.push(
        "spec",
        "rollout.sampling.maxNewTokens",
        Reason::Invalid,
        "self.method in ['SFT', 'DPO'] || self.rollout.sampling.maxNewTokens < self.training.maxLength",
        "expected less than training.maxLength, which has to hold the prompt too; lower it or raise maxLength",
    );
    sampling("spec", "rollout.sampling", rules);
    let measures = MEASURES.map(|name| format!("'{name}'")).join(", ");
    rules.push(
        "spec.evaluation.lexicons[]",
        "name",
        Reason::Invalid,
        format!("!(self.name in [{measures}])"),
        format!("expected a name that no other measure has ({}); rename it", MEASURES.join(", ")),
    );
    location("spec.evaluation.lexicons[].uri", rules);
    sampling("spec.evaluation", "sampling", rules);
    prompts("spec.evaluation.prompts", rules);
    judge("spec.evaluation.judge", rules);
    dpo(rules);
    judge("spec.guard.heldOutJudge", rules);
}

fn sampling(at: &str, field: &str, rules: &mut Rules) {
    let holds = format!("self.{field}.minNewTokens <= self.{field}.maxNewTokens");
    let field = format!("{field}.minNewTokens");
    rules.push(at, &field, Reason::Invalid, holds, "expected at most maxNewTokens; lower it");
}

/// What each method learns from, and the fields that only some methods read.
fn method(schema: &Value, rules: &mut Rules) {
    let (sft, dpo) = ("self.method == 'SFT'", "self.method == 'DPO'");
    let (samples, others) = ((SAMPLES, "methods that sample"), ("self.method in ['SFT', 'DPO']", "SFT and DPO"));
    let mut needed = |field: &str, by: (&str, &str)| {
        let message = format!("expected {field} for {}; add it", by.1);
        rules.push("spec", field, Reason::Required, format!("!({}) || has(self.{field})", by.0), message);
    };
    needed("rewardModelRef", samples);
    needed("prompts", samples);
    needed("dataset", (sft, "method SFT"));
    let mut read = |field: &str, unset: &str, by: (&str, &str)| {
        let message = format!("expected no {field}, which is for {} only; remove it or change method", by.1);
        rules.push("spec", field, Reason::Forbidden, format!("{unset} || {}", by.0), message);
    };
    for (field, by) in [
        ("rewardModelRef", samples),
        ("prompts", samples),
        ("datasetRef", (dpo, "method DPO")),
        ("dataset", others),
        ("guard", samples),
    ] {
        read(field, &format!("!has(self.{field})"), by);
    }
    for (field, method) in [
        ("ppo", "PPO"),
        ("grpo", "GRPO"),
        ("rloo", "RLOO"),
        ("reinforce", "REINFORCE"),
        ("reinforcePlusPlus", "REINFORCEPlusPlus"),
        ("a2c", "A2C"),
        ("dpo", "DPO"),
    ] {
        let by = format!("self.method == '{method}'");
        read(field, &format!("!has(self.{field})"), (&by, &format!("method {method}")));
    }
    read("rollout", &unset("self.rollout", &schema["properties"]["spec"]["properties"]["rollout"]), samples);
    rules.push(
        "spec",
        "",
        Reason::Invalid,
        format!("self.method != 'DPO' || {}", one_of(&["datasetRef", "dataset"])),
        "expected exactly one of datasetRef or dataset for method DPO; add one or remove one of the two",
    );
    let grouped = "self.method == 'REINFORCEPlusPlus' && has(self.reinforcePlusPlus) && self.reinforcePlusPlus.baseline == 'Group'";
    rules.push(
        "spec",
        "rollout.responsesPerPrompt",
        Reason::Invalid,
        format!("!(self.method in ['GRPO', 'RLOO'] || {grouped}) || self.rollout.responsesPerPrompt >= 2"),
        "expected at least 2: GRPO, RLOO and the baseline Group compare the responses to a prompt with each other; use 4 or more",
    );
}

/// That an object, which an API server has filled with its defaults, says nothing else.
fn unset(path: &str, schema: &Value) -> String {
    let fields = schema["properties"].as_object().into_iter().flatten().map(|(name, field)| {
        let path = format!("{path}.{name}");
        match (field["type"].as_str(), &field["default"]) {
            (Some("object"), _) => unset(&path, field),
            (_, Value::Null) => format!("!has({path})"),
            (Some("number"), default) => format!("{path} == {:?}", default.as_f64().unwrap_or_default()),
            (_, default) => format!("{path} == {default}"),
        }
    });
    fields.collect::<Vec<_>>().join(" && ")
}

fn training(rules: &mut Rules) {
    let holds = "self.training.microBatchSize <= self.training.batchSize";
    let message = "expected at most batchSize; lower it or raise batchSize";
    rules.push("spec", "training.microBatchSize", Reason::Invalid, holds, message);
}

/// Each pod has a share of what is computed together.
fn nodes(holds: &str, most: &str, rules: &mut Rules) {
    let message = format!("expected at most {most}: each node has a share; lower it");
    rules.push("spec", "compute.nodes", Reason::Invalid, holds, message);
}

fn prompts(at: &str, rules: &mut Rules) {
    rules.exactly_one(at, &["inline", "uri", "configMapRef"]);
    location(&format!("{at}.uri"), rules);
}

fn judge(at: &str, rules: &mut Rules) {
    rules.exactly_one(at, &["endpoint", "model", "lexicon"]);
    rules.push(
        at,
        "",
        Reason::Invalid,
        "!has(self.template) || !has(self.templates) || self.templates.size() == 0",
        "expected only one of template or templates; remove one of the two",
    );
    model(&format!("{at}.model"), rules);
    location(&format!("{at}.lexicon.uri"), rules);
    rules.push(
        at,
        "",
        Reason::Invalid,
        beside_lexicon(),
        "expected beside lexicon only what a word list reads, found one of template, templates, api, labelSource, criteria, answers, examples, limits or price; remove it",
    );
    rules.push(
        at,
        "answers",
        Reason::Invalid,
        "!has(self.answers) || self.answers.size() != 2 || (self.answers[0].trim() != self.answers[1].trim() && self.answers.all(a, a.trim() != ''))",
        "expected two different answers; change one",
    );
    rules.push(
        at,
        "examples",
        Reason::Invalid,
        "!has(self.examples) || self.examples.all(e, has(e.response) == (self.mode == 'Pointwise') && [has(e.responseA), has(e.responseB)].all(x, x == (self.mode == 'Pairwise')))",
        "expected responseA and responseB in each example of a Pairwise judge, response of a Pointwise one; correct them or change mode",
    );
    rules.push(
        at,
        "examples",
        Reason::Invalid,
        "!has(self.examples) || self.examples.all(e, e.answer in (has(self.answers) ? self.answers : self.mode == 'Pairwise' ? ['A', 'B'] : ['yes', 'no']))",
        "expected one of the judge's answers in each example (by default A or B, for Pointwise yes or no); write one of them",
    );
}

/// That a judge with a word list sets nothing that only a question has.
fn beside_lexicon() -> String {
    let limits = JudgeLimits::default();
    let absent = ["template", "answers", "price"].map(|field| format!("!has(self.{field})"));
    let empty = ["templates", "criteria", "examples"].map(|f| format!("(!has(self.{f}) || self.{f}.size() == 0)"));
    let usual = [
        ("concurrency", limits.concurrency),
        ("timeoutSeconds", limits.timeout_seconds),
        ("maxAttempts", limits.max_attempts),
    ]
    .map(|(field, usual)| format!("self.limits.{field} == {usual}"));
    let unlimited = ["requestsPerMinute", "tokensPerMinute"].map(|field| format!("!has(self.limits.{field})"));
    let defaults = ["self.api == 'Chat'", "self.labelSource == 'LogProbs'"].map(str::to_owned);
    let all = [&absent[..], &empty, &defaults, &usual, &unlimited].concat();
    format!("!has(self.lexicon) || ({})", all.join(" && "))
}

fn model(at: &str, rules: &mut Rules) {
    location(&format!("{at}.uri"), rules);
    rules.push(
        at,
        "revision",
        Reason::Forbidden,
        "!has(self.revision) || self.uri.startsWith('hf://')",
        "expected a revision only with an hf:// URI; remove it",
    );
}

/// A URI that can name a location (`uri::local_path`, `location`). What is fetched from a server or a store has no credentials
/// and no query in it (`Remote`); the `@` of `hf://` is before a revision.
fn location(at: &str, rules: &mut Rules) {
    rules.push(
        at,
        "",
        Reason::Invalid,
        "self.matches('^(file:///|(pvc|hf)://|(s3|gs|az|https?)://[^@?#]+$)')||!self.matches('^/|://')",
        "expected pvc://, hf://, file:///, a relative path, or s3://, gs://, az:// or https:// without the characters @, ? and #; write one of these",
    );
}

fn compute(rules: &mut Rules) {
    location("spec.output.uri", rules);
    for field in ["requests", "limits"] {
        rules.push(
            &format!("spec.compute.resources.{field}"),
            "",
            Reason::Invalid,
            "self.all(name, type(self[name]) == int || isQuantity(self[name]))",
            "expected quantities such as 500m, 8 or 16Gi; correct the others",
        );
    }
    let toleration = "spec.compute.tolerations[]";
    rules.push(
        toleration,
        "operator",
        Reason::Invalid,
        "has(self.key) && self.key != '' || has(self.operator) && self.operator == 'Exists'",
        "expected Exists for a toleration without a key; write `operator: Exists` or add `key`",
    );
    rules.push(
        toleration,
        "value",
        Reason::Forbidden,
        "!has(self.value) || !has(self.operator) || self.operator != 'Exists'",
        "expected no value with operator Exists; remove one of the two",
    );
    rules.push(
        toleration,
        "tolerationSeconds",
        Reason::Forbidden,
        "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
        "expected tolerationSeconds only with effect NoExecute; write that effect or remove it",
    );
    rules.push(
        "spec.compute.env[]",
        "",
        Reason::Invalid,
        "!(has(self.value) && has(self.secretKeyRef))",
        "expected only one of value or secretKeyRef; remove one of the two",
    );
}
