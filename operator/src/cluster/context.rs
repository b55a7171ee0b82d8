//! What every reconcile shares.

use std::sync::Arc;

use kube::Client;

use super::dependents::Dependents;
use super::liveness::Liveness;
use super::metrics::Metrics;
use super::progress::Latest;
use super::publish::Publisher;
use super::resources::Resources;
use super::settings::Settings;

/// The world of the operator.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What whoever installed it decided.
    pub settings: Settings,
    /// Who waits for what.
    pub dependents: Dependents,
    /// How every resource stands.
    pub resources: Arc<Resources>,
    /// What running stages said last.
    pub latest: Arc<Latest>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// That the controllers work.
    pub liveness: Arc<Liveness>,
    /// Events.
    pub publisher: Publisher,
}

/// A context shared by the controllers.
pub type Shared = Arc<Context>;
