//! `plumbline operator`: starts everything, and ends everything when it is asked to. Talks to the API server.

use std::sync::Arc;

use futures::FutureExt;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use tokio::signal::unix::{SignalKind, signal};

use super::context::Context;
use super::controller;
use super::dependents::Dependents;
use super::settings::Settings;

/// Why the operator ends.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// No cluster is configured.
    #[error(
        "expected a cluster, by a service account or a kubeconfig, found none: {0}; set KUBECONFIG or run this in a pod"
    )]
    NoCluster(String),
    /// The API server.
    #[error(transparent)]
    Api(#[from] kube::Error),
    /// The operating system.
    #[error("signals cannot be received: {0}")]
    Signals(#[from] std::io::Error),
}

/// Runs until SIGTERM or Ctrl-C.
pub async fn run(settings: Settings) -> Result<(), OperatorError> {
    let config = kube::Config::infer().await.map_err(|e| OperatorError::NoCluster(e.to_string()))?;
    let client = Client::try_from(config)?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("asked to stop");
    };
    let reporter = Reporter { controller: "plumbline".into(), instance: std::env::var("POD_NAME").ok() };
    let context = Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        settings,
        dependents: Dependents::default(),
    };
    controller::run(Arc::new(context), stop.shared()).await;
    Ok(())
}
