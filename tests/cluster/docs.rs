//! The commands in the documents: each is run as it stands on a real API server, or says beside it why it is not.
//!
//! A block of `sh` is run by bash from the root of the repository, with the programs, kubectl and helm of the tests, and a
//! kubeconfig that is its document's own. The CRDs are there, unless the document itself installs them, and Argo CD's ConfigMap.
//! `REGISTRY` is a registry that nobody asks, as no node is there. A block that is not run has a line before it:
//! `<!-- not run here: REASON -->`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use plumbline_testkit::cluster::Cluster;
use plumbline_testkit::helm::{CHART, Helm, RELEASE, Version};
use plumbline_testkit::programs::{plumbline, text};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const MARKER: &str = "<!-- not run here: ";
/// What a document that installs the CRDs itself has in one of its blocks.
const INSTALLS: [&str; 2] = ["helm install", "plumbline crds | kubectl apply"];

/// Kinds are served before they are described.
const DESCRIBED: &str = "for kind in preferencedataset rewardmodel policytuning; do
    for i in {1..300}; do kubectl explain $kind.spec >/dev/null 2>&1 && break; sleep 0.2; done
    kubectl explain $kind.spec >/dev/null
done";

/// Pods are refused in a namespace until its account is there.
const ACCOUNTS: &str = "for namespace in $(kubectl get namespaces -o name); do
    kubectl wait --for=create serviceaccount/default --namespace ${namespace#*/} --timeout=60s
done";

/// A cluster without what the document before has installed.
const BARE: &str = "helm uninstall plumbline --namespace plumbline --ignore-not-found
kubectl delete crd --all
kubectl delete namespace plumbline --ignore-not-found";

/// A block of commands.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    line: usize,
    commands: String,
    /// Why it is not run.
    reason: Option<String>,
}

impl Block {
    fn installs(&self) -> bool {
        INSTALLS.iter().any(|command| self.commands.contains(command))
    }
}

/// Every block of commands of a document, in order.
fn blocks(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().collect();
    let starts = lines.iter().enumerate().filter(|(_, line)| ["```sh", "```bash", "```console"].contains(&line.trim()));
    let block = |(at, _): (usize, _)| {
        let before = lines[..at].iter().rev().find(|line| !line.trim().is_empty());
        let reason = before.and_then(|line| line.trim().strip_prefix(MARKER)?.strip_suffix(" -->"));
        let commands: Vec<&str> = lines[at + 1..].iter().copied().take_while(|line| line.trim() != "```").collect();
        Block { line: at + 1, commands: commands.join("\n"), reason: reason.map(str::to_owned) }
    };
    starts.map(block).collect()
}

/// The documents of this repository: in its root, in docs, of the chart and of the examples.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders =
        vec![PathBuf::from("docs"), PathBuf::from("charts"), PathBuf::from("examples"), PathBuf::from("tests/parity")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(ROOT).join(&folder)).unwrap().map(Result::unwrap) {
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                found.push(path);
            }
        }
    }
    found.extend(["README.md", "CONTRIBUTING.md"].map(PathBuf::from));
    found.sort();
    found
}

/// A kubeconfig of an administrator, for one reader alone: some commands change it.
fn kubeconfig(cluster: &Cluster) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::copy(cluster.kubeconfig(), file.path()).unwrap();
    file
}

/// Runs commands as a reader would who has pasted them.
fn run(commands: &str, kubeconfig: &Path) -> (bool, String) {
    let programs = plumbline().parent().unwrap().display().to_string();
    let folder = Path::new(ROOT).join(".cache/cluster/bin").display().to_string();
    let home = tempfile::tempdir().unwrap();
    // What never ends on its own is a command that needs a marker.
    let output = Command::new("timeout")
        .args(["120", "bash", "-euo", "pipefail", "-c", commands])
        .current_dir(ROOT)
        .env("PATH", format!("{programs}:{folder}:{}", std::env::var("PATH").unwrap()))
        .env("KUBECONFIG", kubeconfig)
        .env("HOME", home.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    (output.status.success(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

/// Runs commands that have to succeed.
fn prepare(cluster: &Cluster, commands: &str) {
    let (succeeded, said) = run(commands, kubeconfig(cluster).path());
    assert!(succeeded, "{commands}\n{said}");
}

/// A document whose commands are run, and what they install.
struct Document {
    path: PathBuf,
    blocks: Vec<Block>,
    installs: bool,
}

/// Those that install nothing first: they share the CRDs that the cluster has.
fn to_run() -> Vec<Document> {
    let read = |path: PathBuf| {
        let mut blocks = blocks(&fs::read_to_string(Path::new(ROOT).join(&path)).unwrap());
        blocks.retain(|block| block.reason.is_none());
        let installs = blocks.iter().any(Block::installs);
        Document { path, blocks, installs }
    };
    let mut documents: Vec<Document> = documents().into_iter().map(read).filter(|d| !d.blocks.is_empty()).collect();
    documents.sort_by_key(|document| document.installs);
    documents
}

#[test]
fn every_command_in_the_documents_is_run_or_says_why_it_is_not() {
    // Not that of the other tests: some documents install the CRDs, and what they installed is removed before the next.
    let cluster = Cluster::start();
    prepare(&cluster, "kubectl create namespace argocd && kubectl create configmap argocd-cm --namespace argocd");
    let documents = to_run();
    for document in &documents {
        if document.installs {
            prepare(&cluster, BARE);
        }
        let kubeconfig = kubeconfig(&cluster);
        for block in &document.blocks {
            let commands = block.commands.replace("REGISTRY", "registry.test");
            let (succeeded, said) = run(&commands, kubeconfig.path());
            assert!(succeeded, "{}:{}\n{commands}\n{said}", document.path.display(), block.line);
            if block.installs() {
                prepare(&cluster, DESCRIBED);
            }
            if block.commands.contains("kubectl create namespace") {
                prepare(&cluster, ACCOUNTS);
            }
        }
        prepare(&cluster, "kubectl delete secret,configmap --all --namespace default");
    }
    let ran: usize = documents.iter().map(|document| document.blocks.len()).sum();
    assert!(ran > 15 && documents.iter().filter(|document| document.installs).count() == 2, "{ran} blocks were run");
}

#[test]
fn arguments_of_the_operator_in_the_documents_are_arguments_of_the_program() {
    let help = Command::new(plumbline()).args(["operator", "--help"]).output().unwrap();
    let help = text(&help.stdout);
    let mut count = 0;
    for document in documents() {
        let blocks = blocks(&fs::read_to_string(Path::new(ROOT).join(&document)).unwrap());
        let lines = blocks.iter().flat_map(|block| block.commands.lines());
        for argument in lines.filter(|line| line.starts_with("plumbline operator")).flat_map(str::split_whitespace) {
            let is_name = argument.starts_with("--");
            assert!(!is_name || help.contains(&format!("{argument} ")), "{}: {argument}", document.display());
            count += usize::from(is_name);
        }
    }
    assert!(count >= 3, "{count}");
}

#[test]
fn values_in_the_documents_are_values_of_the_chart() {
    let helm = Helm::offline(Version::V3);
    let mut count = 0;
    for document in ["docs/install.md", "charts/plumbline/README.md"] {
        let text = fs::read_to_string(Path::new(ROOT).join(document)).unwrap();
        for block in text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let mut values: Value = serde_yaml::from_str(block).unwrap();
            let image = json!({"repository": "registry.test/plumbline-operator"});
            values.as_object_mut().unwrap().entry("image").or_insert(image);
            helm.says(&["template", RELEASE, CHART, "--values", &helm.file(&values)]);
            count += 1;
        }
    }
    assert_eq!(count, 2);
}

#[test]
fn a_reason_for_not_running_says_something_and_stands_before_a_block() {
    for document in documents() {
        let text = fs::read_to_string(Path::new(ROOT).join(&document)).unwrap();
        let reasons: Vec<String> = blocks(&text).into_iter().filter_map(|block| block.reason).collect();
        let markers = text.lines().filter(|line| line.trim().starts_with(MARKER)).count();
        assert_eq!(markers, reasons.len(), "{}: a marker without a block", document.display());
        assert!(reasons.iter().all(|reason| reason.len() > 10), "{}: {reasons:?}", document.display());
    }
}

#[test]
fn a_block_without_a_marker_is_run_whatever_stands_around_it() {
    let text = "a\n```sh\none \\\n  two\n```\n<!-- not run here: it needs a node -->\n\n```console\nthree\n```\n```yaml\nfour\n```\n";
    let found = blocks(text);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].commands.as_str(), &found[0].reason), ("one \\\n  two", &None));
    assert_eq!(found[1].reason.as_deref(), Some("it needs a node"));
}
