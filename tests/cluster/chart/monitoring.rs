//! Monitors, alerts and the dashboard. No API server of the tests knows their kinds, so they are held against what they speak
//! of: ports and labels of the other objects, and the names and labels of the operator's metrics.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::helm::{CHART, only, render, values};

/// Values that turn something of `metrics` on.
fn with(what: &str) -> Value {
    values(
        &json!({"crds": {"enabled": false}, "metrics": {what: {"enabled": true, "labels": {"release": "prometheus"}}}}),
    )
}

#[test]
fn nothing_for_a_cluster_without_prometheus_and_grafana_unless_it_is_asked_for() {
    let count = |values: &Value| render("space", values).len();
    let plain = count(&values(&json!({"crds": {"enabled": false}})));
    for what in ["serviceMonitor", "podMonitor", "prometheusRule", "dashboard"] {
        assert_eq!(count(&with(what)), plain + 1, "{what}");
    }
}

#[test]
fn a_service_monitor_finds_the_service_and_its_port() {
    let objects = render("space", &with("serviceMonitor"));
    let (monitor, service) = (only(&objects, "ServiceMonitor"), only(&objects, "Service"));
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(service["metadata"]["labels"][label], *value);
    }
    let port = &monitor["spec"]["endpoints"][0]["port"];
    assert!(service["spec"]["ports"].as_array().unwrap().iter().any(|p| p["name"] == *port), "{port}");
}

#[test]
fn a_pod_monitor_finds_the_pods_and_their_port() {
    let objects = render("space", &with("podMonitor"));
    let (monitor, pods) = (only(&objects, "PodMonitor"), &only(&objects, "Deployment")["spec"]["template"]);
    for (label, value) in monitor["spec"]["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(pods["metadata"]["labels"][label], *value);
    }
    let port = &monitor["spec"]["podMetricsEndpoints"][0]["port"];
    assert!(pods["spec"]["containers"][0]["ports"].as_array().unwrap().iter().any(|p| p["name"] == *port), "{port}");
}

/// Every quoted text of a file that begins so.
fn quoted(text: &str, start: &str) -> BTreeSet<String> {
    text.split('"').skip(1).step_by(2).filter(|q| q.starts_with(start)).map(str::to_owned).collect()
}

/// Whether a character can stand in the name of a metric.
fn of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The metrics that an expression of PromQL names.
fn named(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c| !of_name(c)).filter(|word| word.starts_with("plumbline_"));
    let base =
        |word: &str| ["_bucket", "_sum", "_count"].iter().find_map(|s| word.strip_suffix(s)).unwrap_or(word).to_owned();
    words.map(base).collect()
}

/// The labels that an expression of PromQL groups by or selects by.
fn labels(expression: &str) -> BTreeSet<String> {
    let grouped = expression.split("by (").skip(1).flat_map(|rest| rest.split(')').next().unwrap().split(','));
    let selected = expression.split('{').skip(1).flat_map(|rest| rest.split('}').next().unwrap().split(','));
    let selected = selected.map(|s| s.split(|c| !of_name(c)).next().unwrap());
    grouped.chain(selected).map(|label| label.trim().to_owned()).collect()
}

/// The expressions of the alerts and of the dashboard, each with where it stands.
fn expressions() -> Vec<(String, String)> {
    let alerts = render("space", &with("prometheusRule"));
    let rules = only(&alerts, "PrometheusRule")["spec"]["groups"][0]["rules"].as_array().unwrap().clone();
    let alerts =
        rules.iter().map(|r| (r["alert"].as_str().unwrap().to_owned(), r["expr"].as_str().unwrap().to_owned()));
    let board = render("space", &with("dashboard"));
    let board: Value =
        serde_json::from_str(only(&board, "ConfigMap")["data"]["plumbline.json"].as_str().unwrap()).unwrap();
    let panels = board["panels"].as_array().unwrap().iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().unwrap().clone();
        targets.into_iter().map(move |t| (title.clone(), t["expr"].as_str().unwrap().to_owned()))
    });
    alerts.chain(panels).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_and_labels_that_there_are() {
    let source = fs::read_to_string(format!("{CHART}/../../operator/src/cluster/metrics.rs")).unwrap();
    let source = source.split("#[cfg(test)]").next().unwrap();
    let metrics = quoted(source, "plumbline_");
    assert!(metrics.len() > 10, "{metrics:?}");
    let known: BTreeSet<String> = quoted(source, "").into_iter().collect();
    // Those of a Prometheus and of its histograms.
    let given = ["namespace", "le"];
    let expressions = expressions();
    assert!(expressions.len() > 20);
    let mut used = BTreeSet::new();
    for (place, expression) in &expressions {
        let named = named(expression);
        assert!(!named.is_empty() && named.is_subset(&metrics), "{place}: {expression}");
        for label in labels(expression) {
            assert!(
                given.contains(&label.as_str()) || known.contains(&label),
                "{place}: no label {label}: {expression}"
            );
        }
        for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
            assert_eq!(expression.matches(open).count(), expression.matches(close).count(), "{place}: {expression}");
        }
        used.extend(named);
    }
    assert!(used.len() >= metrics.len() - 2, "not shown anywhere: {:?}", metrics.difference(&used));
}

#[test]
fn reasons_in_alerts_are_reasons_of_the_api() {
    let mut found = 0;
    for (place, expression) in expressions() {
        for rest in expression.split("reason=").skip(1) {
            let reasons = rest.trim_start_matches('~').split('"').nth(1).unwrap();
            for reason in reasons.split('|') {
                let known = serde_json::from_value::<plumbline_crds::conditions::Reason>(json!(reason));
                assert!(known.is_ok(), "{place}: {reason}");
                found += 1;
            }
        }
    }
    assert!(found > 4);
}

#[test]
fn every_alert_says_what_is_so_and_what_to_do() {
    let objects = render("space", &with("prometheusRule"));
    let rules = only(&objects, "PrometheusRule")["spec"]["groups"][0]["rules"].as_array().unwrap();
    for rule in rules {
        assert!(rule["alert"].as_str().unwrap().starts_with("Plumbline"), "{rule}");
        assert!(["critical", "warning"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
        for text in ["summary", "description"] {
            assert!(rule["annotations"][text].as_str().unwrap().ends_with('.'), "{rule}");
        }
    }
}
