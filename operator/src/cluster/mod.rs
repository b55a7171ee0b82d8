//! The operator: the three kinds on a cluster.
//!
//! ```text
//! observe -> validate -> plan -> build -> apply -> status
//! (IO in)    (pure)     (pure)  (pure)  (IO out)  (pure, then one patch)
//! ```

pub mod apply;
pub mod build;
pub mod context;
pub mod controller;
pub mod dependents;
pub mod kinds;
pub mod observe;
pub mod outcome;
pub mod places;
pub mod rbac;
pub mod reconcile;
pub mod run;
pub mod settings;
pub mod times;
