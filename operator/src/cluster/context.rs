//! The clients, settings and state that reconciles share.

use std::sync::Arc;

use kube::Client;

use super::dependents::Dependents;
use super::liveness::Liveness;
use super::metrics::Metrics;
use super::progress::Latest;
use super::publish::Publisher;
use super::resources::Resources;
use super::settings::Settings;

/// What every reconcile shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// Settings of the installation.
    pub settings: Settings,
    /// Which resources wait for which objects.
    pub dependents: Dependents,
    /// The leading reason of every resource.
    pub resources: Arc<Resources>,
    /// What running stages reported last.
    pub latest: Arc<Latest>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// When the controllers were last active.
    pub liveness: Arc<Liveness>,
    /// Events.
    pub publisher: Publisher,
}

/// A context shared by the controllers.
pub type Shared = Arc<Context>;
