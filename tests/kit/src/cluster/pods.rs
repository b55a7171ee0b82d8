//! Simulates the scheduler and the kubelet by writing what they would write; no container runs. Talks to the API
//! server.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Binding, Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ObjectReference, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{
    Api, DeleteParams, EvictParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions,
};
use serde_json::{Value, json};

use super::wait::until;

/// Name of the node that pods are bound to. There is no Node object of this name.
pub const NODE: &str = "fake-node";

/// Name of the container that runs a stage.
const TRAINER: &str = "trainer";

/// The simulated node of a namespace.
#[derive(Debug, Clone)]
pub struct FakeNode {
    pods: Api<Pod>,
}

/// How the container `trainer` ended.
#[derive(Debug, Clone, Copy)]
pub struct Exit<'a> {
    /// Exit code; 128 plus the signal's number after a signal.
    pub code: i32,
    /// Reason in the kubelet's terms: `Completed`, `Error`, `OOMKilled`.
    pub reason: &'a str,
    /// Content of `/dev/termination-log`.
    pub message: &'a str,
}

impl FakeNode {
    /// A node for these pods.
    pub(super) fn new(pods: Api<Pod>) -> Self {
        Self { pods }
    }

    /// The pods of a Job, oldest first.
    pub async fn pods(&self, job: &str) -> Vec<Pod> {
        let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        let mut pods = self.pods.list(&of_job).await.unwrap().items;
        pods.sort_by_key(|pod| (pod.creation_timestamp(), pod.name_any()));
        pods
    }

    /// Waits until a Job has a pod that has not ended and is not being deleted.
    pub async fn pod(&self, job: &str) -> Pod {
        let what = format!("Job {job} has a pod that is active");
        until(&what, async || self.pods(job).await.into_iter().find(is_active)).await
    }

    /// Marks the pod as unschedulable: no node has the resources that it requests.
    pub async fn unschedulable(&self, pod: &Pod, message: &str) -> Pod {
        let condition = condition("PodScheduled", false, "Unschedulable", message);
        self.write(pod, json!({"phase": "Pending", "conditions": [condition]})).await
    }

    /// A container cannot start: `ImagePullBackOff`, `CreateContainerConfigError`. Those before it have started.
    pub async fn waiting(&self, pod: &Pod, container: &str, reason: &str, message: &str) -> Pod {
        self.schedule(pod).await;
        let spec = pod.spec.as_ref().unwrap();
        let order: Vec<&str> = containers(spec).map(|(_, c)| c.name.as_str()).collect();
        let blocked = order.iter().position(|name| *name == container).unwrap();
        let blocks_others = blocked < init_containers(spec).len();
        let status = statuses(pod, |role, name| {
            let place = order.iter().position(|n| *n == name).unwrap();
            match role {
                _ if place == blocked => waiting(reason, message),
                _ if place > blocked && blocks_others => waiting("PodInitializing", ""),
                Role::Init => terminated(0, "Completed", ""),
                Role::Sidecar | Role::Main => running(),
            }
        });
        let conditions = [
            condition("Initialized", !blocks_others, "", ""),
            condition("ContainersReady", false, "ContainersNotReady", ""),
            condition("Ready", false, "ContainersNotReady", ""),
        ];
        self.write(pod, with(status, "Pending", &conditions)).await
    }

    /// Marks all containers as running and ready.
    pub async fn run(&self, pod: &Pod) -> Pod {
        self.schedule(pod).await;
        let status = statuses(pod, |role, _| match role {
            Role::Init => terminated(0, "Completed", ""),
            Role::Sidecar | Role::Main => running(),
        });
        let conditions = ["Initialized", "ContainersReady", "Ready"].map(|type_| condition(type_, true, "", ""));
        self.write(pod, with(status, "Running", &conditions)).await
    }

    /// The trainer exits with code 0 and a termination message.
    pub async fn succeed(&self, pod: &Pod, message: &str) -> Pod {
        self.end(pod, Exit { code: 0, reason: "Completed", message }).await
    }

    /// The trainer exits, and its pod ends: native sidecars are stopped, and the other containers exit with code 0.
    pub async fn end(&self, pod: &Pod, exit: Exit<'_>) -> Pod {
        self.schedule(pod).await;
        let spec = pod.spec.as_ref().unwrap();
        assert!(spec.containers.iter().any(|c| c.name == TRAINER), "{} has no container {TRAINER}", pod.name_any());
        let status = statuses(pod, |_, name| match name {
            TRAINER => terminated(exit.code, exit.reason, exit.message),
            _ => terminated(0, "Completed", ""),
        });
        let (phase, reason) = if exit.code == 0 { ("Succeeded", "PodCompleted") } else { ("Failed", "PodFailed") };
        let conditions = [
            condition("Initialized", true, reason, ""),
            condition("ContainersReady", false, reason, ""),
            condition("Ready", false, reason, ""),
        ];
        self.write(pod, with(status, phase, &conditions)).await
    }

    /// Evicts a running pod as a drain of its node does: the API server marks it as disrupted, and starts its deletion.
    pub async fn evict(&self, pod: &Pod) -> Pod {
        self.pods.evict(&pod.name_any(), &EvictParams::default()).await.unwrap();
        self.pods.get(&pod.name_any()).await.unwrap()
    }

    /// Preempts a pod for one of higher priority: the scheduler marks it as disrupted, and deletes it.
    pub async fn preempt(&self, pod: &Pod) -> Pod {
        let message = "preempted to make room for a pod of higher priority";
        let condition = condition("DisruptionTarget", true, "PreemptionByScheduler", message);
        self.write(pod, json!({"conditions": [condition]})).await;
        self.pods.delete(&pod.name_any(), &DeleteParams::default()).await.unwrap();
        self.pods.get(&pod.name_any()).await.unwrap()
    }

    /// The node runs out of memory or disk: the kubelet fails the pod, and does not delete it.
    pub async fn evict_by_kubelet(&self, pod: &Pod, message: &str) -> Pod {
        self.schedule(pod).await;
        let condition = condition("DisruptionTarget", true, "TerminationByKubelet", message);
        let mut status = statuses(pod, |_, _| terminated(137, "Error", ""));
        status["reason"] = "Evicted".into();
        status["message"] = message.into();
        self.write(pod, with(status, "Failed", &[condition])).await
    }

    /// The pod exceeds the limit of a volume: the kubelet asks it to stop and fails it, without a condition that says
    /// so.
    pub async fn evict_overfull(&self, pod: &Pod, message: &str) -> Pod {
        self.schedule(pod).await;
        let mut status = statuses(pod, |_, _| terminated(75, "Error", ""));
        status["reason"] = "Evicted".into();
        status["message"] = message.into();
        self.write(pod, with(status, "Failed", &[])).await
    }

    /// Confirms a deletion as the kubelet does once the containers have ended, with or without [`Self::end`]. The pod
    /// disappears as soon as the Job has counted it.
    pub async fn remove(&self, pod: &Pod) {
        let name = pod.name_any();
        let Some(found) = self.pods.get_opt(&name).await.unwrap() else { return };
        assert!(found.metadata.deletion_timestamp.is_some(), "nobody has deleted {name}");
        let this = Preconditions { uid: pod.uid(), ..Preconditions::default() };
        let now = DeleteParams::default().grace_period(0).preconditions(this);
        self.pods.delete(&name, &now).await.unwrap();
        until(&format!("{name} is gone"), async || {
            self.pods.get_opt(&name).await.unwrap().is_none_or(|p| p.uid() != pod.uid()).then_some(())
        })
        .await;
    }

    /// Binds the pod as the scheduler does, unless it is bound.
    async fn schedule(&self, pod: &Pod) {
        let name = pod.name_any();
        if self.pods.get(&name).await.unwrap().spec.unwrap().node_name.is_some() {
            return;
        }
        let binding = Binding {
            metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
            target: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(NODE.to_owned()),
                ..ObjectReference::default()
            },
        };
        let _: Value = self.pods.create_subresource("binding", &name, &PostParams::default(), &binding).await.unwrap();
    }

    /// Patches the pod's status: conditions are merged by type; other lists are replaced.
    async fn write(&self, pod: &Pod, status: Value) -> Pod {
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        self.pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.unwrap()
    }
}

fn is_active(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// The role of a container in its pod.
#[derive(Clone, Copy)]
enum Role {
    /// Ends before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: a native sidecar.
    Sidecar,
    /// One of `spec.containers`.
    Main,
}

fn init_containers(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// The containers in the order in which they start.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let role = |c: &Container| if c.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init };
    let first = init_containers(spec).iter().map(move |c| (role(c), c));
    first.chain(spec.containers.iter().map(|c| (Role::Main, c)))
}

/// The statuses of all containers. `state`: the state of each.
fn statuses(pod: &Pod, state: impl Fn(Role, &str) -> ContainerState) -> Value {
    let (mut init, mut main) = (Vec::new(), Vec::new());
    for (role, container) in containers(pod.spec.as_ref().unwrap()) {
        let state = state(role, &container.name);
        let runs = state.running.is_some();
        let status = ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            // A finished init container is `ready` too.
            ready: runs || (matches!(role, Role::Init) && state.terminated.as_ref().is_some_and(|t| t.exit_code == 0)),
            started: Some(runs),
            state: Some(state),
            ..ContainerStatus::default()
        };
        match role {
            Role::Init | Role::Sidecar => init.push(status),
            Role::Main => main.push(status),
        }
    }
    let started = pod.status.as_ref().and_then(|s| s.start_time.clone()).unwrap_or(Time(Timestamp::now()));
    json!({"initContainerStatuses": init, "containerStatuses": main, "startTime": started})
}

fn running() -> ContainerState {
    let running = ContainerStateRunning { started_at: Some(Time(Timestamp::now())) };
    ContainerState { running: Some(running), ..ContainerState::default() }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn terminated(exit_code: i32, reason: &str, message: &str) -> ContainerState {
    let terminated = ContainerStateTerminated {
        exit_code,
        reason: Some(reason.to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
        finished_at: Some(Time(Timestamp::now())),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn condition(type_: &str, holds: bool, reason: &str, message: &str) -> Value {
    let status = if holds { "True" } else { "False" };
    let now = Timestamp::now();
    json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": now})
}

fn with(mut status: Value, phase: &str, conditions: &[Value]) -> Value {
    status["phase"] = phase.into();
    status["conditions"] = conditions.into();
    status
}
