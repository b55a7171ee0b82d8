//! What running stages say of themselves, on its way to their statuses: the newest report of each, checked, and written
//! so rarely that the API server need not mind. Computes only.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use plumbline_crds::Kind;
use plumbline_crds::run::ProgressReport;
use plumbline_crds::status::MAX_METRICS;

/// Between two writes of one resource's progress.
pub const INTERVAL: Duration = Duration::from_secs(15);
/// Resources whose reports are kept at once.
const MAX_RESOURCES: usize = 10_000;
/// Bounds of the schema (`status`).
const MAX_NAME: usize = 128;
const MAX_WORD: usize = 64;
const MAX_AMOUNT: usize = 32;

/// The resource that a pod works for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// UID of the Job through which it owns the pod.
    pub job: String,
    /// UID of the pod.
    pub pod: String,
}

/// When the progress of a resource is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// At once.
    WriteNow,
    /// At this moment, not earlier.
    WriteAt(Instant),
    /// Whoever was told to write earlier will write this too.
    Queued,
}

/// The newest report of each resource.
#[derive(Debug, Default)]
pub struct Latest {
    entries: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    job: String,
    report: Option<ProgressReport>,
    /// The next write is not due before.
    due: Instant,
    /// The write that somebody was told to do.
    asked: Option<Instant>,
}

impl Latest {
    /// Keeps a report in place of an earlier one.
    pub fn offer(&self, owner: &Owner, report: ProgressReport, now: Instant) -> Offer {
        let mut entries = self.locked();
        if entries.len() >= MAX_RESOURCES && !entries.contains_key(&owner.uid) {
            // The one that was not heard of for the longest time is most likely gone.
            let oldest = entries.iter().min_by_key(|(_, e)| e.due).map(|(uid, _)| uid.clone());
            oldest.and_then(|uid| entries.remove(&uid));
        }
        let fresh = || Entry { job: String::new(), report: None, due: now, asked: None };
        let entry = entries.entry(owner.uid.clone()).or_insert_with(fresh);
        entry.job.clone_from(&owner.job);
        entry.report = Some(report);
        // A write that was asked for and never came is asked for again.
        if entry.asked.is_some_and(|at| now < at + INTERVAL) {
            return Offer::Queued;
        }
        let at = entry.due.max(now);
        entry.asked = Some(at);
        if at == now { Offer::WriteNow } else { Offer::WriteAt(at) }
    }

    /// The report to write now, if one is due that came from this Job: what an earlier Job said is not true of a later one. It is
    /// due until it is [`written`](Self::written).
    pub fn due(&self, uid: &str, job: &str, now: Instant) -> Option<ProgressReport> {
        let mut entries = self.locked();
        let entry = entries.get_mut(uid).filter(|e| e.due <= now)?;
        if entry.job != job {
            (entry.report, entry.asked) = (None, None);
        }
        entry.report.clone()
    }

    /// A report that was due is written. One that has come since waits for its turn.
    pub fn written(&self, uid: &str, report: &ProgressReport, now: Instant) {
        if let Some(entry) = self.locked().get_mut(uid) {
            entry.report.take_if(|newest| newest == report);
            (entry.asked, entry.due) = (None, now + INTERVAL);
        }
    }

    /// Nobody was found to do the write that was asked for: the next report asks again.
    pub fn unasked(&self, uid: &str) {
        if let Some(entry) = self.locked().get_mut(uid) {
            entry.asked = None;
        }
    }

    /// The resource's run is over, or it is gone.
    pub fn forget(&self, uid: &str) {
        self.locked().remove(uid);
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a report and checks that a status can hold it.
///
/// # Errors
/// The field, what was expected and what was found.
pub fn read(body: &[u8]) -> Result<ProgressReport, String> {
    let report: ProgressReport = serde_json::from_slice(body).map_err(|e| format!("not a progress report: {e}"))?;
    let progress = &report.progress;
    word("progress.stage", &progress.stage, MAX_WORD)?;
    not_negative("progress.completed", progress.completed)?;
    not_negative("progress.total", progress.total)?;
    if !(0..=100).contains(&progress.percent) {
        return Err(format!("progress.percent: expected 0 to 100, found {}", progress.percent));
    }
    not_negative("progress.etaSeconds", progress.eta_seconds.unwrap_or(0))?;
    let time = &progress.last_update_time;
    if !time.is_empty() && (time.len() > MAX_WORD || time.parse::<Timestamp>().is_err()) {
        return Err("progress.lastUpdateTime: expected a time in RFC 3339".into());
    }
    if report.metrics.len() > MAX_METRICS {
        return Err(format!("metrics: expected at most {MAX_METRICS}, found {}", report.metrics.len()));
    }
    let mut names = BTreeSet::new();
    for (i, metric) in report.metrics.iter().enumerate() {
        word(&format!("metrics[{i}].name"), &metric.name, MAX_NAME)?;
        if metric.name.is_empty() || !names.insert(&metric.name) {
            return Err(format!("metrics[{i}].name: expected a name of its own"));
        }
        decimal(&format!("metrics[{i}].value"), &metric.value, MAX_WORD)?;
    }
    if let Some(cost) = &report.cost {
        not_negative("cost.requests", cost.requests)?;
        not_negative("cost.promptTokens", cost.prompt_tokens)?;
        not_negative("cost.completionTokens", cost.completion_tokens)?;
        if let Some(amount) = &cost.amount {
            decimal("cost.amount", amount, MAX_AMOUNT)?;
        }
        let letters = |c: &String| c.len() == 3 && c.bytes().all(|b| b.is_ascii_uppercase());
        if cost.currency.as_ref().is_some_and(|c| !letters(c)) {
            return Err("cost.currency: expected three capital letters (ISO 4217)".into());
        }
    }
    Ok(report)
}

fn word(field: &str, text: &str, most: usize) -> Result<(), String> {
    if text.chars().count() > most || text.chars().any(char::is_control) {
        return Err(format!("{field}: expected at most {most} characters, all printable"));
    }
    Ok(())
}

fn not_negative(field: &str, number: i64) -> Result<(), String> {
    if number < 0 { Err(format!("{field}: expected 0 or more, found {number}")) } else { Ok(()) }
}

fn decimal(field: &str, text: &str, most: usize) -> Result<(), String> {
    if text.len() > most || text.parse::<f64>().is_err() {
        return Err(format!("{field}: expected a number of at most {most} characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn owner(uid: &str) -> Owner {
        let (namespace, name, job, pod) = ("team".into(), uid.into(), format!("job-of-{uid}"), "p".into());
        Owner { kind: Kind::RewardModel, namespace, name, uid: uid.into(), job, pod }
    }

    fn at(percent: i64) -> ProgressReport {
        read(json!({"progress": {"percent": percent}}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_resource_is_written_at_once_and_then_every_fifteen_seconds_at_most() {
        let (latest, start) = (Latest::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(latest.offer(&owner("a"), at(1), start), Offer::WriteNow);
        assert_eq!(latest.due("a", "job-of-a", start), Some(at(1)));
        latest.written("a", &at(1), start);
        assert_eq!(latest.due("a", "job-of-a", after(99)), None, "nothing new is written twice");
        assert_eq!(latest.offer(&owner("a"), at(2), after(1)), Offer::WriteAt(after(15)));
        assert_eq!(latest.offer(&owner("a"), at(3), after(2)), Offer::Queued);
        assert_eq!(latest.due("a", "job-of-a", after(14)), None, "a reconcile for another cause writes no progress");
        assert_eq!(latest.due("a", "job-of-a", after(15)), Some(at(3)), "the newest");
        assert_eq!(latest.offer(&owner("b"), at(4), after(15)), Offer::WriteNow, "another resource does not wait");
    }

    #[test]
    fn a_report_is_due_until_it_is_written_and_a_newer_one_after_that() {
        let (latest, start) = (Latest::default(), Instant::now());
        latest.offer(&owner("a"), at(1), start);
        assert_eq!(latest.due("a", "job-of-a", start), Some(at(1)));
        assert_eq!(latest.due("a", "job-of-a", start), Some(at(1)), "the write has failed");
        latest.offer(&owner("a"), at(2), start);
        latest.written("a", &at(1), start);
        assert_eq!(latest.due("a", "job-of-a", start), None);
        assert_eq!(latest.due("a", "job-of-a", start + INTERVAL), Some(at(2)));
    }

    #[test]
    fn a_write_that_was_asked_for_and_never_came_is_asked_for_again() {
        let (latest, start) = (Latest::default(), Instant::now());
        assert_eq!(latest.offer(&owner("a"), at(1), start), Offer::WriteNow);
        assert_eq!(latest.offer(&owner("a"), at(2), start + INTERVAL / 2), Offer::Queued);
        assert_ne!(latest.offer(&owner("a"), at(3), start + INTERVAL), Offer::Queued);
        latest.unasked("a");
        assert_ne!(latest.offer(&owner("a"), at(4), start + INTERVAL), Offer::Queued);
    }

    #[test]
    fn what_an_earlier_job_said_is_not_taken_for_a_later_one() {
        let (latest, start) = (Latest::default(), Instant::now());
        latest.offer(&owner("a"), at(90), start);
        assert_eq!(latest.due("a", "job-after-it", start), None);
        assert_eq!(latest.due("a", "job-of-a", start), None, "it is gone");
        latest.offer(&owner("a"), at(91), start);
        latest.forget("a");
        assert_eq!(latest.due("a", "job-of-a", start + INTERVAL), None);
    }

    #[test]
    fn reports_are_kept_for_a_bounded_number_of_resources() {
        let (latest, start) = (Latest::default(), Instant::now());
        for i in 0..=MAX_RESOURCES {
            latest.offer(&owner(&i.to_string()), at(1), start + Duration::from_millis(i as u64));
        }
        let later = start + Duration::from_mins(10);
        assert_eq!(latest.due("0", "job-of-0", later), None, "the oldest made room");
        assert_eq!(latest.due("1", "job-of-1", later), Some(at(1)));
        assert_eq!(latest.locked().len(), MAX_RESOURCES);
    }

    #[test]
    fn a_whole_report_is_read_as_it_is() {
        let report = json!({
            "progress": {"stage": "Training", "completed": 5, "total": 10, "percent": 50, "etaSeconds": 3,
                "lastUpdateTime": "2026-01-01T00:00:00Z"},
            "metrics": [{"name": "rewards/accuracies", "value": "0.71"}, {"name": "loss", "value": "NaN"}],
            "cost": {"requests": 1, "promptTokens": 2, "completionTokens": 3, "amount": "0.01", "currency": "USD"}
        });
        let read = read(report.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), report);
    }

    #[test]
    fn what_a_status_cannot_hold_is_refused_with_its_field() {
        let metric = |name: &str, value: &str| json!({"name": name, "value": value});
        let cases = [
            (json!([1]), "not a progress report"),
            (json!({}), "not a progress report"),
            (json!({"progress": {"percent": 101}}), "progress.percent"),
            (json!({"progress": {"percent": -1}}), "progress.percent"),
            (json!({"progress": {"percent": "50"}}), "not a progress report"),
            (json!({"progress": {"completed": -1}}), "progress.completed"),
            (json!({"progress": {"total": -1}}), "progress.total"),
            (json!({"progress": {"etaSeconds": -1}}), "progress.etaSeconds"),
            (json!({"progress": {"stage": "x".repeat(65)}}), "progress.stage"),
            (json!({"progress": {"stage": "a\nb"}}), "progress.stage"),
            (json!({"progress": {"lastUpdateTime": "yesterday"}}), "progress.lastUpdateTime"),
            (json!({"progress": {}, "metrics": vec![metric("a", "1"); 33]}), "metrics"),
            (json!({"progress": {}, "metrics": [metric("a", "1"), metric("a", "2")]}), "metrics[1].name"),
            (json!({"progress": {}, "metrics": [metric("", "1")]}), "metrics[0].name"),
            (json!({"progress": {}, "metrics": [metric("a", "high")]}), "metrics[0].value"),
            (json!({"progress": {}, "metrics": [metric("a", &"1".repeat(65))]}), "metrics[0].value"),
            (json!({"progress": {}, "cost": {"requests": -1}}), "cost.requests"),
            (json!({"progress": {}, "cost": {"amount": "much"}}), "cost.amount"),
            (json!({"progress": {}, "cost": {"currency": "usd"}}), "cost.currency"),
        ];
        for (report, field) in cases {
            let error = read(report.to_string().as_bytes()).unwrap_err();
            assert!(error.starts_with(field), "{report}: {error}");
        }
    }
}
