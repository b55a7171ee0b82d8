//! The identity of a run: equal digests mean the same work, whenever and wherever it is done. Computes only.

use plumbline_crds::Spec;
use plumbline_crds::artifact::hex;
use plumbline_crds::status::InputRef;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Fields of a spec that say how a run is done and not what it makes. A raised budget goes on with the answers that are
/// paid for already.
pub(crate) const NOT_PART: [&str; 4] = ["/budget", "/compute", "/suspend", "/output/credentialsSecretRef"];

/// The name of the run of a spec over inputs: `<base>-<spec>-<inputs>`, eight hexadecimal digits of a digest each. Where
/// a judge is served, how much compute there is and whether the run is suspended make no difference.
pub fn run_name(base: &str, spec: &Spec, inputs: &[InputRef]) -> String {
    // By role, so that the order of the list makes no difference; the name is part of the spec already.
    let mut inputs: Vec<(&str, &str)> = inputs.iter().map(|i| (i.role.as_str(), i.digest.as_str())).collect();
    inputs.sort_unstable();
    format!("{base}-{}-{}", spec_digest(spec), short_digest(&json!(inputs)))
}

/// Whether a run of this name is one of this spec, whatever its inputs were.
pub fn is_of_spec(name: &str, spec: &Spec) -> bool {
    name.rsplit('-').nth(1) == Some(spec_digest(spec).as_str())
}

fn spec_digest(spec: &Spec) -> String {
    let mut what = serde_json::to_value(spec).unwrap_or_default();
    for pointer in NOT_PART {
        remove(&mut what, pointer);
    }
    what.sort_all_objects();
    short_digest(&json!({"kind": spec.kind(), "spec": what}))
}

fn short_digest(value: &Value) -> String {
    hex(&Sha256::digest(value.to_string().as_bytes())[..4])
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
    use plumbline_crds::Kind;

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
        assert_eq!((name.len(), &name[..4]), (21, "run-"));
        for change in [
            (|s: &mut Value| s["compute"] = json!({"threads": 2, "maxRetries": 0})) as fn(&mut Value),
            |s| s["suspend"] = json!(true),
            |s| s["output"]["credentialsSecretRef"] = json!({"name": "c"}),
            |s| s["training"] = json!({"epochs": 1}),
        ] {
            assert_eq!(run_name("run", &spec(change), &inputs("sha256:0")), name);
        }
        assert!(is_of_spec(&name, &spec(|_| {})) && is_of_spec(&run_name("run", &spec(|_| {}), &[]), &spec(|_| {})));
        let mut reordered = inputs("sha256:0");
        reordered.reverse();
        assert_eq!(run_name("run", &spec(|_| {}), &reordered), name);
    }

    #[test]
    fn what_a_run_makes_and_from_what_makes_all_the_difference() {
        let name = run_name("run", &spec(|_| {}), &inputs("sha256:0"));
        assert_ne!(run_name("run", &spec(|_| {}), &inputs("sha256:9")), name);
        assert_ne!(run_name("run", &spec(|s| s["training"] = json!({"epochs": 2})), &inputs("sha256:0")), name);
        assert!(!is_of_spec(&name, &spec(|s| s["training"] = json!({"epochs": 2}))) && !is_of_spec("", &spec(|_| {})));
        assert_ne!(run_name("run", &spec(|s| s["output"]["uri"] = json!("p")), &inputs("sha256:0")), name);
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
}
