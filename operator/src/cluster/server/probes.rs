//! Metrics and probes: `/metrics`, `/healthz`, `/readyz`. Answers HTTP requests.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::cluster::leader::Claim;
use crate::cluster::liveness::Liveness;
use crate::cluster::metrics::{Metrics, Snapshot};
use crate::cluster::resources::Resources;

/// A controller without activity for this long is stuck: twice the life of a watch, which it renews.
pub const PATIENCE: Duration = Duration::from_mins(10);

/// What metrics and probes are answered from.
#[derive(Debug)]
pub struct Probes {
    /// What was counted.
    pub metrics: Arc<Metrics>,
    /// Whether this process leads.
    pub claim: Claim,
    /// When the controllers were last active.
    pub liveness: Arc<Liveness>,
    /// How long a controller may be silent while this process leads.
    pub patience: Duration,
    /// How every resource stands.
    pub resources: Arc<Resources>,
}

impl Probes {
    /// The paths.
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .with_state(Arc::new(self))
    }
}

async fn metrics(State(probes): State<Arc<Probes>>) -> impl IntoResponse {
    let snapshot = Snapshot {
        resources: probes.resources.reasons(),
        leader: probes.claim.is_held(),
        last_activity_age: probes.liveness.age(),
    };
    match probes.metrics.text(&snapshot) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Whoever waits for the lead is well; whoever leads is well while its controllers work.
async fn healthz(State(probes): State<Arc<Probes>>) -> impl IntoResponse {
    let age = probes.liveness.age();
    if probes.claim.is_held() && age > probes.patience {
        let found = format!("no controller activity for {} s\n", age.as_secs());
        return (StatusCode::SERVICE_UNAVAILABLE, found);
    }
    (StatusCode::OK, "ok\n".to_owned())
}

/// Only the leader is ready to act. No probe of a Deployment: its other pods would never be ready, and none be replaced.
async fn readyz(State(probes): State<Arc<Probes>>) -> impl IntoResponse {
    if probes.claim.is_held() { (StatusCode::OK, "leader\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "standby\n") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt;

    const LONG: Duration = Duration::from_mins(1);

    async fn get(path: &str, leads: Duration, patience: Duration) -> (StatusCode, String) {
        let probes = Probes {
            metrics: Arc::new(Metrics::new().unwrap()),
            claim: Claim::held_for(leads),
            liveness: Arc::default(),
            patience,
            resources: Arc::default(),
        };
        let answer = probes.router().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
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
