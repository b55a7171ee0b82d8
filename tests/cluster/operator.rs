//! The operator on a real API server: what people apply, and what they see of it.

use plumbline_crds::Kind::{self, PolicyTuning, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::ConditionStatus::{False, True, Unknown};
use plumbline_crds::conditions::ConditionType::{InputsReady, Outdated, Ready, Reconciling, Stalled, Succeeded};
use plumbline_crds::conditions::Reason;
use plumbline_testkit::operator::{Scene, alone, condition, resource};
use serde_json::json;

/// NAME READY STATUS PROGRESS METRIC of every resource, as `kubectl get rlaif` shows them.
fn table(scene: &Scene) -> String {
    let text = scene.kubectl(&["get", "rlaif"]);
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with("NAME"));
    let mut rows: Vec<String> = lines
        .map(|line| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            // The age differs from run to run.
            cells[..cells.len() - 1].join(" ").replace(".plumbline.dev", "")
        })
        .collect();
    rows.sort_by_key(|row| {
        ["preferencedataset", "rewardmodel", "policytuning"].iter().position(|k| row.starts_with(k))
    });
    rows.join("\n") + "\n"
}

#[tokio::test]
async fn three_resources_in_the_wrong_order_become_ready_in_the_right_one() {
    let scene = Scene::new("chain").await;
    let operator = scene.operator().await;
    for kind in [PolicyTuning, RewardModel, PreferenceDataset] {
        scene.apply(&resource(kind, "helpful", &json!({}))).await;
    }
    scene.until_reason(PreferenceDataset, "helpful", Reason::Running).await;
    scene.until_reason(RewardModel, "helpful", Reason::ReferenceNotReady).await;
    scene.until_reason(PolicyTuning, "helpful", Reason::ReferenceNotReady).await;
    let mut seen = table(&scene);
    for (kind, digest, next) in [
        (PreferenceDataset, "sha256:d", Some(RewardModel)),
        (RewardModel, "sha256:r", Some(PolicyTuning)),
        (PolicyTuning, "sha256:p", None),
    ] {
        scene.succeed(kind, "helpful", digest).await;
        let status = scene.until_reason(kind, "helpful", Reason::Completed).await;
        assert_eq!(condition(&status, Ready), (True, Reason::Completed));
        assert_eq!(condition(&status, Succeeded), (True, Reason::Completed));
        assert_eq!(condition(&status, Reconciling).0, False);
        assert_eq!(condition(&status, Stalled), (False, Reason::AsExpected));
        assert_eq!(condition(&status, InputsReady), (True, Reason::InputsResolved));
        assert_eq!(condition(&status, Outdated), (False, Reason::InputsUpToDate));
        let artifact = status.artifact.unwrap();
        assert_eq!(artifact.uri, format!("pvc://results/{}/helpful", kind.plural()));
        assert_eq!(artifact.digest, digest);
        if let Some(next) = next {
            scene.until_reason(next, "helpful", Reason::Running).await;
        }
        seen.push('\n');
        seen.push_str(&table(&scene));
    }
    let golden = include_str!("../golden/chain.txt");
    assert_eq!(seen, golden, "the tables, from the first to the last");
    let tuning = scene.status(PolicyTuning, "helpful").await;
    let digests: Vec<(&str, &str)> = tuning.inputs.iter().map(|i| (i.role.as_str(), i.digest.as_str())).collect();
    assert_eq!(digests, [("policyModel", "sha256:m"), ("rewardModelRef", "sha256:r")], "what it was made from");
    assert_eq!(scene.jobs().await.len(), 3, "one Job each");
    drop(operator);
}

#[tokio::test]
async fn a_suspended_run_holds_nothing_and_goes_on_as_the_same_run() {
    let scene = Scene::new("suspend").await;
    let _operator = scene.operator().await;
    for kind in Kind::ALL {
        scene.apply(&resource(kind, "r", &alone(kind))).await;
        let pod = scene.pod(kind, "r").await;
        scene.node.run(&pod).await;
        let running = scene.until_reason(kind, "r", Reason::Running).await;
        scene.change(kind, "r", json!({"suspend": true})).await;
        let suspended = scene.until_reason(kind, "r", Reason::Suspended).await;
        assert_eq!(condition(&suspended, Succeeded).0, Unknown);
        assert_eq!(condition(&suspended, Stalled).0, False);
        scene.let_end(&pod).await;
        let job = running.job.unwrap();
        scene.until_gone(&job.name).await;
        scene.change(kind, "r", json!({"suspend": false})).await;
        scene.succeed(kind, "r", "sha256:x").await;
        let done = scene.until_reason(kind, "r", Reason::Completed).await;
        let again = done.job.unwrap();
        assert_eq!(again.name, job.name, "the same run, so the same work folder");
        assert_ne!(again.uid, job.uid, "in a Job of its own");
        assert_eq!(done.start_time, running.start_time);
        assert_eq!(again.retries, [].into(), "a suspension is no failure");
    }
}

#[tokio::test]
async fn an_input_that_changed_makes_its_dependents_outdated_and_nothing_is_made_anew_unasked() {
    let scene = Scene::new("outdated").await;
    let _operator = scene.operator().await;
    for kind in [PreferenceDataset, RewardModel] {
        scene.apply(&resource(kind, "r", &json!({}))).await;
        scene.succeed(kind, "r", "sha256:1").await;
        scene.until_reason(kind, "r", Reason::Completed).await;
    }
    scene.change(PreferenceDataset, "r", json!({"pairs": {"perPrompt": 5}})).await;
    scene.succeed(PreferenceDataset, "r", "sha256:2").await;
    let outdated = plumbline_testkit::cluster::until("the reward model is outdated", async || {
        let status = scene.status(RewardModel, "r").await;
        (condition(&status, Outdated) == (True, Reason::InputChanged)).then_some(status)
    })
    .await;
    assert_eq!(condition(&outdated, Ready), (True, Reason::Completed), "what it made is still there");
    assert!(outdated.condition(Outdated).unwrap().message.contains("datasetRef"));
    assert_eq!(outdated.inputs[0].digest, "sha256:1", "what it was made from does not change");
    assert_eq!(scene.jobs_made(), 3, "the dataset twice, the reward model once");

    scene.change(RewardModel, "r", json!({"training": {"epochs": 2}})).await;
    scene.succeed(RewardModel, "r", "sha256:3").await;
    let renewed = scene.until_reason(RewardModel, "r", Reason::Completed).await;
    assert_eq!(condition(&renewed, Outdated).0, False);
    assert_eq!(renewed.inputs[0].digest, "sha256:2");
}
