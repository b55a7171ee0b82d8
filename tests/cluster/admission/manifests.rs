//! Good manifests of each kind: the least that is allowed, and changes of it that are allowed too. Computes only.

use plumbline_crds::{API_VERSION, Kind};
use serde_json::{Value, json};

use super::case::changed;

/// The least that a kind must say.
pub(crate) fn least(kind: Kind) -> Value {
    let spec = match kind {
        Kind::PreferenceDataset => json!({
            "prompts": {"inline": ["a prompt"]},
            "generator": {"model": {"uri": "file:///models/sft"}},
            "judges": [{"name": "words", "lexicon": {"uri": "file:///data/words.tsv"}}],
        }),
        Kind::RewardModel => json!({
            "datasetRef": {"name": "data"},
            "baseModel": {"uri": "file:///models/sft"},
        }),
        Kind::PolicyTuning => json!({
            "method": "PPO",
            "policyModel": {"uri": "file:///models/sft"},
            "rewardModelRef": {"name": "reward"},
            "prompts": {"inline": ["a prompt"]},
        }),
    };
    json!({"apiVersion": API_VERSION, "kind": kind.to_string(), "metadata": {"name": "good"}, "spec": spec})
}

/// A tuning that learns from preference data.
pub(crate) fn dpo() -> Value {
    changed(
        &least(Kind::PolicyTuning),
        &[
            ("/spec/method", json!("DPO")),
            ("/spec/rewardModelRef", Value::Null),
            ("/spec/prompts", Value::Null),
            ("/spec/datasetRef", json!({"name": "data"})),
        ],
    )
}

/// An endpoint that is asked for verdicts.
pub(crate) fn endpoint() -> Value {
    json!({"url": "https://judge.example.com/v1", "model": "judge-large"})
}

/// A price in a currency.
pub(crate) fn price(currency: &str) -> Value {
    json!({"inputPerMillionTokens": 2.5, "outputPerMillionTokens": 10, "currency": currency})
}

/// Manifests at the edge of a rule, on the side that is allowed.
pub(crate) fn allowed(kind: Kind) -> Vec<Value> {
    let good = least(kind);
    let with = |changes: &[(&str, Value)]| changed(&good, changes);
    let mut allowed = vec![
        good.clone(),
        with(&[("/metadata/name", json!("a".repeat(52)))]),
        with(&[("/spec/output/uri", json!("s3://bucket/folder:1/"))]),
        with(&[("/spec/output/uri", json!("../a:b"))]),
        with(&[("/spec/suspend", json!(true))]),
        with(&[(
            "/spec/compute",
            json!({
                "accelerators": 8, "nodes": 2, "threads": 4, "maxRetries": 0, "deadlineSeconds": 86400,
                "resources": {"requests": {"cpu": "500m", "memory": "1.5Gi"}, "limits": {"nvidia.com/gpu": "8", "memory": "2e9"}},
                "nodeSelector": {"pool": "gpu"},
                "tolerations": [
                    {"operator": "Exists"},
                    {"key": "gpu", "value": "yes", "effect": "NoSchedule"},
                    {"key": "gpu", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
                ],
                "env": [{"name": "A", "value": ""}, {"name": "B", "secretKeyRef": {"name": "s", "key": "k"}}],
                "image": "registry.example.com/trainer:1", "imagePullSecrets": [{"name": "pull"}],
                "queueName": "queue", "priorityClassName": "high",
            }),
        )]),
    ];
    let hub = json!({"uri": "hf://organisation/model", "revision": "main"});
    match kind {
        Kind::PreferenceDataset => allowed.extend([
            with(&[("/spec/generator", Value::Null), ("/spec/responses", json!({"uri": "responses.jsonl"}))]),
            with(&[("/spec/generator/model", hub.clone())]),
            with(&[("/spec/generator/model", json!({"uri": "hf://organisation/model@main"}))]),
            with(&[("/spec/generator/model", Value::Null), ("/spec/generator/endpoint", endpoint())]),
            with(&[("/spec/generator/sampling", json!({"minNewTokens": 9, "maxNewTokens": 9}))]),
            with(&[("/spec/prompts", json!({"configMapRef": {"name": "prompts", "key": "prompts.jsonl"}}))]),
            with(&[(
                "/spec/judges/0",
                json!({"name": "j", "model": hub, "templates": ["builtin:pairwise-v1", "builtin:pairwise-v2"]}),
            )]),
            with(&[(
                "/spec/judges/0",
                json!({"name": "j", "model": {"uri": "file:///models/judge"},
                    "examples": [{"responseA": "x", "responseB": "y", "answer": "B"}]}),
            )]),
            with(&[(
                "/spec/judges/0",
                json!({"name": "j", "model": {"uri": "file:///models/judge"}, "mode": "Pointwise",
                    "answers": ["good", "bad"], "template": "{{ response }}",
                    "examples": [{"response": "x", "answer": "bad"}]}),
            )]),
            with(&[("/spec/judges/0/mode", json!("Pointwise"))]),
            with(&[("/spec/order", json!({"policy": "Sampled", "sampleFraction": 0.5}))]),
            with(&[
                ("/spec/budget/maxCost", json!(50)),
                (
                    "/spec/judges",
                    json!([
                        {"name": "free", "model": {"uri": "file:///models/judge"}, "price": price("EUR")},
                        {"name": "a", "endpoint": endpoint(), "price": price("USD")},
                        {"name": "b", "endpoint": endpoint(), "price": price("USD")},
                    ]),
                ),
            ]),
        ]),
        Kind::RewardModel => allowed.extend([
            with(&[("/spec/datasetRef", Value::Null), ("/spec/dataset", json!({"uri": "data"}))]),
            with(&[("/spec/baseModel", hub)]),
            with(&[("/spec/baseModel/uri", json!("s3://bucket/models/sft"))]),
            with(&[("/spec/datasetRef", Value::Null), ("/spec/dataset", json!({"uri": "https://host/pairs.jsonl"}))]),
            with(&[("/spec/training", json!({"batchSize": 8, "microBatchSize": 8}))]),
        ]),
        Kind::PolicyTuning => {
            let sft = changed(
                &dpo(),
                &[
                    ("/spec/method", json!("SFT")),
                    ("/spec/datasetRef", Value::Null),
                    ("/spec/dataset", json!({"uri": "texts.jsonl"})),
                ],
            );
            allowed.extend([
                dpo(),
                sft,
                changed(&dpo(), &[("/spec/datasetRef", Value::Null), ("/spec/dataset", json!({"uri": "data"}))]),
                // What says nothing but the defaults says nothing.
                changed(&dpo(), &[("/spec/rollout", json!({"promptsPerStep": 64, "sampling": {"temperature": 1}}))]),
                changed(&dpo(), &[("/spec/dpo", json!({"referenceModel": hub}))]),
                with(&[("/spec/method", json!("REINFORCE"))]),
                with(&[("/spec/method", json!("GRPO")), ("/spec/rollout/responsesPerPrompt", json!(2))]),
                with(&[("/spec/rollout/sampling/maxNewTokens", json!(1023))]),
                with(&[("/spec/rollout/sampling", json!({"minNewTokens": 9, "maxNewTokens": 9}))]),
                with(&[(
                    "/spec/evaluation",
                    json!({"prompts": {"uri": "held-out.txt"}, "lexicons": [{"name": "rewards", "uri": "words"}]}),
                )]),
            ]);
            allowed.extend(losses());
        }
    }
    allowed
}

/// Tunings by DPO with losses and what these read.
fn losses() -> [Value; 2] {
    let weighted = json!({"losses": [{"loss": "Simpo"}, {"loss": "Sft", "weight": 0.2}], "simpoGamma": 1});
    [json!({"loss": "ExoPair", "labels": "Soft", "labelSmoothing": 0.001}), weighted]
        .map(|settings| changed(&dpo(), &[("/spec/dpo", settings)]))
}
