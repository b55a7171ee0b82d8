//! Runs Helm on the chart of this repository. Talks to processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::programs::text;

/// Directory of the programs built by `make setup-tests` from `tests/go/helm` and `tests/go/helm4`.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/bin");
/// Path of the chart.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/plumbline");
/// Name of the release in every test.
pub const RELEASE: &str = "plumbline";

/// Version of Helm; both are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Helm 3.
    V3,
    /// Helm 4.
    V4,
}

/// Helm with directories of its own, and without access to a cluster unless it gets one.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    home: TempDir,
    kubeconfig: PathBuf,
}

impl Helm {
    /// Helm without a cluster.
    pub fn offline(version: Version) -> Self {
        Self::on(Path::new("/dev/null"), version)
    }

    /// Helm for the cluster of a kubeconfig.
    pub fn on(kubeconfig: &Path, version: Version) -> Self {
        let program = match version {
            Version::V3 => "helm",
            Version::V4 => "helm4",
        };
        let program = Path::new(PROGRAMS).join(program);
        Self { program, home: tempfile::tempdir().unwrap(), kubeconfig: kubeconfig.to_owned() }
    }

    /// Runs it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let folder = |name: &str| self.home.path().join(name);
        Command::new(&self.program)
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HELM_CACHE_HOME", folder("cache"))
            .env("HELM_CONFIG_HOME", folder("config"))
            .env("HELM_DATA_HOME", folder("data"))
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}; run `make setup-tests`", self.program.display()))
    }

    /// Runs it, and returns what it printed. Panics if it fails.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "helm {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// Writes a file of values for `--values`. It exists as long as this value.
    pub fn file(&self, values: &Value) -> String {
        let file = tempfile::Builder::new().suffix(".json").tempfile_in(self.home.path()).unwrap();
        std::fs::write(file.path(), values.to_string()).unwrap();
        file.keep().unwrap().1.to_str().unwrap().to_owned()
    }
}
