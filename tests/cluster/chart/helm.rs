//! What Helm makes of the chart, and values to make it from. Talks to Helm.

pub(crate) use plumbline_testkit::helm::{CHART, Helm, RELEASE, Version};
use serde::Deserialize;
use serde_json::{Value, json};

/// The least values, with others on top.
pub(crate) fn values(more: &Value) -> Value {
    let mut values = json!({
        "image": {"repository": "registry.test/plumbline-operator"},
        "trainer": {"image": {"repository": "registry.test/plumbline-trainer"}},
    });
    merge(&mut values, more);
    values
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

/// Values in which everything that can be on is on, and every list and map has something in it.
pub(crate) fn everything(namespace: &str) -> Value {
    values(&json!({
        "fullnameOverride": "aligner", "commonLabels": {"team": "alignment"}, "imagePullSecrets": [{"name": "pull"}],
        "image": {"tag": "v1", "digest": format!("sha256:{}", "a".repeat(64)), "pullPolicy": "Always"},
        "trainer": {"image": {"tag": "v2", "digest": format!("sha256:{}", "b".repeat(64))},
            "acceleratorImage": {"repository": "registry.test/plumbline-trainer-cuda", "tag": "v2"}},
        "watchNamespace": namespace, "artifactRoot": "pvc://results/artifacts", "inputCache": "pvc://inputs/cache", "scratchSize": "7Gi", "acceleratorResource": "amd.com/gpu",
        "stallTimeoutSeconds": 1_000_000, "jobTtlSeconds": 1_000_001, "resyncSeconds": 1_000_002, "logLevel": "info,plumbline=debug",
        "kueue": {"enabled": true}, "replicas": 3, "leaderElection": {"leaseDurationSeconds": 30}, "progress": {"port": 9090},
        "metrics": {
            "port": 9080, "serviceMonitor": {"enabled": true, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": true, "labels": {"release": "prometheus"}}, "dashboard": {"enabled": true},
        },
        "serviceAccount": {"name": "operator", "annotations": {"example.com/role": "operator"}},
        "podDisruptionBudget": {"maxUnavailable": "50%"},
        "networkPolicy": {"enabled": true, "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
        "resources": {"limits": {"cpu": "1"}}, "priorityClassName": "system-cluster-critical", "nodeSelector": {"pool": "system"},
        "tolerations": [{"key": "system", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}}]}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            {"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"a": "b"}}},
        ],
        "podLabels": {"sidecar": "none"}, "podAnnotations": {"example.com/note": "x"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.test:3128"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/ssl/certs", "readOnly": true}],
    }))
}

/// The objects that a release in a namespace has, that of `helm test` among them.
pub(crate) fn render(namespace: &str, values: &Value) -> Vec<Value> {
    render_by(Version::V3, namespace, values)
}

/// The same by one Helm or the other.
pub(crate) fn render_by(version: Version, namespace: &str, values: &Value) -> Vec<Value> {
    let helm = Helm::offline(version);
    let file = helm.file(values);
    objects(&helm.says(&["template", RELEASE, CHART, "--namespace", namespace, "--values", &file]))
}

/// The documents of a YAML stream.
pub(crate) fn objects(yaml: &str) -> Vec<Value> {
    let documents = serde_yaml::Deserializer::from_str(yaml);
    documents.map(|d| Value::deserialize(d).unwrap()).filter(|object| !object.is_null()).collect()
}

/// The one object of a kind.
pub(crate) fn only<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "one {kind} among {:?}", objects.iter().map(|o| &o["kind"]).collect::<Vec<_>>());
    found[0]
}

/// The arguments of the operator in its Deployment.
pub(crate) fn arguments(deployment: &Value) -> Vec<String> {
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["name"], "operator");
    serde_json::from_value(container["args"].clone()).unwrap()
}
