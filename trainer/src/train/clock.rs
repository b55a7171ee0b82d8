//! Seconds of work by part of a stage, summed over restarts, in a file of the work directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plumbline_feedback::files;

use crate::{Error, Result};

/// Minimum time between two writes by [`Clock::tick`].
const TICK: Duration = Duration::from_secs(1);

/// A clock that survives restarts. If the process is killed, the time since the last [`Clock::save`] is lost.
pub struct Clock {
    path: PathBuf,
    seconds: BTreeMap<String, f64>,
    running: Option<(String, Instant)>,
}

impl Clock {
    /// The clock of a work directory.
    pub fn open(work: &Path) -> Result<Self> {
        let path = work.join("seconds.json");
        let seconds = match files::kept(&path) {
            // A damaged file must not fail the run: only the earlier times are lost.
            Err(Error::Data(_)) => BTreeMap::new(),
            found => found?.unwrap_or_default(),
        };
        Ok(Self { path, seconds, running: None })
    }

    /// Ends the current part, if any, and starts another.
    pub fn start(&mut self, part: &str) -> Result<()> {
        self.save()?;
        self.running = Some((part.to_owned(), Instant::now()));
        Ok(())
    }

    /// Adds the time since the last call, and writes the file atomically.
    pub fn save(&mut self) -> Result<()> {
        if let Some((part, since)) = &mut self.running {
            *self.seconds.entry(part.clone()).or_default() += since.elapsed().as_secs_f64();
            *since = Instant::now();
        }
        files::keep(&self.path, &self.seconds)
    }

    /// Saves the time since the last call, if that is a second or more: for loops with short iterations.
    pub fn tick(&mut self) -> Result<()> {
        let due = self.running.as_ref().is_some_and(|(_, since)| since.elapsed() >= TICK);
        if due { self.save() } else { Ok(()) }
    }

    /// Seconds by part, up to now.
    pub fn seconds(&mut self) -> Result<BTreeMap<String, f64>> {
        self.save()?;
        Ok(self.seconds.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_add_up_over_restarts() {
        let work = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            let mut clock = Clock::open(work.path()).unwrap();
            clock.start("tune").unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
            clock.save().unwrap();
        }
        let total = Clock::open(work.path()).unwrap().seconds().unwrap()["tune"];
        assert!((0.04..2.0).contains(&total), "{total}");
    }

    #[test]
    fn a_tick_saves_the_time_at_most_once_a_second() {
        let work = tempfile::tempdir().unwrap();
        let saved = || Clock::open(work.path()).unwrap().seconds.get("label").copied();
        let mut clock = Clock::open(work.path()).unwrap();
        clock.start("label").unwrap();
        clock.tick().unwrap();
        assert_eq!(saved(), None);
        clock.running = Some(("label".into(), Instant::now().checked_sub(TICK).unwrap()));
        clock.tick().unwrap();
        assert!(saved().unwrap() >= 1.0);
    }
}
