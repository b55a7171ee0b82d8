//! Plumbline on a cluster, and a team's namespace on it. Talks to Helm, kubectl and files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use plumbline_crds::artifact;
use plumbline_crds::status::Status;
use plumbline_testkit::chain::merge;
use plumbline_testkit::cluster::NodeCluster;
use plumbline_testkit::fixture;
use plumbline_testkit::helm::{CHART, Helm, RELEASE, Version};
use plumbline_testkit::programs::images;
use serde_json::{Value, json};

use crate::chain::Made;

/// The namespace of the runs.
pub(crate) const TEAM: &str = "team";
/// The namespace of the operator.
pub(crate) const SYSTEM: &str = "plumbline";
/// The longest that a stage may take on a busy machine.
const STAGE: Duration = Duration::from_mins(10);
/// How long something may take that takes a second.
const PATIENCE: Duration = Duration::from_mins(2);

/// The operator in a pod, and a namespace with the claims `models` and `results`.
pub(crate) struct Installation {
    pub(crate) cluster: NodeCluster,
    /// What [`crate::chain::made`] made on it.
    pub(crate) chain: OnceLock<Made>,
    helm: Helm,
    models: PathBuf,
    results: PathBuf,
}

impl Installation {
    /// Brings in the images, installs the chart and waits until its operator leads.
    pub(crate) fn new(cluster: NodeCluster) -> Self {
        for image in ["operator.tar", "trainer.tar"] {
            cluster.import(&images().join(image));
        }
        for namespace in [SYSTEM, TEAM] {
            let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
            let metadata = json!({"name": namespace, "labels": labels});
            cluster.apply(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})]);
        }
        let [models, results] = ["models", "results"].map(|name| cluster.claim(TEAM, name));
        let copied = Command::new("cp").arg("-rT").arg(fixture::path("")).arg(&models).status().unwrap();
        assert!(copied.success());
        let helm = Helm::on(&cluster.kubeconfig(), Version::V3);
        let installed = Self { cluster, chain: OnceLock::new(), helm, models, results };
        installed.release("install", &json!({}));
        installed.helm(&["test"], &[]);
        installed
    }

    /// `helm install` or `helm upgrade` with the values of all tests and some on top, until it is done.
    pub(crate) fn release(&self, command: &str, more: &Value) -> String {
        let mut all = values();
        merge(&mut all, more);
        self.helm(&[command], &[CHART, "--values", &self.helm.file(&all), "--wait"])
    }

    /// `helm COMMAND plumbline ARGUMENTS`, in the operator's namespace.
    pub(crate) fn helm(&self, command: &[&str], arguments: &[&str]) -> String {
        self.helm.says(&[command, &[RELEASE, "--namespace", SYSTEM, "--timeout", "2m"], arguments].concat())
    }

    /// Runs kubectl in the team's namespace, to a good end.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[&["-n", TEAM], arguments].concat())
    }

    /// Applies resources in the team's namespace.
    pub(crate) fn apply(&self, manifests: &[Value]) {
        let in_namespace = |manifest: &Value| {
            let mut manifest = manifest.clone();
            manifest["metadata"]["namespace"] = json!(TEAM);
            manifest
        };
        self.cluster.apply(&manifests.iter().map(in_namespace).collect::<Vec<_>>());
    }

    /// An object of the team's namespace.
    pub(crate) fn get(&self, object: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", object, "-o", "json"])).unwrap()
    }

    /// The status of a resource.
    pub(crate) fn status(&self, resource: &str) -> Status {
        serde_json::from_value(self.get(resource)["status"].clone()).unwrap()
    }

    /// Waits for a resource as people do.
    pub(crate) fn until(&self, resource: &str) -> Status {
        let timeout = format!("--timeout={}s", STAGE.as_secs());
        let arguments = ["-n", TEAM, "wait", "--for=condition=Ready", resource, &timeout];
        if !self.cluster.try_kubectl(&arguments).status.success() {
            self.explain();
            panic!("{resource} did not become ready");
        }
        self.status(resource)
    }

    /// The same, for an artifact on the claim `results`, which is verified: the digest in the status is that of the artifact,
    /// which is what its manifest says. Gives it.
    pub(crate) fn until_ready(&self, resource: &str) -> (Status, String) {
        let status = self.until(resource);
        let said = status.artifact.as_ref().unwrap();
        let manifest = artifact::verify(&self.folder(&said.uri)).unwrap_or_else(|e| panic!("{resource}: {e}"));
        assert_eq!(said.digest, manifest.digest, "{resource}");
        assert_eq!(manifest.inputs, status.inputs, "{resource}: the artifact tells its lineage");
        (status, manifest.digest)
    }

    /// Prints what tells why nothing goes on.
    fn explain(&self) {
        eprintln!("{}", self.kubectl(&["get", "rlaif,jobs,pods", "-o", "wide"]));
        eprintln!("{}", self.kubectl(&["describe", "rlaif,pods"]));
        eprintln!("{}", self.cluster.kubectl(&["-n", SYSTEM, "logs", "deployment/plumbline", "--tail=40"]));
    }

    /// A file of the claim `models`.
    pub(crate) fn model(&self, name: &str) -> PathBuf {
        self.models.join(name)
    }

    /// Where this machine has an artifact.
    pub(crate) fn folder(&self, uri: &str) -> PathBuf {
        self.results.join(uri.strip_prefix("pvc://results/").unwrap())
    }

    /// Names of what the cache of inputs holds.
    pub(crate) fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(self.results.join(".inputs")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The operator's metrics.
    pub(crate) fn metrics(&self) -> String {
        let path = format!("/api/v1/namespaces/{SYSTEM}/services/plumbline:metrics/proxy/metrics");
        self.cluster.kubectl(&["get", "--raw", &path])
    }

    /// Deletes a resource with what it made, and applies it again.
    pub(crate) fn begin_again(&self, resource: &str, manifest: &Value) {
        let artifact = self.folder(&self.status(resource).artifact.unwrap().uri);
        self.kubectl(&["delete", resource, "--timeout=120s"]);
        for folder in [self.work(resource), artifact] {
            fs::remove_dir_all(folder).unwrap();
        }
        self.apply(std::slice::from_ref(manifest));
    }

    /// The folder in which the runs of a resource have theirs.
    fn work(&self, resource: &str) -> PathBuf {
        let (kind, name) = resource.split_once('/').unwrap();
        self.results.join(TEAM).join(format!("{kind}s")).join(format!(".{name}.work"))
    }

    /// Waits until something holds for the folder that a run of a resource works in.
    pub(crate) fn until_run(&self, resource: &str, what: &str, holds: impl Fn(&Path) -> bool) {
        until(&format!("{resource}: {what}"), Duration::from_millis(5), || {
            fs::read_dir(self.work(resource)).into_iter().flatten().flatten().any(|run| holds(&run.path()))
        });
    }

    /// The pod that was made last for a resource.
    pub(crate) fn pod(&self, name: &str) -> String {
        let selector = format!("plumbline.dev/name={name}");
        let sorted = "--sort-by=.metadata.creationTimestamp";
        let pods = self.kubectl(&["get", "pods", "-l", &selector, sorted, "-o", "jsonpath={.items[*].metadata.name}"]);
        pods.split_whitespace().last().unwrap().to_owned()
    }

    /// The pod of the operator; one that is asked to end is none any more.
    pub(crate) fn operator(&self) -> Value {
        let selector = "app.kubernetes.io/name=plumbline";
        let pods = self.cluster.kubectl(&["-n", SYSTEM, "get", "pods", "-l", selector, "-o", "json"]);
        let pods: Value = serde_json::from_str(&pods).unwrap();
        let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let pods: Vec<&Value> = pods["items"].as_array().unwrap().iter().filter(stays).collect();
        assert_eq!(pods.len(), 1, "{pods:?}");
        pods[0].clone()
    }

    /// Deletes a pod as people do who will not wait.
    pub(crate) fn take_away(&self, pod: &str) {
        self.kubectl(&["delete", "pod", pod, "--force", "--grace-period=0"]);
    }

    /// The id by which containerd knows a container of a pod, main or sidecar.
    pub(crate) fn container(&self, pod: &str, name: &str) -> String {
        let status = &self.get(&format!("pod/{pod}"))["status"];
        let lists = ["containerStatuses", "initContainerStatuses"].map(|list| status[list].as_array());
        let found = lists.into_iter().flatten().flatten().find(|container| container["name"] == name);
        let id = found.and_then(|container| container["containerID"].as_str()?.strip_prefix("containerd://"));
        id.unwrap_or_else(|| panic!("{pod} has no container {name} that has started: {status}")).to_owned()
    }

    /// Ends a container as the kernel does that has no memory left.
    pub(crate) fn kill(&self, container: &str) {
        self.cluster.containerd(&["tasks", "kill", "--signal", "SIGKILL", container]);
    }
}

/// Looks until something holds.
pub(crate) fn until(what: &str, pause: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(pause);
    }
}

/// The lines of a file; 0 while there is none.
pub(crate) fn lines(file: &Path) -> usize {
    fs::read(file).unwrap_or_default().split(|b| *b == b'\n').count() - 1
}

/// Values of the chart for all tests.
pub(crate) fn values() -> Value {
    json!({
        "image": {"repository": "plumbline.dev/plumbline-operator"},
        "trainer": {"image": {"repository": "plumbline.dev/plumbline-trainer"}},
        "artifactRoot": "pvc://results",
        "inputCache": "pvc://results/.inputs",
        // Of two, the one that waits would refuse half of the progress that is told in so short a time.
        "replicas": 1,
        // Any user will do: nothing of the image is written to, or readable by one user only.
        "podSecurityContext": {"runAsUser": 1_234_567},
    })
}
