//! Ends a stage that stands still, so that whatever runs it can let it go on from its last checkpoint instead of holding
//! accelerators for nothing. Talks to the work folder; what decides computes only.

use std::collections::VecDeque;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use plumbline_crds::exit_code::ExitCode;
use plumbline_crds::run::{PROGRESS_FILE, ProgressReport};

use super::beside::Beside;
use crate::{Error, files};

/// Environment variable with the least seconds without progress after which a stage is ended; it never is without.
const SECONDS: &str = "PLUMBLINE_HUNG_SECONDS";
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A stage whose steps are long may take this many of its median steps for one.
const MEDIANS: u32 = 20;
/// Steps that the median is taken of.
const STEPS: usize = 31;
/// How long the process may take to end in good order. What hangs may hang then too.
const ORDERLY: Duration = Duration::from_secs(10);

/// Starts watching a work folder, if whoever started the stage wants that. `told` is given the error that the process then
/// ends with.
pub(super) fn watch(work: &Path, told: impl FnOnce(&Error) + Send + 'static) -> Option<Beside> {
    let seconds = std::env::var(SECONDS).ok()?.parse().ok().filter(|s| *s > 0)?;
    let file = work.join(PROGRESS_FILE);
    Some(Beside::start(move |done| {
        let mut pace = Pace::new(Duration::from_secs(seconds));
        if let Some(error) = wait(&file, &mut pace, done) {
            told(&error);
            end(error.exit_code());
        }
    }))
}

/// Waits until the stage is done, or stands still.
fn wait(file: &Path, pace: &mut Pace, done: &AtomicBool) -> Option<Error> {
    let mut since = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        // A stage that ends is noticed soon.
        thread::sleep(LOOK / 10);
        since += LOOK / 10;
        if since < LOOK {
            continue;
        }
        since = Duration::ZERO;
        let report: Option<ProgressReport> = files::kept(file).ok().flatten();
        let at = report.map(|r| (r.progress.stage, r.progress.completed)).unwrap_or_default();
        if let Some(message) = pace.look(at, LOOK) {
            return Some(Error::Hung(message));
        }
    }
    None
}

fn end(code: ExitCode) {
    tracing::error!("the stage stands still and is ended");
    thread::spawn(move || process::exit(code.number().into()));
    thread::sleep(ORDERLY);
    process::abort();
}

/// How a stage moves on. Time is counted in looks: a machine that slept, or a process that was stopped, does not hang.
struct Pace {
    least: Duration,
    /// Name of the part and units done.
    at: (String, i64),
    still: Duration,
    steps: VecDeque<Duration>,
}

impl Pace {
    fn new(least: Duration) -> Self {
        Self { least, at: <_>::default(), still: Duration::ZERO, steps: VecDeque::new() }
    }

    /// Where the stage is, `passed` after the last look. Gives what to say if it stands still.
    fn look(&mut self, at: (String, i64), passed: Duration) -> Option<String> {
        self.still += passed;
        if at != self.at {
            // Getting from one part to the next, as loading a model, is no step.
            if at.0 == self.at.0 {
                self.steps.push_front(self.still);
                self.steps.truncate(STEPS);
            }
            (self.at, self.still) = (at, Duration::ZERO);
            return None;
        }
        let median = self.median();
        (self.still >= self.least.max(median * MEDIANS)).then(|| {
            let ((part, units), still) = (&self.at, self.still.as_secs());
            let place = match part.as_str() {
                "" => "before its first step".to_owned(),
                part => format!("{part}, {units} done; {} s a step is usual", median.as_secs()),
            };
            format!("no progress for {still} s ({place}); look for a storage, network or device that does not answer")
        })
    }

    fn median(&self) -> Duration {
        let mut steps: Vec<Duration> = self.steps.iter().copied().collect();
        steps.sort_unstable();
        steps.get(steps.len() / 2).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(part: &str, units: i64) -> (String, i64) {
        (part.to_owned(), units)
    }

    /// How many more looks a stage may stand where it is.
    fn patience(pace: &mut Pace, part: &str, units: i64) -> usize {
        (1..100_000).find(|_| pace.look(at(part, units), SECOND).is_some()).unwrap()
    }

    #[test]
    fn a_stage_that_never_begins_stands_still_after_the_least_time() {
        let mut pace = Pace::new(SECOND * 30);
        assert_eq!(patience(&mut pace, "", 0), 30);
    }

    #[test]
    fn long_steps_get_twenty_of_their_medians() {
        let mut pace = Pace::new(SECOND * 30);
        for step in 0..5 {
            assert_eq!(pace.look(at("Training", step), SECOND * 60), None);
        }
        assert_eq!(patience(&mut pace, "Training", 4), 1200);
    }

    #[test]
    fn one_long_step_does_not_make_the_others_long() {
        let mut pace = Pace::new(SECOND * 30);
        for step in 0..40 {
            assert_eq!(pace.look(at("Training", step), if step == 20 { SECOND * 25 } else { SECOND }), None);
        }
        let message = (0..60).find_map(|_| pace.look(at("Training", 39), SECOND)).unwrap();
        assert_eq!(
            message,
            "no progress for 30 s (Training, 39 done; 1 s a step is usual); look for a storage, network or device that does \
             not answer"
        );
    }

    #[test]
    fn a_new_part_begins_anew() {
        let mut pace = Pace::new(SECOND * 30);
        assert_eq!(patience(&mut pace, "Generating", 5), 31, "the first look finds it moved");
        assert_eq!(pace.look(at("Judging", 5), SECOND), None);
        assert_eq!(patience(&mut pace, "Judging", 5), 30);
    }
}
