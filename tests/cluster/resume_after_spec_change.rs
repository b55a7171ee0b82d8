//! A run that goes on with other compute or another budget than it began with, on a real API server.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use plumbline_crds::Kind::{self, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::Reason;
use plumbline_crds::run::RunDocument;
use plumbline_testkit::cluster::{Exit, until};
use plumbline_testkit::operator::{Scene, alone, resource};
use serde_json::{Value, json};

const KIND: Kind = RewardModel;

/// A reward model that waits for nothing.
fn reward(compute: &Value) -> Value {
    let mut change = alone(KIND);
    change["compute"] = compute.clone();
    resource(KIND, "r", &change)
}

#[tokio::test]
async fn what_a_run_may_use_can_be_changed_while_it_is_suspended() {
    let scene = Scene::new("resumed").await;
    let _operator = scene.operator().await;
    scene.apply(&reward(&json!({"threads": 1}))).await;
    let pod = scene.pod(KIND, "r").await;
    let job = scene.job(KIND, "r").await;
    scene.node.run(&pod).await;
    scene.change(KIND, "r", json!({"suspend": true})).await;
    scene.until_reason(KIND, "r", Reason::Suspended).await;
    scene.let_end(&pod).await;
    scene.until_gone(&job).await;
    scene.change(KIND, "r", json!({"suspend": false, "compute": {"threads": 2}})).await;
    scene.until_reason(KIND, "r", Reason::Running).await;
    assert_eq!(scene.job(KIND, "r").await, job, "the same run, so the same work folder");
    let documents: kube::Api<ConfigMap> = scene.namespace.api().await;
    let document = documents.get(&job).await.unwrap();
    assert!(document.data.unwrap()["run.yaml"].contains("threads: 2"), "the trainer is told");
    assert_eq!(document.immutable, Some(true), "and by nobody else");
}

#[tokio::test]
async fn a_new_run_takes_over_nothing_of_the_one_before() {
    let scene = Scene::new("anew").await;
    let _operator = scene.operator().await;
    scene.apply(&reward(&json!({"accelerators": 1}))).await;
    scene.succeed(KIND, "r", "sha256:1").await;
    let first = scene.until_reason(KIND, "r", Reason::Completed).await;
    assert!(first.completion_time.is_some());
    scene.change(KIND, "r", json!({"training": {"epochs": 2}})).await;
    let second = scene.until_reason(KIND, "r", Reason::Running).await;
    assert_ne!(second.job.unwrap().name, first.job.unwrap().name);
    assert_eq!(second.completion_time, None, "it has only just begun");
    let change = Patch::Merge(json!({"spec": {"training": {"epochs": 3}}}));
    let refused = scene.api(KIND).patch("r", &PatchParams::default(), &change).await.unwrap_err().to_string();
    assert!(refused.contains("a started run uses this"), "what it is made from stays: {refused}");
}

#[tokio::test]
async fn a_run_that_only_measures_otherwise_continues_in_the_work_folder_of_the_one_before() {
    let scene = Scene::new("measured").await;
    let _operator = scene.operator().await;
    scene.apply(&reward(&json!({}))).await;
    let documents: kube::Api<ConfigMap> = scene.namespace.api().await;
    let work = async |job: &str| {
        let text = documents.get(job).await.unwrap().data.unwrap().remove("run.yaml").unwrap();
        serde_yaml::from_str::<RunDocument>(&text).unwrap().work
    };
    let first = scene.job(KIND, "r").await;
    let begun_in = work(&first).await;
    scene.succeed(KIND, "r", "sha256:1").await;
    scene.until_reason(KIND, "r", Reason::Completed).await;
    scene.change(KIND, "r", json!({"gates": {"minAccuracy": 0.5}})).await;
    let second = until("another run has begun", async || {
        scene.status(KIND, "r").await.job.map(|job| job.name).filter(|name| *name != first)
    })
    .await;
    assert_eq!(work(&second).await, begun_in);
    scene.succeed(KIND, "r", "sha256:1").await;
    scene.until_reason(KIND, "r", Reason::Completed).await;
    scene.change(KIND, "r", json!({"training": {"microBatchSize": 2}})).await;
    scene.change(KIND, "r", json!({"training": {"seed": 2}})).await;
    let third = until("a third run has begun", async || {
        scene.status(KIND, "r").await.job.map(|job| job.name).filter(|name| *name != second)
    })
    .await;
    assert_ne!(work(&third).await, begun_in, "what is trained otherwise begins with nothing");
}

#[tokio::test]
async fn a_run_that_is_resumed_before_it_has_stopped_was_deleted_by_nobody() {
    let scene = Scene::new("resumed-early").await;
    let _operator = scene.operator().await;
    scene.apply(&reward(&json!({}))).await;
    let pod = scene.pod(KIND, "r").await;
    scene.node.run(&pod).await;
    scene.change(KIND, "r", json!({"suspend": true})).await;
    scene.until_reason(KIND, "r", Reason::Suspended).await;
    scene.change(KIND, "r", json!({"suspend": false})).await;
    scene.until_reason(KIND, "r", Reason::Pending).await;
    scene.let_end(&pod).await;
    let job = scene.until_reason(KIND, "r", Reason::Running).await.job.unwrap();
    assert_eq!((job.attempt, job.retries), (2, [].into()));
}

#[tokio::test]
async fn a_run_whose_time_or_budget_was_used_up_goes_on_when_they_are_raised() {
    let scene = Scene::new("raised").await;
    let _operator = scene.operator().await;
    scene.apply(&reward(&json!({"deadlineSeconds": 10}))).await;
    let pod = scene.pod(KIND, "r").await;
    let job = scene.job(KIND, "r").await;
    scene.node.run(&pod).await;
    scene.let_end(&pod).await;
    let failed = scene.until_reason(KIND, "r", Reason::DeadlineExceeded).await;
    assert!(failed.completion_time.is_some());
    scene.change(KIND, "r", json!({"compute": {"deadlineSeconds": 3600}})).await;
    let running = scene.until_reason(KIND, "r", Reason::Running).await;
    assert_eq!((running.completion_time, running.start_time), (None, failed.start_time), "the same run");
    assert_eq!(scene.job(KIND, "r").await, job, "so the same work folder");
    scene.succeed(KIND, "r", "sha256:r").await;
    let done = scene.until_reason(KIND, "r", Reason::Completed).await;
    scene.change(KIND, "r", json!({"compute": {"deadlineSeconds": 7200}})).await;
    let after = scene.until_reason(KIND, "r", Reason::Completed).await;
    assert_eq!(after.completion_time, done.completion_time);
    assert_eq!(scene.jobs_made(), 2, "what is done is not made again");

    let labels = |most: i64| resource(PreferenceDataset, "d", &json!({"budget": {"maxRequests": most}}));
    scene.apply(&labels(1)).await;
    let pod = scene.pod(PreferenceDataset, "d").await;
    scene.node.run(&pod).await;
    scene.node.end(&pod, Exit { code: 8, reason: "Error", message: "" }).await;
    scene.until_reason(PreferenceDataset, "d", Reason::BudgetExhausted).await;
    scene.apply(&labels(2)).await;
    scene.until_reason(PreferenceDataset, "d", Reason::Running).await;
    let pod = scene.pod(PreferenceDataset, "d").await;
    scene.node.run(&pod).await;
    scene.node.end(&pod, Exit { code: 7, reason: "Error", message: "" }).await;
    scene.until_reason(PreferenceDataset, "d", Reason::JudgeRejected).await;
    // The key was corrected, of which the spec says nothing.
    for suspend in [true, false] {
        scene.change(PreferenceDataset, "d", json!({"suspend": suspend})).await;
        let reason = if suspend { Reason::Suspended } else { Reason::Running };
        scene.until_reason(PreferenceDataset, "d", reason).await;
    }
    scene.succeed(PreferenceDataset, "d", "sha256:d").await;
    scene.until_reason(PreferenceDataset, "d", Reason::Completed).await;
}

#[tokio::test]
async fn a_job_that_nobody_has_written_down_is_stopped_when_it_is_not_what_is_wanted_any_more() {
    let scene = Scene::new("unwritten").await;
    let mut operator = scene.operator().await;
    scene.kubectl(&["create", "configmap", "prompts", "--from-literal=p.txt=a"]);
    let prompts = json!({"prompts": {"configMapRef": {"name": "prompts", "key": "p.txt"}}});
    scene.apply(&resource(PreferenceDataset, "r", &prompts)).await;
    let pod = scene.pod(PreferenceDataset, "r").await;
    scene.node.run(&pod).await;
    let first = scene.until_reason(PreferenceDataset, "r", Reason::Running).await.job.unwrap().name;
    assert!(operator.stop().success());
    // As if it had been killed before it could write that it had started this.
    let forgotten = Patch::Merge(json!({"status": {"job": null, "startTime": null, "inputs": null}}));
    scene.api(PreferenceDataset).patch_status("r", &PatchParams::default(), &forgotten).await.unwrap();
    scene.kubectl(&["patch", "configmap", "prompts", "-p", r#"{"data":{"p.txt":"b"}}"#]);
    let _next = scene.operator().await;
    scene.let_end(&pod).await;
    let second = until("another run has begun", async || {
        scene.status(PreferenceDataset, "r").await.job.map(|job| job.name).filter(|name| *name != first)
    })
    .await;
    scene.until_gone(&first).await;
    assert_eq!(scene.job(PreferenceDataset, "r").await, second);
    let documents: kube::Api<ConfigMap> = scene.namespace.api().await;
    assert!(documents.get_opt(&first).await.unwrap().is_none(), "its run document is left behind");
}
