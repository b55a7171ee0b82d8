//! `make cluster-up`: a cluster with one node, which runs until this program gets SIGTERM or Ctrl-C. Talks to processes
//! and files.
//!
//! `local_cluster FOLDER IMAGE...`: imports the images. Once the cluster is ready, FOLDER contains its `kubeconfig`,
//! and `models` and `results`, the directories of the claims with these names in the namespace `default`.

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
    // Written last: once it exists, everything else does.
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
