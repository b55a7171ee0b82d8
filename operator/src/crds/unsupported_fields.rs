//! Which fields and values are part of a kind and refused so far: found by setting each field, one at a time, and asking
//! what is unsupported. Computes only.

use plumbline_crds::unsupported::{Cause, Target, unsupported};
use plumbline_crds::{Kind, Spec};
use serde_json::{Map, Value, json};

/// What is refused.
#[derive(Debug, Default)]
pub(super) struct Refused(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    path: String,
    /// Which values, where it is not all.
    value: Option<String>,
    target: Target,
    cause: Cause,
    instead: String,
}

/// What is said of a field: the values that are refused (none: any), where (nothing: everywhere), why, and what to do.
pub(super) type Refusal<'a> = (Vec<String>, Option<Target>, Cause, &'a str);

impl Refused {
    /// Sets every field of a kind's spec.
    pub(super) fn of(kind: Kind, schema: &Value) -> Self {
        let mut refused = Self::default();
        let mut path = Vec::new();
        refused.below(kind, schema, schema, &mut path);
        refused
    }

    /// The refusals at a path.
    pub(super) fn at(&self, path: &str) -> Vec<Refusal<'_>> {
        let of = |target| self.0.iter().filter(move |e| e.path == path && e.target == target);
        let values = |target| {
            let any = of(target).any(|e| e.value.is_none());
            of(target).filter(|_| !any).filter_map(|e| e.value.clone()).collect::<Vec<_>>()
        };
        let (local, cluster) = (of(Target::Local).next(), of(Target::Cluster).next());
        match (local, cluster) {
            (None, None) => Vec::new(),
            (Some(entry), Some(_)) if values(Target::Local) == values(Target::Cluster) => {
                vec![(values(Target::Local), None, entry.cause, entry.instead.as_str())]
            }
            (local, cluster) => local
                .into_iter()
                .chain(cluster)
                .map(|entry| (values(entry.target), Some(entry.target), entry.cause, entry.instead.as_str()))
                .collect(),
        }
    }

    fn below(&mut self, kind: Kind, root: &Value, schema: &Value, path: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            path.push(name.clone());
            for (sample, value) in samples(field) {
                let refused = self.set(kind, root, path, &sample, value.as_deref());
                // What is above a number that is refused is refused too, and named by it.
                if refused && (field["type"] == "integer" || field["type"] == "number") {
                    break;
                }
            }
            let (object, item) = if field["items"].is_object() { (&field["items"], true) } else { (field, false) };
            if object["properties"].is_object() {
                path.extend(item.then(|| "[]".to_owned()));
                self.below(kind, root, object, path);
                path.truncate(path.len() - usize::from(item));
            }
            path.pop();
        }
    }

    /// One field set to one value, and all else as little as possible. Gives whether it is refused.
    fn set(&mut self, kind: Kind, root: &Value, path: &[String], sample: &Value, value: Option<&str>) -> bool {
        let mut spec = least(root);
        place(&mut spec, root, path, sample);
        let (known, Ok(spec)) = (self.0.len(), Spec::from_json(kind, spec)) else { return false };
        let path = path.iter().fold("spec".to_owned(), |at, part| match part.as_str() {
            "[]" => format!("{at}[]"),
            name => format!("{at}.{name}"),
        });
        for target in [Target::Local, Target::Cluster] {
            for found in unsupported(&spec, target).into_iter().filter(|f| f.path.replace("[0]", "[]") == path) {
                let value = value.map(str::to_owned);
                self.0.push(Entry { path: path.clone(), value, target, cause: found.cause, instead: found.instead });
            }
        }
        self.0.len() > known
    }
}

/// The least that a schema asks for.
fn least(schema: &Value) -> Value {
    if let Some(value) = schema["enum"].get(0) {
        return value.clone();
    }
    match schema["type"].as_str().unwrap_or_default() {
        "object" => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            Value::Object(required.map(|name| (name.to_owned(), least(&schema["properties"][name]))).collect())
        }
        "array" => json!([least(&schema["items"])]),
        "integer" | "number" => schema["minimum"].clone(),
        "boolean" => json!(false),
        _ => json!("a"),
    }
}

/// Values to try, and their names where others of the field may be taken: each of a closed list, the next two integers above
/// the default, the least and the largest number, more than one item.
fn samples(field: &Value) -> Vec<(Value, Option<String>)> {
    if let Some(values) = field["enum"].as_array() {
        return values.iter().map(|v| (v.clone(), v.as_str().map(|name| format!("`{name}`")))).collect();
    }
    match field["type"].as_str().unwrap_or_default() {
        "array" => {
            let item = least(&field["items"]);
            vec![(json!([item]), None), (json!([item, item]), Some("More than one".to_owned()))]
        }
        "integer" => {
            let usual = field["default"].as_i64();
            let least = usual.or(field["minimum"].as_i64()).unwrap_or_default();
            [least, least + 1].map(|n| (json!(n + 1), usual.map(|_| format!("Above {n}")))).into()
        }
        "number" => {
            let ends = [&field["minimum"], &field["maximum"]].into_iter().filter(|end| end.is_number());
            ends.map(|end| (end.clone(), None)).collect()
        }
        _ => vec![(least(field), None)],
    }
}

/// Sets a value below objects that are as little as they may be.
fn place(into: &mut Value, schema: &Value, path: &[String], value: &Value) {
    let Some((part, rest)) = path.split_first() else {
        *into = value.clone();
        return;
    };
    if part == "[]" {
        if !into.is_array() {
            *into = json!([least(&schema["items"])]);
        }
        place(&mut into[0], &schema["items"], rest, value);
    } else {
        if !into.is_object() {
            *into = Value::Object(Map::new());
        }
        let schema = &schema["properties"][part.as_str()];
        if into.get(part).is_none() {
            into[part.as_str()] = least(schema);
        }
        place(&mut into[part.as_str()], schema, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crds::spec_schema;

    /// The texts of the list of what is refused, as its source has them.
    fn instead() -> Vec<String> {
        let source = include_str!("../../../crds/src/unsupported.rs");
        let calls = source.split("list.").skip(1).filter_map(|call| {
            let call = ["check(", "value(", "locally(", "value_locally(", "without("]
                .iter()
                .find_map(|function| call.strip_prefix(function))?;
            let arguments = call.split(");").next()?;
            Some(arguments.rsplit('"').nth(1)?.to_owned())
        });
        calls.collect()
    }

    #[test]
    fn everything_that_is_refused_is_found_by_setting_fields() {
        let all: Vec<Refused> = Kind::ALL.map(|kind| Refused::of(kind, &spec_schema(kind).unwrap())).into();
        let found: Vec<&str> = all.iter().flat_map(|r| &r.0).map(|entry| entry.instead.as_str()).collect();
        let listed = instead();
        assert!(listed.len() > 20, "{listed:?}");
        for instead in listed {
            assert!(found.contains(&instead.as_str()), "no field that is set is refused with: {instead}");
        }
    }

    #[test]
    fn values_are_named_and_what_is_refused_in_one_place_only_says_where() {
        let refused = Refused::of(Kind::PolicyTuning, &spec_schema(Kind::PolicyTuning).unwrap());
        let methods = &refused.at("spec.method")[0];
        assert!(methods.0 == ["`BestOfN`"], "{methods:?}");
        assert_eq!(methods.1, None);
        assert_eq!(refused.at("spec.compute.env")[0].1, Some(Target::Local));
        assert_eq!(refused.at("spec.compute.accelerators")[0].0, ["Above 1"]);
        assert!(refused.at("spec.training.epochs").is_empty());
        let refused = Refused::of(Kind::PreferenceDataset, &spec_schema(Kind::PreferenceDataset).unwrap());
        assert_eq!(refused.at("spec.shards")[0].0, ["Above 1"]);
        assert!(refused.at("spec.judges").is_empty());
    }
}
