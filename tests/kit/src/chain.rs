//! Manifests of a whole run on the tiny model, as JSON values that tests can change. Pure.
//!
//! The planted preference: a president's words are good, a whaler's words are bad (`words.tsv`). The tiny model writes
//! both, so there is something to learn, and the word list measures afterwards whether it was learnt.

use serde_json::{Value, json};

use crate::fixture;

/// A manifest.
fn manifest(kind: &str, name: &str, spec: Value) -> Value {
    let mut spec = spec;
    // One thread, so that numbers are summed in the same order, however busy the machine is.
    spec["compute"] = json!({"threads": 1, "maxRetries": 0});
    json!({"apiVersion": "plumbline.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// The judge of the planted preference.
pub fn words() -> Value {
    json!({"name": "words", "mode": "Pointwise", "lexicon": {"uri": fixture::uri("words.tsv")}})
}

/// Sampling settings.
fn sampling(seed: i64) -> Value {
    json!({"temperature": 1.0, "maxNewTokens": 24, "seed": seed})
}

/// A dataset of the tiny model's responses, labelled by a judge.
pub fn dataset(name: &str, judge: &Value) -> Value {
    manifest(
        "PreferenceDataset",
        name,
        json!({
            "prompts": {"uri": fixture::uri("prompts.txt"), "validationFraction": 0.25},
            "generator": {"model": {"uri": fixture::uri("tiny")}, "responsesPerPrompt": 6, "sampling": sampling(1)},
            "pairs": {"perPrompt": 12},
            "judges": [judge],
        }),
    )
}

/// A reward model trained on a dataset.
pub fn reward(name: &str, dataset: &str) -> Value {
    manifest(
        "RewardModel",
        name,
        json!({
            "datasetRef": {"name": dataset},
            "baseModel": {"uri": fixture::uri("tiny")},
            "training": {"epochs": 2, "batchSize": 16, "microBatchSize": 16, "learningRate": 1e-3, "maxLength": 64,
                "checkpoint": {"everySteps": 5}},
        }),
    )
}

/// PPO against a reward model, evaluated by the word list.
pub fn ppo(name: &str, reward: &str) -> Value {
    manifest(
        "PolicyTuning",
        name,
        json!({
            "method": "PPO",
            "policyModel": {"uri": fixture::uri("tiny")},
            "rewardModelRef": {"name": reward},
            "prompts": {"uri": fixture::uri("prompts.txt")},
            "rollout": {"promptsPerStep": 48, "responsesPerPrompt": 1, "sampling": sampling(2)},
            "training": {"epochs": 8, "batchSize": 24, "microBatchSize": 24, "learningRate": 1e-3, "maxLength": 64,
                "checkpoint": {"everySteps": 3}},
            "ppo": {"klCoefficient": 0.01, "epochs": 2},
            "evaluation": evaluation(),
        }),
    )
}

/// DPO on a dataset, evaluated by the word list.
pub fn dpo(name: &str, dataset: &str) -> Value {
    manifest(
        "PolicyTuning",
        name,
        json!({
            "method": "DPO",
            "policyModel": {"uri": fixture::uri("tiny")},
            "datasetRef": {"name": dataset},
            "training": {"epochs": 2, "batchSize": 16, "microBatchSize": 16, "learningRate": 5e-4, "maxLength": 64,
                "checkpoint": {"everySteps": 5}},
            "dpo": {"beta": 0.1},
            "evaluation": evaluation(),
        }),
    )
}

/// SFT on a file of texts.
pub fn sft(name: &str, texts: &str) -> Value {
    manifest(
        "PolicyTuning",
        name,
        json!({
            "method": "SFT",
            "policyModel": {"uri": fixture::uri("tiny")},
            "dataset": {"uri": texts},
            "training": {"epochs": 4, "batchSize": 8, "microBatchSize": 8, "learningRate": 1e-3, "maxLength": 64},
        }),
    )
}

/// Evaluation on held-out prompts, by the planted judge and its word list.
fn evaluation() -> Value {
    json!({
        "prompts": {"uri": fixture::uri("prompts-held-out.txt")},
        "samplesPerPrompt": 4,
        "sampling": sampling(3),
        "judge": words(),
        "lexicons": [{"name": "words", "uri": fixture::uri("words.tsv")}],
    })
}

/// Changes fields of a manifest's spec: objects are merged, null removes, everything else replaces.
pub fn with(mut manifest: Value, changes: &Value) -> Value {
    merge(&mut manifest["spec"], changes);
    manifest
}

/// Merges `from` into `into`: objects are merged, null removes, everything else replaces.
pub fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from.clone(),
    }
}
