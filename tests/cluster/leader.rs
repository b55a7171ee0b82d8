//! Leader election against a real API server. What must never be seen: two that lead at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use plumbline_operator::cluster::leader::{Claim, Election, Lost, Timing};
use plumbline_testkit::cluster::{Cluster, Namespace};
use serde_json::json;
use tower::{Layer, Service};

/// Shorter than in operation, longer than a busy machine takes for an answer.
const TIMING: Timing =
    Timing { lease: Duration::from_secs(6), renew_deadline: Duration::from_secs(4), retry: Duration::from_millis(250) };
const NAME: &str = "plumbline";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_contenders_never_two_lead_at_once() {
    let (cluster, space) = space("election").await;
    let reigns = Arc::new(Mutex::new(Vec::new()));
    let mut claims = Vec::new();
    let mut contenders = tokio::task::JoinSet::new();
    for name in ["a", "b", "c"] {
        let mut election = Election::new(cluster.client().await, space.name(), NAME, name, TIMING);
        let reigns = reigns.clone();
        claims.push(election.claim());
        contenders.spawn(async move {
            for round in 0..2 {
                election.acquire().await;
                let from = Instant::now();
                let _ = tokio::time::timeout(Duration::from_millis(700), election.hold()).await;
                reigns.lock().unwrap().push((from, Instant::now()));
                // In turn, it gives the lead back and leaves it as one that was killed would.
                if round == 0 {
                    election.release().await;
                } else {
                    return;
                }
            }
        });
    }
    let watched = tokio::spawn(async move {
        let mut held = 0;
        loop {
            let now = claims.iter().filter(|claim| claim.is_held()).count();
            assert!(now <= 1, "{now} lead at once");
            held += now;
            if held > 0 && Arc::strong_count(&reigns) == 1 {
                return reigns;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    while let Some(ended) = contenders.join_next().await {
        ended.unwrap();
    }
    let reigns = watched.await.unwrap();
    let mut reigns = reigns.lock().unwrap().clone();
    reigns.sort();
    assert_eq!(reigns.len(), 6, "everyone led twice");
    for pair in reigns.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "one led before the other had ended: {pair:?}");
    }
}

#[tokio::test]
async fn a_killed_leader_is_followed_after_the_lease_duration_and_not_earlier() {
    let (cluster, space) = space("killed").await;
    let mut first = Election::new(cluster.client().await, space.name(), NAME, "first", TIMING);
    first.acquire().await;
    let _ = tokio::time::timeout(Duration::from_millis(600), first.hold()).await;
    let killed = Instant::now();
    let mut second = Election::new(cluster.client().await, space.name(), NAME, "second", TIMING);
    second.acquire().await;
    let waited = killed.elapsed();
    assert!(waited > TIMING.lease, "it took over after {waited:?}");
    assert!(!first.claim().is_held(), "the first must not think that it leads");
    assert_eq!(holder(&space).await.as_deref(), Some(second.identity()));
}

#[tokio::test]
async fn a_leader_that_gives_the_lease_back_is_followed_at_once() {
    let (cluster, space) = space("released").await;
    // The test does not wait for this lease to expire.
    let timing = Timing { lease: Duration::from_hours(1), ..TIMING };
    let mut first = Election::new(cluster.client().await, space.name(), NAME, "first", timing);
    first.acquire().await;
    let mut second = Election::new(cluster.client().await, space.name(), NAME, "second", timing);
    let waiting = tokio::spawn(async move {
        second.acquire().await;
        second.identity().to_owned()
    });
    let _ = tokio::time::timeout(TIMING.retry * 4, first.hold()).await;
    assert!(!waiting.is_finished(), "the first still leads");
    first.release().await;
    assert!(!first.claim().is_held());
    let identity = tokio::time::timeout(Duration::from_mins(2), waiting).await.expect("it does not follow").unwrap();
    assert_eq!(holder(&space).await, Some(identity));
}

#[tokio::test]
async fn a_leader_that_cannot_renew_stops_before_another_takes_over() {
    let (cluster, space) = space("paused").await;
    let (client, off) = client_with_switch(cluster).await;
    let mut first = Election::new(client, space.name(), NAME, "first", TIMING);
    first.acquire().await;
    let claim = first.claim();
    let mut second = Election::new(cluster.client().await, space.name(), NAME, "second", TIMING);
    let taken = tokio::spawn(async move {
        second.acquire().await;
        Instant::now()
    });
    let _ = tokio::time::timeout(TIMING.retry * 4, first.hold()).await;
    assert!(claim.is_held());
    off.store(true, Ordering::SeqCst);
    let paused = Instant::now();
    let lost = first.hold().await;
    let stopped = Instant::now();
    assert!(matches!(lost, Lost::NotRenewed { .. }), "{lost}");
    assert!(!claim.is_held());
    assert!(stopped - paused < TIMING.lease, "it stopped after {:?}", stopped - paused);
    assert!(taken.await.unwrap() > stopped, "another led before this one had stopped");
}

#[tokio::test]
async fn a_claim_ends_by_itself_where_nobody_renews_it() {
    let (cluster, space) = space("stuck").await;
    let mut first = Election::new(cluster.client().await, space.name(), NAME, "first", TIMING);
    let claim = first.claim();
    assert!(!claim.is_held());
    first.acquire().await;
    let led = Instant::now();
    wait_for_the_end(&claim).await;
    assert!(led.elapsed() < TIMING.lease, "another may lead by then");
    assert_eq!(holder(&space).await.as_deref(), Some(first.identity()), "for the others it still leads");
}

#[tokio::test]
async fn a_lease_that_somebody_else_holds_is_lost_and_not_taken_back() {
    let (cluster, space) = space("taken").await;
    let mut first = Election::new(cluster.client().await, space.name(), NAME, "first", TIMING);
    first.acquire().await;
    let patch = Patch::Merge(json!({"spec": {"holderIdentity": "other"}}));
    space.api::<Lease>().await.patch(NAME, &PatchParams::default(), &patch).await.unwrap();
    let lost = first.hold().await;
    assert!(matches!(&lost, Lost::Taken { holder, .. } if holder == "other"), "{lost}");
    first.release().await;
    assert_eq!(holder(&space).await.as_deref(), Some("other"), "only its holder gives a Lease back");
}

#[tokio::test]
async fn a_deleted_lease_is_not_taken_while_its_holder_may_still_act() {
    let (cluster, space) = space("deleted").await;
    let (client, off) = client_with_switch(cluster).await;
    let mut first = Election::new(client, space.name(), NAME, "first", TIMING);
    first.acquire().await;
    let claim = first.claim();
    let mut second = Election::new(cluster.client().await, space.name(), NAME, "second", TIMING);
    let seen = tokio::time::timeout(TIMING.retry * 4, second.acquire()).await;
    assert!(seen.is_err(), "the first leads");
    off.store(true, Ordering::SeqCst);
    space.api::<Lease>().await.delete(NAME, &DeleteParams::default()).await.unwrap();
    second.acquire().await;
    assert!(!claim.is_held(), "both lead");
}

async fn space(prefix: &str) -> (&'static Cluster, Namespace) {
    let cluster = Cluster::shared();
    (cluster, cluster.namespace(prefix).await)
}

async fn holder(space: &Namespace) -> Option<String> {
    let leases: Api<Lease> = space.api().await;
    leases.get(NAME).await.unwrap().spec.unwrap().holder_identity
}

async fn wait_for_the_end(claim: &Claim) {
    while claim.is_held() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A client that gets no answer any more once the switch is thrown.
async fn client_with_switch(cluster: &Cluster) -> (Client, Arc<AtomicBool>) {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let off = Arc::new(AtomicBool::new(false));
    let client = ClientBuilder::try_from(config).unwrap().with_layer(&Switch(off.clone())).build();
    (client, off)
}

#[derive(Clone)]
struct Switch(Arc<AtomicBool>);

impl<S> Layer<S> for Switch {
    type Service = Switched<S>;

    fn layer(&self, inner: S) -> Switched<S> {
        Switched { inner, off: self.0.clone() }
    }
}

struct Switched<S> {
    inner: S,
    off: Arc<AtomicBool>,
}

impl<S> Service<axum::http::Request<Body>> for Switched<S>
where
    S: Service<axum::http::Request<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: axum::http::Request<Body>) -> Self::Future {
        let answer = (!self.off.load(Ordering::SeqCst)).then(|| self.inner.call(request));
        Box::pin(async move {
            match answer {
                Some(answer) => answer.await,
                None => loop {
                    std::future::pending::<()>().await;
                },
            }
        })
    }
}
