//! The operator: the three kinds on a cluster.
//!
//! ```text
//! observe -> validate -> plan -> build -> apply -> status
//! (IO in)    (pure)     (pure)  (pure)  (IO out)  (pure, then one patch)
//! ```
//!
//! `reconcile` is these steps; `snapshot` has the values that they pass on. Two observations are late: what only a start depends
//! on is looked at after the plan, and pods that are left over once `apply` has deleted the last Job.

pub mod api_metrics;
mod apply;
mod changes;
pub mod context;
pub mod controller;
pub mod dependents;
pub mod error;
pub mod events;
mod fit;
pub mod kinds;
pub mod leader;
mod lists;
pub mod liveness;
pub mod logging;
pub mod metrics;
#[cfg(test)]
mod mock;
pub mod objects;
pub mod observe;
pub mod outcome;
pub mod progress;
pub mod publish;
pub mod queue;
pub mod rbac;
pub mod reconcile;
mod record;
pub mod resources;
pub mod run;
pub mod server;
pub mod settings;
pub mod snapshot;
pub mod times;
pub mod usage;
pub mod validate;
pub mod wait_for_leader;
pub mod writes;
