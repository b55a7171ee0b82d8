//! Kueue on a cluster with a node: its controller in a pod, installed by its own chart. Talks to containerd and Helm.

use std::path::Path;

use super::NodeCluster;
use crate::helm::{Helm, Version};

/// What `make setup-cluster` builds: an image and the chart of the same version.
const KUEUE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/kueue");
/// Values of its chart: the image is ours, and is on the node already.
const VALUES: [&str; 4] = [
    "controllerManager.manager.image.repository=plumbline.dev/kueue",
    "controllerManager.manager.image.tag=tests",
    "controllerManager.manager.image.pullPolicy=Never",
    // Each ten seconds by itself.
    "controllerManager.readinessProbe.periodSeconds=1",
];

impl NodeCluster {
    /// Installs Kueue and waits until it judges Jobs.
    pub fn install_kueue(&self) {
        self.import(&Path::new(KUEUE).join("kueue.tar"));
        let chart = Path::new(KUEUE).join("chart");
        let mut arguments = vec!["install", "kueue", chart.to_str().unwrap(), "--namespace", "kueue-system"];
        arguments.extend(["--create-namespace", "--wait", "--timeout", "3m"]);
        arguments.extend(VALUES.iter().flat_map(|value| ["--set", value]));
        Helm::on(&self.kubeconfig(), Version::V3).says(&arguments);
    }
}
