//! Makes the objects of a run and removes them, writes statuses. Talks to the API server only.
//!
//! Everything is named and owned before it is made, so that doing it twice does it once.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, LogParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use plumbline_crds::status::Status;
use plumbline_crds::{API_VERSION, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::kinds;
use super::objects::Children;
use super::objects::pod::TRAINER;
use super::outcome;

/// Field manager of everything that a run consists of.
pub const MANAGER: &str = "plumbline";
/// Field manager of statuses.
pub const STATUS_MANAGER: &str = "plumbline-status";

/// Bytes of a log that are read.
const LOG_BYTES: i64 = 64 * 1024;

/// What became of the wish to have a Job.
#[derive(Debug)]
pub enum ApplyOutcome {
    /// It is there, just now or since an earlier reconcile.
    Job(Box<Job>),
    /// Another one of its name has to go first.
    InTheWay(String),
    /// The API server refuses an object: which, and why.
    Refused(String),
}

/// Makes what a run consists of. What the API server refuses is for people to see to; any other error is a fault, which
/// passes.
pub async fn make(
    client: &Client,
    namespace: &str,
    uid: &str,
    children: &Children,
) -> Result<ApplyOutcome, kube::Error> {
    match make_all(client, namespace, uid, children).await {
        Err(kube::Error::Api(status)) if is_refusal(status.code) => {
            Ok(ApplyOutcome::Refused(format!("the API server rejected an object of the run: {}", status.message)))
        }
        made => made,
    }
}

/// Whether an HTTP status code rejects the request itself, and not its credentials (401), its time (408, 429) or the state of
/// the object (404, 409). A rejection by a webhook that sets no code arrives as 400.
fn is_refusal(code: u16) -> bool {
    (400..500).contains(&code) && !matches!(code, 401 | 404 | 408 | 409 | 429)
}

/// A Job is created once; what queues and people may change of it is never written again.
async fn make_all(
    client: &Client,
    namespace: &str,
    uid: &str,
    children: &Children,
) -> Result<ApplyOutcome, kube::Error> {
    if let Some(account) = &children.service_account
        && let Some(stranger) = create(client, namespace, uid, account).await?
    {
        let advice = "rename or delete it, or name a service account in spec.compute.serviceAccountName";
        return Ok(ApplyOutcome::InTheWay(in_the_way(&stranger, advice)));
    }
    if let Some(stranger) = document(client, namespace, uid, &children.config_map).await? {
        return Ok(ApplyOutcome::InTheWay(in_the_way(&stranger, "rename or delete it")));
    }
    if let Some(service) = &children.service
        && let Some(stranger) = create(client, namespace, uid, service).await?
    {
        return Ok(ApplyOutcome::InTheWay(in_the_way(&stranger, "rename or delete it")));
    }
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    match api.create(&params, &children.job).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => existing(&api, uid, &children.job).await,
        created => created.map(|job| ApplyOutcome::Job(Box::new(job))),
    }
}

/// What has the name of an object of a run, and is not of its resource.
#[derive(Debug, PartialEq, Eq)]
struct Stranger {
    what: String,
    /// It is of a resource of the same name, which is deleted: the cluster is about to remove it.
    is_left_behind: bool,
}

impl Stranger {
    fn new(found: &impl kube::Resource, wanted: &impl kube::Resource, what: String) -> Self {
        let owner = |object: &[OwnerReference]| {
            let owner = object.iter().find(|owner| owner.controller == Some(true));
            owner.map(|owner| (owner.api_version.clone(), owner.kind.clone(), owner.name.clone()))
        };
        let owners = (owner(found.owner_references()), owner(wanted.owner_references()));
        Self { what, is_left_behind: owners.0.is_some() && owners.0 == owners.1 }
    }
}

/// Why nothing starts beside a stranger. `advice`: what to do where it stays.
fn in_the_way(stranger: &Stranger, advice: &str) -> String {
    match stranger {
        Stranger { what, is_left_behind: true } => {
            format!("{what} belongs to a deleted resource with the same name; this run starts once it is removed")
        }
        Stranger { what, .. } => format!("{what} exists but does not belong to this resource; {advice}"),
    }
}

/// The run document. It is immutable, also for the operator. A run that resumes with other compute or another budget, or that
/// another version of the operator started, needs a different document of the same name: no pod that reads the old one runs
/// now, so it is replaced.
async fn document(
    client: &Client,
    namespace: &str,
    uid: &str,
    document: &ConfigMap,
) -> Result<Option<Stranger>, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let name = document.name_any();
    match api.get_opt(&name).await? {
        Some(found) if !is_owned_by(&found, uid) => {
            return Ok(Some(Stranger::new(&found, document, format!("ConfigMap/{name}"))));
        }
        Some(found) if found.data == document.data => return Ok(None),
        Some(found) => remove(&api, &found).await?,
        None => {}
    }
    post(&api, document).await.map(|()| None)
}

/// A Job of this name that is there already: ours from a reconcile that was cut short, or one that has to go first.
async fn existing(api: &Api<Job>, uid: &str, wanted: &Job) -> Result<ApplyOutcome, kube::Error> {
    let name = wanted.name_any();
    let Some(job) = api.get_opt(&name).await? else {
        return Ok(ApplyOutcome::InTheWay(format!("Job/{name} was just deleted; this starts in a moment")));
    };
    if !is_owned_by(&job, uid) {
        let stranger = Stranger::new(&job, wanted, format!("Job/{name}"));
        return Ok(ApplyOutcome::InTheWay(in_the_way(&stranger, "this run starts once it is removed")));
    }
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(ApplyOutcome::InTheWay(format!("waiting for Job/{name} of the previous run to terminate")));
    }
    Ok(ApplyOutcome::Job(Box::new(job)))
}

/// Whether an object belongs to the resource of a UID.
pub fn is_owned_by(object: &impl kube::Resource, uid: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// Deletes a Job with its pods, which are given time to make their progress safe: it is there until they are gone. The one
/// that was seen, and no other of its name.
pub async fn stop(client: &Client, namespace: &str, job: &Job) -> Result<(), kube::Error> {
    delete(client, namespace, job, DeleteParams::foreground()).await
}

/// Deletes what is left of a run that was replaced by another.
pub async fn forget(client: &Client, namespace: &str, job: &Job) -> Result<(), kube::Error> {
    delete(client, namespace, job, DeleteParams::background()).await
}

async fn delete(client: &Client, namespace: &str, job: &Job, params: DeleteParams) -> Result<(), kube::Error> {
    let seen = Preconditions { uid: job.metadata.uid.clone(), resource_version: None };
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    gone(api.delete(&job.name_any(), &params.preconditions(seen)).await.map(|_| ()))
}

/// Deletes a run document of the resource of a UID that no run needs any more.
pub async fn forget_document(client: &Client, namespace: &str, name: &str, uid: &str) -> Result<(), kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    match api.get_metadata_opt(name).await? {
        Some(found) if is_owned_by(&found, uid) => remove(&api, &found).await,
        _ => Ok(()),
    }
}

/// Deletes a document, the one that was seen and no other of its name.
async fn remove(api: &Api<ConfigMap>, seen: &impl kube::Resource) -> Result<(), kube::Error> {
    let precondition = Preconditions { uid: seen.meta().uid.clone(), resource_version: None };
    let params = DeleteParams::background().preconditions(precondition);
    gone(api.delete(&seen.name_any(), &params).await.map(|_| ()))
}

/// Lets the cluster remove a finished Job after a while: only when its outcome is written down, since it is the only proof.
pub async fn expire(client: &Client, namespace: &str, job: &Job, seconds: i32) -> Result<(), kube::Error> {
    let spec = job.spec.as_ref();
    if spec.is_none_or(|s| s.ttl_seconds_after_finished.is_some()) || !outcome::is_finished(job) {
        return Ok(());
    }
    change(client, namespace, job, json!({"ttlSecondsAfterFinished": seconds})).await
}

/// Changes a field of a Job that only the operator writes.
async fn change(client: &Client, namespace: &str, job: &Job, spec: Value) -> Result<(), kube::Error> {
    let patch = json!({"metadata": {"uid": job.metadata.uid}, "spec": spec});
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    let api: Api<Job> = Api::namespaced(client.clone(), namespace);
    gone(api.patch(&job.name_any(), &params, &Patch::Merge(&patch)).await.map(|_| ()))
}

/// Shortens the deadline of a Job to what is left of it.
pub async fn shorten(client: &Client, namespace: &str, job: &Job, seconds: i64) -> Result<(), kube::Error> {
    let Some(_) = job.spec.as_ref().and_then(|s| s.active_deadline_seconds).filter(|now| *now > seconds) else {
        return Ok(());
    };
    change(client, namespace, job, json!({"activeDeadlineSeconds": seconds})).await
}

/// Writes the status of a resource, whole. False where the resource is gone.
pub async fn write_status(
    client: &Client,
    kind: Kind,
    namespace: &str,
    name: &str,
    uid: &str,
    status: &Status,
) -> Result<bool, kube::Error> {
    let object = json!({
        "apiVersion": API_VERSION, "kind": kind.to_string(), "metadata": {"name": name, "uid": uid}, "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    match kinds::api(client, kind, namespace).patch_status(name, &params, &Patch::Apply(&object)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// A resource as events refer to it.
pub fn reference(kind: Kind, namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(API_VERSION.into()),
        kind: Some(kind.to_string()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// The last lines that the trainer of a pod printed, where the node still has them.
pub async fn log_tail(client: &Client, namespace: &str, pod: &Pod, mut lines: i64) -> Option<String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    loop {
        let params = LogParams {
            container: Some(TRAINER.into()),
            tail_lines: Some(lines),
            // A line may have any length.
            limit_bytes: Some(LOG_BYTES),
            ..LogParams::default()
        };
        let text = api.logs(&pod.name_any(), &params).await.ok().filter(|text| !text.is_empty())?;
        match fewer(lines, &text) {
            Some(few) => lines = few,
            None => return Some(text),
        }
    }
}

/// How many lines to ask for instead, where those that were asked for fill all the room: then their end is cut off.
fn fewer(lines: i64, text: &str) -> Option<i64> {
    (lines > 1 && text.len() as i64 >= LOG_BYTES).then_some((lines / 4).max(1))
}

/// Creates an object that does not exist yet. Returns an existing object of that name which the resource does not own: it
/// belongs to another user, and is neither changed nor deleted with the resource.
async fn create<K>(client: &Client, namespace: &str, uid: &str, object: &K) -> Result<Option<Stranger>, kube::Error>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let name = object.name_any();
    if let Some(found) = api.get_metadata_opt(&name).await? {
        let stranger = || Stranger::new(&found, object, format!("{}/{name}", K::kind(&())));
        return Ok((!is_owned_by(&found, uid)).then(stranger));
    }
    post(&api, object).await.map(|()| None)
}

/// Makes an object. One that was made in between is an error that passes: the next reconcile sees whose it is.
async fn post<K>(api: &Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: Clone + Serialize + DeserializeOwned + std::fmt::Debug,
{
    let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    api.create(&params, object).await.map(|_| ())
}

/// What is gone already needs no deleting and no writing. One that was replaced meanwhile is another: the reconcile fails, and
/// the next one sees it.
fn gone(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::mock;
    use k8s_openapi::api::core::v1::ServiceAccount;
    use std::sync::{Arc, Mutex};

    #[test]
    fn what_the_api_server_refuses_is_told_from_faults_that_pass() {
        assert!([400, 403, 413, 422].into_iter().all(is_refusal), "400: a webhook that gives no code");
        assert!(![200, 401, 404, 408, 409, 429, 500, 503, 504].into_iter().any(is_refusal));
    }

    /// A client of a namespace that has one object of this name, owned by the resource of a UID or by nothing, and its requests.
    fn with_object(owner: Option<&'static str>) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let requests = asked.clone();
        let client = mock::client(move |request| {
            requests.lock().unwrap().push(request.to_owned());
            let owner = owner.map(
                |uid| json!({"apiVersion": API_VERSION, "kind": "K", "name": "r", "uid": uid, "controller": true}),
            );
            let metadata = json!({"name": "x", "uid": "u", "ownerReferences": owner.into_iter().collect::<Vec<_>>()});
            request.starts_with("GET").then(|| json!({"metadata": metadata, "data": {"a": "old"}}))
        });
        (client, asked)
    }

    /// An object as it is made for the resource that has the UID `mine`.
    fn owned<K: DeserializeOwned>(object: &Value) -> K {
        let mut object = object.clone();
        object["metadata"]["ownerReferences"] =
            json!([{"apiVersion": API_VERSION, "kind": "K", "name": "r", "uid": "mine", "controller": true}]);
        serde_json::from_value(object).unwrap()
    }

    #[tokio::test]
    async fn the_end_of_a_log_is_its_last_lines_however_long_the_lines_before_are() {
        let lines = ["x".repeat(LOG_BYTES as usize), "before".into(), "the last".into()];
        let client = mock::log_client(move |query| {
            let asked = |name: &str| query.split('&').find_map(|q| q.strip_prefix(name)?.parse::<usize>().ok());
            let tail = lines[lines.len().saturating_sub(asked("tailLines=").unwrap())..].join("\n");
            // The API server cuts the end of what was asked for, and not its beginning.
            tail.chars().take(asked("limitBytes=").unwrap()).collect()
        });
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
        assert_eq!(log_tail(&client, "n", &pod, 20).await.unwrap(), "the last");
        assert_eq!(log_tail(&client, "n", &pod, 2).await.unwrap(), "before\nthe last");
        assert_eq!(fewer(1, &"y".repeat(LOG_BYTES as usize)), None, "a line may be longer than there is room for");
    }

    #[tokio::test]
    async fn what_is_not_of_the_resource_is_neither_changed_nor_deleted() {
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "x"}})).unwrap();
        let map: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "x"}, "data": {"a": "new"}})).unwrap();
        for owner in [None, Some("another")] {
            let (client, asked) = with_object(owner);
            assert_eq!(create(&client, "n", "mine", &account).await.unwrap().unwrap().what, "ServiceAccount/x");
            assert_eq!(document(&client, "n", "mine", &map).await.unwrap().unwrap().what, "ConfigMap/x");
            forget_document(&client, "n", "x", "mine").await.unwrap();
            let asked = asked.lock().unwrap().clone();
            assert!(asked.iter().all(|request| request.starts_with("GET ")), "{asked:?}");
        }
        // What a deleted resource of the same name has left behind goes by itself.
        let account: ServiceAccount = owned(&json!({"metadata": {"name": "x"}}));
        let map: ConfigMap = owned(&json!({"metadata": {"name": "x"}, "data": {"a": "new"}}));
        for owner in [None, Some("another")] {
            let (client, _) = with_object(owner);
            let left = create(&client, "n", "mine", &account).await.unwrap().unwrap();
            let map = document(&client, "n", "mine", &map).await.unwrap().unwrap();
            for stranger in [left, map] {
                let said = in_the_way(&stranger, "rename or delete it");
                let waits = said.ends_with(
                    "/x belongs to a deleted resource with the same name; this run starts once it is removed",
                );
                assert_eq!(waits, owner.is_some(), "{said}");
                assert_eq!(
                    said.ends_with("/x exists but does not belong to this resource; rename or delete it"),
                    owner.is_none(),
                    "{said}"
                );
            }
        }
        let (client, asked) = with_object(Some("mine"));
        assert_eq!(create(&client, "n", "mine", &account).await.unwrap(), None);
        forget_document(&client, "n", "x", "mine").await.unwrap();
        assert_eq!(asked.lock().unwrap().last().unwrap(), "DELETE /api/v1/namespaces/n/configmaps/x");
    }
}
