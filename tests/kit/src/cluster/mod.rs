//! A real Kubernetes for tests, without nodes: etcd, the API server and the controller manager that `make setup-tests` builds.
//!
//! The API server checks schemas, CEL rules and permissions; the controllers make a Job's pods, judge how it ended and
//! collect what has lost its owner. What is played is the node: [`FakeNode`] writes what the scheduler and the kubelet would.
//! [`NodeCluster`] has a real one, on which containers run; it takes root, and `make setup-cluster`.
//!
//! | question | file |
//! |---|---|
//! | What runs, with which settings? | `control_plane`, `certificates` |
//! | Why is nothing left behind? | `keeper`, `bin/cluster_keeper` |
//! | Where does a test work? | `namespace` |
//! | How does a pod run, wait, end or get lost? | `pods` |
//! | What is a cluster with a real node? | `node`, `tests/go/kubernetes/node` |
//! | Who decides when a Job may run? | `kueue` |
//! | Who asked the API server for what? | `audit` |

mod audit;
mod certificates;
mod control_plane;
mod keeper;
mod kueue;
mod namespace;
mod node;
mod pods;
mod wait;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kube::Client;
use plumbline_crds::{API_VERSION, Kind};

pub use audit::{AuditLine, ObjectRef, Requests, ResponseStatus, User};
pub use control_plane::ApiServer;
pub use keeper::is_alive;
pub use namespace::Namespace;
pub use node::{HOST, INTERFACE, NodeCluster};
pub use pods::{Exit, FakeNode, NODE};
pub use wait::until;

use crate::programs::text;
use control_plane::ControlPlane;
use keeper::{Keeper, Process};

/// The CRDs as they are shipped.
const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds");
/// Controllers that change something a test can see. The scheduler and the kubelet are played by `FakeNode`.
const CONTROLLERS: &str = "resourcequota-controller,job-controller,garbage-collector-controller,ttl-after-finished-controller,\
    namespace-controller,serviceaccount-controller";
/// The longest that the API server takes to describe a new kind.
const DESCRIBED: Duration = Duration::from_mins(1);

/// A control plane with the CRDs of this repository.
#[derive(Debug)]
pub struct Cluster {
    plane: ControlPlane,
    server: ApiServer,
    controllers: Process,
    others: AtomicUsize,
}

impl Cluster {
    /// The cluster of this process. The first use starts it, which takes seconds; it ends with the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A cluster of its own, for a test that changes what all namespaces of one have. It ends when it is dropped.
    pub fn start() -> Self {
        let plane = ControlPlane::start(Keeper::start_in(&std::env::temp_dir()), Ipv4Addr::LOCALHOST.into());
        let server = plane.start_api_server("apiserver");
        server.run_kubectl(&["apply", "-f", CRDS]);
        server.run_kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
        until_described(&server);
        let controllers = plane.start_controller_manager(&server, CONTROLLERS);
        Self { plane, server, controllers, others: AtomicUsize::new(1) }
    }

    /// A client of an administrator. It belongs to the runtime that it was made in: each test makes its own.
    pub async fn client(&self) -> Client {
        self.server.client().await
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    /// Runs kubectl as an administrator.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        self.server.kubectl(args)
    }

    /// A new namespace whose name begins with `prefix`, once pods can be made in it.
    pub async fn namespace(&'static self, prefix: &str) -> Namespace {
        self.controllers.assert_alive();
        Namespace::create(self, prefix).await
    }

    /// What the API server was asked so far about objects in a namespace, and by its service accounts about any object: what
    /// other tests do is not among it. A line is written just before the end of its answer is sent.
    pub fn audit(&self, namespace: &str) -> Vec<Arc<AuditLine>> {
        self.server.audit(namespace)
    }

    /// Another API server on the same etcd, without anything that asks it. It ends when it is dropped.
    pub fn start_another_api_server(&self) -> ApiServer {
        let number = self.others.fetch_add(1, Ordering::Relaxed) + 1;
        self.plane.start_api_server(&format!("apiserver-{number}"))
    }

    /// The process ids of etcd, the API server and the controller manager.
    pub fn pids(&self) -> [i32; 3] {
        [self.plane.etcd_pid(), self.server.pid(), self.controllers.pid()]
    }

    /// The folder of certificates, logs and data; it is removed at the end.
    pub fn folder(&self) -> &Path {
        self.plane.folder()
    }
}

/// Kinds are served before they are described: `kubectl explain` and the validation of `kubectl apply` need both.
fn until_described(server: &ApiServer) {
    let path = format!("/openapi/v3/apis/{API_VERSION}");
    let deadline = Instant::now() + DESCRIBED;
    loop {
        let described = text(&server.kubectl(&["get", "--raw", &path]).stdout);
        if Kind::ALL.iter().all(|kind| described.contains(&format!("/{}/{{name}}", kind.plural()))) {
            return;
        }
        assert!(Instant::now() < deadline, "never: {path} describes the three kinds");
        std::thread::sleep(Duration::from_millis(100));
    }
}
