//! An API server that answers as a test says, and what reconciles need beside it. Computes only.

use std::sync::Arc;

use axum::http::{Request, Response, StatusCode};
use clap::Parser;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

use super::context::Context;
use super::dependents::Dependents;
use super::metrics::Metrics;
use super::publish::Publisher;
use super::settings::Settings;

/// A client whose requests, as `GET /path` without the query, are answered by a function: with an object, or with none (404).
pub(super) fn client(answer: impl Fn(&str) -> Option<Value> + Clone + Send + Sync + 'static) -> Client {
    client_with_bodies(move |request, _| answer(request))
}

/// The same, for a function that is also given the body of each request.
pub(super) fn client_with_bodies(
    answer: impl Fn(&str, Value) -> Option<Value> + Clone + Send + Sync + 'static,
) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer.clone();
        let what = format!("{} {}", request.method(), request.uri().path());
        let gone =
            || json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "gone"});
        async move {
            let body = request.into_body().collect_bytes().await.unwrap_or_default();
            let answer = answer(&what, serde_json::from_slice(&body).unwrap_or_default());
            let code = if answer.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
            let mut response = Response::new(Body::from(answer.unwrap_or_else(gone).to_string().into_bytes()));
            *response.status_mut() = code;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    Client::new(service, "default")
}

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    settings: Settings,
}

/// What reconciles share, with a client.
pub(super) fn context(client: Client) -> Context {
    Context {
        settings: Arguments::parse_from(["plumbline", "--trainer-image=trainer:test"]).settings,
        dependents: Dependents::default(),
        resources: Arc::default(),
        latest: Arc::default(),
        metrics: Arc::new(Metrics::new().unwrap()),
        liveness: Arc::default(),
        publisher: Publisher::new(client.clone(), "test"),
        client,
    }
}

/// A client whose every request is answered with a text, by its query.
pub(super) fn log_client(answer: impl Fn(&str) -> String + Clone + Send + Sync + 'static) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let text = answer(request.uri().query().unwrap_or_default());
        async move { Ok::<_, std::convert::Infallible>(Response::new(Body::from(text.into_bytes()))) }
    });
    Client::new(service, "default")
}
