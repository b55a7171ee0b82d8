//! What the operator counts, in Prometheus' text format. Labels come from closed lists: kinds, reasons, verbs; never
//! names. Computes only.
//!
//! What is counted of runs is the difference between the status that was and the one that was written in its place. The
//! former comes from the cluster, so a restarted operator counts on from there: it counts nothing again, and misses what
//! it wrote in the moment before it was killed.

use std::collections::BTreeMap;
use std::time::Duration;

use plumbline_crds::Kind;
use plumbline_crds::conditions::{ConditionStatus, ConditionType, Reason};
use plumbline_crds::status::{Cost, Status};
use prometheus::core::Collector;
use prometheus::{
    CounterVec, Gauge, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::times::seconds_between;

/// Currencies that have a label of their own; a manifest may write anything of three letters.
const CURRENCIES: [&str; 12] = ["USD", "EUR", "GBP", "JPY", "CNY", "INR", "CHF", "CAD", "AUD", "KRW", "SEK", "BRL"];
const RECONCILE_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
const MINUTE: f64 = 60.0;
const HOUR: f64 = 60.0 * MINUTE;

/// How a progress report was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostOutcome {
    /// It will be seen in the status.
    Accepted,
    /// Too many that had to be verified, from this address or in all; or too many of one pod.
    RateLimited,
    /// No token, or one that the API server does not vouch for.
    Unauthenticated,
    /// A token for somebody else.
    WrongAudience,
    /// A token of nothing that belongs to a resource.
    NotOwned,
    /// More bytes than a report has.
    TooLarge,
    /// No report, or one with impossible values.
    Malformed,
    /// The API server could not be asked, or this operator does not lead. The same report may pass later.
    Unavailable,
}

impl PostOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::RateLimited => "rate_limited",
            Self::Unauthenticated => "unauthenticated",
            Self::WrongAudience => "wrong_audience",
            Self::NotOwned => "not_owned",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What is not counted as it happens but looked at when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Kind and leading reason of every resource there is.
    pub resources: Vec<(Kind, Reason)>,
    /// Whether this process leads.
    pub leader: bool,
    /// How long ago the quietest controller showed activity.
    pub last_activity_age: Duration,
}

/// The operator's metrics, in a registry of their own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconcile_duration: HistogramVec,
    reconcile_errors: IntCounterVec,
    runs_started: IntCounterVec,
    runs_ended: IntCounterVec,
    run_duration: HistogramVec,
    time_to_start: HistogramVec,
    retries: IntCounterVec,
    misfits: IntCounterVec,
    accelerator_seconds: IntCounterVec,
    judge_requests: IntCounterVec,
    judge_tokens: IntCounterVec,
    judge_cost: CounterVec,
    progress_reports: IntCounterVec,
    kube_api_requests: IntCounterVec,
}

impl Metrics {
    /// # Errors
    /// None that depends on anything but this file.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            registered(&registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
        };
        let run_buckets = [1.0, 5.0, 15.0, 30.0].map(|n| n * MINUTE).into_iter();
        let run_buckets: Vec<f64> =
            run_buckets.chain([1.0, 3.0, 6.0, 12.0, 24.0, 72.0, 168.0].map(|n| n * HOUR)).collect();
        let delay_buckets = [1.0, 5.0, 15.0, MINUTE, 5.0 * MINUTE, 15.0 * MINUTE, HOUR, 6.0 * HOUR, 24.0 * HOUR];
        let cost = Opts::new("plumbline_judge_cost_total", "Money that judges cost, as their manifests price them.");
        Ok(Self {
            reconcile_duration: histogram(
                "plumbline_reconcile_duration_seconds",
                "Seconds that one reconcile took.",
                &["kind"],
                &RECONCILE_BUCKETS,
            )?,
            reconcile_errors: counter(
                "plumbline_reconcile_errors_total",
                "Reconciles that failed and are retried, by the step that failed.",
                &["kind", "error"],
            )?,
            runs_started: counter("plumbline_runs_started_total", "Runs that were started.", &["kind"])?,
            runs_ended: counter("plumbline_runs_ended_total", "Runs that ended, by reason.", &["kind", "reason"])?,
            run_duration: histogram(
                "plumbline_run_duration_seconds",
                "Seconds that a run took over all its attempts, without those it was suspended.",
                &["kind", "outcome"],
                &run_buckets,
            )?,
            time_to_start: histogram(
                "plumbline_time_to_start_seconds",
                "Seconds from the creation of a resource to its first progress, where its spec did not change meanwhile.",
                &["kind"],
                &delay_buckets,
            )?,
            retries: counter("plumbline_retries_total", "Attempts that ended early, by reason.", &["kind", "reason"])?,
            misfits: counter(
                "plumbline_status_misfits_total",
                "Values that a run said and a status cannot hold: cut to their bounds, or left out.",
                &["kind"],
            )?,
            accelerator_seconds: counter(
                "plumbline_accelerator_seconds_total",
                "Accelerators held times seconds.",
                &["kind"],
            )?,
            judge_requests: counter("plumbline_judge_requests_total", "Requests that judges answered.", &[])?,
            judge_tokens: counter("plumbline_judge_tokens_total", "Tokens that judges read and wrote.", &["type"])?,
            judge_cost: registered(&registry, CounterVec::new(cost, &["currency"])?)?,
            progress_reports: counter(
                "plumbline_progress_reports_total",
                "Progress reports of pods, by how they were answered.",
                &["outcome"],
            )?,
            kube_api_requests: counter(
                "plumbline_kube_api_requests_total",
                "Requests to the API server, by the code of the answer; error where there was none.",
                &["verb", "resource", "code"],
            )?,
            registry,
        })
    }

    /// A reconcile ended, either way.
    pub fn reconciled(&self, kind: Kind, took: Duration) {
        self.reconcile_duration.with_label_values(&[kind.to_string()]).observe(took.as_secs_f64());
    }

    /// A reconcile failed. `error` names the variant, never its content.
    pub fn reconcile_failed(&self, kind: Kind, error: &'static str) {
        self.reconcile_errors.with_label_values(&[kind.to_string().as_str(), error]).inc();
    }

    /// A status was written without values that it cannot hold.
    pub fn misfits(&self, kind: Kind, many: usize) {
        self.misfits.with_label_values(&[&kind.to_string()]).inc_by(many as u64);
    }

    /// A progress report was answered.
    pub fn progress_posted(&self, outcome: PostOutcome) {
        self.progress_reports.with_label_values(&[outcome.as_str()]).inc();
    }

    /// A request to the API server ended; without a code where no answer came.
    pub fn api_request(&self, verb: &str, resource: &str, code: Option<u16>) {
        let code = code.map_or_else(|| "error".to_owned(), |code| code.to_string());
        self.kube_api_requests.with_label_values(&[verb, resource, &code]).inc();
    }

    /// A status was written in place of another. Call it once for each write that succeeded, with the status that the new
    /// one was computed from. `created` is when the resource was (RFC 3339).
    pub fn status_changed(&self, kind: Kind, created: &str, before: &Status, after: &Status) {
        let label = kind.to_string();
        let label = label.as_str();
        let started = after.start_time.is_some() && after.start_time != before.start_time;
        if started {
            self.runs_started.with_label_values(&[label]).inc();
        }
        // A new run counts from nothing.
        let nothing = Status::default();
        let before = if started { &nothing } else { before };
        self.ended(label, before, after);
        if let (None, Some(progress), 1) = (&before.progress, &after.progress, after.observed_generation)
            && !progress.last_update_time.is_empty()
        {
            let delay = seconds_between(created, &progress.last_update_time);
            self.time_to_start.with_label_values(&[label]).observe(delay as f64);
        }
        let retried = |status: &Status| status.job.as_ref().map(|j| j.retries.clone()).unwrap_or_default();
        for (reason, more) in grown(&retried(before), &retried(after)) {
            self.retries.with_label_values(&[label, &reason]).inc_by(more);
        }
        let held = |status: &Status| status.accelerator_seconds.unwrap_or(0);
        self.accelerator_seconds.with_label_values(&[label]).inc_by(increase(held(before), held(after)));
        self.judged(&before.cost.clone().unwrap_or_default(), &after.cost.clone().unwrap_or_default());
    }

    /// Everything, in the text exposition format (version 0.0.4).
    ///
    /// # Errors
    /// None that depends on anything but this file.
    pub fn text(&self, snapshot: &Snapshot) -> prometheus::Result<String> {
        let mut families = self.registry.gather();
        families.extend(looked_at(snapshot)?.gather());
        TextEncoder::new().encode_to_string(&families)
    }

    fn ended(&self, kind: &str, before: &Status, after: &Status) {
        let end = |status: &Status| {
            let succeeded = status.condition(ConditionType::Succeeded)?;
            (succeeded.status != ConditionStatus::Unknown).then_some((succeeded.status, succeeded.reason))
        };
        if after.job.is_none() || end(before).is_some() {
            return;
        }
        let Some((status, reason)) = end(after) else { return };
        self.runs_ended.with_label_values(&[kind, &reason.as_str()]).inc();
        let outcome = if status == ConditionStatus::True { "succeeded" } else { "failed" };
        let seconds = after.job.as_ref().map_or(0, |job| job.active_seconds);
        self.run_duration.with_label_values(&[kind, outcome]).observe(seconds as f64);
    }

    fn judged(&self, before: &Cost, after: &Cost) {
        let none: [&str; 0] = [];
        self.judge_requests.with_label_values(&none).inc_by(increase(before.requests, after.requests));
        let tokens = [
            ("prompt", before.prompt_tokens, after.prompt_tokens),
            ("completion", before.completion_tokens, after.completion_tokens),
        ];
        for (kind, before, after) in tokens {
            self.judge_tokens.with_label_values(&[kind]).inc_by(increase(before, after));
        }
        let amount = |cost: &Cost| cost.amount.as_ref().and_then(|a| a.parse().ok()).unwrap_or(0.0f64);
        let (more, currency) = (amount(after) - amount(before), after.currency.as_deref().unwrap_or("USD"));
        if more > 0.0 && more.is_finite() {
            let currency = CURRENCIES.into_iter().find(|c| *c == currency).unwrap_or("other");
            self.judge_cost.with_label_values(&[currency]).inc_by(more);
        }
    }
}

/// What is looked at when somebody asks. Made anew each time, so that nothing that is gone stays.
fn looked_at(snapshot: &Snapshot) -> prometheus::Result<Registry> {
    let registry = Registry::new();
    let resources = Opts::new("plumbline_resources", "Resources, by the reason of their leading condition.");
    let resources = registered(&registry, IntGaugeVec::new(resources, &["kind", "reason"])?)?;
    for (kind, reason) in &snapshot.resources {
        resources.with_label_values(&[kind.to_string(), reason.as_str()]).inc();
    }
    let leader = IntGauge::new("plumbline_leader", "1 while this process leads, else 0.")?;
    registered(&registry, leader)?.set(i64::from(snapshot.leader));
    let age = Gauge::new(
        "plumbline_controller_last_activity_age_seconds",
        "Seconds since the quietest controller last reconciled or renewed its watch.",
    )?;
    registered(&registry, age)?.set(snapshot.last_activity_age.as_secs_f64());
    Ok(registry)
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

/// What a number that only grows has grown by.
fn increase(before: i64, after: i64) -> u64 {
    u64::try_from(after.saturating_sub(before)).unwrap_or(0)
}

/// What each of the retries has grown by. Only reasons of the closed list: whoever may write a status may not add labels.
fn grown(before: &BTreeMap<String, i64>, after: &BTreeMap<String, i64>) -> Vec<(String, u64)> {
    let known =
        |reason: &str| serde_json::from_value(reason.into()).is_ok_and(|found: Reason| found.as_str() == reason);
    let more =
        |(reason, now): (&String, &i64)| (reason.clone(), increase(before.get(reason).copied().unwrap_or(0), *now));
    after.iter().filter(|(reason, _)| known(reason)).map(more).filter(|(_, more)| *more > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumbline_crds::status::Metric;

    fn status(value: serde_json::Value) -> Status {
        serde_json::from_value(value).unwrap()
    }

    fn lines(metrics: &Metrics, of: &str) -> Vec<String> {
        let text = metrics.text(&Snapshot::default()).unwrap();
        text.lines().filter(|l| l.starts_with(of)).map(str::to_owned).collect()
    }

    fn succeeded(status: &str, reason: &str) -> serde_json::Value {
        serde_json::json!([{"type": "Succeeded", "status": status, "reason": reason, "lastTransitionTime": ""}])
    }

    #[test]
    fn a_run_is_counted_once_from_its_start_to_its_end() {
        let metrics = Metrics::new().unwrap();
        let idle = Status::default();
        let job = |retries, seconds| serde_json::json!({"name": "a", "attempt": 1, "retries": retries, "activeSeconds": seconds});
        let none = serde_json::json!({});
        let started = status(
            serde_json::json!({"observedGeneration": 1, "startTime": "2026-01-01T00:00:05Z", "job": job(none.clone(), 0),
            "conditions": succeeded("Unknown", "Running")}),
        );
        let progressed = status(serde_json::json!({"observedGeneration": 1, "startTime": "2026-01-01T00:00:05Z",
            "job": job(serde_json::json!({"OutOfMemory": 1, "made-up": 3}), 50), "acceleratorSeconds": 100,
            "cost": {"requests": 7, "promptTokens": 70, "completionTokens": 14, "amount": "0.5", "currency": "EUR"},
            "progress": {"stage": "Training", "lastUpdateTime": "2026-01-01T00:00:30Z"},
            "conditions": succeeded("Unknown", "Running")}));
        let ended = status(serde_json::json!({"observedGeneration": 1, "startTime": "2026-01-01T00:00:05Z",
            "job": job(serde_json::json!({"OutOfMemory": 2}), 400), "acceleratorSeconds": 800,
            "cost": {"requests": 9, "promptTokens": 90, "completionTokens": 18, "amount": "0.75", "currency": "EUR"},
            "progress": {"stage": "Training", "lastUpdateTime": "2026-01-01T00:06:00Z"},
            "conditions": succeeded("True", "Completed")}));
        let created = "2026-01-01T00:00:00Z";
        for (before, after) in
            [(&idle, &started), (&started, &started), (&started, &progressed), (&progressed, &ended), (&ended, &ended)]
        {
            metrics.status_changed(Kind::RewardModel, created, before, after);
        }
        for (of, expected) in [
            ("plumbline_runs_started_total", r#"{kind="RewardModel"} 1"#),
            ("plumbline_runs_ended_total", r#"{kind="RewardModel",reason="Completed"} 1"#),
            ("plumbline_run_duration_seconds_sum", r#"{kind="RewardModel",outcome="succeeded"} 400"#),
            ("plumbline_time_to_start_seconds_sum", r#"{kind="RewardModel"} 30"#),
            ("plumbline_retries_total", r#"{kind="RewardModel",reason="OutOfMemory"} 2"#),
            ("plumbline_accelerator_seconds_total", r#"{kind="RewardModel"} 800"#),
            ("plumbline_judge_requests_total", " 9"),
            ("plumbline_judge_cost_total", r#"{currency="EUR"} 0.75"#),
        ] {
            assert_eq!(lines(&metrics, of), [format!("{of}{expected}")]);
        }
        assert_eq!(lines(&metrics, "plumbline_judge_tokens_total").len(), 2);
    }

    #[test]
    fn a_restarted_operator_counts_nothing_again_and_a_new_run_counts_from_nothing() {
        let metrics = Metrics::new().unwrap();
        let of = |start: &str, job: &str, held: i64| {
            status(serde_json::json!({"startTime": start, "job": {"name": job, "retries": {"NoProgress": held / 10}},
                "acceleratorSeconds": held, "conditions": succeeded("False", "NoProgress")}))
        };
        let before = of("2026-01-01T00:00:00Z", "a", 500);
        metrics.status_changed(Kind::PolicyTuning, "2026-01-01T00:00:00Z", &before, &before);
        for name in ["plumbline_runs_", "plumbline_retries", "plumbline_run_duration_seconds"] {
            assert_eq!(lines(&metrics, name), Vec::<String>::new());
        }
        metrics.status_changed(Kind::PolicyTuning, "", &before, &of("2026-01-02T00:00:00Z", "b", 20));
        assert_eq!(
            lines(&metrics, "plumbline_accelerator"),
            [r#"plumbline_accelerator_seconds_total{kind="PolicyTuning"} 20"#]
        );
        assert_eq!(
            lines(&metrics, "plumbline_retries"),
            [r#"plumbline_retries_total{kind="PolicyTuning",reason="NoProgress"} 2"#]
        );
    }

    #[test]
    fn no_metric_has_a_label_for_names() {
        let metrics = Metrics::new().unwrap();
        let after =
            Status { metrics: vec![Metric { name: "secret-name".into(), value: "1".into() }], ..Status::default() };
        metrics.status_changed(Kind::PreferenceDataset, "", &Status::default(), &after);
        metrics.reconciled(Kind::PreferenceDataset, Duration::from_millis(3));
        metrics.reconcile_failed(Kind::PreferenceDataset, "Apply");
        metrics.progress_posted(PostOutcome::WrongAudience);
        let resources = vec![(Kind::RewardModel, Reason::Running); 2];
        let text =
            metrics.text(&Snapshot { resources, leader: true, last_activity_age: Duration::from_secs(3) }).unwrap();
        assert!(text.contains(r#"plumbline_resources{kind="RewardModel",reason="Running"} 2"#), "{text}");
        assert!(
            text.contains("plumbline_leader 1\n")
                && text.contains("plumbline_controller_last_activity_age_seconds 3\n"),
            "{text}"
        );
        assert!(text.contains(r#"plumbline_progress_reports_total{outcome="wrong_audience"} 1"#), "{text}");
        let allowed = ["kind", "error", "reason", "outcome", "type", "currency", "verb", "resource", "code", "le"];
        let labels = regex::Regex::new(r#"([a-z]+)=""#).unwrap();
        for label in labels.captures_iter(&text) {
            assert!(allowed.contains(&&label[1]), "{}", &label[0]);
        }
        assert!(!text.contains("secret-name"));
    }
}
