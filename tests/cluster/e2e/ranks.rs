//! A reward model that two pods train together. Talks to the cluster and files.

use std::path::PathBuf;
use std::time::Duration;

use plumbline_testkit::chain;
use plumbline_testkit::gang::weights_apart;
use serde_json::{Value, json};

use crate::chain::{REWARD, made, on_claim};
use crate::installation::{Installation, lines, until};
use crate::node;

const TOGETHER: &str = "rewardmodel/together";
/// Float32 sums in another order, over all steps of a run.
const TOLERANCE: f64 = 5e-3;

/// As the chain's reward model, but for its name and its pods.
fn together() -> Value {
    let two = json!({"training": {"epochs": 6}, "compute": {"nodes": 2, "maxRetries": 2}});
    on_claim(&chain::with(chain::reward("together", "data"), &two))
}

fn artifact(installed: &Installation, resource: &str) -> PathBuf {
    installed.folder(&installed.status(resource).artifact.unwrap().uri)
}

/// The pod of a rank that was made last.
fn pod(installed: &Installation, rank: usize) -> String {
    let selector = format!("plumbline.dev/name=together,batch.kubernetes.io/job-completion-index={rank}");
    let (sorted, names) = ("--sort-by=.metadata.creationTimestamp", "jsonpath={.items[*].metadata.name}");
    let pods = installed.kubectl(&["get", "pods", "-l", &selector, sorted, "-o", names]);
    pods.split_whitespace().last().unwrap().to_owned()
}

#[test]
fn two_pods_train_the_model_of_one_and_whichever_is_killed_they_end_the_same() {
    let installed = node::shared();
    made(&installed);
    installed.apply(&[together()]);
    let (status, expected) = installed.until_ready(TOGETHER);
    assert_eq!((status.job.clone().unwrap().attempt, status.job.unwrap().retries.len()), (1, 0));
    let apart = weights_apart(&artifact(&installed, REWARD), &artifact(&installed, TOGETHER));
    eprintln!("weights of two pods and of one differ by {apart:.1e} of the largest");
    assert!(apart > 0.0 && apart < TOLERANCE, "{apart}");

    installed.begin_again(TOGETHER, &together());
    for (rank, least) in [(1, 6), (0, 24)] {
        installed.until_run(TOGETHER, "some steps are taken", |run| lines(&run.join("metrics.jsonl")) >= least);
        let killed = pod(&installed, rank);
        installed.kill(&installed.container(&killed, "trainer"));
        let again =
            || installed.status(TOGETHER).job.is_some_and(|job| job.retries.values().sum::<i64>() > 1 - rank as i64);
        until("that is counted", Duration::from_millis(100), again);
    }
    let (status, digest) = installed.until_ready(TOGETHER);
    assert_eq!(digest, expected, "a lost pod changes nothing of the result");
    let job = status.job.unwrap();
    assert_eq!((job.attempt, job.retries.values().sum::<i64>()), (3, 2), "one failure each: {:?}", job.retries);
}
