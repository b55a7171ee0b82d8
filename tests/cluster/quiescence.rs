//! How the operator behaves towards the API server and towards another operator: it is quiet when nothing changes, and
//! never two act at once.

use std::time::{Duration, Instant};

use futures::StreamExt;
use plumbline_crds::Kind::{self, PolicyTuning, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::Reason;
use plumbline_operator::cluster::build::AUDIENCE;
use plumbline_testkit::cluster::{AuditLine, until};
use plumbline_testkit::operator::{Operator, Scene, alone, resource};
use serde_json::json;

const FINISHED: usize = 200;
const RUNNING: usize = 20;
const QUIET: Duration = Duration::from_mins(1);

fn reward(name: &str) -> serde_json::Value {
    resource(RewardModel, name, &alone(RewardModel))
}

/// Writes of the operator so far: not leases, and not reviews of tokens, which change nothing.
fn writes(scene: &Scene) -> Vec<String> {
    let ours = format!("system:serviceaccount:{}:plumbline-operator", scene.namespace.name());
    let counts = |l: &AuditLine| l.is_write() && !["leases", "tokenreviews"].contains(&l.object_ref.resource.as_str());
    let lines = scene.cluster.audit().into_iter().filter(|l| l.user.username == ours && counts(l));
    lines.map(|l| format!("{} {} {}", l.verb, l.object_ref.resource, l.object_ref.name)).collect()
}

#[tokio::test]
async fn nothing_is_written_while_nothing_changes() {
    let scene = Scene::new("quiet").await;
    // Looked at over and over, so that a write without a change would show.
    let operator = Operator::start(&scene.namespace, &scene.account().await, &["--resync-seconds", "5"]);
    let names: Vec<String> = (0..FINISHED + RUNNING).map(|i| format!("r{i}")).collect();
    futures::stream::iter(&names)
        .for_each_concurrent(16, |name| async {
            scene.apply(&reward(name)).await;
            let pod = scene.pod(RewardModel, name).await;
            scene.node.run(&pod).await;
        })
        .await;
    futures::stream::iter(&names[RUNNING..])
        .for_each_concurrent(16, |name| async {
            scene.succeed(RewardModel, name, "sha256:x").await;
            scene.until_reason(RewardModel, name, Reason::Completed).await;
        })
        .await;
    for name in &names[..RUNNING] {
        scene.until_reason(RewardModel, name, Reason::Running).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = writes(&scene);
    tokio::time::sleep(QUIET).await;
    assert_eq!(writes(&scene), before, "in {QUIET:?} with {FINISHED} finished and {RUNNING} running resources");
    drop(operator);
}

#[tokio::test]
async fn progress_is_written_at_most_every_fifteen_seconds() {
    let scene = Scene::new("rate").await;
    let operator = scene.operator().await;
    scene.apply(&reward("r")).await;
    let pod = scene.pod(RewardModel, "r").await;
    scene.node.run(&pod).await;
    scene.until_reason(RewardModel, "r", Reason::Running).await;
    let url = format!("http://{}/v1/progress", operator.address("pods").await);
    let token = scene.namespace.pod_token(&pod, AUDIENCE).await;
    let client = reqwest::Client::new();
    // A request is written down a moment after its answer.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (begun, before) = (Instant::now(), writes(&scene));
    let mut percent = 0;
    while begun.elapsed() < Duration::from_secs(35) {
        percent += 1;
        let report = json!({"progress": {"stage": "Training", "completed": percent, "total": 100, "percent": percent, "lastUpdateTime": "2026-01-01T00:00:00Z"}});
        client.post(&url).bearer_auth(&token).json(&report).send().await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let written = &writes(&scene)[before.len()..];
    assert!((2..=3).contains(&written.len()), "{written:?} of {percent} reports in 35 s");
    let status = scene.status(RewardModel, "r").await;
    assert!(status.progress.unwrap().percent > 1);
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
    let begun = Instant::now();
    until("the second leads", async || leads(&second).await.then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(3 + 3), "hand-over took {:?}", begun.elapsed());
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
    let mut first = Operator::start(&scene.namespace, &account, &["--lease-duration-seconds", "60"]);
    until("the first leads", async || leads(&first).await.then_some(())).await;
    assert!(first.stop().success());
    let second = Operator::start(&scene.namespace, &account, &["--lease-duration-seconds", "60"]);
    let begun = Instant::now();
    until("the second leads", async || leads(&second).await.then_some(())).await;
    assert!(begun.elapsed() < Duration::from_secs(20), "the lease was given back");
}
