//! Those whom a run talks to are away for a while: the judge, and the operator. Talks to the cluster, and is a judge.

use std::collections::HashMap;
use std::time::Duration;

use plumbline_testkit::chain;
use plumbline_testkit::cluster::HOST;
use plumbline_testkit::judge_sim::{Config, JudgeSim};
use serde_json::{Value, json};

use crate::chain::{REPLIES, lasting, on_claim};
use crate::installation::{Installation, SYSTEM, lines, until};
use crate::monitoring;
use crate::node;

/// How long the judge is away.
const AWAY: Duration = Duration::from_mins(1);

/// A dataset whose judge is an endpoint on this machine, and likes long responses.
fn judged(name: &str, url: &str) -> Value {
    let judge = json!({
        "name": "sim", "endpoint": {"url": url, "model": "planted"}, "mode": "Pointwise",
        "template": "{{ prompt }}{{ response }} quality={{ response | length / 20 - 3 }}",
        // This many attempts outlast an absence of 150 s.
        "limits": {"concurrency": 4, "requestsPerMinute": 2400, "maxAttempts": 12},
    });
    on_claim(&chain::with(chain::dataset(name, &judge), &json!({"prompts": {"limit": 32}})))
}

fn judge(port: u16) -> JudgeSim {
    JudgeSim::start_on((HOST, port).into(), Config::default())
}

#[test]
fn a_judge_that_is_away_for_a_minute_is_waited_for_and_asked_nothing_twice() {
    let installed = node::shared();
    let present = judge(0);
    installed.apply(&[judged("judged", present.url())]);
    let (_, expected) = installed.until_ready("preferencedataset/judged");
    let questions: HashMap<String, usize> = present.bought();

    let before = present.answered();
    installed.apply(&[judged("forsaken", present.url())]);
    let in_the_middle = before + 40;
    until("some questions are answered", Duration::from_millis(5), || present.answered() >= in_the_middle);
    let port = present.address().port();
    let asked_first = present.bought();
    drop(present);
    std::thread::sleep(AWAY);
    let job = installed.status("preferencedataset/forsaken");
    assert_eq!(job.artifact, None, "it had ended before its judge went away");
    let back = judge(port);

    let (status, digest) = installed.until_ready("preferencedataset/forsaken");
    assert_eq!(digest, expected);
    let job = status.job.unwrap();
    assert_eq!((job.attempt, job.retries.len()), (1, 0), "the same pod has waited");
    let twice = questions.keys().filter(|q| {
        let times = asked_first.get(*q).unwrap_or(&0) - questions[*q] + back.bought().get(*q).unwrap_or(&0);
        times > 1
    });
    // Answers that were under way when it went are lost, and asked for again.
    assert!(twice.count() <= 4);
}

#[test]
fn an_operator_that_is_away_for_a_whole_run_is_missed_and_takes_its_result_when_it_is_back() {
    let installed = node::exclusive();
    let prometheus = monitoring::watch(&installed);
    prometheus.until("plumbline_leader == 1");
    let name = "unattended";
    let resource = format!("preferencedataset/{name}");
    installed.apply(&[lasting(name, 12)]);
    installed.until_run(&resource, "a question is answered", |run| lines(&run.join(REPLIES)) > 0);
    scale(&installed, 0);
    prometheus.until(r#"ALERTS{alertname="PlumblineNoLeader"}"#);
    let left = installed.status(&resource);
    let job = format!("job/{}", left.job.unwrap().name);
    installed.kubectl(&["wait", "--for=condition=Complete", &job, "--timeout=300s"]);
    let before = installed.get(&job);
    assert_eq!(installed.status(&resource).artifact, None, "nobody has written its status");

    // Longer than times are told apart by.
    std::thread::sleep(Duration::from_secs(2));
    scale(&installed, 1);
    let (status, _) = installed.until_ready(&resource);
    let seconds = |time: &Value| time.as_str().unwrap().to_owned();
    assert_eq!(status.completion_time, Some(seconds(&before["status"]["completionTime"])));
    assert!(left.start_time.is_some() && status.start_time == left.start_time, "it began when it did");
    let now = status.job.unwrap();
    assert_eq!((now.attempt, now.retries.len()), (1, 0));
    assert_eq!(installed.get(&job)["metadata"]["uid"], before["metadata"]["uid"]);
    let selector = format!("plumbline.dev/name={name}");
    let made = installed.kubectl(&["get", "jobs,pods", "-l", &selector, "-o", "name"]);
    assert_eq!(made.lines().count(), 2, "nothing was made twice: {made}");
}

fn scale(installed: &Installation, replicas: usize) {
    let replicas = format!("--replicas={replicas}");
    installed.cluster.kubectl(&["-n", SYSTEM, "scale", "deployment/plumbline", &replicas]);
    installed.cluster.kubectl(&["-n", SYSTEM, "rollout", "status", "deployment/plumbline", "--timeout=120s"]);
}
