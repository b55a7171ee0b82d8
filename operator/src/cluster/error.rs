//! How a reconcile fails: one variant per step. Computes only.

use std::time::Duration;

/// The step that failed, and why. A reconcile that failed is repeated from the start.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Reading the resource, its inputs or its Job.
    #[error("failed to observe the resource: {0}")]
    Observe(#[source] kube::Error),
    /// Creating or deleting objects of the run.
    #[error("failed to apply the run: {0}")]
    Apply(#[source] kube::Error),
    /// Writing the status.
    #[error("failed to write the status: {0}")]
    Status(#[source] kube::Error),
    /// Deleting or expiring the Job of a run that is over.
    #[error("failed to clean up the run: {0}")]
    CleanUp(#[source] kube::Error),
    /// Any of them: an answer of the API server is missing.
    #[error("expected the requests of a reconcile to be answered within {0:?}, found one that was not")]
    Timeout(Duration),
}

impl ReconcileError {
    /// The variant, as metrics name it.
    pub fn variant(&self) -> &'static str {
        match self {
            Self::Observe(_) => "Observe",
            Self::Apply(_) => "Apply",
            Self::Status(_) => "Status",
            Self::CleanUp(_) => "CleanUp",
            Self::Timeout(_) => "Timeout",
        }
    }
}
