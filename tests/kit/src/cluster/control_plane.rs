//! Starts etcd, API servers, the controller manager and the scheduler. Talks to processes and files.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Instant;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use super::audit::{self, AuditLine};
use super::certificates::{Authority, Certified, Credentials, kubeconfig, signing_keys};
use super::keeper::{Keeper, Process};
use super::node;
use super::wait::{PATIENCE, PAUSE};
use crate::ports;
use crate::programs::text;

/// Directory of the programs built by `make setup-tests`.
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/cluster/bin");

/// The issuer of service account tokens, and the default audience of tokens.
const ISSUER: &str = "https://kubernetes.default.svc";

/// IP range of Services, and its first address, which is the API server's for pods.
const SERVICES: &str = "10.96.0.0/16";
const API_SERVICE: &str = "10.96.0.1";

/// etcd, and the files shared by all API servers of the cluster.
#[derive(Debug)]
pub(super) struct ControlPlane {
    keeper: Keeper,
    etcd: Process,
    etcd_url: String,
    address: IpAddr,
}

/// An API server, which is stopped when it is dropped if a test started it.
#[derive(Debug)]
pub struct ApiServer {
    process: Process,
    url: String,
    folder: PathBuf,
    name: String,
    audit: audit::Log,
}

impl ControlPlane {
    /// Writes certificates and starts etcd. The API server will listen on `address`.
    pub(super) fn start(keeper: Keeper, address: IpAddr) -> Self {
        let folder = keeper.folder();
        let authority = Authority::new();
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        let write_pair = |stem: &str, pair: &Certified| {
            write(&format!("{stem}.crt"), &pair.certificate);
            write(&format!("{stem}.key"), &pair.key);
        };
        write("ca.crt", &authority.pem());
        let (public, private) = signing_keys();
        write("accounts.pub", &public);
        write("accounts.key", &private);
        write("audit-policy.yaml", &audit::policy().to_string());
        write_pair(
            "server",
            &authority.server(&[&address.to_string(), API_SERVICE, "localhost", "kubernetes.default.svc"]),
        );
        write_pair("front-proxy", &authority.client("front-proxy", None));
        write_pair("admin", &authority.client("admin", Some("system:masters")));
        for component in ["controller-manager", "scheduler", "proxy", "dns"] {
            write_pair(component, &authority.client(&format!("system:kube-{component}"), None));
        }
        write_pair("kubelet", &authority.kubelet(node::NAME, node::ADDRESS));

        let [clients, peers] = [ports::claim(), ports::claim()];
        let etcd_url = format!("http://127.0.0.1:{clients}");
        let arguments = [
            format!("--data-dir={}", folder.join("etcd").display()),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
        ];
        let etcd = keeper.run("etcd", &program("etcd"), &arguments);
        Self { keeper, etcd, etcd_url, address }
    }

    /// Starts an API server on this etcd and waits until it is ready.
    pub(super) fn start_api_server(&self, name: &str) -> ApiServer {
        let port = ports::claim();
        let folder = self.keeper.folder();
        let file = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
        let mut arguments = vec![
            format!("--etcd-servers={}", self.etcd_url),
            format!("--bind-address={}", self.address),
            format!("--secure-port={port}"),
            format!("--service-cluster-ip-range={SERVICES}"),
            file("tls-cert-file", "server.crt"),
            file("tls-private-key-file", "server.key"),
            file("client-ca-file", "ca.crt"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            // For logs and exec, the API server authenticates to the kubelet as an administrator.
            file("kubelet-client-certificate", "admin.crt"),
            file("kubelet-client-key", "admin.key"),
            file("kubelet-certificate-authority", "ca.crt"),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--service-account-issuer={ISSUER}"),
            file("service-account-key-file", "accounts.pub"),
            file("service-account-signing-key-file", "accounts.key"),
            file("audit-policy-file", "audit-policy.yaml"),
            file("audit-log-path", &format!("{name}.audit")),
            // Large enough that the log is never rotated, as rotation would lose lines.
            "--audit-log-maxsize=10000".to_owned(),
        ];
        if self.address.is_loopback() {
            // The `kubernetes` Service must not have a loopback address, and only pods need it.
            arguments.push("--endpoint-reconciler-type=none".to_owned());
        } else {
            // Webhooks and aggregated API servers run in pods, which this process can reach by pod address but not by
            // Service.
            arguments.push("--enable-aggregator-routing".to_owned());
            arguments.extend([
                file("proxy-client-cert-file", "front-proxy.crt"),
                file("proxy-client-key-file", "front-proxy.key"),
                file("requestheader-client-ca-file", "ca.crt"),
                "--requestheader-allowed-names=front-proxy".to_owned(),
                "--requestheader-username-headers=X-Remote-User".to_owned(),
                "--requestheader-group-headers=X-Remote-Group".to_owned(),
                "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            ]);
        }
        let process = self.keeper.run(name, &program("kube-apiserver"), &arguments);
        let url = format!("https://{}:{port}", self.address);
        let audit = audit::Log::new(folder.join(format!("{name}.audit")));
        let server = ApiServer { process, url, folder: folder.to_owned(), name: name.to_owned(), audit };
        server.write_kubeconfig("admin", &Credentials::Certificate(&folder.join("admin")));
        let deadline = Instant::now() + PATIENCE;
        while !server.kubectl(&["get", "--raw", "/readyz"]).status.success() {
            self.etcd.assert_alive();
            server.process.assert_alive();
            assert!(Instant::now() < deadline, "{name} was never ready; {}/{name}.log", folder.display());
            std::thread::sleep(PAUSE);
        }
        server
    }

    /// Starts controllers. The garbage collector discovers new kinds only every 30 s, so the CRDs must be installed
    /// first.
    pub(super) fn start_controller_manager(&self, server: &ApiServer, controllers: &str) -> Process {
        let folder = self.keeper.folder();
        let stem = folder.join("controller-manager");
        let config = server.write_kubeconfig("controller-manager", &Credentials::Certificate(&stem));
        let arguments = [
            format!("--kubeconfig={}", config.display()),
            format!("--controllers={controllers}"),
            // The CA with which pods verify the API server.
            format!("--root-ca-file={}", folder.join("ca.crt").display()),
            // Gives each controller a service account of its own, as the built-in roles expect.
            "--use-service-account-credentials".to_owned(),
            "--leader-elect=false".to_owned(),
            "--secure-port=0".to_owned(),
            // Tests run concurrently; the default of 20 requests per second would make them wait for each other.
            "--kube-api-qps=500".to_owned(),
            "--kube-api-burst=1000".to_owned(),
        ];
        self.keeper.run("controller-manager", &program("kube-controller-manager"), &arguments)
    }

    /// Starts the scheduler, for clusters with a node.
    pub(super) fn start_scheduler(&self, server: &ApiServer) -> Process {
        let stem = self.keeper.folder().join("scheduler");
        let config = server.write_kubeconfig("scheduler", &Credentials::Certificate(&stem));
        let arguments =
            [format!("--kubeconfig={}", config.display()), "--leader-elect=false".into(), "--secure-port=0".into()];
        self.run("scheduler", &node::program("kube-scheduler"), &arguments)
    }

    /// Starts another program, which ends with the others; its output is written to `<name>.log`.
    pub(super) fn run(&self, name: &str, program: &Path, args: &[String]) -> Process {
        self.keeper.run(name, program, args)
    }

    /// The directory of all files, removed at the end.
    pub(super) fn folder(&self) -> &Path {
        self.keeper.folder()
    }

    /// The process id of etcd.
    pub(super) fn etcd_pid(&self) -> i32 {
        self.etcd.pid()
    }
}

impl ApiServer {
    /// An administrator's client. It belongs to the runtime in which it was created, so each test creates its own.
    pub async fn client(&self) -> Client {
        client_of(&self.kubeconfig()).await
    }

    /// An administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of("admin")
    }

    /// Runs kubectl as an administrator.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        Command::new(program("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            // The user's own cache may contain kinds of another server with the same port.
            .arg("--cache-dir")
            .arg(self.folder.join("kubectl"))
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs kubectl as an administrator, and returns what it printed. Panics if it fails.
    pub fn run_kubectl(&self, args: &[&str]) -> String {
        let output = self.kubectl(args);
        assert!(output.status.success(), "kubectl {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// The requests so far about objects in a namespace, and those of its service accounts about any object. A request
    /// is logged just before the end of its response is sent.
    pub fn audit(&self, namespace: &str) -> Vec<Arc<AuditLine>> {
        self.audit.of(namespace)
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Its URL.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Writes a kubeconfig for a user, and returns its path.
    pub(super) fn write_kubeconfig(&self, user: &str, credentials: &Credentials<'_>) -> PathBuf {
        let file = self.kubeconfig_of(user);
        let config: Value = kubeconfig(&self.url, &self.folder.join("ca.crt"), credentials);
        fs::write(&file, config.to_string()).unwrap();
        file
    }

    fn kubeconfig_of(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{}.{user}.kubeconfig", self.name))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.process.kill();
    }
}

/// Creates a client from a kubeconfig.
pub(super) async fn client_of(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn program(name: &str) -> PathBuf {
    Path::new(PROGRAMS).join(name)
}
