//! `progress.json`: the progress of a stage, for the operator and for `plumbline run` (IO).
//!
//! Progress is informational and must not fail a run: if the work directory cannot be written at the start, the run is
//! rejected before it costs anything; later write errors are logged once as a warning, and the run continues.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use plumbline_crds::run::{PROGRESS_FILE, ProgressReport};
use plumbline_crds::status::{Cost, Metric, Progress as ProgressStatus};

use super::decimal;
use crate::store::work_dir_sync::WorkDirSync;
use crate::{Result, files, heartbeat};

/// Minimum time between two writes within a stage.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Minimum time between two log lines within a stage.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// Maximum number of metrics in a status; further ones are omitted.
const MAX_METRICS: usize = 32;

/// Reports the progress of a stage.
#[derive(Debug)]
pub struct Progress {
    path: PathBuf,
    sync: WorkDirSync,
    report: ProgressReport,
    written: Instant,
    logged: Instant,
    /// Time of the first report of this stage, and its number of units: a resumed stage starts in the middle.
    baseline: Option<(Instant, i64)>,
    warned: bool,
}

impl Progress {
    /// Writes a first, empty report to `work/progress.json`. Every call that reports progress may upload a snapshot
    /// through `sync`, so it must happen between two writes of the stage.
    ///
    /// # Errors
    /// `Disk` if the work directory cannot be written. No later call fails.
    pub fn new(work: &Path, sync: &WorkDirSync) -> Result<Self> {
        let now = Instant::now();
        let mut progress = Self {
            path: work.join(PROGRESS_FILE),
            sync: sync.clone(),
            report: ProgressReport::default(),
            written: now,
            logged: now,
            baseline: None,
            warned: false,
        };
        progress.try_write()?;
        Ok(progress)
    }

    /// Starts a stage of `total` units: `Generating`, `Judging`, `Training`, `Evaluating`.
    pub fn stage(&mut self, name: &str, total: i64) {
        heartbeat::beat();
        self.sync.snapshot();
        self.report.progress = ProgressStatus { stage: name.to_owned(), total, ..ProgressStatus::default() };
        self.baseline = None;
        self.write();
        self.log();
    }

    /// Reports the total number of finished units of the stage. Written at most once a second.
    pub fn advance(&mut self, completed: i64) {
        heartbeat::beat();
        self.sync.snapshot();
        let now = Instant::now();
        let (start, first) = *self.baseline.get_or_insert((now, completed));
        let progress = &mut self.report.progress;
        progress.completed = completed;
        progress.percent = percent(completed, progress.total);
        progress.eta_seconds = eta_seconds(now - start, completed - first, progress.total - completed);
        if self.written.elapsed() >= WRITE_EVERY {
            self.write();
        }
        if self.logged.elapsed() >= LOG_EVERY {
            self.log();
        }
    }

    /// Uploads a snapshot as soon as possible. Called after a checkpoint has been written.
    pub fn checkpointed(&self) {
        self.sync.checkpoint();
    }

    /// Sets the latest value of a metric, under TRL's name. Written with the next progress.
    pub fn metric(&mut self, name: &str, value: f64) {
        let value = decimal(value);
        let metrics = &mut self.report.metrics;
        if let Some(metric) = metrics.iter_mut().find(|m| m.name == name) {
            metric.value = value;
        } else if metrics.len() < MAX_METRICS {
            metrics.push(Metric { name: name.to_owned(), value });
        }
    }

    /// Sets the cost of judges so far. Written with the next progress.
    pub fn cost(&mut self, cost: &Cost) {
        self.report.cost = Some(cost.clone());
    }

    /// The latest metrics, for the result of the stage.
    pub fn metrics(&self) -> &[Metric] {
        &self.report.metrics
    }

    /// Writes the final progress at once.
    pub fn finish(&mut self) {
        self.write();
        self.log();
    }

    fn write(&mut self) {
        if let Err(error) = self.try_write()
            && !std::mem::replace(&mut self.warned, true)
        {
            tracing::warn!(%error, "progress cannot be written; the run continues without it");
        }
    }

    fn try_write(&mut self) -> Result<()> {
        self.written = Instant::now();
        self.report.progress.last_update_time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        files::keep(&self.path, &self.report)
    }

    fn log(&mut self) {
        self.logged = Instant::now();
        let p = &self.report.progress;
        let metrics: Vec<String> = self.report.metrics.iter().map(|m| format!("{}={}", m.name, m.value)).collect();
        tracing::info!(
            stage = p.stage,
            completed = p.completed,
            total = p.total,
            percent = p.percent,
            eta_seconds = p.eta_seconds,
            metrics = metrics.join(" "),
            "progress"
        );
    }
}

/// Whole percent, rounded down: 100 means done.
fn percent(completed: i64, total: i64) -> i64 {
    if total <= 0 { 0 } else { (i128::from(completed) * 100 / i128::from(total)).clamp(0, 100) as i64 }
}

/// Estimated seconds for the remaining units at the rate since the baseline; none without a rate.
fn eta_seconds(elapsed: Duration, done: i64, left: i64) -> Option<i64> {
    (done > 0).then(|| (elapsed.as_secs_f64() * left.max(0) as f64 / done as f64).ceil() as i64)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::Error;

    fn read(work: &Path) -> ProgressReport {
        serde_json::from_slice(&fs::read(work.join(PROGRESS_FILE)).unwrap()).unwrap()
    }

    #[test]
    fn only_stage_changes_and_the_end_are_written_at_once() {
        let work = tempfile::tempdir().unwrap();
        let mut progress = Progress::new(work.path(), &WorkDirSync::off()).unwrap();
        assert_eq!(read(work.path()).progress.stage, "");
        progress.stage("Training", 200);
        assert_eq!(read(work.path()).progress.stage, "Training");
        for step in 1..=57 {
            progress.advance(step);
            progress.metric("loss", 0.25);
            progress.metric("loss", 0.5);
        }
        progress.cost(&Cost { requests: 3, ..Cost::default() });
        assert_eq!(read(work.path()).progress.completed, 0, "a fast loop does not write each step");
        progress.finish();
        let report = read(work.path());
        assert_eq!((report.progress.completed, report.progress.total, report.progress.percent), (57, 200, 28));
        assert_eq!(report.metrics, [Metric { name: "loss".into(), value: "0.5".into() }]);
        assert_eq!(report.cost.unwrap().requests, 3);
        assert!(report.progress.last_update_time.parse::<Timestamp>().is_ok());
        progress.stage("Evaluating", 10);
        assert_eq!(read(work.path()).progress.completed, 0);
    }

    #[test]
    fn a_step_is_written_once_a_second_has_passed() {
        let work = tempfile::tempdir().unwrap();
        let mut progress = Progress::new(work.path(), &WorkDirSync::off()).unwrap();
        progress.stage("Judging", 10);
        progress.written = Instant::now().checked_sub(WRITE_EVERY).unwrap();
        progress.advance(4);
        assert_eq!(read(work.path()).progress.completed, 4);
    }

    #[test]
    fn the_estimate_ignores_units_from_before_a_resume() {
        assert_eq!(eta_seconds(Duration::from_secs(10), 5, 20), Some(40));
        assert_eq!(eta_seconds(Duration::from_secs(10), 0, 20), None);
        assert_eq!(eta_seconds(Duration::from_secs(10), 5, -1), Some(0));
        let work = tempfile::tempdir().unwrap();
        let mut progress = Progress::new(work.path(), &WorkDirSync::off()).unwrap();
        progress.stage("Training", 1000);
        progress.advance(900);
        assert_eq!(progress.report.progress.eta_seconds, None, "900 steps were not done in no time");
        progress.baseline = progress.baseline.map(|(at, n)| (at.checked_sub(Duration::from_secs(10)).unwrap(), n));
        progress.advance(910);
        let eta = progress.report.progress.eta_seconds.unwrap();
        assert!((90..=92).contains(&eta), "{eta}");
    }

    #[test]
    fn percent_is_between_0_and_100_without_units_too() {
        assert_eq!([percent(1, 0), percent(-5, 10), percent(15, 10), percent(999, 1000)], [0, 0, 100, 99]);
        assert_eq!(percent(i64::MAX, i64::MAX), 100);
    }

    #[test]
    fn only_a_work_directory_that_never_existed_stops_the_run() {
        assert!(
            matches!(Progress::new(Path::new("/nowhere/work"), &WorkDirSync::off()), Err(Error::Disk { path, .. }) if path.starts_with("/nowhere"))
        );
        let work = tempfile::tempdir().unwrap();
        let mut progress = Progress::new(work.path(), &WorkDirSync::off()).unwrap();
        drop(work);
        progress.stage("Training", 2);
        progress.finish();
        assert!(progress.warned);
    }

    #[test]
    fn a_status_never_has_more_metrics_than_its_schema_allows() {
        let work = tempfile::tempdir().unwrap();
        let mut progress = Progress::new(work.path(), &WorkDirSync::off()).unwrap();
        for i in 0..100 {
            progress.metric(&format!("rewards/{i}"), f64::from(i));
        }
        assert_eq!((progress.metrics().len(), progress.metrics()[0].value.as_str()), (MAX_METRICS, "0"));
    }
}
