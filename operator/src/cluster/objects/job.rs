//! The Job of a run (`batch/v1` JobSpec). Computes only.

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use plumbline_crds::Resource;
use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::status::JobRef;

use super::{Request, labels, metadata, pod, service};
use crate::plan::retry::failures;

/// What a container runtime reports of a container that was lost with its node's power, or with the runtime itself.
pub const LOST: i32 = 255;
/// Label that makes Kueue admit a Job (kueue.sigs.k8s.io, "Run a Kubernetes Job").
pub const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";
/// What labels that Kueue reads begin with.
const KUEUE_PREFIX: &str = "kueue.x-k8s.io/";
/// Annotation with what earlier Jobs of the same run have counted.
const BEFORE: &str = "plumbline.dev/before";
/// Annotation with the accelerator seconds of earlier Jobs of the same run.
const HELD_BEFORE: &str = "plumbline.dev/accelerator-seconds-before";
/// Annotation with the accelerators of a pod.
const ACCELERATORS: &str = "plumbline.dev/accelerators";

pub(super) fn job(request: &Request) -> Job {
    let compute = request.resource.spec.compute();
    let (before, several) = (request.job, service::has_several_pods(request));
    let mut metadata = metadata(request, before.name.clone());
    let labels_of_job = metadata.labels.get_or_insert_default();
    labels_of_job.extend(for_kueue(request.resource));
    if let Some(queue) = &compute.queue_name {
        labels_of_job.insert(QUEUE_LABEL.into(), queue.clone());
    }
    let counted =
        serde_json::to_string(&JobRef { uid: None, last_counted_time: None, ..before.clone() }).unwrap_or_default();
    metadata.annotations =
        Some([(BEFORE.to_owned(), counted), (HELD_BEFORE.to_owned(), request.accelerator_seconds.to_string())].into());
    let resource = request.resource;
    let template = ObjectMeta {
        labels: Some(labels(resource.kind, &resource.metadata.name)),
        annotations: Some([(ACCELERATORS.to_owned(), compute.accelerators.to_string())].into()),
        ..ObjectMeta::default()
    };
    Job {
        metadata,
        spec: Some(JobSpec {
            completion_mode: several.then(|| "Indexed".into()),
            completions: Some(compute.nodes as i32),
            parallelism: Some(compute.nodes as i32),
            // Of several pods that train together none can go on without the others. With the first that fails the Job
            // has failed, whatever the cause, and the cluster ends the rest: all begin again in a new Job, which the
            // operator makes and counts as one attempt.
            backoff_limit: Some(if several {
                0
            } else {
                compute.max_retries.saturating_sub(failures(before)).clamp(0, 100) as i32
            }),
            active_deadline_seconds: compute
                .deadline_seconds
                .map(|most| most.saturating_sub(before.active_seconds).max(1)),
            pod_failure_policy: (!several).then(|| failure_policy(pod::fetches(request.inputs))),
            // Two pods of a run must never hold one work folder.
            pod_replacement_policy: Some("Failed".into()),
            template: PodTemplateSpec { metadata: Some(template), spec: Some(pod::spec(request)) },
            ..JobSpec::default()
        }),
        status: None,
    }
}

/// What a resource tells Kueue of its Job, in Kueue's own labels: `priority-class`, `max-exec-time-seconds`.
fn for_kueue(resource: &Resource) -> impl Iterator<Item = (String, String)> {
    let labels = resource.metadata.labels.clone().into_iter();
    labels.filter(|(name, _)| name.starts_with(KUEUE_PREFIX))
}

/// The pods of a Job that train together; 1 where one is alone.
pub fn pod_count(job: &Job) -> i64 {
    job.spec.as_ref().and_then(|s| s.completions).map_or(1, i64::from)
}

/// The rank of a pod (annotation of the Job controller).
pub fn rank(pod: &Pod) -> i64 {
    let index = pod.metadata.annotations.as_ref().and_then(|a| a.get("batch.kubernetes.io/job-completion-index"));
    index.and_then(|i| i.parse().ok()).unwrap_or(0)
}

/// What earlier Jobs of the run had counted when this one was created.
pub fn counted_before(job: &Job) -> JobRef {
    let text = job.metadata.annotations.as_ref().and_then(|a| a.get(BEFORE));
    text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or(JobRef { attempt: 1, ..JobRef::default() })
}

/// Accelerator seconds of the run when this Job was created.
pub fn accelerator_seconds_before(job: &Job) -> i64 {
    let text = job.metadata.annotations.as_ref().and_then(|a| a.get(HELD_BEFORE));
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// The accelerators that a pod holds.
pub fn accelerators(pod: &Pod) -> i64 {
    let text = pod.metadata.annotations.as_ref().and_then(|a| a.get(ACCELERATORS));
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

/// By the trainer's exit codes: what cannot end differently fails at once, what was nobody's fault does not count, and
/// the rest counts against the retries.
fn failure_policy(fetches: bool) -> PodFailurePolicy {
    let codes = |container: &str, action: &str, codes: Vec<i32>| PodFailurePolicyRule {
        action: action.into(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(container.into()),
            operator: "In".into(),
            values: codes,
        }),
        on_pod_conditions: None,
    };
    let numbers = |wanted: fn(&ExitCode) -> bool| -> Vec<i32> {
        ExitCode::ALL.iter().filter(|c| wanted(c)).map(|c| i32::from(c.number())).collect()
    };
    let disrupted = PodFailurePolicyRule {
        action: "Ignore".into(),
        on_exit_codes: None,
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: "DisruptionTarget".into(),
            status: "True".into(),
        }]),
    };
    let containers = [pod::TRAINER].into_iter().chain(fetches.then_some(pod::FETCH));
    let by_code = containers.flat_map(|container| {
        [
            codes(container, "FailJob", numbers(|c| !c.retryable() && *c != ExitCode::Done)),
            codes(container, "Ignore", vec![i32::from(ExitCode::Interrupted.number()), LOST]),
        ]
    });
    PodFailurePolicy { rules: by_code.chain([disrupted]).collect() }
}
