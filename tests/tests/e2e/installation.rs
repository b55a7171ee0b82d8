//! Plumbline on a cluster, and a team's namespace on it. Talks to kubectl and files.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use plumbline_crds::status::Status;
use plumbline_tests::cluster::NodeCluster;
use plumbline_tests::fixture;
use plumbline_tests::helm::{CHART, Helm, RELEASE};
use plumbline_tests::programs::images;
use serde_json::{Value, json};

/// The namespace of the runs.
pub(crate) const TEAM: &str = "team";
/// The namespace of the operator.
const SYSTEM: &str = "plumbline";
/// How long something may take that takes a second.
const PATIENCE: Duration = Duration::from_mins(2);

/// The operator in a pod, and a namespace with the claims `models` and `results`.
pub(crate) struct Installation<'a> {
    cluster: &'a NodeCluster,
    results: PathBuf,
}

impl<'a> Installation<'a> {
    /// Brings in the images, installs the chart and waits until its operator leads.
    pub(crate) fn new(cluster: &'a NodeCluster) -> Self {
        for image in ["operator.tar", "trainer.tar"] {
            cluster.import(&images().join(image));
        }
        for namespace in [SYSTEM, TEAM] {
            let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
            let metadata = json!({"name": namespace, "labels": labels});
            cluster.apply(&[json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})]);
        }
        let helm = Helm::on(&cluster.kubeconfig());
        let values = helm.file(&values());
        let of_release = [RELEASE, "--namespace", SYSTEM, "--timeout", "2m"];
        helm.says(&[&["install"], &of_release[..], &[CHART, "--values", &values, "--wait"]].concat());
        helm.says(&[&["test"], &of_release[..]].concat());
        let [models, results] = ["models", "results"].map(|name| cluster.claim(TEAM, name));
        let copied = Command::new("cp").arg("-rT").arg(fixture::path("")).arg(&models).status().unwrap();
        assert!(copied.success());
        Self { cluster, results }
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl(&[&["-n", TEAM], arguments].concat())
    }

    /// Applies resources.
    pub(crate) fn apply(&self, manifests: &[Value]) {
        let in_namespace = |manifest: &Value| {
            let mut manifest = manifest.clone();
            manifest["metadata"]["namespace"] = json!(TEAM);
            manifest
        };
        self.cluster.apply(&manifests.iter().map(in_namespace).collect::<Vec<_>>());
    }

    /// Waits for a resource as people do.
    pub(crate) fn until_ready(&self, resource: &str, most: Duration) -> Status {
        let timeout = format!("--timeout={}s", most.as_secs());
        let arguments = ["-n", TEAM, "wait", "--for=condition=Ready", resource, &timeout];
        if !self.cluster.try_kubectl(&arguments).status.success() {
            self.explain();
            panic!("{resource} did not become ready");
        }
        let object: Value = serde_json::from_str(&self.kubectl(&["get", resource, "-o", "json"])).unwrap();
        serde_json::from_value(object["status"].clone()).unwrap()
    }

    /// Prints what tells why nothing goes on.
    fn explain(&self) {
        eprintln!("{}", self.kubectl(&["get", "rlaif,jobs,pods", "-o", "wide"]));
        eprintln!("{}", self.kubectl(&["describe", "rlaif,pods"]));
        eprintln!("{}", self.cluster.kubectl(&["-n", SYSTEM, "logs", "deployment/plumbline", "--tail=40"]));
    }

    /// Where this machine has an artifact.
    pub(crate) fn artifact(&self, uri: &str) -> PathBuf {
        self.results.join(uri.strip_prefix("pvc://results/").unwrap())
    }

    /// The lines of a metric of the operator.
    pub(crate) fn metrics(&self, name: &str) -> String {
        let path = format!("/api/v1/namespaces/{SYSTEM}/services/plumbline:metrics/proxy/metrics");
        let text = self.cluster.kubectl(&["get", "--raw", &path]);
        text.lines().filter(|line| line.starts_with(name)).collect::<Vec<_>>().join("\n")
    }

    /// Deletes a resource with what it made, and applies it again; waits until it is trained for so many steps.
    pub(crate) fn begin_again(&self, resource: &str, manifest: &Value, steps: usize) {
        let object: Value = serde_json::from_str(&self.kubectl(&["get", resource, "-o", "json"])).unwrap();
        let artifact = self.artifact(object["status"]["artifact"]["uri"].as_str().unwrap());
        let work = artifact.with_file_name(format!(".{}.work", object["metadata"]["name"].as_str().unwrap()));
        self.kubectl(&["delete", resource, "--timeout=120s"]);
        for folder in [&work, &artifact] {
            fs::remove_dir_all(folder).unwrap();
        }
        self.apply(std::slice::from_ref(manifest));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let runs = fs::read_dir(&work).into_iter().flatten().flatten();
            let metrics = runs.map(|run| fs::read_to_string(run.path().join("metrics.jsonl")).unwrap_or_default());
            if metrics.map(|text| text.lines().count()).sum::<usize>() >= steps {
                return;
            }
            assert!(Instant::now() < deadline, "never: step {steps} of {resource}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The pod that was made last for a resource.
    pub(crate) fn pod(&self, name: &str) -> String {
        let selector = format!("plumbline.dev/name={name}");
        let sorted = "--sort-by=.metadata.creationTimestamp";
        let pods = self.kubectl(&["get", "pods", "-l", &selector, sorted, "-o", "jsonpath={.items[*].metadata.name}"]);
        pods.split_whitespace().last().unwrap().to_owned()
    }

    /// Deletes a pod as people do who will not wait.
    pub(crate) fn take_away(&self, pod: &str) {
        self.kubectl(&["delete", "pod", pod, "--force", "--grace-period=0"]);
    }

    /// Ends the trainer of a pod as the kernel does that has no memory left.
    pub(crate) fn kill_trainer(&self, pod: &str) {
        let id = self.kubectl(&["get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].containerID}"]);
        self.cluster.containerd(&["tasks", "kill", "--signal", "SIGKILL", id.strip_prefix("containerd://").unwrap()]);
    }
}

/// Values of the chart.
fn values() -> Value {
    json!({
        "image": {"repository": "plumbline.dev/plumbline-operator"},
        "trainer": {"image": {"repository": "plumbline.dev/plumbline-trainer"}},
        "artifactRoot": "pvc://results",
        // Of two, the one that waits would refuse half of the progress that is told in so short a time.
        "replicas": 1,
        // Any user will do: nothing of the image is written to, or readable by one user only.
        "podSecurityContext": {"runAsUser": 1_234_567},
    })
}
