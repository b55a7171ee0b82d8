//! What the operator tells of itself, against a real API server: requests that are counted, events that are published.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret};
use k8s_openapi::api::events::v1::Event as Published;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::events::Event;
use kube::runtime::watcher;
use kube::{Api, Config};
use plumbline_crds::Kind;
use plumbline_crds::policy_tuning::PolicyTuning;
use plumbline_crds::preference_dataset::PreferenceDataset;
use plumbline_crds::reward_model::RewardModel;
use plumbline_crds::status::Status;
use plumbline_operator::cluster::api_metrics::ApiMetrics;
use plumbline_operator::cluster::events::event;
use plumbline_operator::cluster::liveness::Liveness;
use plumbline_operator::cluster::metrics::{Metrics, Snapshot};
use plumbline_operator::cluster::publish::Publisher;
use plumbline_testkit::cluster::{Cluster, Namespace};
use serde_json::json;

#[tokio::test]
async fn requests_are_counted_by_verb_and_resource_and_watches_without_objects_are_signs_of_life() {
    let cluster = Cluster::shared();
    let space = cluster.namespace("counted").await;
    let (metrics, liveness) = (Arc::new(Metrics::new().unwrap()), Arc::new(Liveness::default()));
    let kubeconfig = Kubeconfig::read_from(space.kubeconfig_for("default").await).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let powerless = ApiMetrics::new(metrics.clone(), liveness.clone()).client(config).unwrap();
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = ApiMetrics::new(metrics.clone(), liveness.clone()).client(config).unwrap();

    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), space.name());
    assert_eq!(maps.get_opt("a-name-that-is-nobody-s").await.unwrap(), None);
    Api::<Secret>::namespaced(powerless, space.name()).list(&ListParams::default()).await.unwrap_err();
    let before = Instant::now();
    watched::<PreferenceDataset>(Api::namespaced(client.clone(), space.name())).await;
    watched::<RewardModel>(Api::namespaced(client.clone(), space.name())).await;
    watched::<PolicyTuning>(Api::namespaced(client, space.name())).await;
    assert!(liveness.age() <= before.elapsed());

    let text = metrics.text(&Snapshot::default()).unwrap();
    for (code, resource, verb) in
        [("404", "configmaps", "get"), ("403", "secrets", "list"), ("200", "rewardmodels", "list")]
    {
        let line =
            format!("plumbline_kube_api_requests_total{{code=\"{code}\",resource=\"{resource}\",verb=\"{verb}\"}} 1\n");
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(!text.contains("a-name-that-is-nobody-s") && !text.contains(space.name()), "{text}");
}

#[tokio::test]
async fn an_event_stands_at_its_resource_and_a_repeat_is_counted() {
    let cluster = Cluster::shared();
    let space = cluster.namespace("told").await;
    let publisher = Publisher::new(cluster.client().await, "operator-1");
    for _ in 0..2 {
        publisher.publish(&failed(), &resource(&space)).await;
    }
    let events: Api<Published> = space.api().await;
    let events = events.list(&ListParams::default()).await.unwrap().items;
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(event.reason.as_deref(), Some("GateFailed"));
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(event.regarding.as_ref().unwrap().name.as_deref(), Some("helpful"));
    assert_eq!(event.reporting_controller.as_deref(), Some("plumbline"));
    assert_eq!(event.series.as_ref().map(|s| s.count), Some(2));
}

#[tokio::test]
async fn an_event_that_may_not_be_published_is_lost_and_nothing_else_is() {
    let space = Cluster::shared().namespace("mute").await;
    let publisher = Publisher::new(space.client_for("default").await, "operator-1");
    let start = Instant::now();
    publisher.publish(&failed(), &resource(&space)).await;
    assert!(start.elapsed() < Duration::from_secs(30), "it must not hold up a reconcile");
    let events: Api<Published> = space.api().await;
    assert!(events.list(&ListParams::default()).await.unwrap().items.is_empty());
}

/// Until a watch has begun.
async fn watched<K>(api: Api<K>)
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()));
    while !matches!(events.next().await.unwrap().unwrap(), watcher::Event::InitDone) {}
}

fn failed() -> Event {
    let stalled = json!({"type": "Stalled", "status": "True", "reason": "GateFailed", "lastTransitionTime": ""});
    let after: Status = serde_json::from_value(json!({"conditions": [stalled]})).unwrap();
    event(&Status::default(), &after).unwrap()
}

fn resource(space: &Namespace) -> ObjectReference {
    ObjectReference {
        api_version: Some(plumbline_crds::API_VERSION.to_owned()),
        kind: Some(Kind::RewardModel.to_string()),
        name: Some("helpful".to_owned()),
        namespace: Some(space.name().to_owned()),
        uid: Some("00000000-0000-0000-0000-000000000001".to_owned()),
        ..ObjectReference::default()
    }
}
