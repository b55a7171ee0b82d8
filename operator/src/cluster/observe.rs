//! Looks at a resource and everything that decides what happens to it. Talks to the API server, and changes nothing.
//!
//! What is decided on is read anew at each visit and never from a cache: a decision from a stale view could start a run
//! twice, or stop one that should go on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Event, PersistentVolumeClaim, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client};
use plumbline_crds::artifact::hex;
use plumbline_crds::conditions::ConditionType;
use plumbline_crds::status::Status;
use plumbline_crds::unsupported::Target;
use plumbline_crds::{Kind, Resource};
use sha2::{Digest, Sha256};

use super::apply;
use super::build::job::QUEUE_LABEL;
use super::build::{Input, KIND_LABEL, MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL, fetches};
use super::dependents::Referent;
use super::kinds;
use super::lists::listed;
use super::outcome;
use super::places::Place;
use super::queue::Workload;
use super::settings::Settings;
use super::times::timestamp;
use crate::inputs::{self, From, Wanted};
use crate::validate::document::locations;
use crate::validate::rules;

/// Jobs without the labels of a resource that are asked for one by one: with more, all of the namespace are listed.
const MOST_ASKED_FOR: usize = 8;
/// Jobs at a time of such a list, of which only the metadata is read.
const JOBS_AT_A_TIME: u32 = 500;
/// Jobs that are looked at. One that is not is taken for one that is gone.
const MOST_JOBS: usize = 10_000;

/// A resource as it stands.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The resource.
    pub resource: Resource,
    /// Its UID.
    pub uid: String,
    /// When it was created (RFC 3339).
    pub created: String,
    /// Its status; the default before the first visit.
    pub previous: Status,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What is wrong with its spec on a cluster.
    pub problems: Vec<String>,
}

/// The Job of a run, and its pods.
#[derive(Clone, Debug)]
pub struct Work {
    /// The Job.
    pub job: Job,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Why it has none that could run, where the cluster refuses the next.
    pub refusal: Option<String>,
    /// What Kueue says of it, where it is in a queue.
    pub workload: Option<Workload>,
}

/// What a resource is made from.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What is there.
    pub inputs: Vec<Input>,
    /// `Kind/name` of what does not exist.
    pub missing: Vec<String>,
    /// `Kind/name` of what has no artifact yet.
    pub unready: Vec<String>,
}

/// Why something cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The API server.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// A resource that an earlier version accepted, perhaps.
    #[error(
        "{kind}/{name}: expected a spec as the CRD describes it, found {source}; apply the CRDs of this version and correct the resource"
    )]
    Unreadable {
        /// Its kind.
        kind: Kind,
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl ObserveError {
    /// The variant, as metrics call it.
    pub fn variant(&self) -> &'static str {
        match self {
            Self::Api(kube::Error::Api(_)) => "refused",
            Self::Api(_) => "unreachable",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

/// Reads a resource; nothing if it is gone.
pub async fn resource(
    client: &Client,
    settings: &Settings,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<Option<Seen>, ObserveError> {
    let Some(object) = kinds::api(client, kind, namespace).get_opt(name).await? else { return Ok(None) };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let created = object.metadata.creation_timestamp.as_ref().map(timestamp).unwrap_or_default();
    let deleting = object.metadata.deletion_timestamp.is_some();
    let unreadable = |source| ObserveError::Unreadable { kind, name: name.to_owned(), source };
    let mut resource: Resource = serde_json::to_value(&object).and_then(serde_json::from_value).map_err(unreadable)?;
    let previous = resource.status.take().unwrap_or_default();
    let problems = problems(&resource, settings);
    Ok(Some(Seen { resource, uid, created, previous, deleting, problems }))
}

/// Whether a resource is still the one that was seen. A Job that is missing may be missing because its resource was deleted
/// after it had been read: asked after the Job, this tells.
pub async fn is_current(client: &Client, seen: &Seen) -> Result<bool, kube::Error> {
    let metadata = &seen.resource.metadata;
    let api = kinds::api(client, seen.resource.kind, metadata.namespace.as_deref().unwrap_or_default());
    let found = api.get_metadata_opt(&metadata.name).await?.map(|object| object.metadata);
    Ok(found.is_some_and(|m| {
        m.uid.as_ref() == Some(&seen.uid) && m.generation == metadata.generation && m.deletion_timestamp.is_none()
    }))
}

/// What is wrong with a spec on a cluster, beyond what the API server checks itself.
fn problems(resource: &Resource, settings: &Settings) -> Vec<String> {
    let spec = &resource.spec;
    let mut found: Vec<String> = rules::check(spec, Target::Cluster)
        .into_iter()
        .chain(locations(spec, Path::new("/"), Target::Cluster))
        .map(|finding| format!("{}: {}", finding.path, finding.message))
        .collect();
    if settings.image(spec.compute()).is_none() {
        found.push(
            "spec.compute.image: expected the trainer's image, found none, here or in the operator's settings; set it"
                .into(),
        );
    }
    if spec.output().uri.is_none() && settings.artifact_root.is_none() {
        found.push("spec.output.uri: expected where the artifact goes, found nothing, here or in the operator's settings; set it, as pvc://claim/folder".into());
    }
    found
}

/// Everything that a resource names, the claim of its output included. It is noted before anything is read, so that no
/// change is missed in between.
pub fn referents(resource: &Resource, output: Option<&Place>) -> BTreeSet<Referent> {
    let claim = |place: &Place| place.claim().map(|claim| Referent::Claim(claim.to_owned()));
    let named = inputs::wanted(&resource.spec).into_iter().filter_map(|wanted| match wanted.from {
        From::Resource { kind, name } => Some(Referent::Resource(kind, name)),
        From::ConfigMap { name, .. } => Some(Referent::ConfigMap(name)),
        From::Uri(uri) => Place::of_input(&uri).ok().as_ref().and_then(claim),
    });
    named.chain(output.and_then(claim)).collect()
}

/// Looks up what a resource is made from, and the claims that it reads and writes.
pub async fn inputs(client: &Client, resource: &Resource, output: &Place) -> Result<Found, kube::Error> {
    let namespace = resource.metadata.namespace.as_deref().unwrap_or_default();
    let mut found = Found::default();
    for wanted in inputs::wanted(&resource.spec) {
        input(client, namespace, wanted, &mut found).await?;
    }
    let places = found.inputs.iter().map(|i| &i.place).chain([output]);
    let claims: BTreeSet<String> = places.filter_map(Place::claim).map(str::to_owned).collect();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    for claim in claims {
        if !is_there(&api, &claim).await? {
            found.missing.push(format!("PersistentVolumeClaim/{claim}"));
        }
    }
    Ok(found)
}

/// The cache that a run uses: that of the installation where the run fetches something and its namespace has the claim.
pub async fn cache<'a>(
    client: &Client,
    namespace: &str,
    settings: &'a Settings,
    inputs: &[Input],
) -> Result<Option<&'a Place>, kube::Error> {
    let Some(place) = settings.input_cache.as_ref().filter(|_| fetches(inputs)) else { return Ok(None) };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    Ok(is_there(&api, place.claim().unwrap_or_default()).await?.then_some(place))
}

async fn is_there(api: &Api<PersistentVolumeClaim>, claim: &str) -> Result<bool, kube::Error> {
    let found = api.get_metadata_opt(claim).await?;
    Ok(found.is_some_and(|claim| claim.metadata.deletion_timestamp.is_none()))
}

async fn input(client: &Client, namespace: &str, wanted: Wanted, found: &mut Found) -> Result<(), kube::Error> {
    let Wanted { role, from, .. } = wanted;
    let (name, place, digest) = match from {
        // Validation refused everything that has no place.
        From::Uri(uri) => match Place::of_input(&uri) {
            Ok(place) => (uri, place, String::new()),
            Err(_) => return Ok(()),
        },
        From::ConfigMap { name, key } => {
            let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            let Some(map) = api.get_opt(&name).await? else {
                found.missing.push(format!("ConfigMap/{name}"));
                return Ok(());
            };
            let Some(text) = map.data.unwrap_or_default().remove(&key) else {
                found.missing.push(format!("ConfigMap/{name} key {key}"));
                return Ok(());
            };
            (format!("{name}/{key}"), Place::ConfigMap { name, key }, digest_of(&text))
        }
        From::Resource { kind, name } => {
            let Some(object) = kinds::api(client, kind, namespace).get_opt(&name).await? else {
                found.missing.push(format!("{kind}/{name}"));
                return Ok(());
            };
            let status: Option<Status> =
                object.data.get("status").cloned().and_then(|s| serde_json::from_value(s).ok());
            // A status of an earlier spec says nothing about what the resource will be.
            let current = |s: &Status| Some(s.observed_generation) == object.metadata.generation;
            let artifact = status.filter(|s| s.is_true(ConditionType::Ready) && current(s)).and_then(|s| s.artifact);
            let place = artifact.as_ref().and_then(|a| Place::of_input(&a.uri).ok());
            let (Some(artifact), Some(place)) = (artifact, place) else {
                found.unready.push(format!("{kind}/{name}"));
                return Ok(());
            };
            (name, place, artifact.digest)
        }
    };
    found.inputs.push(Input { role, name, place, digest });
    Ok(())
}

/// The digest that the trainer finds of a mounted key.
fn digest_of(text: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(text.as_bytes())))
}

/// The Jobs of a resource, whatever they are called.
pub async fn jobs(client: &Client, seen: &Seen) -> Result<Vec<Job>, kube::Error> {
    let Resource { kind, metadata, .. } = &seen.resource;
    let labelled = ListParams::default().labels(&labels(*kind, &metadata.name));
    let api: Api<Job> = Api::namespaced(client.clone(), metadata.namespace.as_deref().unwrap_or_default());
    listed(&api, labelled, |job: Job| apply::is_owned_by(&job, &seen.uid).then_some(job)).await
}

/// A selector of what the operator made for a resource.
fn labels(kind: Kind, name: &str) -> String {
    format!("{MANAGED_BY_LABEL}={MANAGED_BY},{KIND_LABEL}={kind},{NAME_LABEL}={name}")
}

/// A Job with its pods. `kueue`: whether to ask what Kueue says of it. `now` in RFC 3339.
pub async fn work(client: &Client, namespace: &str, job: Job, kueue: bool, now: &str) -> Result<Work, kube::Error> {
    // By its UID: pods of one of the same name that was deleted before may be there still.
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/controller-uid={uid}"));
    let own = |pod: Pod| apply::is_owned_by(&pod, uid).then(|| slim(pod));
    let pods = listed(&Api::<Pod>::namespaced(client.clone(), namespace), of_job, own).await?;
    let mut refusal = None;
    if outcome::lacks_a_pod(&job, &pods, now) {
        refusal = why_refused(client, namespace, &job, outcome::last_end(&pods).as_deref()).await?;
    }
    let queued = kueue && job.metadata.labels.as_ref().is_some_and(|l| l.contains_key(QUEUE_LABEL));
    let workload = if queued { workload(client, namespace, &job).await? } else { None };
    Ok(Work { job, pods, refusal, workload })
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

/// A pod of an earlier run of a resource that has not ended yet. A Job that somebody deletes is gone before its pods are, and
/// two trainers would write the same folder. Anybody who may make pods may label them like ours: one that no Job controls, or
/// the Job of something else, is not waited for.
pub async fn left_over(client: &Client, seen: &Seen) -> Result<Option<String>, kube::Error> {
    let Resource { kind, metadata, .. } = &seen.resource;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let alive = ListParams::default()
        .labels(&labels(*kind, &metadata.name))
        .fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    // Name of each Job by its UID, with one of its pods.
    let mut of_jobs: BTreeMap<String, (String, String)> = BTreeMap::new();
    for pod in listed(&pods, alive, |pod: Pod| Some(pod.metadata)).await? {
        let owner = pod.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        if let Some(owner) = owner.filter(|owner| owner.api_version == "batch/v1" && owner.kind == "Job") {
            of_jobs.insert(owner.uid.clone(), (owner.name.clone(), pod.name.unwrap_or_default()));
        }
    }
    if of_jobs.is_empty() {
        return Ok(None);
    }
    let jobs = Api::<Job>::namespaced(client.clone(), namespace);
    let labelled = ListParams::default().labels(&labels(*kind, &metadata.name));
    let mut known = owned(&jobs, labelled, &seen.uid).await?;
    let unknown: Vec<(&String, &String)> =
        of_jobs.iter().filter(|(uid, _)| !known.contains_key(*uid)).map(|(uid, (job, _))| (uid, job)).collect();
    if unknown.len() > MOST_ASKED_FOR {
        known.extend(owned(&jobs, ListParams::default(), &seen.uid).await?);
    } else {
        for (uid, job) in unknown {
            let job = jobs.get_metadata_opt(job).await?.filter(|job| job.metadata.uid.as_ref() == Some(uid));
            known.extend(job.map(|job| (uid.clone(), apply::is_owned_by(&job, &seen.uid))));
        }
    }
    // The garbage collector ends the pods of a Job that is gone, whoever made them.
    Ok(of_jobs.into_iter().find(|(uid, _)| known.get(uid).copied().unwrap_or(true)).map(|(_, (_, pod))| pod))
}

/// The Jobs of a list by UID, and whether each is of the resource of a UID.
async fn owned(jobs: &Api<Job>, params: ListParams, owner: &str) -> Result<BTreeMap<String, bool>, kube::Error> {
    let (mut params, mut found) = (params.limit(JOBS_AT_A_TIME), BTreeMap::new());
    loop {
        let page = jobs.list_metadata(&params).await?;
        let uids =
            page.items.iter().filter_map(|job| Some((job.metadata.uid.clone()?, apply::is_owned_by(job, owner))));
        found.extend(uids);
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() || found.len() >= MOST_JOBS {
            return Ok(found);
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::mock;
    use serde_json::{Value, json};

    #[test]
    fn a_key_of_a_config_map_has_the_digest_of_the_file_that_it_is_mounted_as() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["", "{\"prompt\": \"ä\"}\n"] {
            std::fs::write(file.path(), text).unwrap();
            assert_eq!(digest_of(text), plumbline_crds::artifact::digest_path(file.path()).unwrap());
        }
    }

    /// What is left over where a pod with the labels of a resource is controlled by something.
    async fn left_over_of(owner: Option<Value>, job: Option<Value>) -> Option<String> {
        let client = mock::client(move |request| match request {
            "GET /api/v1/namespaces/n/pods" => {
                let owners = owner.clone().into_iter().collect::<Vec<_>>();
                let pod = json!({"metadata": {"name": "p", "ownerReferences": owners}});
                Some(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [pod]}))
            }
            // Of the Jobs with the labels of the resource there is none.
            "GET /apis/batch/v1/namespaces/n/jobs" => Some(job_list(&[])),
            "GET /apis/batch/v1/namespaces/n/jobs/j" => job.clone(),
            other => panic!("{other} is asked for"),
        });
        left_over(&client, &seen()).await.unwrap()
    }

    fn job_list(jobs: &[Value]) -> Value {
        json!({"kind": "JobList", "apiVersion": "batch/v1", "metadata": {}, "items": jobs})
    }

    fn seen() -> Seen {
        let resource = json!({"apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel",
            "metadata": {"name": "r", "namespace": "n"}, "spec": {"datasetRef": {"name": "d"}, "baseModel": {"uri": "m"}}});
        Seen {
            resource: serde_json::from_value(resource).unwrap(),
            uid: "mine".into(),
            created: String::new(),
            previous: Status::default(),
            deleting: false,
            problems: Vec::new(),
        }
    }

    #[tokio::test]
    async fn pods_that_name_many_owners_cost_few_requests() {
        use std::sync::{Arc, Mutex};
        let owner = |kind: &str, name: &str, uid: &str| {
            json!({"apiVersion": if kind == "Job" { "batch/v1" } else { "plumbline.dev/v1alpha1" }, "kind": kind,
                "name": name, "uid": uid, "controller": true})
        };
        let pod = move |i: usize| json!({"metadata": {"name": format!("p{i}"), "ownerReferences": [owner("Job", &format!("j{i}"), &format!("u{i}"))]}});
        // What the Jobs are of: of another resource, or, the last, of this one. Whether a list is by labels, this server ignores.
        for (mine, expected) in [(false, None), (true, Some("p499"))] {
            let jobs: Vec<Value> = (0..500)
                .map(|i| {
                    let of = if mine && i == 499 { "mine" } else { "another" };
                    json!({"metadata": {"name": format!("j{i}"), "uid": format!("u{i}"),
                        "ownerReferences": [owner("RewardModel", "r", of)]}})
                })
                .collect();
            for shown in [0, 500] {
                let (jobs, lists, asked) = (jobs.clone(), Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
                let count = asked.clone();
                let client = mock::client(move |request| {
                    *count.lock().unwrap() += 1;
                    match request {
                        "GET /api/v1/namespaces/n/pods" => {
                            let pods: Vec<Value> = (0..500).map(pod).collect();
                            Some(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
                        }
                        "GET /apis/batch/v1/namespaces/n/jobs" => {
                            let mut lists = lists.lock().unwrap();
                            *lists += 1;
                            Some(job_list(if *lists == 1 { &jobs[..shown] } else { &jobs }))
                        }
                        _ => None,
                    }
                });
                assert_eq!(left_over(&client, &seen()).await.unwrap().as_deref(), expected, "{shown}");
                let asked = *asked.lock().unwrap();
                assert!(asked <= 3, "{asked} requests");
            }
        }
    }

    #[tokio::test]
    async fn only_pods_of_its_own_jobs_keep_a_resource_from_starting() {
        let owner = |api: &str, kind: &str| {
            Some(json!({"apiVersion": api, "kind": kind, "name": "j", "uid": "ju", "controller": true}))
        };
        let job = |uid: &str, of: &str| {
            let owner = json!({"apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel", "name": "r", "uid": of, "controller": true});
            Some(json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"name": "j", "uid": uid, "ownerReferences": [owner]}}))
        };
        let of_job = || owner("batch/v1", "Job");
        assert_eq!(left_over_of(of_job(), job("ju", "mine")).await.as_deref(), Some("p"));
        assert_eq!(left_over_of(of_job(), None).await.as_deref(), Some("p"), "its Job is gone, and it will be");
        assert_eq!(left_over_of(of_job(), job("another", "mine")).await.as_deref(), Some("p"), "so is this one's");
        assert_eq!(left_over_of(of_job(), job("ju", "another")).await, None);
        assert_eq!(left_over_of(None, None).await, None, "anybody may label a pod");
        assert_eq!(left_over_of(owner("apps/v1", "ReplicaSet"), None).await, None);
    }
}
