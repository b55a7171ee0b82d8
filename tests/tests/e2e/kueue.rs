//! Runs in a queue of the real Kueue: they wait for quota, are preempted, and go on where they stopped.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use plumbline_crds::artifact;
use plumbline_crds::conditions::Reason;
use plumbline_crds::status::Status;
use plumbline_tests::cluster::NodeCluster;
use plumbline_tests::{chain, fixture};
use serde_json::{Value, json};

use super::installation::{Installation, TEAM};
use super::{STAGE, alone};

/// The queue of the team.
const QUEUE: &str = "alignment";
/// How long something may take that takes a second.
const PATIENCE: Duration = Duration::from_mins(2);

/// A queue with room for one run at a time, and a priority that comes before others.
fn queues() -> [Value; 4] {
    let api = "kueue.x-k8s.io/v1beta2";
    let quota = |name: &str, quota: &str| json!({"name": name, "nominalQuota": quota});
    let flavor = json!({"name": "any", "resources": [
        quota("cpu", "500m"), quota("memory", "1Gi"), quota("nvidia.com/gpu", "8")]});
    let resources = json!([{"coveredResources": ["cpu", "memory", "nvidia.com/gpu"], "flavors": [flavor]}]);
    let spec = json!({"namespaceSelector": {}, "resourceGroups": resources,
        "preemption": {"withinClusterQueue": "LowerPriority"}});
    [
        json!({"apiVersion": api, "kind": "ResourceFlavor", "metadata": {"name": "any"}}),
        json!({"apiVersion": api, "kind": "ClusterQueue", "metadata": {"name": QUEUE}, "spec": spec}),
        json!({"apiVersion": api, "kind": "LocalQueue", "metadata": {"name": QUEUE, "namespace": TEAM},
            "spec": {"clusterQueue": QUEUE}}),
        json!({"apiVersion": api, "kind": "WorkloadPriorityClass", "metadata": {"name": "urgent"}, "value": 1000}),
    ]
}

/// A run that takes the whole quota for as many epochs.
fn run(name: &str, epochs: usize) -> Value {
    let compute = json!({"queueName": QUEUE, "deadlineSeconds": 3600,
        "resources": {"requests": {"cpu": "400m", "memory": "512Mi"}}});
    let training = json!({"epochs": epochs, "checkpoint": {"everySteps": 20}});
    chain::with(
        chain::sft(name, "pvc://models/texts.jsonl"),
        &json!({
            "policyModel": {"uri": "pvc://models/tiny"}, "training": training, "compute": compute,
        }),
    )
}

/// What the tiny model learns by heart.
fn write_texts(models: &Path) {
    let pairs = fs::read_to_string(fixture::path("pairs.jsonl")).unwrap();
    let texts = pairs.lines().map(|line| {
        let pair: Value = serde_json::from_str(line).unwrap();
        format!(
            "{}\n",
            json!({"text": format!("{}{}", pair["prompt"].as_str().unwrap(), pair["chosen"].as_str().unwrap())})
        )
    });
    fs::write(models.join("texts.jsonl"), texts.collect::<String>()).unwrap();
}

#[test]
fn a_run_waits_for_quota_is_preempted_and_ends_as_if_it_had_not_been() {
    let _alone = alone();
    let started = Instant::now();
    let said = |what: &str| eprintln!("{:6.1} s  {what}", started.elapsed().as_secs_f64());
    let cluster = NodeCluster::start_in(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/node")));
    said("the node is ready");
    let installed = Installation::new(&cluster);
    write_texts(installed.models());
    said("the operator leads");
    cluster.install_kueue();
    cluster.apply(&queues());
    said("Kueue judges Jobs");

    installed.apply(&[run("first", 60)]);
    let work = installed.artifact(&format!("pvc://results/{TEAM}/policytunings/.first.work"));
    installed.until_step("policytuning/first", &work, 30);
    said("first is trained");

    installed.apply(&[run("second", 60)]);
    let waits = until(&installed, "second", "Kueue says why it waits", |status| {
        reason(status) == Reason::QuotaPending && message(status).contains("insufficient unused quota")
    });
    said(&format!("second waits: {}", message(&waits)));
    assert!(message(&waits).contains(QUEUE), "{}", message(&waits));
    assert!(pods(&installed, "second").is_empty(), "what waits holds nothing");

    let mut urgent = run("urgent", 4);
    urgent["metadata"]["labels"] = json!({"kueue.x-k8s.io/priority-class": "urgent"});
    installed.apply(&[urgent]);
    let preempted = until(&installed, "first", "it is preempted", |status| reason(status) == Reason::Preempted);
    said(&format!("first is preempted: {}", message(&preempted)));
    let stopped = until(&installed, "first", "its pod is gone", |_| pods(&installed, "first").is_empty());
    assert_eq!(reason(&stopped), Reason::Preempted, "{}", message(&stopped));
    installed.until_ready("policytuning/urgent", STAGE);
    said("urgent is ready");

    let first = installed.until_ready("policytuning/first", STAGE);
    said("first is ready, by a second pod");
    let job = first.job.clone().unwrap();
    assert_eq!(job.retries, BTreeMap::from([("Preempted".to_owned(), 1)]), "a preemption is no failure");
    assert_eq!(job.attempt, 2);
    let second = installed.until_ready("policytuning/second", STAGE);
    said("second is ready, undisturbed");
    assert_eq!(second.job.clone().unwrap().retries, BTreeMap::new());
    assert_eq!(files(&installed, &first), files(&installed, &second), "a preemption changes nothing of the result");
}

/// What a status says in a word.
fn reason(status: &Status) -> Reason {
    status.leading_reason()
}

/// And in a sentence.
fn message(status: &Status) -> String {
    status.conditions.first().map(|condition| condition.message.clone()).unwrap_or_default()
}

/// The status of a tuning once it is as expected.
fn until(installed: &Installation, name: &str, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = installed.status(&format!("policytuning/{name}"));
        if holds(&status) {
            return status;
        }
        if Instant::now() > deadline {
            installed.explain();
            panic!("never: {what}; {name} is {:?}: {}", reason(&status), message(&status));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The pods of a tuning that there are.
fn pods(installed: &Installation, name: &str) -> Vec<Value> {
    let pods = installed.get("pods")["items"].as_array().unwrap().clone();
    pods.into_iter().filter(|pod| pod["metadata"]["labels"]["plumbline.dev/name"] == name).collect()
}

/// The files that a model consists of, with their digests.
fn files(installed: &Installation, status: &Status) -> BTreeMap<String, String> {
    let manifest = artifact::verify(&installed.artifact(&status.artifact.as_ref().unwrap().uri)).unwrap();
    let of_model = |path: &str| path.ends_with(".safetensors") || path.ends_with("metrics.jsonl");
    manifest.files.into_iter().filter(|f| of_model(&f.path)).map(|f| (f.path, f.sha256)).collect()
}
