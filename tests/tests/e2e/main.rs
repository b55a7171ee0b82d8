//! Everything as it is used: a Kubernetes with a node, the images, the chart by Helm, resources by kubectl, and real trainers.
//! `make e2e` runs it, as root; it is not part of `cargo test`.

mod installation;
mod machine;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use plumbline_crds::artifact;
use plumbline_crds::status::Status;
use plumbline_tests::cluster::NodeCluster;
use plumbline_tests::programs::{local_cluster, text};
use plumbline_tests::{chain, fixture};
use serde_json::{Value, json};

use installation::{Installation, TEAM};
use machine::Machine;

/// The longest that a stage may take on a busy machine.
const STAGE: Duration = Duration::from_mins(10);

/// A judge that is served from the tiny model, beside the trainer.
fn judge() -> Value {
    json!({
        "name": "reader", "model": {"uri": fixture::uri("tiny")}, "mode": "Pointwise", "api": "Completion",
        "template": "{{ prompt }}{{ response }} of the", "answers": [" United", " whale"],
    })
}

/// A short chain on what lies in the claim `models`, in the order in which it cannot run.
fn manifests() -> [Value; 3] {
    // Long enough to be disturbed, and PPO longer than the 5 s after which a pod first tells of its progress.
    let longer = json!({"training": {"epochs": 6}});
    let tuned = json!({"rollout": {"promptsPerStep": 16}, "training": {"epochs": 16}, "evaluation": {"samplesPerPrompt": 1},
        "compute": {"maxRetries": 1}});
    let manifests = [
        chain::with(chain::ppo("ppo", "reward"), &tuned),
        chain::with(chain::reward("reward", "data"), &longer),
        chain::with(chain::dataset("data", &judge()), &json!({"prompts": {"limit": 48}})),
    ];
    let here = fixture::uri("");
    manifests.map(|m| serde_json::from_str(&m.to_string().replace(here.trim_end_matches('/'), "pvc://models")).unwrap())
}

/// There is one node at a time.
static NODE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    NODE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn a_chain_runs_in_restricted_pods_and_ends_the_same_when_a_pod_is_lost_and_nothing_is_left_of_the_cluster() {
    let _alone = alone();
    let before = Machine::look();
    let started = Instant::now();
    let said = |what: &str| eprintln!("{:6.1} s  {what}", started.elapsed().as_secs_f64());
    let cluster = NodeCluster::start_in(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/node")));
    said("the node is ready");
    let installed = Installation::new(&cluster);
    said("the operator leads");
    only_restricted_pods_are_let_in(&cluster);

    installed.apply(&manifests());
    let mut digests = Vec::new();
    for resource in ["preferencedataset/data", "rewardmodel/reward", "policytuning/ppo"] {
        let status = installed.until_ready(resource, STAGE);
        digests.push(verified(&installed, resource, &status));
        said(&format!("{resource} is ready"));
    }

    // Again, and in the middle a pod is taken away: it is asked to stop, and another one goes on. That is no failure.
    installed.begin_again("rewardmodel/reward", &manifests()[1], 6);
    let lost = installed.pod("reward");
    installed.take_away(&lost);
    let status = installed.until_ready("rewardmodel/reward", STAGE);
    said("rewardmodel/reward is ready again, by a second pod");
    assert_eq!(
        verified(&installed, "rewardmodel/reward", &status),
        digests[1],
        "a lost pod changes nothing of the result"
    );
    assert_ne!(installed.pod("reward"), lost);
    assert_eq!(status.job.map(|job| job.retries), Some(BTreeMap::new()));

    // And a trainer that is killed outright: that is one.
    installed.begin_again("policytuning/ppo", &manifests()[0], 4);
    installed.kill_trainer(&installed.pod("ppo"));
    let status = installed.until_ready("policytuning/ppo", STAGE);
    said("policytuning/ppo is ready again, by a second attempt");
    assert_eq!(verified(&installed, "policytuning/ppo", &status), digests[2], "nor does a kill");
    assert_eq!(status.job.unwrap().attempt, 2);

    let told = installed.metrics("plumbline_progress_posts_total");
    assert!(told.contains(r#"outcome="accepted""#), "pods tell of their progress: {told}");

    let folder = cluster.folder().to_owned();
    drop(cluster);
    said("the cluster is down");
    before.until_the_same(&folder);
}

#[test]
fn a_cluster_that_is_killed_leaves_nothing_behind() {
    let _alone = alone();
    let before = Machine::look();
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(local_cluster()).arg(folder.path()).spawn().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    while !kubeconfig.exists() {
        assert!(program.try_wait().unwrap().is_none(), "it has ended before it was ready");
        std::thread::sleep(Duration::from_millis(100));
    }
    let made = fs::canonicalize(kubeconfig).unwrap().parent().unwrap().to_owned();
    assert_ne!(Machine::look(), before, "a node is seen from outside");
    program.kill().unwrap();
    program.wait().unwrap();
    before.until_the_same(&made);
}

/// The digest in a status is that of the artifact, which is what its manifest says.
fn verified(installed: &Installation, resource: &str, status: &Status) -> String {
    let said = status.artifact.as_ref().unwrap();
    let folder = installed.artifact(&said.uri);
    let manifest = artifact::verify(&folder).unwrap_or_else(|e| panic!("{resource}: {e}"));
    assert_eq!(said.digest, manifest.digest, "{resource}");
    assert_eq!(manifest.inputs, status.inputs, "{resource}: the artifact tells its lineage");
    manifest.digest
}

/// The namespace is one that admits nothing else, or nothing would be shown by the runs in it.
fn only_restricted_pods_are_let_in(cluster: &NodeCluster) {
    let output = cluster.try_kubectl(&["run", "loose", "--image=plumbline.dev/pause:1", "--namespace", TEAM]);
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains("violates PodSecurity \"restricted"), "{said}");
}
