//! What a Job and its pods must be taken for.

use super::*;
use crate::cluster::objects::KIND_LABEL;
use crate::cluster::usage::count_usage;
use crate::plan::retry;
use serde_json::{Value, json};

pub(in crate::cluster) const NOW: &str = "2026-01-01T01:00:00Z";

pub(in crate::cluster) fn job(status: &Value) -> Job {
    serde_json::from_value(json!({
        "metadata": {"name": "r-reward-1-2", "uid": "u"}, "status": status,
        "spec": {"template": {}, "activeDeadlineSeconds": 60},
    }))
    .unwrap()
}

pub(in crate::cluster) fn failed_job(reason: &str) -> Job {
    job(&json!({"startTime": "2026-01-01T00:00:00Z", "conditions": [
        {"type": "Failed", "status": "True", "reason": reason, "lastTransitionTime": "2026-01-01T00:10:00Z"}]}))
}

pub(in crate::cluster) fn pod(status: &Value) -> Pod {
    let annotations = json!({"plumbline.dev/accelerators": "2"});
    serde_json::from_value(json!({"metadata": {"name": "p", "annotations": annotations}, "status": status})).unwrap()
}

pub(in crate::cluster) fn ended(code: i32, reason: &str, message: &Value, at: &str) -> Pod {
    let terminated = json!({"exitCode": code, "reason": reason, "message": message, "finishedAt": at});
    pod(&json!({"phase": if code == 0 { "Succeeded" } else { "Failed" }, "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [{"name": "trainer", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": terminated}}]}))
}

pub(in crate::cluster) fn failed(code: i32, reason: &str) -> Pod {
    ended(code, reason, &json!(null), "2026-01-01T00:10:00Z")
}

fn end(run: Run) -> End {
    let Run::Ended(end) = run else { panic!("{run:?}") };
    *end
}

#[test]
fn a_complete_job_gives_what_its_trainer_left_to_say() {
    let said = json!({"reason": "Completed", "message": "done", "evaluation": {"accuracy": "0.7"}}).to_string();
    let complete = job(&json!({"conditions": [{"type": "Complete", "status": "True"}]}));
    let end = end(run(&complete, &[failed(1, "Error"), ended(0, "Completed", &json!(said), NOW)], None));
    assert_eq!((end.exit, end.last), (Exit::Code(0), true));
    assert_eq!(end.result.unwrap().evaluation["accuracy"], "0.7");
}

#[test]
fn a_container_that_was_killed_for_its_memory_is_named_with_its_limit() {
    let mut killed = failed(137, "OOMKilled");
    killed.spec = serde_json::from_value(json!({"containers": [
        {"name": "other", "resources": {"limits": {"memory": "1Gi"}}},
        {"name": "trainer", "resources": {"limits": {"memory": "16Gi", "cpu": "2"}}}]}))
    .unwrap();
    let (reason, message, _) = why_failed(&killed);
    assert_eq!(reason, Reason::OutOfMemory);
    assert!(
        message.starts_with("the container trainer exceeded its memory limit of 16Gi (exit code 137); "),
        "{message}"
    );
    let message = why_failed(&failed(137, "OOMKilled")).1;
    assert!(message.contains("no memory limit of its own"), "{message}");
}

#[test]
fn a_complete_job_whose_pod_is_gone_is_begun_again_and_has_not_failed() {
    let complete = job(&json!({"conditions": [{"type": "Complete", "status": "True"}]}));
    let end = end(run(&complete, &[failed(1, "Error")], None));
    assert!(end.is_interruption() && !end.last, "{end:?}");
    assert_eq!(end.result.unwrap().artifact, None);
}

#[test]
fn a_container_that_was_lost_with_its_node_has_not_failed() {
    for (code, reason) in [(255, "Unknown"), (255, "Error"), (137, "ContainerStatusUnknown")] {
        let (why, message, _) = why_failed(&failed(code, reason));
        assert_eq!(why, Reason::NodeDisruption, "{message}");
        assert!(message.contains(&format!("exit code {code}")), "{message}");
    }
    assert!(why_failed(&failed(139, "Error")).1.contains("signal 11"));
}

#[test]
fn what_a_lost_container_left_to_say_is_shown_without_its_keys() {
    const KEY: &str = "sk-planted-0123456789abcdef";
    let left = json!({"reason": "JudgeRejected", "message": format!("401 for {KEY}")}).to_string();
    for message in [left, format!("401 for {KEY}")] {
        let (why, said, _) = why_failed(&ended(255, "Unknown", &json!(message), NOW));
        assert_eq!(
            (why, said.as_str()),
            (Reason::NodeDisruption, "the container was lost with its node: 401 for [redacted]")
        );
    }
}

#[test]
fn a_job_that_took_a_lost_container_for_a_failure_has_not_used_up_its_retries() {
    let gave_up = failed_job("BackoffLimitExceeded");
    let (lost, killed) = (failed(137, "ContainerStatusUnknown"), failed(137, "OOMKilled"));
    let after = |pods: &[Pod]| {
        let end = end(run(&gave_up, pods, None));
        let job = retry::count_end(&count_usage(&gave_up, pods, None, NOW), &end);
        (end.last, end.is_interruption(), job.retries.values().sum::<i64>(), retry::failures(&job), job.attempt)
    };
    assert_eq!(after(std::slice::from_ref(&lost)), (false, true, 1, 0, 1));
    let mut later = killed.clone();
    later.metadata.creation_timestamp = serde_json::from_value(json!(NOW)).unwrap();
    assert_eq!(after(&[lost, later]), (false, false, 2, 1, 2), "each once");
    assert!(end(run(&gave_up, &[killed], None)).last);
}

#[test]
fn each_way_to_fail_has_its_reason() {
    let disrupted = pod(&json!({"phase": "Failed", "conditions": [
        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "preempted"}]}));
    let said = json!({"reason": "GateFailed", "message": "accuracy 0.4 is below 0.7"}).to_string();
    let cases = vec![
        (failed_job("PodFailurePolicy"), failed(2, "Error"), Reason::TrainerConfigRejected, "exit code 2"),
        (failed_job("PodFailurePolicy"), ended(9, "Error", &json!(said), NOW), Reason::GateFailed, "below 0.7"),
        (failed_job("BackoffLimitExceeded"), failed(137, "OOMKilled"), Reason::OutOfMemory, "memory"),
        (failed_job("BackoffLimitExceeded"), failed(137, "Error"), Reason::OutOfMemory, "was killed (exit code 137)"),
        (failed_job("BackoffLimitExceeded"), failed(139, "Error"), Reason::TrainerFailed, "signal 11"),
        (failed_job("BackoffLimitExceeded"), failed(4, "Error"), Reason::JudgeUnavailable, "exit code 4"),
        (failed_job("DeadlineExceeded"), failed(143, "Error"), Reason::DeadlineExceeded, "60 s"),
        (failed_job("BackoffLimitExceeded"), disrupted, Reason::NodeDisruption, "preempted"),
    ];
    for (job, pod, reason, words) in cases {
        let end = end(run(&job, &[pod], None));
        let (found, message) = end.explain();
        assert_eq!(found, reason, "{message}");
        assert!(message.contains(words) && end.last, "{message}");
    }
}

#[test]
fn a_failure_without_pods_still_says_what_the_job_says() {
    let end = end(run(&failed_job("BackoffLimitExceeded"), &[], None));
    assert!(end.explain().1.contains("BackoffLimitExceeded"), "{:?}", end.explain());
}

#[test]
fn what_keeps_a_run_from_running_is_named_with_what_to_do() {
    let waiting = |reason: &str, message: &str| {
        pod(&json!({"phase": "Pending", "containerStatuses": [{"name": "trainer", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason, "message": message}}}]}))
    };
    let unschedulable = pod(&json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."}]}));
    let cases = [
        (waiting("ImagePullBackOff", "no such image"), Reason::ImagePullFailed, "no such image"),
        (
            waiting("CreateContainerConfigError", "secret \"judge\" not found"),
            Reason::ConfigInvalid,
            "secret \"judge\" not found; create the Secret, ConfigMap or key",
        ),
        (
            waiting("RunContainerError", "exec: no such file"),
            Reason::ConfigInvalid,
            "the container trainer cannot start: exec: no such file; see its log and spec.compute.image",
        ),
        (unschedulable, Reason::Unschedulable, "nvidia.com/gpu"),
        (failed(1, "Error"), Reason::Retrying, "exit code 1"),
    ];
    for (pod, reason, words) in cases {
        let Run::Running(Some(obstacle)) = run(&job(&json!({})), &[pod], None) else { panic!("{reason:?}") };
        assert_eq!(obstacle.reason, reason);
        assert!(obstacle.message.contains(words), "{}", obstacle.message);
    }
    let starting = waiting("ContainerCreating", "");
    assert_eq!(
        run(&job(&json!({})), &[starting], None),
        Run::Running(None),
        "a pod that is being started is no obstacle"
    );
}

#[test]
fn a_container_that_ends_again_and_again_is_named_by_how_it_ended_last() {
    let crashing = |name: &str, code: i32, reason: &str| {
        let mut pod =
            pod(&json!({"phase": "Pending", "initContainerStatuses": [{"name": name, "image": "", "imageID": "",
            "ready": false, "restartCount": 5, "lastState": {"terminated": {"exitCode": code, "reason": reason}},
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}}]}));
        pod.spec = serde_json::from_value(json!({"containers": [{"name": "trainer"}],
            "initContainers": [{"name": name, "resources": {"limits": {"memory": "16Gi"}}}]}))
        .unwrap();
        let Run::Running(Some(obstacle)) = run(&job(&json!({})), &[pod], None) else { panic!("{name}") };
        (obstacle.reason, obstacle.message)
    };
    let (reason, message) = crashing("judge-1", 137, "OOMKilled");
    assert_eq!(reason, Reason::OutOfMemory);
    assert!(
        message.starts_with("the container judge-1 exceeded its memory limit of 16Gi (exit code 137); "),
        "{message}"
    );
    for (name, expected) in [("judge-0", Reason::JudgeUnavailable), ("istio-proxy", Reason::TrainerFailed)] {
        let (reason, message) = crashing(name, 3, "Error");
        let words = format!("the container {name} ends again and again with exit code 3: back-off 5m0s; see its log");
        assert_eq!((reason, message), (expected, words));
    }
}

#[test]
fn a_queued_job_waits_for_quota() {
    let mut job = job(&json!({}));
    job.spec.as_mut().unwrap().suspend = Some(true);
    let obstacle = |job: &Job| match run(job, &[], None) {
        Run::Running(Some(obstacle)) => obstacle,
        other => panic!("{other:?}"),
    };
    assert_eq!(obstacle(&job).reason, Reason::Suspended);
    job.metadata.labels = Some([(QUEUE_LABEL.to_owned(), "team-a".to_owned())].into());
    assert_eq!(obstacle(&job).reason, Reason::QuotaPending);
}

#[test]
fn a_pod_whose_trainer_never_ran_failed_by_what_ended_badly_before_it() {
    let container = |name: &str, code: i32, message: &Value| {
        let state = json!({"terminated": {"exitCode": code, "message": message}});
        json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state})
    };
    let said = json!({"reason": "DataInvalid", "message": "no such repository"}).to_string();
    let fetch = container("fetch", 3, &json!(said));
    let failed = pod(&json!({"phase": "Failed", "initContainerStatuses": [fetch]}));
    assert_eq!(why_failed(&failed).1, "no such repository");
    let fetched = container("fetch", 0, &json!(null));
    let judge = container("judge-0", 3, &json!(null));
    let failed = pod(&json!({"phase": "Failed", "initContainerStatuses": [fetched, judge]}));
    assert!(why_failed(&failed).1.contains("exit code 3"), "{:?}", why_failed(&failed));
}

/// A pod of a rank, as it ended.
pub(in crate::cluster) fn of_rank(rank: i64, code: i32, at: &str) -> Pod {
    let mut pod = ended(code, "Error", &json!(null), at);
    let index = ("batch.kubernetes.io/job-completion-index".to_owned(), rank.to_string());
    pod.metadata.annotations.get_or_insert_default().extend([index]);
    pod
}

pub(in crate::cluster) fn with_pods(mut job: Job, size: i32) -> Job {
    job.spec.as_mut().unwrap().completions = Some(size);
    job
}

#[test]
fn of_pods_that_failed_together_the_one_counts_that_the_others_were_lost_by() {
    let (early, late) = ("2026-01-01T00:10:00Z", "2026-01-01T00:10:09Z");
    let mut taken = of_rank(1, 75, late);
    taken.status.as_mut().unwrap().conditions = serde_json::from_value(json!([
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}]))
    .unwrap();
    let cases = [
        (vec![of_rank(0, 12, early), of_rank(1, 137, late)], Reason::OutOfMemory, false, true),
        (vec![of_rank(0, 137, late), of_rank(1, 3, early)], Reason::DataInvalid, false, false),
        (vec![of_rank(0, 12, early), taken.clone()], Reason::NodeDisruption, true, true),
        (vec![of_rank(0, 75, early), taken], Reason::NodeDisruption, true, true),
        (vec![of_rank(0, 75, early), of_rank(1, 12, early)], Reason::Suspended, true, true),
        (vec![of_rank(0, 12, early), of_rank(1, 12, early)], Reason::PeerLost, false, true),
        (vec![], Reason::NodeDisruption, true, true),
    ];
    let job = with_pods(failed_job("BackoffLimitExceeded"), 2);
    for (pods, reason, interruption, retryable) in cases {
        let end = end(run(&job, &pods, None));
        assert!(!end.last, "the operator begins it again");
        assert_eq!((end.is_interruption(), end.is_retryable()), (interruption, retryable), "{end:?}");
        let counted = retry::count_end(&count_usage(&job, &pods, None, NOW), &end);
        assert_eq!(counted.retries, [(reason.as_str(), 1)].into(), "one attempt, whoever failed");
        assert_eq!(counted.attempt, 1);
    }
    let late = with_pods(failed_job("DeadlineExceeded"), 2);
    assert!(end(run(&late, &[of_rank(0, 143, early)], None)).last);
}

#[test]
fn a_job_that_is_being_deleted_is_stopping_whatever_else_it_says() {
    let mut job = failed_job("BackoffLimitExceeded");
    job.metadata.deletion_timestamp = serde_json::from_value(json!(NOW)).unwrap();
    assert_eq!(run(&job, &[], None), Run::Stopping);
}

#[test]
fn a_complete_gang_whose_first_pod_is_gone_is_begun_again_and_has_not_failed() {
    let complete = with_pods(job(&json!({"conditions": [{"type": "Complete", "status": "True"}]})), 2);
    let lost = end(run(&complete, &[of_rank(1, 0, NOW)], None));
    assert!(lost.is_interruption() && !lost.last, "{lost:?}");
    let whole = end(run(&complete, &[of_rank(1, 0, NOW), of_rank(0, 0, NOW)], None));
    assert_eq!((whole.exit, whole.last), (Exit::Code(0), true));
}

#[test]
fn a_gang_without_one_of_its_pods_says_which_was_taken_and_until_all_have_ended_nothing_else() {
    let gang = with_pods(job(&json!({})), 2);
    let taken = pod(&json!({"phase": "Running", "conditions": [
        {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager", "message": "node lost"}]}));
    let Run::Running(Some(obstacle)) = run(&gang, &[of_rank(0, 12, NOW), taken.clone()], None) else { panic!() };
    assert_eq!(obstacle.reason, Reason::NodeDisruption);
    assert!(obstacle.message.contains("node lost"), "{}", obstacle.message);
    assert_eq!(run(&job(&json!({})), &[taken], None), Run::Running(None), "one that is alone has another pod at once");
    let ending = job(&json!({"conditions": [{"type": "FailureTarget", "status": "True"}]}));
    assert_eq!(run(&with_pods(ending.clone(), 2), &[of_rank(0, 12, NOW)], None), Run::Ending);
    assert_eq!(run(&ending, &[failed(3, "Error")], None), Run::Ending, "it is not tried again");
}

#[test]
fn a_gang_lacks_a_pod_until_all_run_or_are_done() {
    let running = || pod(&json!({"phase": "Running"}));
    let done = || of_rank(1, 0, NOW);
    let gang = with_pods(job(&json!({})), 2);
    assert!(may_lack_a_pod(&gang, &[]) && may_lack_a_pod(&gang, &[running()]) && may_lack_a_pod(&gang, &[done()]));
    assert!(!may_lack_a_pod(&gang, &[running(), running()]) && !may_lack_a_pod(&gang, &[running(), done()]));
    let counted = with_pods(job(&json!({"succeeded": 1})), 2);
    assert!(!may_lack_a_pod(&counted, &[running()]), "one that is done may be gone");
    assert!(!may_lack_a_pod(&job(&json!({})), &[running()]) && may_lack_a_pod(&job(&json!({})), &[failed(1, "")]));
}

/// A pod that its kubelet evicted for what it kept on the node: no condition says so.
#[test]
fn a_job_without_a_pod_is_looked_at_ever_more_rarely() {
    let made = |at: &str| {
        let mut job = job(&json!({}));
        job.metadata.creation_timestamp = serde_json::from_value(json!(at)).unwrap();
        job
    };
    let after = |at: &str, pods: &[Pod]| patience(&made(at), pods, NOW).as_secs();
    let looks = ["00:59:59", "00:59:50", "00:59:20", "00:00:00"].map(|at| after(&format!("2026-01-01T{at}Z"), &[]));
    assert_eq!(looks, [5, 10, 40, 60]);
    let ended = ended(1, "Error", &json!(null), "2026-01-01T00:59:52Z");
    assert_eq!(after("2026-01-01T00:00:00Z", &[ended]), 8, "it had one until then");
}

fn overfull(code: i32, container: &str, message: &str) -> Pod {
    let state = json!({"terminated": {"exitCode": code, "reason": "Error", "finishedAt": "2026-01-01T00:10:00Z"}});
    let ended =
        json!([{"name": container, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
    let list = if container == TRAINER { "containerStatuses" } else { "initContainerStatuses" };
    pod(&json!({"phase": "Failed", "reason": "Evicted", "message": message, list: ended,
        "startTime": "2026-01-01T00:00:00Z"}))
}

const FULL: &str = "Usage of EmptyDir volume \"fetched\" exceeds the limit \"200Gi\". ";

#[test]
fn a_pod_that_kept_more_on_its_node_than_it_may_has_failed_by_that_whatever_its_exit_code() {
    for (pod, words) in [
        (overfull(137, TRAINER, FULL), "scratchSize"),
        (overfull(75, "fetch", FULL), "scratchSize"),
        (overfull(75, TRAINER, FULL), "--scratch-size"),
        (pod(&json!({"phase": "Failed", "reason": "Evicted", "message": FULL})), "scratchSize"),
        (
            overfull(137, TRAINER, "Container trainer exceeded its local ephemeral storage limit \"1Gi\". "),
            "spec.compute.resources.limits.ephemeral-storage",
        ),
    ] {
        let (reason, message, _) = why_failed(&pod);
        assert_eq!(reason, Reason::StorageExceeded, "{message}");
        assert!(message.contains("exceed") && message.contains(words) && !message.contains("memory"), "{message}");
    }
    // An eviction for the sake of the node is told by a condition, and is nobody's failure.
    let pressed =
        pod(&json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory.",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]}));
    assert_eq!(why_failed(&pressed).0, Reason::NodeDisruption);
}

#[test]
fn what_overfills_its_node_again_and_again_ends_when_its_retries_are_used_up_though_its_job_does_not_count() {
    // Exit code 75 is no failure to the Job, which replaces the pod for ever.
    let mut repeating = job(&json!({"startTime": "2026-01-01T00:00:00Z"}));
    repeating.spec.as_mut().unwrap().backoff_limit = Some(1);
    let full = || overfull(75, "fetch", FULL);
    assert!(matches!(run(&repeating, &[full()], None), Run::Running(Some(o)) if o.reason == Reason::Retrying));
    assert_eq!(count_usage(&repeating, &[full()], None, NOW).retries, [("StorageExceeded".to_owned(), 1)].into());
    let mut last = full();
    last.metadata.creation_timestamp = serde_json::from_value(json!(NOW)).unwrap();
    let over = end(run(&repeating, &[full(), last], None));
    assert!(over.last && over.explain().0 == Reason::StorageExceeded, "{over:?}");
    assert!(over.explain().1.contains("gave up after 2 attempts"), "{over:?}");
    // Interruptions do not count, and of what the Job counts it says itself when it is over.
    let stopped = failed(75, "Error");
    assert!(matches!(run(&repeating, &[stopped.clone(), stopped, full()], None), Run::Running(_)));
    assert!(matches!(run(&repeating, &[failed(4, "Error"), failed(4, "Error")], None), Run::Running(_)));
}

#[test]
fn an_overfull_pod_of_several_is_a_failure_and_no_interruption() {
    let mut full = overfull(75, TRAINER, FULL);
    full.metadata.annotations = of_rank(1, 75, NOW).metadata.annotations;
    let job = with_pods(failed_job("BackoffLimitExceeded"), 2);
    let end = end(run(&job, &[of_rank(0, 12, NOW), full], None));
    assert!(!end.is_interruption() && end.is_retryable() && !end.last, "{end:?}");
    assert_eq!(end.explain().0, Reason::StorageExceeded);
}

#[test]
fn what_helps_a_container_without_memory_is_a_setting_that_it_has() {
    let killed = |reason: &str, kind: &str, container: &str| {
        let mut pod = failed(137, reason);
        pod.metadata.labels = Some([(KIND_LABEL.to_owned(), kind.to_owned())].into());
        let statuses = pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        statuses[0].name = container.to_owned();
        why_failed(&pod)
    };
    for (kind, container, smaller) in [
        ("RewardModel", "trainer", true),
        ("PolicyTuning", "trainer", true),
        ("PreferenceDataset", "trainer", false),
        ("PolicyTuning", "judge-0", false),
    ] {
        for reason in ["OOMKilled", "Error"] {
            let (why, message, _) = killed(reason, kind, container);
            assert_eq!(why, Reason::OutOfMemory);
            assert_eq!(message.contains("lower spec.training.microBatchSize"), smaller, "{message}");
            assert!(!message.contains("batch smaller") && message.contains("spec.compute.resources"), "{message}");
            // Somebody may have killed it.
            assert_eq!(message.contains("most likely for its memory use"), reason == "Error", "{message}");
        }
    }
}
