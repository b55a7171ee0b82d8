//! A status that its schema holds, whatever a trainer or a judge said. Computes only.
//!
//! The API server refuses a status as a whole for one number out of its bounds, and the reconcile fails; the next one would say the
//! same. So numbers are cut to their bounds, and what else does not fit is left out, by its path.

use std::collections::HashSet;
use std::sync::LazyLock;

use plumbline_crds::Kind;
use plumbline_crds::status::Status;
use serde_json::{Map, Value};

use crate::crds;

static SCHEMAS: LazyLock<Vec<Value>> =
    LazyLock::new(|| Kind::ALL.iter().map(|kind| crds::status_schema(*kind).unwrap_or_default()).collect());

/// The status as it can be written, and the paths of what was cut or left out.
pub(super) fn status(kind: Kind, status: Status) -> (Status, Vec<String>) {
    fitted(&SCHEMAS[kind as usize], status)
}

fn fitted(schema: &Value, status: Status) -> (Status, Vec<String>) {
    let Ok(value) = serde_json::to_value(&status) else { return (status, Vec::new()) };
    let mut misfits = Vec::new();
    let fitted = fit(schema, value, "status", &mut misfits);
    if misfits.is_empty() {
        return (status, misfits);
    }
    let readable = fitted.and_then(|fitted| readable(fitted, &mut misfits));
    // The API server says better what is wrong with it than an empty one would.
    (readable.unwrap_or(status), misfits)
}

/// The status without the fields that cannot be read back.
fn readable(fitted: Value, misfits: &mut Vec<String>) -> Option<Status> {
    let Value::Object(mut fields) = fitted else { return None };
    fields.retain(|name, value| {
        let alone = Value::Object([(name.clone(), value.clone())].into_iter().collect());
        let is_readable = serde_json::from_value::<Status>(alone).is_ok();
        if !is_readable {
            misfits.push(format!("status.{name}"));
        }
        is_readable
    });
    serde_json::from_value(Value::Object(fields)).ok()
}

/// The value as the schema holds it; nothing where it holds none of it.
fn fit(schema: &Value, value: Value, path: &str, misfits: &mut Vec<String>) -> Option<Value> {
    match value {
        Value::Object(fields) => object(schema, fields, path, misfits),
        Value::Array(items) => Some(list(schema, items, path, misfits)),
        Value::String(text) => {
            let most = schema["maxLength"].as_u64().unwrap_or(u64::MAX);
            let known = schema["enum"].as_array().is_none_or(|known| known.contains(&text.as_str().into()));
            let fits = known && text.chars().count() as u64 <= most;
            if !fits {
                misfits.push(path.to_owned());
            }
            fits.then_some(Value::String(text))
        }
        Value::Number(number) => {
            let bound = |name: &str| schema[name].as_i64();
            let Some(whole) = number.as_i64() else { return Some(Value::Number(number)) };
            let least = bound("minimum").map_or(whole, |least| whole.max(least));
            let fitted = bound("maximum").map_or(least, |most| least.min(most));
            if fitted != whole {
                misfits.push(path.to_owned());
            }
            Some(fitted.into())
        }
        other => Some(other),
    }
}

fn object(schema: &Value, fields: Map<String, Value>, path: &str, misfits: &mut Vec<String>) -> Option<Value> {
    let most = schema["maxProperties"].as_u64().map_or(usize::MAX, |most| most as usize);
    let required = schema["required"].as_array().into_iter().flatten();
    let required: HashSet<&str> = required.filter_map(Value::as_str).collect();
    let mut kept = Map::new();
    for (name, value) in fields {
        let at = format!("{path}.{name}");
        let property = schema["properties"].get(&name).or_else(|| schema.get("additionalProperties"));
        let fitted = match property {
            Some(property) if kept.len() < most => fit(property, value, &at, misfits),
            _ => {
                misfits.push(at);
                None
            }
        };
        match fitted {
            Some(value) => kept.insert(name, value),
            None if required.contains(name.as_str()) => return None,
            None => None,
        };
    }
    Some(Value::Object(kept))
}

fn list(schema: &Value, items: Vec<Value>, path: &str, misfits: &mut Vec<String>) -> Value {
    let most = schema["maxItems"].as_u64().map_or(usize::MAX, |most| most as usize);
    let keys: Vec<&str> =
        schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let (mut kept, mut seen) = (Vec::new(), HashSet::new());
    for (i, item) in items.into_iter().enumerate() {
        let at = format!("{path}[{i}]");
        let key = keys.iter().map(|key| item[*key].to_string()).collect::<Vec<_>>();
        if kept.len() >= most || (!keys.is_empty() && !seen.insert(key)) {
            misfits.push(at);
            continue;
        }
        kept.extend(fit(&schema["items"], item, &at, misfits));
    }
    Value::Array(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs;
    use crate::manifest::yaml::documents;
    use crate::validate::schema;
    use plumbline_crds::Spec;
    use serde_json::json;

    /// What the schema has against a status, as an API server would find it.
    fn faults(status: &Status) -> Vec<String> {
        let text = serde_json::to_string(status).unwrap();
        let mut findings = Vec::new();
        schema::check(&SCHEMAS[0], &documents(&text).remove(0).unwrap(), "status", &mut findings);
        findings.into_iter().map(|found| format!("{}: {}", found.finding.path, found.finding.message)).collect()
    }

    fn read(value: Value) -> Status {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_status_that_fits_is_written_as_it_is() {
        let status = read(json!({"observedGeneration": 3, "cost": {"requests": 1, "amount": "0.1", "currency": "USD"},
            "metrics": [{"name": "loss", "value": "0.5"}], "counts": {"pairs": 7}, "bias": {"position": "0.5"}}));
        assert_eq!(super::status(Kind::PreferenceDataset, status.clone()), (status, Vec::new()));
    }

    #[test]
    fn all_inputs_of_the_largest_spec_fit() {
        let judges: Vec<Value> = (0..16).map(|i| json!({"name": format!("j{i}"), "lexicon": {"uri": "l"}})).collect();
        let spec = json!({"prompts": {"uri": "p"}, "generator": {"model": {"uri": "m"}}, "judges": judges});
        let wanted = inputs::wanted(&Spec::from_json(Kind::PreferenceDataset, spec).unwrap());
        assert_eq!(wanted.len(), 18);
        let inputs: Vec<Value> =
            wanted.iter().map(|input| json!({"role": input.role, "name": "n", "digest": ""})).collect();
        let status = read(json!({"inputs": inputs}));
        assert_eq!(super::status(Kind::PreferenceDataset, status.clone()), (status, Vec::new()));
    }

    #[test]
    fn numbers_are_cut_to_their_bounds_and_texts_that_are_too_long_left_out_by_their_paths() {
        let status = read(json!({
            "cost": {"requests": i64::MAX, "promptTokens": -12, "amount": "1".repeat(33), "currency": "EURO"},
            "metrics": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}, {"name": "b", "value": "9".repeat(65)}],
            "counts": {"pairs": -1}, "progress": {"percent": 1000, "stage": "x".repeat(65)},
        }));
        assert!(!faults(&status).is_empty());
        let (fitted, misfits) = super::status(Kind::PreferenceDataset, status);
        assert_eq!(faults(&fitted), [""; 0]);
        let cost = fitted.cost.unwrap();
        assert_eq!((cost.requests, cost.prompt_tokens), (9_007_199_254_740_991, 0));
        assert_eq!((cost.amount, cost.currency), (None, None));
        assert_eq!(fitted.metrics.iter().map(|m| m.value.as_str()).collect::<Vec<_>>(), ["1"]);
        assert_eq!(fitted.counts["pairs"], 0);
        assert_eq!(misfits.len(), 8, "{misfits:?}");
        for path in ["status.cost.promptTokens", "status.metrics[1]", "status.metrics[2].value", "status.counts.pairs"]
        {
            assert!(misfits.iter().any(|misfit| misfit == path), "{path}: {misfits:?}");
        }
    }

    #[test]
    fn a_field_that_cannot_be_read_back_is_left_out_and_nothing_else_is() {
        // Such a schema is a fault of the types: what a status cannot be without must not take the rest with it.
        let mut schema = SCHEMAS[0].clone();
        schema["properties"]["progress"]["properties"]["stage"]["maxLength"] = 2.into();
        let fields = schema["properties"]["artifact"]["properties"].as_object_mut().unwrap();
        fields["uri"]["maxLength"] = 2.into();
        schema["properties"]["artifact"].as_object_mut().unwrap().remove("required");
        let status = read(json!({"observedGeneration": 3, "progress": {"stage": "Training", "completed": 5},
            "artifact": {"uri": "file:///a", "digest": "sha256:a", "sizeBytes": 1, "createdTime": "t"},
            "job": {"name": "r-1", "attempt": 2}}));
        let (fitted, misfits) = fitted(&schema, status.clone());
        assert_eq!((fitted.observed_generation, fitted.job), (3, status.job));
        assert_eq!((fitted.artifact, fitted.progress.unwrap().completed), (None, 5));
        assert!(misfits.iter().any(|misfit| misfit == "status.artifact"), "{misfits:?}");
    }

    #[test]
    fn every_number_and_text_of_a_status_fits_after_it_was_as_wrong_as_its_type_allows() {
        for wrong in [Value::from(i64::MIN), Value::from(i64::MAX), "x".repeat(100_000).into()] {
            let status = read(extreme(&SCHEMAS[0], &wrong));
            for kind in Kind::ALL {
                let (fitted, _) = super::status(kind, status.clone());
                assert_eq!(faults(&fitted), [""; 0], "{wrong}");
            }
        }
    }

    /// Every field of a schema, with a value of its type that is `wrong` where it can be.
    fn extreme(schema: &Value, wrong: &Value) -> Value {
        match schema["type"].as_str().unwrap() {
            "object" if schema["additionalProperties"].is_object() => {
                let value = extreme(&schema["additionalProperties"], wrong);
                Value::Object((0..100).map(|i| (format!("k{i}"), value.clone())).collect())
            }
            "object" => {
                let fields = schema["properties"].as_object().unwrap().iter();
                Value::Object(fields.map(|(name, field)| (name.clone(), extreme(field, wrong))).collect())
            }
            "array" => Value::Array(vec![extreme(&schema["items"], wrong); 100]),
            "string" if schema["enum"].is_array() => schema["enum"][0].clone(),
            "string" => {
                if wrong.is_string() {
                    wrong.clone()
                } else {
                    "text".into()
                }
            }
            _ => {
                if wrong.is_i64() {
                    wrong.clone()
                } else {
                    1.into()
                }
            }
        }
    }
}
