//! A release that is upgraded while a run is under way. Talks to the cluster and Helm.

use serde_json::json;

use crate::chain::{REPLIES, lasting};
use crate::installation::lines;
use crate::node;

#[test]
fn an_upgrade_replaces_the_operator_and_the_run_that_is_under_way_goes_on_untouched() {
    let installed = node::exclusive();
    let resource = "preferencedataset/upgraded";
    installed.apply(&[lasting("upgraded", 25)]);
    installed.until_run(resource, "a question is answered", |run| lines(&run.join(REPLIES)) > 0);
    let job = installed.status(resource).job.unwrap();
    let job = format!("job/{}", job.name);
    let (before, pod, operator) = (installed.get(&job), installed.pod("upgraded"), installed.operator());

    // What new Jobs would be made with, what is logged, and who may run.
    let other = json!({"stallTimeoutSeconds": 60, "jobTtlSeconds": 7200, "logLevel": "debug", "podSecurityContext": {"runAsUser": 7_654_321}});
    installed.release("upgrade", &other);
    let upgraded = installed.operator();
    assert_ne!(upgraded["metadata"]["uid"], operator["metadata"]["uid"]);
    assert_eq!(upgraded["spec"]["securityContext"]["runAsUser"], 7_654_321);
    assert_eq!(installed.status(resource).artifact, None, "it had ended before the upgrade was done");

    let (status, _) = installed.until_ready(resource);
    let now = status.job.unwrap();
    assert_eq!((now.attempt, now.retries.len()), (1, 0));
    let after = installed.get(&job);
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["spec"]["template"], before["spec"]["template"], "the Job that runs is not changed");
    assert_eq!(after["spec"]["ttlSecondsAfterFinished"], 7200, "what is done with it afterwards is");
    assert_eq!(installed.pod("upgraded"), pod);
    installed.helm(&["rollback"], &["--wait"]);
    assert_eq!(
        installed.operator()["spec"]["securityContext"]["runAsUser"],
        operator["spec"]["securityContext"]["runAsUser"]
    );
}
