//! The real Flux deploys runs from a bucket: it waits for them, a commit makes them again, and nothing that the operator does
//! looks like drift. What runs on nodes is played.

use std::fs;
use std::time::Duration;

use kube::ResourceExt;
use kube::api::DynamicObject;
use plumbline_crds::Kind::{self, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::Reason;
use plumbline_testkit::cluster::{Exit, until};
use plumbline_testkit::flux::Flux;
use plumbline_testkit::operator::{Scene, resource};
use plumbline_testkit::store::{ACCESS_KEY, BUCKET, SECRET_KEY, Store};
use serde_json::{Value, json};

const KUSTOMIZATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/gitops/flux/kustomization.yaml");
/// How often Flux looks whether what it applied is as it was.
const INTERVAL: Duration = Duration::from_secs(2);

/// What Flux is told: a bucket, and the example's Kustomization for what lies in it.
fn objects(scene: &Scene, store: &Store) -> Value {
    let bucket = json!({
        "apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "Bucket", "metadata": {"name": "runs"},
        "spec": {"interval": "1s", "endpoint": store.address(), "bucketName": BUCKET, "insecure": true,
            "region": "us-east-1", "secretRef": {"name": "bucket"}},
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bucket"},
        "stringData": {"accesskey": ACCESS_KEY, "secretkey": SECRET_KEY},
    });
    let example = fs::read_to_string(KUSTOMIZATION).unwrap();
    let mut kustomization: Value =
        serde_yaml::from_str::<serde_yaml::Value>(&example).map(|yaml| serde_json::to_value(yaml).unwrap()).unwrap();
    kustomization["metadata"] = json!({"name": "runs"});
    let spec = &mut kustomization["spec"];
    spec["interval"] = json!(format!("{}s", INTERVAL.as_secs()));
    spec["retryInterval"] = json!("1s");
    spec["timeout"] = json!("3m");
    spec["targetNamespace"] = json!(scene.namespace.name());
    spec["sourceRef"] = json!({"kind": "Bucket", "name": "runs"});
    let checks = spec["healthChecks"].as_array_mut().unwrap();
    checks.retain(|check| check["kind"] != "PolicyTuning");
    for check in checks {
        check["name"] = json!("r");
        check["namespace"] = json!(scene.namespace.name());
    }
    json!({"apiVersion": "v1", "kind": "List", "items": [secret, bucket, kustomization]})
}

/// Writes a run as a file of what is deployed.
async fn commit(store: &Store, file: &str, resource: &Value) {
    store.upload(&format!("runs/{file}"), serde_yaml::to_string(resource).unwrap()).await;
}

fn apply(scene: &Scene, objects: &Value) {
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    fs::write(file.path(), objects.to_string()).unwrap();
    scene.kubectl(&["apply", "-f", file.path().to_str().unwrap()]);
}

/// How Flux sees the Kustomization: status, reason and message of its Ready, and the revision that it last applied.
fn seen(scene: &Scene) -> (String, String, String, String) {
    let object: Value = serde_json::from_str(&scene.kubectl(&["get", "kustomization", "runs", "-o", "json"])).unwrap();
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let applied = text(&object["status"]["lastAppliedRevision"]);
    (text(&ready["status"]), text(&ready["reason"]), text(&ready["message"]), applied)
}

/// Waits until the Kustomization is as expected; gives the revision that it last applied.
async fn until_seen(scene: &Scene, what: &str, holds: impl Fn(&str, &str, &str) -> bool) -> String {
    until(&format!("the Kustomization {what}"), async || {
        let (status, reason, message, applied) = seen(scene);
        holds(&status, &reason, &message).then_some(applied)
    })
    .await
}

async fn object(scene: &Scene, kind: Kind) -> DynamicObject {
    until(&format!("Flux applies {kind}/r"), async || scene.api(kind).get_opt("r").await.unwrap()).await
}

/// When Flux last wrote a resource.
async fn written(scene: &Scene, kind: Kind) -> Vec<String> {
    let object = object(scene, kind).await;
    let entries = object.managed_fields().iter().filter(|f| f.manager.as_deref() == Some("kustomize-controller"));
    entries.map(|f| format!("{:?} {:?}", f.operation, f.time)).collect()
}

#[tokio::test]
async fn a_commit_is_a_run_and_flux_waits_for_it_and_sees_no_drift() {
    let scene = Scene::new("flux").await;
    let store = Store::start();
    let _flux = Flux::start(scene.cluster, &scene.namespace);
    let _operator = scene.operator().await;
    commit(&store, "dataset.yaml", &resource(PreferenceDataset, "r", &json!({}))).await;
    commit(&store, "reward.yaml", &resource(RewardModel, "r", &json!({}))).await;
    apply(&scene, &objects(&scene, &store));

    let waits = |status: &str, reason: &str, _: &str| (status, reason) == ("Unknown", "Progressing");
    object(&scene, RewardModel).await;
    until_seen(&scene, "waits for what it has applied", waits).await;
    scene.succeed(PreferenceDataset, "r", "sha256:d").await;
    scene.until_reason(PreferenceDataset, "r", Reason::Completed).await;
    let (status, ..) = seen(&scene);
    assert_ne!(status, "True", "one of two runs is not done");
    scene.succeed(RewardModel, "r", "sha256:r").await;
    // Flux writes its conditions first, and the revision with the next request.
    let ready = |status: &str, _: &str, _: &str| status == "True";
    let first = until("the Kustomization is ready when both are, and says of which revision", async || {
        let (status, _, _, applied) = seen(&scene);
        (status == "True" && !applied.is_empty()).then_some(applied)
    })
    .await;

    // Flux compares over and over, and has nothing to write.
    let before = [written(&scene, PreferenceDataset).await, written(&scene, RewardModel).await];
    assert_eq!(before.each_ref().map(Vec::len), [1, 1], "{before:?}");
    let jobs = scene.jobs_made();
    tokio::time::sleep(3 * INTERVAL).await;
    assert_eq!([written(&scene, PreferenceDataset).await, written(&scene, RewardModel).await], before);
    assert_eq!(scene.jobs_made(), jobs);
    // While it compares, it says that it is not sure.
    assert_eq!(until_seen(&scene, "is still ready", ready).await, first);
    let folder = store.path("runs");
    let dry_run = ["diff", "--server-side", "--field-manager=somebody", "-f", folder.to_str().unwrap()];
    assert_eq!(scene.kubectl(&dry_run), "", "kubectl diff");

    // A commit that changes one run: that one is made again, and awaited again.
    let output = |name: &str| json!({"output": {"uri": format!("pvc://results/{name}")}});
    commit(&store, "reward.yaml", &resource(RewardModel, "r", &output("second"))).await;
    let generation = async || object(&scene, RewardModel).await.metadata.generation;
    until("Flux applies the commit", async || (generation().await == Some(2)).then_some(())).await;
    scene.until_reason(RewardModel, "r", Reason::Running).await;
    let (status, _, _, applied) = seen(&scene);
    assert!(status != "True" || applied == first, "the changed run is not done");
    scene.succeed(RewardModel, "r", "sha256:r2").await;
    // Until it has noticed the commit, it may still be ready for what was before.
    until("the Kustomization is ready again, of another revision", async || {
        let (status, _, _, applied) = seen(&scene);
        (status == "True" && applied != first).then_some(())
    })
    .await;
    assert_eq!((generation().await, scene.jobs_made()), (Some(2), jobs + 1));

    // And one that fails for good: Flux says so at once, and not when its patience is at its end.
    commit(&store, "reward.yaml", &resource(RewardModel, "r", &output("third"))).await;
    until("the third run has a pod", async || (scene.jobs_made() == jobs + 2).then_some(())).await;
    let pod = scene.pod(RewardModel, "r").await;
    scene.node.run(&pod).await;
    scene.node.end(&pod, Exit { code: 3, reason: "Error", message: "" }).await;
    scene.until_reason(RewardModel, "r", Reason::DataInvalid).await;
    let failed = |status: &str, reason: &str, message: &str| {
        (status, reason) == ("False", "HealthCheckFailed") && message.contains("RewardModel/")
    };
    until_seen(&scene, "has failed, and says what has", failed).await;
}
