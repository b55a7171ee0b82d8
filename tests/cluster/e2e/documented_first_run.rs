//! The first run of `docs/install.md`, as somebody types it who has just installed the chart: from claims with nothing in them to
//! the tuned model on their own machine. Talks to the cluster, processes and files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use plumbline_crds::artifact;
use plumbline_testkit::programs::text;
use serde_json::json;

use crate::node;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// The namespace that the document makes.
const NAMESPACE: &str = "alignment";
/// What the document takes from a registry, which this node does not reach.
const IMAGE: &str = "/../../.cache/cluster/node/busybox.tar";

/// The commands of the document from one heading to another.
fn commands(from: &str, to: &str) -> Vec<String> {
    let document = fs::read_to_string(format!("{ROOT}/docs/install.md")).unwrap();
    let part = document.split_once(from).and_then(|(_, rest)| rest.split_once(to)).unwrap().0;
    part.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_documented_first_run_fills_an_empty_claim_and_brings_the_tuned_model_out_of_another() {
    let installed = node::shared();
    let cluster = &installed.cluster;
    cluster.import(Path::new(&format!("{}{IMAGE}", env!("CARGO_MANIFEST_DIR"))));
    let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
    let metadata = json!({"name": NAMESPACE, "labels": labels});
    cluster.apply(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})]);
    for name in ["models", "results"] {
        cluster.claim(NAMESPACE, name);
    }

    // The root of the repository, but for what the commands write.
    let folder = tempfile::tempdir().unwrap();
    for name in ["tests", "examples"] {
        symlink(fs::canonicalize(format!("{ROOT}/{name}")).unwrap(), folder.path().join(name)).unwrap();
    }
    let kubeconfig = folder.path().join("kubeconfig");
    fs::copy(cluster.kubeconfig(), &kubeconfig).unwrap();
    let programs = fs::canonicalize(format!("{ROOT}/.cache/cluster/bin")).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let run = |commands: &str| {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", commands]).current_dir(folder.path()).stdin(Stdio::null());
        let output = shell.env("KUBECONFIG", &kubeconfig).env("PATH", &path).output().unwrap();
        assert!(output.status.success(), "{commands}\n{}{}", text(&output.stdout), text(&output.stderr));
    };
    run(&format!("kubectl config set-context --current --namespace {NAMESPACE}"));
    let documented = commands("\n## Copy files into a claim\n", "\n## Object stores\n");
    assert_eq!(documented.len(), 4, "{documented:#?}");
    for commands in &documented {
        run(commands);
    }

    let made = artifact::verify(&folder.path().join("first")).unwrap();
    assert!(made.files.iter().any(|file| file.path == "report.html"), "{:?}", made.files);
    assert!(made.files.iter().any(|file| file.path == "model.safetensors"), "{:?}", made.files);
}
