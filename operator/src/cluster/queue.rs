//! What Kueue says of a Job that waits in its queue, by the Workload that it keeps for it (`kueue.x-k8s.io/v1beta2`). Computes
//! only.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use plumbline_crds::conditions::Reason;
use plumbline_crds::status::JobRef;
use serde::Deserialize;

use super::times::{seconds_between, timestamp};
use crate::plan::{Obstacle, Run};

/// What is read of a Workload.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Workload {
    /// Its status.
    pub status: WorkloadStatus,
}

/// Status of a Workload.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadStatus {
    /// QuotaReserved, Admitted, Evicted and others.
    pub conditions: Vec<WorkloadCondition>,
    /// What has happened to it so far.
    pub scheduling_stats: SchedulingStats,
}

/// A condition, in the shape of `meta/v1` Condition.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct WorkloadCondition {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// In a word.
    pub reason: String,
    /// In a sentence.
    pub message: String,
}

/// Counts over the life of a Workload.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct SchedulingStats {
    /// How often it lost its quota, by reason.
    pub evictions: Vec<Evictions>,
}

/// Evictions for one reason.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Evictions {
    /// The reason.
    pub reason: String,
    /// How many.
    pub count: i64,
}

/// Between two looks until Kueue has said something, and after that.
const QUEUED: Duration = Duration::from_secs(2);
const STILL_QUEUED: Duration = Duration::from_mins(1);
/// Seconds within which Kueue says something.
const SOON: i64 = 30;
/// Reason of an eviction: another Workload needs the quota.
const PREEMPTED: &str = "Preempted";
/// Reason of an eviction: it was switched off.
const DEACTIVATED: &str = "Deactivated";

/// The same run, with Kueue's own words for why it waits.
pub fn explained(run: Run, workload: Option<&Workload>) -> Run {
    match (run, workload) {
        (Run::Running(Some(waits)), Some(workload)) if waits.reason == Reason::QuotaPending => {
            Run::Running(Some(obstacle(&waits, workload)))
        }
        (run, _) => run,
    }
}

/// How long to wait until a Job that waits in a queue is looked at again: what Kueue says of it is no change of the Job. It says
/// it soon after the Job has begun to wait, or there is no Kueue that says anything.
pub fn patience(job: &Job, workload: Option<&Workload>, now: &str) -> Duration {
    let suspended = job.status.as_ref().and_then(|s| s.conditions.as_ref()).into_iter().flatten();
    let suspended = suspended.filter(|c| c.type_ == "Suspended" && c.status == "True");
    let since = suspended.filter_map(|c| c.last_transition_time.as_ref()).chain(&job.metadata.creation_timestamp);
    let waits = since.map(|since| seconds_between(&timestamp(since), now)).min().unwrap_or(0);
    let is_explained = workload.is_some_and(|workload| workload.condition("QuotaReserved").is_some());
    if is_explained || waits > SOON { STILL_QUEUED } else { QUEUED }
}

/// The job with the times counted that Kueue took its quota away: each began a new attempt, and none was a failure.
pub fn count_evictions(mut job: JobRef, workload: Option<&Workload>) -> JobRef {
    let Some(workload) = workload else { return job };
    let evictions = &workload.status.scheduling_stats.evictions;
    let sum = |counts: &mut dyn Iterator<Item = i64>| counts.fold(0, i64::saturating_add);
    let preemptions = sum(&mut evictions.iter().filter(|e| e.reason == PREEMPTED).map(|e| e.count));
    if preemptions > 0 {
        let times = job.retries.entry(Reason::Preempted.as_str()).or_insert(0);
        *times = times.saturating_add(preemptions);
    }
    job.attempt = job.attempt.saturating_add(sum(&mut evictions.iter().map(|e| e.count)));
    job
}

impl Workload {
    fn condition(&self, kind: &str) -> Option<&WorkloadCondition> {
        self.status.conditions.iter().find(|c| c.kind == kind)
    }
}

/// `waits`: what the Job alone tells.
fn obstacle(waits: &Obstacle, workload: &Workload) -> Obstacle {
    let waits = &waits.message;
    let told = match (workload.condition("QuotaReserved"), workload.condition("Admitted")) {
        (Some(quota), _) if quota.status != "True" => format!("{waits}: {}", quota.message),
        (Some(_), Some(admitted)) if admitted.status != "True" => format!("{waits}: {}", admitted.message),
        _ => waits.clone(),
    };
    let evicted = workload.condition("Evicted").filter(|c| c.status == "True");
    let (reason, message) = match evicted {
        None => (Reason::QuotaPending, told),
        Some(evicted) if evicted.reason == PREEMPTED => {
            (Reason::Preempted, format!("{}; it resumes from its last checkpoint and {told}", evicted.message))
        }
        Some(evicted) if evicted.reason.starts_with(DEACTIVATED) => {
            let advice = "it resumes when spec.active of its Workload is true";
            (Reason::Suspended, format!("Kueue holds it back: {}; {advice}", evicted.message))
        }
        Some(evicted) => (Reason::QuotaPending, format!("evicted, {}: {}; {told}", evicted.reason, evicted.message)),
    };
    Obstacle { reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn workload(status: &Value) -> Workload {
        serde_json::from_value(json!({"metadata": {"name": "w"}, "spec": {}, "status": status})).unwrap()
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message})
    }

    fn waiting() -> Run {
        Run::Running(Some(Obstacle { reason: Reason::QuotaPending, message: "waits in the queue q for quota".into() }))
    }

    fn said(conditions: &[Value]) -> (Reason, String) {
        match explained(waiting(), Some(&workload(&json!({"conditions": conditions})))) {
            Run::Running(Some(obstacle)) => (obstacle.reason, obstacle.message),
            run => panic!("{run:?}"),
        }
    }

    #[test]
    fn what_waits_waits_for_what_kueue_says() {
        let quota = condition("QuotaReserved", "False", "Pending", "insufficient unused quota for cpu");
        let checks = condition("Admitted", "False", "NoChecks", "the check c is not ready");
        let reserved = condition("QuotaReserved", "True", "QuotaReserved", "reserved");
        let word = |text: &str| (Reason::QuotaPending, text.to_owned());
        assert_eq!(said(&[]), word("waits in the queue q for quota"));
        assert_eq!(
            said(std::slice::from_ref(&quota)),
            word("waits in the queue q for quota: insufficient unused quota for cpu")
        );
        assert_eq!(said(&[reserved, checks]), word("waits in the queue q for quota: the check c is not ready"));
        let stopped = condition("Evicted", "True", "ClusterQueueStopped", "the queue is stopped");
        assert!(said(&[quota, stopped]).1.starts_with("evicted, ClusterQueueStopped: the queue is stopped; waits in"));
    }

    #[test]
    fn a_preemption_and_a_deactivation_have_words_of_their_own() {
        let quota = condition("QuotaReserved", "False", "Pending", "no quota");
        let preempted = condition("Evicted", "True", "Preempted", "Preempted to accommodate a workload");
        let (reason, message) = said(&[quota.clone(), preempted]);
        assert_eq!(reason, Reason::Preempted);
        assert_eq!(
            message,
            "Preempted to accommodate a workload; it resumes from its last checkpoint and waits in the queue q for quota: no quota"
        );
        let off = condition("Evicted", "True", "DeactivatedDueToRequeuingLimitExceeded", "too often");
        assert_eq!(said(&[quota.clone(), off]).0, Reason::Suspended);
        // What is over is no news.
        let over = condition("Evicted", "False", "Preempted", "was preempted");
        assert_eq!(said(&[quota, over]).0, Reason::QuotaPending);
    }

    #[test]
    fn only_what_waits_in_a_queue_is_explained() {
        let preempted = workload(&json!({"conditions": [condition("Evicted", "True", "Preempted", "p")]}));
        assert_eq!(explained(Run::Running(None), Some(&preempted)), Run::Running(None));
        assert_eq!(explained(Run::Stopping, Some(&preempted)), Run::Stopping);
        assert_eq!(explained(waiting(), None), waiting());
    }

    #[test]
    fn evictions_are_attempts_and_preemptions_are_told_among_the_retries() {
        let stats = json!({"evictions": [{"reason": "Preempted", "underlyingCause": "InClusterQueue", "count": 2},
            {"reason": "PodsReadyTimeout", "underlyingCause": "", "count": 1}]});
        let job = JobRef { attempt: 1, retries: [("Preempted".to_owned(), 1)].into(), ..JobRef::default() };
        let counted = count_evictions(job.clone(), Some(&workload(&json!({"schedulingStats": stats}))));
        assert_eq!((counted.attempt, counted.retries["Preempted"]), (4, 3));
        assert_eq!(count_evictions(job.clone(), None), job);
    }

    #[test]
    fn a_job_is_looked_at_often_until_kueue_has_spoken_or_is_not_going_to() {
        let at = |second: u32| format!("2026-01-01T00:00:{second:02}Z");
        let job = |suspended: u32| -> Job {
            let condition = json!({"type": "Suspended", "status": "True", "lastTransitionTime": at(suspended)});
            serde_json::from_value(
                json!({"metadata": {"creationTimestamp": at(0)}, "status": {"conditions": [condition]}}),
            )
            .unwrap()
        };
        let explained = workload(&json!({"conditions": [condition("QuotaReserved", "False", "Pending", "no quota")]}));
        let silent = workload(&json!({}));
        assert_eq!(patience(&job(1), Some(&explained), &at(2)), STILL_QUEUED);
        for unheard in [Some(&silent), None] {
            assert_eq!(patience(&job(1), unheard, &at(30)), QUEUED);
            assert_eq!(patience(&job(1), unheard, &at(59)), STILL_QUEUED);
            assert_eq!(patience(&job(50), unheard, &at(59)), QUEUED, "it was sent back to the queue");
        }
    }
}
