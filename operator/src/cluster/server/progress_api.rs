//! Progress that pods send: `POST /v1/progress` with a `ProgressReport` as JSON and the pod's token. Answers HTTP
//! requests.
//!
//! Neither path nor body names a resource. A pod can speak only for the one that its own Job belongs to, which the token
//! leads to.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, Request, State};
use axum::http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};

use super::listen::Peer;
use super::pod_identity::Refusal;
use super::token::Verifier;
use super::triggers::Triggers;
use crate::cluster::dependents::Id;
use crate::cluster::leader::Claim;
use crate::cluster::metrics::{Metrics, PostOutcome};
use crate::cluster::progress::{self, Latest, Offer, Owner};

/// The longest report, in bytes. One that fills every bound of the schema has about 8 KiB.
const MAX_BODY: usize = 64 * 1024;
/// For the body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Seconds after which a pod that was turned away may come again.
const AGAIN_SECONDS: u64 = 5;

/// Where reports go.
#[derive(Clone, Debug)]
pub struct ProgressApi {
    /// Tells whose pod it is.
    pub verifier: Arc<Verifier>,
    /// Keeps the newest report of each resource.
    pub latest: Arc<Latest>,
    /// Asks for reconciles.
    pub triggers: Triggers,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Whether this process leads: others write no status.
    pub claim: Claim,
}

/// An answer that is not `202 Accepted`.
struct Answer {
    outcome: PostOutcome,
    code: StatusCode,
    message: String,
}

impl ProgressApi {
    /// The path.
    pub fn router(self) -> Router {
        Router::new().route("/v1/progress", post(report)).layer(DefaultBodyLimit::max(MAX_BODY)).with_state(self)
    }

    async fn receive(&self, peer: IpAddr, request: Request) -> Result<(), Answer> {
        if !self.claim.is_held() {
            return Err(answer(
                PostOutcome::Unavailable,
                StatusCode::SERVICE_UNAVAILABLE,
                "this operator does not lead",
            ));
        }
        let token = bearer(request.headers()).map_err(|refusal| refused(&refusal))?;
        let owner = self.verifier.owner(&token, peer).await.map_err(|refusal| refused(&refusal))?;
        let report = progress::read(&body(request).await?);
        let report = report.map_err(|error| answer(PostOutcome::Malformed, StatusCode::BAD_REQUEST, error))?;
        match self.latest.offer(&owner, report, Instant::now()) {
            Offer::WriteNow => self.ask(owner),
            Offer::WriteAt(at) => {
                let api = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep_until(at.into()).await;
                    api.ask(owner);
                });
            }
            Offer::Queued => {}
        }
        Ok(())
    }

    fn ask(&self, owner: Owner) {
        let Owner { kind, namespace, name, uid, .. } = owner;
        if !self.triggers.send(Id { namespace, kind, name }) {
            self.latest.unasked(&uid);
        }
    }
}

async fn report(State(api): State<ProgressApi>, Extension(Peer(peer)): Extension<Peer>, request: Request) -> Response {
    match api.receive(peer, request).await {
        Ok(()) => {
            api.metrics.progress_posted(PostOutcome::Accepted);
            StatusCode::ACCEPTED.into_response()
        }
        Err(Answer { outcome, code, message }) => {
            api.metrics.progress_posted(outcome);
            tracing::debug!(%peer, code = code.as_u16(), message, "a progress report was refused");
            let again = matches!(outcome, PostOutcome::RateLimited | PostOutcome::Unavailable);
            let again = again.then_some([(RETRY_AFTER, AGAIN_SECONDS)]);
            // On a connection of its own, the next report may reach another operator: the one that leads.
            let elsewhere = matches!(outcome, PostOutcome::Unavailable).then_some([(CONNECTION, "close")]);
            (code, again, elsewhere, format!("{message}\n")).into_response()
        }
    }
}

/// The token in `Authorization: Bearer` (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Result<String, Refusal> {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    match token.map(|(_, token)| token.trim()).filter(|token| !token.is_empty()) {
        Some(token) => Ok(token.to_owned()),
        None => Err(Refusal::Unauthenticated("there is none".into())),
    }
}

async fn body(request: Request) -> Result<Bytes, Answer> {
    let too_large = || {
        let message = format!("expected at most {MAX_BODY} bytes");
        answer(PostOutcome::TooLarge, StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > MAX_BODY) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(too_large()),
        Ok(Err(_)) => Err(answer(PostOutcome::Malformed, StatusCode::BAD_REQUEST, "the body broke off")),
        Err(_) => Err(answer(PostOutcome::Malformed, StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}

fn refused(refusal: &Refusal) -> Answer {
    answer(refusal.outcome(), refusal.code(), refusal.to_string())
}

fn answer(outcome: PostOutcome, code: StatusCode, message: impl Into<String>) -> Answer {
    Answer { outcome, code, message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_from_a_bearer_header_and_from_nothing_else() {
        let read = |value: &str| bearer(&HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])).ok();
        assert_eq!(read("Bearer abc.def"), Some("abc.def".into()));
        assert_eq!(read("bearer  abc "), Some("abc".into()));
        for other in ["Bearer", "Bearer ", "Basic abc", "abc", ""] {
            assert_eq!(read(other), None, "{other}");
        }
        assert!(bearer(&HeaderMap::new()).is_err());
    }
}
