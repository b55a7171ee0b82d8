//! What every reconcile shares.

use std::sync::Arc;

use kube::Client;
use kube::runtime::events::Recorder;

use super::dependents::Dependents;
use super::settings::Settings;

/// The world of the operator.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What whoever installed it decided.
    pub settings: Settings,
    /// Who waits for what.
    pub dependents: Dependents,
    /// Events.
    pub recorder: Recorder,
}

/// A context shared by the controllers.
pub type Shared = Arc<Context>;
