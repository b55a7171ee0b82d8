//! Values: each is described, checked and used, and what is none is refused before anything is installed.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use plumbline_testkit::programs::text;
use serde_json::{Value, json};

use super::helm::{CHART, Helm, Version, everything, values};

fn read(file: &str) -> String {
    fs::read_to_string(format!("{CHART}/{file}")).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&read("values.schema.json")).unwrap()
}

/// A schema, or the definition that it refers to.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    schema["$ref"].as_str().map_or(schema, |r| root.pointer(r.trim_start_matches('#')).unwrap())
}

#[test]
fn helm_lint_has_nothing_to_say() {
    for helm in [Version::V3, Version::V4].map(Helm::offline) {
        for values in [values(&json!({})), everything("team")] {
            helm.says(&["lint", "--strict", CHART, "--values", &helm.file(&values)]);
        }
        // The default values alone, as tools that know nothing of this chart lint it.
        helm.says(&["lint", "--strict", CHART]);
    }
}

#[test]
fn what_is_no_value_is_refused_by_its_path() {
    let helm = Helm::offline(Version::V3);
    let cases = [
        (json!({"replicaCount": 2}), vec!["additional properties 'replicaCount' not allowed"]),
        (json!({"image": {"name": "x"}}), vec!["'/image'", "additional properties 'name' not allowed"]),
        (
            json!({"metrics": {"serviceMonitor": {"enable": true}}}),
            vec!["'/metrics/serviceMonitor'", "'enable' not allowed"],
        ),
        (json!({"imagePullSecrets": ["pull"]}), vec!["'/imagePullSecrets/0'", "got string, want object"]),
        (json!({"replicas": "2"}), vec!["'/replicas'", "got string, want integer"]),
        (json!({"replicas": -1}), vec!["'/replicas'", "minimum"]),
        (json!({"stallTimeoutSeconds": 1.5}), vec!["'/stallTimeoutSeconds'", "got number, want integer"]),
        (json!({"crds": {"enabled": "false"}}), vec!["'/crds/enabled'", "got string, want boolean"]),
        (json!({"commonLabels": {"a": 1}}), vec!["'/commonLabels/a'", "got number, want string"]),
        (json!({"image": {"digest": "sha256:1"}}), vec!["'/image/digest'", "does not match pattern"]),
        (
            json!({"image": {"pullPolicy": "Sometimes"}}),
            vec!["'/image/pullPolicy'", "'Always', 'IfNotPresent', 'Never'"],
        ),
        (json!({"artifactRoot": "s3://bucket"}), vec!["'/artifactRoot'", "does not match pattern"]),
        (json!({"artifactRoot": "pvc://my_claim/runs"}), vec!["'/artifactRoot'", "does not match pattern"]),
        (json!({"artifactRoot": "s3://key:secret@host/runs"}), vec!["'/artifactRoot'", "does not match pattern"]),
        (json!({"inputCache": "pvc://my_claim"}), vec!["'/inputCache'", "does not match pattern"]),
        (json!({"inputCache": "s3://bucket/cache"}), vec!["'/inputCache'", "does not match pattern"]),
        (json!({"watchNamespace": "Team A"}), vec!["'/watchNamespace'", "does not match pattern"]),
        (
            json!({"leaderElection": {"leaseDurationSeconds": 0}}),
            vec!["'/leaderElection/leaseDurationSeconds'", "minimum"],
        ),
        (json!({"metrics": {"port": 80}}), vec!["'/metrics/port'", "minimum"]),
        (json!({"podDisruptionBudget": {"maxUnavailable": "half"}}), vec!["'/podDisruptionBudget/maxUnavailable'"]),
        (
            json!({"progress": {"port": 8080}}),
            vec!["progress.port: expected another port than metrics.port, found 8080 for both"],
        ),
        (
            json!({"metrics": {"serviceMonitor": {"enabled": true}, "podMonitor": {"enabled": true}}}),
            vec!["metrics.podMonitor.enabled: expected one of serviceMonitor and podMonitor, found both"],
        ),
        (
            json!({"image": {"repository": ""}}),
            vec!["image.repository: expected the registry and path of the operator's image"],
        ),
    ];
    for (wrong, expected) in cases {
        let output = helm.run(&["template", "r", CHART, "--values", &helm.file(&values(&wrong))]);
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{wrong} was taken");
        for words in expected {
            assert!(said.contains(words), "{wrong}: no \"{words}\" in {said}");
        }
    }
}

#[test]
fn ports_are_compared_as_numbers_wherever_they_come_from() {
    for helm in [Version::V3, Version::V4].map(Helm::offline) {
        let file = helm.file(&values(&json!({})));
        let with = |port: &str| helm.run(&["template", "r", CHART, "--values", &file, "--set", port]);
        let other = with("progress.port=9090");
        assert!(other.status.success(), "{}", text(&other.stderr));
        assert!(text(&with("progress.port=8080").stderr).contains("found 8080 for both"));
    }
}

#[test]
fn an_older_kubernetes_is_refused() {
    let helm = Helm::offline(Version::V3);
    let file = helm.file(&values(&json!({})));
    let on = |version: &str| helm.run(&["template", "r", CHART, "--values", &file, "--kube-version", version]);
    let said = text(&on("1.32.9").stderr);
    assert!(said.contains("requires kubeVersion: >=1.33.0-0"), "{said}");
    assert!(on("v1.33.4-gke.1350000").status.success(), "a vendor's version");
}

#[test]
fn every_value_has_a_schema_and_the_schema_has_no_other() {
    fn check(root: &Value, schema: &Value, defaults: &Value, path: &str) {
        let Some(properties) = schema["properties"].as_object() else { return };
        let known: BTreeSet<&String> = properties.keys().collect();
        let mut given: BTreeSet<&String> = defaults.as_object().unwrap().keys().collect();
        let parents = ["global", "enabled"].map(str::to_owned);
        if path.is_empty() {
            given.extend(&parents);
        }
        assert_eq!(known, given, "{path}");
        for (name, property) in properties {
            check(root, resolved(root, property), &defaults[name], &format!("{path}.{name}"));
        }
    }
    let schema = schema();
    let defaults: Value = serde_yaml::from_str(&read("values.yaml")).unwrap();
    check(&schema, &schema, &defaults, "");
}

#[test]
fn every_object_of_the_schema_is_closed_unless_it_is_one_of_kubernetes() {
    fn check(root: &Value, schema: &Value, path: &str) {
        let schema = resolved(root, schema);
        if schema["type"] == "object" && path != ".global" {
            let closed = schema["properties"].is_object() && schema["additionalProperties"] == false;
            let texts = schema["additionalProperties"]["type"] == "string";
            let description = schema["description"].as_str().unwrap_or_default();
            let of_kubernetes = description.ends_with(" of the Kubernetes API, which validates it.");
            assert!(closed || texts || of_kubernetes, "{path}: {schema}");
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            check(root, property, &format!("{path}.{name}"));
        }
        if schema["items"].is_object() {
            check(root, &schema["items"], &format!("{path}[]"));
        }
    }
    let schema = schema();
    check(&schema, &schema, "");
}

#[test]
fn the_readme_has_every_value_with_its_comment_and_default() {
    let script = format!("{CHART}/../../scripts/chart_readme.py");
    let output = Command::new("python3").args([&script, "--check"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
