//! The operator may do what it does, and nothing else: everything that it is ever refused, and every permission that it
//! never uses, is a fault of `cluster::rbac`.

use std::collections::BTreeSet;

use plumbline_crds::Kind::{self, PolicyTuning, PreferenceDataset, RewardModel};
use plumbline_crds::conditions::Reason;
use plumbline_operator::cluster::objects::AUDIENCE;
use plumbline_operator::cluster::rbac::{Rule, cluster_rules, own_rules, rules};
use plumbline_testkit::cluster::{AuditLine, Exit, until};
use plumbline_testkit::operator::{OPERATOR, Scene, alone, resource};
use serde_json::json;

/// `group resource verb`, of each permission that a request took: to apply what is not there yet takes two.
fn used(line: &AuditLine) -> Vec<String> {
    let object = &line.object_ref;
    let slash = if object.subresource.is_empty() { "" } else { "/" };
    let what = format!("{} {}{slash}{}", object.api_group, object.resource, object.subresource);
    let made = (line.verb == "patch" && line.response_status.code == 201).then_some("create");
    [line.verb.as_str()].into_iter().chain(made).map(|verb| format!("{what} {verb}")).collect()
}

fn granted(rules: &[Rule]) -> BTreeSet<String> {
    let of = |rule: &Rule| -> Vec<String> {
        let verbs = |resource: &String| {
            rule.verbs.iter().map(|verb| format!("{} {resource} {verb}", rule.group)).collect::<Vec<_>>()
        };
        rule.resources.iter().flat_map(verbs).collect()
    };
    rules.iter().flat_map(of).collect()
}

#[tokio::test]
async fn the_operator_is_refused_nothing_and_granted_nothing_that_it_does_not_use() {
    let scene = Scene::new("rights").await;
    let mut operator = scene.operator().await;
    for kind in [PolicyTuning, RewardModel, PreferenceDataset] {
        let prompts = json!({"prompts": {"configMapRef": {"name": "prompts", "key": "p.txt"}}});
        let change = if kind == RewardModel { json!({}) } else { prompts };
        scene.apply(&resource(kind, "r", &change)).await;
    }
    scene.kubectl(&["create", "configmap", "prompts", "--from-literal=p.txt=a"]);
    for (kind, digest) in [(PreferenceDataset, "sha256:d"), (RewardModel, "sha256:r"), (PolicyTuning, "sha256:p")] {
        scene.succeed(kind, "r", digest).await;
        scene.until_reason(kind, "r", Reason::Completed).await;
    }
    let mut several = alone(RewardModel);
    several["compute"] = json!({"nodes": 2});
    scene.apply(&resource(RewardModel, "several", &several)).await;
    scene.until_reason(RewardModel, "several", Reason::Running).await;
    // Made anew, with progress on the way, suspended twice, and failed: what is deleted, told and repeated.
    scene.change(RewardModel, "r", json!({"output": {"uri": "pvc://results/other"}})).await;
    for _ in 0..2 {
        let pod = scene.pod(RewardModel, "r").await;
        scene.node.run(&pod).await;
        scene.until_reason(RewardModel, "r", Reason::Running).await;
        scene.change(RewardModel, "r", json!({"suspend": true})).await;
        scene.until_reason(RewardModel, "r", Reason::Suspended).await;
        scene.let_end(&pod).await;
        scene.change(RewardModel, "r", json!({"suspend": false})).await;
    }
    let pod = scene.pod(RewardModel, "r").await;
    scene.node.run(&pod).await;
    let url = format!("http://{}/v1/progress", operator.address("progress").await);
    let token = scene.namespace.pod_token(&pod, AUDIENCE).await;
    let report = json!({"progress": {"stage": "Training", "completed": 3, "total": 10, "percent": 30, "lastUpdateTime": "2026-01-01T00:00:00Z"}});
    let answer = reqwest::Client::new().post(url).bearer_auth(token).json(&report).send().await.unwrap();
    assert_eq!(answer.status(), 202);
    until("the progress is in the status", async || {
        scene.status(RewardModel, "r").await.progress.filter(|p| p.percent == 30)
    })
    .await;
    scene.node.end(&pod, Exit { code: 3, reason: "Error", message: "" }).await;
    scene.until_reason(RewardModel, "r", Reason::DataInvalid).await;
    scene.kubectl(&["create", "quota", "none", "--hard=pods=0"]);
    scene.apply(&resource(PreferenceDataset, "refused", &json!({}))).await;
    scene.until_reason(PreferenceDataset, "refused", Reason::ChildCreationFailed).await;
    scene.delete(PreferenceDataset, "r").await;

    let name = format!("system:serviceaccount:{}:{OPERATOR}", scene.namespace.name());
    let all: BTreeSet<String> = granted(&[rules(), cluster_rules(), own_rules()].concat());
    let unused = || {
        let mut lines = scene.namespace.audit();
        lines.retain(|l| l.user.username == name);
        let refused: Vec<String> =
            lines.iter().filter(|l| l.response_status.code == 403).flat_map(|l| used(l)).collect();
        assert!(refused.is_empty(), "refused: {refused:?}");
        let used: BTreeSet<String> = lines.iter().flat_map(|l| used(l)).collect();
        let unused: Vec<String> = all.difference(&used).cloned().collect();
        if !unused.is_empty() {
            eprintln!("not used yet: {unused:?}");
        }
        unused
    };
    let is_watch = |permission: &String| permission.ends_with(" watch");
    until("everything granted but watches was used", async || unused().iter().all(is_watch).then_some(())).await;
    assert!(operator.stop().success());
    // A watch is written down when it has ended.
    until("everything granted was used", async || unused().is_empty().then_some(())).await;
    // A second watch of a kind would be a sign of life of a controller whose own has ended.
    let lines = scene.namespace.audit();
    for kind in Kind::ALL {
        let is_watch = |l: &AuditLine| l.verb == "watch" && l.object_ref.resource == kind.plural();
        let watches = lines.iter().filter(|l| l.user.username == name && is_watch(l)).count();
        assert_eq!(watches, 1, "watches of {kind}");
    }
}
