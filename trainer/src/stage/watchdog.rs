//! Ends a stage that stalls, so that its caller can resume it from its last checkpoint instead of holding accelerators
//! for nothing. Talks to the clock; the decision itself is computed.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use plumbline_crds::exit_code::ExitCode;
use plumbline_feedback::heartbeat;

use super::background::BackgroundThread;
use crate::{Error, Result};

/// Environment variable with the seconds without progress after which a stage is ended; 0 or unset for never.
const SECONDS: &str = "PLUMBLINE_STALL_TIMEOUT_SECONDS";
/// Interval between two checks.
const LOOK: Duration = Duration::from_millis(100);
/// How long the process may take to report why and to exit cleanly. The cause of the stall may block this too.
const ORDERLY: Duration = Duration::from_secs(10);

/// Starts watching, if the caller of the stage has enabled it. `told` gets the error with which the process then exits.
///
/// # Errors
/// `Config` if the seconds are not a number.
pub(super) fn watch(told: impl FnOnce(&Error) + Send + 'static) -> Result<Option<BackgroundThread>> {
    let Ok(text) = std::env::var(SECONDS) else { return Ok(None) };
    let seconds: u64 = text
        .parse()
        .map_err(|_| Error::Config(format!("{SECONDS}: expected whole seconds, or 0 for never, found \"{text}\"")))?;
    let limit = Duration::from_secs(seconds);
    Ok((seconds > 0).then(|| {
        BackgroundThread::start(move |done| {
            if stands_still(limit, done) {
                let error = Error::NoProgress(format!(
                    "nothing was read, received or computed for {seconds} s; look for storage, a network or a device \
                     that does not respond"
                ));
                end(&error, told);
            }
        })
    }))
}

/// Waits until the stage is done, or stalls.
fn stands_still(limit: Duration, done: &AtomicBool) -> bool {
    let mut still = Still::new(limit);
    while !done.load(Ordering::Relaxed) {
        thread::sleep(LOOK);
        if still.look(heartbeat::beats(), LOOK) {
            return true;
        }
    }
    false
}

fn end(error: &Error, told: impl FnOnce(&Error)) {
    tracing::error!("{error}");
    thread::spawn(|| {
        thread::sleep(ORDERLY);
        process::abort();
    });
    told(error);
    process::exit(ExitCode::NoProgress.number().into());
}

/// How long there has been no progress. Time is counted in checks: a machine that was suspended, or a process that was
/// stopped, does not count as stalled.
struct Still {
    limit: Duration,
    beats: u64,
    time: Duration,
}

impl Still {
    fn new(limit: Duration) -> Self {
        Self { limit, beats: heartbeat::beats(), time: Duration::ZERO }
    }

    /// Whether that is too long, `passed` after the last check.
    fn look(&mut self, beats: u64, passed: Duration) -> bool {
        self.time = if beats == self.beats { self.time + passed } else { Duration::ZERO };
        self.beats = beats;
        self.time >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_in_which_nothing_moves_counts() {
        let second = Duration::from_secs(1);
        let mut still = Still { limit: second * 30, beats: 0, time: Duration::ZERO };
        assert!((0..29).all(|_| !still.look(0, second)));
        assert!(!still.look(1, second), "it moved at the last moment");
        assert!((0..29).all(|_| !still.look(1, second)));
        assert!(still.look(1, second));
    }
}
