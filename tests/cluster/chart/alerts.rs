//! The alerts of the chart, by promtool: each fires when it should, says what it should, and is silent otherwise.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use plumbline_testkit::programs::text;
use plumbline_testkit::prometheus::promtool;
use serde_json::{Value, json};

use super::helm::CHART;

fn rules_file() -> PathBuf {
    fs::canonicalize(format!("{CHART}/files/alerts.yaml")).unwrap()
}

fn rules() -> Vec<Value> {
    let file: Value = serde_yaml::from_str(&fs::read_to_string(rules_file()).unwrap()).unwrap();
    file["groups"][0]["rules"].as_array().unwrap().clone()
}

/// A past that Prometheus remembers, with a value a minute in promtool's notation (`0+6x60`: from 0, 60 steps of 6), and what
/// an alert says of it after some minutes.
struct Case {
    alert: &'static str,
    series: &'static [(&'static str, &'static str)],
    minutes: u32,
    says: Says,
}

enum Says {
    Nothing,
    /// The labels of the alert without its severity, and its summary.
    This(&'static [(&'static str, &'static str)], &'static str),
}

const fn silent(alert: &'static str, series: &'static [(&'static str, &'static str)], minutes: u32) -> Case {
    Case { alert, series, minutes, says: Says::Nothing }
}

const LEADER: &str = r#"plumbline_leader{namespace="a",pod="1"}"#;
const OTHER: &str = r#"plumbline_leader{namespace="a",pod="2"}"#;
const AGE: &str = r#"plumbline_controller_last_activity_age_seconds{namespace="a",pod="1"}"#;
const ERRORS: &str = r#"plumbline_reconcile_errors_total{namespace="a",pod="1",kind="RewardModel",error="Kube"}"#;
const FORBIDDEN: &str =
    r#"plumbline_kube_api_requests_total{namespace="a",pod="1",verb="patch",resource="jobs",code="403"}"#;
const FORBIDDEN_EVENTS: &str =
    r#"plumbline_kube_api_requests_total{namespace="a",pod="1",verb="create",resource="events",code="403"}"#;
const OVER_QUOTA: &str =
    r#"plumbline_kube_api_requests_total{namespace="a",pod="1",verb="create",resource="jobs",code="403"}"#;
const ALLOWED: &str =
    r#"plumbline_kube_api_requests_total{namespace="a",pod="1",verb="patch",resource="jobs",code="200"}"#;
const UNSCHEDULABLE: &str = r#"plumbline_resources{namespace="a",kind="PolicyTuning",reason="Unschedulable"}"#;
const RUNNING: &str = r#"plumbline_resources{namespace="a",kind="PolicyTuning",reason="Running"}"#;
const QUEUED: &str = r#"plumbline_resources{namespace="a",kind="PolicyTuning",reason="QuotaPending"}"#;
const HUNG: &str = r#"plumbline_retries_total{namespace="a",kind="PolicyTuning",reason="NoProgress"}"#;
const PREEMPTED: &str = r#"plumbline_retries_total{namespace="a",kind="PolicyTuning",reason="NodeDisruption"}"#;
const ACCEPTED: &str = r#"plumbline_progress_reports_total{namespace="a",outcome="accepted"}"#;
const UNAVAILABLE: &str = r#"plumbline_progress_reports_total{namespace="a",outcome="unavailable"}"#;
const NOT_OWNED: &str = r#"plumbline_progress_reports_total{namespace="a",outcome="not_owned"}"#;

const A: (&str, &str) = ("namespace", "a");

const CASES: [Case; 26] = [
    Case {
        alert: "PlumblineNoLeader",
        series: &[(LEADER, "0x10"), (OTHER, "0x10")],
        minutes: 6,
        says: Says::This(&[A], "No Plumbline operator is the leader."),
    },
    Case {
        alert: "PlumblineNoLeader",
        series: &[],
        minutes: 6,
        says: Says::This(&[], "No Plumbline operator is the leader."),
    },
    silent("PlumblineNoLeader", &[(LEADER, "0x10"), (OTHER, "1x10")], 10),
    // One takes over from another.
    silent("PlumblineNoLeader", &[(LEADER, "1 1 0x8"), (OTHER, "0 0 0 0 0 1x5")], 10),
    silent("PlumblineNoLeader", &[(LEADER, "0x10")], 4),
    Case {
        alert: "PlumblineReconcileErrors",
        series: &[(ERRORS, "0+6x60")],
        minutes: 40,
        says: Says::This(
            &[A, ("kind", "RewardModel"), ("error", "Kube")],
            "Reconciling RewardModels keeps failing: Kube.",
        ),
    },
    silent("PlumblineReconcileErrors", &[(ERRORS, "0+2x60")], 60),
    // An API server that is away for some minutes.
    silent("PlumblineReconcileErrors", &[(ERRORS, "0x10 0+20x4 80x60")], 60),
    Case {
        alert: "PlumblineForbidden",
        series: &[(FORBIDDEN, "0+1x60")],
        minutes: 40,
        says: Says::This(&[A, ("verb", "patch"), ("resource", "jobs")], "The operator may not patch jobs."),
    },
    Case {
        alert: "PlumblineForbidden",
        series: &[(FORBIDDEN_EVENTS, "0+1x60"), (OVER_QUOTA, "0+1x60")],
        minutes: 40,
        says: Says::This(&[A, ("verb", "create"), ("resource", "events")], "The operator may not create events."),
    },
    silent("PlumblineForbidden", &[(OVER_QUOTA, "0+1x60")], 60),
    silent("PlumblineForbidden", &[(FORBIDDEN, "3x60"), (ALLOWED, "0+100x60")], 60),
    Case {
        alert: "PlumblineWatchSilent",
        series: &[(LEADER, "1x60"), (AGE, "0+60x60")],
        minutes: 20,
        says: Says::This(&[A], "A controller of the operator has shown no activity for ten minutes."),
    },
    // One that waits to lead watches nothing.
    silent("PlumblineWatchSilent", &[(LEADER, "0x60"), (AGE, "0+60x60"), (OTHER, "1x60")], 60),
    silent("PlumblineWatchSilent", &[(LEADER, "1x60"), (AGE, "300x60")], 60),
    Case {
        alert: "PlumblineResourcesPending",
        series: &[(UNSCHEDULABLE, "2x90")],
        minutes: 61,
        says: Says::This(
            &[A, ("kind", "PolicyTuning"), ("reason", "Unschedulable")],
            "2 PolicyTunings cannot start: Unschedulable.",
        ),
    },
    silent("PlumblineResourcesPending", &[(UNSCHEDULABLE, "2x90")], 59),
    silent("PlumblineResourcesPending", &[(UNSCHEDULABLE, "0x90"), (RUNNING, "5x90"), (QUEUED, "5x90")], 90),
    Case {
        alert: "PlumblineRunsStalled",
        series: &[(HUNG, "0x30 1x60 2x60 3x60 4x60")],
        minutes: 250,
        says: Says::This(&[A, ("kind", "PolicyTuning")], "Runs of PolicyTunings keep stalling."),
    },
    silent("PlumblineRunsStalled", &[(HUNG, "0x30 1x600")], 250),
    silent("PlumblineRunsStalled", &[(HUNG, "0x600"), (PREEMPTED, "0+1x600")], 250),
    // Three, but each in its own day.
    silent("PlumblineRunsStalled", &[(HUNG, "0x30 1x1440 2x1440 3x1440")], 3000),
    Case {
        alert: "PlumblineProgressRefused",
        series: &[(NOT_OWNED, "0+12x60")],
        minutes: 40,
        says: Says::This(&[A, ("outcome", "not_owned")], "Progress reports are rejected: not_owned."),
    },
    silent("PlumblineProgressRefused", &[(NOT_OWNED, "0+3x60")], 60),
    silent("PlumblineProgressRefused", &[(ACCEPTED, "0+100x60"), (UNAVAILABLE, "0+100x60")], 60),
    silent("PlumblineProgressRefused", &[(NOT_OWNED, "0x10 0+60x5 300x60")], 60),
];

impl Case {
    /// As promtool reads it.
    fn document(&self, rules: &[Value]) -> Value {
        let rule = rules.iter().find(|rule| rule["alert"] == self.alert).unwrap_or_else(|| panic!("no {}", self.alert));
        let expected = match self.says {
            Says::Nothing => json!([]),
            Says::This(labels, summary) => {
                let mut all = rule["labels"].clone();
                for (name, value) in labels {
                    all[name] = json!(value);
                }
                let description = &rule["annotations"]["description"];
                json!([{"exp_labels": all, "exp_annotations": {"summary": summary, "description": description}}])
            }
        };
        let series = self.series.iter().map(|(series, values)| json!({"series": series, "values": values}));
        let asked = json!({"alertname": self.alert, "eval_time": format!("{}m", self.minutes), "exp_alerts": expected});
        json!({"interval": "1m", "input_series": series.collect::<Vec<_>>(), "alert_rule_test": [asked]})
    }
}

#[test]
fn the_rules_are_rules() {
    let output = promtool(&["check", "rules", rules_file().to_str().unwrap()], "");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn every_alert_fires_when_it_should_and_is_silent_when_it_should() {
    let rules = rules();
    for rule in &rules {
        let cases = CASES.iter().filter(|case| rule["alert"] == case.alert);
        let silent: BTreeSet<bool> = cases.map(|case| matches!(case.says, Says::Nothing)).collect();
        assert_eq!(silent.len(), 2, "{}: one case in which it fires and one in which it does not", rule["alert"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alerts.test.yaml");
    let tests: Vec<Value> = CASES.iter().map(|case| case.document(&rules)).collect();
    let document = json!({"rule_files": [rules_file()], "evaluation_interval": "1m", "tests": tests});
    fs::write(&file, document.to_string()).unwrap();
    let output = promtool(&["test", "rules", file.to_str().unwrap()], "");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
