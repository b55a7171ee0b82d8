//! The table that a run ends with, in the columns of `kubectl get rlaif`, and what was left out of its data. Computes only.

use plumbline_crds::conditions::{ConditionStatus, ConditionType, Reason};
use plumbline_crds::preference_dataset::PreferenceDatasetSpec;
use plumbline_crds::status::Status;
use plumbline_crds::{Kind, Resource, Spec};

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

/// One line for each resource that did not use all of its records: how many, and why.
pub fn left_out(resources: &[Resource]) -> Vec<String> {
    let made = resources.iter().filter_map(|r| r.status.as_ref().map(|status| (r, &status.counts)));
    made.filter_map(|(resource, counts)| {
        let count = |name: &str| counts.get(name).copied().unwrap_or_default();
        let mut reasons: Vec<String> = counts
            .iter()
            .filter(|(_, n)| **n > 0)
            .filter_map(|(name, n)| reason(resource.kind, name).map(|reason| format!("{n} {reason}")))
            .collect();
        let (what, read, unused) = match &resource.spec {
            Spec::PreferenceDataset(spec) => {
                let lost = if count("emptyResponses") > 0 { without_text(spec, &count) } else { 0 };
                reasons.extend((lost > 0).then(|| format!("{lost} without a second response that has text")));
                let candidates = count("comparedPairs") + count("similarPairs") + lost;
                ("pairs", candidates, candidates - count("pairs"))
            }
            Spec::RewardModel(_) | Spec::PolicyTuning(_) => ("records", count("records"), count("leftOut")),
        };
        let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
        let left_out =
            (unused > 0 || !reasons.is_empty()).then(|| format!("{unused} of {read} {what} left out{reasons}"));
        let duplicates = Some(count("duplicatePrompts")).filter(|n| *n > 0 && resource.kind == Kind::PreferenceDataset);
        let duplicates = duplicates.map(|n| format!("{n} duplicate prompts never sampled"));
        let changed = count("changedByTemplate");
        let rewritten = (changed > 0).then(|| format!("in {changed} of {read} the chat template changed a response"));
        let said: Vec<String> = left_out.into_iter().chain(duplicates).chain(rewritten).collect();
        let name = format!("{}/{}", resource.kind.to_string().to_lowercase(), resource.metadata.name);
        let warning = if 2 * unused.max(changed) > read { "warning: " } else { "" };
        (!said.is_empty()).then(|| format!("{warning}{name}: {}", said.join("; ")))
    })
    .collect()
}

/// The pairs of a dataset that there are no two responses with text for.
fn without_text(spec: &PreferenceDatasetSpec, count: &impl Fn(&str) -> i64) -> i64 {
    let responses = spec.generator.as_ref().map_or(0, |g| g.responses_per_prompt);
    let of_prompt = spec.pairs.per_prompt.min(responses * (responses - 1) / 2);
    (count("prompts") * of_prompt - count("comparedPairs") - count("similarPairs")).max(0)
}

/// Why records were left out, by the name of their count in a status.
fn reason(kind: Kind, count: &str) -> Option<String> {
    match (kind, count) {
        (Kind::PreferenceDataset, "ties") => Some("ties".into()),
        (Kind::PreferenceDataset, "unsurePairs") => Some("below minConfidence".into()),
        (Kind::PreferenceDataset, "droppedPairs") => Some("dropped for a conflict".into()),
        (Kind::PreferenceDataset, "failedPairs") => Some("failed".into()),
        (Kind::PreferenceDataset, "similarPairs") => Some("too similar to compare".into()),
        (Kind::PreferenceDataset, _) => None,
        (_, count) => {
            let reason = count.strip_prefix("leftOut").filter(|reason| !reason.is_empty())?;
            let words = reason.chars().flat_map(|c| {
                let space = c.is_uppercase().then_some(' ');
                space.into_iter().chain(c.to_lowercase())
            });
            Some(words.collect::<String>().trim().to_owned())
        }
    }
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
        Kind::RewardModel => {
            let of_training = || Some(format!("{} (train)", status.evaluation.get("trainAccuracy")?));
            status.evaluation.get("accuracy").cloned().or_else(of_training)
        }
        Kind::PolicyTuning => status.evaluation.get("winRate").cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_left_out_is_said_with_its_reasons_and_most_of_it_is_a_warning() {
        let resource = |kind: &str, counts: serde_json::Value| -> Resource {
            let spec = match kind {
                "RewardModel" => json!({"datasetRef": {"name": "d"}, "baseModel": {"uri": "m"}}),
                _ => json!({"prompts": {"inline": ["a"]}, "judges": [], "pairs": {"perPrompt": 1},
                    "generator": {"model": {"uri": "m"}, "responsesPerPrompt": 2}}),
            };
            serde_json::from_value(json!({"apiVersion": "plumbline.dev/v1alpha1", "kind": kind,
                "metadata": {"name": "x"}, "spec": spec, "status": {"counts": counts}}))
            .unwrap()
        };
        let said = left_out(&[
            resource(
                "RewardModel",
                json!({"records": 24, "leftOut": 20, "leftOutTooLong": 18, "leftOutEqualAsTokens": 2}),
            ),
            resource("RewardModel", json!({"records": 24, "leftOut": 0, "heldOut": 2, "trimmedByTemplate": 24})),
            resource("RewardModel", json!({"records": 24, "leftOut": 0, "changedByTemplate": 13})),
            resource("RewardModel", json!({})),
            resource(
                "PreferenceDataset",
                json!({"comparedPairs": 10, "pairs": 7, "ties": 1, "unsurePairs": 2, "prompts": 9}),
            ),
        ]);
        assert_eq!(
            said,
            [
                "warning: rewardmodel/x: 20 of 24 records left out (2 equal as tokens, 18 too long)",
                "warning: rewardmodel/x: in 13 of 24 the chat template changed a response",
                "preferencedataset/x: 3 of 10 pairs left out (1 ties, 2 below minConfidence)",
            ]
        );
        let candidates = left_out(&[
            resource("PreferenceDataset", json!({"prompts": 60, "comparedPairs": 6, "pairs": 6, "similarPairs": 54})),
            resource(
                "PreferenceDataset",
                json!({"prompts": 9, "comparedPairs": 9, "pairs": 9, "duplicatePrompts": 20}),
            ),
            resource("PreferenceDataset", json!({"prompts": 4, "comparedPairs": 1, "pairs": 1, "emptyResponses": 3})),
        ]);
        assert_eq!(
            candidates,
            [
                "warning: preferencedataset/x: 54 of 60 pairs left out (54 too similar to compare)",
                "preferencedataset/x: 20 duplicate prompts never sampled",
                "warning: preferencedataset/x: 3 of 4 pairs left out (3 without a second response that has text)",
            ]
        );
    }

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
