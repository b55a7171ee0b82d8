//! What makes a resource be visited: its own changes, those of its Jobs and pods, and those of what it names. Talks to the
//! API server: watches, by metadata alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action as Next, Config, Error as ControllerError};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt, reflector, watcher};
use kube::{Api, ResourceExt};
use plumbline_crds::Kind;
use plumbline_crds::policy_tuning::PolicyTuning;
use plumbline_crds::preference_dataset::PreferenceDataset;
use plumbline_crds::reward_model::RewardModel;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::Receiver;
use tracing::Instrument;

use super::build::{KIND_LABEL, MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL};
use super::context::{Context, Shared};
use super::dependents::{Id, Referent};
use super::kinds::OfKind;
use super::logging;
use super::observe::ObserveError;
use super::progress::Owner;
use super::reconcile::reconcile;

/// Visits at a time, of a kind.
const CONCURRENCY: u16 = 16;
/// Changes that come this close together are one visit.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A visit that failed is made again after this long; the client has tried the request again itself.
const AGAIN: Duration = Duration::from_secs(10);

/// A type that a controller watches.
pub trait Watched:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl Watched for PreferenceDataset {}
impl Watched for RewardModel {}
impl Watched for PolicyTuning {}
impl Watched for Job {}
impl Watched for Pod {}
impl Watched for ConfigMap {}
impl Watched for PersistentVolumeClaim {}

/// Runs the controllers of the three kinds until `stop` ends; visits that have begun are finished.
/// `asked`: resources that have progress to write, by kind.
pub async fn run(
    context: Shared,
    mut asked: BTreeMap<Kind, Receiver<Owner>>,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    let dataset = |name| Referent::Resource(Kind::PreferenceDataset, name);
    let datasets = controller::<PreferenceDataset>(&context, &mut asked, stop.clone());
    let datasets = naming::<_, PersistentVolumeClaim>(datasets, &context, Referent::Claim);
    let datasets = naming::<_, ConfigMap>(datasets, &context, Referent::ConfigMap);
    let rewards = controller::<RewardModel>(&context, &mut asked, stop.clone());
    let rewards = naming::<_, PersistentVolumeClaim>(rewards, &context, Referent::Claim);
    let rewards = naming::<_, PreferenceDataset>(rewards, &context, dataset);
    let tunings = controller::<PolicyTuning>(&context, &mut asked, stop);
    let tunings = naming::<_, PersistentVolumeClaim>(tunings, &context, Referent::Claim);
    let tunings = naming::<_, ConfigMap>(tunings, &context, Referent::ConfigMap);
    let tunings = naming::<_, PreferenceDataset>(tunings, &context, dataset);
    let tunings = naming::<_, RewardModel>(tunings, &context, |name| Referent::Resource(Kind::RewardModel, name));
    futures::join!(drive(datasets, &context), drive(rewards, &context), drive(tunings, &context));
}

/// The controller of a kind: visits for its own changes and for those of its Jobs and pods.
fn controller<K: OfKind + Watched>(
    context: &Context,
    asked: &mut BTreeMap<Kind, Receiver<Owner>>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> Controller<PartialObjectMeta<K>> {
    let (reader, writer) = reflector::store();
    let changes = watcher(api::<K>(context), watcher::Config::default())
        .default_backoff()
        .modify(slim)
        .reflect(writer)
        .touched_objects()
        // Statuses are written here, and need no visit.
        .predicate_filter(spec_changed, PredicateConfig::default());
    let ours = format!("{MANAGED_BY_LABEL}={MANAGED_BY},{KIND_LABEL}={}", K::KIND);
    let own = watcher::Config::default().labels(&ours);
    let asked = asked.remove(&K::KIND);
    let asked = stream::unfold(asked, |asked| async {
        let mut asked = asked?;
        let owner = asked.recv().await?;
        Some((ObjectRef::new(&owner.name).within(&owner.namespace), Some(asked)))
    });
    Controller::for_stream(changes, reader)
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .watches(api::<Job>(context), own.clone(), |object| labelled(&object))
        .watches(api::<Pod>(context), own, |object| labelled(&object))
        // A stream that ended would end the controller.
        .reconcile_on(asked.chain(stream::pending()))
        .graceful_shutdown_on(stop)
}

/// Visits for changes of objects that resources of the kind name.
fn naming<K: OfKind + Watched, O: Watched>(
    controller: Controller<PartialObjectMeta<K>>,
    context: &Shared,
    referent: impl Fn(String) -> Referent + Send + Sync + 'static,
) -> Controller<PartialObjectMeta<K>> {
    let shared = context.clone();
    controller.watches(api::<O>(context), watcher::Config::default(), move |object| {
        let namespace = object.namespace().unwrap_or_default();
        let names = shared.dependents.of(&namespace, &referent(object.name_any()), K::KIND);
        names.into_iter().map(|name| ObjectRef::new(&name).within(&namespace)).collect::<Vec<_>>()
    })
}

/// The resource that an object is labelled with: its pods are not its own children, but those of its Job.
fn labelled<K: OfKind + Watched, O: Watched>(object: &PartialObjectMeta<O>) -> Option<ObjectRef<PartialObjectMeta<K>>> {
    let name = object.labels().get(NAME_LABEL)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

/// What is watched of a type: its metadata.
fn api<K: Watched>(context: &Context) -> Api<PartialObjectMeta<K>> {
    match &context.settings.namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    }
}

/// The largest part of metadata is of no use here.
fn slim<K>(object: &mut PartialObjectMeta<K>) {
    object.metadata.managed_fields = None;
    object.metadata.annotations = None;
}

#[allow(clippy::unnecessary_wraps, reason = "the signature of a predicate")]
fn spec_changed<K>(object: &PartialObjectMeta<K>) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let metadata = &object.metadata;
    // By UID too: one that was deleted and made again begins to count anew.
    (&metadata.uid, metadata.generation, metadata.deletion_timestamp.is_some()).hash(&mut hasher);
    Some(hasher.finish())
}

/// Runs a controller until it is stopped.
async fn drive<K: OfKind + Watched>(controller: Controller<PartialObjectMeta<K>>, context: &Shared) {
    let visit = |object: Arc<PartialObjectMeta<K>>, context: Shared| async move {
        let id = Id { namespace: object.namespace().unwrap_or_default(), kind: K::KIND, name: object.name_any() };
        let span = logging::span(id.kind, &id.namespace, &id.name);
        let begun = Instant::now();
        let visit = Box::pin(reconcile(&context, &id)).instrument(span).await;
        context.metrics.reconciled(K::KIND, begun.elapsed());
        context.pulse.beat(K::KIND);
        visit
    };
    let again = |_: Arc<PartialObjectMeta<K>>, error: &ObserveError, context: Shared| {
        context.metrics.reconcile_failed(K::KIND, error.variant());
        Next::requeue(AGAIN)
    };
    let visits = controller.run(visit, again, context.clone());
    visits
        .for_each(|visit| async {
            match visit {
                Ok(_) => {}
                Err(ControllerError::ObjectNotFound(gone)) => forget(K::KIND, &gone.name, gone.namespace, context),
                Err(error) => tracing::warn!(kind = %K::KIND, "a visit failed: {error}"),
            }
        })
        .await;
}

/// Nothing is kept of a resource that is gone.
fn forget(kind: Kind, name: &str, namespace: Option<String>, context: &Context) {
    let id = Id { namespace: namespace.unwrap_or_default(), kind, name: name.to_owned() };
    context.dependents.set(&id, BTreeSet::new());
    context.resources.remove(&id);
}
