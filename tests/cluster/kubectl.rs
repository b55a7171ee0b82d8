//! What people and GitOps do with kubectl: apply again, wait, explain, delete. And what must never be seen by them: a secret.

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ListParams, PostParams};
use plumbline_crds::Kind::{self, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::Reason;
use plumbline_testkit::cluster::{Exit, until};
use plumbline_testkit::operator::{Operator, Scene, alone, resource};
use serde_json::{Value, json};

use super::quiescence::until_resynced;

fn reward(name: &str) -> Value {
    resource(RewardModel, name, &alone(RewardModel))
}

fn file(content: &Value) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    std::fs::write(file.path(), content.to_string()).unwrap();
    file
}

#[tokio::test]
async fn applying_the_same_manifest_again_changes_nothing_in_any_phase() {
    let scene = Scene::new("again").await;
    let operator = Operator::start(&scene.namespace, &scene.account().await, &["--resync-seconds", "1"]);
    let manifest = file(&reward("r"));
    let path = manifest.path().to_str().unwrap();
    let version = async || scene.api(RewardModel).get("r").await.unwrap().metadata.resource_version;
    let unchanged = async |when: &str| {
        let before = version().await;
        let said = scene.kubectl(&["apply", "-f", path]);
        assert!(said.contains("unchanged"), "{when}: {said}");
        scene.kubectl(&["diff", "-f", path]);
        assert_eq!(version().await, before, "{when}: something was written");
    };
    scene.kubectl(&["apply", "-f", path]);
    let pod = scene.pod(RewardModel, "r").await;
    scene.node.run(&pod).await;
    scene.until_reason(RewardModel, "r", Reason::Running).await;
    until_resynced(&operator, 2).await;
    unchanged("running").await;
    scene.succeed(RewardModel, "r", "sha256:x").await;
    let waited = scene.kubectl(&["wait", "--for=condition=Ready", "rewardmodel/r", "--timeout=60s"]);
    assert!(waited.contains("condition met"), "{waited}");
    unchanged("finished").await;
    let described = scene.kubectl(&["describe", "rewardmodel", "r"]);
    for words in ["Completed", "pvc://results/rewardmodels/r", "The run has started", "The artifact is complete"] {
        assert!(described.contains(words), "no \"{words}\" in {described}");
    }
}

#[tokio::test]
async fn what_is_deleted_leaves_nothing_behind_in_any_phase() {
    let scene = Scene::new("delete").await;
    let _operator = scene.operator().await;
    scene.apply(&resource(RewardModel, "waiting", &json!({}))).await;
    scene.until_reason(RewardModel, "waiting", Reason::ReferenceNotFound).await;
    let phases = ["pending", "running", "failed", "finished", "suspended"].map(async |name| {
        scene.apply(&reward(name)).await;
        let pod = scene.pod(RewardModel, name).await;
        if name != "pending" {
            scene.node.run(&pod).await;
        }
        match name {
            "failed" => {
                scene.node.end(&pod, Exit { code: 3, reason: "Error", message: "" }).await;
                scene.until_reason(RewardModel, name, Reason::DataInvalid).await;
            }
            "finished" => {
                scene.succeed(RewardModel, name, "sha256:x").await;
                scene.until_reason(RewardModel, name, Reason::Completed).await;
            }
            "suspended" => {
                scene.change(RewardModel, name, json!({"suspend": true})).await;
                scene.until_reason(RewardModel, name, Reason::Suspended).await;
                scene.let_end(&pod).await;
            }
            _ => {}
        }
    });
    join_all(phases).await;
    let running = scene.pod(RewardModel, "running").await;
    scene.kubectl(&["delete", "rewardmodel", "--all", "--timeout=60s"]);
    scene.let_end(&running).await;
    until("nothing is left", async || {
        let state = scene.state().await;
        state.as_object().unwrap().is_empty().then_some(())
    })
    .await;
    assert!(scene.jobs().await.is_empty());
}

#[tokio::test]
async fn no_secret_is_seen_anywhere() {
    const PLANTED: &str = "sk-planted-0123456789abcdef";
    let scene = Scene::new("secret").await;
    let operator = scene.operator().await;
    let secret = Secret {
        metadata: kube::api::ObjectMeta { name: Some("keys".into()), ..Default::default() },
        string_data: Some([("api-key".to_owned(), PLANTED.to_owned())].into()),
        ..Secret::default()
    };
    let secrets: Api<Secret> = scene.namespace.api().await;
    secrets.create(&PostParams::default(), &secret).await.unwrap();
    let judge = json!({"name": "j", "endpoint": {"url": "https://judge.example/v1", "model": "m", "apiKeySecretRef": {"name": "keys", "key": "api-key"}}});
    scene.apply(&resource(PreferenceDataset, "r", &json!({"judges": [judge]}))).await;
    let pod = scene.pod(PreferenceDataset, "r").await;
    scene.node.run(&pod).await;
    // A trainer that says its key by mistake.
    let said = json!({"reason": "JudgeRejected", "message": format!("401 for Bearer {PLANTED}")}).to_string();
    scene.node.end(&pod, Exit { code: 7, reason: "Error", message: &said }).await;
    scene.until_reason(PreferenceDataset, "r", Reason::JudgeRejected).await;
    let events = || scene.kubectl(&["get", "events", "-o", "json"]);
    until("the failure is an event", async || events().contains("JudgeRejected").then_some(())).await;
    let mut everything = operator.log() + &operator.get("/metrics").await.1;
    for kind in Kind::ALL {
        for object in scene.api(kind).list(&ListParams::default()).await.unwrap() {
            everything += &serde_json::to_string(&object).unwrap();
        }
    }
    let maps: Api<ConfigMap> = scene.namespace.api().await;
    everything += &serde_json::to_string(&maps.list(&ListParams::default()).await.unwrap().items).unwrap();
    everything += &serde_json::to_string(&scene.jobs().await).unwrap();
    everything += &events();
    assert!(everything.contains("keys"), "the Secret is named");
    assert!(!everything.contains(PLANTED), "its value is not");
}
