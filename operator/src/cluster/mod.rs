//! The operator: the three kinds on a cluster.
//!
//! ```text
//! observe -> validate -> plan -> build -> apply -> status
//! (IO in)    (pure)     (pure)  (pure)  (IO out)  (pure, then one patch)
//! ```

pub mod api_metrics;
pub mod build;
pub mod events;
pub mod leader;
pub mod logging;
pub mod metrics;
pub mod outcome;
pub mod places;
pub mod progress;
pub mod publish;
pub mod pulse;
pub mod server;
pub mod settings;
pub mod times;
