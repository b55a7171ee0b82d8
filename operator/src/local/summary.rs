//! The table that a run ends with, in the columns of `kubectl get rlaif`. Computes only.

use plumbline_crds::conditions::{ConditionStatus, ConditionType, Reason};
use plumbline_crds::status::Status;
use plumbline_crds::{Kind, Resource};

use super::screen::duration;

const HEADER: [&str; 6] = ["NAME", "READY", "STATUS", "PROGRESS", "METRIC", "AGE"];

/// One line a resource, under a header. `age` gives the seconds since a time of a status.
pub fn table(resources: &[Resource], age: &dyn Fn(&str) -> Option<i64>) -> String {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(resources.iter().map(|resource| row(resource, age)));
    let widths: Vec<usize> =
        (0..HEADER.len()).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

fn row(resource: &Resource, age: &dyn Fn(&str) -> Option<i64>) -> [String; 6] {
    let name = format!("{}/{}", resource.kind.to_string().to_lowercase(), resource.metadata.name);
    let never = Status::default();
    let status = resource.status.as_ref().unwrap_or(&never);
    let ready = status.condition(ConditionType::Ready).map_or(ConditionStatus::Unknown, |c| c.status);
    let reason: Reason = status.leading_reason();
    let blank = || String::from("-");
    [
        name,
        format!("{ready:?}"),
        reason.as_str(),
        status.progress.as_ref().map_or_else(blank, |p| format!("{}%", p.percent)),
        metric(resource.kind, status).unwrap_or_else(blank),
        status.start_time.as_deref().and_then(age).map_or_else(blank, duration),
    ]
}

/// The one number of a kind, as the CRD's Metric column has it.
fn metric(kind: Kind, status: &Status) -> Option<String> {
    match kind {
        Kind::PreferenceDataset => status.counts.get("pairs").map(ToString::to_string),
        Kind::RewardModel => status.evaluation.get("accuracy").cloned(),
        Kind::PolicyTuning => status.evaluation.get("winRate").cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_line_up_and_what_is_not_known_is_a_dash() {
        let resource = |kind: &str, name: &str, spec: serde_json::Value, status: serde_json::Value| -> Resource {
            serde_json::from_value(json!({"apiVersion": "plumbline.dev/v1alpha1", "kind": kind,
                "metadata": {"name": name}, "spec": spec, "status": status}))
            .unwrap()
        };
        let reward = json!({"datasetRef": {"name": "d"}, "baseModel": {"uri": "m"}});
        let resources = [
            resource(
                "RewardModel",
                "r",
                reward.clone(),
                json!({
                "conditions": [{"type": "Ready", "status": "True", "reason": "Completed", "lastTransitionTime": "t"}],
                "evaluation": {"accuracy": "0.71"}, "progress": {"percent": 100}, "startTime": "t"}),
            ),
            resource("RewardModel", "longer", reward, json!(null)),
        ];
        assert_eq!(
            table(&resources, &|_| Some(65)),
            "NAME                 READY     STATUS      PROGRESS   METRIC   AGE\n\
             rewardmodel/r        True      Completed   100%       0.71     65s\n\
             rewardmodel/longer   Unknown   Pending     -          -        -\n"
        );
    }
}
