//! What happens to pods and to their node in the middle of a run. Talks to the cluster and files.
//!
//! Each test makes a resource of the chain again, under a name of its own, and disturbs it: the artifact has to be the one that
//! was made undisturbed.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::chain::{self, DATA, PPO, REPLIES, REWARD, made};
use crate::installation::{Installation, lines};
use crate::node;

const METRICS: &str = "metrics.jsonl";

/// Applies a resource of the chain once more under another name. Gives what it is called, and the digest that it has to have.
fn again(installed: &Installation, resource: &str, name: &str) -> (String, String) {
    let place = [DATA, REWARD, PPO].iter().position(|r| *r == resource).unwrap();
    let expected = made(installed).digests[place].clone();
    let mut manifest = [chain::dataset, chain::reward, chain::ppo][place]();
    manifest["metadata"]["name"] = json!(name);
    installed.apply(&[manifest]);
    let kind = resource.split_once('/').unwrap().0;
    (format!("{kind}/{name}"), expected)
}

/// Waits until the run of a resource has so many lines in a file, and has not ended.
fn until_lines(installed: &Installation, resource: &str, file: &str, least: usize) {
    let what = format!("{file} has {least} lines");
    installed.until_run(resource, &what, |run| {
        assert!(!run.join("result.json").exists(), "{resource} had ended before {what}");
        lines(&run.join(file)) >= least
    });
}

#[test]
fn a_judge_that_is_killed_is_started_again_beside_its_trainer_which_goes_on() {
    let installed = node::shared();
    let (resource, expected) = again(&installed, DATA, "data-judge-killed");
    until_lines(&installed, &resource, REPLIES, 10);
    let pod = installed.pod("data-judge-killed");
    installed.kill(&installed.container(&pod, "judge-0"));
    let (status, digest) = installed.until_ready(&resource);
    assert_eq!(digest, expected);
    let job = status.job.unwrap();
    assert_eq!((job.attempt, job.retries), (1, BTreeMap::new()), "the trainer has waited for its judge");
    let restarts = r"jsonpath={.status.initContainerStatuses[0].restartCount}";
    assert_eq!(installed.kubectl(&["get", "pod", &pod, "-o", restarts]), "1");
}

#[test]
fn a_pod_lost_while_it_labels_changes_nothing_of_the_dataset() {
    let installed = node::shared();
    let (resource, expected) = again(&installed, DATA, "data-pod-lost");
    until_lines(&installed, &resource, REPLIES, 10);
    lose_pod(&installed, &resource, &expected);
}

#[test]
fn a_pod_lost_while_it_trains_changes_nothing_of_the_reward_model() {
    let installed = node::shared();
    let (resource, expected) = again(&installed, REWARD, "reward-pod-lost");
    until_lines(&installed, &resource, METRICS, 6);
    lose_pod(&installed, &resource, &expected);
}

/// Takes the pod away: it is asked to stop, and another one goes on. That is no failure.
fn lose_pod(installed: &Installation, resource: &str, expected: &str) {
    let name = resource.split_once('/').unwrap().1;
    let lost = installed.pod(name);
    installed.take_away(&lost);
    let (status, digest) = installed.until_ready(resource);
    assert_eq!(digest, expected);
    assert_ne!(installed.pod(name), lost, "it had ended before its pod was lost");
    assert_eq!(status.job.unwrap().retries, BTreeMap::new(), "a lost pod is no failure");
}

#[test]
fn a_trainer_killed_while_it_tunes_changes_nothing_of_the_policy() {
    let installed = node::shared();
    let (resource, expected) = again(&installed, PPO, "ppo-killed-in-tuning");
    kill_trainer(&installed, &resource, &expected, || until_lines(&installed, &resource, METRICS, 4));
}

#[test]
fn a_trainer_killed_while_it_evaluates_changes_nothing_of_the_policy() {
    let installed = node::shared();
    let (resource, expected) = again(&installed, PPO, "ppo-killed-in-evaluation");
    kill_trainer(&installed, &resource, &expected, || {
        installed
            .until_run(&resource, "one of two models is sampled", |run| run.join("evaluation-before.json").exists());
    });
}

/// Kills the trainer of the policy outright at some moment. That is a failure, and the only one that its resource allows.
fn kill_trainer(installed: &Installation, resource: &str, expected: &str, until: impl Fn()) {
    until_lines(installed, resource, METRICS, 1);
    let name = resource.split_once('/').unwrap().1;
    let trainer = installed.container(&installed.pod(name), "trainer");
    until();
    installed.kill(&trainer);
    let (status, digest) = installed.until_ready(resource);
    assert_eq!(digest, expected);
    assert_eq!(status.job.unwrap().attempt, 2);
}

#[test]
fn a_node_that_loses_power_in_the_middle_of_a_run_changes_nothing_of_the_policy() {
    let mut installed = node::exclusive();
    let (resource, expected) = again(&installed, PPO, "ppo-without-power");
    until_lines(&installed, &resource, METRICS, 6);
    let operator = installed.operator();
    installed.cluster.lose_power();
    let (status, digest) = installed.until_ready(&resource);
    assert_eq!(digest, expected);
    let job = status.job.unwrap();
    assert_eq!((job.attempt, job.retries), (2, [("NodeDisruption".to_owned(), 1)].into()), "that is no failure");
    assert!(restarts(&installed.operator()) > restarts(&operator), "the operator was on that node too");
}

fn restarts(pod: &Value) -> i64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap()
}
