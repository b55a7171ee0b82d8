//! Looks for pods of an earlier run that have not ended. Reads from the API server.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use plumbline_crds::Resource;

use super::selector;
use crate::cluster::lists::listed;
use crate::cluster::snapshot::ObservedResource;
use crate::cluster::writes::is_owned_by;

/// Jobs without the labels of a resource that are asked for one by one: with more, all of the namespace are listed.
const MOST_ASKED_FOR: usize = 8;
/// Jobs at a time of such a list, of which only the metadata is read.
const JOBS_AT_A_TIME: u32 = 500;
/// Jobs that are looked at. One that is not is taken for one that is gone.
const MOST_JOBS: usize = 10_000;

/// A pod of an earlier run of a resource that has not ended yet. A Job that is deleted may be gone before its pods are,
/// and two trainers would write the same directory. Any user who may create pods may label them like ours: a pod that no Job
/// controls, or the Job of something else, is not waited for.
pub async fn left_over(client: &Client, observed: &ObservedResource) -> Result<Option<String>, kube::Error> {
    let Resource { kind, metadata, .. } = &observed.resource;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let alive = ListParams::default()
        .labels(&selector(*kind, &metadata.name))
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
    let labelled = ListParams::default().labels(&selector(*kind, &metadata.name));
    let mut known = owned(&jobs, labelled, &observed.uid).await?;
    let unknown: Vec<(&String, &String)> =
        of_jobs.iter().filter(|(uid, _)| !known.contains_key(*uid)).map(|(uid, (job, _))| (uid, job)).collect();
    if unknown.len() > MOST_ASKED_FOR {
        known.extend(owned(&jobs, ListParams::default(), &observed.uid).await?);
    } else {
        for (uid, job) in unknown {
            let job = jobs.get_metadata_opt(job).await?.filter(|job| job.metadata.uid.as_ref() == Some(uid));
            known.extend(job.map(|job| (uid.clone(), is_owned_by(&job, &observed.uid))));
        }
    }
    // The garbage collector deletes the pods of a deleted Job, whichever client created them.
    Ok(of_jobs.into_iter().find(|(uid, _)| known.get(uid).copied().unwrap_or(true)).map(|(_, (_, pod))| pod))
}

/// The Jobs of a list by UID, and whether each is of the resource of a UID.
async fn owned(jobs: &Api<Job>, params: ListParams, owner: &str) -> Result<BTreeMap<String, bool>, kube::Error> {
    let (mut params, mut found) = (params.limit(JOBS_AT_A_TIME), BTreeMap::new());
    loop {
        let page = jobs.list_metadata(&params).await?;
        let uids = page.items.iter().filter_map(|job| Some((job.metadata.uid.clone()?, is_owned_by(job, owner))));
        found.extend(uids);
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() || found.len() >= MOST_JOBS {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::mock;
    use plumbline_crds::status::Status;
    use serde_json::{Value, json};

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
        left_over(&client, &observed()).await.unwrap()
    }

    fn job_list(jobs: &[Value]) -> Value {
        json!({"kind": "JobList", "apiVersion": "batch/v1", "metadata": {}, "items": jobs})
    }

    fn observed() -> ObservedResource {
        let resource = json!({"apiVersion": "plumbline.dev/v1alpha1", "kind": "RewardModel",
            "metadata": {"name": "r", "namespace": "n"}, "spec": {"datasetRef": {"name": "d"}, "baseModel": {"uri": "m"}}});
        ObservedResource {
            resource: serde_json::from_value(resource).unwrap(),
            uid: "mine".into(),
            created: String::new(),
            previous: Status::default(),
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
                assert_eq!(left_over(&client, &observed()).await.unwrap().as_deref(), expected, "{shown}");
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
