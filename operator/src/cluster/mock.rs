//! A client of an API server that answers as a test says. Computes only.

use axum::http::{Request, Response, StatusCode};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

/// A client whose requests, as `GET /path` without the query, are answered by a function: with an object, or with none (404).
pub(super) fn client(answer: impl Fn(&str) -> Option<Value> + Clone + Send + Sync + 'static) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer(&format!("{} {}", request.method(), request.uri().path()));
        let gone =
            || json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "gone"});
        async move {
            let code = if answer.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
            let mut response = Response::new(Body::from(answer.unwrap_or_else(gone).to_string().into_bytes()));
            *response.status_mut() = code;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    Client::new(service, "default")
}

/// A client whose every request is answered with a text, by its query.
pub(super) fn log_client(answer: impl Fn(&str) -> String + Clone + Send + Sync + 'static) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let text = answer(request.uri().query().unwrap_or_default());
        async move { Ok::<_, std::convert::Infallible>(Response::new(Body::from(text.into_bytes()))) }
    });
    Client::new(service, "default")
}
