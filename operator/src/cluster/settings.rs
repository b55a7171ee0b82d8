//! What whoever installs the operator decides. Computes only.

/// Settings of an installation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace to work in; all of them without one.
    pub namespace: Option<String>,
    /// Image of the trainer, where a resource names none.
    pub trainer_image: Option<String>,
    /// Where artifacts go when a resource names no output: `pvc://claim/folder`, a claim of this name in each namespace.
    pub artifact_root: Option<String>,
    /// Name of the accelerator among a node's resources.
    pub accelerator_resource: String,
    /// Base URL of the operator that pods send progress to; they send none without it.
    pub progress_url: Option<String>,
    /// Seconds that a finished Job is kept, for its log.
    pub finished_job_seconds: i32,
}
