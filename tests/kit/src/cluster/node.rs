//! A cluster with one node on which containers run, isolated by Linux namespaces (`tests/go/kubernetes/node/node.sh`).
//! Talks to processes, files and the API server.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use rustix::process::geteuid;
use serde_json::{Value, json};

use super::certificates::{Credentials, kubeconfig};
use super::control_plane::{ApiServer, ControlPlane};
use super::keeper::{Keeper, Process};
use super::wait::{PATIENCE, PAUSE};
use crate::programs::text;

/// The host's network interface to the node; there is at most one node at a time.
pub const INTERFACE: &str = "plumb0";
/// The host's address on it, where the API server listens: reachable only from this machine and from pods.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
/// The node's address.
pub(super) const ADDRESS: &str = "10.213.0.2";
/// The node's name.
pub(super) const NAME: &str = "node";
/// Directory of the node's configuration and scripts.
const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../go/kubernetes/node");
/// Directory of the programs built by `make setup-cluster`.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/node");
/// Path of the configuration on the node.
const INSIDE: &str = "/var/lib/node";
/// Number of accelerators that the node advertises.
const ACCELERATORS: &str = "8";

/// A cluster with a node. It is removed completely when the value is dropped, or when the process ends in any other
/// way.
#[derive(Debug)]
pub struct NodeCluster {
    server: ApiServer,
    node: Process,
    processes: [Process; 2],
    plane: ControlPlane,
}

impl NodeCluster {
    /// Starts a cluster, with all its files in a new directory below `parent`, and waits until pods can run.
    pub fn start_in(parent: &Path) -> Self {
        assert!(geteuid().is_root(), "a node makes namespaces, mounts and interfaces, which takes root");
        fs::create_dir_all(parent).unwrap();
        let plane = ControlPlane::start(Keeper::start_in(&fs::canonicalize(parent).unwrap()), HOST.into());
        let files = prepare(plane.folder());
        let node = start_node(&plane);

        let server = plane.start_api_server("apiserver");
        server.run_kubectl(&["create", "clusterrolebinding", "dns", "--clusterrole=view", "--user=system:kube-dns"]);
        // The node waits for the last of these files.
        for user in ["kubelet", "coredns", "kube-proxy"] {
            let stem = Path::new(INSIDE).join(user);
            let config = kubeconfig(server.url(), &Path::new(INSIDE).join("ca.crt"), &Credentials::Certificate(&stem));
            fs::write(files.join(format!("{user}.kubeconfig")), config.to_string()).unwrap();
        }
        let controllers = plane.start_controller_manager(&server, "*");
        let scheduler = plane.start_scheduler(&server);
        let cluster = Self { server, node, processes: [controllers, scheduler], plane };
        cluster.until_ready("");
        cluster
    }

    /// Kills the node with every process on it, as in a power failure, and starts it again on the same disk. Returns
    /// once its kubelet reports again; pods start later.
    pub fn lose_power(&mut self) {
        let last = self.heartbeat();
        self.node.kill();
        let interface = Path::new("/sys/class/net").join(INTERFACE);
        wait_until("the node is gone", &[], || !interface.exists());
        self.node = start_node(&self.plane);
        self.until_ready(&last);
    }

    /// Time of the kubelet's last report if it said that the node is ready; empty otherwise.
    fn heartbeat(&self) -> String {
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}"#;
        let said = text(&self.server.kubectl(&["get", "node", NAME, "-o", ready]).stdout);
        said.strip_prefix("True ").unwrap_or_default().to_owned()
    }

    /// Waits until the kubelet reports the node as ready at another time than `last`.
    fn until_ready(&self, last: &str) {
        wait_until("the node is ready", &[&self.node, &self.processes[0], &self.processes[1]], || {
            let heartbeat = self.heartbeat();
            !heartbeat.is_empty() && heartbeat != last
        });
        let patch = json!({"status": {"capacity": {"nvidia.com/gpu": ACCELERATORS}}}).to_string();
        self.server.run_kubectl(&["patch", "node", NAME, "--subresource=status", "--type=merge", "-p", &patch]);
    }

    /// Runs kubectl as an administrator, and returns what it printed. Panics if it fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.server.run_kubectl(args)
    }

    /// Runs kubectl as an administrator. Does not panic if it fails.
    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        self.server.kubectl(args)
    }

    /// An administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    /// Applies objects.
    pub fn apply(&self, objects: &[Value]) {
        let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
        fs::write(file.path(), json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()).unwrap();
        self.kubectl(&["apply", "-f", file.path().to_str().unwrap()]);
    }

    /// Imports an image, a tar archive with an OCI layout.
    pub fn import(&self, image: &Path) {
        self.containerd(&["images", "import", image.to_str().unwrap()]);
    }

    /// Runs containerd's client on the node. Panics if it fails.
    pub fn containerd(&self, args: &[&str]) {
        let socket = inside(self.plane.folder()).join("containerd.sock");
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket).args(["--namespace", "k8s.io"]).args(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "ctr {args:?}: {}", text(&output.stderr));
    }

    /// The process id of a running container, by the container's id.
    pub fn process(&self, container: &str) -> u32 {
        let processes = fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
        let of_container = |pid: &u32| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.lines().any(|line| line.ends_with(container))
        };
        processes.into_iter().find(of_container).unwrap_or_else(|| panic!("{container} does not run"))
    }

    /// Creates a world-writable PersistentVolumeClaim, and returns its directory on this machine.
    pub fn claim(&self, namespace: &str, name: &str) -> PathBuf {
        let volume = format!("{namespace}-{name}");
        let below = Path::new("lib/volumes").join(&volume);
        let folder = self.plane.folder().join("var").join(&below);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        let spec = json!({"accessModes": ["ReadWriteMany"], "storageClassName": ""});
        let (mut of_volume, mut of_claim) = (spec.clone(), spec);
        of_volume["capacity"] = json!({"storage": "10Gi"});
        of_volume["claimRef"] = json!({"namespace": namespace, "name": name});
        of_volume["hostPath"] = json!({"path": Path::new("/var").join(below)});
        of_claim["resources"] = json!({"requests": {"storage": "10Gi"}});
        of_claim["volumeName"] = json!(volume);
        self.apply(&[
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume}, "spec": of_volume}),
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "namespace": namespace}, "spec": of_claim}),
        ]);
        folder
    }

    /// The directory of all files, removed at the end.
    pub fn folder(&self) -> &Path {
        self.plane.folder()
    }
}

/// Starts the node of a cluster, and waits for its network.
fn start_node(plane: &ControlPlane) -> Process {
    let programs = fs::canonicalize(PROGRAMS).unwrap_or_else(|e| panic!("{PROGRAMS}: {e}; run `make setup-cluster`"));
    let arguments = [plane.folder(), &programs].map(|p| p.display().to_string());
    let node = plane.run("node", &Path::new(CONFIGURATION).join("node.sh"), &arguments);
    wait_until("the node's network", &[&node], || TcpListener::bind((HOST, 0)).is_ok());
    node
}

/// Path of a program built by `make setup-cluster`.
pub(super) fn program(name: &str) -> PathBuf {
    Path::new(PROGRAMS).join(name)
}

fn inside(folder: &Path) -> PathBuf {
    folder.join(INSIDE.trim_start_matches('/'))
}

/// Prepares the node's `/var`, and returns the directory of its configuration.
fn prepare(folder: &Path) -> PathBuf {
    let files = inside(folder);
    for made in ["lib/node", "log", "tmp"] {
        fs::create_dir_all(folder.join("var").join(made)).unwrap();
    }
    symlink("/run", folder.join("var/run")).unwrap();
    for file in ["containerd.toml", "bridge.conflist", "kubelet.yaml", "kube-proxy.yaml", "Corefile"] {
        fs::copy(Path::new(CONFIGURATION).join(file), files.join(file)).unwrap();
    }
    for (file, name) in [
        ("ca.crt", "ca.crt"),
        ("kubelet.crt", "kubelet.crt"),
        ("kubelet.key", "kubelet.key"),
        ("dns.crt", "coredns.crt"),
        ("dns.key", "coredns.key"),
        ("proxy.crt", "kube-proxy.crt"),
        ("proxy.key", "kube-proxy.key"),
    ] {
        fs::copy(folder.join(file), files.join(name)).unwrap();
    }
    files
}

fn wait_until(what: &str, processes: &[&Process], mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        for process in processes {
            process.assert_alive();
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(PAUSE);
    }
}
