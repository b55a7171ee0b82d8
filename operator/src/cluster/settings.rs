//! Settings of an installation: the arguments of `plumbline operator`. Computes only.

use std::net::SocketAddr;
use std::time::Duration;

use plumbline_crds::compute::Compute;
use plumbline_crds::remote::Remote;

use super::leader::Timing;
use super::rbac;
use crate::location::Location;
use crate::uri::is_store;

/// Settings of an installation.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Only namespace to watch [default: all].
    #[arg(long, value_name = "NAME")]
    pub watch_namespace: Option<String>,
    /// Image of the trainer, unless a resource sets spec.compute.image [default: none, every resource must set its own].
    #[arg(long, value_name = "IMAGE")]
    pub trainer_image: Option<String>,
    /// Image of the trainer for runs with accelerators, unless a resource sets spec.compute.image [default: --trainer-image].
    #[arg(long, value_name = "IMAGE")]
    pub accelerator_trainer_image: Option<String>,
    /// Root of artifacts of resources without spec.output.uri: `pvc://claim` or `pvc://claim/directory`, a claim of this name in
    /// each namespace, or `s3://bucket/directory`, `gs://`, `az://` [default: none, every resource must set its own].
    #[arg(long, value_name = "URI", value_parser = root)]
    pub artifact_root: Option<String>,
    /// Cache of fetched inputs: `pvc://claim` or `pvc://claim/directory`, used by runs in namespaces that have a claim of this
    /// name [default: none, every pod fetches its inputs].
    #[arg(long, value_name = "URI", value_parser = claim)]
    pub input_cache: Option<Location>,
    /// Size limit of each scratch volume of a pod, as a Kubernetes quantity: fetched inputs, output before its upload, and
    /// /tmp. The kubelet evicts a pod that exceeds it. Empty: no limit.
    #[arg(long, value_name = "QUANTITY", default_value = "200Gi", value_parser = size)]
    pub scratch_size: String,
    /// Resource name of accelerators on a node.
    #[arg(long, value_name = "NAME", default_value = "nvidia.com/gpu")]
    pub accelerator_resource: String,
    /// Read Kueue Workloads to explain why a queued run is waiting.
    #[arg(long)]
    pub kueue: bool,
    /// Base URL of this operator to which pods report progress [default: pods report none].
    #[arg(long, value_name = "URL")]
    pub progress_url: Option<String>,
    /// Terminate a run that makes no progress for this many seconds; it resumes from its last checkpoint. 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    pub stall_timeout_seconds: u64,
    /// Time to live of a finished Job in seconds, as ttlSecondsAfterFinished; its log is available until then.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(i32).range(0..))]
    pub job_ttl_seconds: i32,
    /// Resync period in seconds: a resource that has not finished is reconciled again after it, in case an event was lost.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub resync_seconds: u64,
    /// Namespace of the leader election Lease [default: the operator's own].
    #[arg(long, value_name = "NAME")]
    pub lease_namespace: Option<String>,
    /// Name of the leader election Lease; of the replicas that share it, one leads.
    #[arg(long, value_name = "NAME", default_value = rbac::NAME)]
    pub lease_name: String,
    /// Lease duration in seconds: how long a standby waits before taking over.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub lease_duration_seconds: u64,
    /// Listen addresses.
    #[command(flatten)]
    pub addresses: Addresses,
}

/// Where to listen.
#[derive(Clone, Debug, clap::Args)]
pub struct Addresses {
    /// Address for /metrics, /healthz and /readyz.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8080")]
    pub metrics_address: SocketAddr,
    /// Address to which pods report progress.
    #[arg(long, value_name = "IP:PORT", default_value = "0.0.0.0:8090")]
    pub progress_address: SocketAddr,
}

impl Settings {
    /// The image of the trainer for a resource's pods; none where neither it nor the installation names one.
    pub fn image<'a>(&'a self, compute: &'a Compute) -> Option<&'a String> {
        let accelerated = self.accelerator_trainer_image.as_ref().filter(|_| compute.accelerators > 0);
        compute.image.as_ref().or(accelerated).or(self.trainer_image.as_ref())
    }

    /// How leadership is kept: renewed well before it ends for others, and tried for often.
    pub fn timing(&self) -> Timing {
        let lease = Duration::from_secs(self.lease_duration_seconds);
        Timing { lease, renew_deadline: lease.mul_f64(2.0 / 3.0), retry: lease.mul_f64(2.0 / 15.0) }
    }
}

/// What the URI of an artifact begins with: without a slash at its end.
fn root(uri: &str) -> Result<String, String> {
    match Location::of_input(uri) {
        Ok(Location::Claim { .. }) => {}
        Ok(Location::Remote(uri)) if is_store(&uri) => {}
        Err(why) if uri.starts_with("pvc://") || Remote::of(uri).is_some() => return Err(why),
        _ => {
            return Err(format!(
                "expected pvc://claim, pvc://claim/directory, s3://bucket/directory, gs:// or az://, found \"{uri}\"; artifacts are \
                 stored on a volume or in an object store"
            ));
        }
    }
    Ok(uri.trim_end_matches('/').to_owned())
}

/// A size as the chart's schema has it: a number of bytes and one of Kubernetes' suffixes for many of them.
fn size(text: &str) -> Result<String, String> {
    let number = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei", "k", "M", "G", "T", "P", "E"]
        .into_iter()
        .find_map(|suffix| text.strip_suffix(suffix))
        .unwrap_or(text);
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if text.is_empty() || (digits(whole) && digits(fraction)) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "expected a size such as 200Gi, found \"{text}\"; write a number with one of Ki, Mi, Gi, Ti, k, M, G or T"
    ))
}

fn claim(uri: &str) -> Result<Location, String> {
    match Location::of_input(uri) {
        Ok(location @ Location::Claim { .. }) => Ok(location),
        Err(why) if uri.starts_with("pvc://") => Err(why),
        _ => Err(format!("expected pvc://claim or pvc://claim/directory, found \"{uri}\"; the cache needs a volume")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_and_its_chart_take_the_same_sizes() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../../charts/plumbline/values.schema.json")).unwrap();
        let pattern = schema["properties"]["scratchSize"]["pattern"].as_str().unwrap();
        let chart = regex::Regex::new(pattern).unwrap();
        for (text, fits) in [
            ("", true),
            ("200Gi", true),
            ("1.5Ti", true),
            ("100k", true),
            ("5M", true),
            ("1E", true),
            ("1073741824", true),
            ("7Ki", true),
            ("100K", false),
            ("-1Gi", false),
            ("+1Gi", false),
            ("1e9", false),
            ("1m", false),
            ("1u", false),
            ("1ki", false),
            (".5Gi", false),
            ("5.Gi", false),
            ("8 GB", false),
            ("Gi", false),
            ("1Gi\n", false),
        ] {
            assert_eq!((size(text).is_ok(), chart.is_match(text)), (fits, fits), "{text:?}");
        }
    }

    #[test]
    fn every_artifact_has_a_place_below_the_root_or_the_root_is_refused() {
        for uri in ["pvc://results", "pvc://results/", "pvc://my.claim/runs/", "s3://bucket/runs", "az://container/a/"]
        {
            let below = format!("{}/team/rewardmodels/helpful", root(uri).unwrap());
            assert!(Location::of_output(&below).is_ok() && !below.contains("//team"), "{below}");
        }
        for uri in
            ["pvc://my_claim/runs", "pvc://a/../b", "s3://bucket", "s3://u:p@host/a", "hf://org/a", "file:///a", "a"]
        {
            assert!(root(uri).unwrap_err().contains("expected"), "{uri}");
        }
    }
}
