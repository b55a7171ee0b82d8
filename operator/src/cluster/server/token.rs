//! Whose pod brings this token? Talks to the API server: a TokenReview, the pod, its Job, the resource.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};

use super::cache::Cache;
use super::limit::{Limit, OF_ADDRESS, OF_ADDRESSES, OF_POD, OF_PODS};
use super::pod_identity::{self, Refusal};
use crate::cluster::kinds;
use crate::cluster::objects::AUDIENCE;
use crate::cluster::progress::Owner;

/// A token that was good stays so for this long; so long may a pod that is gone still be believed.
const GOOD_FOR: Duration = Duration::from_mins(1);
/// A token that was bad stays so for this long: the pod of a good one may just not have been seen yet.
const BAD_FOR: Duration = Duration::from_secs(5);
/// For the four requests together.
const LONGEST: Duration = Duration::from_secs(5);
/// Bytes. Tokens of service accounts have one to two thousand.
const MAX_TOKEN: usize = 16 * 1024;

/// Verifies tokens, and remembers the answers for a while.
pub struct Verifier {
    client: Client,
    known: Cache<Result<Owner, Refusal>>,
    unknown: Limit<IpAddr>,
    reports: Limit<String>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// A verifier that asks with this client. It needs `create` of `tokenreviews` (authentication.k8s.io) and `get` of
    /// `pods`, `jobs` (batch) and the three kinds.
    pub fn new(client: Client) -> Self {
        let now = Instant::now();
        let unknown = Limit::new(OF_ADDRESS, OF_ADDRESSES, now);
        Self { client, known: Cache::new(), unknown, reports: Limit::new(OF_POD, OF_PODS, now) }
    }

    /// The resource that the bearer of the token works for, if its pod may report again.
    pub(super) async fn owner(&self, token: &str, peer: IpAddr) -> Result<Owner, Refusal> {
        let owner = self.verified(token, peer).await?;
        if self.reports.allows(owner.pod.clone(), Instant::now()) { Ok(owner) } else { Err(Refusal::TooOften) }
    }

    async fn verified(&self, token: &str, peer: IpAddr) -> Result<Owner, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::Unauthenticated("this one is too long".into()));
        }
        if let Some(known) = self.known.get(token, Instant::now()) {
            return known;
        }
        if !self.unknown.allows(peer, Instant::now()) {
            return Err(Refusal::RateLimited);
        }
        let verdict = match tokio::time::timeout(LONGEST, self.ask(token)).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => {
                tracing::warn!(%error, "a token could not be verified");
                return Err(Refusal::Unavailable);
            }
            Err(_) => {
                tracing::warn!("a token could not be verified: the API server did not answer within {LONGEST:?}");
                return Err(Refusal::Unavailable);
            }
        };
        let life = if verdict.is_ok() { GOOD_FOR } else { BAD_FOR };
        self.known.put(token, verdict.clone(), life, Instant::now());
        verdict
    }

    /// The outer error is the API server's, the inner one is about the token.
    async fn ask(&self, token: &str) -> kube::Result<Result<Owner, Refusal>> {
        let pod = match pod_identity::pod_of(&self.review(token).await?) {
            Ok(pod) => pod,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let job = match pods.get_opt(&pod.name).await? {
            Some(found) => pod_identity::job_of(&found, &pod),
            None => Err(Refusal::NotOwned("this pod is gone".into())),
        };
        let job = match job {
            Ok(job) => job,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &job.namespace);
        let owner = match jobs.get_opt(&job.name).await? {
            Some(found) => pod_identity::owner_of(&found, &job, &pod),
            None => Err(Refusal::NotOwned("this pod's Job is gone".into())),
        };
        let owner = match owner {
            Ok(owner) => owner,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let found = kinds::api(&self.client, owner.kind, &owner.namespace).get_metadata_opt(&owner.name).await?;
        Ok(pod_identity::confirmed(owner, found.map(|found| found.metadata).as_ref()))
    }

    async fn review(&self, token: &str) -> kube::Result<TokenReviewStatus> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.into()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        Ok(answer.status.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::mock;
    use plumbline_crds::API_VERSION;
    use serde_json::{Value, json};

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// An API server with a pod of the namespace `evil` whose Job names `RewardModel/r` of UID `victim` as its owner, and a
    /// resource of that name and another UID, or of the same.
    fn api_server(uid: &'static str) -> Client {
        mock::client(move |request| {
            let owned = |uid: &str, api: &str, kind: &str, name: &str, of: &str| {
                let owner = json!({"apiVersion": api, "kind": kind, "name": name, "uid": of, "controller": true});
                json!({"metadata": {"name": "x", "uid": uid, "ownerReferences": [owner]}})
            };
            let found: Value = match request {
                "POST /apis/authentication.k8s.io/v1/tokenreviews" => json!({"spec": {"token": ""}, "status": {
                    "authenticated": true, "audiences": [AUDIENCE],
                    "user": {"username": "system:serviceaccount:evil:a", "extra": {
                        "authentication.kubernetes.io/pod-name": ["p"], "authentication.kubernetes.io/pod-uid": ["pu"]}}}}),
                "GET /api/v1/namespaces/evil/pods/p" => owned("pu", "batch/v1", "Job", "j", "ju"),
                "GET /apis/batch/v1/namespaces/evil/jobs/j" => owned("ju", API_VERSION, "RewardModel", "r", "victim"),
                "GET /apis/plumbline.dev/v1alpha1/namespaces/evil/rewardmodels/r" => {
                    json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                        "metadata": {"name": "r", "uid": uid}})
                }
                other => panic!("{other} is asked for"),
            };
            Some(found)
        })
    }

    #[tokio::test]
    async fn a_job_that_names_a_resource_of_another_namespace_speaks_for_none() {
        let refused = Verifier::new(api_server("of-a-namesake")).owner("t", PEER).await.unwrap_err();
        assert!(matches!(refused, Refusal::NotOwned(_)), "{refused}");
        assert_eq!(Verifier::new(api_server("victim")).owner("t", PEER).await.unwrap().namespace, "evil");
    }

    #[tokio::test]
    async fn a_pod_that_reports_without_a_pause_is_turned_away() {
        let verifier = Verifier::new(api_server("victim"));
        let mut taken = 0;
        for i in 0..1000 {
            // A new token of the same pod each time is the same pod.
            match verifier.owner(&format!("t{}", i % 2), PEER).await {
                Ok(_) => taken += 1,
                Err(refusal) => assert_eq!(refusal, Refusal::TooOften),
            }
        }
        assert!((20..100).contains(&taken), "{taken}");
    }
}
