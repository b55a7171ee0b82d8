//! What whoever installs the operator decides: the arguments of `plumbline operator`. Computes only.

/// Settings of an installation.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Work in this namespace alone [default: in all].
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Image of the trainer, where a resource names none in spec.compute.image.
    #[arg(long, value_name = "IMAGE")]
    pub trainer_image: Option<String>,
    /// Where artifacts go when a resource names no spec.output.uri: `pvc://claim/folder`, a claim of this name in each
    /// namespace.
    #[arg(long, value_name = "URI")]
    pub artifact_root: Option<String>,
    /// Name of the accelerator among the resources of a node.
    #[arg(long, value_name = "NAME", default_value = "nvidia.com/gpu")]
    pub accelerator_resource: String,
    /// Base URL of this operator that pods send their progress to [default: they send none].
    #[arg(long, value_name = "URL")]
    pub progress_url: Option<String>,
    /// Seconds that a finished Job is kept, for its log.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(i32).range(0..))]
    pub finished_job_seconds: i32,
    /// Seconds after which a resource on which something happens is looked at again, should an event have been lost.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub look_again_seconds: u64,
}
