//! What a Job and its pods say of a run: it runs, something keeps it from running, or it ended, and how. Computes only.
//!
//! The Job tells that a run ended, its pods tell why (`batch/v1` JobStatus, `core/v1` PodStatus).

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use plumbline_crds::Kind;
use plumbline_crds::conditions::Reason;
use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::run::StageResult;

use super::objects::KIND_LABEL;
use super::objects::job::{self, LOST, QUEUE_LABEL};
use super::objects::pod::{JUDGE, TRAINER};
use super::times::{seconds_between, timestamp};
use crate::plan::{End, Exit, Obstacle, Run, retry};
use crate::redact::redact;

/// The signal of an exit code of 128 and more, as shells and container runtimes report it.
const SIGNALLED: i32 = 128;
/// The last real-time signal of Linux (signal(7)).
const LAST_SIGNAL: i32 = 64;
const SIGKILL: i32 = 9;
/// Why a Job failed that took longer than it may.
const DEADLINE: &str = "DeadlineExceeded";
/// Why a Job failed whose pods failed more often than they may.
const BACKOFF_LIMIT: &str = "BackoffLimitExceeded";
/// Seconds within which a Job has its pods.
const TIME_FOR_PODS: i64 = 3;
/// Between two looks at a Job that lacks a pod.
const SHORTEST_PATIENCE: Duration = Duration::from_secs(5);
const LONGEST_PATIENCE: Duration = Duration::from_mins(1);

/// How the run of a Job stands. `refusal`: why it has no pod that could run.
pub fn run(job: &Job, pods: &[Pod], refusal: Option<&str>) -> Run {
    if job.metadata.deletion_timestamp.is_some() {
        return Run::Stopping;
    }
    match finished(job) {
        Some(Finished::Complete) => Run::Ended(Box::new(success(pods))),
        Some(Finished::Failed { reason, message }) if job::pod_count(job) > 1 && reason != DEADLINE => {
            Run::Ended(Box::new(multi_pod_failure(pods, &reason, &message)))
        }
        Some(Finished::Failed { reason, message }) => Run::Ended(Box::new(failure(job, pods, &reason, &message))),
        None if is_ending(job) => Run::Ending,
        None if overfills_for_ever(job, pods) => Run::Ended(Box::new(failure(job, pods, BACKOFF_LIMIT, ""))),
        None => Run::Running(refusal.map(refused).or_else(|| obstacle(job, pods))),
    }
}

/// Why a pod failed: a reason, a sentence, and what the trainer left to say.
pub fn why_failed(pod: &Pod) -> (Reason, String, Option<StageResult>) {
    let result = result(pod);
    if let Some(disruption) = disruption(pod) {
        return (Reason::NodeDisruption, disruption, result);
    }
    if let Some(overfull) = overfull(pod) {
        return (Reason::StorageExceeded, overfull, result);
    }
    let Some(end) = terminated(pod) else {
        let told = pod.status.as_ref().and_then(|s| s.reason.clone().or_else(|| s.message.clone()));
        return (Reason::TrainerFailed, told.unwrap_or_else(|| "the pod failed and does not say why".into()), None);
    };
    if was_lost(end) {
        let said = result.map(|result| result.message).or_else(|| Some(redact(end.message.as_deref()?, &[])));
        let said = said.unwrap_or_else(|| format!("exit code {}", end.exit_code));
        return (Reason::NodeDisruption, format!("the container was lost with its node: {said}"), None);
    }
    if out_of_memory(end) {
        let name = ended_container(pod).map_or(TRAINER, |(status, _)| status.name.as_str());
        return (Reason::OutOfMemory, killed_for_memory(pod, name, end), None);
    }
    let (reason, message) = ended(end, result.clone()).explain();
    (reason, message, result)
}

/// The pod that tells why a run failed: the last of its attempts, or of several pods the one that the others were lost by.
pub fn culprit<'a>(job: &Job, pods: &'a [Pod]) -> Option<&'a Pod> {
    if job::pod_count(job) > 1 { cause(pods) } else { last_failed(pods) }
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

/// The pod that failed last.
pub fn last_failed(pods: &[Pod]) -> Option<&Pod> {
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

/// Whether it is decided how a Job ends, and the cluster has yet to end its pods (`batch/v1` JobConditionType).
fn is_ending(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    let mut decided = conditions.filter(|c| c.status == "True").map(|c| c.type_.as_str());
    decided.any(|kind| matches!(kind, "FailureTarget" | "SuccessCriteriaMet"))
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
    // Of several pods the first says what was made, and the others nothing.
    let mut done = pods.iter().filter(|p| phase(p) == "Succeeded" && job::rank(p) == 0).peekable();
    if done.peek().is_none() {
        // What was made is there, but nobody knows its digest: begun again, the run soon comes to its end and says it.
        let said = "the pod was deleted before its termination message was read";
        let result = Some(StageResult::new(Reason::NodeDisruption, said));
        return End { exit: ExitCode::Interrupted.into(), result, last: false };
    }
    End { exit: Exit::Code(0), result: done.find_map(result), last: true }
}

/// The end of one attempt of several pods.
fn multi_pod_failure(pods: &[Pod], reason: &str, message: &str) -> End {
    let Some(pod) = cause(pods) else {
        // A pod that failed by itself stays to be seen: these were deleted.
        let said = format!("the pods of the run were deleted: {reason}: {message}");
        return End {
            exit: ExitCode::Interrupted.into(),
            result: Some(StageResult::new(Reason::NodeDisruption, said)),
            last: false,
        };
    };
    let (why, said, result) = why_failed(pod);
    let itself = disruption(pod).is_none() && overfull(pod).is_none();
    let code = terminated(pod).filter(|_| itself).and_then(|t| ExitCode::from_number(t.exit_code));
    let exit = code.filter(|c| !c.retryable() || *c == ExitCode::Interrupted).unwrap_or(ExitCode::Failed);
    let message = format!("rank {}: {said}", job::rank(pod));
    let result = StageResult { reason: why, message, ..result.unwrap_or_else(|| StageResult::new(why, "")) };
    End { exit: exit.into(), result: Some(result), last: false }
}

/// Whether a Job gave up sooner than it may. It counts by exit codes alone, and a container that its kubelet has forgotten has
/// the code (137) of one that was killed for its memory.
pub fn gave_up_early(job: &Job, pods: &[Pod]) -> bool {
    let by_count = matches!(finished(job), Some(Finished::Failed { reason, .. }) if reason == BACKOFF_LIMIT);
    let forgotten = |pod: &Pod| terminated(pod).is_some_and(|end| was_lost(end) && end.exit_code != LOST);
    by_count && pods.iter().any(|pod| phase(pod) == "Failed" && overfull(pod).is_none() && forgotten(pod))
}

/// Whether a Job would go on without end: its pods fill their node until they are evicted, and end with an exit code that it
/// does not count, as they were asked to stop.
fn overfills_for_ever(job: &Job, pods: &[Pod]) -> bool {
    let most = job.spec.as_ref().and_then(|s| s.backoff_limit).map_or(i64::MAX, i64::from);
    let failures = pods.iter().filter(|p| phase(p) == "Failed" && !retry::is_innocent(&why_failed(p).0.as_str()));
    let again = last_failed(pods).is_some_and(|pod| overfull(pod).is_some());
    again && job::pod_count(job) == 1 && failures.count() as i64 > most
}

/// A Job has tried again itself, so its failure is the last, unless it gave up early.
fn failure(job: &Job, pods: &[Pod], reason: &str, message: &str) -> End {
    if reason == DEADLINE {
        let deadline = job.spec.as_ref().and_then(|s| s.active_deadline_seconds).unwrap_or_default();
        let said = format!(
            "the run took longer than spec.compute.deadlineSeconds allows ({deadline} s in its last Job); raise it to resume"
        );
        return End { exit: Exit::Code(1), result: Some(StageResult::new(Reason::DeadlineExceeded, said)), last: true };
    }
    let Some(pod) = last_failed(pods) else {
        let said = format!("the Job failed: {reason}: {message}");
        return End { exit: Exit::Code(1), result: Some(StageResult::new(Reason::TrainerFailed, said)), last: true };
    };
    let (why, said, result) = why_failed(pod);
    let tried = pods.iter().filter(|p| phase(p) == "Failed").count();
    let last = !gave_up_early(job, pods);
    let gave_up = last && reason == BACKOFF_LIMIT && tried > 1;
    let said = if gave_up { format!("{said}; gave up after {tried} attempts") } else { said };
    let result = StageResult { reason: why, message: said, ..result.unwrap_or_else(|| StageResult::new(why, "")) };
    // The reason is known better here than an exit code could tell it.
    End { exit: Exit::Code(1), result: Some(result), last }
}

/// Whether a Job has fewer pods than it needs, and is not kept from making one by its own suspension or end.
pub fn may_lack_a_pod(job: &Job, pods: &[Pod]) -> bool {
    let waits = is_suspended(job) || is_ending(job) || is_finished(job) || job.metadata.deletion_timestamp.is_some();
    let done = job.status.as_ref().and_then(|s| s.succeeded).map_or(0, i64::from);
    let seen = |wanted: fn(&Pod) -> bool| pods.iter().filter(|p| wanted(p)).count() as i64;
    !waits && seen(is_active) + done.max(seen(|p| phase(p) == "Succeeded")) < job::pod_count(job)
}

/// The same, when it has had the time to make one.
pub fn lacks_a_pod(job: &Job, pods: &[Pod], now: &str) -> bool {
    let made = job.metadata.creation_timestamp.as_ref().map(timestamp);
    may_lack_a_pod(job, pods) && made.is_some_and(|made| seconds_between(&made, now) >= TIME_FOR_PODS)
}

/// How long to wait until a Job that may lack a pod is looked at again, as one that cannot be made causes no event: ever longer.
pub fn patience(job: &Job, pods: &[Pod], now: &str) -> Duration {
    let made = job.metadata.creation_timestamp.as_ref().map(timestamp);
    let lacks_since = made.max(last_end(pods)).unwrap_or_default();
    Duration::from_secs(seconds_between(&lacks_since, now).unsigned_abs()).clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)
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
    let message = format!("the API server rejected the pod: {why}; it is created as soon as this is resolved");
    Obstacle { reason: Reason::ChildCreationFailed, message }
}

/// What keeps a run that was started from running, most decisive first.
fn obstacle(job: &Job, pods: &[Pod]) -> Option<Obstacle> {
    let active: Vec<&Pod> = pods.iter().filter(|p| is_active(p)).collect();
    let alone = job::pod_count(job) == 1;
    // Without it the others cannot go on, and it may be long until the cluster says that it is gone.
    if let Some(taken) = active.iter().filter(|_| !alone).find_map(|pod| disruption(pod)) {
        return Some(Obstacle { reason: Reason::NodeDisruption, message: taken });
    }
    if let Some(obstacle) =
        active.iter().find_map(|pod| waiting(pod)).or_else(|| active.iter().find_map(|pod| unschedulable(pod)))
    {
        return Some(obstacle);
    }
    if is_suspended(job) {
        let queue = job.metadata.labels.as_ref().and_then(|l| l.get(QUEUE_LABEL));
        let message = match queue {
            Some(queue) => format!("waits in the queue {queue} for quota"),
            None => "its Job was suspended externally; it resumes when spec.suspend of the Job is false".into(),
        };
        let reason = if queue.is_some() { Reason::QuotaPending } else { Reason::Suspended };
        return Some(Obstacle { reason, message });
    }
    if let Some(pod) = last_failed(pods).filter(|_| alone && !active.iter().any(|p| phase(p) == "Running")) {
        let (reason, message, _) = why_failed(pod);
        return Some(Obstacle {
            reason: Reason::Retrying,
            message: format!("{}: {message}; retrying", reason.as_str()),
        });
    }
    None
}

/// A container that cannot start.
fn waiting(pod: &Pod) -> Option<Obstacle> {
    containers(pod).find_map(|status| {
        let waiting = status.state.as_ref()?.waiting.as_ref()?;
        let (name, why) = (&status.name, waiting.reason.as_deref()?);
        let told = waiting.message.as_deref().unwrap_or(why);
        let (reason, message) = match why {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "RegistryUnavailable" => (
                Reason::ImagePullFailed,
                format!("container {name}: {told}; check spec.compute.image and imagePullSecrets"),
            ),
            "CreateContainerConfigError" => (
                Reason::ConfigInvalid,
                format!("container {name}: {told}; create the Secret, ConfigMap or key that it names"),
            ),
            "CrashLoopBackOff" => crashing(pod, status, told),
            "CreateContainerError" | "RunContainerError" => (
                Reason::ConfigInvalid,
                format!("the container {name} cannot start: {told}; see its log and spec.compute.image"),
            ),
            _ => return None,
        };
        Some(Obstacle { reason, message })
    })
}

/// A container that is started again each time it has ended: a judge, or what others have put beside ours.
fn crashing(pod: &Pod, status: &ContainerStatus, told: &str) -> (Reason, String) {
    let name = &status.name;
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(end) = last.filter(|end| out_of_memory(end)) {
        return (Reason::OutOfMemory, killed_for_memory(pod, name, end));
    }
    let reason = if name.starts_with(JUDGE) { Reason::JudgeUnavailable } else { Reason::TrainerFailed };
    let code = last.map(|end| format!(" with exit code {}", end.exit_code)).unwrap_or_default();
    (reason, format!("the container {name} ends again and again{code}: {told}; see its log"))
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
    Some(format!("pod evicted or preempted: {reason}: {message}"))
}

/// Evicted for what the pod itself kept on its node. The kubelet says that in the status alone; of what it does for the sake of
/// the node there is a condition ([`disruption`]).
fn overfull(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref().filter(|s| s.reason.as_deref() == Some("Evicted"))?;
    if disruption(pod).is_some() {
        return None;
    }
    let said = status.message.as_deref().map(|said| said.trim_end_matches(['.', ' '])).filter(|said| !said.is_empty());
    let said = said.unwrap_or("it exceeded its storage limit");
    let advice = if said.contains("phemeral") {
        "raise spec.compute.resources.limits.ephemeral-storage"
    } else {
        "raise scratchSize in the values of the operator's chart (--scratch-size), or use smaller inputs"
    };
    Some(format!("the pod was evicted from its node: {said}; {advice}"))
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
    ended_container(pod).map(|(_, end)| end)
}

/// The same, with the container.
fn ended_container(pod: &Pod) -> Option<(&ContainerStatus, &ContainerStateTerminated)> {
    fn end(status: &ContainerStatus) -> Option<(&ContainerStatus, &ContainerStateTerminated)> {
        Some((status, status.state.as_ref()?.terminated.as_ref()?))
    }
    let trainer = containers(pod).find(|s| s.name == TRAINER).and_then(end);
    trainer.or_else(|| containers(pod).filter_map(end).find(|(_, end)| end.exit_code != 0))
}

/// What the trainer left to say, without what looks like a key: the operator cannot know the values themselves.
fn result(pod: &Pod) -> Option<StageResult> {
    let said: StageResult = serde_json::from_str(terminated(pod)?.message.as_deref()?).ok()?;
    Some(StageResult { message: redact(&said.message, &[]), ..said })
}

/// Nobody knows how it ended: the node lost its power, or its runtime or kubelet has forgotten the container.
fn was_lost(end: &ContainerStateTerminated) -> bool {
    end.exit_code == LOST || matches!(end.reason.as_deref(), Some("Unknown" | "ContainerStatusUnknown"))
}

/// Killed, most likely by the kernel for its memory: not every runtime says so.
fn out_of_memory(end: &ContainerStateTerminated) -> bool {
    is_sure(end) || end.exit_code == SIGNALLED + SIGKILL
}

fn is_sure(end: &ContainerStateTerminated) -> bool {
    end.reason.as_deref() == Some("OOMKilled")
}

/// Which container was killed, at which limit, and what helps.
fn killed_for_memory(pod: &Pod, name: &str, end: &ContainerStateTerminated) -> String {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    let container = init.chain(spec.map(|spec| &spec.containers).into_iter().flatten()).find(|c| c.name == name);
    let limit = container.and_then(|c| c.resources.as_ref()?.limits.as_ref()?.get("memory"));
    let code = end.exit_code;
    let what = match (is_sure(end), limit) {
        (true, Some(Quantity(limit))) => format!("exceeded its memory limit of {limit} (exit code {code})"),
        (true, None) => {
            format!("was killed (exit code {code}): its node ran out of memory, and it has no memory limit of its own")
        }
        (false, Some(Quantity(limit))) => {
            format!("was killed (exit code {code}), most likely for its memory use; its memory limit is {limit}")
        }
        (false, None) => {
            format!("was killed (exit code {code}), most likely for its memory use; it has no memory limit of its own")
        }
    };
    let advice = match limit {
        Some(_) => "raise spec.compute.resources.limits.memory",
        None => "set spec.compute.resources.requests.memory",
    };
    let kind = pod.metadata.labels.as_ref().and_then(|labels| Kind::parse(labels.get(KIND_LABEL)?));
    let trains = name == TRAINER && matches!(kind, Some(Kind::RewardModel | Kind::PolicyTuning));
    let smaller =
        if trains { ", or lower spec.training.microBatchSize: the run continues from its last checkpoint" } else { "" };
    format!("the container {name} {what}; {advice}{smaller}")
}

fn exit(end: &ContainerStateTerminated) -> Exit {
    let signal = end.exit_code - SIGNALLED;
    if (1..=LAST_SIGNAL).contains(&signal) { Exit::Signal(signal) } else { Exit::Code(end.exit_code) }
}

fn ended(end: &ContainerStateTerminated, result: Option<StageResult>) -> End {
    End { exit: exit(end), result, last: false }
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests;
