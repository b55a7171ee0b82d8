//! The real operator on the kit's cluster, in a namespace of its own. Talks to processes and to the API server.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use plumbline_crds::Kind;
use plumbline_crds::conditions::{ConditionStatus, ConditionType, Reason};
use plumbline_crds::status::Status;
use plumbline_operator::cluster::kinds::api;
use plumbline_operator::cluster::objects::{MANAGED_BY, MANAGED_BY_LABEL};
use plumbline_operator::cluster::outcome::is_finished;
use plumbline_operator::cluster::rbac;
use serde_json::{Value, json};

use crate::cluster::{Cluster, FakeNode, Namespace, Requests, until};
use crate::programs::{plumbline, text};

/// Name of the operator's service account.
pub const OPERATOR: &str = rbac::NAME;

/// A running operator, which is killed when the value is dropped.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    log: PathBuf,
}

impl Operator {
    /// Starts an operator for a namespace, with additional arguments.
    pub fn start(namespace: &Namespace, kubeconfig: &Path, arguments: &[&str]) -> Self {
        let own = ["operator", "--watch-namespace", namespace.name(), "--lease-namespace", namespace.name()];
        let image = ["--trainer-image", "trainer:test"];
        let addresses = ["--metrics-address", "127.0.0.1:0", "--progress-address", "127.0.0.1:0"];
        let progress = ["--progress-url", "http://operator.test:8090"];
        Self::run(kubeconfig, &[&own[..], &image, &addresses, &progress, arguments].concat())
    }

    /// Starts an operator with only these arguments.
    pub fn run(kubeconfig: &Path, arguments: &[&str]) -> Self {
        let log = tempfile::Builder::new().prefix("operator-").suffix(".log").tempfile().unwrap().keep().unwrap().1;
        let file = File::create(&log).unwrap();
        let child = Command::new(plumbline())
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The address on which its server for `metrics` or `progress` listens.
    pub async fn address(&self, server: &str) -> String {
        until(&format!("the operator serves {server}"), async || {
            self.log().lines().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                let listens = line["message"] == "listening" && line["server"] == server;
                listens.then(|| line["address"].as_str().unwrap().to_owned())
            })
        })
        .await
    }

    /// Sends a GET request to the metrics server, such as `/metrics`. Returns status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.address("metrics").await);
        let answer = reqwest::get(url).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Asks it to stop, as a kubelet does, and waits until it has exited.
    pub fn stop(&mut self) -> std::process::ExitStatus {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM)
            .unwrap();
        self.child.wait().unwrap()
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// Waits until it exits by itself, as it does when it cannot renew its lease.
    pub async fn ended(&mut self) {
        while self.child.try_wait().unwrap().is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the operator's log\n{}", self.log());
        }
        let _ = fs::remove_file(&self.log);
    }
}

/// A namespace for one test, with the claims that manifests name.
#[allow(missing_debug_implementations, reason = "a client has none")]
pub struct Scene {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// The namespace.
    pub namespace: Namespace,
    /// An administrator's client.
    pub client: Client,
    /// The simulated node of its pods.
    pub node: FakeNode,
}

impl Scene {
    /// A new scene without an operator, on the shared cluster.
    pub async fn new(prefix: &str) -> Self {
        Self::on(Cluster::shared(), prefix).await
    }

    /// A new scene on another cluster.
    pub async fn on(cluster: &'static Cluster, prefix: &str) -> Self {
        let namespace = cluster.namespace(prefix).await;
        let (client, node) = (cluster.client().await, namespace.node().await);
        let scene = Self { cluster, namespace, client, node };
        for claim in ["models", "results"] {
            scene.create_claim(claim).await;
        }
        scene
    }

    /// Starts the operator with exactly the permissions of its manifests.
    pub async fn operator(&self) -> Operator {
        Operator::start(&self.namespace, &self.account().await, &[])
    }

    /// A kubeconfig for the operator's service account, with the permissions of its manifests.
    pub async fn account(&self) -> PathBuf {
        let namespace = self.namespace.name();
        for mut manifest in rbac::manifests(namespace, Some(namespace), false) {
            let resource = match manifest["kind"].as_str().unwrap() {
                "ServiceAccount" => ApiResource::erase::<ServiceAccount>(&()),
                "Role" => ApiResource::erase::<Role>(&()),
                "RoleBinding" => ApiResource::erase::<RoleBinding>(&()),
                "ClusterRole" => ApiResource::erase::<ClusterRole>(&()),
                _ => ApiResource::erase::<ClusterRoleBinding>(&()),
            };
            let within = manifest["metadata"]["namespace"].as_str().map(str::to_owned);
            if within.is_none() {
                // Tests share cluster-scoped objects, so each test has names of its own.
                let own = |name: &Value| json!(format!("{}-{namespace}", name.as_str().unwrap()));
                manifest["metadata"]["name"] = own(&manifest["metadata"]["name"]);
                if manifest["roleRef"].is_object() {
                    manifest["roleRef"]["name"] = own(&manifest["roleRef"]["name"]);
                }
            }
            self.apply_any(&resource, within.as_deref(), &manifest).await;
        }
        self.namespace.kubeconfig_for(OPERATOR).await
    }

    async fn apply_any(&self, resource: &ApiResource, namespace: Option<&str>, object: &Value) {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        };
        let name = object["metadata"]["name"].as_str().unwrap();
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(object)).await.unwrap();
    }

    /// Creates a PersistentVolumeClaim.
    pub async fn create_claim(&self, name: &str) {
        let claim = serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
            "accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}}))
        .unwrap();
        let claims: Api<PersistentVolumeClaim> = self.within();
        claims.create(&PostParams::default(), &claim).await.unwrap();
    }

    /// Access to the namespace's objects of a Kubernetes kind.
    fn within<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), self.namespace.name())
    }

    /// Access to the resources of a kind.
    pub fn api(&self, kind: Kind) -> Api<DynamicObject> {
        api(&self.client, kind, self.namespace.name())
    }

    /// Applies a resource as `kubectl apply --server-side` does.
    pub async fn apply(&self, resource: &Value) {
        let kind = Kind::parse(resource["kind"].as_str().unwrap()).unwrap();
        let name = resource["metadata"]["name"].as_str().unwrap();
        let params = PatchParams::apply("test").force();
        self.api(kind).patch(name, &params, &Patch::Apply(resource)).await.unwrap();
    }

    /// Changes a resource's spec by a merge patch.
    pub async fn change(&self, kind: Kind, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.api(kind).patch(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// The status of a resource; the default if it has none.
    pub async fn status(&self, kind: Kind, name: &str) -> Status {
        let object = self.api(kind).get(name).await.unwrap();
        object.data.get("status").map_or_else(Status::default, |s| serde_json::from_value(s.clone()).unwrap())
    }

    /// Waits until a resource's Ready condition has a given reason for the current generation.
    pub async fn until_reason(&self, kind: Kind, name: &str, reason: Reason) -> Status {
        let what = format!("{kind}/{name} says {reason:?}");
        until(&what, async || {
            let object = self.api(kind).get(name).await.unwrap();
            let status: Status = serde_json::from_value(object.data.get("status")?.clone()).unwrap();
            let current = Some(status.observed_generation) == object.metadata.generation;
            let ready = status.condition(ConditionType::Ready)?;
            (current && ready.reason == reason).then_some(status)
        })
        .await
    }

    /// Waits until a resource has a Job that is neither finished nor being deleted. Returns its name.
    pub async fn job(&self, kind: Kind, name: &str) -> String {
        until(&format!("{kind}/{name} has a Job"), async || {
            let job = self.status(kind, name).await.job?.name;
            let found = self.within::<Job>().get_opt(&job).await.unwrap()?;
            (found.metadata.deletion_timestamp.is_none() && !is_finished(&found)).then_some(job)
        })
        .await
    }

    /// All Jobs of the namespace.
    pub async fn jobs(&self) -> Vec<Job> {
        let jobs: Api<Job> = self.within();
        jobs.list(&ListParams::default()).await.unwrap().items
    }

    /// Deletes a resource as `kubectl delete` does.
    pub async fn delete(&self, kind: Kind, name: &str) {
        self.api(kind).delete(name, &DeleteParams::background()).await.unwrap();
    }

    /// Waits until a pod is being deleted, and ends it.
    pub async fn let_end(&self, pod: &Pod) {
        let pods: Api<Pod> = self.within();
        let name = pod.name_any();
        until(&format!("{name} is being deleted"), async || {
            pods.get_opt(&name).await.unwrap().is_none_or(|p| p.metadata.deletion_timestamp.is_some()).then_some(())
        })
        .await;
        self.node.remove(pod).await;
    }

    /// Waits until a Job is deleted.
    pub async fn until_gone(&self, job: &str) {
        until(&format!("Job {job} is gone"), async || {
            self.jobs().await.iter().all(|j| j.name_any() != job).then_some(())
        })
        .await;
    }

    /// Number of Jobs ever created in the namespace.
    pub fn jobs_made(&self) -> usize {
        let made = Requests { verb: "create", resource: "jobs", ..Requests::default() };
        self.namespace.audit().iter().filter(|line| made.matches(line) && line.is_write()).count()
    }

    /// Everything that the operator is responsible for, without times and UIDs: resources with their statuses, and its
    /// objects.
    pub async fn state(&self) -> Value {
        let mut state = json!({});
        for kind in Kind::ALL {
            for object in self.api(kind).list(&ListParams::default()).await.unwrap() {
                state[format!("{kind}/{}", object.name_any())] = masked(object.data["status"].clone());
            }
        }
        let ours = ListParams::default().labels(&format!("{MANAGED_BY_LABEL}={MANAGED_BY}"));
        let jobs: Api<Job> = self.within();
        for job in jobs.list(&ours).await.unwrap() {
            let annotations = job.annotations().clone();
            let expires = job.spec.as_ref().and_then(|s| s.ttl_seconds_after_finished);
            state[format!("Job/{}", job.name_any())] = json!([annotations, expires]);
        }
        let maps: Api<ConfigMap> = self.within();
        for map in maps.list(&ours).await.unwrap() {
            let text = json!(map.data).to_string().replace(self.namespace.name(), "NAMESPACE");
            state[format!("ConfigMap/{}", map.name_any())] = json!(text);
        }
        let accounts: Api<ServiceAccount> = self.within();
        for account in accounts.list(&ours).await.unwrap() {
            state[format!("ServiceAccount/{}", account.name_any())] = json!({});
        }
        state
    }

    /// Waits for the pod of a resource's Job.
    pub async fn pod(&self, kind: Kind, name: &str) -> Pod {
        self.node.pod(&self.job(kind, name).await).await
    }

    /// The trainer of a resource succeeds, with an artifact of this digest.
    pub async fn succeed(&self, kind: Kind, name: &str, digest: &str) {
        let pod = self.pod(kind, name).await;
        self.node.run(&pod).await;
        self.node.succeed(&pod, &completed(digest).to_string()).await;
    }

    /// Runs kubectl in the namespace, and returns its output.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        // kubectl caches the list of kinds for hours, and may have done so before our CRDs were installed.
        let cache = format!("--cache-dir={}", self.cluster.folder().join(self.namespace.name()).display());
        let all: Vec<&str> = [&cache, "-n", self.namespace.name()].iter().chain(arguments).copied().collect();
        let output = self.cluster.kubectl(&all);
        assert!(output.status.success(), "kubectl {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

/// Masks values that differ between runs.
fn masked(mut value: Value) -> Value {
    const VARIES: [&str; 7] = [
        "lastTransitionTime",
        "startTime",
        "completionTime",
        "lastUpdateTime",
        "uid",
        "activeSeconds",
        "lastCountedTime",
    ];
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|name, _| !VARIES.contains(&name.as_str()));
            fields.values_mut().for_each(|v| *v = masked(v.take()));
        }
        Value::Array(items) => items.iter_mut().for_each(|v| *v = masked(v.take())),
        _ => {}
    }
    value
}

/// The result of a stage that produced an artifact.
pub fn completed(digest: &str) -> Value {
    json!({
        "reason": "Completed", "message": "made",
        "artifact": {"uri": "/var/lib/plumbline/claims/results/x", "digest": digest, "sizeBytes": 10, "createdTime": "2026-01-01T00:00:00Z"},
        "inputs": [{"role": "baseModel", "name": "m", "digest": "sha256:m"}, {"role": "policyModel", "name": "m", "digest": "sha256:m"}],
        "counts": {"pairs": 7}, "evaluation": {"accuracy": "0.8", "winRate": "0.7"},
    })
}

/// A minimal resource of a kind. `change`: replaces fields of its spec; null removes them.
pub fn resource(kind: Kind, name: &str, change: &Value) -> Value {
    let mut spec = match kind {
        Kind::PreferenceDataset => json!({
            "prompts": {"inline": ["a", "b"]}, "generator": {"model": {"uri": "pvc://models/sft"}},
            "judges": [{"name": "j", "model": {"uri": "pvc://models/judge"}}],
        }),
        Kind::RewardModel => json!({"datasetRef": {"name": name}, "baseModel": {"uri": "pvc://models/sft"}}),
        Kind::PolicyTuning => json!({
            "method": "PPO", "policyModel": {"uri": "pvc://models/sft"}, "rewardModelRef": {"name": name},
            "prompts": {"inline": ["a", "b"]},
        }),
    };
    spec["output"] = json!({"uri": format!("pvc://results/{}/{name}", kind.plural())});
    for (key, value) in change.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    json!({"apiVersion": plumbline_crds::API_VERSION, "kind": kind.to_string(), "metadata": {"name": name}, "spec": spec})
}

/// The change for [`resource`] that makes a resource independent of others.
pub fn alone(kind: Kind) -> Value {
    match kind {
        Kind::PreferenceDataset => json!({}),
        Kind::RewardModel => json!({"datasetRef": null, "dataset": {"uri": "pvc://models/pairs.jsonl"}}),
        Kind::PolicyTuning => json!({
            "method": "DPO", "rewardModelRef": null, "prompts": null, "dataset": {"uri": "pvc://models/pairs.jsonl"}
        }),
    }
}

/// Status and reason of a condition.
pub fn condition(status: &Status, kind: ConditionType) -> (ConditionStatus, Reason) {
    let condition = status.condition(kind).unwrap_or_else(|| panic!("{kind:?} is not set: {status:?}"));
    (condition.status, condition.reason)
}
