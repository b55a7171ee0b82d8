//! Progress of pods against a real API server, real Jobs and real tokens. What must never be seen: progress on a resource
//! that the pod does not work for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::authorization::v1::{SelfSubjectRulesReview, SelfSubjectRulesReviewSpec};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use plumbline_crds::reward_model::RewardModel;
use plumbline_crds::{GROUP, Kind};
use plumbline_operator::cluster::dependents::Id;
use plumbline_operator::cluster::leader::{Election, Timing};
use plumbline_operator::cluster::metrics::{Metrics, Snapshot};
use plumbline_operator::cluster::objects::AUDIENCE;
use plumbline_operator::cluster::progress::Latest;
use plumbline_operator::cluster::server::{MAX_PROGRESS_CONNECTIONS, ProgressApi, Triggers, Verifier, serve};
use plumbline_testkit::cluster::{Cluster, Namespace, until};
use plumbline_testkit::operator::{Operator, Scene};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const RUNNER: &str = "runner";

#[tokio::test]
async fn a_pod_speaks_for_the_resource_that_owns_its_job_whatever_its_body_claims() {
    let mut site = Site::start("speaks").await;
    let (own, other) = (site.resource("own").await, site.resource("other").await);
    let job = site.job("own-run", Some(&own)).await;
    let pod = site.space.node().await.pod("own-run").await;
    let token = site.space.pod_token(&pod, AUDIENCE).await;
    let mut body = report(27);
    for (field, value) in [("name", "other"), ("uid", other.uid().unwrap().as_str()), ("kind", "PolicyTuning")] {
        body[field] = value.into();
        body["progress"][field] = value.into();
    }
    assert_eq!(site.post(Some(&token), &body).await, 202);
    let asked = site.reports.try_recv().unwrap();
    let (uid, job) = (own.uid().unwrap(), job.uid().unwrap());
    let namespace = site.space.name().to_owned();
    assert_eq!(asked, Id { namespace, kind: Kind::RewardModel, name: "own".into() });
    let now = Instant::now();
    assert_eq!(site.latest.due(&other.uid().unwrap(), &job, now), None, "the other says nothing");
    let due = site.latest.due(&uid, &job, now).unwrap();
    assert_eq!(due.progress.percent, 27);
    site.latest.written(&uid, &due, now);

    assert_eq!(site.post(Some(&token), &report(28)).await, 202);
    assert!(site.reports.try_recv().is_err(), "the status was written a moment ago");
    assert_eq!(site.counted("accepted"), 2);
    let reviews = site.asked("create", "tokenreviews");
    assert_eq!(reviews, 1, "a token that is known is not reviewed again");
}

#[tokio::test]
async fn where_no_progress_is_wanted_nothing_listens_for_it() {
    let scene = Scene::new("silent").await;
    let own = ["operator", "--watch-namespace", scene.namespace.name(), "--lease-namespace", scene.namespace.name()];
    let addresses = ["--metrics-address", "127.0.0.1:0", "--progress-address", "127.0.0.1:0"];
    let operator = Operator::run(&scene.account().await, &[&own[..], &addresses].concat());
    until("it leads", async || operator.get("/metrics").await.1.contains("\nplumbline_leader 1\n").then_some(())).await;
    assert!(!operator.log().contains("\"progress\""), "{}", operator.log());
}

#[tokio::test]
async fn what_is_no_token_of_a_run_s_pod_is_refused_and_counted() {
    let mut site = Site::start("forged").await;
    let own = site.resource("own").await;
    site.job("own-run", Some(&own)).await;
    site.job("stray", None::<&ConfigMap>).await;
    let config: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "own"}})).unwrap();
    let config = site.space.api().await.create(&PostParams::default(), &config).await.unwrap();
    site.job("foreign", Some(&config)).await;
    let node = site.space.node().await;
    let (pod, stray, foreign) = (node.pod("own-run").await, node.pod("stray").await, node.pod("foreign").await);
    let pods: Api<Pod> = site.space.api().await;
    let alone = pods.create(&PostParams::default(), &pod_of("alone")).await.unwrap();
    let gone = pods.create(&PostParams::default(), &pod_of("gone")).await.unwrap();
    let token_of_gone = site.space.pod_token(&gone, AUDIENCE).await;
    pods.delete("gone", &DeleteParams::default().grace_period(0)).await.unwrap();

    let wrong = site.space.pod_token(&pod, "somebody-else").await;
    let podless = site.space.token(RUNNER, Some(AUDIENCE)).await;
    let stray = site.space.pod_token(&stray, AUDIENCE).await;
    let foreign = site.space.pod_token(&foreign, AUDIENCE).await;
    let alone = site.space.pod_token(&alone, AUDIENCE).await;
    let mut tampered = site.space.pod_token(&pod, AUDIENCE).await;
    tampered.truncate(tampered.len() - 8);
    tampered.push_str("AAAAAAAA");
    let refused: [(&str, Option<&str>, u16, &str); 9] = [
        ("none", None, 401, "unauthenticated"),
        ("garbage", Some("garbage"), 401, "unauthenticated"),
        ("another signature", Some(&tampered), 401, "unauthenticated"),
        ("a pod that is gone", Some(&token_of_gone), 401, "unauthenticated"),
        ("another audience", Some(&wrong), 401, "wrong_audience"),
        ("bound to no pod", Some(&podless), 403, "not_owned"),
        ("a pod without a Job", Some(&alone), 403, "not_owned"),
        ("a Job of nobody's", Some(&stray), 403, "not_owned"),
        ("a Job of something else", Some(&foreign), 403, "not_owned"),
    ];
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, token, code, outcome) in refused {
        assert_eq!(site.post(token, &report(50)).await, code, "{what}");
        *counts.entry(outcome).or_default() += 1;
        assert_eq!(site.counted(outcome), counts[outcome], "{what}");
    }
    assert_eq!(site.counted("accepted"), 0);
    assert!(site.reports.try_recv().is_err(), "nothing is reconciled for it");
    assert_eq!(site.latest.due(&own.uid().unwrap(), "", Instant::now()), None);
}

#[tokio::test]
async fn a_report_that_a_status_cannot_hold_is_refused_and_counted() {
    let mut site = Site::start("broken").await;
    let own = site.resource("own").await;
    site.job("own-run", Some(&own)).await;
    let pod = site.space.node().await.pod("own-run").await;
    let token = site.space.pod_token(&pod, AUDIENCE).await;
    assert_eq!(site.post(Some(&token), &report(101)).await, 400);
    assert_eq!(site.post(Some(&token), &json!("no report")).await, 400);
    assert_eq!(site.counted("malformed"), 2);
    let mut large = report(1);
    large["padding"] = "x".repeat(64 * 1024).into();
    assert_eq!(site.post(Some(&token), &large).await, 413);
    assert_eq!(site.counted("too_large"), 1);
    assert!(site.reports.try_recv().is_err());
}

#[tokio::test]
async fn a_flood_of_unknown_tokens_neither_reaches_the_api_server_nor_stops_a_known_one() {
    let site = Site::start("flood").await;
    let own = site.resource("own").await;
    site.job("own-run", Some(&own)).await;
    let pod = site.space.node().await.pod("own-run").await;
    let token = site.space.pod_token(&pod, AUDIENCE).await;
    assert_eq!(site.post(Some(&token), &report(1)).await, 202);
    let start = Instant::now();
    let mut limited = 0;
    for i in 0..300 {
        match site.post(Some(&format!("garbage-{i}")), &report(1)).await {
            401 => {}
            429 => limited += 1,
            other => panic!("{other}"),
        }
    }
    // A burst of 20, then 5 a second.
    let most = 20 + 5 * (start.elapsed().as_secs() + 1);
    let reviews = site.asked("create", "tokenreviews") as u64;
    assert!(reviews <= most, "{reviews} reviews in {:?}", start.elapsed());
    assert_eq!(reviews + limited, 301, "what was not turned away was reviewed, as was the pod's own");
    assert_eq!(site.counted("rate_limited"), limited);
    assert_eq!(site.post(Some(&token), &report(2)).await, 202, "the pod is still heard");
}

#[tokio::test]
async fn only_the_leader_takes_reports() {
    let mut site = Site::start("follower").await;
    let own = site.resource("own").await;
    site.job("own-run", Some(&own)).await;
    let pod = site.space.node().await.pod("own-run").await;
    let token = site.space.pod_token(&pod, AUDIENCE).await;
    site.election.release().await;
    let request = reqwest::Client::new().post(&site.url).json(&report(1)).bearer_auth(&token);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["connection"], "close", "on this one the next report would come here again");
    assert_eq!(site.counted("unavailable"), 1);
    assert!(site.reports.try_recv().is_err());
}

#[tokio::test]
async fn the_account_of_a_run_may_do_nothing_on_the_api_server() {
    let site = Site::start("powerless").await;
    let client = site.space.client_for(RUNNER).await;
    let namespace = site.space.name();
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let models: Api<RewardModel> = Api::namespaced(client.clone(), namespace);
    let forbidden = |error: kube::Error| matches!(error, kube::Error::Api(status) if status.is_forbidden());
    let list = ListParams::default();
    assert!(forbidden(pods.list(&list).await.unwrap_err()));
    assert!(forbidden(jobs.list(&list).await.unwrap_err()));
    assert!(forbidden(models.list(&list).await.unwrap_err()));
    let spec = SelfSubjectRulesReviewSpec { namespace: Some(namespace.to_owned()) };
    let review = SelfSubjectRulesReview { spec, ..SelfSubjectRulesReview::default() };
    let review = Api::all(client).create(&PostParams::default(), &review).await.unwrap();
    for rule in review.status.unwrap().resource_rules {
        let resources = rule.resources.unwrap_or_default();
        let about_itself = resources.iter().all(|r| r.starts_with("selfsubject"));
        assert!(about_itself, "it may {:?} {resources:?}", rule.verbs);
    }
}

/// The server of a leader, with no permissions but those that it says it needs.
struct Site {
    space: Namespace,
    url: String,
    latest: Arc<Latest>,
    metrics: Arc<Metrics>,
    reports: mpsc::Receiver<Id>,
    election: Election,
}

impl Site {
    async fn start(prefix: &str) -> Self {
        let cluster = Cluster::shared();
        let space = cluster.namespace(prefix).await;
        let admin = cluster.client().await;
        account(&space, RUNNER).await;
        account(&space, "operator").await;
        permit(&admin, &space).await;
        // It need not be renewed within a test.
        let timing =
            Timing { lease: Duration::from_mins(20), renew_deadline: Duration::from_mins(10), ..Timing::default() };
        let mut election = Election::new(admin, space.name(), "plumbline", "test", timing);
        election.acquire().await;
        let (triggers, mut queues) = Triggers::new();
        let (latest, metrics) = (Arc::new(Latest::default()), Arc::new(Metrics::new().unwrap()));
        let api = ProgressApi {
            verifier: Arc::new(Verifier::new(space.client_for("operator").await)),
            latest: latest.clone(),
            triggers,
            metrics: metrics.clone(),
            claim: election.claim(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1/progress", listener.local_addr().unwrap());
        tokio::spawn(serve(MAX_PROGRESS_CONNECTIONS, listener, api.router(), std::future::pending()));
        let reports = queues.remove(&Kind::RewardModel).unwrap();
        Self { space, url, latest, metrics, reports, election }
    }

    async fn post(&self, token: Option<&str>, body: &Value) -> u16 {
        let request = reqwest::Client::new().post(&self.url).json(body);
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap().status().as_u16()
    }

    fn counted(&self, outcome: &str) -> u64 {
        let line = format!("plumbline_progress_reports_total{{outcome=\"{outcome}\"}} ");
        let text = self.metrics.text(&Snapshot::default()).unwrap();
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |n| n.parse().unwrap())
    }

    /// Requests of this operator's account.
    fn asked(&self, verb: &str, resource: &str) -> usize {
        let user = format!("system:serviceaccount:{}:operator", self.space.name());
        let of_operator = |line: &&Arc<plumbline_testkit::cluster::AuditLine>| {
            line.user.username == user && line.verb == verb && line.object_ref.resource == resource
        };
        self.space.audit().iter().filter(of_operator).count()
    }

    async fn resource(&self, name: &str) -> RewardModel {
        let spec = json!({"datasetRef": {"name": "data"}, "baseModel": {"uri": "pvc://models/base"}});
        let model = RewardModel::new(name, serde_json::from_value(spec).unwrap());
        self.space.api().await.create(&PostParams::default(), &model).await.unwrap()
    }

    async fn job(&self, name: &str, owner: Option<&impl kube::Resource<DynamicType = ()>>) -> Job {
        let pod = serde_json::to_value(pod_of("x").spec.unwrap()).unwrap();
        let mut job: Job = serde_json::from_value(json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"template": {"spec": pod}},
        }))
        .unwrap();
        job.metadata.owner_references = owner.and_then(|o| o.controller_owner_ref(&())).map(|o| vec![o]);
        self.space.api().await.create(&PostParams::default(), &job).await.unwrap()
    }
}

async fn account(space: &Namespace, name: &str) {
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    space.api().await.create(&PostParams::default(), &account).await.unwrap();
}

async fn permit(admin: &Client, space: &Namespace) {
    let name = format!("progress-{}", space.name());
    let role: ClusterRole = serde_json::from_value(json!({"metadata": {"name": name}, "rules": [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]},
        {"apiGroups": [GROUP], "resources": Kind::ALL.map(Kind::plural), "verbs": ["get"]},
    ]}))
    .unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": space.name()}],
    }))
    .unwrap();
    Api::all(admin.clone()).create(&PostParams::default(), &role).await.unwrap();
    Api::all(admin.clone()).create(&PostParams::default(), &binding).await.unwrap();
}

fn pod_of(name: &str) -> Pod {
    let container = json!({"name": "trainer", "image": "none"});
    let spec = json!({"serviceAccountName": RUNNER, "restartPolicy": "Never", "containers": [container]});
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
}

fn report(percent: i64) -> Value {
    json!({
        "progress": {"stage": "Training", "completed": percent, "total": 100, "percent": percent,
            "lastUpdateTime": "2026-01-01T00:00:00Z"},
        "metrics": [{"name": "loss", "value": "0.5"}],
    })
}
