//! From what the API server says of a token to the resource that its pod works for: token -> pod -> Job -> resource, each
//! step by UID, so that a namesake proves nothing. Computes only.

use axum::http::StatusCode;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use plumbline_crds::{API_VERSION, Kind};

use crate::cluster::metrics::PostOutcome;
use crate::cluster::objects::AUDIENCE;
use crate::cluster::progress::Owner;

/// Claims of a token that the kubelet asked for on behalf of a pod (Kubernetes, "Managing Service Accounts": additional
/// metadata in pod bound tokens).
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// Why a token is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// Too many unknown tokens.
    #[error("too many tokens that are not known yet; try again in a few seconds")]
    RateLimited,
    /// Too many reports of one pod.
    #[error("too many reports of this pod; send the newest in a few seconds")]
    TooOften,
    /// No token, or one that the API server does not vouch for.
    #[error("expected `Authorization: Bearer` with a valid token of a pod: {0}")]
    Unauthenticated(String),
    /// A token that was made for somebody else.
    #[error("expected a token for the audience {AUDIENCE}")]
    WrongAudience,
    /// A token of nothing that belongs to a resource.
    #[error("expected the token of a pod that runs a resource of plumbline.dev: {0}")]
    NotOwned(String),
    /// The API server could not be asked.
    #[error("the token could not be verified now; try again in a few seconds")]
    Unavailable,
}

impl Refusal {
    pub(super) fn outcome(&self) -> PostOutcome {
        match self {
            Self::RateLimited | Self::TooOften => PostOutcome::RateLimited,
            Self::Unauthenticated(_) => PostOutcome::Unauthenticated,
            Self::WrongAudience => PostOutcome::WrongAudience,
            Self::NotOwned(_) => PostOutcome::NotOwned,
            Self::Unavailable => PostOutcome::Unavailable,
        }
    }

    pub(super) fn code(&self) -> StatusCode {
        match self {
            Self::RateLimited | Self::TooOften => StatusCode::TOO_MANY_REQUESTS,
            Self::Unauthenticated(_) | Self::WrongAudience => StatusCode::UNAUTHORIZED,
            Self::NotOwned(_) => StatusCode::FORBIDDEN,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// An object that is known by its UID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectId {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// The pod that a token is bound to.
pub(super) fn pod_of(review: &TokenReviewStatus) -> Result<ObjectId, Refusal> {
    if review.authenticated != Some(true) {
        // The answer has no field for it, and it only decides what is counted.
        return Err(match review.error.as_deref() {
            Some(error) if error.contains("audience") => Refusal::WrongAudience,
            _ => Refusal::Unauthenticated("this one is unknown, expired, or of a pod that is gone".into()),
        });
    }
    if !review.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return Err(Refusal::WrongAudience);
    }
    let user = review.user.as_ref();
    let account = user.and_then(|u| u.username.as_deref()).and_then(|name| name.strip_prefix(SERVICE_ACCOUNT));
    let Some((namespace, _)) = account.and_then(|account| account.split_once(':')) else {
        return Err(Refusal::NotOwned("this one is of no service account".into()));
    };
    let claim = |key: &str| match user?.extra.as_ref()?.get(key)?.as_slice() {
        [value] if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    match (claim(POD_NAME), claim(POD_UID)) {
        (Some(name), Some(uid)) => Ok(ObjectId { namespace: namespace.to_owned(), name, uid }),
        _ => Err(Refusal::NotOwned("this one is bound to no pod".into())),
    }
}

/// The Job that controls the pod.
pub(super) fn job_of(pod: &Pod, known: &ObjectId) -> Result<ObjectId, Refusal> {
    let owner = controller(&pod.metadata, known, "pod")?;
    if owner.api_version != "batch/v1" || owner.kind != "Job" {
        return Err(Refusal::NotOwned("this pod is of no Job".into()));
    }
    Ok(ObjectId { namespace: known.namespace.clone(), name: owner.name.clone(), uid: owner.uid.clone() })
}

/// The resource that the Job says it is controlled by.
pub(super) fn owner_of(job: &Job, known: &ObjectId, pod: &ObjectId) -> Result<Owner, Refusal> {
    let owner = controller(&job.metadata, known, "Job")?;
    match Kind::parse(&owner.kind).filter(|_| owner.api_version == API_VERSION) {
        Some(kind) => Ok(Owner {
            kind,
            namespace: known.namespace.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
            job: known.uid.clone(),
            pod: pod.uid.clone(),
        }),
        None => Err(Refusal::NotOwned("this pod's Job is of no such resource".into())),
    }
}

/// The resource, where it is the one that is found under its name in the pod's namespace: anybody may write the UID of another
/// namespace's resource into a Job of theirs.
pub(super) fn confirmed(owner: Owner, found: Option<&ObjectMeta>) -> Result<Owner, Refusal> {
    match found {
        Some(found) if found.uid.as_ref() == Some(&owner.uid) => Ok(owner),
        _ => Err(Refusal::NotOwned("the resource that this pod's Job names is not in this namespace".into())),
    }
}

/// What controls an object, where the object is the one that is meant.
fn controller<'a>(object: &'a ObjectMeta, known: &ObjectId, what: &str) -> Result<&'a OwnerReference, Refusal> {
    if object.uid.as_ref() != Some(&known.uid) {
        return Err(Refusal::NotOwned(format!("this {what} is gone")));
    }
    let owner = object.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    owner.ok_or_else(|| Refusal::NotOwned(format!("this {what} is controlled by nothing")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn review(change: impl Fn(&mut serde_json::Value)) -> TokenReviewStatus {
        let mut review = json!({
            "authenticated": true,
            "audiences": ["plumbline.dev/progress"],
            "user": {"username": "system:serviceaccount:team:runner",
                "extra": {"authentication.kubernetes.io/pod-name": ["p"], "authentication.kubernetes.io/pod-uid": ["u"]}}
        });
        change(&mut review);
        serde_json::from_value(review).unwrap()
    }

    type Change = fn(&mut serde_json::Value);

    fn known(name: &str, uid: &str) -> ObjectId {
        ObjectId { namespace: "team".into(), name: name.into(), uid: uid.into() }
    }

    fn metadata(uid: &str, api_version: &str, kind: &str, controller: bool) -> serde_json::Value {
        let owner =
            json!({"apiVersion": api_version, "kind": kind, "name": "o", "uid": "ou", "controller": controller});
        json!({"metadata": {"name": "x", "uid": uid, "ownerReferences": [owner]}})
    }

    #[test]
    fn a_token_leads_to_its_pod_only_with_our_audience_and_the_claims_of_a_pod() {
        assert_eq!(pod_of(&review(|_| {})), Ok(known("p", "u")));
        let cases: [(Change, PostOutcome); 9] = [
            (|r| r["authenticated"] = json!(false), PostOutcome::Unauthenticated),
            (|r| *r = json!({"error": "token has expired"}), PostOutcome::Unauthenticated),
            (|r| *r = json!({"error": "token audiences [\"a\"] is invalid"}), PostOutcome::WrongAudience),
            (|r| r["audiences"] = json!(["https://kubernetes.default.svc"]), PostOutcome::WrongAudience),
            (|r| *r = json!({"authenticated": true, "user": r["user"]}), PostOutcome::WrongAudience),
            (|r| r["user"]["username"] = json!("admin"), PostOutcome::NotOwned),
            (|r| r["user"]["extra"] = json!(null), PostOutcome::NotOwned),
            (|r| r["user"]["extra"][POD_UID] = json!([]), PostOutcome::NotOwned),
            (|r| r["user"]["extra"][POD_NAME] = json!(["p", "q"]), PostOutcome::NotOwned),
        ];
        for (change, outcome) in cases {
            let review = review(change);
            assert_eq!(pod_of(&review).unwrap_err().outcome(), outcome, "{review:?}");
        }
    }

    #[test]
    fn a_pod_leads_to_its_job_by_uid_and_by_what_controls_it() {
        let pod = |value| serde_json::from_value::<Pod>(value).unwrap();
        let job = job_of(&pod(metadata("u", "batch/v1", "Job", true)), &known("p", "u"));
        assert_eq!(job, Ok(known("o", "ou")));
        for other in [
            metadata("another", "batch/v1", "Job", true),
            metadata("u", "batch/v1", "Job", false),
            metadata("u", "apps/v1", "ReplicaSet", true),
            metadata("u", "example.com/v1", "Job", true),
            json!({"metadata": {"uid": "u"}}),
        ] {
            let refused = job_of(&pod(other.clone()), &known("p", "u")).unwrap_err();
            assert_eq!(refused.outcome(), PostOutcome::NotOwned, "{other}");
        }
    }

    #[test]
    fn a_job_leads_to_the_resource_that_controls_it_and_to_no_other() {
        let job = |value| serde_json::from_value::<Job>(value).unwrap();
        let pod = known("p", "pu");
        let owner = owner_of(&job(metadata("u", API_VERSION, "RewardModel", true)), &known("j", "u"), &pod).unwrap();
        let (namespace, name, uid, job_uid) = ("team".into(), "o".into(), "ou".into(), "u".into());
        assert_eq!(owner, Owner { kind: Kind::RewardModel, namespace, name, uid, job: job_uid, pod: "pu".into() });
        for other in [
            metadata("another", API_VERSION, "RewardModel", true),
            metadata("u", API_VERSION, "RewardModel", false),
            metadata("u", API_VERSION, "Policy", true),
            metadata("u", "batch/v1", "CronJob", true),
            metadata("u", "example.com/v1", "RewardModel", true),
        ] {
            let refused = owner_of(&job(other.clone()), &known("j", "u"), &pod).unwrap_err();
            assert_eq!(refused.outcome(), PostOutcome::NotOwned, "{other}");
        }
    }

    #[test]
    fn a_resource_is_the_one_in_the_pods_namespace_and_none_whose_uid_a_job_just_names() {
        let job: Job = serde_json::from_value(metadata("u", API_VERSION, "RewardModel", true)).unwrap();
        let owner = owner_of(&job, &known("j", "u"), &known("p", "pu")).unwrap();
        let found = |uid: &str| ObjectMeta { uid: Some(uid.into()), ..ObjectMeta::default() };
        assert_eq!(confirmed(owner.clone(), Some(&found("ou"))), Ok(owner.clone()));
        for other in [None, Some(&found("of-a-namesake"))] {
            assert_eq!(confirmed(owner.clone(), other).unwrap_err().outcome(), PostOutcome::NotOwned);
        }
    }
}
