//! A cluster with one node on which containers run, in namespaces of its own (`tests/go/kubernetes/node/node.sh`). Talks to
//! processes, files and the API server.

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

/// The machine's interface to the node; there is one node at a time.
pub const INTERFACE: &str = "plumb0";
/// Its address, where the API server listens: for this machine and for pods, and for nobody else.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 213, 0, 1);
/// The node's address.
pub(super) const ADDRESS: &str = "10.213.0.2";
/// The node's name.
pub(super) const NAME: &str = "node";
/// What runs in the node, with its settings.
const CONFIGURATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../go/kubernetes/node");
/// What `make setup-cluster` builds.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/node");
/// Where the node has its configuration.
const INSIDE: &str = "/var/lib/node";
/// Accelerators that the node says it has.
const ACCELERATORS: &str = "8";

/// A cluster with a node. When the value is dropped, or the process ends in any other way, nothing is left of it.
#[derive(Debug)]
pub struct NodeCluster {
    server: ApiServer,
    node: Process,
    processes: [Process; 2],
    plane: ControlPlane,
}

impl NodeCluster {
    /// Starts one, with all its files in a new folder below `parent`, and waits until pods can run.
    pub fn start_in(parent: &Path) -> Self {
        assert!(geteuid().is_root(), "a node makes namespaces, mounts and interfaces, which takes root");
        fs::create_dir_all(parent).unwrap();
        let plane = ControlPlane::start(Keeper::start_in(&fs::canonicalize(parent).unwrap()), HOST.into());
        let files = prepare(plane.folder());
        let node = start_node(&plane);

        let server = plane.start_api_server("apiserver");
        server.run_kubectl(&["create", "clusterrolebinding", "dns", "--clusterrole=view", "--user=system:kube-dns"]);
        // The node waits for the last.
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

    /// Ends the node as a loss of power does, with every process on it, and starts it again on the same disk. Gives way once
    /// its kubelet is heard of again; pods that are to run come after.
    pub fn lose_power(&mut self) {
        let last = self.heartbeat();
        self.node.kill();
        let interface = Path::new("/sys/class/net").join(INTERFACE);
        wait_until("the node is gone", &[], || !interface.exists());
        self.node = start_node(&self.plane);
        self.until_ready(&last);
    }

    /// When the kubelet last said that the node is ready, if that is what it said.
    fn heartbeat(&self) -> String {
        let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}"#;
        let said = text(&self.server.kubectl(&["get", "node", NAME, "-o", ready]).stdout);
        said.strip_prefix("True ").unwrap_or_default().to_owned()
    }

    /// Waits until the kubelet says that the node is ready, after it last did.
    fn until_ready(&self, last: &str) {
        wait_until("the node is ready", &[&self.node, &self.processes[0], &self.processes[1]], || {
            let heartbeat = self.heartbeat();
            !heartbeat.is_empty() && heartbeat != last
        });
        let patch = json!({"status": {"capacity": {"nvidia.com/gpu": ACCELERATORS}}}).to_string();
        self.server.run_kubectl(&["patch", "node", NAME, "--subresource=status", "--type=merge", "-p", &patch]);
    }

    /// Runs kubectl as an administrator, to a good end; gives what it printed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.server.run_kubectl(args)
    }

    /// Runs kubectl as an administrator, however that ends.
    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        self.server.kubectl(args)
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    /// Applies objects.
    pub fn apply(&self, objects: &[Value]) {
        let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
        fs::write(file.path(), json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()).unwrap();
        self.kubectl(&["apply", "-f", file.path().to_str().unwrap()]);
    }

    /// Brings in an image, a tar with an OCI layout.
    pub fn import(&self, image: &Path) {
        self.containerd(&["images", "import", image.to_str().unwrap()]);
    }

    /// Runs containerd's client on the node, to a good end.
    pub fn containerd(&self, args: &[&str]) {
        let socket = inside(self.plane.folder()).join("containerd.sock");
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket).args(["--namespace", "k8s.io"]).args(args);
        let output = command.output().unwrap();
        assert!(output.status.success(), "ctr {args:?}: {}", text(&output.stderr));
    }

    /// The process of a container that runs, by the container's id.
    pub fn process(&self, container: &str) -> u32 {
        let processes = fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
        let of_container = |pid: &u32| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.lines().any(|line| line.ends_with(container))
        };
        processes.into_iter().find(of_container).unwrap_or_else(|| panic!("{container} does not run"))
    }

    /// Makes a PersistentVolumeClaim that everybody may write to; gives the folder of this machine that it is.
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

    /// The folder of all files; it is removed at the end.
    pub fn folder(&self) -> &Path {
        self.plane.folder()
    }
}

/// Starts the node of a cluster, up to its network.
fn start_node(plane: &ControlPlane) -> Process {
    let programs = fs::canonicalize(PROGRAMS).unwrap_or_else(|e| panic!("{PROGRAMS}: {e}; run `make setup-cluster`"));
    let arguments = [plane.folder(), &programs].map(|p| p.display().to_string());
    let node = plane.run("node", &Path::new(CONFIGURATION).join("node.sh"), &arguments);
    wait_until("the node's network", &[&node], || TcpListener::bind((HOST, 0)).is_ok());
    node
}

/// A program that `make setup-cluster` builds.
pub(super) fn program(name: &str) -> PathBuf {
    Path::new(PROGRAMS).join(name)
}

fn inside(folder: &Path) -> PathBuf {
    folder.join(INSIDE.trim_start_matches('/'))
}

/// What will be the node's `/var`. Gives the folder of its configuration.
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
