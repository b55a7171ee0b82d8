//! What people see while a run goes on: a bar on a terminal, a line now and then elsewhere. Writes to standard error
//! only.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use plumbline_crds::run::ProgressReport;

use crate::printable;

/// Least time between two lines of one stage where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(10);
/// Metrics that fit a line.
const METRICS: usize = 3;

/// The screen.
#[derive(Debug, Default)]
pub struct Screen {
    terminal: bool,
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

impl Screen {
    /// A bar if standard error is a terminal, else lines.
    pub fn on_stderr() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), ..Self::default() }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        let line = printable::text(line);
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// What a stage says. A report that names no stage is the one that its process writes when it starts: there is nothing to
    /// show yet, and a line of it would hide the next one for the interval.
    pub fn progress(&mut self, id: &str, report: &ProgressReport) {
        if report.progress.stage.is_empty() {
            return;
        }
        if self.terminal {
            self.draw(id, report);
        } else if self.last_line.is_none_or(|at| at.elapsed() >= INTERVAL) {
            self.last_line = Some(Instant::now());
            self.say(&line(id, report));
        }
    }

    /// The stage ended.
    pub fn end_stage(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.last_line = None;
    }

    fn draw(&mut self, id: &str, report: &ProgressReport) {
        let progress = &report.progress;
        let (completed, total) =
            (u64::try_from(progress.completed).unwrap_or(0), u64::try_from(progress.total).unwrap_or(0));
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(total).with_position(completed);
            if let Ok(style) = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len} {msg}") {
                bar.set_style(style.progress_chars("=> "));
            }
            bar
        });
        bar.set_prefix(printable::line(&format!("{id} {}", progress.stage)).into_owned());
        bar.set_length(total);
        bar.set_position(completed);
        bar.set_message(printable::line(&details(report)).into_owned());
    }
}

/// The whole of a report in one line.
fn line(id: &str, report: &ProgressReport) -> String {
    let p = &report.progress;
    let line = format!("{id}: {} {}/{} ({}%) {}", p.stage, p.completed, p.total, p.percent, details(report));
    line.trim_end().to_owned()
}

fn details(report: &ProgressReport) -> String {
    let eta = report.progress.eta_seconds.map(|seconds| format!("ETA {}", duration(seconds)));
    let metrics = report.metrics.iter().take(METRICS).map(|m| format!("{} {}", m.name, m.value));
    eta.into_iter().chain(metrics).collect::<Vec<_>>().join("  ")
}

/// Seconds as kubectl prints an age: the two largest units.
pub fn duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        ..0 => "0s".into(),
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 > 0 => format!("{minutes}m{}s", seconds % 60),
        120..10800 => format!("{minutes}m"),
        10800..172_800 => format!("{hours}h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plumbline_crds::status::{Metric, Progress};

    #[test]
    fn a_line_holds_stage_count_eta_and_the_first_metrics() {
        let metric = |name: &str| Metric { name: name.into(), value: "0.5".into() };
        let progress = Progress {
            stage: "Judging".into(),
            completed: 5,
            total: 20,
            percent: 25,
            eta_seconds: Some(61),
            ..Progress::default()
        };
        let report = ProgressReport { progress, metrics: ["a", "b", "c", "d"].map(metric).into(), cost: None };
        assert_eq!(line("X/y", &report), "X/y: Judging 5/20 (25%) ETA 61s  a 0.5  b 0.5  c 0.5");
        assert_eq!(line("X/y", &ProgressReport::default()), "X/y:  0/0 (0%)");
    }

    #[test]
    fn a_process_that_has_only_started_takes_no_line_from_the_first_stage() {
        let mut screen = Screen::default();
        screen.progress("X/y", &ProgressReport::default());
        assert!(screen.last_line.is_none());
        let progress = Progress { stage: "Fetching".into(), ..Progress::default() };
        screen.progress("X/y", &ProgressReport { progress, ..ProgressReport::default() });
        assert!(screen.last_line.is_some());
    }

    #[test]
    fn durations_read_as_kubectls() {
        let texts = [-1, 59, 119, 150, 300, 3600, 10800, 200_000].map(duration);
        assert_eq!(texts, ["0s", "59s", "119s", "2m30s", "5m", "60m", "3h", "2d"]);
    }
}
