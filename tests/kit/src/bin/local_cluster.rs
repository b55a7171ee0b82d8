//! `make cluster-up`: a cluster with one node, until this program is asked to stop by SIGTERM or Ctrl-C. Talks to processes and
//! files.
//!
//! `local_cluster FOLDER IMAGE...`: while the cluster is ready, FOLDER has its `kubeconfig`, and `models` and `results`, which
//! are the folders of the claims of these names in the namespace `default`. The images are there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use plumbline_testkit::cluster::NodeCluster;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().expect("usage: local_cluster FOLDER IMAGE...");
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let mut interrupt = signal(SignalKind::interrupt()).unwrap();

    let cluster = NodeCluster::start_in(&folder);
    for image in arguments {
        cluster.import(&image);
    }
    let mut shown: Vec<(PathBuf, PathBuf)> =
        ["models", "results"].map(|name| (cluster.claim("default", name), folder.join(name))).into();
    // The last: who waits for it finds everything.
    shown.push((cluster.kubeconfig(), folder.join("kubeconfig")));
    for (made, link) in &shown {
        let _ = fs::remove_file(link);
        symlink(made, link).unwrap();
    }
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    for (_, link) in &shown {
        let _ = fs::remove_file(link);
    }
}
