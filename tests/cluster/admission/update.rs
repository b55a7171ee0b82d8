//! What may change of a resource whose run was started. Talks to a real API server.

use plumbline_crds::Kind;
use plumbline_operator::crds;
use plumbline_testkit::cluster::{Cluster, Namespace};
use serde_json::{Value, json};

use super::case::changed;
use super::kubectl;
use super::manifests::{dpo, least};

/// One change of each field that a run is made from.
fn changes(kind: Kind) -> Vec<(&'static str, Value)> {
    let mut changes = vec![("output.uri", json!("file:///elsewhere"))];
    changes.extend(match kind {
        Kind::PreferenceDataset => vec![
            ("prompts", json!({"limit": 5})),
            ("generator", json!({"responsesPerPrompt": 5})),
            ("pairs", json!({"perPrompt": 5})),
            ("judges", json!([{"name": "other", "lexicon": {"uri": "l"}}])),
            ("order", json!({"policy": "Single"})),
            ("aggregation", json!("Majority")),
            ("review", json!({"sampleFraction": 0.1})),
            ("gates", json!({"minPairs": 5})),
            ("shards", json!(5)),
        ],
        Kind::RewardModel => vec![
            ("datasetRef", json!({"name": "other"})),
            ("baseModel", json!({"uri": "other"})),
            ("loss", json!({"labels": "Hard"})),
            ("gates", json!({"minAccuracy": 0.5})),
            ("referenceLabels", json!({"uri": "labels.jsonl"})),
        ],
        Kind::PolicyTuning => vec![
            ("method", json!("REINFORCE")),
            ("policyModel", json!({"uri": "other"})),
            ("rewardModelRef", json!({"name": "other"})),
            ("prompts", json!({"limit": 5})),
            ("rollout", json!({"sampling": {"seed": 5}})),
            ("ppo", json!({"gamma": 0.9})),
            ("guard", json!({"maxKl": 5})),
            ("evaluation", json!({"prompts": {"uri": "held-out.txt"}})),
        ],
    });
    if kind != Kind::PreferenceDataset {
        changes.extend([
            ("training.epochs", json!(5)),
            ("training.maxSteps", json!(5)),
            ("training.batchSize", json!(96)),
            ("training.learningRate", json!(0.5)),
            ("training.schedule", json!({"type": "Cosine"})),
            ("training.optimizer", json!({"beta1": 0.5})),
            ("training.maxLength", json!(777)),
            ("training.precision", json!("BFloat16")),
            ("training.adapter", json!({"rank": 8})),
            ("training.activationCheckpointing", json!("Enabled")),
            ("training.seed", json!(5)),
        ]);
    }
    changes
}

/// Changes of a resource that replace or remove what only one kind of input or method has.
fn replacements(kind: Kind) -> Vec<(&'static str, Value, Value)> {
    match kind {
        Kind::PreferenceDataset => {
            vec![("responses", least(kind), json!({"generator": null, "responses": {"uri": "r.jsonl"}}))]
        }
        Kind::RewardModel => vec![("dataset", least(kind), json!({"datasetRef": null, "dataset": {"uri": "d"}}))],
        Kind::PolicyTuning => vec![
            ("datasetRef", dpo(), json!({"datasetRef": {"name": "other"}})),
            ("dataset", dpo(), json!({"datasetRef": null, "dataset": {"uri": "d"}})),
            ("dpo", dpo(), json!({"dpo": {"beta": 0.5}})),
            ("grpo", tuned_by("GRPO"), json!({"grpo": {"loss": "Grpo"}})),
            ("rloo", tuned_by("RLOO"), json!({"rloo": {"epochs": 2}})),
            ("reinforce", tuned_by("REINFORCE"), json!({"reinforce": {"baseline": "None"}})),
            ("reinforcePlusPlus", tuned_by("REINFORCEPlusPlus"), json!({"reinforcePlusPlus": {"epochs": 2}})),
            ("a2c", tuned_by("A2C"), json!({"a2c": {"gamma": 0.9}})),
        ],
    }
}

/// A tuning by a method that samples.
fn tuned_by(method: &str) -> Value {
    let changes = [("/spec/method", json!(method)), ("/spec/rollout/responsesPerPrompt", json!(4))];
    changed(&least(Kind::PolicyTuning), &changes)
}

/// What may change at any time, and how.
fn free(kind: Kind) -> Vec<Value> {
    let mut free = vec![
        json!({"compute": {"threads": 3, "maxRetries": 9}}),
        json!({"output": {"credentialsSecretRef": {"name": "store"}}}),
    ];
    if kind == Kind::PreferenceDataset {
        free.push(json!({"budget": {"maxRequests": 5}}));
    } else {
        free.push(json!({"training": {"microBatchSize": 3, "checkpoint": {"everySteps": 9}}}));
    }
    free
}

/// A resource in a namespace.
struct Object<'a> {
    namespace: &'a Namespace,
    kind: Kind,
    name: String,
}

impl<'a> Object<'a> {
    fn create(namespace: &'a Namespace, kind: Kind, name: &str, manifest: &Value) -> Self {
        let manifest = changed(manifest, &[("/metadata/name", json!(name))]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("m.json");
        std::fs::write(&file, manifest.to_string()).unwrap();
        let (succeeded, _, said) = kubectl(namespace, &["create", "-f", file.to_str().unwrap()]);
        assert!(succeeded, "{said}");
        Self { namespace, kind, name: name.to_owned() }
    }

    /// Changes it, and gives the error.
    fn patch(&self, patch: &Value, more: &[&str]) -> Result<(), String> {
        let patch = patch.to_string();
        let args = ["patch", self.kind.plural(), &self.name, "--type=merge", "-p", &patch];
        let (succeeded, _, said) = kubectl(self.namespace, &[&args[..], more].concat());
        if succeeded { Ok(()) } else { Err(said) }
    }

    fn change(&self, spec: &Value) -> Result<(), String> {
        self.patch(&json!({"spec": spec}), &[])
    }

    /// Tries a change and leaves everything as it was.
    fn try_change(&self, spec: &Value) -> Result<(), String> {
        self.patch(&json!({"spec": spec}), &["--dry-run=server"])
    }

    /// Writes the status as the operator does.
    fn status(&self, status: &Value) {
        self.patch(&json!({"status": status}), &["--subresource=status"]).unwrap();
    }

    fn is_refused(&self, field: &str, spec: &Value) {
        let changed = self.try_change(spec);
        let error = changed.err().unwrap_or_else(|| panic!("{}: a change of {field} was not refused", self.kind));
        let expected = format!("spec.{field}: Forbidden: a started run uses this; set spec.suspend: true first");
        assert!(error.contains(&expected), "{}: {field}: {error}", self.kind);
    }
}

/// `output.uri` and a value as the patch of a spec.
fn at(path: &str, value: &Value) -> Value {
    path.rsplit('.').fold(value.clone(), |value, part| json!({part: value}))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_is_made_from_may_change_before_it_starts_while_suspended_and_after_its_end_only() {
    let started = json!({"observedGeneration": 1, "conditions": [], "job": {"name": "run-1", "attempt": 1}});
    for kind in Kind::ALL {
        let namespace = Cluster::shared().namespace("update").await;
        let object = Object::create(&namespace, kind, "run", &least(kind));
        let allowed = |when: &str| {
            for (field, value) in changes(kind) {
                let changed = object.try_change(&at(field, &value));
                assert_eq!(changed, Ok(()), "{kind}: {field} {when}");
            }
        };
        allowed("before anything was started");

        object.status(&started);
        for (field, value) in changes(kind) {
            object.is_refused(field, &at(field, &value));
        }
        for change in free(kind) {
            assert_eq!(object.change(&change), Ok(()), "{kind}: {change}");
        }
        object.status(&json!({"progress": {"stage": "Training", "completed": 1, "total": 2}}));
        let first = changes(kind).remove(0);
        let both = changed(&json!({"spec": at(first.0, &first.1)}), &[("/spec/suspend", json!(true))]);
        object.is_refused(first.0, &both["spec"]);

        assert_eq!(object.change(&json!({"suspend": true})), Ok(()));
        allowed("while it is suspended");
        assert_eq!(object.change(&json!({"suspend": false})), Ok(()));
        object.is_refused(first.0, &at(first.0, &first.1));
        object.status(&json!({"completionTime": "2026-01-01T00:00:00Z"}));
        allowed("after the end");

        for (field, manifest, change) in replacements(kind) {
            let object = Object::create(&namespace, kind, &field.to_lowercase(), &manifest);
            assert_eq!(object.try_change(&change), Ok(()), "{kind}: {field}");
            object.status(&started);
            object.is_refused(field, &change);
        }
        tried_all(kind);
    }
}

/// Every field that a rule fixes is in the lists above.
fn tried_all(kind: Kind) {
    let crd = crds::definition(kind).unwrap();
    let rules = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/x-kubernetes-validations").unwrap();
    for rule in rules.as_array().unwrap() {
        let field = rule["fieldPath"].as_str().unwrap().strip_prefix(".spec.").unwrap();
        let tried = changes(kind).iter().any(|c| c.0 == field) || replacements(kind).iter().any(|r| r.0 == field);
        assert!(tried, "{kind}: nothing tries to change {field}");
    }
}
