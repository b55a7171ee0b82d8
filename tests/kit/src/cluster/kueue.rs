//! Kueue on a cluster with a node: its controller in a pod, installed with its own chart. Talks to containerd and Helm.

use std::path::Path;

use super::NodeCluster;
use crate::helm::{Helm, Version};

/// The output of `make setup-cluster`: an image, and the chart of the same version.
const KUEUE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/kueue");
/// Values for its chart: the image is built locally, and is already on the node.
const VALUES: [&str; 4] = [
    "controllerManager.manager.image.repository=plumbline.dev/kueue",
    "controllerManager.manager.image.tag=tests",
    "controllerManager.manager.image.pullPolicy=Never",
    // The default is ten seconds.
    "controllerManager.readinessProbe.periodSeconds=1",
];

impl NodeCluster {
    /// Installs Kueue and waits until it handles Jobs.
    pub fn install_kueue(&self) {
        self.import(&Path::new(KUEUE).join("kueue.tar"));
        let chart = Path::new(KUEUE).join("chart");
        let mut arguments = vec!["install", "kueue", chart.to_str().unwrap(), "--namespace", "kueue-system"];
        arguments.extend(["--create-namespace", "--wait", "--timeout", "3m"]);
        arguments.extend(VALUES.iter().flat_map(|value| ["--set", value]));
        Helm::on(&self.kubeconfig(), Version::V3).says(&arguments);
    }
}
