//! Each reason that the operator reads from the cluster, brought about on a real API server: condition, message, event,
//! metric.

use futures::future::join_all;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use plumbline_crds::Kind::{self, PolicyTuning, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::ConditionStatus::{False, True, Unknown};
use plumbline_crds::conditions::ConditionType::{Ready, Reconciling, Stalled, Succeeded};
use plumbline_crds::conditions::Reason;
use plumbline_crds::status::Status;
use plumbline_testkit::cluster::{Exit, until};
use plumbline_testkit::operator::{Operator, Scene, condition, resource};
use serde_json::{Value, json};

const KIND: Kind = RewardModel;

/// A reward model that waits for nothing.
fn reward(name: &str, change: &Value) -> Value {
    let mut spec = json!({"datasetRef": null, "dataset": {"uri": "pvc://models/pairs.jsonl"}});
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    resource(KIND, name, &spec)
}

/// What people see of a resource that says `reason`: the words of its message, an event, and the gauge.
async fn seen(scene: &Scene, operator: &Operator, kind: Kind, name: &str, reason: Reason, words: &str) -> Status {
    let mut message = String::new();
    let status = until(&format!("{kind}/{name} says {reason:?}: {words}"), async || {
        let status = scene.until_reason(kind, name, reason).await;
        message.clone_from(&status.condition(Ready)?.message);
        message.contains(words).then_some(status)
    })
    .await;
    let events: Api<Event> = scene.namespace.api().await;
    until(&format!("an event {reason:?} of {name}"), async || {
        let found = events.list(&ListParams::default()).await.unwrap();
        found
            .into_iter()
            .find(|e| {
                e.reason.as_deref() == Some(&reason.as_str())
                    && e.regarding.as_ref().is_some_and(|r| r.name.as_deref() == Some(name))
            })
            .map(|_| ())
    })
    .await;
    let gauge = format!("plumbline_resources{{kind=\"{kind}\",reason=\"{}\"}}", reason.as_str());
    let (code, text) = operator.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(text.lines().any(|l| l.starts_with(&gauge)), "no {gauge} in {text}");
    status
}

#[tokio::test]
async fn what_a_resource_waits_for_is_named() {
    let scene = Scene::new("waits").await;
    let operator = scene.operator().await;
    let see = async |kind, name, reason, words| seen(&scene, &operator, kind, name, reason, words).await;

    scene.apply(&resource(KIND, "ref", &json!({"datasetRef": {"name": "nobody"}}))).await;
    let status = see(KIND, "ref", Reason::ReferenceNotFound, "PreferenceDataset/nobody").await;
    assert_eq!((condition(&status, Reconciling).0, condition(&status, Stalled).0), (True, False));
    scene.apply(&resource(PreferenceDataset, "nobody", &json!({"suspend": true}))).await;
    see(PreferenceDataset, "nobody", Reason::Suspended, "spec.suspend").await;
    see(KIND, "ref", Reason::ReferenceNotReady, "PreferenceDataset/nobody").await;

    scene.apply(&reward("claim", &json!({"baseModel": {"uri": "pvc://elsewhere/sft"}}))).await;
    see(KIND, "claim", Reason::ReferenceNotFound, "PersistentVolumeClaim/elsewhere").await;
    scene.create_claim("elsewhere").await;
    scene.until_reason(KIND, "claim", Reason::Running).await;

    let prompts =
        json!({"prompts": {"configMapRef": {"name": "prompts", "key": "p.txt"}}, "rewardModelRef": {"name": "ref"}});
    scene.apply(&resource(PolicyTuning, "map", &prompts)).await;
    see(PolicyTuning, "map", Reason::ReferenceNotFound, "ConfigMap/prompts").await;
    scene.kubectl(&["create", "configmap", "prompts", "--from-literal=other=x"]);
    scene.kubectl(&["patch", "configmap", "prompts", "-p", r#"{"data":{"p.txt":"a"}}"#]);
    see(PolicyTuning, "map", Reason::ReferenceNotReady, "RewardModel/ref").await;
}

#[tokio::test]
async fn what_keeps_a_pod_from_running_is_named() {
    let scene = Scene::new("obstacles").await;
    let operator = scene.operator().await;
    let see = async |name, reason, words| seen(&scene, &operator, KIND, name, reason, words).await;
    scene.apply(&reward("pod", &json!({}))).await;
    let pod = scene.pod(KIND, "pod").await;
    scene.node.unschedulable(&pod, "0/3 nodes are available: 3 Insufficient memory.").await;
    see("pod", Reason::Unschedulable, "Insufficient memory").await;
    scene.node.waiting(&pod, "trainer", "ImagePullBackOff", "Back-off pulling image \"trainer:test\"").await;
    see("pod", Reason::ImagePullFailed, "trainer:test").await;
    scene.node.waiting(&pod, "trainer", "CreateContainerConfigError", "secret \"keys\" not found").await;
    let status = see("pod", Reason::ConfigInvalid, "secret \"keys\" not found").await;
    assert_eq!(condition(&status, Succeeded).0, Unknown, "it can still become well");
    scene.node.run(&pod).await;
    see("pod", Reason::Running, "attempt 1").await;

    scene.apply(&reward("queue", &json!({"compute": {"queueName": "team-a"}}))).await;
    let job = scene.job(KIND, "queue").await;
    // Kueue's webhook does this when it creates the Job.
    scene.kubectl(&["patch", "job", &job, "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    see("queue", Reason::QuotaPending, "team-a").await;
    scene.kubectl(&["patch", "job", &job, "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]);
    scene.until_reason(KIND, "queue", Reason::Running).await;

    let quota = r#"{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"none"},"spec":{"hard":{"count/jobs.batch":"0"}}}"#;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), quota).unwrap();
    scene.kubectl(&["create", "-f", file.path().to_str().unwrap()]);
    scene.apply(&reward("refused", &json!({}))).await;
    see("refused", Reason::ChildCreationFailed, "quota").await;
    scene.kubectl(&["patch", "quota", "none", "-p", r#"{"spec":{"hard":{"count/jobs.batch":null,"pods":"0"}}}"#]);
    see("refused", Reason::ChildCreationFailed, "the API server rejected the pod: exceeded quota: none").await;
    scene.kubectl(&["delete", "quota", "none"]);
    scene.until_reason(KIND, "refused", Reason::Running).await;
    // The same when it is the second pod that is refused.
    scene.kubectl(&["create", "quota", "none", "--hard=pods=0"]);
    let pod = scene.pod(KIND, "refused").await;
    scene.node.run(&pod).await;
    scene.node.end(&pod, Exit { code: 1, reason: "Error", message: "" }).await;
    see("refused", Reason::Retrying, "TrainerFailed").await;
    see("refused", Reason::ChildCreationFailed, "the API server rejected the pod").await;
}

#[tokio::test]
async fn how_a_run_failed_is_named() {
    let scene = Scene::new("failures").await;
    let operator = scene.operator().await;
    let once = json!({"compute": {"maxRetries": 0}});
    let said = |reason: &str, message: &str| json!({"reason": reason, "message": message}).to_string();
    let cases: [(&str, i32, &str, String, Reason, &str); 12] = [
        (
            "config",
            2,
            "Error",
            said("TrainerConfigRejected", "spec.x is wrong"),
            Reason::TrainerConfigRejected,
            "spec.x is wrong",
        ),
        ("data", 3, "Error", String::new(), Reason::DataInvalid, "exit code 3"),
        ("judge", 4, "Error", said("JudgeUnavailable", "no answer"), Reason::JudgeUnavailable, "no answer"),
        ("store", 5, "Error", said("ArtifactUploadFailed", "disk full"), Reason::ArtifactUploadFailed, "disk full"),
        (
            "gpu",
            6,
            "Error",
            said("AcceleratorOutOfMemory", "tried to allocate"),
            Reason::AcceleratorOutOfMemory,
            "allocate",
        ),
        ("key", 7, "Error", said("JudgeRejected", "401"), Reason::JudgeRejected, "401"),
        ("budget", 8, "Error", said("BudgetExhausted", "50 USD are spent"), Reason::BudgetExhausted, "50 USD"),
        ("gate", 9, "Error", said("GateFailed", "accuracy 0.4"), Reason::GateFailed, "accuracy 0.4"),
        ("hack", 10, "Error", said("RewardHackingSuspected", "KL 70"), Reason::RewardHackingSuspected, "KL 70"),
        ("hang", 11, "Error", said("NoProgress", "no progress for 1800 s"), Reason::NoProgress, "1800 s"),
        ("memory", 137, "OOMKilled", String::new(), Reason::OutOfMemory, "the container trainer was killed"),
        ("crash", 139, "Error", String::new(), Reason::TrainerFailed, "signal 11"),
    ];
    let named = cases.iter().map(async |(name, code, reason, message, expected, words)| {
        scene.apply(&reward(name, &once)).await;
        let pod = scene.pod(KIND, name).await;
        scene.node.run(&pod).await;
        scene.node.end(&pod, Exit { code: *code, reason, message }).await;
        let status = seen(&scene, &operator, KIND, name, *expected, words).await;
        assert_eq!(condition(&status, Succeeded), (False, *expected));
        assert_eq!(condition(&status, Stalled), (True, *expected));
        assert_eq!(condition(&status, Reconciling).0, False);
        assert!(status.completion_time.is_some());
    });
    join_all(named).await;
    assert_eq!(scene.jobs_made(), cases.len(), "what failed for good is not tried again");
}

#[tokio::test]
async fn a_pod_that_overfills_its_node_is_tried_again_as_often_as_allowed_and_its_job_is_stopped_then() {
    let scene = Scene::new("overfull").await;
    let operator = scene.operator().await;
    scene.apply(&reward("r", &json!({"compute": {"maxRetries": 1}}))).await;
    let message = "Usage of EmptyDir volume \"tmp\" exceeds the limit \"200Gi\". ";
    let pod = scene.pod(KIND, "r").await;
    scene.node.run(&pod).await;
    scene.node.evict_overfull(&pod, message).await;
    seen(&scene, &operator, KIND, "r", Reason::Retrying, "StorageExceeded").await;
    let pod = scene.pod(KIND, "r").await;
    scene.node.run(&pod).await;
    scene.node.evict_overfull(&pod, message).await;
    let status = seen(&scene, &operator, KIND, "r", Reason::StorageExceeded, "scratchSize").await;
    assert_eq!(condition(&status, Stalled), (True, Reason::StorageExceeded));
    assert_eq!(status.job.unwrap().retries, [("StorageExceeded".to_owned(), 2)].into());
    // Exit code 75 is no failure to the Job, which would go on.
    let jobs: Api<k8s_openapi::api::batch::v1::Job> = scene.namespace.api().await;
    until("the Job is stopped", async || {
        let found = jobs.list(&ListParams::default()).await.unwrap();
        found.items.iter().all(|job| job.metadata.deletion_timestamp.is_some()).then_some(())
    })
    .await;
    assert_eq!(scene.jobs_made(), 1);
    // With more room, the same run goes on.
    scene.apply(&reward("r", &json!({"compute": {"maxRetries": 2}}))).await;
    until("another Job", async || (scene.jobs_made() == 2).then_some(())).await;
}

#[tokio::test]
async fn disruptions_do_not_count_and_failures_are_tried_again_as_often_as_allowed() {
    let scene = Scene::new("retries").await;
    let operator = scene.operator().await;
    scene.apply(&reward("r", &json!({"compute": {"maxRetries": 1}}))).await;
    for _ in 0..2 {
        let pod = scene.pod(KIND, "r").await;
        scene.node.run(&pod).await;
        scene.node.evict_by_kubelet(&pod, "the node was low on memory").await;
    }
    let pod = scene.pod(KIND, "r").await;
    scene.node.run(&pod).await;
    scene.node.end(&pod, Exit { code: 4, reason: "Error", message: "" }).await;
    seen(&scene, &operator, KIND, "r", Reason::Retrying, "JudgeUnavailable").await;
    let pod = scene.pod(KIND, "r").await;
    scene.node.run(&pod).await;
    scene.node.end(&pod, Exit { code: 4, reason: "Error", message: "" }).await;
    let status = scene.until_reason(KIND, "r", Reason::JudgeUnavailable).await;
    let job = status.job.unwrap();
    let retries = [("NodeDisruption".to_owned(), 2), ("JudgeUnavailable".to_owned(), 2)].into();
    assert_eq!((job.attempt, job.retries), (4, retries));
    let (_, metrics) = operator.get("/metrics").await;
    let counted = r#"plumbline_retries_total{kind="RewardModel",reason="NodeDisruption"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn a_job_that_somebody_deletes_is_made_again_and_a_deadline_is_a_deadline() {
    let scene = Scene::new("deleted").await;
    let _operator = scene.operator().await;
    scene.apply(&reward("r", &json!({}))).await;
    let job = scene.job(KIND, "r").await;
    let first = scene.node.pod(&job).await;
    scene.node.run(&first).await;
    scene.kubectl(&["delete", "job", &job, "--wait=false", "--cascade=background"]);
    scene.until_reason(KIND, "r", Reason::Pending).await;
    assert!(scene.jobs().await.is_empty(), "two trainers must not write the same folder");
    scene.let_end(&first).await;
    let status = until("the deleted Job is counted", async || {
        let status = scene.status(KIND, "r").await;
        let job = status.job.clone()?;
        job.retries.contains_key("JobDeleted").then_some((status, job))
    })
    .await;
    assert_eq!((status.1.attempt, condition(&status.0, Succeeded).0), (2, Unknown));
    let pod = scene.pod(KIND, "r").await;
    assert_ne!(pod.metadata.uid, first.metadata.uid);

    scene.apply(&reward("late", &json!({"compute": {"deadlineSeconds": 10}}))).await;
    let pod = scene.pod(KIND, "late").await;
    scene.node.run(&pod).await;
    scene.let_end(&pod).await;
    let status = scene.until_reason(KIND, "late", Reason::DeadlineExceeded).await;
    assert_eq!(condition(&status, Stalled), (True, Reason::DeadlineExceeded));
}

#[tokio::test]
async fn a_resource_that_is_made_again_waits_for_the_pods_of_the_one_before() {
    let scene = Scene::new("again").await;
    let _operator = scene.operator().await;
    scene.apply(&reward("r", &json!({}))).await;
    let first = scene.pod(KIND, "r").await;
    scene.node.run(&first).await;
    let job = scene.job(KIND, "r").await;
    scene.delete(KIND, "r").await;
    scene.until_gone(&job).await;
    scene.apply(&reward("r", &json!({}))).await;
    let status = scene.until_reason(KIND, "r", Reason::Pending).await;
    let message = &status.condition(Ready).unwrap().message;
    assert!(message.contains(&first.name_any()), "{message}");
    assert_eq!(scene.jobs_made(), 1);
    scene.let_end(&first).await;
    scene.until_reason(KIND, "r", Reason::Running).await;
    assert_eq!(scene.jobs_made(), 2);
}

#[tokio::test]
async fn what_only_the_operator_can_know_is_refused_without_a_job_and_heals_when_corrected() {
    let scene = Scene::new("invalid").await;
    let operator = scene.operator().await;
    let bad: [(&str, Value, &str); 9] = [
        ("a", json!({"baseModel": {"uri": "../models/sft"}}), "spec.baseModel.uri: expected a URI that pods can read"),
        ("b", json!({"baseModel": {"uri": "s3://bucket"}}), "spec.baseModel.uri: expected a URI as s3://bucket/folder"),
        ("c", json!({"output": {"uri": "file:///out"}}), "spec.output.uri: expected a location that outlives the pod"),
        ("d", json!({"output": {"uri": "pvc://results"}}), "spec.output.uri: expected a directory in the claim"),
        ("e", json!({"output": {"uri": "hf://org/x"}}), "spec.output.uri: expected a location that outlives"),
        ("f", json!({"output": {}}), "spec.output.uri: expected where the artifact goes"),
        (
            "h",
            json!({"compute": {"accelerators": 2}}),
            "spec.compute.accelerators: found 2, which is not supported yet",
        ),
        ("i", json!({"baseModel": {"uri": "pvc://models/../other"}}), "spec.baseModel.uri"),
        (
            "j",
            json!({"output": {"uri": "pvc://results/x", "credentialsSecretRef": {"name": "c"}}}),
            "spec.output.credentialsSecretRef: expected an output in a store",
        ),
    ];
    for (name, change, words) in &bad {
        scene.apply(&reward(name, change)).await;
        let status = seen(&scene, &operator, KIND, name, Reason::SpecInvalid, words).await;
        assert_eq!(condition(&status, Stalled).0, True);
    }
    assert_eq!(scene.jobs_made(), 0);
    scene.change(KIND, "a", json!({"baseModel": {"uri": "pvc://models/sft"}})).await;
    scene.until_reason(KIND, "a", Reason::Running).await;
    scene.change(KIND, "b", json!({"baseModel": {"uri": "hf://org/model"}})).await;
    let pod = scene.pod(KIND, "b").await;
    assert_eq!(pod.spec.unwrap().init_containers.unwrap()[0].name, "fetch");
}

#[tokio::test]
async fn a_queue_is_waited_for_where_there_is_no_kueue_to_ask() {
    let scene = Scene::new("no-kueue").await;
    // Neither its kinds nor the permission to read them.
    let operator = Operator::start(&scene.namespace, &scene.account().await, &["--kueue"]);
    let queued = json!({"compute": {"queueName": "team-a", "deadlineSeconds": 100}});
    let mut manifest = reward("queue", &queued);
    manifest["metadata"]["labels"] = json!({"kueue.x-k8s.io/priority-class": "urgent", "other": "label"});
    scene.apply(&manifest).await;
    let name = scene.job(KIND, "queue").await;
    let job = scene.jobs().await.into_iter().find(|job| job.name_any() == name).unwrap();
    assert_eq!(job.labels().get("kueue.x-k8s.io/priority-class").map(String::as_str), Some("urgent"));
    assert_eq!(job.labels().get("other"), None, "only what is meant for Kueue goes on to the Job");
    scene.kubectl(&["patch", "job", &name, "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    let waits = seen(&scene, &operator, KIND, "queue", Reason::QuotaPending, "waits in the queue team-a").await;
    assert_eq!(condition(&waits, Stalled).0, False);
    scene.kubectl(&["patch", "job", &name, "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]);
    scene.until_reason(KIND, "queue", Reason::Running).await;
    let (_, metrics) = operator.get("/metrics").await;
    assert!(!metrics.contains("plumbline_reconcile_errors_total{"), "no visit has failed: {metrics}");
}
