//! What people and probes ask: `/metrics`, `/healthz`, `/readyz`. Answers HTTP requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use plumbline_crds::Kind;
use plumbline_crds::conditions::Reason;

use crate::cluster::leader::Claim;
use crate::cluster::metrics::{Metrics, Snapshot};
use crate::cluster::pulse::Pulse;

/// A controller that was not heard of for this long is stuck: twice the life of a watch, which it renews.
pub const PATIENCE: Duration = Duration::from_mins(10);

/// What is told to people and probes.
pub struct People {
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// Whether this process leads.
    pub claim: Claim,
    /// When the controllers were last heard of.
    pub pulse: Arc<Pulse>,
    /// How long a controller may be silent while this process leads.
    pub patience: Duration,
    /// Looks up kind and leading reason of every resource there is.
    pub resources: Box<dyn Fn() -> Vec<(Kind, Reason)> + Send + Sync>,
}

impl fmt::Debug for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("People").field("claim", &self.claim).field("pulse", &self.pulse).finish_non_exhaustive()
    }
}

impl People {
    /// The paths.
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(Arc::new(self))
    }
}

async fn metrics(State(people): State<Arc<People>>) -> impl IntoResponse {
    let leader = people.claim.is_held();
    let resources = if leader { (people.resources)() } else { Vec::new() };
    match people.metrics.text(&Snapshot { resources, leader, watch_event_age: people.pulse.age() }) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Whoever waits for the lead is well; whoever leads is well while its controllers work.
async fn healthz(State(people): State<Arc<People>>) -> impl IntoResponse {
    let age = people.pulse.age();
    if people.claim.is_held() && age > people.patience {
        let found = format!("a controller was not heard of for {} s; it is stuck\n", age.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, found);
    }
    (StatusCode::OK, "ok\n".to_owned())
}

/// Only the leader is ready, so that the Service of the progress address leads to it.
async fn readyz(State(people): State<Arc<People>>) -> impl IntoResponse {
    match people.claim.is_held() {
        true => (StatusCode::OK, "leads\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "waits for the lead\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    const LONG: Duration = Duration::from_mins(1);

    async fn get(path: &str, leads: Duration, patience: Duration) -> (StatusCode, String) {
        let people = People {
            metrics: Arc::new(Metrics::new().unwrap()),
            claim: Claim::held_for(leads),
            pulse: Arc::default(),
            patience,
            resources: Box::new(|| vec![(Kind::RewardModel, Reason::Running)]),
        };
        let answer = people.router().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let code = answer.status();
        let body = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        (code, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn only_a_leader_is_ready() {
        assert_eq!(get("/readyz", LONG, LONG).await.0, StatusCode::OK);
        assert_eq!(get("/readyz", Duration::ZERO, LONG).await.0, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_leader_whose_controllers_are_silent_is_not_well_and_one_that_waits_for_the_lead_is() {
        assert_eq!(get("/healthz", LONG, LONG).await.0, StatusCode::OK);
        assert_eq!(get("/healthz", LONG, Duration::ZERO).await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(get("/healthz", Duration::ZERO, Duration::ZERO).await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn resources_are_counted_by_the_leader_alone() {
        let line = "plumbline_resources{kind=\"RewardModel\",reason=\"Running\"} 1";
        assert!(get("/metrics", LONG, LONG).await.1.contains(line));
        let text = get("/metrics", Duration::ZERO, LONG).await.1;
        assert!(!text.contains(line) && text.contains("plumbline_leader 0"), "{text}");
    }
}
