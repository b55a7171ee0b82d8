//! The identity of a run: equal digests mean the same work, whenever and wherever it is done. Computes only.
//!
//! The name of a run is `<base>-<work>-<run>`, hexadecimal digits of a digest each: 16 of all that the state in a work folder
//! depends on, which an equal name would take for finished work, and 8 of everything. So runs that differ only in what they
//! measure (`plumbline_crds::work`) share a work folder, `<base>-<work>`, and nothing is trained or bought twice.
//!
//! A field that has its default is no part of a digest, so that one more field with a default changes no name. Defaults are
//! part of the API and do not change within a version of it.

use std::sync::LazyLock;

use plumbline_crds::artifact::hex;
use plumbline_crds::status::InputRef;
use plumbline_crds::{Kind, Spec, work};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::crds;

/// Fields of a spec that say how a run is done and not what it makes. With a raised budget a run continues with the
/// answers that are paid for already, with a smaller micro-batch from its last checkpoint.
pub(crate) const NOT_PART: [&str; 6] = [
    "/budget",
    "/compute",
    "/suspend",
    "/output/credentialsSecretRef",
    "/training/microBatchSize",
    "/training/checkpoint",
];
/// Bytes of the digests in the name of a run: of what the state in its work folder is made from, and of everything.
const WORK: usize = 8;
const RUN: usize = 4;
/// Characters of these, with the hyphens before them.
pub(crate) const DIGESTS: usize = 2 * (WORK + RUN) + 2;

static SCHEMAS: LazyLock<Vec<Value>> =
    LazyLock::new(|| Kind::ALL.iter().map(|kind| crds::spec_schema(*kind).unwrap_or_default()).collect());

/// The name of the run of a spec over inputs. Where a judge is served, how much compute there is and whether the run is
/// suspended make no difference.
pub fn run_name(base: &str, spec: &Spec, inputs: &[InputRef]) -> String {
    let measuring = |role: &str| work::is_measuring(spec.kind(), role);
    let state = json!([made_from(spec, work::measuring(spec.kind())), digests(inputs, |i| !measuring(i))]);
    let all = json!([made_from(spec, &[]), digests(inputs, |_| true)]);
    format!("{base}-{}-{}", short_digest(&state, WORK), short_digest(&all, RUN))
}

/// The name of a run's work folder. Runs that differ only in what they measure have the same.
pub fn work_name(run: &str) -> &str {
    run.rsplit_once('-').map_or(run, |(work, _)| work)
}

/// The digest of a spec as far as it makes a run another one, whatever its inputs are.
pub fn spec_digest(spec: &Spec) -> String {
    format!("sha256:{}", short_digest(&made_from(spec, &[]), Sha256::output_size()))
}

/// What a run is made from as far as its spec says it, without some fields and without what is at its default.
fn made_from(spec: &Spec, without: &[&str]) -> Value {
    let mut what = parts(spec, without);
    remove_defaults(&mut what, &SCHEMAS[spec.kind() as usize]);
    what.sort_all_objects();
    json!({"kind": spec.kind(), "spec": what})
}

fn parts(spec: &Spec, without: &[&str]) -> Value {
    let mut what = serde_json::to_value(spec).unwrap_or_default();
    for pointer in NOT_PART {
        remove(&mut what, pointer);
    }
    for field in without {
        remove(&mut what, &format!("/{field}"));
    }
    what
}

/// Removes each field with the value that it would have if it were absent.
fn remove_defaults(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => fields.retain(|name, value| {
            let field = &schema["properties"][name];
            remove_defaults(value, field);
            field.get("default").is_none_or(|default| !is_equal(default, value))
        }),
        Value::Array(items) => items.iter_mut().for_each(|item| remove_defaults(item, &schema["items"])),
        _ => {}
    }
}

/// A whole number in a schema is one with a fraction in a spec.
fn is_equal(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| a.total_cmp(&b).is_eq())
}

/// Role and digest of inputs, by role, so that the order of the list makes no difference; the name is part of the spec
/// already.
fn digests(inputs: &[InputRef], wanted: impl Fn(&str) -> bool) -> Vec<(&str, &str)> {
    let pairs = inputs.iter().map(|i| (i.role.as_str(), i.digest.as_str()));
    let mut pairs: Vec<_> = pairs.filter(|(role, _)| wanted(role)).collect();
    pairs.sort_unstable();
    pairs
}

fn short_digest(value: &Value, bytes: usize) -> String {
    hex(&Sha256::digest(value.to_string().as_bytes())[..bytes])
}

fn remove(value: &mut Value, pointer: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
    if let Some(parent) = value.pointer_mut(parent).and_then(Value::as_object_mut) {
        parent.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(change: impl Fn(&mut Value)) -> Spec {
        let mut spec = json!({"datasetRef": {"name": "d"}, "baseModel": {"uri": "m"}, "output": {"uri": "o"}});
        change(&mut spec);
        Spec::from_json(Kind::RewardModel, spec).unwrap()
    }

    fn inputs(digest: &str) -> Vec<InputRef> {
        let input = |role: &str, digest: &str| InputRef { role: role.into(), name: "n".into(), digest: digest.into() };
        vec![input("datasetRef", digest), input("baseModel", "sha256:1")]
    }

    #[test]
    fn how_a_run_is_done_makes_no_difference() {
        let name = run_name("run", &spec(|_| {}), &inputs("sha256:0"));
        assert_eq!((name.len(), &name[..4]), (3 + DIGESTS, "run-"));
        for change in [
            (|s: &mut Value| s["compute"] = json!({"threads": 2, "maxRetries": 0})) as fn(&mut Value),
            |s| s["suspend"] = json!(true),
            |s| s["output"]["credentialsSecretRef"] = json!({"name": "c"}),
            |s| s["training"] = json!({"epochs": 1}),
            // What is lowered when memory runs out: the run continues from its checkpoint.
            |s| s["training"] = json!({"microBatchSize": 1, "checkpoint": {"everySteps": 7, "keep": 1}}),
        ] {
            assert_eq!(run_name("run", &spec(change), &inputs("sha256:0")), name);
        }
        assert_eq!(spec_digest(&spec(|s| s["suspend"] = json!(true))), spec_digest(&spec(|_| {})));
        let mut reordered = inputs("sha256:0");
        reordered.reverse();
        assert_eq!(run_name("run", &spec(|_| {}), &reordered), name);
    }

    #[test]
    fn what_a_run_makes_and_from_what_makes_all_the_difference() {
        let name = run_name("run", &spec(|_| {}), &inputs("sha256:0"));
        assert_ne!(run_name("run", &spec(|_| {}), &inputs("sha256:9")), name);
        assert_ne!(run_name("run", &spec(|s| s["training"] = json!({"epochs": 2})), &inputs("sha256:0")), name);
        assert_ne!(spec_digest(&spec(|s| s["training"] = json!({"epochs": 2}))), spec_digest(&spec(|_| {})));
        assert_ne!(run_name("run", &spec(|s| s["output"]["uri"] = json!("p")), &inputs("sha256:0")), name);
    }

    #[test]
    fn what_only_measures_makes_another_run_in_the_same_work_folder() {
        let all = |change: fn(&mut Value), labels: &str| {
            let mut inputs = inputs("sha256:0");
            inputs.push(InputRef { role: "referenceLabels".into(), name: "n".into(), digest: labels.into() });
            run_name("a-b", &spec(change), &inputs)
        };
        let name = all(|_| {}, "sha256:1");
        assert!(work_name(&name).starts_with("a-b-") && work_name(&name).len() == 20, "{name}");
        for other in [
            all(|s| s["gates"] = json!({"minAccuracy": 0.5}), "sha256:1"),
            all(|s| s["referenceLabels"] = json!({"uri": "elsewhere"}), "sha256:1"),
            all(|s| s["output"]["uri"] = json!("elsewhere"), "sha256:1"),
            all(|_| {}, "sha256:2"),
        ] {
            assert!(other != name && work_name(&other) == work_name(&name), "{name} and {other}");
        }
        for other in [
            run_name("a-b", &spec(|_| {}), &inputs("sha256:9")),
            all(|s| s["training"] = json!({"seed": 1}), "sha256:1"),
            all(|s| s["loss"] = json!({"labels": "Hard"}), "sha256:1"),
            all(|s| s["baseModel"]["uri"] = json!("other"), "sha256:1"),
        ] {
            assert_ne!(work_name(&other), work_name(&name));
        }
    }

    #[test]
    fn every_field_of_a_spec_is_of_the_work_folder_unless_it_is_said_not_to_be() {
        let specs = [
            (Kind::PreferenceDataset, json!({"prompts": {"inline": ["p"]}, "judges": [{"name": "j"}]})),
            (Kind::RewardModel, json!({"baseModel": {"uri": "m"}})),
            (Kind::PolicyTuning, json!({"method": "PPO", "policyModel": {"uri": "m"}})),
        ];
        for (kind, least) in specs {
            let fields = crate::crds::spec_schema(kind).unwrap()["properties"].as_object().unwrap().clone();
            for field in work::measuring(kind) {
                assert!(fields.contains_key(*field), "{kind} has no {field}");
            }
            let spec = Spec::from_json(kind, least).unwrap();
            let (all, state) = (parts(&spec, &[]), parts(&spec, work::measuring(kind)));
            for field in all.as_object().unwrap().keys() {
                let measured = work::measuring(kind).contains(&field.as_str());
                assert_eq!(state.get(field).is_none(), measured, "{kind}: {field}");
            }
        }
    }

    #[test]
    fn a_raised_budget_is_the_same_run() {
        let dataset = |most: i64| {
            let spec =
                json!({"prompts": {"inline": ["p"]}, "judges": [{"name": "j"}], "budget": {"maxRequests": most}});
            run_name("run", &Spec::from_json(Kind::PreferenceDataset, spec).unwrap(), &[])
        };
        assert_eq!(dataset(1), dataset(2));
    }

    /// The least that a spec of a kind says, and with some fields at their defaults.
    fn least(kind: Kind) -> (Value, Value) {
        match kind {
            Kind::PreferenceDataset => (
                json!({"prompts": {"inline": ["p"]}, "judges": [{"name": "j"}], "generator": {}}),
                json!({"prompts": {"inline": ["p"]}, "judges": [{"name": "j", "weight": 1, "mode": "Pairwise"}],
                       "generator": {}, "order": {"policy": "Both"}, "output": {}}),
            ),
            Kind::RewardModel => (
                json!({"baseModel": {"uri": "m"}, "training": {"adapter": {}}}),
                json!({"baseModel": {"uri": "m"}, "loss": {"labels": "Soft", "marginWeight": 0},
                       "training": {"epochs": 1, "adapter": {"rank": 16, "alpha": 32}, "optimizer": {"epsilon": 1e-8}}}),
            ),
            Kind::PolicyTuning => (
                json!({"method": "PPO", "policyModel": {"uri": "m"}}),
                json!({"method": "PPO", "policyModel": {"uri": "m"}, "training": {}, "suspend": false}),
            ),
        }
    }

    #[test]
    fn a_field_at_its_default_is_as_one_that_is_absent_and_an_empty_object_is_not() {
        for kind in Kind::ALL {
            let (least, explicit) = least(kind);
            let read = |value: &Value| Spec::from_json(kind, value.clone()).unwrap();
            // Whatever has a default is left out, so that one more field that has one changes no digest.
            assert_eq!(made_from(&read(&least), &[])["spec"], least, "{kind}");
            assert_eq!(run_name("r", &read(&explicit), &[]), run_name("r", &read(&least), &[]), "{kind}");
        }
        let without = |s: &mut Value| s["training"] = json!({});
        let with = |s: &mut Value| s["training"] = json!({"adapter": {}});
        assert_ne!(spec_digest(&spec(with)), spec_digest(&spec(without)));
    }

    #[test]
    fn the_names_of_runs_are_those_of_earlier_versions() {
        // Another name would leave the work folder of an unfinished run behind, and make its next run from the start.
        let names = Kind::ALL.map(|kind| {
            let spec = Spec::from_json(kind, least(kind).0).unwrap();
            run_name("run", &spec, &inputs("sha256:0"))
        });
        assert_eq!(
            names,
            ["run-a3221fcb6a0802cf-0827448f", "run-2fb0e367d3e2aac9-2fb0e367", "run-e11d7cced33a91b5-e11d7cce"]
        );
    }
}
