//! Ends a stage that stands still, so that whatever runs it can let it go on from its last checkpoint instead of holding
//! accelerators for nothing. Talks to the clock; what decides computes only.

use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use plumbline_crds::exit_code::ExitCode;
use plumbline_feedback::heartbeat;

use super::background::BackgroundThread;
use crate::{Error, Result};

/// Environment variable with the seconds without progress after which a stage is ended; 0, as without it, is never.
const SECONDS: &str = "PLUMBLINE_STALL_TIMEOUT_SECONDS";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long the process may take to say why and to end in good order. What hangs may hang then too.
const ORDERLY: Duration = Duration::from_secs(10);

/// Starts watching, if whoever started the stage wants that. `told` is given the error that the process then ends with.
///
/// # Errors
/// `Config` for seconds that are no number.
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

/// Waits until the stage is done, or stands still.
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

/// How long nothing has moved. Time is counted in looks: a machine that slept, or a process that was stopped, does not hang.
struct Still {
    limit: Duration,
    beats: u64,
    time: Duration,
}

impl Still {
    fn new(limit: Duration) -> Self {
        Self { limit, beats: heartbeat::beats(), time: Duration::ZERO }
    }

    /// Whether that is too long, `passed` after the last look.
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
