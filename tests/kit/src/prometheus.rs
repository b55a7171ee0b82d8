//! A local Prometheus, and its promtool. Talks to processes and files.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ports;
use crate::programs::{plumbline, text};

/// Directory of the programs installed by `make setup-tests`.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/bin");
/// Timeout for operations that normally take a second.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs promtool with `input` as standard input.
pub fn promtool(arguments: &[&str], input: &str) -> Output {
    let program = Path::new(PROGRAMS).join("promtool");
    let mut child = Command::new(&program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; run `make setup-tests`", program.display()));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A Prometheus that scrapes and evaluates rules every second. Its data is deleted with this value.
#[derive(Debug)]
pub struct Prometheus {
    process: Child,
    url: String,
    folder: TempDir,
}

impl Prometheus {
    /// Starts a Prometheus with a scrape configuration and a file of rules, and waits until it is ready.
    pub fn start(scrape: &Value, rules: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let each_second = json!({"scrape_interval": "1s", "evaluation_interval": "1s"});
        let rules = fs::canonicalize(rules).unwrap();
        let configuration = json!({"global": each_second, "rule_files": [rules], "scrape_configs": [scrape]});
        fs::write(file("prometheus.yml"), configuration.to_string()).unwrap();
        let port = ports::claim();
        let url = format!("http://127.0.0.1:{port}");
        let log = File::create(file("log")).unwrap();
        // Killed when this process exits for whatever reason.
        let process = Command::new(plumbline())
            .args(["run-tied-to-parent", "--parent", &std::process::id().to_string(), "--"])
            .arg(Path::new(PROGRAMS).join("prometheus"))
            .arg(format!("--config.file={}", file("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", file("data")))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut prometheus = Self { process, url, folder };
        let deadline = Instant::now() + PATIENCE;
        while prometheus.ask("vector(1)").is_none() {
            let ended = prometheus.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "it never answers: {}", prometheus.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        prometheus
    }

    /// Evaluates a PromQL expression: labels and value of each series; `None` if there is no response.
    fn ask(&self, expression: &str) -> Option<Vec<Value>> {
        let output = promtool(&["query", "instant", "--format=json", &self.url, expression], "");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Evaluates a PromQL expression: `metric` and `value` of each series.
    pub fn query(&self, expression: &str) -> Vec<Value> {
        self.ask(expression).unwrap_or_else(|| panic!("{expression}: {}", self.log()))
    }

    /// Waits until an expression returns a series.
    pub fn until(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.query(expression).is_empty() {
            assert!(Instant::now() < deadline, "never: {expression}: {:?} {}", self.query("up"), self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn log(&self) -> String {
        text(&fs::read(self.folder.path().join("log")).unwrap_or_default())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
