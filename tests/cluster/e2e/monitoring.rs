//! A Prometheus that asks the operator as the chart's PodMonitor says, and has the chart's alerts. Talks to the cluster and
//! processes.
//!
//! Debian's Prometheus knows no Kubernetes: the test looks the pods up as the Prometheus Operator would.

use std::path::Path;

use plumbline_testkit::helm::{CHART, Helm, RELEASE, Version};
use plumbline_testkit::programs::text;
use plumbline_testkit::prometheus::{Prometheus, promtool};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::chain::lasting;
use crate::installation::{Installation, SYSTEM, values};
use crate::node;

/// Starts it.
pub(crate) fn watch(installed: &Installation) -> Prometheus {
    let monitor = pod_monitor();
    let labels = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap().iter();
    let selector: Vec<String> = labels.map(|(label, value)| format!("{label}={}", value.as_str().unwrap())).collect();
    let namespace = monitor["metadata"]["namespace"].as_str().unwrap();
    let pods = ["-n", namespace, "get", "pods", "-l", &selector.join(","), "-o", "json"];
    let pods: Value = serde_json::from_str(&installed.cluster.kubectl(&pods)).unwrap();
    Prometheus::start(&as_scraped(&monitor, &pods), &Path::new(CHART).join("files/alerts.yaml"))
}

/// What the chart has for an operator of Prometheus.
fn pod_monitor() -> Value {
    let helm = Helm::offline(Version::V3);
    let file = helm.file(&values());
    let on = ["--set", "metrics.podMonitor.enabled=true", "--show-only", "templates/podmonitor.yaml"];
    let rendered =
        helm.says(&[&["template", RELEASE, CHART, "--namespace", SYSTEM, "--values", &file], &on[..]].concat());
    Value::deserialize(serde_yaml::Deserializer::from_str(&rendered)).unwrap()
}

/// What the Prometheus Operator makes of a PodMonitor and the pods that it selects (its API reference, `PodMonitorSpec`): the
/// containers' ports by their name, and labels that say where a sample is from.
fn as_scraped(monitor: &Value, pods: &Value) -> Value {
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    let mut targets = Vec::new();
    for pod in pods["items"].as_array().unwrap() {
        for container in pod["spec"]["containers"].as_array().unwrap() {
            let ports = container["ports"].as_array().into_iter().flatten();
            targets.extend(ports.filter(|port| port["name"] == endpoint["port"]).map(|port| {
                let address = format!("{}:{}", pod["status"]["podIP"].as_str().unwrap(), port["containerPort"]);
                let labels = json!({"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"],
                    "container": container["name"]});
                json!({"targets": [address], "labels": labels})
            }));
        }
    }
    let name = format!("{}/{}", monitor["metadata"]["namespace"], monitor["metadata"]["name"]);
    json!({"job_name": name, "metrics_path": endpoint["path"], "static_configs": targets})
}

#[test]
fn prometheus_finds_the_operator_and_during_a_healthy_run_no_alert_is_even_pending() {
    let installed = node::shared();
    let prometheus = watch(&installed);
    prometheus.until("plumbline_leader == 1");
    assert_eq!(prometheus.query("up").len(), 1, "one operator, and by one of its ports");
    let ended = r#"plumbline_runs_ended_total{kind="PreferenceDataset",reason="Completed",namespace="plumbline"}"#;
    let since = "count_over_time(plumbline_leader[1h])";
    let count = |expression: &str| {
        let found = prometheus.query(expression);
        found.first().map_or(0.0, |series| series["value"][1].as_str().unwrap().parse::<f64>().unwrap())
    };
    let before = count(ended);
    installed.apply(&[lasting("watched", 10)]);
    installed.until_ready("preferencedataset/watched");
    prometheus.until(&format!("{ended} > {before}"));

    // One look a second, from when it was found; before, there is indeed no leader.
    let looks = count(since);
    assert!(looks > 5.0, "{looks} looks");
    assert_eq!(count("min_over_time(up[1h])"), 1.0);
    let seconds = looks.floor() as u64 - 1;
    let alerts = prometheus.query(&format!("count_over_time(ALERTS[{seconds}s])"));
    assert!(alerts.is_empty(), "{alerts:?}");
    for metric in [
        "plumbline_reconcile_duration_seconds_count",
        "plumbline_run_duration_seconds_sum",
        "plumbline_kube_api_requests_total",
    ] {
        assert!(count(&format!("sum({metric})")) > 0.0, "{metric}");
    }
}

#[test]
fn the_operator_s_metrics_are_named_and_written_as_prometheus_asks() {
    let installed = node::shared();
    let output = promtool(&["check", "metrics"], &installed.metrics());
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
