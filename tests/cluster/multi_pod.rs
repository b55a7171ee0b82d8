//! Several pods that train one model, on a real API server with the real Job controller: what they are, and that none goes on
//! without the others, whatever becomes of one.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use plumbline_crds::Kind;
use plumbline_crds::conditions::{ConditionType, Reason};
use plumbline_testkit::cluster::{Exit, until};
use plumbline_testkit::operator::{Scene, alone, completed, resource};
use serde_json::{Value, json};

const KIND: Kind = Kind::RewardModel;

fn reward(compute: &Value) -> Value {
    let mut change = alone(KIND);
    change["compute"] = compute.clone();
    change["compute"]["nodes"] = json!(2);
    resource(KIND, "r", &change)
}

/// The two pods that are active, in order of rank.
async fn pods(scene: &Scene) -> [Pod; 2] {
    let job = scene.job(KIND, "r").await;
    until("there are two pods", async || {
        let mut pods = scene.node.pods(&job).await;
        pods.retain(|pod| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            pod.metadata.deletion_timestamp.is_none() && phase == Some("Pending")
        });
        pods.sort_by_key(index);
        <[Pod; 2]>::try_from(pods).ok()
    })
    .await
}

fn index(pod: &Pod) -> String {
    pod.annotations()["batch.kubernetes.io/job-completion-index"].clone()
}

async fn running(scene: &Scene) -> [Pod; 2] {
    let pods = pods(scene).await;
    for pod in &pods {
        scene.node.run(pod).await;
    }
    pods
}

fn exit(code: i32, reason: &'static str) -> Exit<'static> {
    Exit { code, reason, message: "" }
}

#[tokio::test]
async fn two_pods_find_each_other_by_name_and_what_the_first_says_is_the_result() {
    let scene = Scene::new("gang").await;
    let _operator = scene.operator().await;
    scene.apply(&reward(&json!({}))).await;
    let pods = running(&scene).await;
    let services: kube::Api<Service> = scene.namespace.api().await;
    let service = services.get("plumbline-r-reward").await.unwrap();
    let spec = service.spec.clone().unwrap();
    assert_eq!((spec.cluster_ip.as_deref(), spec.publish_not_ready_addresses), (Some("None"), Some(true)));
    assert_eq!(service.owner_references()[0].kind, "RewardModel", "it goes with the resource");
    let job = scene.job(KIND, "r").await;
    let jobs: kube::Api<Job> = scene.namespace.api().await;
    let made = jobs.get(&job).await.unwrap();
    for (rank, pod) in pods.iter().enumerate() {
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.hostname, Some(format!("{job}-{rank}")));
        assert_eq!(spec.subdomain.as_deref(), Some("plumbline-r-reward"));
        let selected = service.spec.as_ref().unwrap().selector.clone().unwrap();
        assert!(selected.iter().all(|(key, value)| pod.labels().get(key) == Some(value)), "{selected:?}");
        let env = spec.containers[0].env.clone().unwrap();
        let of = |name: &str| env.iter().find(|v| v.name == name).and_then(|v| v.value.clone()).unwrap();
        assert_eq!(of("MASTER_ADDR"), format!("{job}-0.plumbline-r-reward"));
        assert_eq!((of("WORLD_SIZE").as_str(), of("MASTER_PORT").as_str()), ("2", "29500"));
        let index = env.iter().find(|v| v.name == "JOB_COMPLETION_INDEX").unwrap();
        assert!(index.value_from.is_some(), "the Job controller says which rank it is");
        let attempt = env.iter().find(|v| v.name == "TORCHELASTIC_RUN_ID").unwrap().value_from.clone().unwrap();
        let path = attempt.field_ref.unwrap().field_path;
        let label = path.strip_prefix("metadata.labels['").and_then(|rest| rest.strip_suffix("']")).unwrap();
        assert_eq!(pod.labels().get(label), made.uid().as_ref(), "no other Job's pods are met");
    }
    // The second has no more to do while the first evaluates.
    scene.node.succeed(&pods[1], "").await;
    until("the Job has counted it", async || {
        let jobs = scene.jobs().await;
        jobs.iter().any(|job| job.status.as_ref().and_then(|s| s.succeeded) == Some(1)).then_some(())
    })
    .await;
    scene.until_reason(KIND, "r", Reason::Running).await;
    scene.node.succeed(&pods[0], &completed("sha256:r").to_string()).await;
    let status = scene.until_reason(KIND, "r", Reason::Completed).await;
    assert_eq!(status.artifact.unwrap().digest, "sha256:r");
    assert_eq!((status.job.clone().unwrap().attempt, status.job.unwrap().retries.len()), (1, 0));
}

#[tokio::test]
async fn one_that_is_lost_is_one_failure_of_all_and_they_begin_again_as_often_as_allowed() {
    let scene = Scene::new("lost").await;
    let operator = scene.operator().await;
    scene.apply(&reward(&json!({"maxRetries": 1}))).await;
    // The second is killed; the first notices, and ends itself.
    let first = running(&scene).await;
    scene.node.end(&first[0], exit(12, "Error")).await;
    scene.node.end(&first[1], exit(137, "OOMKilled")).await;
    until("the status says why and what follows", async || {
        let status = scene.status(KIND, "r").await;
        let said = &status.condition(ConditionType::Ready)?.message;
        (said.starts_with("rank 1: ") && said.contains("retry 1 of 1")).then_some(())
    })
    .await;

    let second = running(&scene).await;
    assert!(first.iter().all(|old| second.iter().all(|new| old.uid() != new.uid())), "none goes on alone");
    let job = scene.until_reason(KIND, "r", Reason::Running).await.job.unwrap();
    assert_eq!((job.attempt, job.retries), (2, [("OutOfMemory".to_owned(), 1)].into()));

    // The other one stands still in a call: the cluster ends it.
    scene.node.end(&second[0], exit(139, "Error")).await;
    scene.let_end(&second[1]).await;
    let status = scene.until_reason(KIND, "r", Reason::TrainerFailed).await;
    let job = status.job.unwrap();
    assert_eq!((job.attempt, job.retries.values().sum::<i64>()), (2, 2), "{:?}", job.retries);
    assert_eq!(scene.jobs_made(), 2, "one Job an attempt");
    let (_, metrics) = operator.get("/metrics").await;
    assert!(metrics.contains(r#"plumbline_retries_total{kind="RewardModel",reason="OutOfMemory"} 1"#), "{metrics}");
}

#[tokio::test]
async fn one_that_is_taken_from_its_node_or_asked_to_stop_is_no_failure() {
    let scene = Scene::new("taken").await;
    let _operator = scene.operator().await;
    scene.apply(&reward(&json!({"maxRetries": 0}))).await;
    let pods = running(&scene).await;
    scene.node.evict_by_kubelet(&pods[1], "the node was low on memory").await;
    scene.let_end(&pods[0]).await;
    let pods = running(&scene).await;
    // Both stop at the same step when one is asked to.
    scene.node.end(&pods[1], exit(75, "Error")).await;
    scene.node.end(&pods[0], exit(75, "Error")).await;
    let pods = running(&scene).await;
    let job = scene.until_reason(KIND, "r", Reason::Running).await.job.unwrap();
    assert_eq!(job.retries, [("NodeDisruption".to_owned(), 1), ("Suspended".to_owned(), 1)].into());
    // What cannot end differently is not tried again.
    let said = json!({"reason": "DataInvalid", "message": "line 3"}).to_string();
    scene.node.end(&pods[0], Exit { code: 3, reason: "Error", message: &said }).await;
    scene.let_end(&pods[1]).await;
    let status = scene.until_reason(KIND, "r", Reason::DataInvalid).await;
    assert_eq!(status.job.unwrap().attempt, 3);
    assert_eq!(scene.jobs_made(), 3);
}

#[tokio::test]
async fn suspended_all_stop_and_resumed_all_go_on() {
    let scene = Scene::new("gang-suspend").await;
    let _operator = scene.operator().await;
    scene.apply(&reward(&json!({}))).await;
    let pods = running(&scene).await;
    scene.change(KIND, "r", json!({"suspend": true})).await;
    scene.until_reason(KIND, "r", Reason::Suspended).await;
    for pod in &pods {
        scene.let_end(pod).await;
    }
    scene.change(KIND, "r", json!({"suspend": false})).await;
    let again = running(&scene).await;
    assert_ne!(again[0].uid(), pods[0].uid());
    scene.node.succeed(&again[1], "").await;
    scene.node.succeed(&again[0], &completed("sha256:r").to_string()).await;
    let status = scene.until_reason(KIND, "r", Reason::Completed).await;
    assert!(!status.job.unwrap().retries.contains_key("JobDeleted"));
}

#[tokio::test]
async fn one_that_cannot_come_is_waited_for_as_long_as_it_takes() {
    let scene = Scene::new("gang-waits").await;
    let _operator = scene.operator().await;
    scene.apply(&reward(&json!({"maxRetries": 0}))).await;
    let first = pods(&scene).await;
    scene.node.unschedulable(&first[1], "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.").await;
    scene.until_reason(KIND, "r", Reason::Unschedulable).await;
    scene.node.run(&first[0]).await;
    scene.node.end(&first[0], exit(12, "Error")).await;
    // Its node is lost: nobody hears of it until the cluster gives it up, long after the other one has noticed.
    let second = running(&scene).await;
    scene.node.preempt(&second[1]).await;
    scene.until_reason(KIND, "r", Reason::NodeDisruption).await;
    scene.node.end(&second[0], exit(12, "Error")).await;
    scene.node.remove(&second[1]).await;
    running(&scene).await;
    let job = scene.until_reason(KIND, "r", Reason::Running).await.job.unwrap();
    let retries = [("NodeDisruption".to_owned(), 1), ("Unschedulable".to_owned(), 1)].into();
    assert_eq!((job.attempt, job.retries), (3, retries), "none has failed");
}

#[tokio::test]
async fn what_is_refused_between_two_attempts_was_deleted_by_nobody() {
    let scene = Scene::new("gang-refused").await;
    let _operator = scene.operator().await;
    scene.apply(&reward(&json!({}))).await;
    let pods = running(&scene).await;
    scene.kubectl(&["create", "quota", "none", "--hard=count/jobs.batch=0"]);
    for pod in &pods {
        scene.node.end(pod, exit(75, "Error")).await;
    }
    let refused = scene.until_reason(KIND, "r", Reason::ChildCreationFailed).await.job.unwrap();
    assert_eq!(refused.retries, [("Suspended".to_owned(), 1)].into());
    scene.kubectl(&["delete", "quota", "none"]);
    // It would be tried again in half a minute; whoever changes something need not wait.
    scene.change(KIND, "r", json!({"compute": {"maxRetries": 2}})).await;
    let job = scene.until_reason(KIND, "r", Reason::Running).await.job.unwrap();
    assert_eq!((job.attempt, job.retries), (2, refused.retries));
}

#[tokio::test]
async fn one_that_is_refused_is_told_though_the_other_runs() {
    let scene = Scene::new("gang-quota").await;
    let _operator = scene.operator().await;
    scene.kubectl(&["create", "quota", "one", "--hard=pods=1"]);
    scene.apply(&reward(&json!({}))).await;
    let pod = scene.pod(KIND, "r").await;
    scene.node.run(&pod).await;
    let refused = scene.until_reason(KIND, "r", Reason::ChildCreationFailed).await;
    let message = &refused.condition(ConditionType::Ready).unwrap().message;
    assert!(message.contains("exceeded quota: one"), "{message}");
    scene.kubectl(&["delete", "quota", "one"]);
    scene.until_reason(KIND, "r", Reason::Running).await;
}
