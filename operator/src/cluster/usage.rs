//! What a run has used so far: attempts, failures, seconds, and seconds of accelerators, as its Job and pods tell. Computes only.
//!
//! What earlier Jobs counted stands in annotations, which whoever may change Jobs may write: sums end at the largest number.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use plumbline_crds::conditions::Reason;
use plumbline_crds::status::JobRef;

use super::objects::job;
use super::outcome::{self, Finished, finished, is_finished, is_suspended, phase, terminated, why_failed};
use super::times::{seconds_between, timestamp};

/// Attempts, failures by reason and seconds of the run, counted on from what the Job was created with. Seconds are counted on
/// from the `previous` count of the same Job: a queue suspends a Job, whose pods are gone then and whose start is forgotten.
/// The Job of several pods is one attempt, whose end is counted by whoever decides what follows. It has no UID when it is over
/// and `previous` has let it go.
pub fn count_usage(job: &Job, pods: &[Pod], previous: Option<&JobRef>, now: &str) -> JobRef {
    let before = job::counted_before(job);
    let (retries, failed) = failures(job, pods, previous, before.retries);
    // One that nobody has deleted after all is the run's still.
    let is_over = is_finished(job) || job.metadata.deletion_timestamp.is_some();
    let was_let_go = is_over && previous.is_some_and(|p| p.uid.is_none() && is_of(p, job));
    JobRef {
        name: job.metadata.name.clone().unwrap_or_default(),
        uid: job.metadata.uid.clone().filter(|_| !was_let_go),
        attempt: before.attempt.saturating_add(attempts(job, failed) - 1),
        retries,
        active_seconds: match since(job, previous) {
            Some((previous, since)) => previous.active_seconds.saturating_add(elapsed(job, pods, since, now)),
            None => before.active_seconds.saturating_add(elapsed(job, pods, "", now)),
        },
        last_counted_time: Some(now.to_owned()),
        // Of which spec a run is, no Job tells.
        ..JobRef::default()
    }
}

/// The failures of `before` and of a Job's pods by reason, and how many of them are the Job's.
fn failures(
    job: &Job,
    pods: &[Pod],
    previous: Option<&JobRef>,
    before: BTreeMap<String, i64>,
) -> (BTreeMap<String, i64>, i64) {
    let mut by_reason = before;
    if job::pod_count(job) > 1 {
        return (by_reason, 0);
    }
    let failed: Vec<&Pod> = pods.iter().filter(|p| phase(p) == "Failed" && !was_sent_away(p)).collect();
    // How a Job ended that is begun again is counted by whoever decides what follows.
    let end = outcome::last_failed(pods).filter(|_| outcome::gave_up_early(job, pods));
    for pod in failed.iter().filter(|pod| !end.is_some_and(|end| std::ptr::eq(end, **pod))) {
        let times = by_reason.entry(why_failed(pod).0.as_str()).or_insert(0);
        *times = times.saturating_add(1);
    }
    // Pods that the cluster has removed since were counted while they were seen. What a queue takes away, it counts itself.
    let seen = previous.filter(|p| end.is_none() && p.uid.is_some() && is_of(p, job));
    let mut gone = 0;
    for (reason, times) in seen.into_iter().flat_map(|p| &p.retries) {
        if *reason != Reason::Preempted.as_str() {
            let now = by_reason.entry(reason.clone()).or_insert(0);
            gone = i64::saturating_add(gone, times.saturating_sub(*now).max(0));
            *now = (*now).max(*times);
        }
    }
    (by_reason, gone.saturating_add(failed.len() as i64))
}

/// Whether a count is of this very Job. One without a UID has let its Job go, which is deleted next; a Job that was made after it
/// begins with a later attempt.
fn is_of(count: &JobRef, job: &Job) -> bool {
    if count.uid.is_some() {
        return count.uid == job.metadata.uid;
    }
    let is_older = job::counted_before(job).attempt <= count.attempt;
    is_older && job.metadata.name.as_ref() == Some(&count.name)
}

/// The previous count of this very Job, and until when it was made.
fn since<'a>(job: &Job, previous: Option<&'a JobRef>) -> Option<(&'a JobRef, &'a str)> {
    let previous = previous.filter(|p| is_of(p, job))?;
    Some((previous, previous.last_counted_time.as_deref()?))
}

/// A pod that was asked to go and went in good order, as when its Job is suspended: nothing failed.
fn was_sent_away(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && why_failed(pod).0 == Reason::Suspended
}

/// Pods that a Job has started, by those that failed: one more, unless it has given up.
fn attempts(job: &Job, failed: i64) -> i64 {
    let gave_up = matches!(finished(job), Some(Finished::Failed { .. }));
    failed.saturating_add(i64::from(!gave_up)).max(1)
}

/// Accelerators held times seconds by the pods of a run, each from its start to its end, counted on as [`count_usage`] does.
/// `previous`: the count so far, and the job that it was made with.
pub fn accelerator_seconds(job: &Job, pods: &[Pod], previous: (i64, Option<&JobRef>), now: &str) -> i64 {
    let (before, since) = match since(job, previous.1) {
        Some((_, since)) => (previous.0, since),
        None => (job::accelerator_seconds_before(job), ""),
    };
    let held = pods.iter().filter_map(|pod| {
        let (started, ended) = lifetime(pod, now)?;
        Some(job::accelerators(pod).saturating_mul(seconds_between(started.as_str().max(since), &ended)))
    });
    let held: Vec<i64> = held.collect();
    // Of several pods the cluster removes those that it ends itself; they held theirs as long as the others. One that is seen
    // and has not started held none.
    let all = if is_finished(job) { job::pod_count(job) } else { 1 };
    let gone = (all - pods.len() as i64).max(0).saturating_mul(held.iter().max().copied().unwrap_or(0));
    held.into_iter().fold(before.saturating_add(gone), i64::saturating_add)
}

/// When a Job ended, which may be long before anybody looks at it (RFC 3339).
pub fn end_time(job: &Job) -> Option<String> {
    let status = job.status.as_ref()?;
    let conditions = status.conditions.iter().flatten();
    let over = conditions.filter(|c| c.status == "True").find_map(|c| c.last_transition_time.as_ref());
    status.completion_time.as_ref().or(over).or(job.metadata.deletion_timestamp.as_ref()).map(timestamp)
}

/// What is left of a pause that began when a Job ended.
pub fn remaining(pause: Duration, job: &Job, now: &str) -> Duration {
    let over = end_time(job).map_or(pause.as_secs(), |ended| seconds_between(&ended, now).unsigned_abs());
    pause.saturating_sub(Duration::from_secs(over))
}

/// Seconds from the start of a Job, or from `since` if that is later, to its end, or to `now`. One that is suspended has no
/// start: its pods tell.
fn elapsed(job: &Job, pods: &[Pod], since: &str, now: &str) -> i64 {
    let Some((start, end)) = (if is_suspended(job) { span(pods, now) } else { active(job, now) }) else { return 0 };
    seconds_between(start.as_str().max(since), &end)
}

fn active(job: &Job, now: &str) -> Option<(String, String)> {
    let start = timestamp(job.status.as_ref()?.start_time.as_ref()?);
    Some((start, end_time(job).unwrap_or_else(|| now.to_owned())))
}

/// From the first start of pods to their last end.
fn span(pods: &[Pod], now: &str) -> Option<(String, String)> {
    pods.iter().filter_map(|pod| lifetime(pod, now)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
}

/// From the start of a pod until it let go of what it held, or to `now`.
fn lifetime(pod: &Pod, now: &str) -> Option<(String, String)> {
    let started = timestamp(pod.status.as_ref()?.start_time.as_ref()?);
    let held_until = match ended_at(pod) {
        Some(ended) => ended,
        // Over, and nobody knows since when: what cannot be known is not charged.
        None if matches!(phase(pod), "Failed" | "Succeeded") => started.clone(),
        None => now.to_owned(),
    };
    Some((started, held_until))
}

/// When a pod let go of what it held: its trainer's end; of a pod that is over without one, as after an eviction or with its
/// node, the last change of its conditions.
fn ended_at(pod: &Pod) -> Option<String> {
    if let Some(finished) = terminated(pod).and_then(|t| t.finished_at.as_ref()) {
        return Some(timestamp(finished));
    }
    if !matches!(phase(pod), "Failed" | "Succeeded") {
        return None;
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().filter_map(|c| c.last_transition_time.as_ref()).map(timestamp).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::outcome::tests::{NOW, failed, failed_job, job, of_rank, pod, with_pods};
    use crate::plan::retry;
    use serde_json::{Value, json};

    #[test]
    fn attempts_retries_and_seconds_count_on_from_the_jobs_before() {
        let mut job = job(&json!({"startTime": "2026-01-01T00:30:00Z"}));
        let before = json!({"name": "x", "attempt": 3, "retries": {"JobDeleted": 1}, "activeSeconds": 100});
        job.metadata.annotations = Some([("plumbline.dev/before".to_owned(), before.to_string())].into());
        let counted = count_usage(&job, &[failed(4, "Error"), failed(4, "Error")], None, NOW);
        assert_eq!((counted.attempt, counted.active_seconds), (5, 100 + 1800));
        assert_eq!(counted.retries, [("JobDeleted".to_owned(), 1), ("JudgeUnavailable".to_owned(), 2)].into());
        assert_eq!(retry::failures(&counted), 2);
    }

    #[test]
    fn a_job_that_gave_up_counts_the_pods_that_failed_and_none_more() {
        let attempts = |job: &Job, pods: &[Pod]| count_usage(job, pods, None, NOW).attempt;
        assert_eq!(attempts(&job(&json!({})), &[]), 1);
        assert_eq!(attempts(&failed_job("BackoffLimitExceeded"), &[failed(1, ""), failed(1, "")]), 2);
        assert_eq!(
            count_usage(&failed_job("PodFailurePolicy"), &[], None, NOW).active_seconds,
            600,
            "until it failed, not until now"
        );
    }

    #[test]
    fn a_job_ended_when_it_was_complete_or_failed_and_one_that_runs_has_not() {
        let at = |status: &Value| end_time(&job(status));
        assert_eq!(at(&json!({"startTime": "2026-01-01T00:30:00Z"})), None);
        let complete = json!({"completionTime": "2026-01-01T00:20:00Z", "conditions": [
            {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:20:01Z"}]});
        assert_eq!(at(&complete).as_deref(), Some("2026-01-01T00:20:00Z"));
        assert_eq!(end_time(&failed_job("DeadlineExceeded")).as_deref(), Some("2026-01-01T00:10:00Z"));
    }

    #[test]
    fn a_pause_begins_when_a_job_ended_however_it_did() {
        let complete = job(&json!({"completionTime": "2026-01-01T00:10:00Z", "conditions": [
            {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:10:00Z"}]}));
        let left = |job: &Job, now: &str| remaining(Duration::from_secs(20), job, now).as_secs();
        for ended in [complete, failed_job("BackoffLimitExceeded")] {
            assert_eq!(left(&ended, "2026-01-01T00:10:05Z"), 15);
            assert_eq!(left(&ended, "2026-01-01T00:10:30Z"), 0);
        }
        assert_eq!(left(&job(&json!({})), NOW), 0, "it has not ended");
    }

    #[test]
    fn accelerators_count_from_the_start_of_a_pod_to_its_end() {
        let running = pod(&json!({"phase": "Running", "startTime": "2026-01-01T00:59:00Z"}));
        assert_eq!(
            accelerator_seconds(&job(&json!({})), &[failed(1, ""), running, pod(&json!({}))], (0, None), NOW),
            2 * (600 + 60)
        );
    }

    #[test]
    fn pods_that_the_cluster_removed_held_their_accelerators_as_long_as_those_that_are_seen() {
        let job = with_pods(failed_job("BackoffLimitExceeded"), 3);
        let killed = || of_rank(1, 137, "2026-01-01T00:10:00Z");
        assert_eq!(accelerator_seconds(&job, &[killed()], (0, None), NOW), 3 * 2 * 600);
        let pending = || pod(&json!({"phase": "Pending"}));
        assert_eq!(
            accelerator_seconds(&job, &[killed(), pending(), pending()], (0, None), NOW),
            2 * 600,
            "never started"
        );
    }

    #[test]
    fn a_pod_that_is_gone_without_a_word_of_its_trainer_holds_nothing_any_more() {
        let at = |minute: u32| format!("2026-01-01T00:{minute:02}:00Z");
        let changed =
            |kind: &str, minute: u32| json!({"type": kind, "status": "True", "lastTransitionTime": at(minute)});
        let evicted = pod(&json!({"phase": "Failed", "reason": "Evicted", "startTime": at(10),
            "conditions": [changed("PodScheduled", 9), changed("DisruptionTarget", 15)]}));
        let silent = pod(&json!({"phase": "Failed", "startTime": at(10)}));
        assert_eq!(accelerator_seconds(&job(&json!({})), &[evicted, silent], (0, None), NOW), 2 * 300);
        // The node holds the accelerator until the trainer has ended, whatever else is going on.
        let draining =
            pod(&json!({"phase": "Running", "startTime": at(50), "conditions": [changed("DisruptionTarget", 55)]}));
        assert_eq!(accelerator_seconds(&job(&json!({})), &[draining], (0, None), NOW), 2 * 600);
    }

    #[test]
    fn what_was_counted_stays_counted_when_a_queue_takes_the_pods_away() {
        let running = pod(&json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}));
        let started = job(&json!({"startTime": "2026-01-01T00:00:00Z"}));
        let mut suspended = job(&json!({}));
        suspended.spec.as_mut().unwrap().suspend = Some(true);
        let resumed = job(&json!({"startTime": "2026-01-01T02:00:00Z"}));
        let second = pod(&json!({"phase": "Running", "startTime": "2026-01-01T02:00:10Z"}));
        let (mut previous, mut held) = (None, 0);
        let mut at = |job: &Job, pods: &[Pod], now: &str| {
            held = accelerator_seconds(job, pods, (held, previous.as_ref()), now);
            let counted = count_usage(job, pods, previous.as_ref(), now);
            previous = Some(counted.clone());
            (counted.active_seconds, held)
        };
        assert_eq!(at(&started, std::slice::from_ref(&running), "2026-01-01T00:10:00Z"), (600, 1200));
        assert_eq!(at(&started, std::slice::from_ref(&running), "2026-01-01T00:10:00Z"), (600, 1200));
        // The start of the Job is forgotten at once, its pod takes a minute to go.
        assert_eq!(at(&suspended, std::slice::from_ref(&running), "2026-01-01T00:11:00Z"), (660, 1320));
        assert_eq!(at(&suspended, &[], "2026-01-01T01:00:00Z"), (660, 1320), "nothing is held while it waits");
        assert_eq!(at(&resumed, &[], "2026-01-01T02:00:10Z"), (670, 1320));
        assert_eq!(at(&resumed, &[second], "2026-01-01T02:00:30Z"), (690, 1360));
    }

    #[test]
    fn a_pod_that_its_queue_sent_away_has_not_failed() {
        let mut gone = failed(i32::from(plumbline_crds::exit_code::ExitCode::Interrupted.number()), "Error");
        assert_eq!(count_usage(&job(&json!({})), std::slice::from_ref(&gone), None, NOW).retries["Suspended"], 1);
        gone.metadata.deletion_timestamp = serde_json::from_value(json!(NOW)).unwrap();
        let counted = count_usage(&job(&json!({})), &[gone], None, NOW);
        assert_eq!((counted.retries.len(), counted.attempt), (0, 1));
    }

    #[test]
    fn seconds_go_on_from_the_last_count_while_the_next_attempt_waits() {
        // It was in a queue before, so its start is not that of its first pod.
        let mut job = with_pods(failed_job("BackoffLimitExceeded"), 2);
        let at = |uid: Option<&str>, attempt: i64| JobRef {
            name: "r-reward-1-2".into(),
            uid: uid.map(str::to_owned),
            attempt,
            active_seconds: 5000,
            last_counted_time: Some("2026-01-01T00:09:00Z".into()),
            ..JobRef::default()
        };
        let count = |job: &Job, previous: &JobRef| {
            let counted = count_usage(job, &[], Some(previous), NOW);
            (counted.active_seconds, counted.uid)
        };
        assert_eq!(count(&job, &at(Some("u"), 1)), (5060, Some("u".to_owned())));
        assert_eq!(count(&job, &at(None, 1)), (5060, None), "it was let go");
        // The next attempt has a Job of the same name.
        let before = json!({"name": "r-reward-1-2", "attempt": 2, "retries": {}, "activeSeconds": 5060});
        job.metadata.annotations = Some([("plumbline.dev/before".to_owned(), before.to_string())].into());
        assert_eq!(count(&job, &at(None, 1)), (5060 + 600, Some("u".to_owned())));
    }

    #[test]
    fn a_failure_stays_counted_when_the_cluster_removes_its_pod() {
        let mut evicted = failed(137, "Error");
        evicted.status.as_mut().unwrap().conditions = serde_json::from_value(json!([
            {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drained"}]))
        .unwrap();
        let running = || pod(&json!({"phase": "Running", "startTime": "2026-01-01T00:20:00Z"}));
        let (started, mut previous) = (job(&json!({"startTime": "2026-01-01T00:00:00Z"})), None);
        let mut at = |job: &Job, pods: &[Pod]| {
            let counted = count_usage(job, pods, previous.as_ref(), NOW);
            let summed = (counted.attempt, counted.retries.clone());
            previous = Some(counted);
            summed
        };
        let once = [("NodeDisruption".to_owned(), 1)].into();
        assert_eq!(at(&started, &[evicted, running()]), (2, once));
        assert_eq!(
            at(&started, &[running()]),
            (2, [("NodeDisruption".to_owned(), 1)].into()),
            "the drained pod is gone"
        );
        let both = || [("NodeDisruption".to_owned(), 1), ("OutOfMemory".to_owned(), 1)].into();
        let killed = || failed(137, "OOMKilled");
        assert_eq!(at(&started, &[killed(), running()]), (3, both()));
        assert_eq!(at(&failed_job("BackoffLimitExceeded"), &[killed()]), (2, both()), "two pods were started");
    }
}
