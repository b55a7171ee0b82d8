//! A real Kubernetes for tests, without nodes: etcd, the API server and the controller manager, built by `make
//! setup-tests`.
//!
//! The API server validates schemas, CEL rules and permissions; the controllers create a Job's pods, determine how it
//! ended, and garbage-collect. Only the node is simulated: [`FakeNode`] writes what the scheduler and the kubelet would
//! write. [`NodeCluster`] has a real node, on which containers run; it needs root, and `make setup-cluster`.
//!
//! | question | file |
//! |---|---|
//! | Which programs run, with which settings? | `control_plane`, `certificates` |
//! | How are processes and files cleaned up? | `keeper`, `bin/cluster_keeper` |
//! | Which namespace does a test use? | `namespace` |
//! | How does a pod run, wait, end or get lost? | `pods` |
//! | How does a cluster with a real node work? | `node`, `tests/go/kubernetes/node` |
//! | What decides when a Job may run? | `kueue` |
//! | Which requests did the API server get, and from whom? | `audit` |

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

/// The CRDs that are released.
const CRDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds");
/// Controllers whose effects tests can observe. The scheduler and the kubelet are simulated by `FakeNode`.
const CONTROLLERS: &str = "resourcequota-controller,job-controller,garbage-collector-controller,ttl-after-finished-controller,\
    namespace-controller,serviceaccount-controller";
/// Timeout for the API server to publish the schema of a new kind.
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
    /// The cluster shared by this process. The first use starts it, which takes seconds; it ends with the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a separate cluster, for a test that changes cluster-wide state. It ends when it is dropped.
    pub fn start() -> Self {
        let plane = ControlPlane::start(Keeper::start_in(&std::env::temp_dir()), Ipv4Addr::LOCALHOST.into());
        let server = plane.start_api_server("apiserver");
        server.run_kubectl(&["apply", "-f", CRDS]);
        server.run_kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
        until_described(&server);
        let controllers = plane.start_controller_manager(&server, CONTROLLERS);
        Self { plane, server, controllers, others: AtomicUsize::new(1) }
    }

    /// An administrator's client. It belongs to the runtime in which it was created, so each test creates its own.
    pub async fn client(&self) -> Client {
        self.server.client().await
    }

    /// An administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.server.kubeconfig()
    }

    /// Runs kubectl as an administrator.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        self.server.kubectl(args)
    }

    /// Creates a namespace whose name begins with `prefix`, and waits until pods can be created in it.
    pub async fn namespace(&'static self, prefix: &str) -> Namespace {
        self.controllers.assert_alive();
        Namespace::create(self, prefix).await
    }

    /// The requests so far about objects in a namespace, and those of its service accounts about any object, which
    /// excludes other tests. A request is logged just before the end of its response is sent.
    pub fn audit(&self, namespace: &str) -> Vec<Arc<AuditLine>> {
        self.server.audit(namespace)
    }

    /// Starts another API server on the same etcd, which gets no other requests. It ends when it is dropped.
    pub fn start_another_api_server(&self) -> ApiServer {
        let number = self.others.fetch_add(1, Ordering::Relaxed) + 1;
        self.plane.start_api_server(&format!("apiserver-{number}"))
    }

    /// The process ids of etcd, the API server and the controller manager.
    pub fn pids(&self) -> [i32; 3] {
        [self.plane.etcd_pid(), self.server.pid(), self.controllers.pid()]
    }

    /// The directory of certificates, logs and data; it is removed at the end.
    pub fn folder(&self) -> &Path {
        self.plane.folder()
    }
}

/// Waits until the schemas of the CRDs are published, which is after they are served: `kubectl explain` and the
/// validation of `kubectl apply` need them.
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
