//! Makes any example small enough for the tiny model and for seconds, in the same way for all. Computes only.
//!
//! What is changed: counts, lengths and steps are lowered to a limit; numbers are in Float32, with one thread; gates are taken
//! out, as a tiny model meets none; a pod and its credentials are those of the test; a judge that is a model is asked what the tiny model can answer. Everything else stays as
//! it is written.

use serde_json::{Map, Value, json};

/// The largest value of a field, wherever it stands.
const LIMITS: [(&str, u64); 9] = [
    ("responsesPerPrompt", 3),
    ("perPrompt", 2),
    ("maxNewTokens", 12),
    ("minNewTokens", 12),
    ("samplesPerPrompt", 1),
    ("promptsPerStep", 8),
    ("epochs", 1),
    ("everySteps", 1),
    ("lastLayers", 2),
];
/// Fields that a fixture has no use for.
const LEFT_OUT: [&str; 5] = ["gates", "precision", "minConfidence", "compute", "credentialsSecretRef"];

/// The manifest, small.
pub(crate) fn smaller(mut manifest: Value) -> Value {
    let kind = manifest["kind"].clone();
    let spec = manifest["spec"].as_object_mut().unwrap();
    within(spec);
    spec.insert("compute".into(), json!({"threads": 1, "maxRetries": 0}));
    if let Some(prompts) = spec.get_mut("prompts") {
        prompts["limit"] = json!(16);
        if kind == "PreferenceDataset" {
            prompts["validationFraction"] = json!(0.25);
        }
    }
    if let Some(evaluation) = spec.get_mut("evaluation") {
        evaluation["prompts"]["limit"] = json!(4);
    }
    if kind != "PreferenceDataset" {
        let training = spec.entry("training").or_insert_with(|| json!({}));
        for (field, value) in [("maxSteps", 2), ("batchSize", 4), ("microBatchSize", 4), ("maxLength", 64)] {
            training[field] = json!(value);
        }
    }
    manifest
}

fn within(fields: &mut Map<String, Value>) {
    fields.retain(|name, _| !LEFT_OUT.contains(&name.as_str()));
    for (name, value) in fields {
        let limit = LIMITS.iter().find(|(field, _)| field == name).map(|(_, limit)| *limit);
        match value {
            Value::Number(number) => {
                if let Some(limit) = limit.filter(|limit| number.as_u64().is_some_and(|n| n > *limit)) {
                    *value = limit.into();
                }
            }
            Value::Object(fields) => each(name, fields),
            Value::Array(items) => items.iter_mut().filter_map(Value::as_object_mut).for_each(|item| each(name, item)),
            _ => {}
        }
    }
}

fn each(name: &str, fields: &mut Map<String, Value>) {
    if matches!(name, "judges" | "judge") && fields.contains_key("model") {
        for answered in ["criteria", "examples", "templates"] {
            fields.remove(answered);
        }
        fields.insert("mode".into(), json!("Pointwise"));
        fields.insert("api".into(), json!("Completion"));
        fields.insert("template".into(), json!("{{ prompt }}{{ response }} of the"));
        fields.insert("answers".into(), json!([" United", " whale"]));
    }
    within(fields);
}
