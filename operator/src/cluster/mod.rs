//! The operator: the three kinds on a cluster.
//!
//! ```text
//! observe -> validate -> plan -> build -> apply -> status
//! (IO in)    (pure)     (pure)  (pure)  (IO out)  (pure, then one patch)
//! ```

pub mod build;
pub mod outcome;
pub mod places;
pub mod settings;
pub mod times;
