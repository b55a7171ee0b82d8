//! How the operator behaves towards the API server and towards another operator: it is quiet when nothing changes, and
//! never two act at once.

use std::time::{Duration, Instant};

use futures::StreamExt;
use plumbline_crds::Kind::{self, PolicyTuning, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::Reason;
use plumbline_operator::cluster::objects::AUDIENCE;
use plumbline_testkit::cluster::{AuditLine, until};
use plumbline_testkit::operator::{Operator, Scene, alone, resource};
use serde_json::json;

const FINISHED: usize = 200;
const RUNNING: usize = 20;
/// Resources that are made at a time.
const AT_ONCE: usize = 16;
/// Every resource on which something happens is reconciled again after a second, so that a write without a change would show.
const RESYNC: [&str; 2] = ["--resync-seconds", "1"];
/// Between two reports of progress.
const EVERY: Duration = Duration::from_millis(500);
/// How often each of them is reconciled while nothing may be written.
const RESYNCS: usize = 12;

fn reward(name: &str) -> serde_json::Value {
    resource(RewardModel, name, &alone(RewardModel))
}

/// Writes of the operator so far: not leases, and not reviews of tokens, which change nothing.
fn writes(scene: &Scene) -> Vec<String> {
    let ours = format!("system:serviceaccount:{}:plumbline-operator", scene.namespace.name());
    let counts = |l: &AuditLine| l.is_write() && !["leases", "tokenreviews"].contains(&l.object_ref.resource.as_str());
    let lines = scene.namespace.audit().into_iter().filter(|l| l.user.username == ours && counts(l));
    lines.map(|l| format!("{} {} {}", l.verb, l.object_ref.resource, l.object_ref.name)).collect()
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes() {
    let scene = Scene::new("quiet").await;
    let operator = Operator::start(&scene.namespace, &scene.account().await, &RESYNC);
    let names: Vec<String> = (0..FINISHED + RUNNING).map(|i| format!("r{i}")).collect();
    let (running, finished) = names.split_at(RUNNING);
    let start = async |name: &str| {
        scene.apply(&reward(name)).await;
        let pod = scene.pod(RewardModel, name).await;
        scene.node.run(&pod).await;
    };
    futures::stream::iter(finished)
        .for_each_concurrent(AT_ONCE, async |name| {
            start(name).await;
            scene.succeed(RewardModel, name, "sha256:x").await;
            scene.until_reason(RewardModel, name, Reason::Completed).await;
        })
        .await;
    futures::stream::iter(running).for_each_concurrent(AT_ONCE, async |name| start(name).await).await;
    for name in running {
        scene.until_reason(RewardModel, name, Reason::Running).await;
    }
    until_resynced(&operator, 2 * RUNNING).await;
    let before = writes(&scene);
    until_resynced(&operator, RESYNCS * RUNNING).await;
    assert_eq!(writes(&scene), before, "with {FINISHED} finished and {RUNNING} running resources");
}

/// How many reconciles of reward models an operator has ended.
async fn reconciles(operator: &Operator) -> usize {
    let metrics = operator.get("/metrics").await.1;
    let of_kind =
        |line: &&str| line.starts_with("plumbline_reconcile_") && line.contains("_count{kind=\"RewardModel\"");
    let line = metrics.lines().find(of_kind);
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Waits until an operator has ended so many more reconciles of reward models.
pub(crate) async fn until_resynced(operator: &Operator, many: usize) {
    let before = reconciles(operator).await;
    until(&format!("{many} more reconciles"), async || (reconciles(operator).await >= before + many).then_some(()))
        .await;
}

#[tokio::test]
async fn progress_is_written_at_most_every_fifteen_seconds() {
    let scene = Scene::new("rate").await;
    let operator = Operator::start(&scene.namespace, &scene.account().await, &RESYNC);
    scene.apply(&reward("r")).await;
    let pod = scene.pod(RewardModel, "r").await;
    scene.node.run(&pod).await;
    scene.until_reason(RewardModel, "r", Reason::Running).await;
    let url = format!("http://{}/v1/progress", operator.address("progress").await);
    let token = scene.namespace.pod_token(&pod, AUDIENCE).await;
    let client = reqwest::Client::new();
    let shown = async || scene.status(RewardModel, "r").await.progress.map_or(0, |progress| progress.percent);
    // When the status was first seen to have another report, and how much had been written by then.
    let mut seen: Vec<(Instant, usize)> = Vec::new();
    let (mut percent, mut last) = (0, shown().await);
    while seen.len() < 3 {
        percent += 1;
        assert!(percent <= 100, "of {percent} reports the status had {}", seen.len());
        let report = json!({"progress": {"stage": "Training", "completed": percent, "total": 100, "percent": percent, "lastUpdateTime": "2026-01-01T00:00:00Z"}});
        client.post(&url).bearer_auth(&token).json(&report).send().await.unwrap();
        tokio::time::sleep(EVERY).await;
        let now = shown().await;
        if now != last {
            seen.push((Instant::now(), writes(&scene).len()));
            last = now;
        }
    }
    for gap in seen.windows(2).map(|pair| pair[1].0 - pair[0].0) {
        // It is seen up to a report later than it is written.
        assert!(gap + 2 * EVERY > Duration::from_secs(15), "two reports are written within {gap:?}");
    }
    // A write is in the log a moment after it is seen, so the first of three may be counted.
    let written = until("the writes are in the log", async || {
        let written = writes(&scene).len() - seen[0].1;
        (written >= 2).then_some(written)
    })
    .await;
    assert!(written <= 3, "{written} writes of {percent} reports");
}

/// Whether an operator says that it leads.
async fn leads(operator: &Operator) -> bool {
    operator.get("/metrics").await.1.lines().any(|l| l == "plumbline_leader 1")
}

#[tokio::test]
async fn of_two_operators_one_acts_and_the_other_takes_over_what_runs() {
    let scene = Scene::new("two").await;
    let account = scene.account().await;
    let mut first = Operator::start(&scene.namespace, &account, &["--lease-duration-seconds", "3"]);
    until("the first leads", async || leads(&first).await.then_some(())).await;
    let second = Operator::start(&scene.namespace, &account, &["--lease-duration-seconds", "3"]);
    assert_eq!(first.get("/readyz").await.0, 200);
    assert_eq!(second.get("/readyz").await.0, 503, "only the one that acts says that it is ready to");
    for kind in [PolicyTuning, RewardModel, PreferenceDataset] {
        scene.apply(&resource(kind, "r", &json!({}))).await;
    }
    scene.succeed(PreferenceDataset, "r", "sha256:d").await;
    let pod = scene.pod(RewardModel, "r").await;
    scene.node.run(&pod).await;
    scene.until_reason(RewardModel, "r", Reason::Running).await;
    assert!(!leads(&second).await);
    first.kill();
    until("the second leads", async || leads(&second).await.then_some(())).await;
    scene.succeed(RewardModel, "r", "sha256:r").await;
    scene.succeed(PolicyTuning, "r", "sha256:p").await;
    for kind in Kind::ALL {
        scene.until_reason(kind, "r", Reason::Completed).await;
    }
    assert_eq!(scene.jobs_made(), 3, "what ran was adopted, nothing was started twice");
}

#[tokio::test]
async fn an_operator_that_is_asked_to_stop_hands_over_at_once() {
    let scene = Scene::new("stop").await;
    let account = scene.account().await;
    // The test does not wait for this lease to expire.
    let lease = ["--lease-duration-seconds", "3600"];
    let mut first = Operator::start(&scene.namespace, &account, &lease);
    until("the first leads", async || leads(&first).await.then_some(())).await;
    assert!(first.stop().success());
    let second = Operator::start(&scene.namespace, &account, &lease);
    until("the second leads, as the lease was given back", async || leads(&second).await.then_some(())).await;
}
