//! The end: of a release, of a cluster, and of one that is killed. Talks to the cluster, processes and files.

use std::fs;
use std::process::Command;
use std::time::Duration;

use plumbline_crds::artifact;
use plumbline_testkit::programs::local_cluster;

use crate::chain::{DATA, PPO, REWARD, made};
use crate::installation::{SYSTEM, until};
use crate::machine::Machine;
use crate::node;

#[test]
fn of_a_release_that_is_uninstalled_resources_and_artifacts_stay_and_of_its_cluster_nothing() {
    let installed = node::last();
    let digests = &made(&installed).digests;
    let jobs = installed.kubectl(&["get", "jobs", "-o", "name"]);
    let said = installed.helm(&["uninstall"], &[]);
    assert!(said.contains("CustomResourceDefinition"), "it says what is kept: {said}");
    let everything = ["-n", SYSTEM, "get", "deployments,pods,services,secrets,serviceaccounts,roles", "-o", "name"];
    // Kubernetes' own, in each namespace.
    let nothing = "serviceaccount/default\n";
    until("nothing of the operator is left", Duration::from_millis(200), || {
        installed.cluster.kubectl(&everything) == nothing
    });
    for (resource, digest) in [DATA, REWARD, PPO].iter().zip(digests) {
        let artifact = installed.status(resource).artifact.unwrap();
        assert_eq!(artifact.digest, *digest, "{resource}");
        assert_eq!(artifact::verify(&installed.folder(&artifact.uri)).unwrap().digest, *digest, "{resource}");
    }
    assert_eq!(installed.kubectl(&["get", "jobs", "-o", "name"]), jobs);
    installed.end();
}

#[test]
fn of_a_cluster_that_is_killed_nothing_stays() {
    let _none = node::none();
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
