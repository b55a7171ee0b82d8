//! What is rendered is what an API server takes, whatever the values: each set of them is applied by a dry run on the server,
//! with unknown and duplicate fields refused. Kinds of the Prometheus operator, which this API server does not have, are the
//! business of `monitoring`.

use std::fs;

use plumbline_operator::cluster::objects::{MANAGED_BY, MANAGED_BY_LABEL};
use plumbline_testkit::cluster::Cluster;
use plumbline_testkit::programs::text;
use serde_json::{Value, json};

use super::helm::{Version, everything, only, render, render_by, values};

/// Sets of values, each with what it is about.
pub(crate) fn matrix(namespace: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("the defaults", values(&json!({}))),
        ("everything", everything(namespace)),
        ("one namespace", values(&json!({"watchNamespace": namespace}))),
        (
            "no rights on the cluster",
            values(&json!({
                "watchNamespace": namespace, "crds": {"enabled": false}, "rbac": {"aggregateClusterRoles": false},
                "progress": {"enabled": false},
            })),
        ),
        ("an account that is there", values(&json!({"serviceAccount": {"create": false}, "rbac": {"create": false}}))),
        (
            "one operator, nothing around it",
            values(&json!({
                "replicas": 1, "podDisruptionBudget": {"enabled": false}, "topologySpreadConstraints": [], "nodeSelector": null,
            })),
        ),
        (
            "a network policy for everyone who reads metrics, without progress",
            values(&json!({"networkPolicy": {"enabled": true}, "progress": {"enabled": false}})),
        ),
        ("a network policy in every namespace", values(&json!({"networkPolicy": {"enabled": true}}))),
        ("an image by its digest", values(&json!({"image": {"digest": format!("sha256:{}", "0".repeat(64))}}))),
        (
            "OpenShift",
            values(
                &json!({"podSecurityContext": {"runAsUser": null, "runAsGroup": null}, "metrics": {"podMonitor": {"enabled": true}}}),
            ),
        ),
        ("as a part of another chart", values(&json!({"global": {"imageRegistry": "x"}, "enabled": true}))),
        ("long names", values(&json!({"nameOverride": "n".repeat(63), "fullnameOverride": "f".repeat(63)}))),
    ]
}

#[test]
fn helm_4_renders_what_helm_3_renders() {
    for (about, values) in matrix("team") {
        let [three, four] = [Version::V3, Version::V4].map(|version| render_by(version, "team", &values));
        assert!(three.len() > 4, "{about}");
        assert_eq!(three, four, "{about}");
    }
}

#[tokio::test]
async fn an_api_server_takes_what_is_rendered_whatever_the_values() {
    let cluster = Cluster::shared();
    let space = cluster.namespace("render").await;
    for (about, values) in matrix(space.name()) {
        let mut objects = render(space.name(), &values);
        objects.retain(|o| !o["apiVersion"].as_str().unwrap().starts_with("monitoring.coreos.com/"));
        // A pod is admitted with an account that is there.
        for object in objects.iter_mut().filter(|o| o["kind"] == "Pod") {
            object["spec"]["serviceAccountName"] = json!("default");
        }
        assert!(objects.len() >= 5, "{about}: {objects:?}");
        let list = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
        fs::write(list.path(), json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()).unwrap();
        let file = list.path().to_str().unwrap();
        let taken = cluster.kubectl(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            file,
        ]);
        let said = text(&taken.stderr);
        // The CRDs are here already, applied in another way.
        let warned = said.lines().any(|l| l.starts_with("Warning") && !l.contains("last-applied-configuration"));
        assert!(taken.status.success() && !warned, "{about}: {said}");
        assert_eq!(text(&taken.stdout).lines().count(), objects.len(), "{about}");
    }
}

#[tokio::test]
async fn the_pods_are_admitted_where_restricted_is_enforced_and_a_laxer_one_is_not() {
    let cluster = Cluster::shared();
    let space = cluster.namespace("restricted").await;
    let label = ["label", "namespace", space.name(), "pod-security.kubernetes.io/enforce=restricted"];
    assert!(cluster.kubectl(&label).status.success());
    let admitted = |mut pod: Value| {
        pod["spec"]["serviceAccountName"] = json!("default");
        let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
        fs::write(file.path(), pod.to_string()).unwrap();
        let path = file.path().to_str().unwrap();
        let output = cluster.kubectl(&["create", "--dry-run=server", "-n", space.name(), "-f", path]);
        (output.status.success(), text(&output.stderr))
    };
    for values in [values(&json!({})), everything(space.name())] {
        let objects = render(space.name(), &values);
        let template = &only(&objects, "Deployment")["spec"]["template"];
        let mut pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator"}, "spec": template["spec"]});
        // A class that makes sense in kube-system only.
        pod["spec"].as_object_mut().unwrap().remove("priorityClassName");
        for pod in [&pod, only(&objects, "Pod")] {
            assert_eq!(admitted(pod.clone()), (true, String::new()), "{pod}");
        }
        pod["spec"]["containers"][0]["securityContext"]["capabilities"] = json!({});
        assert!(admitted(pod).1.contains("violates PodSecurity"), "a pod that keeps capabilities is admitted");
    }
}

/// Whether labels have all that a selector asks for.
fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().unwrap();
    !wanted.is_empty() && wanted.iter().all(|(key, value)| labels[key] == *value)
}

#[test]
fn selectors_find_the_operators_and_not_the_pod_of_helm_test() {
    for (about, values) in matrix("space") {
        let objects = render("space", &values);
        let template = &only(&objects, "Deployment")["spec"]["template"];
        let (operator, test) = (&template["metadata"]["labels"], &only(&objects, "Pod")["metadata"]["labels"]);
        let mut found = 0;
        for object in &objects {
            let spec = &object["spec"];
            let selector = match object["kind"].as_str().unwrap() {
                "Service" => &spec["selector"],
                "Deployment" | "PodDisruptionBudget" | "PodMonitor" => &spec["selector"]["matchLabels"],
                "NetworkPolicy" => &spec["podSelector"]["matchLabels"],
                _ => continue,
            };
            assert!(selects(selector, operator), "{about}: {object}");
            assert!(!selects(selector, test), "{about}: {object}");
            found += 1;
        }
        assert!(found >= 2, "{about}");
        for constraint in template["spec"]["topologySpreadConstraints"].as_array().into_iter().flatten() {
            let selector = &constraint["labelSelector"];
            if constraint["topologyKey"] == "rack" {
                assert_eq!(selector, &json!({"matchLabels": {"a": "b"}}), "{about}: it has a selector of its own");
            } else {
                assert!(selects(&selector["matchLabels"], operator), "{about}: {constraint}");
            }
        }
    }
}

#[test]
fn common_labels_are_on_every_object_and_pod_labels_on_pods() {
    let objects = render("space", &everything("team"));
    assert!(objects.len() > 15);
    for object in &objects {
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["team"], "alignment", "{object}");
        assert!(labels["app.kubernetes.io/version"].is_string(), "{object}");
    }
    let template = &only(&objects, "Deployment")["spec"]["template"]["metadata"];
    assert_eq!((&template["labels"]["team"], &template["labels"]["sidecar"]), (&json!("alignment"), &json!("none")));
    assert_eq!(template["annotations"]["example.com/note"], "x");
}

#[test]
fn the_image_is_named_by_tag_by_digest_or_by_the_version_of_the_chart() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let version = env!("CARGO_PKG_VERSION");
    for (image, expected) in [
        (json!({}), format!("registry.test/plumbline-operator:{version}")),
        (json!({"tag": "v2"}), "registry.test/plumbline-operator:v2".into()),
        (json!({"digest": digest}), format!("registry.test/plumbline-operator:{version}@{digest}")),
        (
            json!({"repository": "r.test:5000/a/b", "tag": "v2", "digest": digest}),
            format!("r.test:5000/a/b:v2@{digest}"),
        ),
    ] {
        let objects = render("space", &values(&json!({"image": image, "crds": {"enabled": false}})));
        let deployment = only(&objects, "Deployment");
        assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], expected);
        assert_eq!(only(&objects, "Pod")["spec"]["containers"][0]["image"], expected);
    }
}

#[test]
fn the_network_policy_lets_in_the_pods_of_runs_by_the_labels_that_the_operator_gives_them() {
    let of = |watched: &str| {
        let policy = json!({"networkPolicy": {"enabled": true}, "watchNamespace": watched, "crds": {"enabled": false}});
        only(&render("space", &values(&policy)), "NetworkPolicy")["spec"]["ingress"][0].clone()
    };
    let everywhere = of("");
    assert_eq!(everywhere["ports"], json!([{"port": "progress"}]));
    let peer = &everywhere["from"][0];
    assert_eq!(peer["namespaceSelector"], json!({}));
    assert_eq!(peer["podSelector"]["matchLabels"][MANAGED_BY_LABEL], MANAGED_BY);
    let watched = &of("team")["from"][0];
    assert_eq!(watched["namespaceSelector"]["matchLabels"], json!({"kubernetes.io/metadata.name": "team"}));
    assert_eq!(watched["podSelector"], peer["podSelector"]);
}
