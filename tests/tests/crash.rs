//! The operator is killed after each of its writes in turn (Sun et al., 2022, "intermediate states"). Whatever it was doing,
//! the next one must end in the same state, with the same number of Jobs ever made.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures::StreamExt;

use plumbline_crds::Kind::{self, PolicyTuning, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::Reason;
use plumbline_tests::cluster::Exit;
use plumbline_tests::operator::{Operator, Scene, resource};
use plumbline_tests::proxy::{Fault, Proxy};
use serde_json::{Value, json};

/// It looks again this often without being told.
const LOOKS: [&str; 2] = ["--look-again-seconds", "2"];
/// A scenario takes a few seconds. One that takes this long does not end.
const ENDLESS: Duration = Duration::from_secs(40);
/// Operators at a time: each waits most of the time.
const AT_ONCE: usize = 4;

type Scenario = for<'a> fn(&'a Scene) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// The three resources, one after the other.
fn chain(scene: &Scene) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async {
        for kind in [PolicyTuning, RewardModel, PreferenceDataset] {
            scene.apply(&resource(kind, "r", &json!({}))).await;
        }
        for (kind, digest) in [(PreferenceDataset, "sha256:d"), (RewardModel, "sha256:r"), (PolicyTuning, "sha256:p")] {
            scene.succeed(kind, "r", digest).await;
            scene.until_reason(kind, "r", Reason::Completed).await;
        }
    })
}

/// Suspended in the middle, resumed, and made; then the spec is changed, and made again.
fn suspended_and_changed(scene: &Scene) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async {
        for kind in Kind::ALL {
            scene.apply(&resource(kind, "r", &alone(kind))).await;
            let pod = scene.pod(kind, "r").await;
            scene.node.run(&pod).await;
            let job = scene.job(kind, "r").await;
            scene.change(kind, "r", json!({"suspend": true})).await;
            scene.until_reason(kind, "r", Reason::Suspended).await;
            scene.let_end(&pod).await;
            scene.until_gone(&job).await;
            scene.change(kind, "r", json!({"suspend": false})).await;
            scene.succeed(kind, "r", "sha256:1").await;
            scene.until_reason(kind, "r", Reason::Completed).await;
            scene.change(kind, "r", json!({"output": {"uri": "pvc://results/other"}})).await;
            scene.succeed(kind, "r", "sha256:2").await;
            scene.until_reason(kind, "r", Reason::Completed).await;
        }
    })
}

/// Fails for good, and is deleted while another runs.
fn failed_and_deleted(scene: &Scene) -> Pin<Box<dyn Future<Output = ()> + '_>> {
    Box::pin(async {
        for kind in Kind::ALL {
            scene.apply(&resource(kind, "r", &alone(kind))).await;
            let pod = scene.pod(kind, "r").await;
            scene.node.run(&pod).await;
            scene.node.end(&pod, Exit { code: 3, reason: "Error", message: "" }).await;
            scene.until_reason(kind, "r", Reason::DataInvalid).await;
            scene.apply(&resource(kind, "s", &alone(kind))).await;
            let job = scene.job(kind, "s").await;
            scene.node.pod(&job).await;
            scene.delete(kind, "s").await;
            scene.until_gone(&job).await;
        }
    })
}

/// What a resource of a kind is made from when it stands alone.
fn alone(kind: Kind) -> Value {
    match kind {
        PreferenceDataset => json!({}),
        RewardModel => json!({"datasetRef": null, "dataset": {"uri": "pvc://models/pairs.jsonl"}}),
        PolicyTuning => json!({
            "method": "DPO", "rewardModelRef": null, "prompts": null, "dataset": {"uri": "pvc://models/pairs.jsonl"}
        }),
    }
}

/// How a scenario ended.
#[derive(Debug, PartialEq)]
struct Outcome {
    state: Value,
    jobs_made: usize,
}

/// Plays a scenario while the operator is killed after the writes of these numbers, and started again at once.
async fn play(name: &str, scenario: Scenario, fatal: BTreeSet<usize>, fault: Option<Fault>) -> (Outcome, Vec<String>) {
    let scene = Scene::new(name).await;
    let proxy = Proxy::start(&scene.account().await, fatal, fault).await;
    let mut operator = Operator::start(&scene.namespace, proxy.kubeconfig(), &LOOKS);
    let restarts = async {
        loop {
            proxy.fatal_write().await;
            operator.kill();
            proxy.revive();
            operator = Operator::start(&scene.namespace, proxy.kubeconfig(), &LOOKS);
        }
    };
    tokio::select! {
        () = scenario(&scene) => {}
        () = restarts => {}
    }
    // What is still to be written after the last thing that people see.
    tokio::time::sleep(Duration::from_millis(700)).await;
    (Outcome { state: scene.state().await, jobs_made: scene.jobs_made() }, proxy.writes())
}

/// The objects that differ, as they are and as they should be.
fn differences(found: &Value, expected: &Value) -> Vec<String> {
    let names: BTreeSet<&String> = [found, expected].into_iter().flat_map(|v| v.as_object().unwrap().keys()).collect();
    let differs = names.into_iter().filter(|name| found[*name] != expected[*name]);
    differs.map(|name| format!("{name}: {} instead of {}", found[name], expected[name])).collect()
}

async fn killed_after_every_write(name: &str, scenario: Scenario) {
    let (expected, writes) = play(name, scenario, BTreeSet::new(), None).await;
    assert!(writes.len() > 10, "{writes:#?}");
    let killed =
        (1..=writes.len()).map(|number| async move { (number, play(name, scenario, [number].into(), None).await.0) });
    let mut outcomes = futures::stream::iter(killed).buffer_unordered(AT_ONCE);
    while let Some((number, outcome)) = outcomes.next().await {
        let differs = differences(&outcome.state, &expected.state);
        assert!(
            differs.is_empty() && outcome.jobs_made == expected.jobs_made,
            "killed after write {number}, {}: {} Jobs were made, not {}; {differs:#?}",
            writes[number - 1],
            outcome.jobs_made,
            expected.jobs_made,
        );
    }
    println!("{name}: {} writes, killed after each", writes.len());
}

#[tokio::test]
async fn the_chain_ends_the_same_wherever_the_operator_is_killed() {
    killed_after_every_write("crash-chain", chain).await;
}

#[tokio::test]
async fn suspensions_and_changes_end_the_same_wherever_the_operator_is_killed() {
    killed_after_every_write("crash-suspend", suspended_and_changed).await;
}

#[tokio::test]
async fn failures_and_deletions_end_the_same_wherever_the_operator_is_killed() {
    killed_after_every_write("crash-fail", failed_and_deleted).await;
}

#[tokio::test]
async fn events_that_never_arrive_delay_a_chain_and_change_nothing_of_it() {
    let (expected, _) = play("unobserved", chain, BTreeSet::new(), None).await;
    for resource in ["jobs", "pods", "preferencedatasets", "rewardmodels"] {
        let (outcome, _) = play("unobserved", chain, BTreeSet::new(), Some(Fault::Unobserved(resource))).await;
        assert_eq!(differences(&outcome.state, &expected.state), [""; 0], "without events of {resource}");
        assert_eq!(outcome.jobs_made, expected.jobs_made, "without events of {resource}");
    }
}

#[tokio::test]
async fn planted_faults_are_found() {
    let (expected, _) = play("planted", chain, BTreeSet::new(), None).await;
    for fault in [Fault::RandomNames, Fault::ForgottenResult, Fault::LostStatus] {
        let played = tokio::time::timeout(ENDLESS, play("planted", chain, BTreeSet::new(), Some(fault.clone()))).await;
        let found = match &played {
            Ok((outcome, _)) => *outcome != expected,
            Err(_) => true,
        };
        assert!(found, "{fault:?} ends as if nothing were wrong");
    }
}
