//! Whose pod brings this token? Talks to the API server: a TokenReview, the pod, its Job.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};

use super::cache::Cache;
use super::claims::{self, Refusal};
use super::limit::Limit;
use crate::cluster::build::AUDIENCE;
use crate::cluster::progress::Owner;

/// A token that was good stays so for this long; so long may a pod that is gone still be believed.
const GOOD_FOR: Duration = Duration::from_mins(1);
/// A token that was bad stays so for this long: the pod of a good one may just not have been seen yet.
const BAD_FOR: Duration = Duration::from_secs(5);
/// For the three requests together.
const LONGEST: Duration = Duration::from_secs(5);
/// Bytes. Tokens of service accounts have one to two thousand.
const MAX_TOKEN: usize = 16 * 1024;

/// Verifies tokens, and remembers the answers for a while.
pub struct Verifier {
    client: Client,
    known: Cache<Result<Owner, Refusal>>,
    limit: Limit,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// A verifier that asks with this client. It needs `create` of `tokenreviews` (authentication.k8s.io) and `get` of
    /// `pods` and `jobs` (batch).
    pub fn new(client: Client) -> Self {
        Self { client, known: Cache::new(), limit: Limit::new(Instant::now()) }
    }

    /// The resource that the bearer of the token works for.
    pub(super) async fn owner(&self, token: &str, peer: IpAddr) -> Result<Owner, Refusal> {
        if token.len() > MAX_TOKEN {
            return Err(Refusal::Unauthenticated("this one is too long".into()));
        }
        if let Some(known) = self.known.get(token, Instant::now()) {
            return known;
        }
        if !self.limit.allows(peer, Instant::now()) {
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
        let pod = match claims::pod_of(&self.review(token).await?) {
            Ok(pod) => pod,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let job = match pods.get_opt(&pod.name).await? {
            Some(found) => claims::job_of(&found, &pod),
            None => Err(Refusal::NotOwned("this pod is gone".into())),
        };
        let job = match job {
            Ok(job) => job,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &job.namespace);
        Ok(match jobs.get_opt(&job.name).await? {
            Some(found) => claims::owner_of(&found, &job),
            None => Err(Refusal::NotOwned("this pod's Job is gone".into())),
        })
    }

    async fn review(&self, token: &str) -> kube::Result<TokenReviewStatus> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![AUDIENCE.into()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        Ok(answer.status.unwrap_or_default())
    }
}
