//! What a Job and its pods say of a run: it runs, something keeps it from running, or it ended, and how. Computes only.
//!
//! The Job tells that a run ended, its pods tell why (`batch/v1` JobStatus, `core/v1` PodStatus).

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use plumbline_crds::conditions::Reason;
use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::run::StageResult;

use super::build::job::{self, QUEUE_LABEL, TRAINER};
use super::times::{seconds_between, timestamp};
use crate::plan::{End, Exit, Obstacle, Run};
use crate::redact::redact;

/// The signal of an exit code of 128 and more, as shells and container runtimes report it.
const SIGNALLED: i32 = 128;
/// The last real-time signal of Linux (signal(7)).
const LAST_SIGNAL: i32 = 64;
const SIGKILL: i32 = 9;
/// Why a Job failed that took longer than it may.
const DEADLINE: &str = "DeadlineExceeded";
/// Seconds within which a Job has its pods.
const TIME_FOR_PODS: i64 = 3;

/// How the run of a Job stands. `refusal`: why it has no pod that could run.
pub fn run(job: &Job, pods: &[Pod], refusal: Option<&str>) -> Run {
    if job.metadata.deletion_timestamp.is_some() {
        return Run::Stopping;
    }
    match finished(job) {
        Some(Finished::Complete) => Run::Ended(Box::new(success(pods))),
        Some(Finished::Failed { reason, message }) if job::gang(job) > 1 && reason != DEADLINE => {
            Run::Ended(Box::new(gang_failure(pods, &reason, &message)))
        }
        Some(Finished::Failed { reason, message }) => Run::Ended(Box::new(failure(job, pods, &reason, &message))),
        None => Run::Running(refusal.map(refused).or_else(|| obstacle(job, pods))),
    }
}

/// Why a pod failed: a reason, a sentence, and what the trainer left to say.
pub fn why_failed(pod: &Pod) -> (Reason, String, Option<StageResult>) {
    let result = result(pod);
    if let Some(disruption) = disruption(pod) {
        return (Reason::NodeDisruption, disruption, result);
    }
    let Some(end) = terminated(pod) else {
        let told = pod.status.as_ref().and_then(|s| s.reason.clone().or_else(|| s.message.clone()));
        return (Reason::TrainerFailed, told.unwrap_or_else(|| "the pod failed and does not say why".into()), None);
    };
    if out_of_memory(end) {
        let message = "the trainer was ended because it used more memory than spec.compute.resources.limits allows; \
                       raise the limit, or lower spec.training.microBatchSize";
        return (Reason::OutOfMemory, message.into(), None);
    }
    let (reason, message) = ended(end, result.clone()).explain();
    (reason, message, result)
}

/// The pod that tells why a run failed: the last of its attempts, or of several pods the one that the others were lost by.
pub fn culprit<'a>(job: &Job, pods: &'a [Pod]) -> Option<&'a Pod> {
    if job::gang(job) > 1 { cause(pods) } else { last_failed(pods) }
}

/// Of pods that failed together, the one that was the first to: what it did itself comes before what was done to it, and
/// that before having lost another.
fn cause(pods: &[Pod]) -> Option<&Pod> {
    let order = |pod: &&Pod| {
        let class = match why_failed(pod).0 {
            Reason::NodeDisruption => 1,
            Reason::Suspended => 2,
            Reason::PeerLost => 3,
            _ => 0,
        };
        (class, terminated(pod).and_then(|t| t.finished_at.as_ref()).map(|t| t.0), job::rank(pod))
    };
    pods.iter().filter(|p| phase(p) == "Failed").min_by_key(order)
}

/// When a Job failed (RFC 3339).
pub fn failed_at(job: &Job) -> Option<String> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let failed = conditions.iter().find(|c| c.type_ == "Failed" && c.status == "True")?;
    failed.last_transition_time.as_ref().map(timestamp)
}

/// The pod that failed last.
fn last_failed(pods: &[Pod]) -> Option<&Pod> {
    // Ends are told to the second, and a pod that was lost may have none.
    let order = |pod: &&Pod| {
        let ended = terminated(pod).and_then(|t| t.finished_at.as_ref()).map(|t| t.0);
        (ended, pod.metadata.creation_timestamp.as_ref().map(|t| t.0))
    };
    pods.iter().filter(|p| phase(p) == "Failed").max_by_key(order)
}

/// Whether a Job is over.
pub fn is_finished(job: &Job) -> bool {
    finished(job).is_some()
}

/// How a Job ended.
pub(super) enum Finished {
    Complete,
    Failed { reason: String, message: String },
}

pub(super) fn finished(job: &Job) -> Option<Finished> {
    job.status.as_ref()?.conditions.as_ref()?.iter().filter(|c| c.status == "True").find_map(|c| {
        match c.type_.as_str() {
            "Complete" => Some(Finished::Complete),
            "Failed" => Some(Finished::Failed {
                reason: c.reason.clone().unwrap_or_default(),
                message: c.message.clone().unwrap_or_default(),
            }),
            _ => None,
        }
    })
}

fn success(pods: &[Pod]) -> End {
    let mut done = pods.iter().filter(|p| phase(p) == "Succeeded").peekable();
    if done.peek().is_none() {
        // What was made is there, but nobody knows its digest: begun again, the run soon comes to its end and says it.
        let said = "its pod was deleted before anybody read what it had left to say";
        let result = Some(StageResult::new(Reason::NodeDisruption, said));
        return End { exit: ExitCode::Interrupted.into(), result, last: false };
    }
    End { exit: Exit::Code(0), result: done.find_map(result), last: true }
}

/// The end of one attempt of several pods.
fn gang_failure(pods: &[Pod], reason: &str, message: &str) -> End {
    let Some(pod) = cause(pods) else {
        // A pod that failed by itself stays to be seen: these were taken away.
        let said = format!("the pods of the run were taken away: {reason}: {message}");
        return End {
            exit: ExitCode::Interrupted.into(),
            result: Some(StageResult::new(Reason::NodeDisruption, said)),
            last: false,
        };
    };
    let (why, said, result) = why_failed(pod);
    let code = terminated(pod).filter(|_| disruption(pod).is_none()).and_then(|t| ExitCode::from_number(t.exit_code));
    let exit = code.filter(|c| !c.retryable() || *c == ExitCode::Interrupted).unwrap_or(ExitCode::Failed);
    let message = format!("rank {}: {said}", job::rank(pod));
    let result = StageResult { reason: why, message, ..result.unwrap_or_else(|| StageResult::new(why, "")) };
    End { exit: exit.into(), result: Some(result), last: false }
}

/// A Job has tried again itself, so its failure is the last.
fn failure(job: &Job, pods: &[Pod], reason: &str, message: &str) -> End {
    if reason == DEADLINE {
        let deadline = job.spec.as_ref().and_then(|s| s.active_deadline_seconds).unwrap_or_default();
        let said = format!(
            "the run took longer than spec.compute.deadlineSeconds allows ({deadline} s in its last Job); raise it to go on"
        );
        return End { exit: Exit::Code(1), result: Some(StageResult::new(Reason::DeadlineExceeded, said)), last: true };
    }
    let Some(pod) = last_failed(pods) else {
        let said = format!("the Job failed: {reason}: {message}");
        return End { exit: Exit::Code(1), result: Some(StageResult::new(Reason::TrainerFailed, said)), last: true };
    };
    let (why, said, result) = why_failed(pod);
    let tried = pods.iter().filter(|p| phase(p) == "Failed").count();
    let gave_up = reason == "BackoffLimitExceeded" && tried > 1;
    let said = if gave_up { format!("{said}; gave up after {tried} attempts") } else { said };
    let result = StageResult { reason: why, message: said, ..result.unwrap_or_else(|| StageResult::new(why, "")) };
    // The reason is known better here than an exit code could tell it.
    End { exit: Exit::Code(1), result: Some(result), last: true }
}

/// Whether a Job has no pod that could run, and is not kept from making one by its own suspension or end.
pub fn may_lack_a_pod(job: &Job, pods: &[Pod]) -> bool {
    let waits = is_suspended(job) || is_finished(job) || job.metadata.deletion_timestamp.is_some();
    !waits && !pods.iter().any(is_active)
}

/// The same, when it has had the time to make one.
pub fn lacks_a_pod(job: &Job, pods: &[Pod], now: &str) -> bool {
    let made = job.metadata.creation_timestamp.as_ref().map(timestamp);
    may_lack_a_pod(job, pods) && made.is_some_and(|made| seconds_between(&made, now) >= TIME_FOR_PODS)
}

/// When the last pod of a Job ended (RFC 3339).
pub fn last_end(pods: &[Pod]) -> Option<String> {
    pods.iter().filter_map(|pod| terminated(pod)?.finished_at.as_ref()).max_by_key(|t| t.0).map(timestamp)
}

/// Whether a Job waits until somebody lets it run.
pub fn is_suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|s| s.suspend).unwrap_or(false)
}

fn is_active(pod: &Pod) -> bool {
    matches!(phase(pod), "Pending" | "Running" | "")
}

fn refused(why: &str) -> Obstacle {
    let message = format!("the cluster refuses the pod: {why}; it is made as soon as it may be");
    Obstacle { reason: Reason::ChildCreationFailed, message }
}

/// What keeps a run that was started from running, most decisive first.
fn obstacle(job: &Job, pods: &[Pod]) -> Option<Obstacle> {
    let active: Vec<&Pod> = pods.iter().filter(|p| is_active(p)).collect();
    if let Some(obstacle) =
        active.iter().find_map(|pod| waiting(pod)).or_else(|| active.iter().find_map(|pod| unschedulable(pod)))
    {
        return Some(obstacle);
    }
    if is_suspended(job) {
        let queue = job.metadata.labels.as_ref().and_then(|l| l.get(QUEUE_LABEL));
        let message = match queue {
            Some(queue) => format!("waits in the queue {queue} for quota"),
            None => "its Job was suspended by somebody else; it goes on when spec.suspend of the Job is false".into(),
        };
        let reason = if queue.is_some() { Reason::QuotaPending } else { Reason::Suspended };
        return Some(Obstacle { reason, message });
    }
    if let Some(pod) = culprit(job, pods).filter(|_| !active.iter().any(|p| phase(p) == "Running")) {
        let (reason, message, _) = why_failed(pod);
        return Some(Obstacle {
            reason: Reason::Retrying,
            message: format!("{}: {message}; tried again", reason.as_str()),
        });
    }
    None
}

/// A container that cannot start.
fn waiting(pod: &Pod) -> Option<Obstacle> {
    containers(pod).find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let told = waiting.message.clone().unwrap_or_default();
        let (reason, advice) = match waiting.reason.as_deref()? {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable" => {
                (Reason::ImagePullFailed, "check spec.compute.image and imagePullSecrets")
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                (Reason::ConfigInvalid, "create the Secret, ConfigMap or key that it names")
            }
            "CrashLoopBackOff" => (Reason::ConfigInvalid, "see the log of this container"),
            _ => return None,
        };
        Some(Obstacle { reason, message: format!("container {}: {told}; {advice}", status.name) })
    })
}

fn unschedulable(pod: &Pod) -> Option<Obstacle> {
    let scheduled = condition(pod, "PodScheduled").filter(|(status, ..)| *status == "False")?;
    let (_, reason, message) = scheduled;
    (reason == "Unschedulable").then(|| Obstacle {
        reason: Reason::Unschedulable,
        message: format!("{message}; check spec.compute (resources, nodeSelector, tolerations) and the claims it uses"),
    })
}

/// Preemption, eviction, a drained or lost node (`core/v1` pod condition DisruptionTarget).
fn disruption(pod: &Pod) -> Option<String> {
    let (_, reason, message) = condition(pod, "DisruptionTarget").filter(|(status, ..)| *status == "True")?;
    Some(format!("the pod was taken from its node: {reason}: {message}"))
}

fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let found = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)?;
    Some((&found.status, found.reason.as_deref().unwrap_or_default(), found.message.as_deref().unwrap_or_default()))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|s| s.init_container_statuses.as_ref()).into_iter().flatten();
    init.chain(status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten())
}

/// How the trainer's container ended; where the trainer never ran, how one before it ended badly, as a judge.
pub(super) fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    fn end(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
        status.state.as_ref()?.terminated.as_ref()
    }
    let trainer = containers(pod).find(|s| s.name == TRAINER).and_then(end);
    trainer.or_else(|| containers(pod).filter_map(end).find(|t| t.exit_code != 0))
}

/// What the trainer left to say, without what looks like a key: the operator cannot know the values themselves.
fn result(pod: &Pod) -> Option<StageResult> {
    let said: StageResult = serde_json::from_str(terminated(pod)?.message.as_deref()?).ok()?;
    Some(StageResult { message: redact(&said.message, &[]), ..said })
}

/// Killed by the kernel for its memory, also where the runtime says only that it was killed.
fn out_of_memory(end: &ContainerStateTerminated) -> bool {
    end.reason.as_deref() == Some("OOMKilled") || end.exit_code == SIGNALLED + SIGKILL
}

fn exit(end: &ContainerStateTerminated) -> Exit {
    let signal = end.exit_code - SIGNALLED;
    // A container that was lost with its node is reported with 255.
    if (1..=LAST_SIGNAL).contains(&signal) { Exit::Signal(signal) } else { Exit::Code(end.exit_code) }
}

fn ended(end: &ContainerStateTerminated, result: Option<StageResult>) -> End {
    End { exit: exit(end), result, last: false }
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cluster::usage::counted;
    use crate::plan::ending;
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
        serde_json::from_value(json!({"metadata": {"name": "p", "annotations": annotations}, "status": status}))
            .unwrap()
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
    fn a_complete_job_whose_pod_is_gone_is_begun_again_and_has_not_failed() {
        let complete = job(&json!({"conditions": [{"type": "Complete", "status": "True"}]}));
        let end = end(run(&complete, &[failed(1, "Error")], None));
        assert!(end.is_interruption() && !end.last, "{end:?}");
        assert_eq!(end.result.unwrap().artifact, None);
    }

    #[test]
    fn a_container_that_was_lost_with_its_node_was_ended_by_no_signal() {
        let (reason, message, _) = why_failed(&failed(255, "Unknown"));
        assert_eq!(reason, Reason::TrainerFailed);
        assert!(message.contains("exit code 255"), "{message}");
        assert!(why_failed(&failed(139, "Error")).1.contains("signal 11"));
    }

    #[test]
    fn each_way_to_fail_has_its_reason() {
        let disrupted = pod(&json!({"phase": "Failed", "conditions": [
            {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "preempted"}]}));
        let said = json!({"reason": "GateFailed", "message": "accuracy 0.4 is below 0.7"}).to_string();
        let cases = vec![
            (failed_job("PodFailurePolicy"), failed(2, "Error"), Reason::TrainerConfigRejected, "exit code 2"),
            (failed_job("PodFailurePolicy"), ended(9, "Error", &json!(said), NOW), Reason::GateFailed, "below 0.7"),
            (failed_job("BackoffLimitExceeded"), failed(137, "OOMKilled"), Reason::OutOfMemory, "limits"),
            (failed_job("BackoffLimitExceeded"), failed(137, "Error"), Reason::OutOfMemory, "limits"),
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
                "secret \"judge\"",
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

    pub(in crate::cluster) fn gang_of(mut job: Job, size: i32) -> Job {
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
        let job = gang_of(failed_job("BackoffLimitExceeded"), 2);
        for (pods, reason, interruption, retryable) in cases {
            let end = end(run(&job, &pods, None));
            assert!(!end.last, "the operator begins it again");
            assert_eq!((end.is_interruption(), end.is_retryable()), (interruption, retryable), "{end:?}");
            let counted = ending::counted(&counted(&job, &pods, None, NOW), &end);
            assert_eq!(counted.retries, [(reason.as_str(), 1)].into(), "one attempt, whoever failed");
            assert_eq!(counted.attempt, 1);
        }
        let late = gang_of(failed_job("DeadlineExceeded"), 2);
        assert!(end(run(&late, &[of_rank(0, 143, early)], None)).last);
    }

    #[test]
    fn a_job_that_is_being_deleted_is_stopping_whatever_else_it_says() {
        let mut job = failed_job("BackoffLimitExceeded");
        job.metadata.deletion_timestamp = serde_json::from_value(json!(NOW)).unwrap();
        assert_eq!(run(&job, &[], None), Run::Stopping);
    }
}
