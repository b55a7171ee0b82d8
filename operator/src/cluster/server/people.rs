//! What people and probes ask: `/metrics`, `/healthz`, `/readyz`. Answers HTTP requests.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::cluster::leader::Claim;
use crate::cluster::metrics::{Metrics, Snapshot};
use crate::cluster::pulse::Pulse;
use crate::cluster::resources::Resources;

/// A controller that was not heard of for this long is stuck: twice the life of a watch, which it renews.
pub const PATIENCE: Duration = Duration::from_mins(10);

/// What is told to people and probes.
#[derive(Debug)]
pub struct People {
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// Whether this process leads.
    pub claim: Claim,
    /// When the controllers were last heard of.
    pub pulse: Arc<Pulse>,
    /// How long a controller may be silent while this process leads.
    pub patience: Duration,
    /// How every resource stands.
    pub resources: Arc<Resources>,
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
    let snapshot = Snapshot {
        resources: people.resources.reasons(),
        leader: people.claim.is_held(),
        last_activity_age: people.pulse.age(),
    };
    match people.metrics.text(&snapshot) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Whoever waits for the lead is well; whoever leads is well while its controllers work.
async fn healthz(State(people): State<Arc<People>>) -> impl IntoResponse {
    let age = people.pulse.age();
    if people.claim.is_held() && age > people.patience {
        let found = format!("no controller activity for {} s\n", age.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, found);
    }
    (StatusCode::OK, "ok\n".to_owned())
}

/// Only the leader is ready to act. No probe of a Deployment: its other pods would never be ready, and none be replaced.
async fn readyz(State(people): State<Arc<People>>) -> impl IntoResponse {
    if people.claim.is_held() { (StatusCode::OK, "leader\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "standby\n") }
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
            resources: Arc::default(),
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
    async fn metrics_say_who_leads() {
        assert!(get("/metrics", LONG, LONG).await.1.contains("\nplumbline_leader 1\n"));
        assert!(get("/metrics", Duration::ZERO, LONG).await.1.contains("\nplumbline_leader 0\n"));
    }
}
