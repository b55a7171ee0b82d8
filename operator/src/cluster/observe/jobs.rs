//! Looks at the Jobs of a resource, their pods and what Kueue says of them. Reads from the API server.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, Event, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};
use plumbline_crds::Resource;

use super::selector;
use crate::cluster::lists::listed;
use crate::cluster::objects::job::QUEUE_LABEL;
use crate::cluster::outcome;
use crate::cluster::queue::Workload;
use crate::cluster::snapshot::{JobState, ObservedResource};
use crate::cluster::times::timestamp;
use crate::cluster::writes::is_owned_by;

/// The Jobs of a resource, whatever they are called.
pub(super) async fn jobs(client: &Client, observed: &ObservedResource) -> Result<Vec<Job>, kube::Error> {
    let Resource { kind, metadata, .. } = &observed.resource;
    let labelled = ListParams::default().labels(&selector(*kind, &metadata.name));
    let api: Api<Job> = Api::namespaced(client.clone(), metadata.namespace.as_deref().unwrap_or_default());
    listed(&api, labelled, |job: Job| is_owned_by(&job, &observed.uid).then_some(job)).await
}

/// A Job with its pods. `kueue`: whether to ask what Kueue says of it. `now` in RFC 3339.
pub(super) async fn job_state(
    client: &Client,
    namespace: &str,
    job: Job,
    kueue: bool,
    now: &str,
) -> Result<JobState, kube::Error> {
    // By its UID: pods of one of the same name that was deleted before may be there still.
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/controller-uid={uid}"));
    let own = |pod: Pod| is_owned_by(&pod, uid).then(|| slim(pod));
    let pods = listed(&Api::<Pod>::namespaced(client.clone(), namespace), of_job, own).await?;
    let mut refusal = None;
    if outcome::lacks_a_pod(&job, &pods, now) {
        refusal = why_refused(client, namespace, &job, outcome::last_end(&pods).as_deref()).await?;
    }
    let queued = kueue && job.metadata.labels.as_ref().is_some_and(|l| l.contains_key(QUEUE_LABEL));
    let workload = if queued { workload(client, namespace, &job).await? } else { None };
    Ok(JobState { job, pods, refusal, workload })
}

/// The Workload that Kueue keeps for a Job; none where there is none yet, or no Kueue that has them in this version.
async fn workload(client: &Client, namespace: &str, job: &Job) -> Result<Option<Workload>, kube::Error> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("kueue.x-k8s.io", "v1beta2", "Workload"));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let of_job = ListParams::default().labels(&format!("kueue.x-k8s.io/job-uid={uid}")).limit(1);
    match api.list(&of_job).await {
        Ok(found) => Ok(found.items.into_iter().find_map(|object| serde_json::from_value(object.data).ok())),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_forbidden() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why the next pod of a Job cannot be made: the Job controller says it in an event and nowhere else. `since`: when the last
/// pod ended; what was said before is over (RFC 3339).
async fn why_refused(
    client: &Client,
    namespace: &str,
    job: &Job,
    since: Option<&str>,
) -> Result<Option<String>, kube::Error> {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let failed = ListParams::default().fields(&format!("involvedObject.uid={uid},reason=FailedCreate"));
    let said = |event: Event| Some(Event { metadata: ObjectMeta::default(), ..event });
    let events = listed(&Api::<Event>::namespaced(client.clone(), namespace), failed, said).await?;
    let last = events.into_iter().max_by_key(|e| e.last_timestamp.as_ref().map(|t| t.0));
    let said = |e: &Event| e.last_timestamp.as_ref().map(timestamp);
    let last = last.filter(|e| since.is_none_or(|since| said(e).is_some_and(|said| said.as_str() >= since)));
    Ok(last.and_then(|event| event.message).map(|message| {
        // What comes before is the name of a pod, another one each time.
        message.split_once(" is forbidden: ").map_or(message.clone(), |(_, why)| why.to_owned())
    }))
}

/// What is asked of a pod: its metadata without the part that grows with it, the resources of its containers, its status.
fn slim(pod: Pod) -> Pod {
    let containers = |containers: Vec<Container>| -> Vec<Container> {
        let kept =
            containers.into_iter().map(|c| Container { name: c.name, resources: c.resources, ..Container::default() });
        kept.collect()
    };
    let spec = pod.spec.map(|spec| PodSpec {
        containers: containers(spec.containers),
        init_containers: spec.init_containers.map(containers),
        ..PodSpec::default()
    });
    Pod { metadata: ObjectMeta { managed_fields: None, ..pod.metadata }, spec, status: pod.status }
}
