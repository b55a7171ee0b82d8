//! The operator is killed after its writes, one at a time (Sun et al., 2022, "intermediate states"). Whatever it was doing, the
//! next one must end in the same state, with the same number of Jobs ever made; and no status on the way may mislead the tools
//! that wait for it.
//!
//! Every write is enumerated. A change is tested with a sample of them, every fifth from a random one on: the seed is printed,
//! and `PLUMBLINE_CRASH_SEED` repeats it. `make test-crash` kills after every one (`PLUMBLINE_CRASH_EVERY=1`).

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt;
use futures::future::join_all;
use plumbline_crds::Kind::{self, PolicyTuning, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::Reason;
use plumbline_testkit::cluster::{Exit, until};
use plumbline_testkit::gitops::{Record, judge};
use plumbline_testkit::operator::{Operator, Scene, alone, resource};
use plumbline_testkit::proxy::{Fault, Proxy};
use serde_json::{Value, json};

/// It looks again soon without being told, and need not wait long for the lease of the one that was killed.
const QUICK: [&str; 4] = ["--resync-seconds", "2", "--lease-duration-seconds", "3"];
/// Operators at a time: each waits most of the time.
const AT_ONCE: usize = 8;
/// Of so many writes in a row the operator is killed after one.
const EVERY: u64 = 5;
/// Between two looks at how a scenario ended.
const LOOK: Duration = Duration::from_millis(700);
/// Looks in a row at which a sign of a fault is seen that is none of a moment.
const STEADY: usize = 10;
/// What has not become as it should be after this long never will.
const UNSETTLED: Duration = Duration::from_mins(3);

type Scenario = for<'a> fn(&'a Scene) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A number that the environment sets.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}: expected a number, found {text}")))
}

/// Numbers of the writes after which the operator is killed, of so many in all; and how to have the same again.
fn sample(writes: usize) -> (Vec<usize>, String) {
    static SEED: LazyLock<u64> = LazyLock::new(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        number("PLUMBLINE_CRASH_SEED").unwrap_or(now.as_nanos() as u64)
    });
    let every = number("PLUMBLINE_CRASH_EVERY").unwrap_or(EVERY).max(1);
    let first = 1 + *SEED % every;
    let numbers = (first as usize..=writes).step_by(every as usize).collect();
    (numbers, format!("PLUMBLINE_CRASH_SEED={} PLUMBLINE_CRASH_EVERY={every}", *SEED))
}

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

/// How a scenario ended.
#[derive(Debug, PartialEq)]
struct Outcome {
    state: Value,
    jobs_made: usize,
}

/// What a planted fault leads to, and nothing else for long.
type Sign = fn(&Outcome) -> bool;

/// What happens to the operator.
#[derive(Default)]
struct Trouble {
    /// It is killed after the writes of these numbers (the first is 1).
    killed_after: BTreeSet<usize>,
    /// It has a fault.
    fault: Option<Fault>,
    /// By which the fault shows: the scenario need not end then.
    sign: Option<Sign>,
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::default() }
    }
}

/// Plays a scenario while the operator has trouble, and is started again at once where that ends it, until the scenario has
/// ended as `expected`, or clearly otherwise. Gives also the writes, and every resource as it was served on the way.
async fn play(
    name: &str,
    scenario: Scenario,
    trouble: Trouble,
    expected: Option<&Outcome>,
) -> (Outcome, Vec<String>, Vec<Value>) {
    let scene = Scene::new(name).await;
    let record = Record::start(&scene).await;
    let stale = trouble.fault == Some(Fault::Stale);
    if matches!(trouble.fault, Some(Fault::Unobserved(_))) {
        // What is made between its first list and its watch would be found when the watch ends, minutes later.
        for kind in Kind::ALL {
            scene.apply(&resource(kind, "r", &json!({}))).await;
        }
    }
    let proxy = Proxy::start(&scene.account().await, trouble.killed_after, trouble.fault).await;
    let mut operator = Operator::start(&scene.namespace, proxy.kubeconfig(), &QUICK);
    let restarts = async {
        loop {
            // On a busy machine one may lose its lease and end by itself: a Deployment would start it again too.
            tokio::select! {
                () = proxy.kill_requested() => {}
                () = operator.ended() => {}
            }
            operator.kill();
            proxy.accept_restarted();
            operator = Operator::start(&scene.namespace, proxy.kubeconfig(), &QUICK);
        }
    };
    let played = async {
        scenario(&scene).await;
        settled(&scene, expected).await
    };
    let outcome = tokio::select! {
        outcome = played => outcome,
        outcome = shown(&scene, trouble.sign) => outcome,
        () = restarts => unreachable!("restarts have no end"),
    };
    if stale {
        until("each kind was listed as it had been", async || {
            let stale = proxy.stale_lists();
            Kind::ALL.iter().all(|kind| stale.contains(kind.plural())).then_some(())
        })
        .await;
    }
    (outcome, proxy.writes(), record.finish(&scene).await)
}

/// How a scenario ended, with what is still written after the last thing that people see.
async fn settled(scene: &Scene, expected: Option<&Outcome>) -> Outcome {
    let deadline = Instant::now() + UNSETTLED;
    let mut last = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let outcome = Outcome { state: scene.state().await, jobs_made: scene.jobs_made() };
        let settled = match expected {
            Some(expected) => *expected == outcome,
            None => last.as_ref() == Some(&outcome) && all_expire(&outcome.state),
        };
        if settled || Instant::now() > deadline {
            return outcome;
        }
        last = Some(outcome);
    }
}

/// Waits until a sign is seen at several looks in a row.
async fn shown(scene: &Scene, sign: Option<Sign>) -> Outcome {
    let Some(sign) = sign else { return std::future::pending().await };
    let mut looks = 0;
    loop {
        tokio::time::sleep(LOOK).await;
        let outcome = Outcome { state: scene.state().await, jobs_made: scene.jobs_made() };
        looks = if sign(&outcome) { looks + 1 } else { 0 };
        if looks == STEADY {
            return outcome;
        }
    }
}

/// Whether the Job of each run that is over is set to expire, which is the last thing that is written of it.
fn all_expire(state: &Value) -> bool {
    let is_over = |status: &&Value| {
        let conditions = status["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Succeeded" && c["status"] != "Unknown")
    };
    state.as_object().unwrap().values().filter(is_over).all(|status| {
        let job = &state[format!("Job/{}", status["job"]["name"].as_str().unwrap_or_default())];
        job.is_null() || job[1].is_number()
    })
}

/// The objects that differ, as they are and as they should be.
fn differences(found: &Value, expected: &Value) -> Vec<String> {
    let names: BTreeSet<&String> = [found, expected].into_iter().flat_map(|v| v.as_object().unwrap().keys()).collect();
    let differs = names.into_iter().filter(|name| found[*name] != expected[*name]);
    differs.map(|name| format!("{name}: {} instead of {}", found[name], expected[name])).collect()
}

async fn killed_after_every_write(name: &str, scenario: Scenario) {
    let (expected, writes, mut served) = play(name, scenario, Trouble::default(), None).await;
    assert!(writes.len() > 10, "{writes:#?}");
    let wanted = Some(&expected);
    let (numbers, seed) = sample(writes.len());
    let many = numbers.len();
    assert!(many >= writes.len() / EVERY as usize, "{many} of {} writes", writes.len());
    let killed = numbers.into_iter().map(|number| async move {
        let trouble = Trouble { killed_after: [number].into(), ..Trouble::default() };
        (number, play(name, scenario, trouble, wanted).await)
    });
    let mut outcomes = futures::stream::iter(killed).buffer_unordered(AT_ONCE);
    while let Some((number, (outcome, _, objects))) = outcomes.next().await {
        served.extend(objects);
        let differs = differences(&outcome.state, &expected.state);
        assert!(
            differs.is_empty() && outcome.jobs_made == expected.jobs_made,
            "{seed}: killed after write {number}, {}: {} Jobs were made, not {}; {differs:#?}",
            writes[number - 1],
            outcome.jobs_made,
            expected.jobs_made,
        );
    }
    let verdicts = judge(&served);
    println!("{name}: killed after {many} of {} writes, {seed}; {} statuses: {verdicts:?}", writes.len(), served.len());
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
    let (expected, ..) = play("unobserved", chain, Trouble::default(), None).await;
    let expected = &expected;
    let played = ["jobs", "pods", "preferencedatasets", "rewardmodels"].map(async |resource| {
        (resource, play("unobserved", chain, Fault::Unobserved(resource).into(), Some(expected)).await.0)
    });
    for (resource, outcome) in join_all(played).await {
        assert_eq!(differences(&outcome.state, &expected.state), [""; 0], "without events of {resource}");
        assert_eq!(outcome.jobs_made, expected.jobs_made, "without events of {resource}");
    }
}

async fn restarted_with_a_stale_view(name: &str, scenario: Scenario) {
    let (expected, writes, _) = play(name, scenario, Trouble::default(), None).await;
    let wanted = Some(&expected);
    let (numbers, seed) = sample(writes.len());
    // After the last write nothing is left to do with a stale view. How many writes there are differs by one between runs.
    let killed = numbers.into_iter().filter(|number| number + 1 < writes.len()).map(|number| async move {
        let trouble = Trouble { killed_after: [number].into(), ..Fault::Stale.into() };
        (number, play(name, scenario, trouble, wanted).await.0)
    });
    let outcomes: Vec<(usize, Outcome)> = futures::stream::iter(killed).buffer_unordered(AT_ONCE).collect().await;
    for (number, outcome) in outcomes {
        assert_eq!(
            differences(&outcome.state, &expected.state),
            [""; 0],
            "{seed}: {name}, killed after write {number}"
        );
        assert_eq!(outcome.jobs_made, expected.jobs_made, "{seed}: {name}, killed after write {number}");
    }
}

#[tokio::test]
async fn an_operator_that_starts_again_with_a_stale_view_ends_a_chain_the_same() {
    restarted_with_a_stale_view("stale-chain", chain).await;
}

#[tokio::test]
async fn an_operator_that_starts_again_with_a_stale_view_ends_failures_the_same() {
    restarted_with_a_stale_view("stale-fail", failed_and_deleted).await;
}

#[tokio::test]
async fn conflicts_delay_a_chain_and_change_nothing_of_it() {
    let (expected, ..) = play("conflicts", chain, Trouble::default(), None).await;
    let (outcome, ..) = play("conflicts", chain, Fault::Conflicts.into(), Some(&expected)).await;
    assert_eq!(differences(&outcome.state, &expected.state), [""; 0]);
    assert_eq!(outcome.jobs_made, expected.jobs_made);
}

#[tokio::test]
async fn planted_faults_are_found() {
    let (expected, ..) = play("planted", chain, Trouble::default(), None).await;
    let made_again: Sign = |outcome| outcome.jobs_made > Kind::ALL.len();
    // Whichever Job is deleted before the operator has looked: its run resumes, in another Job.
    let deleted: Sign = |outcome| {
        let is_resumed = |kind: Kind| outcome.state[format!("{kind}/r")]["job"]["retries"]["JobDeleted"].is_number();
        Kind::ALL.into_iter().any(is_resumed) || outcome.jobs_made > Kind::ALL.len()
    };
    let unsaid: Sign =
        |outcome| outcome.jobs_made > 0 && outcome.state["PreferenceDataset/r"]["observedGeneration"] == -1;
    assert!(![made_again, deleted, unsaid].iter().any(|sign| sign(&expected)), "without a fault: {expected:?}");
    let faults = [(Fault::RandomNames, made_again), (Fault::ForgottenResult, deleted), (Fault::LostStatus, unsaid)];
    let played = faults.map(async |(fault, sign)| {
        let trouble = Trouble { fault: Some(fault.clone()), sign: Some(sign), ..Trouble::default() };
        (fault, sign, play("planted", chain, trouble, None).await.0)
    });
    for (fault, sign, outcome) in join_all(played).await {
        assert!(sign(&outcome), "{fault:?} ends as if nothing were wrong: {outcome:?}");
    }
}
