//! Runs Helm on the chart of this repository. Talks to processes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::programs::text;

/// What `make setup-tests` builds from `tests/go/helm` and `tests/go/helm4`.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/bin");
/// The chart as it is shipped.
pub const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/plumbline");
/// The release of every test.
pub const RELEASE: &str = "plumbline";

/// Which Helm; people have both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Helm 3.
    V3,
    /// Helm 4.
    V4,
}

/// Helm with folders of its own, and without a cluster unless it is given one.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    home: TempDir,
    kubeconfig: PathBuf,
}

impl Helm {
    /// Without a cluster.
    pub fn offline(version: Version) -> Self {
        Self::on(Path::new("/dev/null"), version)
    }

    /// On the cluster of a kubeconfig.
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

    /// What it says when all is well.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "helm {arguments:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }

    /// A file of values, for `--values`. It is there as long as this Helm.
    pub fn file(&self, values: &Value) -> String {
        let file = tempfile::Builder::new().suffix(".json").tempfile_in(self.home.path()).unwrap();
        std::fs::write(file.path(), values.to_string()).unwrap();
        file.keep().unwrap().1.to_str().unwrap().to_owned()
    }
}
