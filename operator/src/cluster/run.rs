//! `plumbline operator`: starts everything, and ends everything when it is asked to. Talks to the API server and to sockets.
//!
//! Several may run: all answer probes, one leads and acts. Whoever loses the lead ends; its successor adopts what runs.

use std::error::Error;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::FutureExt;
use kube::client::ClientBuilder;
use kube::config::{InferConfigError, KubeconfigError};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::api_metrics::ApiMetrics;
use super::context::Context;
use super::controller;
use super::dependents::Dependents;
use super::leader::{Election, Lost};
use super::liveness::Liveness;
use super::metrics::Metrics;
use super::progress::Latest;
use super::publish::Publisher;
use super::resources::Resources;
use super::server::{self, PATIENCE, Probes, ProgressApi, Triggers, Verifier};
use super::settings::Settings;
use crate::printable::cause;

/// Time that running reconciles have to finish when the operator is asked to stop. The next leader repeats one that is
/// aborted. A controller that is stopped before its first list has arrived does not end by itself.
const LAST_VISITS: Duration = Duration::from_secs(10);

/// Why the operator ends.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No cluster is configured.
    #[error("no cluster: {0}")]
    NoCluster(String),
    /// The API server.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// Another operator may lead now.
    #[error("{0}; exiting, so that two leaders never act at once")]
    Lost(#[from] Lost),
    /// An address cannot be listened on.
    #[error("{address}: {}; free the port, or set another address", cause(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system.
    #[error("signals cannot be received: {0}")]
    Signals(#[from] std::io::Error),
    /// A fault of this program.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Runs until SIGTERM or Ctrl-C, or until the lead is lost.
pub async fn run(settings: Settings) -> Result<(), OperatorError> {
    let config = kube::Config::infer().await.map_err(|e| OperatorError::NoCluster(no_cluster(&e)))?;
    let own_namespace = settings.lease_namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let metrics = Arc::new(Metrics::new()?);
    let (liveness, resources, latest) =
        (Arc::<Liveness>::default(), Arc::<Resources>::default(), Arc::<Latest>::default());
    let layer = ApiMetrics::new(metrics.clone(), liveness.clone());
    let client = ClientBuilder::try_from(config)?.with_layer(&layer).build();
    let stop = stop()?.shared();

    let identity = std::env::var("POD_NAME").unwrap_or_else(|_| "plumbline".into());
    let mut election =
        Election::new(client.clone(), &own_namespace, &settings.lease_name, &identity, settings.timing());
    let (triggers, asked) = Triggers::new();
    let probes = Probes {
        metrics: metrics.clone(),
        claim: election.claim(),
        liveness: liveness.clone(),
        patience: PATIENCE,
        resources: resources.clone(),
    };
    let progress = ProgressApi {
        verifier: Arc::new(Verifier::new(client.clone())),
        latest: latest.clone(),
        triggers: triggers.clone(),
        metrics: metrics.clone(),
        claim: election.claim(),
    };
    listen("metrics", server::MAX_PROBE_CONNECTIONS, settings.addresses.metrics_address, probes.router(), stop.clone())
        .await?;
    if settings.progress_url.is_some() {
        listen(
            "progress",
            server::MAX_PROGRESS_CONNECTIONS,
            settings.addresses.progress_address,
            progress.router(),
            stop.clone(),
        )
        .await?;
    }

    tokio::select! {
        () = election.acquire() => {}
        () = stop.clone() => return Ok(()),
    }
    tracing::info!(identity = election.identity(), "became the leader");
    liveness.beat_all();
    let publisher = Publisher::new(client.clone(), &identity);
    let dependents = Dependents::default();
    let context = Arc::new(Context { client, settings, dependents, resources, latest, metrics, liveness, publisher });
    let last_moment = async {
        stop.clone().await;
        tokio::time::sleep(LAST_VISITS).await;
    };
    tokio::select! {
        () = controller::run(context, &triggers, asked, stop.clone()) => {}
        () = last_moment => tracing::warn!("aborting reconciles that did not finish within the shutdown timeout"),
        lost = election.hold() => return Err(lost.into()),
    }
    // Nothing is written after this.
    election.release().await;
    Ok(())
}

/// Why neither a kubeconfig nor a pod says where the cluster is, and what to do.
fn no_cluster(error: &InferConfigError) -> String {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return format!("{error}; give this pod a service account with its token, or set KUBECONFIG");
    }
    let kubeconfig = error.source().and_then(|source| source.downcast_ref::<KubeconfigError>());
    let why = kubeconfig.map_or_else(|| error.to_string(), no_kubeconfig);
    format!("not in a pod, and {why}; set KUBECONFIG")
}

/// Why a kubeconfig cannot be used.
fn no_kubeconfig(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::ReadConfig(error, path) if error.kind() == ErrorKind::NotFound => {
            format!("{} does not exist", path.display())
        }
        KubeconfigError::ReadConfig(error, path) => format!("{} cannot be read: {}", path.display(), cause(error)),
        KubeconfigError::FindPath => "there is no home directory to find .kube/config in".into(),
        other => format!("the kubeconfig cannot be used: {other}"),
    }
}

/// Ends when the process is asked to stop.
fn stop() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("received a stop signal; shutting down");
    })
}

async fn listen(
    server: &'static str,
    most: usize,
    address: SocketAddr,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), OperatorError> {
    let failed = |source| OperatorError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, server, "listening");
    tokio::spawn(server::serve(most, listener, router, stop));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_cluster_the_file_that_is_missing_is_named() {
        let missing =
            |kind: ErrorKind| no_kubeconfig(&KubeconfigError::ReadConfig(kind.into(), "/home/.kube/config".into()));
        assert_eq!(missing(ErrorKind::NotFound), "/home/.kube/config does not exist");
        assert!(missing(ErrorKind::PermissionDenied).starts_with("/home/.kube/config cannot be read: "));
    }
}
