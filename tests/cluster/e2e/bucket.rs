//! The chain from and to a real S3 server: nothing of a run is on a volume that outlives its pod. Talks to the cluster, and
//! runs the server.

use std::time::Duration;

use plumbline_crds::artifact;
use plumbline_testkit::chain::with;
use plumbline_testkit::cluster::HOST;
use plumbline_testkit::fixture;
use plumbline_testkit::store::{SECRET_KEY, Store};
use serde_json::{Value, json};

use crate::chain::{anywhere, at, made};
use crate::installation::{Installation, until};
use crate::node;

/// How long the store is away.
const AWAY: Duration = Duration::from_secs(20);
/// The Secret with its credentials.
const CREDENTIALS: &str = "store";

/// The chain under other names, on what is in the bucket, and with its results there.
fn manifests() -> [Value; 3] {
    let refer = json!({"datasetRef": {"name": "data-in-bucket"}});
    let [mut data, reward, ppo] = anywhere().map(|manifest| {
        let name = format!("{}-in-bucket", manifest["metadata"]["name"].as_str().unwrap());
        let output =
            json!({"uri": format!("s3://align/results/{name}"), "credentialsSecretRef": {"name": CREDENTIALS}});
        let mut manifest = with(at("s3://align/fixtures", &manifest), &json!({"output": output}));
        manifest["metadata"]["name"] = json!(name);
        manifest
    });
    // A record names the model of its judge as it is written here.
    data["spec"]["judges"][0]["model"]["uri"] = json!("pvc://models/tiny");
    [data, with(reward, &refer), with(ppo, &json!({"rewardModelRef": {"name": "reward-in-bucket"}}))]
}

/// The store with the fixtures, and its credentials in the team's namespace.
fn store(installed: &Installation) -> Store {
    let store = Store::start_on(HOST);
    store.put(&fixture::path(""), "fixtures");
    let keys: Value = store.environment().into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    installed
        .apply(&[json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": CREDENTIALS}, "stringData": keys})]);
    store
}

/// Whether the store has a checkpoint of a run of a resource.
fn keeps_a_checkpoint(store: &Store, name: &str) -> bool {
    let runs = std::fs::read_dir(store.path(&format!("results/.{name}.work"))).into_iter().flatten().flatten();
    runs.map(|run| std::fs::read_to_string(run.path().join("index.json")).unwrap_or_default())
        .any(|index| index.contains("checkpoints/step-"))
}

#[test]
fn a_chain_from_and_to_a_bucket_makes_the_same_though_pods_are_lost_and_the_store_is_away() {
    let installed = node::shared();
    let expected = made(&installed).digests.clone();
    let mut store = store(&installed);
    installed.apply(&manifests());

    // Their pods are taken away, and what they had on their disks with them.
    for (name, resource) in [("reward-in-bucket", "rewardmodel"), ("ppo-in-bucket", "policytuning")] {
        until(&format!("a checkpoint of {name} is in the bucket"), Duration::from_millis(20), || {
            keeps_a_checkpoint(&store, name)
        });
        let lost = installed.pod(name);
        installed.take_away(&lost);
        if resource == "policytuning" {
            let selector = format!("plumbline.dev/name={name}");
            until("there is a next pod", Duration::from_millis(50), || {
                let pods = installed.kubectl(&["get", "pods", "-l", &selector, "-o", "name"]);
                pods.lines().any(|pod| pod != format!("pod/{lost}"))
            });
            store.down();
            std::thread::sleep(AWAY);
            store.up();
        }
        installed.until(&format!("{resource}/{name}"));
        assert_ne!(installed.pod(name), lost, "{name} had ended before its pod was lost");
    }
    for ((name, kind), expected) in
        [("data", "preferencedataset"), ("reward", "rewardmodel"), ("ppo", "policytuning")].into_iter().zip(expected)
    {
        let name = format!("{name}-in-bucket");
        let status = installed.until(&format!("{kind}/{name}"));
        let said = status.artifact.unwrap();
        assert_eq!(said.uri, format!("s3://align/results/{name}"));
        let manifest = artifact::verify(&store.path(&format!("results/{name}"))).unwrap();
        assert_eq!((&said.digest, &manifest.digest), (&expected, &expected), "{name}");
        assert_eq!(manifest.inputs, status.inputs, "{name}: the artifact tells its lineage");
        let all = installed.kubectl(&["get", &format!("{kind}/{name}"), "-o", "yaml"]);
        assert!(!all.contains(SECRET_KEY), "{all}");
        let selector = format!("plumbline.dev/name={name}");
        let logs = installed.kubectl(&["logs", "-l", &selector, "--all-containers", "--tail=-1"]);
        assert!(!logs.contains(SECRET_KEY), "{logs}");
        assert!(logs.contains("taken from the cache"), "{logs}");
    }
    let models = installed.cached().into_iter().filter(|entry| entry.ends_with("-tiny")).count();
    assert_eq!(models, 1, "one pod has fetched the model for all: {:?}", installed.cached());
}
