//! Every status that the API server serves of a resource, read by the tools that deploy it: none takes it for done before it
//! is, none waits when there is nothing to wait for, and all of them say the same.

use std::fs;

use kube::api::DeleteParams;
use plumbline_crds::Kind::{self, PolicyTuning, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::ConditionType::Outdated;
use plumbline_crds::conditions::Reason;
use plumbline_testkit::cluster::{Exit, until};
use plumbline_testkit::gitops::{ARGO_HEALTH, Record, Verdict, judge, verdicts, wrong};
use plumbline_testkit::operator::{Scene, resource};
use serde_json::{Value, json};

const ARGO_CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/gitops/argocd/argocd-cm.yaml");

/// A reward model that waits for nothing.
fn reward(name: &str, change: &Value) -> Value {
    let mut spec = json!({"datasetRef": null, "dataset": {"uri": "pvc://models/pairs.jsonl"}});
    for (key, value) in change.as_object().unwrap() {
        spec[key] = value.clone();
    }
    resource(RewardModel, name, &spec)
}

/// The verdicts on one resource, in order, without repeats.
fn story(objects: &[Value], kind: Kind, name: &str) -> Vec<Verdict> {
    let of = |o: &&Value| o["kind"] == kind.to_string() && o["metadata"]["name"] == name;
    let objects: Vec<Value> = objects.iter().filter(of).cloned().collect();
    let mut story = verdicts(&objects);
    story.dedup();
    story
}

fn is_condition(object: &Value, kind: &str, status: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["status"] == status))
}

#[tokio::test]
async fn a_chain_and_a_change_of_it_are_awaited_to_the_end() {
    let scene = Scene::new("gitops-chain").await;
    let record = Record::start(&scene).await;
    for kind in [PolicyTuning, RewardModel, PreferenceDataset] {
        scene.apply(&resource(kind, "r", &json!({}))).await;
    }
    until("all three are served before an operator sees them", async || (record.objects().len() == 3).then_some(()))
        .await;
    for object in record.objects() {
        assert_eq!(object["status"], json!({"observedGeneration": -1}), "without it kstatus would say Current");
    }
    let mut operator = scene.operator().await;
    for (kind, digest) in [(PreferenceDataset, "sha256:d"), (RewardModel, "sha256:r"), (PolicyTuning, "sha256:p")] {
        scene.succeed(kind, "r", digest).await;
        scene.until_reason(kind, "r", Reason::Completed).await;
    }
    // While nobody is there to see it, the old status stands beside the new spec.
    operator.kill();
    scene.change(RewardModel, "r", json!({"output": {"uri": "pvc://results/other"}})).await;
    let _operator = scene.operator().await;
    scene.succeed(RewardModel, "r", "sha256:r2").await;
    scene.until_reason(RewardModel, "r", Reason::Completed).await;
    until("the policy is outdated", async || scene.status(PolicyTuning, "r").await.is_true(Outdated).then_some(()))
        .await;

    let objects = record.finish(&scene).await;
    let counts = judge(&objects);
    println!("{} statuses: {counts:?}", objects.len());
    let (waits, done) = (Verdict::in_progress(), Verdict::current());
    assert_eq!(story(&objects, PreferenceDataset, "r"), [waits.clone(), done.clone()]);
    assert_eq!(story(&objects, RewardModel, "r"), [waits.clone(), done.clone(), waits.clone(), done.clone()]);
    assert_eq!(story(&objects, PolicyTuning, "r"), [waits, done], "outdated is not undone");
    let behind = |o: &&Value| o["metadata"]["generation"] == 2 && o["status"]["observedGeneration"] == 1;
    let behind: Vec<Value> = objects.iter().filter(behind).cloned().collect();
    assert!(!behind.is_empty() && behind.iter().all(|o| is_condition(o, "Ready", "True")), "{behind:#?}");
    assert!(
        verdicts(&behind).iter().all(|v| *v == Verdict::in_progress()),
        "a Ready of the spec before counts for nothing"
    );
}

#[tokio::test]
async fn a_suspension_is_no_end_and_a_deletion_no_success() {
    let scene = Scene::new("gitops-suspend").await;
    let record = Record::start(&scene).await;
    let _operator = scene.operator().await;
    scene.apply(&reward("r", &json!({}))).await;
    let pod = scene.pod(RewardModel, "r").await;
    scene.node.run(&pod).await;
    scene.until_reason(RewardModel, "r", Reason::Running).await;
    let job = scene.job(RewardModel, "r").await;
    scene.change(RewardModel, "r", json!({"suspend": true})).await;
    scene.until_reason(RewardModel, "r", Reason::Suspended).await;
    scene.let_end(&pod).await;
    scene.until_gone(&job).await;
    scene.change(RewardModel, "r", json!({"suspend": false})).await;
    scene.until_reason(RewardModel, "r", Reason::Running).await;
    // Somebody else can suspend the Job as well.
    let job = scene.job(RewardModel, "r").await;
    scene.kubectl(&["patch", "job", &job, "--type=merge", "-p", r#"{"spec":{"suspend":true}}"#]);
    scene.until_reason(RewardModel, "r", Reason::Suspended).await;
    scene.kubectl(&["patch", "job", &job, "--type=merge", "-p", r#"{"spec":{"suspend":false}}"#]);
    scene.until_reason(RewardModel, "r", Reason::Running).await;
    scene.succeed(RewardModel, "r", "sha256:r").await;
    scene.until_reason(RewardModel, "r", Reason::Completed).await;
    // In the foreground it stays, still Ready, until what it owns is gone.
    scene.api(RewardModel).delete("r", &DeleteParams::foreground()).await.unwrap();
    until("r is gone", async || scene.api(RewardModel).get_opt("r").await.unwrap().is_none().then_some(())).await;

    let objects = record.finish(&scene).await;
    println!("{} statuses: {:?}", objects.len(), judge(&objects));
    let (waits, held) = (Verdict::in_progress(), Verdict::suspended());
    let expected =
        [waits.clone(), held.clone(), waits.clone(), held, waits, Verdict::current(), Verdict::terminating()];
    assert_eq!(story(&objects, RewardModel, "r"), expected);
}

#[tokio::test]
async fn a_failure_is_known_at_once_and_forgotten_with_the_spec_that_failed() {
    let scene = Scene::new("gitops-fail").await;
    let record = Record::start(&scene).await;
    let _operator = scene.operator().await;
    let once = json!({"compute": {"maxRetries": 1}});
    scene.apply(&reward("r", &once)).await;
    for _ in 0..2 {
        let pod = scene.pod(RewardModel, "r").await;
        scene.node.run(&pod).await;
        scene.node.end(&pod, Exit { code: 4, reason: "Error", message: "" }).await;
    }
    scene.until_reason(RewardModel, "r", Reason::JudgeUnavailable).await;
    scene.change(RewardModel, "r", json!({"output": {"uri": "pvc://results/other"}})).await;
    scene.succeed(RewardModel, "r", "sha256:r").await;
    scene.until_reason(RewardModel, "r", Reason::Completed).await;

    scene.apply(&reward("invalid", &json!({"baseModel": {"uri": "s3://bucket"}}))).await;
    scene.until_reason(RewardModel, "invalid", Reason::SpecInvalid).await;
    scene.apply(&resource(RewardModel, "waits", &json!({"datasetRef": {"name": "nobody"}}))).await;
    scene.until_reason(RewardModel, "waits", Reason::ReferenceNotFound).await;

    let objects = record.finish(&scene).await;
    println!("{} statuses: {:?}", objects.len(), judge(&objects));
    let (waits, failed) = (Verdict::in_progress(), Verdict::failed());
    let expected = [waits.clone(), failed.clone(), waits.clone(), Verdict::current()];
    assert_eq!(story(&objects, RewardModel, "r"), expected, "a retry is no failure");
    assert_eq!(story(&objects, RewardModel, "invalid"), [waits.clone(), failed]);
    assert_eq!(story(&objects, RewardModel, "waits"), [waits], "what is missing may come");
}

/// A resource of generation 2 with these conditions, each (type, status, reason, observedGeneration).
fn object(conditions: &[(&str, &str, &str, i64)]) -> Value {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(kind, status, reason, generation)| {
            json!({"type": kind, "status": status, "reason": reason, "message": "", "observedGeneration": generation})
        })
        .collect();
    json!({
        "apiVersion": plumbline_crds::API_VERSION, "kind": "RewardModel", "metadata": {"name": "r", "generation": 2},
        "status": {"observedGeneration": 2, "conditions": conditions},
    })
}

#[test]
fn a_status_that_lies_is_found_out() {
    let done = [("Ready", "True", "Completed", 2), ("Succeeded", "True", "Completed", 2)];
    let failed = [("Ready", "False", "DataInvalid", 2), ("Succeeded", "False", "DataInvalid", 2)];
    let reconciling = ("Reconciling", "True", "Running", 2);
    let stalled = ("Stalled", "True", "DataInvalid", 2);
    let truths = [
        (object(&done), Verdict::current()),
        (object(&[failed[0], failed[1], stalled]), Verdict::failed()),
        (object(&[failed[0], done[1], stalled]), Verdict::failed()),
        (object(&[("Ready", "False", "Running", 2), reconciling]), Verdict::in_progress()),
        (object(&[("Ready", "False", "Suspended", 2)]), Verdict::suspended()),
    ];
    let objects: Vec<Value> = truths.iter().map(|(object, _)| object.clone()).collect();
    for ((object, expected), found) in truths.iter().zip(verdicts(&objects)) {
        assert_eq!((&found, wrong(object, &found)), (expected, vec![]), "{object}");
    }

    let mut unseen = object(&[]);
    unseen["status"] = json!({});
    let lies = [
        ("Ready of an older generation", object(&[("Ready", "True", "Completed", 1), done[1]])),
        ("Ready of an older generation, and nothing else", object(&[("Ready", "True", "Completed", 1)])),
        ("still Reconciling after it succeeded", object(&[done[0], done[1], reconciling])),
        ("still Reconciling after it failed", object(&[failed[0], failed[1], reconciling, stalled])),
        ("failed, but not Stalled", object(&failed)),
        ("Ready, but its success is not known", object(&[done[0], ("Succeeded", "Unknown", "Running", 2)])),
        ("Ready and Stalled", object(&[done[0], done[1], stalled])),
        ("no observedGeneration", unseen),
    ];
    let objects: Vec<Value> = lies.iter().map(|(_, object)| object.clone()).collect();
    for ((lie, object), found) in lies.iter().zip(verdicts(&objects)) {
        assert!(!wrong(object, &found).is_empty(), "nobody noticed: {lie}: {found:?}");
    }
    let verdicts = verdicts(&objects);
    assert_eq!(
        verdicts[0],
        Verdict { kstatus: "Current".into(), ..Verdict::in_progress() },
        "kstatus alone believes it"
    );
    assert_eq!(verdicts[2], Verdict::in_progress(), "all three would wait for ever");
}

#[test]
#[should_panic(expected = "1 of 1 statuses are read wrongly")]
fn a_lie_ends_a_test() {
    judge(&[object(&[("Ready", "True", "Completed", 1)])]);
}

#[tokio::test]
async fn the_patch_gives_argo_cd_the_script_for_every_kind_and_takes_nothing_away() {
    let scene = Scene::new("gitops-argocd").await;
    scene.kubectl(&["create", "configmap", "argocd-cm", "--from-literal=url=https://argocd.example.com"]);
    scene.kubectl(&["patch", "configmap", "argocd-cm", "--patch-file", ARGO_CONFIG]);
    let text = scene.kubectl(&["get", "configmap", "argocd-cm", "-o", "json"]);
    let config: Value = serde_json::from_str(&text).unwrap();
    let script = fs::read_to_string(ARGO_HEALTH).unwrap();
    for kind in Kind::ALL {
        let key = format!("resource.customizations.health.plumbline.dev_{kind}");
        assert_eq!(config["data"][&key], json!(script), "{key}");
    }
    assert_eq!(config["data"]["url"], "https://argocd.example.com");
    assert_eq!(config["data"].as_object().unwrap().len(), Kind::ALL.len() + 1);
}
