//! Runs in a queue of the real Kueue, on a node of their own: they wait for quota, are preempted, and go on where they stopped.
//! Talks to the cluster and files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use plumbline_crds::conditions::{ConditionType, Reason};
use plumbline_crds::status::Status;
use plumbline_testkit::cluster::NodeCluster;
use plumbline_testkit::{chain, fixture};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::installation::{Installation, TEAM, lines, until};
use crate::node;

/// The queue of the example.
const QUEUE: &str = "alignment";
/// Room for one run.
const ROOM: [(&str, &str); 3] = [("cpu", "2"), ("memory", "2Gi"), ("nvidia.com/gpu", "1")];
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
/// Seconds that a run may take.
const DEADLINE: i64 = 3600;

/// The queues of the example, with room for one run at a time.
fn queues() -> Vec<Value> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/kueue/queues.yaml")).unwrap();
    let documents = serde_yaml::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    let mut queues: Vec<Value> = documents.collect();
    for queue in &mut queues {
        if queue["kind"] == "LocalQueue" {
            queue["metadata"]["namespace"] = json!(TEAM);
        }
        let quotas = queue.pointer_mut("/spec/resourceGroups/0/flavors/0/resources").and_then(Value::as_array_mut);
        for quota in quotas.into_iter().flatten() {
            quota["nominalQuota"] = json!(ROOM.iter().find(|(name, _)| *name == quota["name"]).unwrap().1);
        }
    }
    queues
}

/// A run that holds the one accelerator of the quota for as many epochs. There is none: it computes on the processor.
fn run(name: &str, epochs: usize) -> Value {
    let compute = json!({"queueName": QUEUE, "deadlineSeconds": DEADLINE, "accelerators": 1,
        "env": [{"name": "PLUMBLINE_DEVICE", "value": "cpu"}],
        "resources": {"requests": {"cpu": "400m", "memory": "512Mi"}}});
    let training = json!({"epochs": epochs, "checkpoint": {"everySteps": 20}});
    let changes = json!({"policyModel": {"uri": "pvc://models/tiny"}, "training": training, "compute": compute});
    chain::with(chain::sft(name, "pvc://models/texts.jsonl"), &changes)
}

/// What the tiny model learns by heart.
fn write_texts(installed: &Installation) {
    let pairs = fs::read_to_string(fixture::path("pairs.jsonl")).unwrap();
    let text = |pair: Value| format!("{}{}", pair["prompt"].as_str().unwrap(), pair["chosen"].as_str().unwrap());
    let line = |pair: &str| format!("{}\n", json!({"text": text(serde_json::from_str(pair).unwrap())}));
    fs::write(installed.model("texts.jsonl"), pairs.lines().map(line).collect::<String>()).unwrap();
}

#[test]
fn a_run_waits_for_quota_is_preempted_and_ends_as_if_it_had_not_been() {
    let _none = node::none();
    let started = Instant::now();
    let said = |what: &str| eprintln!("{:6.1} s  {what}", started.elapsed().as_secs_f64());
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/node"));
    let installed = Installation::new(NodeCluster::start_in(folder));
    write_texts(&installed);
    said("Plumbline is installed, and told that there is Kueue, which there is not yet");
    installed.release("upgrade", &json!({"kueue": {"enabled": true}}));
    installed.cluster.install_kueue();
    installed.cluster.apply(&queues());
    said("Kueue judges Jobs");

    installed.apply(&[run("first", 60)]);
    trained(&installed, "first", 30);
    let running = installed.status("policytuning/first");
    assert_eq!(reason(&running), Reason::Running, "{}", message(&running));
    let job = installed.get(&format!("job/{}", running.job.unwrap().name));
    assert_eq!(job["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/os"], "linux", "what Kueue adds stays");
    said("first is trained");

    installed.apply(&[run("second", 60)]);
    let waits = once(&installed, "second", "Kueue says why it waits", |status| {
        reason(status) == Reason::QuotaPending
            && message(status).contains("insufficient unused quota for nvidia.com/gpu")
    });
    said(&format!("second: {:?}: {}", reason(&waits), message(&waits)));
    assert!(message(&waits).contains(QUEUE), "{}", message(&waits));
    assert_eq!(pods(&installed, "second"), Vec::<String>::new(), "what waits holds nothing");
    assert_eq!((waits.accelerator_seconds.unwrap_or(0), waits.job.unwrap().active_seconds), (0, 0));

    let mut urgent = run("urgent", 4);
    urgent["metadata"]["labels"] = json!({"kueue.x-k8s.io/priority-class": "urgent"});
    let lost = pods(&installed, "first");
    installed.apply(&[urgent]);
    let preempted = once(&installed, "first", "it is preempted", |status| reason(status) == Reason::Preempted);
    said(&format!("first: {:?}: {}", reason(&preempted), message(&preempted)));
    assert!(message(&preempted).contains("due to prioritization in the ClusterQueue"), "{}", message(&preempted));
    until("the pod of first is gone", PAUSE, || pods(&installed, "first").is_empty());
    assert!(!preempted.is_true(ConditionType::Stalled), "it has not failed");
    let held = installed.status("policytuning/first").accelerator_seconds.unwrap();
    let (urgent, _) = installed.until_ready("policytuning/urgent");
    said("urgent is ready");
    let waits = once(&installed, "first", "it runs again", |status| reason(status) == Reason::Running);
    said(&format!(
        "first has held its accelerator for {held} s, and {:?} s when it went on",
        waits.accelerator_seconds
    ));
    // Since urgent has ended it may have run again.
    let again = jiff::Timestamp::now().as_second() - seconds(urgent.completion_time.as_ref());
    let counted = waits.accelerator_seconds.unwrap();
    assert!(held > 0 && counted <= held + again + 1, "what waits holds nothing: {counted} s, {again} s of them again");

    let (first, digest) = installed.until_ready("policytuning/first");
    said("first is ready, by a second pod");
    let job = first.job.unwrap();
    assert_eq!((job.attempt, job.retries), (2, BTreeMap::from([("Preempted".to_owned(), 1)])));
    assert_ne!(pods(&installed, "first"), lost);
    // The clock of the deadline stood still while it waited, and did not begin anew.
    let waited = seconds(urgent.completion_time.as_ref()) - seconds(urgent.start_time.as_ref());
    let took = seconds(first.completion_time.as_ref()) - seconds(first.start_time.as_ref());
    let counted = [job.active_seconds, first.accelerator_seconds.unwrap()];
    said(&format!("first: {counted:?} s of {took} s, {waited} s of which it did not have the accelerator"));
    for seconds in counted {
        assert!((took - waited - 6..=took - waited + 2).contains(&seconds), "{seconds} s of {took} s, {waited} s idle");
    }
    let spec = &installed.get(&format!("job/{}", job.name))["spec"];
    let left = spec["activeDeadlineSeconds"].as_i64().unwrap();
    assert!((DEADLINE - job.active_seconds..DEADLINE).contains(&left), "{left} s after {} s", job.active_seconds);

    let (second, _) = installed.until_ready("policytuning/second");
    said("second is ready, undisturbed");
    let job = second.job.unwrap();
    assert_eq!((job.attempt, job.retries), (1, BTreeMap::new()));

    installed.begin_again("policytuning/first", &run("first", 60));
    let (_, undisturbed) = installed.until_ready("policytuning/first");
    said("first is ready once more, undisturbed");
    assert_eq!(digest, undisturbed, "a preemption changes nothing of the result");
}

/// Waits until a tuning has so many steps, and has not ended.
fn trained(installed: &Installation, name: &str, steps: usize) {
    installed.until_run(&format!("policytuning/{name}"), "it is trained", |run| {
        assert!(!run.join("result.json").exists(), "{name} has ended before it could be preempted");
        lines(&run.join("metrics.jsonl")) >= steps
    });
}

/// What a status says in a word.
fn reason(status: &Status) -> Reason {
    status.leading_reason()
}

/// And in a sentence.
fn message(status: &Status) -> String {
    status.condition(ConditionType::Ready).map(|condition| condition.message.clone()).unwrap_or_default()
}

/// The status of a tuning once it is as expected.
fn once(installed: &Installation, name: &str, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
    let mut status = Status::default();
    until(&format!("{name}: {what}"), PAUSE, || {
        status = installed.status(&format!("policytuning/{name}"));
        holds(&status)
    });
    status
}

/// The pods of a tuning that there are.
fn pods(installed: &Installation, name: &str) -> Vec<String> {
    let selector = format!("plumbline.dev/name={name}");
    let names = installed.kubectl(&["get", "pods", "-l", &selector, "-o", "jsonpath={.items[*].metadata.name}"]);
    names.split_whitespace().map(str::to_owned).collect()
}

fn seconds(time: Option<&String>) -> i64 {
    time.unwrap().parse::<jiff::Timestamp>().unwrap().as_second()
}
