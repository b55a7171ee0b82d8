//! Flux's source and kustomize controllers, for one namespace of the kit's cluster. Talks to processes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::cluster::{Cluster, Namespace};
use crate::ports;
use crate::programs::plumbline;

/// Directory of the programs built by `make setup-tests` from `tests/go/flux`.
const FLUX: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/flux");

/// Both controllers, which are stopped when the value is dropped.
#[derive(Debug)]
pub struct Flux {
    folder: TempDir,
    controllers: Vec<Child>,
}

impl Flux {
    /// Applies Flux's CRDs, and starts both controllers for a namespace, as an administrator.
    pub fn start(cluster: &Cluster, namespace: &Namespace) -> Self {
        let crds = format!("{FLUX}/crds");
        let applied = cluster.kubectl(&["apply", "--server-side", "-f", &crds]);
        assert!(applied.status.success(), "{crds}: {applied:?}; was `make setup-tests` run?");
        let established = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"];
        assert!(cluster.kubectl(&established).status.success());
        let mut flux = Self { folder: tempfile::tempdir().unwrap(), controllers: Vec::new() };
        let storage = address();
        let stored = format!("--storage-path={}", flux.folder.path().display());
        let served = ["--storage-addr", "--storage-adv-addr"].map(|flag| format!("{flag}={storage}"));
        flux.run(cluster, namespace, "source-controller", &[&[stored], &served[..]].concat());
        flux.run(cluster, namespace, "kustomize-controller", &["--requeue-dependency=1s".to_owned()]);
        flux
    }

    /// The log of a controller.
    pub fn log(&self, controller: &str) -> String {
        fs::read_to_string(self.log_file(controller)).unwrap()
    }

    fn log_file(&self, controller: &str) -> PathBuf {
        self.folder.path().join(format!("{controller}.log"))
    }

    fn run(&mut self, cluster: &Cluster, namespace: &Namespace, controller: &str, arguments: &[String]) {
        let log = File::create(self.log_file(controller)).unwrap();
        // Killed when this process exits for whatever reason.
        let child = Command::new(plumbline())
            .args(["run-tied-to-parent", "--parent", &std::process::id().to_string(), "--"])
            .arg(Path::new(FLUX).join(controller))
            .args(["--watch-all-namespaces=false", "--metrics-addr=127.0.0.1:0", "--min-retry-delay=100ms"])
            .arg(format!("--health-addr={}", address()))
            .args(arguments)
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("RUNTIME_NAMESPACE", namespace.name())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.controllers.push(child);
    }
}

impl Drop for Flux {
    fn drop(&mut self) {
        for controller in &mut self.controllers {
            let _ = controller.kill();
            let _ = controller.wait();
        }
        if std::thread::panicking() {
            for controller in ["source-controller", "kustomize-controller"] {
                eprintln!("--- the log of {controller}\n{}", self.log(controller));
            }
        }
    }
}

/// A free address to listen on.
fn address() -> String {
    format!("127.0.0.1:{}", ports::claim())
}
