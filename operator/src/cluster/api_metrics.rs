//! Counts the operator's requests to the API server, as a layer of its client. Computes only.

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Method, Request, Response, Uri};
use futures::future::BoxFuture;
use kube::client::ClientBuilder;
use kube::{Client, Config};
use plumbline_crds::{GROUP, Kind};
use tower::{Layer, Service};

use super::liveness::Liveness;
use super::metrics::Metrics;

/// Counts each request by verb, resource and code, and takes a granted list or watch of one of the three kinds for a sign
/// of life of its controller.
///
/// It is on the outside of the client's stack: a request that the client repeats by itself
/// counts once, with its last answer.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    metrics: Arc<Metrics>,
    liveness: Arc<Liveness>,
}

impl ApiMetrics {
    /// A layer that counts into `metrics`.
    pub fn new(metrics: Arc<Metrics>, liveness: Arc<Liveness>) -> Self {
        Self { metrics, liveness }
    }

    /// A client whose requests are counted.
    pub fn client(&self, config: Config) -> kube::Result<Client> {
        Ok(ClientBuilder::try_from(config)?.with_layer(self).build())
    }
}

impl<S> Layer<S> for ApiMetrics {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, to: self.clone() }
    }
}

/// A client whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    to: ApiMetrics,
}

impl<S, A, B> Service<Request<A>> for Counted<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let call = Call::of(request.method(), request.uri());
        let to = self.to.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = answer.as_ref().map(|a| a.status().as_u16()).ok();
            to.metrics.api_request(call.verb, &call.resource, code);
            if matches!(call.verb, "list" | "watch") && code == Some(200) {
                let kind = Kind::ALL.into_iter().find(|k| call.group == GROUP && call.resource == k.plural());
                if let Some(kind) = kind {
                    to.liveness.beat(kind);
                }
            }
            answer
        })
    }
}

/// What a request does, in the terms of RBAC.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    verb: &'static str,
    group: String,
    /// With its subresource: `jobs/status`. `none` for a path that names no resource.
    resource: String,
}

impl Call {
    /// By method and path (Kubernetes API Concepts: `/api/v1/...`, `/apis/GROUP/VERSION/...`, below it
    /// `[namespaces/NAMESPACE/]RESOURCE[/NAME[/SUBRESOURCE]]`).
    fn of(method: &Method, uri: &Uri) -> Self {
        let parts: Vec<&str> = uri.path().split('/').filter(|p| !p.is_empty()).collect();
        let (group, rest) = match parts.as_slice() {
            ["api", _, rest @ ..] => ("", rest),
            ["apis", group, _, rest @ ..] => (*group, rest),
            _ => ("", [].as_slice()),
        };
        let rest = match rest {
            ["namespaces", _, rest @ ..] if !rest.is_empty() => rest,
            rest => rest,
        };
        let (resource, named) = match rest {
            [] => ("none".to_owned(), false),
            [resource] => ((*resource).to_owned(), false),
            [resource, _] => ((*resource).to_owned(), true),
            [resource, _, subresource, ..] => (format!("{resource}/{subresource}"), true),
        };
        let watch = uri.query().is_some_and(|q| q.split('&').any(|p| matches!(p, "watch=true" | "watch=1")));
        let verb = match (method.as_str(), named) {
            ("GET", _) if watch => "watch",
            ("GET", true) => "get",
            ("GET", false) if resource == "none" => "get",
            ("GET", false) => "list",
            ("POST", _) => "create",
            ("PUT", _) => "update",
            ("PATCH", _) => "patch",
            ("DELETE", true) => "delete",
            ("DELETE", false) => "deletecollection",
            _ => "other",
        };
        Self { verb, group: group.to_owned(), resource }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_named_by_verb_and_resource_and_never_by_the_object() {
        let cases = [
            ("GET", "/api/v1/namespaces/team/pods/p1", "get", "", "pods"),
            ("GET", "/api/v1/namespaces/team/pods?&labelSelector=a", "list", "", "pods"),
            ("GET", "/apis/batch/v1/jobs?&watch=true&timeoutSeconds=290", "watch", "batch", "jobs"),
            ("GET", "/apis/plumbline.dev/v1alpha1/rewardmodels?&watch=true", "watch", "plumbline.dev", "rewardmodels"),
            ("PATCH", "/apis/batch/v1/namespaces/team/jobs/j1/status?&force=true", "patch", "batch", "jobs/status"),
            ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", "update", "coordination.k8s.io", "leases"),
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", "create", "authentication.k8s.io", "tokenreviews"),
            ("DELETE", "/apis/batch/v1/namespaces/team/jobs/j1", "delete", "batch", "jobs"),
            ("DELETE", "/apis/batch/v1/namespaces/team/jobs", "deletecollection", "batch", "jobs"),
            ("GET", "/api/v1/namespaces/team", "get", "", "namespaces"),
            ("GET", "/api/v1/namespaces/team/pods/p1/log", "get", "", "pods/log"),
            ("GET", "/version", "get", "", "none"),
        ];
        for (method, path, verb, group, resource) in cases {
            let call = Call::of(&method.parse().unwrap(), &path.parse().unwrap());
            assert_eq!(call, Call { verb, group: group.into(), resource: resource.into() }, "{method} {path}");
        }
    }

    #[tokio::test]
    async fn requests_are_counted_and_a_granted_watch_is_a_sign_of_life() {
        let (metrics, liveness) = (Arc::new(Metrics::new().unwrap()), Arc::new(Liveness::default()));
        let answer = |request: Request<()>| async move {
            let code = if request.uri().path().ends_with("rewardmodels") { 200 } else { 403 };
            Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(()).unwrap())
        };
        let mut client = ApiMetrics::new(metrics.clone(), liveness.clone()).layer(tower::util::service_fn(answer));
        let pause = std::time::Duration::from_millis(20);
        std::thread::sleep(pause);
        let since = std::time::Instant::now();
        for kind in Kind::ALL {
            let path = format!("/apis/plumbline.dev/v1alpha1/{}?watch=true", kind.plural());
            client.call(Request::get(path).body(()).unwrap()).await.unwrap();
        }
        let text = metrics.text(&crate::cluster::metrics::Snapshot::default()).unwrap();
        assert!(
            text.contains(r#"plumbline_kube_api_requests_total{code="200",resource="rewardmodels",verb="watch"} 1"#),
            "{text}"
        );
        assert!(
            text.contains(r#"plumbline_kube_api_requests_total{code="403",resource="policytunings",verb="watch"} 1"#),
            "{text}"
        );
        assert!(liveness.age() >= pause, "a refused watch is no sign of life");
        liveness.beat(Kind::PreferenceDataset);
        liveness.beat(Kind::PolicyTuning);
        assert!(liveness.age() <= since.elapsed(), "the granted watch was none");
    }
}
