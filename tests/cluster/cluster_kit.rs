//! The cluster of the tests is a real one: what the other tests take from it is seen here on its own.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, Resource, ResourceExt};
use plumbline_crds::GROUP;
use plumbline_crds::preference_dataset::PreferenceDataset;
use plumbline_testkit::chain;
use plumbline_testkit::cluster::{Cluster, Exit, FakeNode, NODE, Namespace, Requests, is_alive, until};
use plumbline_testkit::programs::{code, text};
use serde_json::{Value, json};

/// A Job as a stage has it: a trainer beside a native sidecar, one retry, exit code 2 final, disruptions not counted.
fn job(name: &str) -> Job {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 1,
            "podFailurePolicy": {"rules": [
                {"action": "FailJob", "onExitCodes": {"containerName": "trainer", "operator": "In", "values": [2]}},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]},
            "template": {"spec": {
                "restartPolicy": "Never",
                "initContainers": [{"name": "judge", "image": "plumbline.test/none:1", "restartPolicy": "Always"}],
                "containers": [{"name": "trainer", "image": "plumbline.test/none:1"}],
            }},
        },
    }))
    .unwrap()
}

async fn create(namespace: &Namespace, job: &Job) -> Api<Job> {
    let jobs: Api<Job> = namespace.api().await;
    jobs.create(&PostParams::default(), job).await.unwrap();
    jobs
}

/// Waits for a Job's condition, and gives its reason.
async fn condition(jobs: &Api<Job>, name: &str, type_: &str) -> String {
    until(&format!("{name} is {type_}"), async || {
        let status = jobs.get(name).await.unwrap().status?;
        let condition = status.conditions?.into_iter().find(|c| c.type_ == type_ && c.status == "True")?;
        Some(condition.reason.unwrap_or_default())
    })
    .await
}

/// What the kubelet says of a container.
fn state(pod: &Pod, container: &str) -> Value {
    let status = pod.status.clone().unwrap();
    let all = [status.init_container_statuses, status.container_statuses].into_iter().flatten().flatten();
    let found = all.into_iter().find(|c| c.name == container).unwrap();
    serde_json::to_value(found.state.unwrap()).unwrap()
}

/// The status and the reason of a pod's condition.
fn pod_condition(pod: &Pod, type_: &str) -> Option<(String, String)> {
    let conditions = pod.status.clone()?.conditions?;
    let found = conditions.into_iter().find(|c| c.type_ == type_)?;
    Some((found.status, found.reason.unwrap_or_default()))
}

#[tokio::test]
async fn the_three_kinds_are_established_and_a_manifest_against_the_schema_is_refused() {
    let cluster = Cluster::shared();
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.client().await);
    let mut kinds = Vec::new();
    for crd in crds.list(&ListParams::default()).await.unwrap() {
        let conditions = crd.status.unwrap().conditions.unwrap();
        assert!(conditions.iter().any(|c| c.type_ == "Established" && c.status == "True"), "{}", crd.spec.names.kind);
        if crd.spec.group == GROUP {
            kinds.push(crd.spec.names.kind);
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["PolicyTuning", "PreferenceDataset", "RewardModel"]);

    let namespace = cluster.namespace("schema").await;
    let file = cluster.folder().join("refused.json");
    let mut manifest = chain::dataset("refused", &chain::words());
    manifest["spec"]["pairs"]["perPrompt"] = json!(-1);
    std::fs::write(&file, manifest.to_string()).unwrap();
    let output = cluster.kubectl(&["apply", "-n", namespace.name(), "-f", file.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stderr).contains("spec.pairs.perPrompt"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_job_whose_pod_succeeds_is_complete() {
    let namespace = Cluster::shared().namespace("succeeds").await;
    let node = namespace.node().await;
    let jobs = create(&namespace, &job("j")).await;
    let pod = node.pod("j").await;
    assert_eq!(pod.owner_references()[0].name, "j", "the Job controller made it");
    assert_eq!(pod.spec.as_ref().unwrap().node_name, None);

    let pod = node.run(&pod).await;
    assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some(NODE));
    assert_eq!(pod_condition(&pod, "PodScheduled").unwrap().0, "True");
    assert!(state(&pod, "judge").get("running").is_some() && state(&pod, "trainer").get("running").is_some());
    until("the Job counts a ready pod", async || {
        jobs.get("j").await.unwrap().status.filter(|s| s.ready == Some(1) && s.active == Some(1))
    })
    .await;

    let pod = node.succeed(&pod, "all is well").await;
    assert_eq!(state(&pod, "trainer")["terminated"]["message"], "all is well");
    assert_eq!(condition(&jobs, "j", "Complete").await, "CompletionsReached");
    assert_eq!(node.pods("j").await.len(), 1);
}

#[tokio::test]
async fn a_final_exit_code_fails_the_job_without_another_pod() {
    let namespace = Cluster::shared().namespace("final").await;
    let node = namespace.node().await;
    let jobs = create(&namespace, &job("j")).await;
    let pod = node.run(&node.pod("j").await).await;
    let pod = node.end(&pod, Exit { code: 2, reason: "Error", message: "the run document is invalid" }).await;
    assert_eq!(state(&pod, "trainer")["terminated"]["exitCode"], 2);
    assert_eq!(state(&pod, "judge")["terminated"]["exitCode"], 0);
    assert_eq!(condition(&jobs, "j", "Failed").await, "PodFailurePolicy");
    assert_eq!(node.pods("j").await.len(), 1);
}

#[tokio::test]
async fn a_pod_out_of_memory_is_replaced_and_counted() {
    let namespace = Cluster::shared().namespace("oom").await;
    let node = namespace.node().await;
    let jobs = create(&namespace, &job("j")).await;
    let first = node.run(&node.pod("j").await).await;
    let first = node.end(&first, Exit { code: 137, reason: "OOMKilled", message: "" }).await;
    assert_eq!(state(&first, "trainer")["terminated"]["reason"], "OOMKilled");
    let second = node.pod("j").await;
    assert_ne!(second.uid(), first.uid());
    assert_eq!(jobs.get("j").await.unwrap().status.unwrap().failed, Some(1));
}

/// A Job whose first pod runs and is disrupted: another one takes its place, and the limit of one retry is untouched.
async fn survives(prefix: &str, disrupt: impl AsyncFnOnce(&FakeNode, Pod)) {
    let namespace = Cluster::shared().namespace(prefix).await;
    let node = namespace.node().await;
    let jobs = create(&namespace, &job("j")).await;
    let first = node.run(&node.pod("j").await).await;
    let uid = first.uid();
    disrupt(&node, first).await;
    let second = node.pod("j").await;
    assert_ne!(second.uid(), uid);
    node.succeed(&second, "").await;
    let _ = condition(&jobs, "j", "Complete").await;
    assert_eq!(jobs.get("j").await.unwrap().status.unwrap().failed.unwrap_or(0), 0, "a disruption is no failure");
}

#[tokio::test]
async fn an_evicted_pod_ends_when_its_kubelet_says_so_and_is_replaced_uncounted() {
    survives("evicted", async |node, pod| {
        let pod = node.evict(&pod).await;
        assert_eq!(pod_condition(&pod, "DisruptionTarget").unwrap().1, "EvictionByEvictionAPI");
        assert!(pod.metadata.deletion_timestamp.is_some());
        assert_eq!(node.pods("j").await.len(), 1, "its kubelet has not confirmed yet");
        node.end(&pod, Exit { code: 75, reason: "Error", message: "" }).await;
        node.remove(&pod).await;
    })
    .await;
}

#[tokio::test]
async fn a_preempted_pod_is_replaced_uncounted() {
    survives("preempted", async |node, pod| {
        let pod = node.preempt(&pod).await;
        assert_eq!(pod_condition(&pod, "DisruptionTarget").unwrap().1, "PreemptionByScheduler");
        assert!(pod.metadata.deletion_timestamp.is_some());
        node.end(&pod, Exit { code: 143, reason: "Error", message: "" }).await;
        node.remove(&pod).await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_its_kubelet_evicts_is_replaced_uncounted() {
    survives("pressed", async |node, pod| {
        let pod = node.evict_by_kubelet(&pod, "low on memory").await;
        assert_eq!(pod_condition(&pod, "DisruptionTarget").unwrap().1, "TerminationByKubelet");
        assert_eq!(pod.status.unwrap().reason.as_deref(), Some("Evicted"));
        assert!(pod.metadata.deletion_timestamp.is_none());
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_cannot_start_says_why() {
    let namespace = Cluster::shared().namespace("waits").await;
    let node = namespace.node().await;
    let _ = create(&namespace, &job("j")).await;
    let pod = node.unschedulable(&node.pod("j").await, "0/3 nodes are available").await;
    let unschedulable = ("False".to_owned(), "Unschedulable".to_owned());
    assert_eq!(pod_condition(&pod, "PodScheduled"), Some(unschedulable));

    let pod = node.waiting(&pod, "judge", "ImagePullBackOff", "no such image").await;
    assert_eq!(pod_condition(&pod, "PodScheduled").unwrap().0, "True");
    assert_eq!(state(&pod, "judge")["waiting"]["reason"], "ImagePullBackOff");
    assert_eq!(state(&pod, "trainer")["waiting"]["reason"], "PodInitializing");

    let pod = node.waiting(&pod, "trainer", "CreateContainerConfigError", "secret \"store\" not found").await;
    assert!(state(&pod, "judge").get("running").is_some());
    assert_eq!(state(&pod, "trainer")["waiting"]["message"], "secret \"store\" not found");
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"));
}

#[tokio::test]
async fn a_child_goes_when_its_owner_is_deleted_and_no_other() {
    let namespace = Cluster::shared().namespace("owner").await;
    let datasets: Api<PreferenceDataset> = namespace.api().await;
    let maps: Api<ConfigMap> = namespace.api().await;
    let dataset: PreferenceDataset = serde_json::from_value(chain::dataset("owner", &chain::words())).unwrap();
    let owner = datasets.create(&PostParams::default(), &dataset).await.unwrap();
    for (name, owners) in [("child", owner.controller_owner_ref(&())), ("stranger", None)] {
        let owner_references = Some(owners.into_iter().collect());
        let metadata = ObjectMeta { name: Some(name.to_owned()), owner_references, ..ObjectMeta::default() };
        maps.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await.unwrap();
    }
    datasets.delete("owner", &DeleteParams::background()).await.unwrap();
    until("the child is gone", async || maps.get_opt("child").await.unwrap().is_none().then_some(())).await;
    assert!(maps.get_opt("stranger").await.unwrap().is_some());
}

/// What the API server makes of a token.
async fn review(client: &Client, token: &str, audience: &str) -> TokenReviewStatus {
    let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![audience.to_owned()]) };
    let review = TokenReview { spec, ..TokenReview::default() };
    Api::all(client.clone()).create(&PostParams::default(), &review).await.unwrap().status.unwrap()
}

#[tokio::test]
async fn a_pods_token_is_good_for_its_audience_alone_and_dies_with_the_pod() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("token").await;
    let node = namespace.node().await;
    let client = cluster.client().await;
    let jobs = create(&namespace, &job("j")).await;
    let pod = node.run(&node.pod("j").await).await;
    let token = namespace.pod_token(&pod, "progress").await;

    let status = review(&client, &token, "progress").await;
    assert_eq!((status.authenticated, status.audiences), (Some(true), Some(vec!["progress".to_owned()])));
    let user = status.user.unwrap();
    assert_eq!(user.username, Some(format!("system:serviceaccount:{}:default", namespace.name())));
    assert_eq!(user.extra.unwrap()["authentication.kubernetes.io/pod-uid"], [pod.uid().unwrap()]);
    assert_ne!(review(&client, &token, "another").await.authenticated, Some(true));

    jobs.delete("j", &DeleteParams::background()).await.unwrap();
    until("the pod is to be deleted", async || {
        node.pods("j").await.into_iter().find(|p| p.metadata.deletion_timestamp.is_some())
    })
    .await;
    node.remove(&pod).await;
    // The API server remembers a good token for 10 s.
    until("the token is refused", async || {
        (review(&client, &token, "progress").await.authenticated != Some(true)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_service_account_may_do_what_its_role_says_and_no_more() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("role").await;
    let metadata = ObjectMeta { name: Some("worker".to_owned()), ..ObjectMeta::default() };
    let account = ServiceAccount { metadata, ..ServiceAccount::default() };
    namespace.api().await.create(&PostParams::default(), &account).await.unwrap();
    let client = namespace.client_for("worker").await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace.name());
    let refused = maps.list(&ListParams::default()).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.is_forbidden()));

    let within = ["-n", namespace.name()];
    let account = format!("--serviceaccount={}:worker", namespace.name());
    for command in [
        &["create", "role", "reader", "--verb=list", "--resource=configmaps"][..],
        &["create", "rolebinding", "reader", "--role=reader", &account][..],
    ] {
        let output = cluster.kubectl(&[command, &within].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    until("the role is known", async || maps.list(&ListParams::default()).await.ok()).await;
    let pods: Api<Pod> = Api::namespaced(client, namespace.name());
    assert!(pods.list(&ListParams::default()).await.is_err());
}

#[tokio::test]
async fn the_audit_log_counts_each_write_once() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("audit").await;
    let maps: Api<ConfigMap> = namespace.api().await;
    let within = |verb, resource| Requests { verb, resource, ..Requests::default() };
    for n in ["0", "1", "2"] {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"n": n}});
        maps.patch("a", &PatchParams::apply("test"), &Patch::Apply(map)).await.unwrap();
    }
    maps.get("a").await.unwrap();
    until("three writes are in the log", async || (namespace.count(within("patch", "configmaps")) == 3).then_some(()))
        .await;
    assert_eq!(namespace.count(within("get", "configmaps")), 1);
    assert_eq!(namespace.count(within("patch", "secrets")), 0);
    let lines = namespace.audit();
    let writes: Vec<_> = lines.iter().filter(|l| l.is_write() && l.object_ref.name == "a").collect();
    assert_eq!(writes.len(), 3);
    assert!(writes.iter().all(|l| l.user.username == "admin"));

    let output = cluster.kubectl(&["create", "configmap", "b", "-n", namespace.name()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let by_kubectl = Requests { user_agent: "kubectl/", ..within("create", "configmaps") };
    until("kubectl's write is in the log", async || (namespace.count(by_kubectl) == 1).then_some(())).await;
    assert_eq!(namespace.count(Requests { user_agent: "kubectl/", ..within("patch", "configmaps") }), 0);
    assert_eq!(writes.iter().map(|l| l.response_status.code).collect::<Vec<_>>(), [201, 200, 200]);
}

#[tokio::test]
async fn another_api_server_serves_what_the_first_one_wrote() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("second").await;
    let maps: Api<ConfigMap> = namespace.api().await;
    let metadata = ObjectMeta { name: Some("shared".to_owned()), ..ObjectMeta::default() };
    let made = maps.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await.unwrap();
    let second = cluster.start_another_api_server();
    let maps: Api<ConfigMap> = Api::namespaced(second.client().await, namespace.name());
    assert_eq!(maps.get("shared").await.unwrap().uid(), made.uid());
    assert!(second.audit(namespace.name()).iter().any(|line| line.object_ref.name == "shared"));
    let pid = second.pid();
    assert!(is_alive(pid));
    drop(second);
    until("it ended", async || (!is_alive(pid)).then_some(())).await;
}

/// Set in the process that is to be killed.
const VICTIM: &str = "PLUMBLINE_TEST_VICTIM";

#[test]
fn a_killed_test_leaves_no_process_and_no_file_behind() {
    if std::env::var_os(VICTIM).is_some() {
        let cluster = Cluster::shared();
        let found = json!([cluster.pids(), cluster.folder()]);
        println!("\n{VICTIM} {found}");
        std::thread::sleep(Duration::from_mins(10));
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "cluster_kit::a_killed_test_leaves_no_process_and_no_file_behind"])
        .env(VICTIM, "")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map(Result::unwrap);
    let found = lines.find_map(|line| line.strip_prefix(VICTIM).map(str::to_owned));
    let (pids, folder): ([i32; 3], String) = serde_json::from_str(&found.expect("a cluster")).unwrap();
    assert!(pids.iter().all(|pid| is_alive(*pid)) && Path::new(&folder).exists());
    victim.kill().unwrap();
    victim.wait().unwrap();
    for _ in 0..1000 {
        if !pids.iter().any(|pid| is_alive(*pid)) && !Path::new(&folder).exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("10 s after the test: {:?} in {folder}", pids.map(is_alive));
}
