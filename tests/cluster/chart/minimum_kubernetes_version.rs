//! The oldest Kubernetes that the chart promises knows every field of what is rendered. The API server of the other tests is
//! a newer one; here it is the types of k8s-openapi, which are made from the published API of the older (its feature `v1_33`).
//! What they do not know is lost on the way through them.

use std::fs;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::helm::{CHART, render};
use super::render::matrix;

/// What the oldest Kubernetes keeps of an object; none of a kind that is not its own.
fn kept(object: &Value) -> Option<Value> {
    fn through<T: DeserializeOwned + Serialize>(object: &Value) -> Value {
        let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|e| panic!("{e}: {object}"));
        serde_json::to_value(typed).unwrap()
    }
    let through = match (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()) {
        ("apps/v1", "Deployment") => through::<Deployment>,
        ("v1", "ConfigMap") => through::<ConfigMap>,
        ("v1", "Pod") => through::<Pod>,
        ("v1", "Service") => through::<Service>,
        ("v1", "ServiceAccount") => through::<ServiceAccount>,
        ("networking.k8s.io/v1", "NetworkPolicy") => through::<NetworkPolicy>,
        ("policy/v1", "PodDisruptionBudget") => through::<PodDisruptionBudget>,
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => through::<ClusterRole>,
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => through::<ClusterRoleBinding>,
        ("rbac.authorization.k8s.io/v1", "Role") => through::<Role>,
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => through::<RoleBinding>,
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => through::<CustomResourceDefinition>,
        ("monitoring.coreos.com/v1", _) => return None,
        other => panic!("is {other:?} of the oldest Kubernetes?"),
    };
    Some(through(object))
}

/// The paths of what is lost. Null and nothing are the same, and so are 1 and 1.0.
fn lost(path: &str, object: &Value, kept: &Value) -> Vec<String> {
    let same = |a: &Value, b: &Value| a == b || (a.as_f64().is_some() && a.as_f64() == b.as_f64());
    match (object, kept) {
        (Value::Object(object), Value::Object(kept)) => {
            let below = |(name, v): (&String, &Value)| {
                lost(&format!("{path}.{name}"), v, kept.get(name).unwrap_or(&Value::Null))
            };
            object.iter().flat_map(below).collect()
        }
        (Value::Array(object), Value::Array(kept)) if object.len() == kept.len() => {
            let pairs = object.iter().zip(kept).enumerate();
            pairs.flat_map(|(i, (object, kept))| lost(&format!("{path}[{i}]"), object, kept)).collect()
        }
        (object, kept) if same(object, kept) => Vec::new(),
        // An empty list or map is left out.
        (object, Value::Null) if *object == json!([]) || *object == json!({}) => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

#[test]
fn the_oldest_kubernetes_knows_every_field_that_is_rendered() {
    let chart: Value = serde_yaml::from_str(&fs::read_to_string(format!("{CHART}/Chart.yaml")).unwrap()).unwrap();
    assert!(
        chart["kubeVersion"].as_str().unwrap().contains("1.33"),
        "{}: and the feature of k8s-openapi?",
        chart["kubeVersion"]
    );
    let mut looked_at = 0;
    for (about, values) in matrix("team") {
        for object in render("team", &values) {
            let Some(kept) = kept(&object) else { continue };
            let name = format!("{about}: {} {}", object["kind"], object["metadata"]["name"]);
            assert_eq!(lost("", &object, &kept), [""; 0], "{name}");
            looked_at += 1;
        }
    }
    assert!(looked_at > 100, "{looked_at}");
}

#[test]
fn a_field_of_a_newer_one_is_noticed() {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}, "newer": {"x": 1}});
    assert_eq!(lost("", &account, &kept(&account).unwrap()), [".newer"]);
    let container = json!({"name": "c", "image": "i", "ports": [{"containerPort": 1, "newer": "x"}]});
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}});
    assert_eq!(lost("", &pod, &kept(&pod).unwrap()), [".spec.containers[0].ports[0].newer"]);
}
