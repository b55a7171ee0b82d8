//! Everything as it is used: a Kubernetes with a node, the images, the operator in a pod with the permissions of its manifests,
//! resources by kubectl, and real trainers. `make e2e` runs it, as root; it is not part of `cargo test`.

mod installation;
mod machine;

use std::path::Path;
use std::time::{Duration, Instant};

use plumbline_crds::artifact;
use plumbline_crds::status::Status;
use plumbline_tests::cluster::NodeCluster;
use plumbline_tests::programs::text;
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
    let retries = json!({"compute": {"maxRetries": 3}});
    let short =
        json!({"rollout": {"promptsPerStep": 16}, "training": {"epochs": 2}, "evaluation": {"samplesPerPrompt": 1}});
    let manifests = [
        chain::with(chain::ppo("ppo", "reward"), &short),
        chain::with(chain::reward("reward", "data"), &retries),
        chain::with(chain::dataset("data", &judge()), &json!({"prompts": {"limit": 48}})),
    ];
    let here = fixture::uri("");
    manifests.map(|m| serde_json::from_str(&m.to_string().replace(here.trim_end_matches('/'), "pvc://models")).unwrap())
}

#[test]
fn a_chain_runs_in_restricted_pods_and_ends_the_same_when_a_pod_is_lost_and_nothing_is_left_of_the_cluster() {
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
    let progress = installed.metric("plumbline_progress_posts_total{outcome=\"accepted\"}");
    assert!(progress > 0.0, "pods tell of their progress");

    // Again, and the pod is lost in the middle.
    installed.forget("rewardmodel/reward");
    installed.apply(&manifests()[1..2]);
    installed.until_step("reward", 6);
    installed.lose_pod("reward");
    said("the pod of the reward model is lost");
    let status = installed.until_ready("rewardmodel/reward", STAGE);
    said("rewardmodel/reward is ready again");
    assert_eq!(
        verified(&installed, "rewardmodel/reward", &status),
        digests[1],
        "a lost pod changes nothing of the result"
    );
    assert!(status.job.is_some_and(|job| job.attempt > 1), "the loss is counted");

    let folder = cluster.folder().to_owned();
    drop(cluster);
    said("the cluster is down");
    before.until_the_same(&folder);
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
