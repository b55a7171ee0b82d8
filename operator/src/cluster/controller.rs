//! What makes a resource be reconciled: its own changes and those of resources that it names, and those of its Jobs and pods, and
//! of ConfigMaps and claims (`changes`). Talks to the API server: watches, by metadata alone.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::PartialObjectMeta;
use kube::runtime::controller::{Action as Next, Config, Error as ControllerError};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, PredicateConfig, WatchStreamExt, reflector, watcher};
use kube::{Api, ResourceExt};
use plumbline_crds::Kind;
use plumbline_crds::policy_tuning::PolicyTuning;
use plumbline_crds::preference_dataset::PreferenceDataset;
use plumbline_crds::reward_model::RewardModel;
use tokio::sync::mpsc::Receiver;
use tracing::Instrument;

use super::changes::{Followed, Watched};
use super::context::{Context, Shared};
use super::dependents::{Id, Referent};
use super::error::ReconcileError;
use super::kinds::OfKind;
use super::logging;
use super::objects::{KIND_LABEL, MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL};
use super::reconcile::{forget, reconcile};
use super::server::Triggers;

/// Reconciles at a time, of a kind.
const CONCURRENCY: u16 = 16;
/// Resources of a kind that are listed at a time. Each may hold 1.5 MB of labels and annotations of a tenant.
pub const PAGE: u32 = 5;
/// Changes that come this close together are one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A reconcile that failed is made again after this long; the client has tried the request again itself.
const AGAIN: Duration = Duration::from_secs(10);
/// One takes this long at most: it is mere requests, of which many can only be pages of lists.
const LONGEST: Duration = Duration::from_mins(2);

impl Watched for PreferenceDataset {}
impl Watched for RewardModel {}
impl Watched for PolicyTuning {}
impl Watched for Job {}
impl Watched for Pod {}
impl Watched for ConfigMap {}
impl Watched for PersistentVolumeClaim {}

/// Runs the controllers of the three kinds until `stop` ends; reconciles that have begun are finished.
/// `asked`: what comes out of `triggers`, by kind.
pub async fn run(
    context: Shared,
    triggers: &Triggers,
    mut asked: BTreeMap<Kind, Receiver<Id>>,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) {
    let datasets = controller::<PreferenceDataset>(&context, triggers, &mut asked, stop.clone());
    let rewards = controller::<RewardModel>(&context, triggers, &mut asked, stop.clone());
    let tunings = controller::<PolicyTuning>(&context, triggers, &mut asked, stop);
    let context = &context;
    let changes = async {
        futures::join!(
            made::<Job>(context, triggers),
            made::<Pod>(context, triggers),
            named::<ConfigMap>(context, triggers, Referent::ConfigMap),
            named::<PersistentVolumeClaim>(context, triggers, Referent::Claim),
        )
    };
    let controllers =
        async { futures::join!(drive(datasets, context), drive(rewards, context), drive(tunings, context)) };
    tokio::select! {
        _ = controllers => {}
        _ = changes => {}
    }
}

/// The controller of a kind: reconciles for its own changes, and where they are asked for. Of any change, that of a status too,
/// the resources learn that name it: a watch of their own would hide that this one is stuck (`liveness`).
fn controller<K: OfKind + Watched>(
    context: &Shared,
    triggers: &Triggers,
    asked: &mut BTreeMap<Kind, Receiver<Id>>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) -> Controller<PartialObjectMeta<K>> {
    let (reader, writer) = reflector::store();
    let (told, triggers) = (context.clone(), triggers.clone());
    let tell = move |object: Result<PartialObjectMeta<K>, watcher::Error>| {
        let (context, triggers) = (told.clone(), triggers.clone());
        async move {
            if let Ok(object) = &object {
                let referent = Referent::Resource(K::KIND, object.name_any());
                ask(&triggers, context.dependents.of(&object.namespace().unwrap_or_default(), &referent)).await;
            }
            object
        }
    };
    let changes = watcher(api::<PartialObjectMeta<K>>(context), watcher::Config::default().page_size(PAGE))
        .default_backoff()
        .modify(slim)
        .reflect(writer)
        .touched_objects()
        .then(tell)
        // Statuses are written here, and need no reconcile.
        .predicate_filter(spec_changed, PredicateConfig::default());
    let asked = asked.remove(&K::KIND);
    let asked = stream::unfold(asked, |asked| async {
        let mut asked = asked?;
        let id = asked.recv().await?;
        Some((ObjectRef::new(&id.name).within(&id.namespace), Some(asked)))
    });
    Controller::for_stream(changes, reader)
        .with_config(Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        // A stream that ended would end the controller.
        .reconcile_on(asked.chain(stream::pending()))
        .graceful_shutdown_on(stop)
}

/// Asks for reconciles for changes of objects that the operator makes, and of their pods.
async fn made<O: Watched>(context: &Context, triggers: &Triggers) {
    let selector = format!("{MANAGED_BY_LABEL}={MANAGED_BY}");
    Followed::<O>::new(context.client.clone(), api(context), Some(selector))
        .run(async |object| {
            let ids = object.map_or_else(|| context.resources.ids(), |object| labelled(object).into_iter().collect());
            ask(triggers, ids).await;
        })
        .await;
}

/// Asks for reconciles for changes of objects that resources name.
async fn named<O: Watched>(context: &Context, triggers: &Triggers, referent: impl Fn(String) -> Referent) {
    Followed::<O>::new(context.client.clone(), api(context), None)
        .run(async |object| {
            let of = |object: &PartialObjectMeta<O>| {
                context.dependents.of(&object.namespace().unwrap_or_default(), &referent(object.name_any()))
            };
            ask(triggers, object.map_or_else(|| context.resources.ids(), of)).await;
        })
        .await;
}

async fn ask(triggers: &Triggers, ids: Vec<Id>) {
    for id in ids {
        triggers.ask(id).await;
    }
}

/// The resource that an object is labelled with: its pods are not its own children, but those of its Job.
fn labelled<O: Watched>(object: &PartialObjectMeta<O>) -> Option<Id> {
    let label = |name| object.labels().get(name);
    let (kind, name) = (Kind::parse(label(KIND_LABEL)?)?, label(NAME_LABEL)?.clone());
    Some(Id { namespace: object.namespace()?, kind, name })
}

/// The objects of a type, or their metadata, where the operator works.
fn api<K>(context: &Context) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match &context.settings.watch_namespace {
        Some(namespace) => Api::namespaced(context.client.clone(), namespace),
        None => Api::all(context.client.clone()),
    }
}

/// What is kept of an object: of the rest, tenants may write as much as they like.
fn slim<K>(object: &mut PartialObjectMeta<K>) {
    let all = std::mem::take(&mut object.metadata);
    object.metadata = ObjectMeta {
        name: all.name,
        namespace: all.namespace,
        uid: all.uid,
        generation: all.generation,
        resource_version: all.resource_version,
        deletion_timestamp: all.deletion_timestamp,
        ..ObjectMeta::default()
    };
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
    let handle = |object: Arc<PartialObjectMeta<K>>, context: Shared| async move {
        let id = Id { namespace: object.namespace().unwrap_or_default(), kind: K::KIND, name: object.name_any() };
        let span = logging::span(id.kind, &id.namespace, &id.name);
        let begun = Instant::now();
        let result = within(LONGEST, Box::pin(reconcile(&context, &id))).instrument(span).await;
        context.metrics.reconciled(K::KIND, begun.elapsed());
        context.liveness.beat(K::KIND);
        result
    };
    let again = |_: Arc<PartialObjectMeta<K>>, error: &ReconcileError, context: Shared| {
        context.metrics.reconcile_failed(K::KIND, error.variant());
        Next::requeue(AGAIN)
    };
    let results = controller.run(handle, again, context.clone());
    results
        .for_each(|result| async {
            match result {
                Ok(_) => {}
                Err(ControllerError::ObjectNotFound(gone)) => {
                    let namespace = gone.namespace.unwrap_or_default();
                    forget(context, &Id { namespace, kind: K::KIND, name: gone.name });
                }
                Err(error) => tracing::warn!(kind = %K::KIND, "reconcile failed: {error}"),
            }
        })
        .await;
}

/// A reconcile that takes longer is given up: a request on a connection that is gone would take a quarter of an hour to fail.
async fn within(
    longest: Duration,
    reconcile: impl Future<Output = Result<Next, ReconcileError>>,
) -> Result<Next, ReconcileError> {
    let timeout = tokio::time::timeout(longest, reconcile).await;
    timeout.unwrap_or(Err(ReconcileError::Timeout(longest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reconcile_that_gets_no_answer_is_given_up() {
        let short = Duration::from_millis(10);
        let result = within(short, std::future::pending()).await;
        assert!(matches!(result, Err(ReconcileError::Timeout(longest)) if longest == short));
        assert_eq!(within(LONGEST, async { Ok(Next::await_change()) }).await.unwrap(), Next::await_change());
    }
}
